"""Events at rest: their bytes, their place in the timeline, their state, their auth chains.

Event numbers are given by the process that decides (`Numbers`), and an event's auth events
always have smaller numbers than itself, so that chains can be walked downwards and pruned.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import orjson

from comity.protocol.event import Event, StateKey
from comity.protocol.room_versions import RoomVersion
from comity.store import compression
from comity.store.cache import Bounded, Followed
from comity.store.database import Row, Tx
from comity.store.lists import parts

#: A live event's line is its position shifted by this; history found later goes between.
LINE_BITS = 24
#: Events kept in memory, parsed, per megabyte of budget: about 3.5 KiB each, as clients get them included.
EVENTS_PER_MEGABYTE = 280
#: Ids and auth edges kept in memory, for each event: about 200 bytes each.
IDS_PER_EVENT = 4
DEFAULT_MEGABYTES = 64

ACCEPTED, SOFT_FAILED, REJECTED = 0, 1, 2


def live_line(position: int) -> int:
    """The line of the event that was committed at `position`."""
    return position << LINE_BITS


def position_of(line: int) -> int:
    """The position whose live event is at, or next above, `line`."""
    return -(-line >> LINE_BITS)


def is_live(line: int) -> bool:
    """Whether an event at `line` came as it happened, not as history fetched later."""
    return line & ((1 << LINE_BITS) - 1) == 0


@dataclass(slots=True)
class StoredEvent:
    """An event and what the room made of it. Shared by all who read it: never change it.

    `body` and `replaced` alone are for readers: what they found out about the event, once for all.
    """

    number: int
    room_num: int
    event: Event
    #: None for an outlier.
    line: int | None
    verdict: int
    #: Names of state pages; None for an outlier (b"" is the empty state).
    state_before: bytes | None
    state_after: bytes | None
    redacted_by: int | None = None
    #: Whether others relate to it (`comity.store.relations`).
    related: bool = False
    #: The client format without its closing brace (`comity.rooms.read.format`), once it was asked for.
    body: bytes | None = field(default=None, init=False, repr=False, compare=False)

    #: The number of the state event that it replaced on its branch, 0 for none; None: not looked at yet.
    replaced: int | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def is_outlier(self) -> bool:
        """Held for authorization only: not part of the timeline, its state unknown."""
        return self.state_before is None


@dataclass(frozen=True, slots=True)
class NewEvent:
    """What is stored of a decided event. `line` is None for an outlier, 0 for "now"."""

    number: int
    event: Event
    verdict: int
    state_before: bytes | None
    state_after: bytes | None
    auth: tuple[int, ...]
    line: int | None = 0
    #: What `compression.pack` makes of the event's bytes, where somebody had it made already.
    packed: bytes | None = None


def pack_numbers(numbers: Sequence[int]) -> bytes:
    """A list of event numbers as bytes: 6 each, little-endian."""
    return b"".join(number.to_bytes(6, "little") for number in numbers)


def unpack_numbers(data: bytes | None) -> tuple[int, ...]:
    """The inverse of `pack_numbers`."""
    if not data:
        return ()
    return tuple(int.from_bytes(data[start : start + 6], "little") for start in range(0, len(data), 6))


def last_number(tx: Tx) -> int:
    """The greatest event number in use."""
    row = tx.one("SELECT max(event_num) FROM events")
    return int(row[0] or 0) if row else 0


def last_line(tx: Tx) -> int:
    """The greatest line in use in any room."""
    row = tx.one("SELECT max(line) FROM events")
    return int(row[0] or 0) if row else 0


_COLUMNS = (
    "event_num, event_id, room_num, line, verdict, state_before, state_after, redacted_by, related, json"
)


class Events:
    """Reads events and auth chains; its caches hold what was read and what was decided."""

    def __init__(self, megabytes: int = DEFAULT_MEGABYTES) -> None:
        """`megabytes` is the memory for its caches."""
        events = max(1, megabytes * EVENTS_PER_MEGABYTE)
        self._by_number: Followed[int, StoredEvent] = Followed(events)
        self._numbers: Bounded[str, int] = Bounded(events * IDS_PER_EVENT)
        self._edges: Bounded[int, tuple[int, ...]] = Bounded(events * IDS_PER_EVENT)
        #: Decided and not on disk yet: found whatever is evicted.
        self._pending: dict[int, StoredEvent] = {}
        self._pending_ids: dict[str, int] = {}
        self._pending_edges: dict[int, tuple[int, ...]] = {}
        self._pending_citations: dict[int, set[int]] = {}
        self._versions: dict[int, RoomVersion] = {}

    def know_room(self, room_num: int, version: RoomVersion) -> None:
        """Tell the version of a room, which reading its events needs."""
        self._versions[room_num] = version

    # -- decisions that are not on disk yet

    def hold(self, stored: StoredEvent, auth: tuple[int, ...]) -> None:
        """Make a decided event readable before it is stored."""
        self._pending[stored.number] = stored
        self._pending_ids[stored.event.event_id] = stored.number
        if stored.event.is_state:
            self._pending_edges[stored.number] = auth
            for cited in auth:
                self._pending_citations.setdefault(cited, set()).add(stored.number)

    def settle(self, number: int) -> None:
        """The event is on disk."""
        stored = self._pending.pop(number, None)
        if stored is not None:
            self._pending_ids.pop(stored.event.event_id, None)
            edges = self._release_edges(number)
            if edges is not None:
                self._edges.put(number, edges)
            self._by_number.put(number, stored)
            self._numbers.put(stored.event.event_id, number)

    def release(self, number: int) -> None:
        """The event was not stored: forget it."""
        stored = self._pending.pop(number, None)
        if stored is not None:
            self._pending_ids.pop(stored.event.event_id, None)
            self._release_edges(number)

    def _release_edges(self, number: int) -> tuple[int, ...] | None:
        edges = self._pending_edges.pop(number, None)
        for cited in edges or ():
            citing = self._pending_citations.get(cited)
            if citing is not None:
                citing.discard(number)
                if not citing:
                    del self._pending_citations[cited]
        return edges

    def redact(self, number: int, redacted: Event, by: int, commits: int) -> None:
        """A redaction of the event is on disk; `commits` is the database's."""
        for held in (self._pending, self._by_number):
            stored = held.get(number)
            if stored is not None:
                now = replace(stored, event=redacted, redacted_by=by)
                if held is self._pending:
                    self._pending[number] = now
                else:
                    self._by_number.put(number, now)
        self._by_number.note_change(commits)

    def relate(self, event_ids: Iterable[str], commits: int) -> None:
        """Others relate to these events, as is on disk; `commits` is the database's."""
        for event_id in event_ids:
            number = self._pending_ids.get(event_id) or self._numbers.get(event_id)
            for held in (self._pending, self._by_number):
                stored = None if number is None else held.get(number)
                if stored is None or number is None or stored.related:
                    continue
                if held is self._pending:
                    self._pending[number] = replace(stored, related=True)
                else:
                    self._by_number.put(number, replace(stored, related=True))
        self._by_number.note_change(commits)

    def note_change(self, commits: int) -> None:
        """A commit changed what is stored of an event: older reads are not kept."""
        self._by_number.note_change(commits)

    # -- reading

    def number(self, tx: Tx, event_id: str) -> int | None:
        """The number of an event that is held, or None."""
        number = self._pending_ids.get(event_id) or self._numbers.get(event_id)
        if number is None:
            row = tx.one("SELECT event_num FROM events WHERE event_id = ?", (event_id,))
            if row is None:
                return None
            number = int(row[0])
            self._numbers.put(event_id, number)
        return number

    def _from_row(self, tx: Tx, row: Row) -> StoredEvent:
        number, event_id, room_num, line, verdict, before, after, redacted_by, related, packed = row
        version = self._versions.get(room_num)
        if version is None:
            raise KeyError(f"The version of room {room_num} is not known")
        encoded = compression.unpack(bytes(packed))
        event = Event(version, orjson.loads(encoded), event_id=event_id, encoded=encoded)
        before = None if before is None else bytes(before)
        stored = StoredEvent(
            number,
            room_num,
            event,
            line,
            verdict,
            before,
            before if after is None else bytes(after),
            redacted_by,
            bool(related),
        )
        self._by_number.keep(number, stored, tx.as_of)
        self._numbers.put(event_id, number)
        return stored

    def get(self, tx: Tx, number: int) -> StoredEvent | None:
        """The event of that number."""
        stored = self._pending.get(number) or self._by_number.get(number)
        if stored is None:
            row = tx.one(f"SELECT {_COLUMNS} FROM events WHERE event_num = ?", (number,))
            stored = self._from_row(tx, row) if row else None
        return stored

    def by_id(self, tx: Tx, event_id: str) -> StoredEvent | None:
        """The event of that id."""
        number = self.number(tx, event_id)
        return None if number is None else self.get(tx, number)

    def load(self, tx: Tx, numbers: Iterable[int]) -> dict[int, StoredEvent]:
        """Many events by number, in the order asked for; those that do not exist are absent."""
        numbers = list(numbers)
        found: dict[int, StoredEvent] = {}
        missing: list[int] = []
        for number in numbers:
            stored = self._pending.get(number) or self._by_number.get(number)
            if stored is not None:
                found[number] = stored
            else:
                missing.append(number)
        for marks, chunk in parts(missing):
            for row in tx.all(f"SELECT {_COLUMNS} FROM events WHERE event_num IN ({marks})", chunk):
                stored = self._from_row(tx, row)
                found[stored.number] = stored
        # Engines give rows in orders of their own.
        return {number: found[number] for number in numbers if number in found} if missing else found

    def ids(self, tx: Tx, numbers: Iterable[int]) -> dict[int, str]:
        """number -> event id, without reading the events."""
        found: dict[int, str] = {}
        missing: list[int] = []
        for number in numbers:
            stored = self._pending.get(number) or self._by_number.get(number)
            if stored is not None:
                found[number] = stored.event.event_id
            else:
                missing.append(number)
        for marks, chunk in parts(missing):
            found.update(
                tx.all(f"SELECT event_num, event_id FROM events WHERE event_num IN ({marks})", chunk)
            )
        return found

    def numbers(self, tx: Tx, event_ids: Iterable[str]) -> dict[str, int]:
        """event id -> number of those that are held."""
        found: dict[str, int] = {}
        missing: list[str] = []
        for event_id in event_ids:
            number = self._pending_ids.get(event_id) or self._numbers.get(event_id)
            if number is not None:
                found[event_id] = number
            else:
                missing.append(event_id)
        for marks, chunk in parts(missing):
            rows = tx.all(f"SELECT event_id, event_num FROM events WHERE event_id IN ({marks})", chunk)
            for event_id, number in rows:
                found[event_id] = number
                self._numbers.put(event_id, number)
        return found

    # -- the timeline

    def timeline(
        self, tx: Tx, room_num: int, *, after: int, upto: int, limit: int, backwards: bool
    ) -> list[StoredEvent]:
        """Accepted events of a room with `after < line <= upto`, in the order asked for."""
        order = "DESC" if backwards else "ASC"
        # Their numbers alone: most are in memory, and need not be read again.
        rows = tx.all(
            "SELECT event_num FROM events WHERE room_num = ? AND line > ? AND line <= ? AND verdict = 0 "
            f"ORDER BY line {order} LIMIT ?",
            (room_num, after, upto, limit),
        )
        loaded = self.load(tx, [number for (number,) in rows])
        return [loaded[number] for (number,) in rows]

    def last_line(self, tx: Tx, room_num: int) -> int:
        """The line of the newest event in a room's timeline; 0 if there is none."""
        row = tx.one("SELECT max(line) FROM events WHERE room_num = ?", (room_num,))
        return int(row[0] or 0) if row else 0

    # -- auth chains

    def auth(self, tx: Tx, number: int) -> tuple[int, ...]:
        """The numbers of a state event's auth events."""
        edges = self._edges.get(number)
        if edges is None:
            edges = self._pending_edges.get(number)
        if edges is None:
            row = tx.one("SELECT auth FROM events WHERE event_num = ?", (number,))
            edges = unpack_numbers(row[0] if row else None)
            self._edges.put(number, edges)
        return edges

    def load_auth(self, tx: Tx, numbers: Iterable[int]) -> None:
        """Read what `auth` will be asked for, many at a time."""
        wanted = [n for n in numbers if n not in self._pending_edges and self._edges.get(n) is None]
        for marks, chunk in parts(wanted):
            for number, packed in tx.all(
                f"SELECT event_num, auth FROM events WHERE event_num IN ({marks})", chunk
            ):
                self._edges.put(number, unpack_numbers(packed))

    def auth_chain(self, tx: Tx, starts: Iterable[int], *, including: bool = False) -> set[int]:
        """The auth chain of a set of events: everything reachable by auth edges.

        With `including`, the starts themselves are in it.
        """
        starts = list(starts)
        seen: set[int] = set(starts) if including else set()
        frontier = set(starts)
        while frontier:
            if len(frontier) > 1:
                self.load_auth(tx, frontier)
            below: set[int] = set()
            for number in frontier:
                below.update(self.auth(tx, number))
            frontier = below - seen
            seen |= frontier
        return seen

    def pending_state(self, room_num: int, key: StateKey) -> list[StoredEvent]:
        """The events of one state key in a room that are not on disk yet."""
        event_type, state_key = key
        return [
            stored
            for stored in self._pending.values()
            if stored.event.type == event_type
            and stored.event.state_key == state_key
            and stored.room_num == room_num
        ]

    def pending_of(self, room_num: int, sender: str) -> list[StoredEvent]:
        """The events of one sender in a room that are not on disk yet."""
        return [
            stored
            for stored in self._pending.values()
            if stored.room_num == room_num and stored.event.sender == sender
        ]

    def pending_citations(self, number: int) -> list[StoredEvent]:
        """The state events that cite an event and are not on disk yet."""
        return [self._pending[citing] for citing in self._pending_citations.get(number, ())]


