"""States of forks, merged: from names of state vectors to the name of the resolved one.

Turns the paged vectors of the store into what `comity.protocol.state_resolution` asks for:
only the slots that differ become events, so the cost follows the difference (DESIGN §4.3).
"""

from __future__ import annotations

from collections.abc import Iterable

from comity.protocol.auth.rules import StateLookup
from comity.protocol.event import Event, StateKey
from comity.protocol.state_resolution.resolve import resolve
from comity.rooms.room import Room
from comity.store.cache import Bounded
from comity.store.database import Tx
from comity.store.events import REJECTED, Events
from comity.store.state import NewPages, States

#: Results of merges kept: the same forks are merged again and again while they last.
MAX_CACHED_MERGES = 2_000
#: Entries of a room's current state that are kept at hand.
MAX_RECENT_ENTRIES = 256


class _Graph:
    """The auth graph of a room as the store holds it."""

    def __init__(self, tx: Tx, events: Events) -> None:
        self._tx = tx
        self._events = events

    def event(self, event_id: str) -> Event | None:
        stored = self._events.by_id(self._tx, event_id)
        return stored.event if stored else None

    def is_rejected(self, event_id: str) -> bool:
        stored = self._events.by_id(self._tx, event_id)
        return stored is not None and stored.verdict == REJECTED


class Merger:
    """Looks states up and merges them."""

    def __init__(self, states: States, events: Events) -> None:
        self._states = states
        self._events = events
        self._merged: Bounded[tuple[int, frozenset[bytes]], bytes] = Bounded(MAX_CACHED_MERGES)

    def lookup(self, tx: Tx, room: Room, root: bytes) -> StateLookup:
        """Read a state by (type, state key)."""
        states, events, number = self._states, self._events, room.number

        def read(key: StateKey) -> Event | None:
            slot = states.slot(tx, number, key)
            if slot is None:
                return None
            event_number = states.get(tx, root, slot)
            if not event_number:
                return None
            stored = events.get(tx, event_number)
            return stored.event if stored else None

        if root != room.state:
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
        slot = self._states.slot(tx, room.number, key)
        if slot is None:
            slot = room.next_slot
            room.next_slot += 1
            slots[key] = slot
            self._states.hold_slot(room.number, key, slot)
        return slot

    def merge(
        self, tx: Tx, room: Room, roots: Iterable[bytes], pages: NewPages, slots: dict[StateKey, int]
    ) -> bytes:
        """The resolution of several states. New pages and slots are added to `pages`, `slots`."""
        distinct = frozenset(roots)
        if len(distinct) == 1:
            return next(iter(distinct))
        cache_key = (room.number, distinct)
        known = self._merged.get(cache_key)
        if known is not None:
            return known
        ordered = sorted(distinct)
        base = ordered[0]
        differing: dict[int, None] = {}
        for other in ordered[1:]:
            for slot, _, _ in self._states.difference(tx, base, other):
                differing[slot] = None
        values = {slot: [self._states.get(tx, root, slot) for root in ordered] for slot in differing}
        conflicted = {
            self._states.key(tx, room.number, slot): self._conflicting(tx, numbers)
            for slot, numbers in values.items()
        }
        own = [
            {numbers[index] for numbers in values.values() if numbers[index]} for index in range(len(ordered))
        ]
        shared = [number for slot, number in self._states.items(tx, base) if slot not in differing]
        difference = self._events.auth_difference(tx, own, shared)
        ids = self._events.ids(tx, difference)
        in_base = self.lookup(tx, room, base)
        resolved = resolve(
            room.version,
            unconflicted=lambda key: None if key in conflicted else in_base(key),
            conflicted=conflicted,
            auth_difference=list(ids.values()),
            graph=_Graph(tx, self._events),
        )
        changes = dict.fromkeys(differing, 0)
        for key, event in resolved.items():
            number = self._events.number(tx, event.event_id)
            if number is not None:
                changes[self.slot_for(tx, room, key, slots)] = number
        root = self._states.replace(tx, base, changes, pages)
        self._merged.put(cache_key, root)
        return root

    def _conflicting(self, tx: Tx, numbers: Iterable[int]) -> list[Event]:
        loaded = self._events.load(tx, {number for number in numbers if number})
        return [stored.event for stored in loaded.values()]

    def forget(self) -> None:
        """Results that stood on a decision which was not stored are void."""
        self._merged.clear()
