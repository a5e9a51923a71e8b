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
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from comity.federation import transactions
from comity.federation.availability import Availability
from comity.federation.calls import Calls
from comity.federation.client import FederationError
from comity.federation.line import Line, State, stored_retry
from comity.federation.places import Places
from comity.federation.progress import MAX_ERROR_TEXT, UNAVAILABLE_SECONDS, Progress
from comity.federation.shared_bodies import SharedBodies
from comity.federation.transactions import MAX_PDUS, Batch
from comity.federation.whispers import Whispers
from comity.ports import Clock, Entropy
from comity.protocol import pacing
from comity.store import edus, queues
from comity.store.cache import Bounded
from comity.store.database import (
    Database,
    StoreFailedError,
    StoreUnavailableError,
    Tx,
)
from comity.store.events import Events, StoredEvent
from comity.store.queues import Destination

_log = logging.getLogger(__name__)
#: Transactions to one destination in a row; then the others that wait have their turn.
MAX_IN_A_ROW = 20
#: Destinations with nothing to do whose cursor stays in memory; about 300 bytes each.
MAX_IDLE_LINES = 50_000
#: Seconds after which the timer looks again at the latest: the wall clock may have been set.
MAX_TIMER_SECONDS = 300.0
#: Seconds that transactions under way are given at the end.
STOP_SECONDS = 5.0
#: Seconds for which what passes, and receipts, are gathered before a server is told.
EDU_PAUSE_SECONDS = 0.1


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
        self._ready_unproven: collections.deque[Line] = collections.deque()
        self._places = Places()
        self._looks_for_slow: asyncio.TimerHandle | None = None
        self._helpers: set[asyncio.Task[None]] = set()
        self._timers: list[tuple[int, str]] = []
        self._timer: asyncio.Task[None] | None = None
        self._timer_at = 0
        self.progress = Progress(database, events, clock)
        self._whispers = Whispers()
        self._bodies = SharedBodies()
        self._passed = 0
        #: Servers to wake a little later, together.
        self._soon: set[str] = set()
        self._soon_timer: asyncio.Task[None] | None = None
        self._running = False
        #: What is owed up to here was there at the start, and may have been under way before it.
        self._found = 0

    async def start(self) -> None:
        """Begin, and take up what was left undone; returns before all of it has been looked at."""
        self._running = True
        self._found = self._database.last_committed
        self._availability.on_back.append(self._try_now)
        for coroutine in (self._resume(), self.progress.prune_now_and_then()):
            task = asyncio.create_task(coroutine)
            self._helpers.add(task)
            task.add_done_callback(self._helpers.discard)

    async def stop(self) -> None:
        """Let transactions under way end, for a moment, and send no more."""
        self._running = False
        if self._try_now in self._availability.on_back:
            self._availability.on_back.remove(self._try_now)
        if self._looks_for_slow is not None:
            self._looks_for_slow.cancel()
        helpers = [*self._helpers, *(task for task in (self._timer, self._soon_timer) if task is not None)]
        for task in helpers:
            task.cancel()
        senders = self._places.all()
        if senders:
            await asyncio.wait(senders, timeout=STOP_SECONDS)
            for task in senders:
                task.cancel()
        await asyncio.gather(*helpers, *senders, return_exceptions=True)
        await self.progress.settle()

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

    def wake_soon(self, servers: Collection[str]) -> None:
        """These servers are owed EDUs that last and are on disk; what comes a little later goes along."""
        self._soon.update(servers)
        if self._soon and self._running and (self._soon_timer is None or self._soon_timer.done()):
            self._soon_timer = asyncio.get_running_loop().create_task(self._wake_those())

    def whisper(self, servers: Collection[str], edu_type: str, key: str, content: bytes) -> None:
        """Tell these servers what is true now; the newest of a type and key counts. `content` is JSON.

        Of presence it is one entry of `push`. A server that is away is not told.
        """
        if not self._running:
            return
        there = [server for server in servers if self._availability.may_try(server)]
        self._whispers.put(there, edu_type, key, content)
        self._soon.update(there)
        if self._soon and (self._soon_timer is None or self._soon_timer.done()):
            self._soon_timer = asyncio.get_running_loop().create_task(self._wake_those())

    async def _wake_those(self) -> None:
        await self._clock.sleep(EDU_PAUSE_SECONDS)
        self._soon_timer = None
        servers, self._soon = frozenset(self._soon), set()
        self.wake(servers)

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
        proven = line.retry is None and self._availability.is_answering(line.server)
        (self._ready if proven else self._ready_unproven).append(line)

    def _dispatch(self) -> None:
        for waiting, unproven in ((self._ready, False), (self._ready_unproven, True)):
            while self._running and waiting and self._places.has_room(unproven=unproven):
                self._begin(waiting.popleft(), unproven=unproven)
        if self._running and self._ready and self._looks_for_slow is None:
            self._set_aside_the_slow()

    def _begin(self, line: Line, *, unproven: bool) -> None:
        line.state = State.SENDING
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._send(line))
        self._places.take(task, loop.time(), unproven=unproven)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._places.give_back(task)
        self._dispatch()

    def _set_aside_the_slow(self) -> None:
        """Make room for those that wait, and again a little later for as long as any do."""
        self._looks_for_slow = None
        if not self._ready or not self._running:
            return
        loop = asyncio.get_running_loop()
        pause = self._places.set_aside_the_slow(loop.time())
        self._looks_for_slow = loop.call_later(pause, self._set_aside_the_slow)
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
                passing = self._whispers.take(line.server)
                if batch is None and not passing:
                    if line.woken:
                        # It is owed something that was stored while that was read.
                        continue
                    self._rest(line)
                    return
                batch = batch or self._only_passing(line)
                if line.batch is None and batch.first_position != batch.last_position:
                    await self._hold_on_to(line, batch)
                try:
                    answer = await self._calls.send_transaction(
                        line.server, batch.transaction_id, await self._body(batch, passing)
                    )
                except FederationError as error:
                    self._failed(line, batch, error)
                    return
                await self._delivered(line, batch, answer)
                if line.has_everything and line.server not in self._whispers:
                    self._rest(line)
                    return
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
        line.read_upto, last = committed, line.sending_upto

        def read(tx: Tx) -> Batch | None:
            if last is not None:
                batch = transactions.same_batch(
                    tx, self._events, line.server, after=line.delivered, last_position=last, now=now
                )
                if batch is not None:
                    return batch
            elif line.is_fresh:
                batch = transactions.first_alone(
                    tx, self._events, line.server, after=line.delivered, upto=self._found, now=now
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
        line.is_fresh = False
        if last is not None:
            line.sending_upto, line.batch = None, batch
        if batch is None:
            line.looked = max(line.looked, committed)
            return None
        return self._bodies.of_one_time(batch)

    def _only_passing(self, line: Line) -> Batch:
        """A transaction of nothing that lasts, after which as much is owed as before."""
        self._passed += 1
        now = self._clock.now_ms()
        return Batch(f"p{now}.{self._passed}", (), line.delivered, line.delivered, line.delivered, now)

    async def _hold_on_to(self, line: Line, batch: Batch) -> None:
        """Store where a transaction of several parts ends, before it is sent.

        Whatever happens then, it comes again as it was, with nothing newer in it, until its answer
        is here: the specification wants that (server-server §PUT send), and a server that has
        taken it knows it by its id. One of a single part need not be stored: it is what a restart
        finds first (`Line.is_fresh`).
        """
        line.batch = batch
        await self._store(line)

    async def _body(self, batch: Batch, passing: Sequence[bytes]) -> bytes:
        shared = None if passing else self._bodies.get(batch)
        if shared is not None:
            return shared
        stored: list[StoredEvent] = []
        if batch.numbers:
            stored = await self._database.read(lambda tx: transactions.load(tx, self._events, batch))
        body = transactions.body(self._server_name, batch, stored, passing)
        if not passing:
            self._bodies.put(batch, body)
        return body

    async def _delivered(self, line: Line, batch: Batch, answer: dict[str, Any]) -> None:
        if line.retry is not None:
            _log.info("%s takes events again", line.server)
        failed_before = line.retry is not None
        line.succeeded(batch.upto)
        self.progress.note_refusals(line.server, batch, answer.get("pdus"))
        if not batch.numbers and not batch.edus and not failed_before:
            return
        await self._store(line)

    async def _store(self, line: Line) -> None:
        storing = self.progress.store(line)
        if storing is not None:
            try:
                await asyncio.shield(storing)
            except StoreFailedError as error:
                # After a restart it is sent again, and known there.
                _log.warning("how far %s has come was not stored: %s", line.server, error)

    def _failed(self, line: Line, batch: Batch, error: FederationError) -> None:
        """Whatever it was, the events stay: a refusal may be a mistake that somebody corrects."""
        self._whispers.drop(line.server)
        line.failure = (error.text[:MAX_ERROR_TEXT], error.kind)
        if error.status == 413 and len(batch.numbers) > 1:
            # The same would be refused for ever; this ends at single events.
            line.limit, line.batch = len(batch.numbers) // 2, None
        elif batch.numbers or batch.edus:
            line.batch = batch
        level = logging.WARNING if line.retry is None and error.status is not None else logging.INFO
        self._wait(line, at_least_ms=error.retry_after_ms)
        retry = line.retry
        seconds = 0 if retry is None else (retry.retry_at_ms - self._clock.now_ms()) // 1000
        _log.log(level, "events could not be sent to %s; next try in %d s", error, seconds)
        self.progress.store(line)

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

    # -- at the start

    async def _resume(self) -> None:
        """Look at every destination once: who fails, and who is owed something."""
        async for page in self.progress.pages():
            for stored in page:
                retry = stored_retry(stored)
                if retry is not None and not self._is_newer_known(stored.server):
                    self._availability.remember(stored.server, retry)
            for stored in await self.progress.read_patiently(lambda tx: self._owed(tx, page)):  # noqa: B023
                if not self._is_newer_known(stored.server):
                    self._take_up(stored)
            self._dispatch()

    def _is_newer_known(self, server: str) -> bool:
        """Whether the server has been woken since the start: then what was read of it may be old."""
        return server in self._lines or self._idle.get(server) is not None

    def _owed(self, tx: Tx, page: Iterable[Destination]) -> list[Destination]:
        return [stored for stored in page if stored.server != self._server_name and self._is_owed(tx, stored)]

    def _is_owed(self, tx: Tx, stored: Destination) -> bool:
        return bool(
            queues.due(tx, stored.server, stored.delivered, 1)
            or edus.due(tx, stored.server, stored.delivered, self._database.last_committed, 1)[0]
        )

    def _take_up(self, stored: Destination) -> None:
        line = Line(stored.server)
        line.load(stored)
        self._lines[stored.server] = line
        if pacing.may_try(line.retry, self._clock.now_ms()):
            self._make_ready(line)
        else:
            self._wait_for_retry(line)
