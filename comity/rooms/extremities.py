"""The ends of rooms' graphs are kept few: where they stay many, an event of ours joins them.

Every event of ours joins what ends there are, so only rooms to which nobody here writes come into
this. What is written is of a type that means nothing, and is shown to no client
(`comity.rooms.read.visible`); its sender is a user of ours who may write there.
"""

from __future__ import annotations

import logging

from comity.background import Worker
from comity.ports import Clock
from comity.protocol.build import Draft
from comity.protocol.errors import MatrixError
from comity.rooms.read.visible import HIDDEN_TYPE
from comity.rooms.room import Room, Rooms
from comity.rooms.write import MAX_PREV_OF_OURS, Writer
from comity.store import rooms as stored_rooms
from comity.store.cache import Bounded
from comity.store.database import Database, StoreFailedError, StoreOverloadedError

_log = logging.getLogger(__name__)
#: More ends than one event of ours joins are too many: each event that comes costs a resolution of them.
MAX_ENDS = MAX_PREV_OF_OURS
#: Seconds between two looks. Ends that are many at two of them in a row have been so for some time.
LOOK_SECONDS = 1_200.0
#: A room is written to at most once in this time, by at most so many events in a row.
PAUSE_SECONDS = 3_600.0
MAX_EVENTS = 5
#: Rooms looked at each time, those with the most ends first.
MAX_ROOMS = 50
#: Users of ours who are tried as a sender.
MAX_SENDERS = 5
#: Rooms of which it is remembered when they were last written to; one that is forgotten may be sooner.
MAX_REMEMBERED = 10_000


class Extremities(Worker):
    """Joins the ends of rooms that have too many."""

    def __init__(
        self, database: Database, rooms: Rooms, writer: Writer, clock: Clock, server_name: str
    ) -> None:
        """`server_name` is ours."""
        self._database = database
        self._rooms = rooms
        self._writer = writer
        self._clock = clock
        self._server_name = server_name
        #: Rooms that had too many ends at the last look.
        self._before: set[int] = set()
        self._written: Bounded[int, float] = Bounded(MAX_REMEMBERED)

    async def _work(self) -> None:
        while True:
            await self._clock.sleep(LOOK_SECONDS)
            try:
                await self._look()
            except (StoreFailedError, StoreOverloadedError) as error:
                _log.info("the ends of rooms wait for the database: %s", error)
            except Exception:  # noqa: BLE001 - one room's trouble must not end the work on all
                _log.exception("the ends of rooms could not be joined")

    async def _look(self) -> None:
        found = await self._database.read(lambda tx: stored_rooms.with_many_ends(tx, MAX_ENDS, MAX_ROOMS))
        lasting = [number for number in found if number in self._before]
        self._before = set(found)
        for number in lasting:
            last = self._written.get(number)
            if last is not None and self._clock.monotonic() - last < PAUSE_SECONDS:
                continue
            self._written.put(number, self._clock.monotonic())
            room = await self._rooms.by_number(number)
            # While members are missing from the state, what may be written is not surely known.
            if room is not None and room.resident and room.partial is None:
                await self._join(room)

    async def _join(self, room: Room) -> None:
        members = await self._database.read(
            lambda tx: stored_rooms.members_of_server(tx, room.number, self._server_name)
        )
        senders = [member.user_id for member in members if member.membership == "join"][:MAX_SENDERS]
        before = len(room.extremities)
        for _ in range(MAX_EVENTS):
            head = await self._rooms.get(room.room_id)
            if head is None or len(head.extremities) <= MAX_ENDS:
                break
            if not await self._write(room, senders):
                _log.info("%s has %d ends, and no user of ours may join them", room.room_id, before)
                return
        _log.info("the %d ends of %s were joined", before, room.room_id)

    async def _write(self, room: Room, senders: list[str]) -> bool:
        """Write one event as the first of the users who may; whether there was one."""
        for sender in senders:
            try:
                await self._writer.send(room.room_id, Draft(HIDDEN_TYPE, sender, {}))
                return True
            except MatrixError as error:
                _log.debug("%s may not join the ends of %s: %s", sender, room.room_id, error)
        return False
