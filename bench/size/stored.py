"""A room of the benchmark on disk, in comity's own tables, and the engine's parts over it.

Owns the bulk way in: the rows are those that the engine would have written, but many at once,
and without the states that the room went through while it grew.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.size.forks import Case
from bench.size.rooms import CREATOR, OURS, Branch
from comity.net.system import ThreadOffload
from comity.protocol.event import Event, StateKey
from comity.protocol.identifiers import server_of
from comity.protocol.room_versions import RoomVersion
from comity.rooms.merge import Merger
from comity.rooms.room import Room
from comity.store import events as stored_events
from comity.store import rooms as stored_rooms
from comity.store import state as stored_state
from comity.store.database import Tx
from comity.store.events import ACCEPTED, Events, NewEvent, live_line
from comity.store.migrations import migrate
from comity.store.sqlite import SqliteDriver
from comity.store.state import NewPages, States

ROOM = 1
#: Events that are inserted at once.
AT_ONCE = 5_000


@dataclass
class Stored:
    """A room that is on disk, with the names of its states and the numbers of its events."""

    driver: SqliteDriver
    path: Path
    version: RoomVersion
    room_id: str
    numbers: dict[str, int]
    slots: dict[StateKey, int]
    base: bytes
    #: case -> the names of its states
    roots: dict[str, list[bytes]]

    def engine(self) -> Engine:
        """The parts that resolve states, their caches empty."""
        states, events = States(), Events()
        events.know_room(ROOM, self.version)
        room = Room(ROOM, self.room_id, self.version, self.base, {}, resident=True, next_slot=len(self.slots))
        return Engine(states, events, Merger(states, events), room)


@dataclass
class Engine:
    """What resolves states, and the room's head."""

    states: States
    events: Events
    merger: Merger
    room: Room

    def merge(self, tx: Tx, roots: Sequence[bytes], pages: NewPages, slots: dict[StateKey, int]) -> bytes:
        """The name of the resolution of those states."""
        return self.merger.merge(tx, self.room, roots, pages, slots)

    def entries(self, tx: Tx, root: bytes) -> dict[StateKey, str]:
        """A whole state: event ids by key."""
        numbers = dict(self.states.items(tx, root))
        ids = self.events.ids(tx, numbers.values())
        return {self.states.key(tx, ROOM, slot): ids[number] for slot, number in numbers.items()}


@contextlib.contextmanager
def stored(directory: Path, room: Branch, cases: Sequence[Case]) -> Iterator[Stored]:
    """Write a room and the states of its forks into a new database."""
    path = directory / "comity.db"
    driver = SqliteDriver(path, ThreadOffload(1))
    migrate(driver)
    try:
        yield _write(driver, path, room, cases)
    finally:
        driver.close_now()
        for file in directory.glob("comity.db*"):
            file.unlink()


def _write(driver: SqliteDriver, path: Path, room: Branch, cases: Sequence[Case]) -> Stored:
    stored = driver.write_now(lambda tx: _fill(tx, driver, path, room, cases))
    checkpoint(path)
    return stored


def _fill(tx: Tx, driver: SqliteDriver, path: Path, room: Branch, cases: Sequence[Case]) -> Stored:
    graph = room.graph
    assert graph.room_id is not None and room.head is not None
    numbers = {event_id: number for number, event_id in enumerate(graph.events, start=1)}
    slots: dict[StateKey, int] = {}
    for event in graph.events.values():
        slots.setdefault(event.key, len(slots))
    states = States()
    pages: NewPages = {}
    entries = {slots[key]: numbers[event.event_id] for key, event in room.state.items()}
    base = states.replace(tx, b"", entries, pages)
    roots = {}
    for case in cases:
        roots[case.name] = [
            states.replace(tx, base, {slots[key]: numbers[event.event_id] for key, event in changed}, pages)
            for changed in (
                [(key, event) for key, event in state.items() if room.state.get(key) is not event]
                for state in case.states
            )
        ]
    stored_rooms.insert(tx, ROOM, graph.room_id, graph.version.identifier, CREATOR)
    stored_rooms.set_head(tx, ROOM, base, resident=True)
    stored_rooms.set_extremities(tx, ROOM, [numbers[room.head.event_id]])
    stored_state.insert_slots(tx, ROOM, slots)
    stored_state.insert_pages(tx, pages)
    _write_events(tx, list(graph.events.values()), numbers, base)
    _write_members(tx, room, numbers)
    tx.run("UPDATE log_position SET last = ? WHERE id = 1", (len(numbers),))
    return Stored(driver, path, graph.version, graph.room_id, numbers, slots, base, roots)


def auth_numbers(event: Event, numbers: dict[str, int]) -> tuple[int, ...]:
    """The numbers of an event's auth events, with the create event that room version 12 implies."""
    auth = {numbers[event_id] for event_id in event.auth_event_ids}
    if event.version.room_id_is_create_hash and event.type != "m.room.create":
        auth.add(numbers["$" + event.room_id[1:]])
    return tuple(sorted(auth))


def _write_events(tx: Tx, events: Sequence[Event], numbers: dict[str, int], state: bytes) -> None:
    for start in range(0, len(events), AT_ONCE):
        new = [
            NewEvent(number, event, ACCEPTED, state, state, auth_numbers(event, numbers))
            for number, event in ((numbers[e.event_id], e) for e in events[start : start + AT_ONCE])
        ]
        stored_events.insert(tx, ROOM, new, {item.number: live_line(item.number) for item in new})


def _write_members(tx: Tx, room: Branch, numbers: dict[str, int]) -> None:
    members = []
    for (event_type, target), event in room.state.items():
        if event_type == "m.room.member":
            number = numbers[event.event_id]
            members.append(stored_rooms.Member(target, event.membership or "leave", number, number))
            if server_of(target) == OURS:
                stored_rooms.add_local_membership(tx, target, ROOM, number, "join", number)
    stored_rooms.put_memberships(tx, ROOM, members)
    for server in sorted({server_of(member.user_id) for member in members}):
        stored_rooms.begin_stay(tx, server, ROOM, 1)


def checkpoint(path: Path) -> None:
    """Bring everything that is in the log into the database's file."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    assert not busy, "somebody holds the database"
