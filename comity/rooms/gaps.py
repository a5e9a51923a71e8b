"""Gaps: history that is missing since we were away, fetched quietly before anybody pages there.

The table of gaps is the queue, so a restart forgets nothing. Only a bounded part of each gap is
fetched, newest gaps first; the rest, and whatever was before we joined, comes when a client pages
there (`comity.rooms.backfill`, which does the fetching for both).
"""

from __future__ import annotations

import asyncio
import logging

from comity.background import Worker
from comity.ports import Clock
from comity.protocol.identifiers import server_of
from comity.rooms.backfill import MOST_EVENTS, Backfill
from comity.rooms.room import Room, Rooms
from comity.store import rooms as stored_rooms
from comity.store.database import Database, StoreFailedError, StoreOverloadedError, Tx
from comity.store.rooms import Gap

_log = logging.getLogger(__name__)
#: Gaps that are filled at once, so that clients' own requests find the line free.
MAX_AT_ONCE = 3
#: Rounds that one gap gets, each of at most MOST_EVENTS events, whether something comes or not: what
#: is further back than 1,200 events is seldom read, and history that nobody has is not asked for ever.
MAX_ROUNDS = 12
#: Seconds after which a new gap is seen to: what is missing may be on its way.
SETTLE_SECONDS = 10.0
#: The pause after the first round in which nothing came; doubled with each round.
FIRST_RETRY_MS = 60_000
#: The longest pause until it is looked again at all: the wall clock may have been set.
MAX_PAUSE_SECONDS = 3_600.0


class GapFiller(Worker):
    """Fills recent gaps in the background."""

    def __init__(
        self, database: Database, rooms: Rooms, backfill: Backfill, clock: Clock, server_name: str
    ) -> None:
        """`server_name` is ours."""
        self._database = database
        self._rooms = rooms
        self._backfill = backfill
        self._clock = clock
        self._server_name = server_name
        self._news = asyncio.Event()

    def look(self) -> None:
        """There may be a new gap."""
        self._news.set()

    async def _work(self) -> None:
        pause: float | None = SETTLE_SECONDS
        while True:
            if pause is None:
                await self._news.wait()
                pause = SETTLE_SECONDS
            await self._pause(pause)
            self._news.clear()
            try:
                pause = await self._work_once()
            except (StoreFailedError, StoreOverloadedError) as error:
                _log.info("gaps wait for the database: %s", error)
                pause = SETTLE_SECONDS
            except Exception:  # noqa: BLE001 - one gap's trouble must not end the work on all
                _log.exception("gaps in history could not be filled")
                pause = MAX_PAUSE_SECONDS

    async def _pause(self, seconds: float) -> None:
        """Wait so long; less if there is news, which has its time to settle too."""
        ends = self._clock.monotonic() + seconds
        waits = [asyncio.ensure_future(self._clock.sleep(seconds)), asyncio.ensure_future(self._news.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        left = ends - self._clock.monotonic()
        if self._news.is_set() and left > 0:
            await self._clock.sleep(min(left, SETTLE_SECONDS))

    async def _work_once(self) -> float | None:
        """Fill what is due; the seconds until more is (None: nothing is to be done)."""
        while True:
            now = self._clock.now_ms()
            due, next_at = await self._database.read(
                lambda tx: stored_rooms.gaps_to_fill(tx, now, MAX_AT_ONCE, MAX_ROUNDS)  # noqa: B023
            )
            if not due:
                break
            await asyncio.gather(*(self._fill(room_num, gap) for room_num, gap in due))
        return None if next_at is None else min(max(0, next_at - now) / 1000, MAX_PAUSE_SECONDS)

    async def _fill(self, room_num: int, gap: Gap) -> None:
        room = await self._rooms.by_number(room_num)
        recent = room is not None and not await self._database.read(
            lambda tx: self._is_our_beginning(tx, room, gap)
        )
        rounds = gap.rounds + 1 if recent else MAX_ROUNDS
        retry_at = self._clock.now_ms() + FIRST_RETRY_MS * 2**gap.rounds
        # Written first: whatever happens meanwhile, it is not tried again and again.
        await self._database.write(
            lambda tx: stored_rooms.note_gap_tried(tx, room_num, gap.line, rounds, retry_at)
        )
        if room is None or not recent:
            return
        if await self._backfill.fill(room.room_id, gap.line, MOST_EVENTS):
            _log.info("history of %s that was missing has come (round %d)", room.room_id, rounds)
        elif rounds == MAX_ROUNDS:
            _log.warning("history of %s that is missing is nowhere to be had", room.room_id)
        else:
            _log.info("history of %s is missing; asked for again at %d", room.room_id, retry_at)

    def _is_our_beginning(self, tx: Tx, room: Room, gap: Gap) -> bool:
        """Whether the gap is what was before a user of ours joined."""
        above = self._rooms.events.timeline(
            tx, room.number, after=gap.line - 1, upto=gap.line, limit=1, backwards=True
        )
        return any(
            stored.event.membership == "join" and server_of(stored.event.sender) == self._server_name
            for stored in above
        )
