"""Remote events: a transaction arrives, is checked, judged and stored as one commit.

What stands on events that we hold is judged at once; the events, the per-PDU results and the
transaction's id are one transaction, then comes the 200. What needs more is staged in that
same commit (`comity.rooms.staging` goes on with it).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import orjson

from comity.ports import Clock
from comity.protocol.admission import Outcome
from comity.protocol.errors import EventFormatError
from comity.protocol.event import Event, event_id_of
from comity.protocol.server_acl import is_allowed
from comity.rooms.batch import Batch, Decided
from comity.rooms.commit import Commits
from comity.rooms.fetch import Fetcher
from comity.rooms.judge import Judge, Missing
from comity.rooms.merge import Merger
from comity.rooms.policy import Policies
from comity.rooms.room import Room, Rooms
from comity.rooms.strangers import Strangers
from comity.store import queues
from comity.store.database import Database, Tx, WriteTx
from comity.store.queues import Staged

_log = logging.getLogger(__name__)
#: server-server §Transactions.
MAX_PDUS = 50
MAX_EDUS = 100
#: Staged events in one room; more are refused, and the sender will be asked for them later.
MAX_STAGED_PER_ROOM = 2_000
#: How long a transaction waits for a join that is under way.
JOIN_WAIT_SECONDS = 60.0
Results = dict[str, dict[str, Any]]


class Arrivals:
    """Joins under way: events for such a room wait until we are in it."""

    def __init__(self) -> None:
        self._joining: dict[str, asyncio.Event] = {}

    def begin(self, room_id: str) -> None:
        """A join of the room is under way."""
        self._joining[room_id] = asyncio.Event()

    def end(self, room_id: str) -> None:
        """The join is over, well or not."""
        event = self._joining.pop(room_id, None)
        if event is not None:
            event.set()

    async def wait(self, room_ids: set[str]) -> None:
        """Wait (a bounded time) for the joins of any of these rooms."""
        for room_id in room_ids & self._joining.keys():
            try:
                async with asyncio.timeout(JOIN_WAIT_SECONDS):
                    await self._joining[room_id].wait()
            except TimeoutError:
                _log.warning("a join of %s takes long; events for it are refused", room_id)


class Intake:
    """Takes transactions in."""

    def __init__(
        self,
        *,
        database: Database,
        rooms: Rooms,
        merger: Merger,
        judge: Judge,
        commits: Commits,
        fetcher: Fetcher,
        arrivals: Arrivals,
        strangers: Strangers,
        policies: Policies,
        clock: Clock,
    ) -> None:
        self._database = database
        self._rooms = rooms
        self._merger = merger
        self._judge = judge
        self._commits = commits
        self._fetcher = fetcher
        self._arrivals = arrivals
        self._strangers = strangers
        self._policies = policies
        self._clock = clock
        self._in_flight: dict[tuple[str, str], asyncio.Future[bytes]] = {}
        #: Called with a room id when something was staged there.
        self.on_staged: Callable[[str], None] = lambda _: None

    async def receive(self, origin: str, transaction_id: str, pdus: Sequence[object]) -> bytes:
        """Take a transaction of at most MAX_PDUS in; the JSON of the answer, when all is on disk.

        The same transaction again gets the same answer.
        """
        key = (origin, transaction_id)
        running = self._in_flight.get(key)
        if running is not None:
            return await asyncio.shield(running)
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._in_flight[key] = future
        try:
            answer = await self._answer(origin, transaction_id, pdus)
            future.set_result(answer)
            return answer
        except BaseException as error:
            future.set_exception(
                error if isinstance(error, Exception) else RuntimeError("The transaction was cut off")
            )
            future.exception()
            raise
        finally:
            del self._in_flight[key]

    async def _answer(self, origin: str, transaction_id: str, pdus: Sequence[object]) -> bytes:
        known = await self._database.look_up(lambda tx: queues.received_answer(tx, origin, transaction_id))
        return known if known is not None else await self._take_in(origin, transaction_id, pdus)

    async def _take_in(self, origin: str, transaction_id: str, pdus: Sequence[object]) -> bytes:
        values = self._by_room(origin, pdus)
        await self._arrivals.wait(set(values))
        results: Results = {}
        by_room = await self._check(origin, values, results)
        async with AsyncExitStack() as locks:
            rooms = await self._lock(locks, by_room)
            batches: list[Batch] = []
            staged: list[Staged] = []
            try:
                await self._database.read(
                    lambda tx: self._decide(tx, origin, rooms, by_room, batches, staged, results)
                )
            except BaseException:
                for batch in reversed(batches):
                    batch.undo()
                raise
            answer = orjson.dumps({"pdus": results})
            now = self._clock.now_ms()

            def also(tx: WriteTx) -> None:
                queues.stage(tx, staged)
                queues.put_received(tx, origin, transaction_id, now, answer)

            future = self._commits.submit(batches, also)
        waiting = {item.room_num for item in staged}
        lacking = [room.room_id for room in rooms if room.number in waiting]

        def see_to_staged(done: asyncio.Future[int]) -> None:
            # Whoever sent the transaction may have gone; what waits is still to be seen to.
            for room_id in lacking:
                self.on_staged(room_id)

        future.add_done_callback(see_to_staged)
        await asyncio.shield(future)
        return answer

    async def _lock(self, locks: AsyncExitStack, by_room: dict[str, list[Event]]) -> list[Room]:
        """The heads of the rooms, locked, in the order of their ids, so that nobody waits in a ring."""
        rooms = []
        for room_id in sorted(by_room):
            while True:
                room = await self._rooms.get(room_id)
                if room is None:
                    break
                await locks.enter_async_context(room.lock)
                if not room.stale:
                    rooms.append(room)
                    break
                await self._rooms.settled(room)
        return rooms

    # -- checks that need no room

    @staticmethod
    def _by_room(origin: str, pdus: Sequence[object]) -> dict[str, list[object]]:
        values: dict[str, list[object]] = {}
        for value in pdus:
            room_id = value.get("room_id") if isinstance(value, dict) else None
            if isinstance(room_id, str):
                values.setdefault(room_id, []).append(value)
            else:
                _log.info("a PDU from %s without room_id was dropped", origin)
        return values

    async def _check(
        self, origin: str, values: dict[str, list[object]], results: Results
    ) -> dict[str, list[Event]]:
        """Checks 1 to 3 of every PDU; the valid events by room. What fails gets its result."""
        by_room: dict[str, list[Event]] = {}
        for room_id, of_room in values.items():
            room = await self._rooms.get(room_id)
            if room is None or not room.resident:
                await self._strangers.receive(origin, room_id, of_room, results)
                continue
            if not await self.may_take_part(room, origin):
                self._refuse(room, of_room, results, "The room's server ACL does not allow your server")
                continue
            checked = await self._fetcher.check(room.version, of_room, room_id)
            for value in of_room:
                event_id = self._id_of(room, value)
                if event_id is not None and event_id not in checked:
                    results[event_id] = {"error": "The event is malformed or not validly signed"}
            welcome = [
                event for event in checked.values() if await self._sender_may_take_part(room, event, results)
            ]
            by_room[room_id] = await self._policies.recommended(room, welcome)
        return by_room

    @staticmethod
    def _id_of(room: Room, value: object) -> str | None:
        try:
            return event_id_of(room.version, value) if isinstance(value, dict) else None
        except (EventFormatError, ValueError, TypeError, RecursionError):
            return None

    def _refuse(self, room: Room, values: Sequence[object], results: Results, text: str) -> None:
        for value in values:
            event_id = self._id_of(room, value)
            if event_id is not None:
                results[event_id] = {"error": text}

    async def has_answered(self, origin: str, transaction_id: str) -> bool:
        """Whether a transaction was answered before, and is on disk."""
        known = await self._database.look_up(lambda tx: queues.received_answer(tx, origin, transaction_id))
        return known is not None

    async def admits(self, room_id: str, server: str) -> bool:
        """Whether a server may take part in a room that is known here."""
        room = await self._rooms.get(room_id)
        return room is not None and await self.may_take_part(room, server)

    async def may_take_part(self, room: Room, server: str) -> bool:
        """server-server §Server ACLs, in the room's current state."""
        acl = await self._database.read(lambda tx: self._merger.current(tx, room)(("m.room.server_acl", "")))
        return is_allowed(acl.content if acl is not None else None, server)

    async def _sender_may_take_part(self, room: Room, event: Event, results: Results) -> bool:
        if await self.may_take_part(room, event.sender.partition(":")[2]):
            return True
        results[event.event_id] = {"error": "The room's server ACL does not allow the sender's server"}
        return False

    # -- deciding

    def _decide(
        self,
        tx: Tx,
        origin: str,
        rooms: Sequence[Room],
        by_room: dict[str, list[Event]],
        batches: list[Batch],
        staged: list[Staged],
        results: Results,
    ) -> None:
        for room in rooms:
            batch = Batch(self._rooms, self._merger, room)
            batches.append(batch)
            decided = []
            events = sorted(by_room[room.room_id], key=lambda event: event.depth)
            numbers = self._rooms.events.numbers(tx, [event.event_id for event in events])
            for event in events:
                number = numbers.get(event.event_id)
                held = self._rooms.events.get(tx, number) if number is not None else None
                if held is not None and held.state_before is not None:
                    results[event.event_id] = {}
                    continue
                result = self.decide_one(tx, batch, event, is_new=held is None)
                if isinstance(result, Missing):
                    self._stage(tx, origin, room, event, staged, results)
                else:
                    decided.append(result[0])
                    results[event.event_id] = result[1]
            batch.apply_awaited(tx, decided)

    def decide_one(
        self, tx: Tx, batch: Batch, event: Event, *, is_new: bool = False
    ) -> tuple[Decided, dict[str, Any]] | Missing:
        """Judge one event and add it; its result for the sender, or what it lacks.

        With `is_new`, the event is known not to be held, not even for authorization.
        """
        judged = self._judge.judge(tx, batch, event)
        if isinstance(judged, Missing):
            return judged
        verdict = judged.verdict
        decided = batch.add(tx, event, verdict.outcome, judged.state_before, is_new=is_new)
        if verdict.outcome is Outcome.ACCEPT:
            return decided, {}
        _log.info(
            "event %s in %s: %s: %s (%s)",
            event.event_id,
            batch.room.room_id,
            verdict.outcome.value,
            verdict.reason,
            verdict.rule,
        )
        return decided, {"error": verdict.reason} if verdict.outcome is Outcome.REJECT else {}

    def _stage(
        self, tx: Tx, origin: str, room: Room, event: Event, staged: list[Staged], results: Results
    ) -> None:
        if queues.count_staged(tx, room.number) + len(staged) >= MAX_STAGED_PER_ROOM:
            results[event.event_id] = {"error": "Too many events of the room wait for missing ones"}
            return
        staged.append(Staged(event.event_id, room.number, origin, self._clock.now_ms(), event.encoded))
        results[event.event_id] = {}
