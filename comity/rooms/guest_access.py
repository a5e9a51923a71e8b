"""Whether a guest may join a room (client-server §Guest Access, Server behaviour).

Owns the one condition: the room's `m.room.guest_access` says `can_join`. Whose account is a
guest's is known here alone, of our own users; other servers hold theirs to it. Guests who are in a
room when it ends are `comity.rooms.guest_departures`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from comity.federation.directory_calls import DirectoryCalls
from comity.federation.errors import FederationError
from comity.protocol.auth.rules import StateLookup
from comity.protocol.build import Draft
from comity.protocol.errors import MatrixError, guest_access_forbidden
from comity.rooms.merge import Merger
from comity.rooms.room import Room
from comity.store import guests
from comity.store.database import Database, Tx

_log = logging.getLogger(__name__)
KEY = ("m.room.guest_access", "")
#: Servers that are asked about a room that we are not in, before its answer is taken for a no.
MAX_SERVERS_ASKED = 3


def lets_guests_in(find: StateLookup) -> bool:
    """Whether a room's state lets guests join; without the event it does not."""
    event = find(KEY)
    return event is not None and event.content.get("guest_access") == "can_join"


class GuestAccess:
    """Holds our guests to the rooms that let them in."""

    def __init__(self, database: Database, merger: Merger, calls: DirectoryCalls) -> None:
        self._database = database
        self._merger = merger
        self._calls = calls

    def lets_in(self, tx: Tx, room: Room) -> bool:
        """Whether a room that we are in lets guests join, as it is now."""
        return lets_guests_in(self._merger.current(tx, room))

    def check_draft(self, tx: Tx, room: Room, draft: Draft) -> None:
        """Call it under the room's lock, of every event before it is built.

        Raises 403 M_GUEST_ACCESS_FORBIDDEN for a guest's join that may not be.
        """
        if draft.type != "m.room.member" or draft.content.get("membership") != "join":
            return
        find = self._merger.lookup(tx, room, room.state)
        if guests.is_guest(tx, draft.sender) and not lets_guests_in(find):
            raise _refused()

    async def check_here(self, user_id: str, room: Room) -> None:
        """The same, of a join to a room that we are in, which another server may have to vouch for."""

        def refused(tx: Tx) -> bool:
            return guests.is_guest(tx, user_id) and not self.lets_in(tx, room)

        if await self._database.read(refused):
            raise _refused()

    async def check_elsewhere(self, user_id: str, room_id: str, servers: Sequence[str]) -> None:
        """The same, of a join to a room that only other servers are in: their word is asked for.

        Once its state is here, that counts (`comity.rooms.guest_departures`).
        """
        if not await self._database.look_up(lambda tx: guests.is_guest(tx, user_id)):
            return
        for server in servers[:MAX_SERVERS_ASKED]:
            try:
                answer = await self._calls.hierarchy(server, room_id, suggested_only=True)
            except FederationError as error:
                _log.info("whether guests may join %s is not known of %s: %s", room_id, server, error)
                continue
            if answer.room.get("guest_can_join") is True:
                return
            break
        raise _refused()


def _refused() -> MatrixError:
    return guest_access_forbidden("The room does not let guests in: joining it needs an account")
