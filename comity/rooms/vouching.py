"""Restricted joins in rooms that we are in, where only another server can vouch for the user.

server-server §Restricted rooms: no user of ours may invite, or we do not know the room that is the
condition. The other server signs the join; to us it is then an event like any other.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from comity.federation.calls import Calls
from comity.federation.errors import FederationError
from comity.protocol.errors import MatrixError, forbidden
from comity.protocol.room_versions import ROOM_VERSIONS
from comity.rooms.intake import Intake
from comity.rooms.join import Templates, tell
from comity.rooms.room import Room

_log = logging.getLogger(__name__)
#: Refusals after which another server may still let the user in (server-server §Restricted rooms).
_ASK_ANOTHER = frozenset({"M_UNABLE_TO_AUTHORISE_JOIN", "M_UNABLE_TO_GRANT_JOIN"})


class Vouching:
    """Has other servers vouch for joins of local users."""

    def __init__(self, *, calls: Calls, templates: Templates, intake: Intake) -> None:
        self._calls = calls
        self._templates = templates
        self._intake = intake

    async def join(
        self, user_id: str, room: Room, servers: Sequence[str], content: Mapping[str, Any]
    ) -> None:
        """Join through the first of the servers that vouches. Raises MatrixError.

        A server that is unable to is passed over; a refusal of the join itself is final.
        """
        failures: list[FederationError] = []
        for server in servers:
            try:
                await self._join_through(server, user_id, room, content)
                return
            except FederationError as error:
                _log.info("%s does not vouch for a join of %s: %s", server, room.room_id, error)
                if error.code == "M_FORBIDDEN":
                    raise tell(error) from None
                failures.append(error)
        if not failures:
            raise forbidden("No server in the room can vouch for your join")
        raise tell(next((error for error in failures if error.code in _ASK_ANOTHER), failures[0]))

    async def _join_through(self, server: str, user_id: str, room: Room, content: Mapping[str, Any]) -> None:
        answer = await self._calls.make_join(server, room.room_id, user_id, list(ROOM_VERSIONS))
        event = self._templates.sign(answer, server, room.room_id, user_id, content)
        sent = await self._calls.send_join(server, room.room_id, event)
        if sent.event is None:
            raise FederationError(server, "the join was answered without the event, which it must sign")
        # It is in the room now, and comes to us as from there: checked, judged, and staged until what
        # it stands on is here.
        results = orjson.loads(await self._intake.receive(server, f"join {event.event_id}", [sent.event]))
        result = results["pdus"].get(event.event_id)
        if result is None:
            raise FederationError(server, "the join was answered with another event")
        if "error" in result:
            raise MatrixError(403, "M_FORBIDDEN", f"The join that {server} let in is not valid here")
