"""How a decision on one room is made: under its lock, on a true head, whole or not at all.

Everybody who changes a room goes through here, so that there is one place where a stale head
is noticed, a decision that fails is taken back, and the disk is awaited outside the lock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from comity.rooms.batch import Batch
from comity.rooms.commit import Commits
from comity.rooms.merge import Merger
from comity.rooms.room import Room, Rooms
from comity.store.database import Database, StoreFailedError, Tx

T = TypeVar("T")
Decide = Callable[[Tx, Batch], T]


class Decisions:
    """Makes decisions and has them stored."""

    def __init__(self, database: Database, rooms: Rooms, merger: Merger, commits: Commits) -> None:
        self._database = database
        self._rooms = rooms
        self._merger = merger
        self._commits = commits

    async def attempt(self, batch: Batch, decide: Decide[T]) -> T:
        """Decide on a batch under the room's lock; if that raises, the head is as it was.

        Raises what `decide` raises; StoreFailedError when the head proved not to be true meanwhile.
        """
        try:
            return await self._database.read(lambda tx: decide(tx, batch))
        except BaseException as error:
            batch.undo()
            if batch.room.stale and isinstance(error, Exception):
                # It may have met the ruins of an earlier decision that was not stored.
                raise StoreFailedError(f"The head of the room was given up: {error!r}") from error
            raise

    def batch(self, room: Room) -> Batch:
        """A batch for decisions on the room, whose lock the caller holds."""
        return Batch(self._rooms, self._merger, room)

    async def make(self, room_of: Callable[[], Awaitable[Room | None]], decide: Decide[T]) -> T | None:
        """Decide on the room that `room_of` gives, and return once that is on disk.

        None if there is no such room; else what `decide` returned, which is called again only
        with another head, never twice on the same. It raises what `decide` raises.
        """
        while True:
            room = await room_of()
            if room is None:
                return None
            async with room.lock:
                if room.stale:
                    await self._rooms.settled(room)
                    continue
                batch = self.batch(room)
                result = await self.attempt(batch, decide)
                if batch.is_empty():
                    batch.undo()
                    return result
                future = self._commits.submit([batch])
            await asyncio.shield(future)
            return result

    async def draft(self, room: Room, decide: Decide[T]) -> T:
        """What `decide` would make of the room now; nothing of it is kept."""
        async with room.lock:
            batch = self.batch(room)
            result = await self.attempt(batch, decide)
            batch.undo()
            return result
