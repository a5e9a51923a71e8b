"""A room's head in memory: where its graph ends, its current state, who waits to write.

Owns the registry of rooms and the numbers that decisions give out. A head is changed only
under the room's lock, by the code that decides (`comity.rooms.batch`); what is decided is on
disk a little later, and a head whose write failed is stale and loaded anew.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from comity.protocol.build import Reference, reference_to
from comity.protocol.event import Event, StateKey
from comity.protocol.room_versions import RoomVersion, room_version
from comity.store import events as stored_events
from comity.store import partial as stored_partial
from comity.store import rooms as stored_rooms
from comity.store.database import Database, Tx
from comity.store.events import Events
from comity.store.partial import Partial
from comity.store.state import States, next_slot

#: Rooms whose heads are in memory: a few kilobytes each.
MAX_ROOMS_IN_MEMORY = 20_000


@dataclass(slots=True)
class Extremity:
    """An event at the end of the graph."""

    number: int
    reference: Reference
    #: The name of the state after it.
    state_after: bytes


@dataclass(slots=True)
class Room:
    """One room's head. Hold `lock` to decide anything about it."""

    number: int
    room_id: str
    version: RoomVersion
    #: The name of the state at the head, which who decides about the room moves on at once.
    state: bytes
    #: event id -> extremity
    extremities: dict[str, Extremity]
    #: Whether a user of ours is joined, so that we know the room's present.
    resident: bool
    next_slot: int
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    #: A decision of this head was not stored: it is not true any more.
    stale: bool = False
    #: Decisions that are queued for the disk: until they are there, this head alone knows of them.
    unsettled: int = 0
    #: The newest decision's way to the disk; what stands on it is no sooner there.
    last_write: asyncio.Future[int] | None = None
    #: Entries of the state of that name that were looked up lately (`Merger.lookup`).
    recent: tuple[bytes, dict[StateKey, Event | None]] | None = None
    #: `Database.commits` when one of those events was last redacted; what an older read shows is not kept.
    recent_since: int = 0
    #: Ids of events that the room's gaps point to; some may have come meanwhile.
    missing: set[str] = field(default_factory=set)
    #: Whether other servers are owed what happens here, as of the last write; None: not looked up.
    has_audience: bool | None = None
    #: Servers with joined users, as of the last commit.
    servers: frozenset[str] = frozenset()
    #: Members are missing from the state (a fast join); None once it is whole.
    partial: Partial | None = None
    #: The name of the state that the last decision left: for who does not hold the lock. What is being
    #: decided may come to nothing, and where reads pause (PostgreSQL) others look on meanwhile.
    decided_state: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.decided_state = self.state


class Numbers:
    """Gives event and room numbers, ahead of the disk. Gaps are harmless."""

    def __init__(self, last_event: int, last_room: int) -> None:
        self._event = last_event
        self._room = last_room

    def event(self) -> int:
        """The next event number."""
        self._event += 1
        return self._event

    def room(self) -> int:
        """The next room number."""
        self._room += 1
        return self._room


class Rooms:
    """The registry of heads."""

    def __init__(self, database: Database, states: States, events: Events, numbers: Numbers) -> None:
        self.database = database
        self.states = states
        self.events = events
        self.numbers = numbers
        self._by_id: dict[str, Room] = {}
        #: How often a head was dropped.
        self._drops = 0

    async def get(self, room_id: str) -> Room | None:
        """The head of a room that is held; None for an unknown room.

        It may be stale: whoever decides looks at that under the lock, and awaits `settled`. When
        this gives None, nobody can have registered the room before the caller's next await.
        """
        while True:
            held = self._by_id.get(room_id)
            if held is not None:
                return held
            drops = self._drops
            room = await self.database.read(lambda tx: self._load(tx, room_id))
            if room_id in self._by_id or self._drops != drops:
                # Somebody was faster; or what was read may be from before what a dropped head stored.
                continue
            if room is not None:
                self.put(room)
            return room

    async def by_number(self, room_num: int) -> Room | None:
        """The head of a room by its number."""
        row = await self.database.look_up(lambda tx: stored_rooms.by_number(tx, room_num))
        return await self.get(row.room_id) if row else None

    def peek(self, tx: Tx, room_id: str) -> Room | None:
        """A room's head to look at inside a read; nobody else gets to see it. None: unknown."""
        return self._by_id.get(room_id) or self._load(tx, room_id)

    def peek_number(self, tx: Tx, room_num: int) -> Room | None:
        """As `peek`, by the room's number."""
        row = stored_rooms.by_number(tx, room_num)
        return self.peek(tx, row.room_id) if row else None

    def put(self, room: Room) -> None:
        """Register a head."""
        self._by_id[room.room_id] = room
        self.events.know_room(room.number, room.version)
        if len(self._by_id) > MAX_ROOMS_IN_MEMORY:
            self._evict()

    async def settled(self, room: Room) -> None:
        """Wait until every decision on a stale head is stored or given up; then it is loaded anew."""
        while room.last_write is not None:
            await asyncio.wait([room.last_write])
        self.drop(room)

    def drop(self, room: Room) -> None:
        """The head is not true: whoever wants the room loads it anew."""
        room.stale = True
        self._drops += 1
        if self._by_id.get(room.room_id) is room:
            del self._by_id[room.room_id]

    def _evict(self) -> None:
        """Let the longest-registered idle heads go; whoever still holds one finds it stale."""
        for room in list(self._by_id.values())[: MAX_ROOMS_IN_MEMORY // 10]:
            if not room.lock.locked() and not room.unsettled:
                self.drop(room)

    def _load(self, tx: Tx, room_id: str) -> Room | None:
        row = stored_rooms.by_id(tx, room_id)
        version = room_version(row.version) if row else None
        if row is None or version is None:
            return None
        self.events.know_room(row.room_num, version)
        extremities = {}
        for number in stored_rooms.extremities(tx, row.room_num):
            stored = self.events.get(tx, number)
            if stored is not None and stored.state_after is not None:
                extremities[stored.event.event_id] = Extremity(
                    number, reference_to(stored.event), stored.state_after
                )
        slot = next_slot(tx, row.room_num)
        room = Room(row.room_num, room_id, version, row.state, extremities, row.resident, slot)
        room.missing = stored_rooms.missing(tx, room.number)
        room.servers = frozenset(stored_rooms.servers(tx, room.number))
        room.partial = stored_partial.get(tx, room.number)
        return room


def know_all_rooms(tx: Tx, events: Events) -> None:
    """Tell `events` the version of every room, so that any event can be read."""
    for room_num, identifier in tx.all("SELECT room_num, version FROM rooms"):
        version = room_version(identifier)
        if version is not None:
            events.know_room(room_num, version)


def load_numbers(tx: Tx) -> Numbers:
    """Numbers that go on where the database ends."""
    return Numbers(stored_events.last_number(tx), stored_rooms.last_number(tx))
