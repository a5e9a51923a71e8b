"""A local user's profile in their rooms, and their going from all of them: one room at a time.

client-server §Profiles, Events on Change of Profile Information. Which rooms have been done with, and
that none is forgotten, is the affair of `comity.users.errands`.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from comity.protocol.build import Draft
from comity.protocol.errors import MatrixError
from comity.rooms.membership import Memberships
from comity.rooms.merge import Merger
from comity.rooms.room import Rooms
from comity.rooms.write import Writer
from comity.store import rooms as stored_rooms
from comity.store.database import Database, StoreFailedError, StoreOverloadedError

_log = logging.getLogger(__name__)
#: The fields of a profile that memberships carry.
FIELDS = ("displayname", "avatar_url")
#: What else a changed membership does not take over: why the user came is not why they are called
#: otherwise, and who vouched for a restricted join is not asked again for that.
_NOT_KEPT = (*FIELDS, "reason", "join_authorised_via_users_server")


class Portraits:
    """Carries what a user is called into a room, and the user out of it."""

    def __init__(
        self,
        database: Database,
        rooms: Rooms,
        merger: Merger,
        writer: Writer,
        memberships: Memberships,
        member_content: Callable[[str], Awaitable[Mapping[str, Any]]],
    ) -> None:
        """`member_content` is what a membership carries of a user's profile, as it now is."""
        self._database = database
        self._rooms = rooms
        self._merger = merger
        self._writer = writer
        self._memberships = memberships
        self._member_content = member_content

    async def joined(self, user_id: str) -> list[int]:
        """The numbers of the rooms that a user is joined to."""
        return await self._rooms_of(user_id, ("join",))

    async def concerned(self, user_id: str) -> list[int]:
        """And of those that they are invited to, or have knocked at, too."""
        return await self._rooms_of(user_id, ("join", "invite", "knock"))

    async def _rooms_of(self, user_id: str, memberships: tuple[str, ...]) -> list[int]:
        return await self._database.read(
            lambda tx: [
                local.room_num
                for local in stored_rooms.local_rooms(tx, user_id, self._database.last_position)
                if local.membership in memberships
            ]
        )

    async def is_here(self, room_num: int) -> bool:
        """Whether a room is here, so that nobody else has to be asked for leaving it."""
        room = await self._rooms.by_number(room_num)
        return room is not None and room.resident

    async def carry(self, user_id: str, room_num: int) -> None:
        """Write a user's profile into their membership of a room, unless it stands there already.

        A room that does not let that happen keeps what it has. Raises StoreFailedError, StoreOverloadedError.
        """
        room = await self._rooms.by_number(room_num)
        if room is None or not room.resident:
            return
        member = await self._database.read(
            lambda tx: self._merger.current(tx, room)(("m.room.member", user_id))
        )
        if member is None or member.membership != "join":
            return
        profile = await self._member_content(user_id)
        kept = {name: value for name, value in member.content.items() if name not in _NOT_KEPT}
        content = {**kept, **{name: profile[name] for name in FIELDS if name in profile}}
        if all(content.get(name) == member.content.get(name) for name in FIELDS):
            return
        draft = Draft("m.room.member", user_id, content, state_key=user_id)
        try:
            await self._writer.send(room.room_id, draft)
        except (StoreFailedError, StoreOverloadedError):
            raise
        except MatrixError as error:
            _log.warning("the profile of %s was not carried into %s: %s", user_id, room.room_id, error)

    async def depart(self, user_id: str, room_num: int) -> None:
        """Take a user out of a room, or turn its invite down.

        Raises StoreFailedError, StoreOverloadedError.
        """
        room = await self._rooms.by_number(room_num)
        if room is None:
            return
        try:
            await self._memberships.leave(user_id, room.room_id)
        except (StoreFailedError, StoreOverloadedError):
            raise
        except MatrixError as error:
            _log.warning("%s could not leave %s: %s", user_id, room.room_id, error)
