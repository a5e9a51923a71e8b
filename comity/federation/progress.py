"""How far every destination has come, on its way to the disk; and the forgetting of what all have.

Cursors, schedules and refusals of many destinations go into one write. It decides nothing about sending.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable
from typing import TypeVar

from comity.federation.line import Line
from comity.federation.transactions import MAX_PDUS, Batch
from comity.ports import Clock
from comity.store import deliveries, edus, queues
from comity.store.database import (
    Database,
    StoreFailedError,
    StoreOverloadedError,
    StoreUnavailableError,
    Tx,
    WriteTx,
)
from comity.store.deliveries import Refusal
from comity.store.events import Events
from comity.store.queues import Destination

_log = logging.getLogger(__name__)
T = TypeVar("T")
#: Seconds between two prunings of what everybody has.
PRUNE_SECONDS = 600.0
#: Destinations looked at in one go, before other tasks have a turn.
PAGE = 100
#: A destination that has failed for a week does not hold back the pruning any more.
DEAD_AFTER_MS = 7 * 24 * 3_600_000
#: Seconds between two looks at a database that does not answer.
UNAVAILABLE_SECONDS = 2.0
#: Characters kept of what a server says.
MAX_ERROR_TEXT = 300


class Progress:
    """Stores how deliveries go."""

    def __init__(self, database: Database, events: Events, clock: Clock) -> None:
        self._database = database
        self._events = events
        self._clock = clock
        self._changed: dict[str, Destination] = {}
        self._on_its_way: dict[str, Destination] = {}
        #: (event id, server, what it said, when, numbers of the events that it was sent).
        self._refusals: list[tuple[str, str, str, int, frozenset[int]]] = []
        self._refusals_on_their_way: list[tuple[str, str, str, int, frozenset[int]]] = []
        self._storing: asyncio.Future[None] | None = None

    async def settle(self) -> None:
        """Wait for what is on its way to the disk."""
        if self._storing is not None:
            await asyncio.gather(self._storing, return_exceptions=True)

    def note_refusals(self, server: str, batch: Batch, results: object) -> None:
        """Remember which events the server answered with an error, for those who will ask."""
        if not isinstance(results, dict):
            return
        refused = {
            event_id: str(result["error"])[:MAX_ERROR_TEXT]
            for event_id, result in list(results.items())[:MAX_PDUS]
            if isinstance(result, dict) and "error" in result
        }
        now = self._clock.now_ms()
        for event_id, text in refused.items():
            _log.warning("%s refused the event %s: %s", server, event_id[:255], text)
            self._refusals.append((event_id, server, text, now, frozenset(batch.numbers)))

    def store(self, line: Line) -> asyncio.Future[None] | None:
        """Store how far a line is, along with all others that changed until the writer comes to it."""
        self._changed[line.server] = line.to_store()
        if self._storing is not None and self._storing.done():
            # It never began: no transaction could be opened for its group.
            self._storing = None
        if self._storing is None:
            try:
                self._storing = self._database.submit(self._write_changed)
            except (StoreFailedError, StoreOverloadedError, StoreUnavailableError) as error:
                _log.warning("how far %s has come was not stored: %s", line.server, error)
        return self._storing

    def _write_changed(self, tx: WriteTx) -> None:
        # What is on its way to the disk stays here until it is there: this may be run again.
        self._on_its_way.update(self._changed)
        self._refusals_on_their_way.extend(self._refusals)
        self._changed, self._refusals, self._storing = {}, [], None
        queues.put_destinations(tx, self._on_its_way.values())
        refused: list[Refusal] = []
        for event_id, server, text, at, numbers in self._refusals_on_their_way:
            number = self._events.number(tx, event_id)
            if number in numbers:
                refused.append(Refusal(number, server, text, at))
        deliveries.put_refusals(tx, refused)
        tx.after_commit(self._on_its_way.clear)
        tx.after_commit(self._refusals_on_their_way.clear)

    async def read_patiently(self, function: Callable[[Tx], T]) -> T:
        """Read for a task that nobody waits for: it waits for an engine that does not answer."""
        while True:
            try:
                return await self._database.read(function)
            except StoreUnavailableError as error:
                _log.warning("the destinations cannot be read at present: %s", error)
                await self._clock.sleep(UNAVAILABLE_SECONDS)

    async def pages(self) -> AsyncIterator[list[Destination]]:
        after = ""
        while True:
            page = await self.read_patiently(lambda tx: queues.destinations(tx, after, PAGE))  # noqa: B023
            if not page:
                return
            yield page
            after = page[-1].server
            await asyncio.sleep(0)

    async def prune_now_and_then(self) -> None:
        """Prune for as long as the process runs."""
        while True:
            await self._clock.sleep(PRUNE_SECONDS)
            try:
                await self.prune()
            except (StoreFailedError, StoreOverloadedError, StoreUnavailableError) as error:
                _log.warning("what everybody has was not pruned: %s", error)

    async def prune(self) -> int:
        """Forget what nobody waits for any more; the number of rows that went."""
        async for page in self.pages():
            behind = [item.server for item in page if item.delivered < self._database.last_committed]
            if behind:
                await self._database.write(lambda tx: self._advance(tx, behind))  # noqa: B023
        total = 0
        dead_since = self._clock.now_ms() - DEAD_AFTER_MS
        while gone := await self._database.write(lambda tx: queues.prune_outbound(tx, dead_since)):
            total += gone
        while gone := await self._database.write(edus.prune_delivered):
            total += gone
        return total

    def _advance(self, tx: WriteTx, servers: Iterable[str]) -> None:
        queues.advance_idle(tx, servers, self._database.last_position)