def insert(tx: Tx, room_num: int, new: Sequence[NewEvent], lines: Mapping[int, int | None]) -> None:
    """Store decided events; `lines` gives the line of each by number."""
    tx.many(
        "INSERT INTO events (event_num, event_id, room_num, line, type, state_key, sender, depth, "
        "origin_server_ts, verdict, state_before, state_after, auth, json) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (
                item.number,
                item.event.event_id,
                room_num,
                lines[item.number],
                item.event.type,
                item.event.state_key,
                item.event.sender,
                item.event.depth,
                item.event.origin_server_ts,
                item.verdict,
                item.state_before,
                None if item.state_after == item.state_before else item.state_after,
                pack_numbers(item.auth) if item.event.is_state else None,
                compression.pack(item.event.encoded) if item.packed is None else item.packed,
            )
            for item in new
        ],
    )
    tx.many(
        "INSERT INTO auth_citations (cited, citing) VALUES (?, ?)",
        [(cited, item.number) for item in new if item.event.is_state for cited in item.auth],
    )


def place(tx: Tx, number: int, *, line: int, verdict: int, state_before: bytes, state_after: bytes) -> None:
    """Give an outlier its place in the timeline, now that its state is known."""
    tx.run(
        "UPDATE events SET line = ?, verdict = ?, state_before = ?, state_after = ? WHERE event_num = ?",
        (line, verdict, state_before, None if state_after == state_before else state_after, number),
    )


