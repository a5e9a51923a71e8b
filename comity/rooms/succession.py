"""Members of a room that was replaced, when they come into its replacement.

client-server §Room Upgrades: what a user had set for the old room (tags, notifications) is carried
over. Owns whether one room succeeds another; what is carried over is the affair of whoever keeps it.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from comity.protocol.errors import MatrixError
from comity.rooms.merge import Merger
from comity.rooms.room import Rooms
from comity.store import rooms as stored_rooms
from comity.store.database import Database, StoreFailedError, Tx

_log = logging.getLogger(__name__)
#: (user id, old room id, new room id): a user's own settings, from one room to the other.
CarryOver = Callable[[str, str, str], Awaitable[None]]


class Successions:
    """Carries settings from rooms to those that replace them."""

    def __init__(self, database: Database, rooms: Rooms, merger: Merger, carry_over: CarryOver) -> None:
        self._database = database
        self._rooms = rooms
        self._merger = merger
        self._carry_over = carry_over

    async def joined(self, user_id: str, room_id: str) -> None:
        """A local user has joined a room. Doing it twice changes nothing; the join stands in any case."""
        try:
            old = await self._database.read(lambda tx: self._predecessor(tx, user_id, room_id))
            if old is not None:
                await self._carry_over(user_id, old, room_id)
        except (MatrixError, StoreFailedError) as error:
            _log.warning("the settings of %s were not carried over to %s: %s", user_id, room_id, error)

    def _predecessor(self, tx: Tx, user_id: str, room_id: str) -> str | None:
        """The room that this one replaces, if the user has been in it and it says so itself.

        Any room may claim to replace another: it would get that room's tags, and its place among
        direct chats.
        """
        new = self._rooms.peek(tx, room_id)
        create = self._merger.current(tx, new)(("m.room.create", "")) if new is not None else None
        named = create.content.get("predecessor") if create is not None else None
        old_id = named.get("room_id") if isinstance(named, dict) else None
        old = self._rooms.peek(tx, old_id) if isinstance(old_id, str) else None
        if old is None:
            return None
        tombstone = self._merger.current(tx, old)(("m.room.tombstone", ""))
        if tombstone is None or tombstone.content.get("replacement_room") != room_id:
            return None
        history = stored_rooms.local_history(tx, user_id, old.number)
        return old.room_id if any(local.membership == "join" for local in history) else None
