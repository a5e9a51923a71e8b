"""Fast joins, the second half: the state that a join left out is fetched and put under what came since.

One task per room that was joined before its members were known (server-server §Joining Rooms,
`omit_members`). What was decided meanwhile stood on a state without most members; once the state is whole
every such event gets its true state, and is judged again on that. The row in `partial_rooms` is the
queue: after a crash the work begins anew, with what was stored already.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from comity.bus import Bus
from comity.federation.calls import Calls
from comity.federation.errors import FederationError
from comity.ports import Clock
from comity.protocol.auth.rules import authorize
from comity.protocol.errors import MatrixError
from comity.protocol.event import StateKey
from comity.protocol.identifiers import server_of
from comity.rooms.batch import Batch
from comity.rooms.decisions import Decisions
from comity.rooms.mass import Mass, Taken
from comity.rooms.merge import Merger
from comity.rooms.room import Extremity, Room, Rooms
from comity.store import events as stored_events
from comity.store import heads, queues
from comity.store import partial as stored_partial
from comity.store import rooms as stored_rooms
from comity.store.database import Database, StoreFailedError, Tx, WriteTx
from comity.store.events import REJECTED, StoredEvent
from comity.store.partial import Partial
from comity.store.rooms import Member

_log = logging.getLogger(__name__)
#: Rooms completed at once: each holds an answer of up to hundreds of megabytes.
MAX_AT_ONCE = 2
#: Servers that are asked in one round, after the one that let us in.
MAX_SERVERS = 5
#: Seconds between two rounds: doubled each time.
FIRST_PAUSE, LAST_PAUSE = 2.0, 600.0
#: Seconds for which a request that needs all members is kept waiting.
PATIENCE_SECONDS = 60.0


class Completer:
    """Completes rooms, and lets others wait for that."""

    def __init__(
        self,
        *,
        database: Database,
        rooms: Rooms,
        merger: Merger,
        decisions: Decisions,
        mass: Mass,
        calls: Calls,
        bus: Bus,
        clock: Clock,
        server_name: str,
    ) -> None:
        self._database = database
        self._rooms = rooms
        self._merger = merger
        self._decisions = decisions
        self._mass = mass
        self._calls = calls
        self._bus = bus
        self._clock = clock
        self._server_name = server_name
        #: Called with a room's id when its state is whole and on disk.
        self.on_complete: Callable[[str], None] = lambda _: None
        self._running: dict[str, asyncio.Task[None]] = {}
        self._places = asyncio.Semaphore(MAX_AT_ONCE)

    async def start(self) -> None:
        """Take up what an earlier run left."""
        for partial in await self._database.read(stored_partial.every):
            room = await self._rooms.by_number(partial.room_num)
            if room is not None:
                self.begin(room.room_id)

    async def stop(self) -> None:
        """End the tasks; what they have not finished is taken up at the next start."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def begin(self, room_id: str) -> None:
        """The room has been joined without all of its state: see to the rest."""
        if room_id not in self._running:
            task = asyncio.get_running_loop().create_task(self._complete(room_id))
            self._running[room_id] = task
            task.add_done_callback(lambda _: self._running.pop(room_id, None))

    async def whole(self, room_id: str) -> None:
        """Wait until the room's state is whole, as it is in most. Raises 503 M_UNKNOWN if that takes long."""
        task = self._running.get(room_id)
        if task is None:
            return
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await asyncio.shield(task)
        except TimeoutError:
            raise MatrixError(
                503, "M_UNKNOWN", "The room was joined just now and its members are still being fetched"
            ) from None

    # -- fetching

    async def _complete(self, room_id: str) -> None:
        pause = FIRST_PAUSE
        while True:
            try:
                async with self._places:
                    if await self._complete_now(room_id):
                        return
            except asyncio.CancelledError:
                raise
            except StoreFailedError as error:
                _log.warning("the state of %s was not stored: %s", room_id, error)
            except Exception:  # noqa: BLE001 - one room's fault must not end the others
                _log.exception("the state of %s could not be completed", room_id)
            _log.info("the state of %s is tried again in %d s", room_id, pause)
            await self._clock.sleep(pause)
            pause = min(pause * 2, LAST_PAUSE)

    async def _complete_now(self, room_id: str) -> bool:
        """One round through the servers; whether nothing is left to do."""
        room = await self._rooms.get(room_id)
        if room is None or room.partial is None:
            return True
        if not room.resident:
            number = room.number
            await self._database.write(lambda tx: stored_partial.delete(tx, number))
            return True
        partial = room.partial
        join_id = (await self._database.read(lambda tx: self._rooms.events.ids(tx, [partial.join_num])))[
            partial.join_num
        ]
        others = sorted((room.servers | partial.servers) - {partial.server, self._server_name})
        # Their keys will be needed for the state: they come while it is written and read.
        keys = asyncio.create_task(self._mass.foresee(sorted(partial.servers)))
        try:
            return await self._complete_from(
                room, partial, join_id, [partial.server, *others[:MAX_SERVERS]], keys
            )
        finally:
            keys.cancel()
            await asyncio.gather(keys, return_exceptions=True)

    async def _complete_from(
        self, room: Room, partial: Partial, join_id: str, servers: Sequence[str], keys: asyncio.Task[None]
    ) -> bool:
        """Complete the room from the first of the servers that gives a state; whether one did."""
        room_id = room.room_id
        for server in servers:
            try:
                began = self._clock.monotonic()
                state, chain = await self._calls.raw_state(server, room_id, join_id)
                await keys
                taken = await self._mass.take_in(
                    lambda: self._rooms.get(room_id), room.version, room_id, state, chain
                )
                del state, chain
                await self._store(room_id, partial, taken, server)
                _log.info(
                    "the state of %s is whole: %d entries from %s, %d events were rejected, %.1f s",
                    room_id, len(taken.state), server, taken.rejected, self._clock.monotonic() - began,
                )  # fmt: skip
                return True
            except FederationError as error:
                _log.info("no state of %s from %s: %s", room_id, server, error)
        return False

    # -- putting it under what came since

    async def _store(self, room_id: str, partial: Partial, taken: Taken, server: str) -> None:
        entries: dict[StateKey, int] = {}
        for event_id in taken.state:
            number, key = taken.numbers.get(event_id), taken.keys.get(event_id)
            if number is None or key is None:
                continue
            if key in entries:
                raise FederationError(server, f"the state has two events for {key}")
            entries[key] = number
        if ("m.room.create", "") not in entries:
            raise FederationError(server, "the state has no create event")
        await self._decisions.make(
            lambda: self._rooms.get(room_id),
            lambda tx, batch: self._decide(tx, batch, partial, entries, taken.memberships, server),
        )

    def _decide(
        self,
        tx: Tx,
        batch: Batch,
        partial: Partial,
        entries: Mapping[StateKey, int],
        memberships: Mapping[int, str],
        server: str,
    ) -> None:
        room = batch.room
        if room.partial is None or room.partial.join_num != partial.join_num:
            return  # left, or joined anew, meanwhile
        create = batch.standing(tx, ("m.room.create", ""))
        if create is None or self._rooms.events.number(tx, create.event_id) != entries["m.room.create", ""]:
            raise FederationError(server, "the state has another create event than the join")
        whole = batch.with_entries(tx, b"", entries)
        join = self._rooms.events.get(tx, partial.join_num)
        assert join is not None and join.line is not None
        before = room.state
        after = self._restate(tx, batch, join, whole)
        for event_id, extremity in room.extremities.items():
            if event_id in after:
                room.extremities[event_id] = Extremity(extremity.number, extremity.reference, after[event_id])
        room.state = batch.merge(tx, [extremity.state_after for extremity in room.extremities.values()])
        room.partial, room.has_audience = None, None
        members = self._members(tx, room, memberships)
        state, changed = room.state, room.state != before
        batch.concerns_guests = changed
        batch.also.append(lambda end: self._write(end, room, state, members, changed=changed))

    def _restate(self, tx: Tx, batch: Batch, join: StoredEvent, whole: bytes) -> dict[str, bytes]:
        """Give the join and all that came since their true states; event id -> the state after it."""
        room, events = batch.room, self._rooms.events
        after: dict[str, bytes] = {}
        for number in stored_events.since_line(tx, room.number, join.line or 0):
            stored = events.get(tx, number)
            if stored is None:
                continue
            root = whole if number == join.number else self._true_state(tx, batch, stored, after)
            if root is None:
                continue
            event, verdict = stored.event, stored.verdict
            if verdict != REJECTED and number != join.number:
                denied = authorize(event, self._merger.lookup(tx, room, root))
                if denied is not None:
                    _log.warning(
                        "event %s is rejected now that the state of %s is whole: %s (%s)",
                        event.event_id, room.room_id, denied.reason, denied.rule,
                    )  # fmt: skip
                    verdict = REJECTED
            counts = event.is_state and verdict != REJECTED
            after[event.event_id] = batch.with_event(tx, root, event, number) if counts else root
            batch.restate(
                tx,
                replace(stored, verdict=verdict, state_before=root, state_after=after[event.event_id]),
            )
        return after

    def _true_state(
        self, tx: Tx, batch: Batch, stored: StoredEvent, after: Mapping[str, bytes]
    ) -> bytes | None:
        """The state before an event, from those after its previous events; None if it stands elsewhere."""
        roots: list[bytes] = []
        touched = False
        for event_id in stored.event.prev_event_ids:
            if event_id in after:
                roots.append(after[event_id])
                touched = True
                continue
            held = self._rooms.events.by_id(tx, event_id)
            if held is not None and held.state_after is not None:
                roots.append(held.state_after)
        return batch.merge(tx, roots) if touched else None

    def _members(self, tx: Tx, room: Room, known: Mapping[int, str]) -> list[tuple[str, str, int]]:
        """(user id, membership, event number) of the whole state; `known` tells many without reading."""
        states, found = self._rooms.states, list[tuple[str, str, int]]()
        for slot, number in states.items(tx, room.state):
            event_type, user_id = states.key(tx, room.number, slot)
            if event_type != "m.room.member":
                continue
            membership = known.get(number)
            if membership is None:
                stored = self._rooms.events.get(tx, number)
                membership = stored.event.membership if stored is not None else None
            if membership is not None:
                found.append((user_id, membership, number))
        return found

    def _write(
        self,
        tx: WriteTx,
        room: Room,
        state: bytes,
        members: Sequence[tuple[str, str, int]],
        *,
        changed: bool,
    ) -> None:
        number = room.number
        position = tx.next_position()
        stored_partial.complete(tx, number, position)
        if changed:
            heads.record(tx, number, position, state)
        known = {member.user_id: member for member in stored_rooms.members(tx, number)}
        fresh = [
            Member(user_id, membership, event_num, position)
            for user_id, membership, event_num in members
            if user_id not in known or known[user_id].event_num != event_num
        ]
        stored_rooms.put_memberships(tx, number, fresh)
        stored_rooms.delete_memberships(tx, number, known.keys() - {user_id for user_id, _, _ in members})
        joined = {server_of(user_id) for user_id, membership, _ in members if membership == "join"}
        staying = stored_rooms.servers(tx, number)
        for server in sorted(joined - staying - {self._server_name}):
            stored_rooms.begin_stay(tx, server, number, position)
            queues.ensure_destination(tx, server, position - 1)
        for server in sorted(staying - joined):
            stored_rooms.end_stay(tx, server, number, position)
        servers = frozenset(joined - {self._server_name})
        tx.at_end(
            ("head", number), lambda end: stored_rooms.set_head(end, number, state, resident=room.resident)
        )

        def tell() -> None:
            room.servers = servers
            self._bus.publish(position, [room.room_id])
            self.on_complete(room.room_id)

        tx.after_commit(tell)
