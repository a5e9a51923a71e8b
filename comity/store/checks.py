"""The store's own invariants, each a question to a whole database: what is wrong is told in a sentence.

Reads everything and changes nothing. What holds here is what the other modules promise each other:
a graph ends where the room's head says, pages are named by their content, memberships are those
of the state, and nothing points at what is not there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from comity.protocol.event import Event
from comity.store.auth_chains import FILL_AT_ONCE
from comity.store.database import Row, Tx
from comity.store.events import ACCEPTED, REJECTED, Events, position_of, unpack_numbers
from comity.store.resolutions import unpack_names
from comity.store.state import EMPTY, States, children, name_of

#: Rows that are read at a time.
AT_ONCE = FILL_AT_ONCE
#: Sentences about one invariant; more of the same kind tell nothing new.
MAX_TOLD = 20
#: Told of work that is done, in rows.
Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Invariant:
    """Something that holds of every database."""

    name: str
    #: How many rows it looks at, and what breaks it.
    size: Callable[[Tx], int]
    breaches: Callable[[Tx, Progress], Iterator[str]]


def ask(invariant: Invariant, tx: Tx, progress: Progress) -> Iterator[str]:
    """What breaks an invariant; where so much is missing that it cannot be asked, that."""
    try:
        yield from invariant.breaches(tx, progress)
    except KeyError as error:
        yield f"it cannot be told any further: {error.args[0]}"


def _count(table: str) -> Callable[[Tx], int]:
    def count(tx: Tx) -> int:
        row = tx.one(f"SELECT count(*) FROM {table}")
        return int(row[0]) if row else 0

    return count


def _once(_: Tx) -> int:
    """For what is asked in one go."""
    return 1


def _rows(tx: Tx, progress: Progress, columns: str, table: str, key: str) -> Iterator[Row]:
    """Every row of a table in the order of a column that starts them, some at a time."""
    last: object = None
    while True:
        after = "" if last is None else f"WHERE {key} > ? "
        sql = f"SELECT {key}, {columns} FROM {table} {after}ORDER BY {key} LIMIT {AT_ONCE}"
        rows = tx.all(sql, () if last is None else (last,))
        if not rows:
            return
        yield from rows
        progress(len(rows))
        last = rows[-1][0]


def _pages(tx: Tx, progress: Progress) -> Iterator[str]:
    names: set[bytes] = set()
    wanted: dict[bytes, bytes] = {}
    for name, body in _rows(tx, progress, "body", "state_pages", "name"):
        name, body = bytes(name), bytes(body)
        names.add(name)
        if name_of(body) != name:
            yield f"the state page {name.hex()} has another content than its name says"
            continue
        wanted.update((child, name) for child in children(body))
    for child, parent in wanted.items():
        if child not in names:
            yield f"the state page {parent.hex()} needs {child.hex()}, which is missing"


def _page_names(tx: Tx) -> set[bytes]:
    return {bytes(row[0]) for row in tx.all("SELECT name FROM state_pages")} | {EMPTY}


def _states(tx: Tx, progress: Progress) -> Iterator[str]:
    names = _page_names(tx)

    def missing(what: str, *states: bytes | None) -> Iterator[str]:
        for state in states:
            if state is not None and bytes(state) not in names:
                yield f"{what} needs the state {bytes(state).hex()}, which is missing"

    for number, before, after in _rows(tx, progress, "state_before, state_after", "events", "event_num"):
        yield from missing(f"event {number}", before, after)
    for room, state in tx.all("SELECT room_num, state FROM rooms"):
        yield from missing(f"room {room}", state)
    for room, position, state in tx.all("SELECT room_num, position, state FROM room_heads"):
        yield from missing(f"room {room} at position {position}", state)
    for room, inputs, result in tx.all("SELECT room_num, inputs, result FROM state_resolutions"):
        yield from missing(f"a resolution in room {room}", *unpack_names(bytes(inputs)), result)


def _auth_edges(tx: Tx, progress: Progress) -> Iterator[str]:
    for number, auth in _rows(tx, progress, "auth", "events", "event_num"):
        cited = set(unpack_numbers(auth))
        stored = {row[0] for row in tx.all("SELECT cited FROM auth_citations WHERE citing = ?", (number,))}
        if cited != stored and (cited or stored):
            yield f"event {number} cites {sorted(cited)}, but its citations are {sorted(stored)}"
        if any(below >= number for below in cited):
            yield f"event {number} cites one that is not older"


def _orphans(tx: Tx, progress: Progress) -> Iterator[str]:
    for table, column in (
        ("forward_extremities", "event_num"), ("outbound", "event_num"), ("memberships", "event_num"),
        ("pending_redactions", "event_num"), ("auth_citations", "cited"), ("auth_citations", "citing"),
    ):  # fmt: skip
        rows = tx.all(
            f"SELECT DISTINCT t.{column} FROM {table} AS t LEFT JOIN events AS e ON e.event_num = t.{column} "
            f"WHERE e.event_num IS NULL LIMIT {MAX_TOLD}"
        )
        yield from (f"{table} names event {number}, which is missing" for (number,) in rows)
    for table in (
        "events",
        "memberships",
        "forward_extremities",
        "gaps",
        "room_heads",
        "state_slots",
        "outbound",
    ):
        rows = tx.all(
            f"SELECT DISTINCT t.room_num FROM {table} AS t LEFT JOIN rooms AS r ON r.room_num = t.room_num "
            "WHERE r.room_num IS NULL"
        )
        yield from (f"{table} has rows of room {number}, which is missing" for (number,) in rows)
    progress(1)


def _positions(tx: Tx, progress: Progress) -> Iterator[str]:
    row = tx.one("SELECT last FROM log_position WHERE id = 1")
    last = int(row[0]) if row else -1
    line = tx.one("SELECT max(line) FROM events")
    if line and line[0] is not None and position_of(int(line[0])) > last:
        yield f"the log ends at position {last}, but there is an event at {position_of(int(line[0]))}"
    head = tx.one("SELECT max(position) FROM room_heads")
    if head and head[0] is not None and int(head[0]) > last:
        yield f"the log ends at position {last}, but a room's state changed at {head[0]}"
    progress(1)


class _Rooms:
    """What holds of every room that we are in."""

    def __init__(self, events: Events, states: States) -> None:
        self._events = events
        self._states = states

    def ends(self, tx: Tx, progress: Progress) -> Iterator[str]:
        """The forward extremities are ends of the graph of accepted events."""
        extremities: dict[int, set[int]] = {}
        for room, number in tx.all("SELECT room_num, event_num FROM forward_extremities"):
            extremities.setdefault(room, set()).add(number)
        for room in self._resident(tx):
            if not extremities.get(room):
                yield f"room {room} has no forward extremity"
        ends = {number for numbers in extremities.values() for number in numbers}
        known = {stored.event.event_id: number for number, stored in self._events.load(tx, ends).items()}
        for number in ends:
            stored = self._events.get(tx, number)
            if stored is not None and (stored.verdict != ACCEPTED or stored.is_outlier):
                yield f"event {number} is a forward extremity, but it was not accepted into the graph"
        for number, room, verdict, line in _rows(
            tx, progress, "room_num, verdict, line", "events", "event_num"
        ):
            if verdict != ACCEPTED or line is None or room not in extremities:
                continue
            stored = self._events.get(tx, number)
            for event_id in stored.event.prev_event_ids if stored is not None else ():
                if event_id in known and known[event_id] in extremities[room]:
                    yield f"event {known[event_id]} is a forward extremity, but event {number} follows it"

    def current(self, tx: Tx, progress: Progress) -> Iterator[str]:
        """The current state is made of accepted events at their own keys, and the members are its own."""
        for room in self._resident(tx):
            row = tx.one("SELECT state FROM rooms WHERE room_num = ?", (room,))
            state = bytes(row[0] or b"") if row else b""
            head = tx.one(
                "SELECT state FROM room_heads WHERE room_num = ? ORDER BY position DESC LIMIT 1", (room,)
            )
            if head is not None and bytes(head[0]) != state:
                yield f"the state of room {room} is another one than it last came to"
            entries = dict(self._states.items(tx, state))
            loaded = self._events.load(tx, entries.values())
            members: dict[str, tuple[str, int]] = {}
            for slot, number in entries.items():
                stored = loaded.get(number)
                if stored is None or stored.verdict == REJECTED or stored.room_num != room:
                    yield f"the state of room {room} has event {number}, which is none of its events"
                    continue
                yield from self._entry(tx, room, slot, stored.event)
                if stored.event.type == "m.room.member" and stored.event.state_key is not None:
                    members[stored.event.state_key] = stored.event.membership or "leave", number
            yield from self._members(tx, room, members)
            progress(1)

    def _entry(self, tx: Tx, room: int, slot: int, event: Event) -> Iterator[str]:
        if self._states.slot(tx, room, event.key) != slot:
            yield f"the state of room {room} has {event.key} at the place of another key"

    def _members(self, tx: Tx, room: int, members: dict[str, tuple[str, int]]) -> Iterator[str]:
        rows = tx.all("SELECT user_id, membership, event_num FROM memberships WHERE room_num = ?", (room,))
        stored = {user: (membership, number) for user, membership, number in rows}
        for user in members.keys() | stored.keys():
            if members.get(user) != stored.get(user):
                yield f"the membership of {user} in room {room} is not that of the room's state"

    def _resident(self, tx: Tx) -> Collection[int]:
        return [row[0] for row in tx.all("SELECT room_num FROM rooms WHERE resident = 1")]


def invariants(events: Events, states: States) -> tuple[Invariant, ...]:
    """Every invariant, in the order in which they are best asked. `events` knows all rooms."""
    rooms = _Rooms(events, states)
    residents = _count("rooms WHERE resident = 1")
    return (
        Invariant("the log ends where its newest entry is", _once, _positions),
        Invariant("nothing points at what is not there", _once, _orphans),
        Invariant("state pages are named by their content and complete", _count("state_pages"), _pages),
        Invariant("every state that something came to is there", _count("events"), _states),
        Invariant("auth edges lead down, and are known from both ends", _count("events"), _auth_edges),
        Invariant("forward extremities are the ends of the graph", _count("events"), rooms.ends),
        Invariant("current states are sound, and members those of the state", residents, rooms.current),
    )
