"""States of forks, merged: from names of state vectors to the name of the resolved one.

Turns the paged vectors of the store into what `comity.protocol.state_resolution` asks for:
only the slots that differ become events, so the cost follows the difference (DESIGN §4.3).
What was merged is told to the caller, who has it stored, so that it can be explained later.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

from comity.protocol.auth.rules import StateLookup
from comity.protocol.event import Event, StateKey
from comity.protocol.room_versions import StateResolution
from comity.protocol.state_resolution.resolve import Trace, resolve
from comity.rooms.room import Room
from comity.store.auth_chains import AuthChains, PowerLevelsLine
from comity.store.cache import Bounded
from comity.store.database import Tx
from comity.store.events import REJECTED, Events, StoredEvent
from comity.store.resolutions import Resolution
from comity.store.state import NewPages, States

#: Results of merges kept: the same forks are merged again and again while they last.
MAX_CACHED_MERGES = 2_000
#: Entries of a room's current state that are kept at hand.
MAX_RECENT_ENTRIES = 256


class _Graph:
    """The auth graph of a room as the store holds it; what was asked once is at hand."""

    def __init__(self, tx: Tx, events: Events) -> None:
        self._tx = tx
        self._events = events
        self._known: dict[str, StoredEvent | None] = {}

    def _find(self, event_id: str) -> StoredEvent | None:
        try:
            return self._known[event_id]
        except KeyError:
            stored = self._known[event_id] = self._events.by_id(self._tx, event_id)
            return stored

    def event(self, event_id: str) -> Event | None:
        stored = self._find(event_id)
        return stored.event if stored is not None else None

    def is_rejected(self, event_id: str) -> bool:
        stored = self._find(event_id)
        return stored is not None and stored.verdict == REJECTED


class Merger:
    """Looks states up and merges them."""

    def __init__(self, states: States, events: Events) -> None:
        self.states = states
        self.events = events
        self.chains = AuthChains(events, states)
        self._merged: Bounded[tuple[int, frozenset[bytes]], bytes] = Bounded(MAX_CACHED_MERGES)

    def current(self, tx: Tx, room: Room) -> StateLookup:
        """Read a room's state now by (type, state key), without its lock."""
        return self.lookup(tx, room, room.decided_state)

    def lookup(self, tx: Tx, room: Room, root: bytes) -> StateLookup:
        """Read a state by (type, state key)."""
        states, events, number = self.states, self.events, room.number

        def read(key: StateKey) -> Event | None:
            slot = states.slot(tx, number, key)
            if slot is None:
                return None
            event_number = states.get(tx, root, slot)
            if not event_number:
                return None
            stored = events.get(tx, event_number)
            return stored.event if stored else None

        if root != room.state or tx.as_of < room.recent_since:
            return read
        # The current state is asked for the same few entries with every event.
        if room.recent is None or room.recent[0] != root or len(room.recent[1]) > MAX_RECENT_ENTRIES:
            room.recent = (root, {})
        recent = room.recent[1]

        def find(key: StateKey) -> Event | None:
            try:
                return recent[key]
            except KeyError:
                event = recent[key] = read(key)
                return event

        return find

    def slot_for(self, tx: Tx, room: Room, key: StateKey, slots: dict[StateKey, int]) -> int:
        """The slot of a key; a new one is added to `slots` and held until it is stored."""
        slot = self.states.slot(tx, room.number, key)
        return self._new_slot(room, key, slots) if slot is None else slot

    def slots_for(
        self, tx: Tx, room: Room, keys: Iterable[StateKey], slots: dict[StateKey, int]
    ) -> dict[StateKey, int]:
        """`slot_for` of many keys."""
        keys = list(keys)
        known = self.states.slots(tx, room.number, keys)
        return {key: known[key] if key in known else self._new_slot(room, key, slots) for key in keys}

    def _new_slot(self, room: Room, key: StateKey, slots: dict[StateKey, int]) -> int:
        slot = slots[key] = room.next_slot
        room.next_slot += 1
        self.states.hold_slot(room.number, key, slot)
        return slot

    def merge(
        self,
        tx: Tx,
        room: Room,
        roots: Iterable[bytes],
        pages: NewPages,
        slots: dict[StateKey, int],
        made: list[Resolution] | None = None,
    ) -> bytes:
        """The resolution of several states. New pages and slots are added to `pages`, `slots`.

        A resolution that was not known yet is added to `made`.
        """
        distinct = frozenset(roots)
        if len(distinct) == 1:
            return next(iter(distinct))
        cache_key = (room.number, distinct)
        known = self._merged.get(cache_key)
        if known is not None:
            return known
        ordered = sorted(distinct)
        conflict = Conflict(self, tx, room, ordered)
        changes = dict.fromkeys(conflict.values, 0)
        for key, event in conflict.resolve().items():
            number = self.events.number(tx, event.event_id)
            if number is not None:
                changes[self.slot_for(tx, room, key, slots)] = number
        root = self.states.replace(tx, conflict.base, changes, pages)
        self._merged.put(cache_key, root)
        if made is not None:
            made.append(Resolution(tuple(ordered), root))
        return root

    def conflict(self, tx: Tx, room: Room, roots: Iterable[bytes]) -> Conflict:
        """What there is to resolve between several states that differ, for those who ask why."""
        return Conflict(self, tx, room, sorted(frozenset(roots)))

    def forget(self) -> None:
        """Results that stood on a decision which was not stored are void."""
        self._merged.clear()


