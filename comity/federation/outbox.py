"""The outbox: every event reaches every server that is owed it, in order, however long that takes.

Owns one line per destination that has something to do: what it sends now, or when it is tried
again. Cursors and schedules are stored (`store.queues`); events are never dropped because a server
refuses them or is away. It does not decide who is owed what: that is written with the event.

Policy for the long dead: a destination that has failed for DEAD_AFTER_MS no longer holds back the
pruning of old rows; of each room only the newest event is kept for it. When it comes back it is
sent those and fetches what is between, as after a catch-up.
"""

from __future__ import annotations

import asyncio
import collections
import heapq
import logging
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, TypeVar

from comity.federation import transactions
from comity.federation.availability import Availability
from comity.federation.calls import Calls
from comity.federation.client import FederationError
from comity.federation.line import Line, State, stored_retry
from comity.federation.transactions import MAX_PDUS, Batch
from comity.ports import Clock, Entropy
from comity.protocol import pacing
from comity.store import queues
from comity.store.cache import Bounded
from comity.store.database import (
    Database,
    StoreFailedError,
    StoreOverloadedError,
    StoreUnavailableError,
    Tx,
    WriteTx,
)
from comity.store.events import Events
from comity.store.queues import Destination

_log = logging.getLogger(__name__)
T = TypeVar("T")
#: Destinations sent to at once: each holds a connection and up to 3 MiB of events.
MAX_SENDING = 200
#: And of those that failed before: they mostly hold their place until a time is over, and must not
#: take it from those that answer.
MAX_RETRYING = 50
#: Transactions to one destination in a row; then the others that wait have their turn.
MAX_IN_A_ROW = 20
#: Destinations with nothing to do whose cursor stays in memory; about 300 bytes each.
MAX_IDLE_LINES = 50_000
#: Seconds after which the timer looks again at the latest: the wall clock may have been set.
MAX_TIMER_SECONDS = 300.0
#: Seconds between two prunings of what everybody has.
PRUNE_SECONDS = 600.0
#: Destinations looked at in one go, before other tasks have a turn.
PAGE = 100
#: A destination that has failed for a week does not hold back the pruning any more.
DEAD_AFTER_MS = 7 * 24 * 3_600_000
#: Seconds that transactions under way are given at the end.
STOP_SECONDS = 5.0
#: Seconds between two looks at a database that does not answer.
UNAVAILABLE_SECONDS = 2.0
#: Characters kept of what a server says about an event that it refuses.
_MAX_ERROR_TEXT = 300


