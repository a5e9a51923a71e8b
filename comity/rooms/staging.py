"""Staged events: find what they lack, then judge and store them.

One task per room that has any; it asks the server that sent the event first for the events
between (server-server §get_missing_events), then for the state where the past cannot be had.
Where that server does not help, others of the room are asked. An unmet need leaves the event
staged.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from comity.federation.calls import Calls
from comity.federation.errors import FederationError
from comity.ports import Clock
from comity.protocol import canonical_json
from comity.protocol.event import Event
from comity.protocol.identifiers import server_of
from comity.rooms.batch import Batch
from comity.rooms.decisions import Decisions
from comity.rooms.fetch import Fetcher
from comity.rooms.graft import Cutting, Grafter
from comity.rooms.intake import Intake
from comity.rooms.judge import Missing
from comity.rooms.neighbours import Neighbours
from comity.rooms.policy import Policies
from comity.rooms.room import Room, Rooms
from comity.store import queues
from comity.store.database import Database, StoreFailedError, Tx
from comity.store.queues import Staged

_log = logging.getLogger(__name__)
#: Rounds of get_missing_events for one event, and events in each.
MAX_ROUNDS = 10
MISSING_LIMIT = 20
#: Servers asked for what one event lacks, before it waits again.
MAX_SERVERS = 4
#: Staged events looked at in one go.
STAGED_AT_ONCE = 50
#: Seconds until a room whose events could not be completed is tried again: doubled each time.
FIRST_RETRY, LAST_RETRY = 5.0, 600.0
#: Rooms worked on at once.
MAX_BUSY_ROOMS = 16
#: Staged events are given up after this long.
MAX_STAGED_MS = 24 * 3600 * 1000


class Staging:
    """Works the staged events off."""

    def __init__(
        self,
        *,
        database: Database,
        rooms: Rooms,
        decisions: Decisions,
        intake: Intake,
        policies: Policies,
        grafter: Grafter,
        fetcher: Fetcher,
        calls: Calls,
        neighbours: Neighbours,
        clock: Clock,
    ) -> None:
        self._database = database
        self._rooms = rooms
        self._decisions = decisions
        self._intake = intake
        self._policies = policies
        self._grafter = grafter
        self._fetcher = fetcher
        self._calls = calls
        self._neighbours = neighbours
        self._clock = clock
        self._busy: dict[str, asyncio.Task[None]] = {}
        self._again: set[str] = set()
        #: Rooms whose worker pauses, and how to wake it.
        self._news: dict[str, asyncio.Event] = {}
        self._gate = asyncio.Semaphore(MAX_BUSY_ROOMS)
        #: Called when the graph of a room may have got a gap.
        self.on_gap: Callable[[], None] = lambda: None

    async def start(self) -> None:
        """Take up what an earlier run left."""
        for number in await self._database.read(queues.staged_rooms):
            room = await self._rooms.by_number(number)
            if room is not None:
                self.work(room.room_id)

    async def stop(self) -> None:
        """Leave the rest for the next run."""
        tasks = list(self._busy.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def work(self, room_id: str) -> None:
        """Something is staged in that room."""
        if room_id in self._busy:
            self._again.add(room_id)
            if room_id in self._news:
                self._news[room_id].set()
            return
        task = asyncio.get_running_loop().create_task(self._work(room_id))
        self._busy[room_id] = task
        task.add_done_callback(lambda _: self._busy.pop(room_id, None))

    async def _work(self, room_id: str) -> None:
        pause = FIRST_RETRY
        while True:
            self._again.discard(room_id)
            try:
                room = await self._rooms.get(room_id)
                if room is None:
                    return
                async with self._gate:
                    left = await self._work_once(room)
            except (FederationError, OSError) as error:
                _log.info("events in %s wait for what they lack: %s", room_id, error)
                left = True
            except StoreFailedError as error:
                # Also where the database does not answer: that is nobody's fault, and soon over.
                _log.info("events in %s wait for the database: %s", room_id, error)
                left, pause = True, FIRST_RETRY
            except Exception:  # noqa: BLE001 - one room's trouble must not end its worker
                _log.exception("staged events of %s could not be worked off", room_id)
                left = True
            if room_id in self._again:
                continue
            if not left:
                return
            await self._pause(room_id, pause)
            pause = min(pause * 2, LAST_RETRY)

    async def _pause(self, room_id: str, seconds: float) -> None:
        """Wait until it may go better, or until something new is staged."""
        news = self._news[room_id] = asyncio.Event()
        waits = [asyncio.ensure_future(self._clock.sleep(seconds)), asyncio.ensure_future(news.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            del self._news[room_id]
            for wait in waits:
                wait.cancel()

    async def _work_once(self, room: Room) -> bool:
        """Try every staged event of the room; whether some are left."""
        staged = await self._database.read(lambda tx: queues.staged(tx, room.number, STAGED_AT_ONCE))
        if not staged:
            return False
        failure: FederationError | None = None
        for item in staged:
            current = await self._rooms.get(room.room_id)
            if current is None:
                return False
            try:
                await self._complete(current, item)
            except FederationError as error:
                failure = error
                if self._clock.now_ms() - item.received_at > MAX_STAGED_MS:
                    _log.warning("event %s is given up: what it lacks cannot be had", item.event_id)
                    await self._database.write(lambda tx: queues.unstage(tx, [item.event_id]))  # noqa: B023
        if failure is not None:
            raise failure
        return await self._database.read(lambda tx: queues.count_staged(tx, room.number)) > 0

    async def _complete(self, room: Room, item: Staged) -> None:
        """Judge one staged event, fetching what it lacks. Raises FederationError."""
        event = Event(room.version, canonical_json.parse_object(item.encoded), event_id=item.event_id)
        if await self._try(room, item, event):
            return
        failure: FederationError | None = None
        for server in await self._servers(room, item, event):
            try:
                await self._complete_through(server, room, item, event)
                return
            except FederationError as error:
                _log.info("what event %s lacks is not to be had of %s: %s", item.event_id, server, error)
                failure = failure or error
        raise failure or FederationError(item.origin, "nobody is left in the room to be asked")

    async def _servers(self, room: Room, item: Staged, event: Event) -> list[str]:
        """Whom to ask: who sent the event, whoever wrote it, then others of the room."""
        if room.partial is not None:
            # What is lacking is mostly the state, which is being fetched already.
            return [item.origin]
        others = await self._neighbours.to_ask(room, [server_of(event.sender)], MAX_SERVERS)
        return list(dict.fromkeys([item.origin, *others]))[:MAX_SERVERS]

    async def _complete_through(self, server: str, room: Room, item: Staged, event: Event) -> None:
        events = await self._fetch_between(room, server, event)
        shown = await self._policies.recommended(room, list(events.values()))
        events = {each.event_id: each for each in shown}
        if len(events) > MISSING_LIMIT:
            _log.info("%d events of %s came from %s behind one", len(events) - 1, room.room_id, server)
        cutting = await self._grafter.prepare(server, room, events)
        await self._store(room, cutting, item)
        if cutting.states:
            self.on_gap()

    async def _try(self, room: Room, item: Staged, event: Event) -> bool:
        """Judge it with what is here by now; False if something is still missing."""

        def decide(tx: Tx, batch: Batch) -> bool:
            held = self._rooms.events.by_id(tx, event.event_id)
            if held is None or held.state_before is None:
                result = self._intake.decide_one(tx, batch, event)
                if isinstance(result, Missing):
                    return False
                batch.apply_awaited(tx, [result[0]])
            batch.unstaged.append(item.event_id)
            return True

        return bool(await self._decisions.make(lambda: self._rooms.get(room.room_id), decide))

    async def _store(self, room: Room, cutting: Cutting, item: Staged) -> None:
        def decide(tx: Tx, batch: Batch) -> bool:
            decided = self._grafter.decide(tx, batch, cutting)
            batch.apply_awaited(tx, decided)
            held = self._rooms.events.by_id(tx, item.event_id)
            if held is not None and held.state_before is not None:
                batch.unstaged.append(item.event_id)
            return True

        await self._decisions.make(lambda: self._rooms.get(room.room_id), decide)
        if await self._database.read(lambda tx: self._rooms.events.number(tx, item.event_id)) is None:
            raise FederationError(item.origin, f"event {item.event_id} could not be completed")

    async def _fetch_between(self, room: Room, origin: str, event: Event) -> dict[str, Event]:
        """The event and what lies between it and what we hold, as far as the origin tells."""
        events = {event.event_id: event}
        for _ in range(MAX_ROUNDS):
            latest = await self._database.read(lambda tx: self._open_ends(tx, room, events))  # noqa: B023
            if not latest:
                break
            try:
                values = await self._calls.get_missing_events(
                    origin,
                    room.room_id,
                    list(room.extremities)[:MISSING_LIMIT],
                    latest[:MISSING_LIMIT],
                    MISSING_LIMIT,
                    0,
                )
            except FederationError as error:
                if error.temporary:
                    raise
                break
            found = await self._fetcher.check(room.version, values, room.room_id)
            fresh = {event_id: value for event_id, value in found.items() if event_id not in events}
            if not fresh:
                break
            events |= fresh
        return events

    def _open_ends(self, tx: Tx, room: Room, events: dict[str, Event]) -> list[str]:
        """The events among these whose previous events are neither here nor among them."""
        ends = []
        for event in events.values():
            for prev in event.prev_event_ids:
                stored = self._rooms.events.by_id(tx, prev)
                if prev not in events and (stored is None or stored.state_after is None):
                    ends.append(event.event_id)
                    break
        return ends