class Conflict:
    """Several states of a room that differ: what they share, what they do not, and how that resolves."""

    def __init__(self, merger: Merger, tx: Tx, room: Room, roots: Sequence[bytes]) -> None:
        """`roots` are distinct, two at least."""
        self._merger = merger
        self._tx = tx
        self._room = room
        self._states, self._events = merger.states, merger.events
        #: The state whose shared part stands for that of all.
        self.base = roots[0]
        #: Slot -> the event numbers there, one for each state (0: none), wherever they differ.
        self.values: dict[int, list[int]] = {}
        for index, other in enumerate(roots[1:], start=1):
            for slot, mine, theirs in self._states.difference(tx, self.base, other):
                self.values.setdefault(slot, [mine] * len(roots))[index] = theirs
        loaded = self._events.load(tx, {number for numbers in self.values.values() for number in numbers})
        #: The conflicted state set: the distinct events at each key that is not shared.
        self.candidates: dict[StateKey, list[Event]] = {
            self._states.key(tx, room.number, slot): [
                loaded[number].event for number in dict.fromkeys(numbers) if number
            ]
            for slot, numbers in self.values.items()
        }

    def resolve(self, trace: Trace | None = None) -> dict[StateKey, Event]:
        """The resolved events at the keys that are not shared; a key without one is absent."""
        tx, room = self._tx, self._room
        difference: Collection[str] = ()
        subgraph: Collection[str] | None = None
        resolution = room.version.state_resolution
        if resolution is not StateResolution.V1:
            difference = self._ids(self._merger.chains.difference(tx, self._own(), self))
        if resolution is StateResolution.V2_1:
            ends = {number for numbers in self.values.values() for number in numbers if number}
            subgraph = self._ids(self._merger.chains.subgraph(tx, ends))
        return resolve(
            room.version,
            unconflicted=self._shared(),
            conflicted=self.candidates,
            auth_difference=difference,
            graph=_Graph(tx, self._events),
            subgraph=subgraph,
            behind=PowerLevelsLine(tx, self._events, room.number).behind,
            trace=trace,
        )

    def _shared(self) -> StateLookup:
        """A lookup of what the states share. The same few entries are asked for again and again."""
        read = self._merger.lookup(self._tx, self._room, self.base)
        known: dict[StateKey, Event | None] = dict.fromkeys(self.candidates)

        def find(key: StateKey) -> Event | None:
            try:
                return known[key]
            except KeyError:
                event = known[key] = read(key)
                return event

        return find

    def _own(self) -> list[set[int]]:
        """What each state has of its own."""
        by_state = zip(*self.values.values(), strict=True)
        return [{number for number in numbers if number} for numbers in by_state]

    def _ids(self, numbers: Iterable[int]) -> list[str]:
        return list(self._events.ids(self._tx, numbers).values())

    # -- store.auth_chains.Shared

    def holds(self, number: int) -> bool:
        stored = self._events.get(self._tx, number)
        if stored is None or stored.event.state_key is None:
            return False
        return self.holds_at(self._states.slot(self._tx, self._room.number, stored.event.key), number)

    def holds_at(self, slot: int | None, number: int) -> bool:
        return (
            slot is not None
            and slot not in self.values
            and self._states.get(self._tx, self.base, slot) == number
        )

    def numbers(self) -> Iterator[int]:
        for slot, number in self._states.items(self._tx, self.base):
            if slot not in self.values:
                yield number
