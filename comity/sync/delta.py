"""The state that a client lacks: what changed between what it knows and what it is given.

Compares the current states of the room at two positions page by page, so the cost follows the
change; what state resolution or soft-failed events brought counts like anything else.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

from comity.store.database import Tx
from comity.store.events import Events, StoredEvent
from comity.store.state import EMPTY, States
from comity.sync.asked import Stretch

MEMBER = "m.room.member"
#: State whose change may change what a client calls the room.
_NAMING = frozenset({MEMBER, "m.room.name", "m.room.canonical_alias"})


@dataclass(slots=True)
class Delta:
    """State to tell, by slot. `known` and `current` name the states at both ends."""

    known: bytes
    current: bytes
    #: slot -> event number
    entries: dict[int, int] = field(default_factory=dict)
    #: Whether a member, the name or the alias changed.
    renames: bool = False
    #: The slots that the timeline sets, if the state is told as it was before it.
    in_timeline: Collection[int] = ()


class Deltas:
    """Works deltas out."""

    def __init__(self, states: States, events: Events) -> None:
        self._states = states
        self._events = events

    def between(
        self,
        tx: Tx,
        room_num: int,
        known: bytes,
        current: bytes,
        stretch: Stretch,
        *,
        at_end: bool,
        only_members: frozenset[str] | None,
    ) -> Delta:
        """What a client that knows the state `known` is told beside the timeline `stretch`.

        With `at_end` (`state_after`): all that differs in `current`. Without (`state`): such that
        after applying it, and then the timeline, the client has `current`; for state that the
        timeline sets, what stood before it. `only_members`: leave out the members of other users.
        """
        in_timeline = {} if at_end else self._slots_of(tx, stretch)
        delta = Delta(known, current, in_timeline=in_timeline)
        if known == EMPTY and only_members is None:
            # Everything, whatever it is: no need to ask what each slot is of.
            delta.renames = True
            delta.entries = {
                slot: number for slot, number in self._states.items(tx, current) if slot not in in_timeline
            }
            differing: Iterable[tuple[int, int]] = ()
        else:
            differing = self._differing(tx, known, current)
        for slot, number in differing:
            event_type, state_key = self._states.key(tx, room_num, slot)
            if event_type in _NAMING:
                delta.renames = True
            if number == 0 or slot in in_timeline:
                continue
            if only_members is not None and event_type == MEMBER and state_key not in only_members:
                continue
            delta.entries[slot] = number
        if in_timeline and (stretch.limited or known == EMPTY):
            told = {stored.number for stored in stretch.events}
            start = stretch.events[0].state_before or EMPTY
            for slot in in_timeline:
                number = self._states.get(tx, start, slot)
                if number and number not in told and number != self._states.get(tx, known, slot):
                    delta.entries[slot] = number
        return delta

    def _differing(self, tx: Tx, known: bytes, current: bytes) -> Iterator[tuple[int, int]]:
        if known == EMPTY:
            return self._states.items(tx, current)
        return ((slot, number) for slot, _, number in self._states.difference(tx, known, current))

    def _slots_of(self, tx: Tx, stretch: Stretch) -> dict[int, None]:
        found: dict[int, None] = {}
        for stored in stretch.events:
            slot = self._states.slot(tx, stored.room_num, stored.event.key) if stored.event.is_state else None
            if slot is not None:
                found[slot] = None
        return found

    def members_at(
        self, tx: Tx, room_num: int, delta: Delta, stretch: Stretch, users: Iterable[str], *, at_end: bool
    ) -> Iterator[tuple[int, str, int]]:
        """(slot, user, event number) of users' memberships at the point that the delta leads to."""
        in_timeline = {} if at_end else self._slots_of(tx, stretch)
        start = (stretch.events[0].state_before or EMPTY) if stretch.events else EMPTY
        for user_id in users:
            slot = self._states.slot(tx, room_num, (MEMBER, user_id))
            if slot is None:
                continue
            number = self._states.get(tx, start if slot in in_timeline else delta.current, slot)
            if number:
                yield slot, user_id, number

    def is_named(self, tx: Tx, room_num: int, state: bytes) -> bool:
        """Whether a room has a name or a canonical alias, so that it needs no heroes.

        What is no text names nothing: clients pass it over.
        """
        for event_type, name in (("m.room.name", "name"), ("m.room.canonical_alias", "alias")):
            slot = self._states.slot(tx, room_num, (event_type, ""))
            number = 0 if slot is None else self._states.get(tx, state, slot)
            stored = self._events.get(tx, number) if number else None
            value = stored.event.content.get(name) if stored is not None else None
            if isinstance(value, str) and value:
                return True
        return False

    def load(self, tx: Tx, delta: Delta) -> list[StoredEvent]:
        """The events of a delta, oldest numbers first."""
        loaded = self._events.load(tx, delta.entries.values())
        return [loaded[number] for number in sorted(loaded)]
