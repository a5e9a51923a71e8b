"""Backfill: history that is missing, fetched when a client pages there, or by `comity.rooms.gaps`.

server-server §Backfilling. Asks the room's servers in turn, joins what they send below the
event before which it was missing, and moves or closes the gap.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from comity.federation.calls import Calls
from comity.federation.errors import FederationError
from comity.protocol.errors import MatrixError
from comity.protocol.event import Event
from comity.protocol.identifiers import server_of
from comity.rooms.batch import Batch
from comity.rooms.decisions import Decisions
from comity.rooms.fetch import Fetcher
from comity.rooms.graft import Cutting, Grafter
from comity.rooms.neighbours import Neighbours
from comity.rooms.room import Room, Rooms
from comity.store import rooms as stored_rooms
from comity.store.database import Database, Tx
from comity.store.rooms import Gap

_log = logging.getLogger(__name__)
#: Events asked for at once.
LEAST_EVENTS, MOST_EVENTS = 20, 100
#: Servers that are asked before we give up for now.
MAX_SERVERS = 5
#: Seconds that one page of history may keep a client waiting.
PATIENCE_SECONDS = 30.0


class Backfill:
    """Fills gaps."""

    def __init__(
        self,
        *,
        database: Database,
        rooms: Rooms,
        decisions: Decisions,
        grafter: Grafter,
        fetcher: Fetcher,
        calls: Calls,
        whole: Callable[[str], Awaitable[None]],
        neighbours: Neighbours,
    ) -> None:
        """`whole` waits until a room that was joined just now has all of its state."""
        self._whole = whole
        self._database = database
        self._rooms = rooms
        self._decisions = decisions
        self._grafter = grafter
        self._fetcher = fetcher
        self._calls = calls
        self._neighbours = neighbours
        #: Called with a room's id when history of it is on disk, however long that took.
        self.on_history: Callable[[str], None] = lambda _: None
        #: What is under way in each room: at which line, and the task.
        self._running: dict[str, tuple[int, asyncio.Task[bool]]] = {}

    async def fill(self, room_id: str, line: int, limit: int) -> bool:
        """Fetch history into the newest gap at or below `line`; False if nothing came.

        Requests for one place are answered together, those for one room one by one; all wait a
        bounded time.
        """
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while True:
                    running = self._running.get(room_id)
                    if running is None:
                        return await asyncio.shield(self._begin(room_id, line, limit))
                    if running[0] == line:
                        return await asyncio.shield(running[1])
                    # What it comes to is told to those who asked for it.
                    await asyncio.wait([running[1]])
        except TimeoutError:
            return False
        except MatrixError as error:
            _log.info("no history of %s yet: %s", room_id, error)
            return False

    def _begin(self, room_id: str, line: int, limit: int) -> asyncio.Task[bool]:
        task = asyncio.get_running_loop().create_task(self._fill(room_id, line, limit))
        self._running[room_id] = (line, task)
        task.add_done_callback(lambda _: self._running.pop(room_id, None))
        return task

    async def _fill(self, room_id: str, line: int, limit: int) -> bool:
        room = await self._rooms.get(room_id)
        if room is None or not room.resident:
            return False
        # What was before a join cannot be placed before the state at the join is known.
        await self._whole(room_id)
        gaps = await self._database.read(lambda tx: stored_rooms.gaps(tx, room.number, after=0, upto=line))
        if not gaps:
            return False
        gap = gaps[0]
        for server in await self._servers(room, gap):
            try:
                if await self._fill_from(server, room, gap, min(max(limit, LEAST_EVENTS), MOST_EVENTS)):
                    return True
            except FederationError as error:
                _log.info("no history of %s from %s: %s", room_id, server, error)
        return False

    async def _servers(self, room: Room, gap: Gap) -> list[str]:
        """Whom to ask: first the server that told us of what is missing."""

        def above(tx: Tx) -> list[str]:
            first = self._rooms.events.timeline(
                tx, room.number, after=gap.line - 1, upto=gap.line, limit=1, backwards=True
            )
            return [server_of(stored.event.sender) for stored in first]

        return await self._neighbours.to_ask(room, await self._database.read(above), MAX_SERVERS)

    async def _fill_from(self, server: str, room: Room, gap: Gap, limit: int) -> bool:
        values = await self._calls.backfill(server, room.room_id, list(gap.missing), limit)
        found = await self._fetcher.check(room.version, values, room.room_id)
        fresh = await self._database.read(lambda tx: self._fresh(tx, found, gap))
        if not fresh and not await self._closed(gap):
            return False
        cutting = await self._grafter.prepare(server, room, fresh)
        added = await self._decisions.make(
            lambda: self._rooms.get(room.room_id), lambda tx, batch: self._decide(tx, batch, gap, cutting)
        )
        return bool(added)

    def _fresh(self, tx: Tx, found: dict[str, Event], gap: Gap) -> dict[str, Event]:
        """Those of the events that belong into the gap: what lies behind an event that is held has
        its place below that one, where another gap is."""
        fresh: dict[str, Event] = {}
        pending = list(gap.missing)
        while pending:
            event_id = pending.pop()
            event = found.get(event_id)
            if event is None or event_id in fresh:
                continue
            stored = self._rooms.events.by_id(tx, event_id)
            if stored is None or stored.state_before is None:
                fresh[event_id] = event
                pending.extend(event.prev_event_ids)
        return fresh

    async def _closed(self, gap: Gap) -> bool:
        """Whether all that was missing is held by now."""

        def held(tx: Tx) -> bool:
            stored = [self._rooms.events.by_id(tx, event_id) for event_id in gap.missing]
            return all(item is not None and item.state_before is not None for item in stored)

        return await self._database.read(held)

    def _decide(self, tx: Tx, batch: Batch, gap: Gap, cutting: Cutting) -> bool:
        count = len(cutting.events)
        first = gap.next_line - count
        lines = {event.event_id: first + index for index, event in enumerate(cutting.events)}
        decided = self._grafter.decide(tx, batch, cutting, lines=lines)
        missing: dict[str, None] = {}
        for item in decided:
            missing.update(dict.fromkeys(item.gap))
            item.gap = ()
        for event_id in gap.missing:
            stored = self._rooms.events.by_id(tx, event_id)
            if stored is None or stored.state_before is None:
                missing[event_id] = None
        number = batch.room.number
        room_id = batch.room.room_id
        batch.also.append(lambda tx: tx.after_commit(lambda: self.on_history(room_id)))
        batch.room.missing.update(missing)
        if missing:
            moved = Gap(
                first if decided else gap.line,
                first if decided else gap.next_line,
                tuple(missing),
                gap.rounds,
            )
            batch.also.append(lambda tx: stored_rooms.put_gap(tx, number, moved))
            if moved.line != gap.line:
                batch.also.append(lambda tx: stored_rooms.close_gap(tx, number, gap.line))
        else:
            batch.also.append(lambda tx: stored_rooms.close_gap(tx, number, gap.line))
        batch.apply_awaited(tx, decided)
        return bool(decided) or not missing
