"""The index of words, kept up behind what happens: a follower with its own cursor in the store.

Nothing of it is on the way of an event that is sent: words are stored moments later, and a search asks
first that this be done (`catch_up`). An old database's events follow in the background, newest first.
What the cursor has passed and changes afterwards is noted with that change, in its transaction: an event
that gets its place late is looked at again, one that is redacted loses its words at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from comity.background import Worker
from comity.ports import Clock
from comity.rooms.batch import Batch
from comity.store import events as stored_events
from comity.store import search
from comity.store.database import Database, StoreFailedError, StoreOverloadedError, Tx, WriteTx
from comity.store.search import Mark, Progress, Readied

_log = logging.getLogger(__name__)
#: Event numbers that one step goes on by: about 20 ms of work if each of them is a message.
STEP = 250
#: Seconds in which more may come before what came is indexed: one commit for all of it.
GATHER_SECONDS = 3.0
#: Seconds between two steps through old events, which leave the machine to those who wait for it.
BREATH_SECONDS = 0.1
#: Seconds until the database is tried again.
RETRY_SECONDS = 10.0
#: Steps for which one search waits. What is further behind than that is found by a later one.
MAX_CATCH_UP_STEPS = 8
#: Steps through old events after which the log is told how far it is.
TELL_EVERY = 200


class SearchIndex(Worker):
    """Keeps the index. Search itself is `comity.rooms.read.search`."""

    def __init__(self, database: Database, clock: Clock, begun: Progress) -> None:
        """`begun` is where it is: what `load_progress` gives when the database is opened."""
        self._database = database
        self._clock = clock
        self._reached = begun
        #: No event of a number up to this is waited for any more: one that comes yet is noted.
        self._passed = begun.newest
        self._all_old = begun.oldest
        self._steps = 0
        self._stepping = asyncio.Lock()
        self._news = asyncio.Event()

    # -- what commits tell

    def follow(self, tx: WriteTx, batch: Batch) -> None:
        """Note in a batch's own transaction what the cursor has passed. What is new costs nothing."""
        passed = self._passed
        late = [new.number for new in batch.new_events() if new.number <= passed]
        late.extend(number for number, _ in batch.placed if number <= passed)
        late.extend(stored.number for stored in batch.restated if stored.number <= passed)
        if late:
            search.look_again(tx, late)
        for redaction in batch.redactions:
            if redaction.target_number <= passed:
                search.remove(
                    tx, redaction.target_number, redaction.original.type, redaction.original.content
                )
        tx.after_commit(self._news.set)

    # -- the work

    async def catch_up(self) -> None:
        """Have found what is stored by now, if that is not very much. Raises what the database raises."""
        for _ in range(MAX_CATCH_UP_STEPS):
            if not await self._step_new():
                return

    async def _work(self) -> None:
        if self._all_old:
            _log.info("events 1 to %d are not indexed for search yet: newest first", self._all_old)
        while True:
            try:
                if await self._step_new() or await self._step_old():
                    await self._clock.sleep(BREATH_SECONDS)
                    continue
            except (StoreFailedError, StoreOverloadedError) as error:
                _log.info("the search index waits for the database: %s", error)
                await self._clock.sleep(RETRY_SECONDS)
                continue
            except Exception:  # noqa: BLE001 - the next event must be found though one could not be read
                _log.exception("the search index did not get on")
                await self._clock.sleep(RETRY_SECONDS)
                continue
            await self._news.wait()
            await self._clock.sleep(GATHER_SECONDS)
            self._news.clear()

    async def _step_new(self) -> bool:
        """Index some of what came since; whether there may be more."""
        async with self._stepping:
            reached = self._reached

            def read(tx: Tx) -> tuple[int, list[Readied], list[int], list[Readied]]:
                upto = min(reached.newest + STEP, stored_events.last_number(tx))
                again, readied_again = search.ready_again(tx, STEP)
                return upto, search.ready(tx, reached.newest, upto), again, readied_again

            upto, readied, again, readied_again = await self._database.read(read)
            if again:
                await self._database.write(lambda tx: _store_again(tx, again, readied_again))
            if upto <= reached.newest:
                return len(again) == STEP
            # From here on: what is stored after this write, and below, notes itself.
            self._passed = upto
            now = Progress(upto, reached.oldest)
            await self._store(reached.newest, upto, readied, now)
            return upto == reached.newest + STEP or len(again) == STEP

    async def _step_old(self) -> bool:
        """Index some of what was there before there was an index; whether there is more."""
        async with self._stepping:
            reached = self._reached
            if not reached.oldest:
                return False
            floor = max(0, reached.oldest - STEP)
            readied = await self._database.read(lambda tx: search.ready(tx, floor, reached.oldest))
            await self._store(floor, reached.oldest, readied, Progress(reached.newest, floor))
            self._steps += 1
            if not floor:
                _log.info("all events that were there before are indexed for search")
            elif self._steps % TELL_EVERY == 0:
                done = 100 * (self._all_old - floor) // self._all_old
                _log.info("%d %% of older events are indexed for search; %d are left", done, floor)
            return bool(floor)

    async def _store(self, after: int, upto: int, readied: list[Readied], now: Progress) -> None:
        def store(tx: WriteTx) -> None:
            search.insert(tx, _as_of_now(tx, search.marks(tx, after, upto), readied))
            search.save_progress(tx, now)
            # Not after the wait, which may be given up while the write goes on.
            tx.after_commit(lambda: self._came_to(now))

        await self._database.write(store)

    def _came_to(self, reached: Progress) -> None:
        self._reached = reached


def load_progress(tx: Tx) -> Progress:
    """Where the index is; in a database that had none, everything that is there is old."""
    last = stored_events.last_number(tx)
    return search.progress(tx) or Progress(last, last)


def _store_again(tx: WriteTx, numbers: list[int], readied: list[Readied]) -> None:
    search.insert(tx, _as_of_now(tx, search.marks_of(tx, numbers), readied))
    search.looked_at(tx, numbers)


def _as_of_now(tx: Tx, marks: set[Mark], readied: Iterable[Readied]) -> list[Readied]:
    """What was read, with whatever has come or changed until now, when nothing more can come between."""
    same = [item for item in readied if item.mark in marks]
    other = marks - {item.mark for item in same}
    return [*same, *search.ready_numbers(tx, (mark.number for mark in other))] if other else same
