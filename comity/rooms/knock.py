"""Knock on rooms: ask to be invited, in a room that we are in or through a server that is.

client-server §Knocking on rooms, server-server §Knocking upon a room. What becomes of a knock (an
invite, a refusal, its taking back) comes and goes as any other membership does.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from comity.federation.calls import Calls
from comity.federation.errors import FederationError
from comity.protocol import identifiers
from comity.protocol.build import Draft
from comity.protocol.errors import MatrixError, invalid_param, not_found
from comity.protocol.room_versions import ROOM_VERSIONS, room_version
from comity.rooms.join import Templates, tell
from comity.rooms.membership import Memberships, finish
from comity.rooms.room import Rooms
from comity.rooms.strangers import Strangers
from comity.rooms.write import Writer

_log = logging.getLogger(__name__)
#: The room versions that we know and in which one can knock.
VERSIONS = tuple(name for name, version in ROOM_VERSIONS.items() if version.allows_knocking)


class Knocks:
    """Knocks on behalf of local users."""

    def __init__(
        self,
        *,
        rooms: Rooms,
        writer: Writer,
        strangers: Strangers,
        templates: Templates,
        memberships: Memberships,
        calls: Calls,
        member_content: Callable[[str], Awaitable[Mapping[str, Any]]],
    ) -> None:
        """`member_content` gives a local user's displayname and avatar_url for their memberships."""
        self._rooms = rooms
        self._writer = writer
        self._strangers = strangers
        self._templates = templates
        self._memberships = memberships
        self._calls = calls
        self._member_content = member_content

    async def knock(self, user_id: str, room_id: str, via: list[str], *, reason: str | None = None) -> None:
        """Knock on a room; returns once the knock is on disk. Raises MatrixError.

        `via` are servers that may be in the room, asked in their order.
        """
        if not identifiers.is_room_id(room_id):
            raise invalid_param("That is not a room id")
        content: dict[str, Any] = {**await self._member_content(user_id), "membership": "knock"}
        if reason is not None:
            content["reason"] = reason
        room = await self._rooms.get(room_id)
        if room is not None and room.resident:
            await self._writer.send(room_id, Draft("m.room.member", user_id, content, state_key=user_id))
            return
        candidates = await self._memberships.candidates(user_id, room_id, via)
        if not candidates:
            raise not_found("No server is known through which one could knock on the room")
        await finish(self._knock_in_turn(user_id, room_id, candidates, content))

    async def _knock_in_turn(
        self, user_id: str, room_id: str, servers: list[str], content: Mapping[str, Any]
    ) -> None:
        failures: list[FederationError] = []
        for server in servers:
            try:
                await self._knock_through(server, user_id, room_id, content)
                return
            except FederationError as error:
                _log.info("no knock on %s through %s: %s", room_id, server, error)
                failures.append(error)
        # A server's considered refusal says more than another's silence.
        raise tell(next((error for error in failures if error.status in (400, 403)), failures[0]))

    async def _knock_through(
        self, server: str, user_id: str, room_id: str, content: Mapping[str, Any]
    ) -> None:
        answer = await self._calls.make_knock(server, room_id, user_id, VERSIONS)
        event = self._templates.sign(answer, server, room_id, user_id, content)
        version = room_version(answer.room_version)
        if version is None or not version.allows_knocking:
            raise FederationError(server, "the room is of a version in which nobody can knock")
        shown = await self._calls.send_knock(server, room_id, event)
        try:
            shown = await self._strangers.believable(version, room_id, shown)
        except MatrixError as error:
            # The knock stands all the same: the user just is not shown on what.
            _log.info("what %s shows of %s is not believed: %s", server, room_id, error)
            shown = []
        await self._strangers.record(version, event, "knock", shown, through=server)