class Outbox:
    """Delivers events to other servers."""

    def __init__(
        self,
        database: Database,
        events: Events,
        calls: Calls,
        clock: Clock,
        entropy: Entropy,
        server_name: str,
        availability: Availability,
    ) -> None:
        """`events` must know the rooms' versions by the time of `start`; `server_name` is ours."""
        self._database = database
        self._events = events
        self._calls = calls
        self._clock = clock
        self._entropy = entropy
        self._server_name = server_name
        self._availability = availability
        #: Lines that are not idle, and those that are.
        self._lines: dict[str, Line] = {}
        self._idle: Bounded[str, Line] = Bounded(MAX_IDLE_LINES)
        self._ready: collections.deque[Line] = collections.deque()
        self._ready_again: collections.deque[Line] = collections.deque()
        self._sending = 0
        self._retrying = 0
        self._senders: set[asyncio.Task[None]] = set()
        self._helpers: set[asyncio.Task[None]] = set()
        self._timers: list[tuple[int, str]] = []
        self._timer: asyncio.Task[None] | None = None
        self._timer_at = 0
        self._changed: dict[str, Destination] = {}
        self._on_its_way: dict[str, Destination] = {}
        self._storing: asyncio.Future[None] | None = None
        self._running = False

    async def start(self) -> None:
        """Begin, and take up what was left undone; returns before all of it has been looked at."""
        self._running = True
        self._availability.on_back.append(self._try_now)
        for coroutine in (self._resume(), self._prune_now_and_then()):
            task = asyncio.create_task(coroutine)
            self._helpers.add(task)
            task.add_done_callback(self._helpers.discard)

    async def stop(self) -> None:
        """Let transactions under way end, for a moment, and send no more."""
        self._running = False
        if self._try_now in self._availability.on_back:
            self._availability.on_back.remove(self._try_now)
        helpers = [*self._helpers, *([self._timer] if self._timer is not None else [])]
        for task in helpers:
            task.cancel()
        senders = list(self._senders)
        if senders:
            await asyncio.wait(senders, timeout=STOP_SECONDS)
            for task in senders:
                task.cancel()
        await asyncio.gather(*helpers, *senders, return_exceptions=True)
        if self._storing is not None:
            await asyncio.gather(self._storing, return_exceptions=True)

    # -- news

    def wake(self, servers: frozenset[str]) -> None:
        """These servers are owed something new, which is on disk."""
        if not self._running:
            return
        for server in servers:
            line = self._lines.get(server)
            if line is not None:
                # One that sends looks again before it rests; one that waits has its time.
                line.woken = True
            elif server != self._server_name:
                self._make_ready(self._idle.get(server) or Line(server))
        self._dispatch()

    def spoke(self, server: str) -> None:
        """The server made a request to us: if it was away, it may be back."""
        self._availability.heard(server)
        line = self._lines.get(server)
        if line is None or line.state is not State.WAITING:
            return
        if line.may_try_because_it_spoke(self._clock.now_ms()):
            self._try_now(server)

    def _try_now(self, server: str) -> None:
        line = self._lines.get(server)
        if line is not None and line.state is State.WAITING and self._running:
            self._make_ready(line)
            self._dispatch()

    # -- who sends when

    def _make_ready(self, line: Line) -> None:
        if line.state is State.IDLE:
            self._idle.drop(line.server)
            self._lines[line.server] = line
        line.state = State.READY
        (self._ready if line.retry is None else self._ready_again).append(line)

    def _dispatch(self) -> None:
        while self._running and self._ready and self._sending < MAX_SENDING:
            self._sending += 1
            self._begin(self._ready.popleft(), retrying=False)
        while self._running and self._ready_again and self._retrying < MAX_RETRYING:
            self._retrying += 1
            self._begin(self._ready_again.popleft(), retrying=True)

    def _begin(self, line: Line, *, retrying: bool) -> None:
        line.state = State.SENDING
        task = asyncio.get_running_loop().create_task(self._send(line))
        self._senders.add(task)
        task.add_done_callback(lambda done: self._ended(done, retrying=retrying))

    def _ended(self, task: asyncio.Task[None], *, retrying: bool) -> None:
        self._senders.discard(task)
        if retrying:
            self._retrying -= 1
        else:
            self._sending -= 1
        self._dispatch()

    async def _send(self, line: Line) -> None:
        """Send to one destination until it has everything, fails, or others must have their turn."""
        try:
            if not line.loaded and not await self._load(line):
                self._wait_for_retry(line)
                return
            for _ in range(MAX_IN_A_ROW):
                if not self._running:
                    return
                batch = await self._next_batch(line)
                if batch is None:
                    if line.woken:
                        # It is owed something that was stored while that was read.
                        continue
                    self._rest(line)
                    return
                try:
                    answer = await self._calls.send_transaction(
                        line.server, batch.transaction_id, await self._body(batch)
                    )
                except FederationError as error:
                    self._failed(line, batch, error)
                    return
                await self._delivered(line, batch, answer)
        except StoreUnavailableError as error:
            # That is not the destination's fault: its schedule stays as it is.
            _log.warning("what %s is owed could not be read: %s", line.server, error)
            await self._clock.sleep(UNAVAILABLE_SECONDS)
            self._make_ready(line)
        except Exception:  # noqa: BLE001 - one line's fault must not end the others
            _log.exception("sending to %s went wrong", line.server)
            self._wait(line, at_least_ms=0)
        else:
            self._make_ready(line)

    def _rest(self, line: Line) -> None:
        line.state = State.IDLE
        line.limit = MAX_PDUS
        self._lines.pop(line.server, None)
        self._idle.put(line.server, line)

    async def _load(self, line: Line) -> bool:
        """Take up what is stored of a destination; whether it may be tried now."""
        stored = await self._database.look_up(lambda tx: queues.destination(tx, line.server))
        line.load(stored or Destination(line.server, 0))
        return pacing.may_try(line.retry, self._clock.now_ms())

    async def _next_batch(self, line: Line) -> Batch | None:
        if line.batch is not None:
            return line.batch
        line.woken = False
        committed, now = self._database.last_committed, self._clock.now_ms()
        last = line.sending_upto

        def read(tx: Tx) -> Batch | None:
            if last is not None:
                batch = transactions.same_batch(
                    tx, self._events, line.server, after=line.delivered, last_position=last, now=now
                )
                if batch is not None:
                    return batch
            return transactions.next_batch(
                tx,
                self._events,
                line.server,
                after=line.looked,
                committed=committed,
                limit=line.limit,
                now=now,
            )

        batch = await self._database.read(read)
        if last is not None:
            line.sending_upto, line.batch = None, batch
        if batch is None:
            line.looked = max(line.looked, committed)
        return batch

    async def _body(self, batch: Batch) -> bytes:
        stored = await self._database.read(lambda tx: transactions.load(tx, self._events, batch))
        return transactions.body(self._server_name, batch, stored)

    async def _delivered(self, line: Line, batch: Batch, answer: dict[str, Any]) -> None:
        if line.retry is not None:
            _log.info("%s takes events again", line.server)
        line.succeeded(batch.upto)
        results = answer.get("pdus")
        if isinstance(results, dict):
            for event_id, result in list(results.items())[:MAX_PDUS]:
                if isinstance(result, dict) and "error" in result:
                    text = str(result["error"])[:_MAX_ERROR_TEXT]
                    _log.warning("%s refused the event %s: %s", line.server, event_id[:255], text)
        storing = self._store(line)
        if storing is not None:
            try:
                await asyncio.shield(storing)
            except StoreFailedError as error:
                # After a restart it is sent again, and known there.
                _log.warning("how far %s has come was not stored: %s", line.server, error)

    def _failed(self, line: Line, batch: Batch, error: FederationError) -> None:
        """Whatever it was, the events stay: a refusal may be a mistake that somebody corrects."""
        if error.status == 413 and len(batch.numbers) > 1:
            # The same would be refused for ever; this ends at single events.
            line.limit, line.batch = len(batch.numbers) // 2, None
        else:
            line.batch = batch
        level = logging.WARNING if line.retry is None and error.status is not None else logging.INFO
        self._wait(line, at_least_ms=error.retry_after_ms)
        retry = line.retry
        seconds = 0 if retry is None else (retry.retry_at_ms - self._clock.now_ms()) // 1000
        _log.log(level, "events could not be sent to %s; next try in %d s", error, seconds)
        self._store(line)

    # -- waiting

    def _wait(self, line: Line, *, at_least_ms: int) -> None:
        now = self._clock.now_ms()
        line.retry = pacing.after_failure(line.retry, now, self._entropy.random(), at_least_ms=at_least_ms)
        self._wait_for_retry(line)

    def _wait_for_retry(self, line: Line) -> None:
        line.state = State.WAITING
        if line.retry is not None and line.timer_at != line.retry.retry_at_ms:
            line.timer_at = line.retry.retry_at_ms
            heapq.heappush(self._timers, (line.timer_at, line.server))
        self._arm()

    def _current(self, entry: tuple[int, str]) -> Line | None:
        """The line that waits for this entry of the timer, if it still does."""
        line = self._lines.get(entry[1])
        waits = line is not None and line.state is State.WAITING and line.timer_at == entry[0]
        return line if waits else None

    def _pop_timer(self) -> Line | None:
        """Take the first entry of the timer away; the line that waited for it, if it still does."""
        entry = heapq.heappop(self._timers)
        waiting, line = self._current(entry), self._lines.get(entry[1])
        if line is not None and line.timer_at == entry[0]:
            line.timer_at = 0
        return waiting

    def _arm(self) -> None:
        """One timer for all: it runs to the first entry that still means something."""
        while self._timers and self._current(self._timers[0]) is None:
            self._pop_timer()
        if not self._timers or not self._running:
            return
        at = self._timers[0][0]
        if self._timer is not None:
            if self._timer_at <= at:
                return
            self._timer.cancel()
        self._timer_at = at
        self._timer = asyncio.get_running_loop().create_task(self._sleep_until(at))

    async def _sleep_until(self, at: int) -> None:
        seconds = max(1, at - self._clock.now_ms()) / 1000
        await self._clock.sleep(min(seconds, MAX_TIMER_SECONDS))
        self._timer = None
        now = self._clock.now_ms()
        while self._timers:
            line = self._current(self._timers[0])
            if line is not None and not pacing.may_try(line.retry, now):
                break
            line = self._pop_timer()
            if line is not None:
                self._make_ready(line)
        self._dispatch()
        self._arm()

    # -- what is stored

    def _store(self, line: Line) -> asyncio.Future[None] | None:
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
        self._changed, self._storing = {}, None
        queues.put_destinations(tx, self._on_its_way.values())
        tx.after_commit(self._on_its_way.clear)

    async def _resume(self) -> None:
        """Look at every destination once: who fails, and who is owed something."""
        async for page in self._pages():
            for stored in page:
                retry = stored_retry(stored)
                if retry is not None and not self._is_newer_known(stored.server):
                    self._availability.remember(stored.server, retry)
            for stored in await self._read_patiently(lambda tx: self._owed(tx, page)):  # noqa: B023
                if not self._is_newer_known(stored.server):
                    self._take_up(stored)
            self._dispatch()

    def _is_newer_known(self, server: str) -> bool:
        """Whether the server has been woken since the start: then what was read of it may be old."""
        return server in self._lines or self._idle.get(server) is not None

    def _owed(self, tx: Tx, page: Iterable[Destination]) -> list[Destination]:
        return [
            stored
            for stored in page
            if stored.server != self._server_name and queues.due(tx, stored.server, stored.delivered, 1)
        ]

    def _take_up(self, stored: Destination) -> None:
        line = Line(stored.server)
        line.load(stored)
        self._lines[stored.server] = line
        if pacing.may_try(line.retry, self._clock.now_ms()):
            self._make_ready(line)
        else:
            self._wait_for_retry(line)

    async def _read_patiently(self, function: Callable[[Tx], T]) -> T:
        """Read for a task that nobody waits for: it waits for an engine that does not answer."""
        while True:
            try:
                return await self._database.read(function)
            except StoreUnavailableError as error:
                _log.warning("the destinations cannot be read at present: %s", error)
                await self._clock.sleep(UNAVAILABLE_SECONDS)

    async def _pages(self) -> AsyncIterator[list[Destination]]:
        after = ""
        while True:
            page = await self._read_patiently(lambda tx: queues.destinations(tx, after, PAGE))  # noqa: B023
            if not page:
                return
            yield page
            after = page[-1].server
            await asyncio.sleep(0)

    async def _prune_now_and_then(self) -> None:
        while True:
            await self._clock.sleep(PRUNE_SECONDS)
            try:
                await self.prune()
            except (StoreFailedError, StoreOverloadedError, StoreUnavailableError) as error:
                _log.warning("what everybody has was not pruned: %s", error)

    async def prune(self) -> int:
        """Forget what nobody waits for any more; the number of rows that went."""
        async for page in self._pages():
            behind = [item.server for item in page if item.delivered < self._database.last_committed]
            if behind:
                await self._database.write(lambda tx: self._advance(tx, behind))  # noqa: B023
        total = 0
        dead_since = self._clock.now_ms() - DEAD_AFTER_MS
        while gone := await self._database.write(lambda tx: queues.prune_outbound(tx, dead_since)):
            total += gone
        return total

    def _advance(self, tx: WriteTx, servers: Iterable[str]) -> None:
        queues.advance_idle(tx, servers, self._database.last_position)
