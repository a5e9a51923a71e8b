"""A local user's profile in their rooms: the memberships follow when it changes.

client-server §Profiles, Events on Change of Profile Information.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from comity.protocol.build import Draft
from comity.protocol.errors import MatrixError
from comity.rooms.membership import Memberships
from comity.rooms.merge import Merger
from comity.rooms.room import Rooms
from comity.rooms.write import Writer
from comity.store import rooms as stored_rooms
from comity.store.database import Database

_log = logging.getLogger(__name__)
#: The fields of a profile that memberships carry.
FIELDS = ("displayname", "avatar_url")


class Portraits:
    """Carries what a user is called into the rooms they are in, and users out of all of them."""

    def __init__(
        self, database: Database, rooms: Rooms, merger: Merger, writer: Writer, memberships: Memberships
    ) -> None:
        self._database = database
        self._rooms = rooms
        self._merger = merger
        self._writer = writer
        self._memberships = memberships

    async def _rooms_of(self, user_id: str, *memberships: str) -> list[str]:
        numbers = await self._database.read(
            lambda tx: [
                local.room_num
                for local in stored_rooms.local_rooms(tx, user_id, self._database.last_position)
                if local.membership in memberships
            ]
        )
        rooms = [await self._rooms.by_number(number) for number in numbers]
        return [room.room_id for room in rooms if room is not None]

    async def propagate(self, user_id: str, profile: Mapping[str, Any]) -> None:
        """Write the profile into the user's membership of every room they are joined to."""
        for room_id in await self._rooms_of(user_id, "join"):
            room = await self._rooms.get(room_id)
            if room is None or not room.resident:
                continue
            member = await self._database.read(
                lambda tx: self._merger.lookup(tx, room, room.state)(("m.room.member", user_id))  # noqa: B023
            )
            if member is None or member.membership != "join":
                continue
            # Who vouched for a restricted join is not asked again for a change of name.
            kept = {
                name: value
                for name, value in member.content.items()
                if name not in (*FIELDS, "join_authorised_via_users_server")
            }
            content = {**kept, **{name: profile[name] for name in FIELDS if name in profile}}
            try:
                await self._writer.send(room_id, Draft("m.room.member", user_id, content, state_key=user_id))
            except MatrixError as error:
                _log.warning("the profile of %s was not carried into %s: %s", user_id, room_id, error)

    async def leave_all(self, user_id: str) -> None:
        """Take the user out of every room, and turn every invite down."""
        for room_id in await self._rooms_of(user_id, "join", "invite", "knock"):
            try:
                await self._memberships.leave(user_id, room_id)
            except MatrixError as error:
                _log.warning("%s could not leave %s: %s", user_id, room_id, error)