def restate(tx: Tx, stored: Iterable[StoredEvent]) -> None:
    """Store the verdicts and states of events anew: more is known of what was before them."""
    tx.many(
        "UPDATE events SET verdict = ?, state_before = ?, state_after = ? WHERE event_num = ?",
        [
            (
                item.verdict,
                item.state_before,
                None if item.state_after == item.state_before else item.state_after,
                item.number,
            )
            for item in stored
        ],
    )


def elsewhere(tx: Tx, event_ids: Sequence[str], room_id: str) -> set[str]:
    """Those of the ids that are of events which are held in another room."""
    found: set[str] = set()
    for marks, chunk in parts(event_ids):
        rows = tx.all(
            "SELECT e.event_id FROM events e JOIN rooms r ON r.room_num = e.room_num "
            f"WHERE e.event_id IN ({marks}) AND r.room_id <> ?",
            (*chunk, room_id),
        )
        found.update(row[0] for row in rows)
    return found


def line_of(tx: Tx, number: int) -> int | None:
    """The line of an event; None for an outlier."""
    row = tx.one("SELECT line FROM events WHERE event_num = ?", (number,))
    return None if row is None else row[0]


def since_line(tx: Tx, room_num: int, line: int) -> list[int]:
    """The numbers of all events with a place from `line` on, whatever their verdict, in order."""
    rows = tx.all(
        "SELECT event_num FROM events WHERE room_num = ? AND line >= ? ORDER BY line", (room_num, line)
    )
    return [row[0] for row in rows]


def replace_with_redacted(tx: Tx, number: int, redacted: Event, redacted_by: int) -> None:
    """Overwrite an event's content with what redaction leaves of it."""
    tx.run(
        "UPDATE events SET json = ?, redacted_by = ? WHERE event_num = ?",
        (compression.pack(redacted.encoded), redacted_by, number),
    )
