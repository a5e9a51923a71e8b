"""What one state resolution did, step by step, for those who ask why.

Owns the record alone: the algorithms write into a Trace if they are given one, and decide the
same without it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from comity.protocol.auth.ruling import Allowed, Ruling
from comity.protocol.auth.selection import StateLookup
from comity.protocol.event import Event, StateKey


class Step(Enum):
    """The part of an algorithm in which an event was considered, with its place in the specification."""

    V1_POWER_LEVELS = "rooms/v1 §State resolution: conflicts between power levels, by ascending depth"
    V1_JOIN_RULES = "rooms/v1 §State resolution: conflicts between join rules, by ascending depth"
    V1_MEMBERS = "rooms/v1 §State resolution: conflicts between memberships, by ascending depth"
    V1_OTHERS = "rooms/v1 §State resolution: other conflicts, the greatest depth that is allowed"
    V1_AGREED = "rooms/v1 §State resolution: all states that have the key agree"
    V2_POWER = "rooms/v2 §Algorithm, steps 1 and 2: power events, in reverse topological power order"
    V2_MAINLINE = "rooms/v2 §Algorithm, steps 3 and 4: the other events, in mainline order"
    V2_1_POWER = "rooms/v12 §Algorithm, steps 1 and 2: power events, in reverse topological power order"
    V2_1_MAINLINE = "rooms/v12 §Algorithm, steps 3 and 4: the other events, in mainline order"


@dataclass(frozen=True, slots=True)
class Considered:
    """One event that a resolution looked at."""

    event: Event
    step: Step
    #: What the rules said of it on the state so far; None where the algorithm does not ask them.
    ruling: Ruling | None
    #: The state entries that the rules looked at and found.
    stood_on: tuple[Event, ...]

    @property
    def was_taken(self) -> bool:
        """Whether it became part of the state then; a later event may have taken its place."""
        return self.ruling is None or isinstance(self.ruling, Allowed)


@dataclass(slots=True)
class Trace:
    """What was considered, in order, and from which set each event came."""

    considered: list[Considered] = field(default_factory=list)
    #: Ids of events that no state holds: of the auth difference, and of the conflicted subgraph.
    auth_difference: frozenset[str] = frozenset()
    subgraph: frozenset[str] = frozenset()

    def note(self, event: Event, step: Step, ruling: Ruling | None, stood_on: tuple[Event, ...] = ()) -> None:
        """An event was considered."""
        self.considered.append(Considered(event, step, ruling, stood_on))

    def at(self, key: StateKey) -> list[Considered]:
        """What was considered for one state key, in order."""
        return [entry for entry in self.considered if entry.event.key == key]


class Watched:
    """A state lookup that remembers what was found through it."""

    def __init__(self, lookup: StateLookup) -> None:
        self._lookup = lookup
        self._found: dict[StateKey, Event] = {}

    def __call__(self, key: StateKey) -> Event | None:
        event = self._lookup(key)
        if event is not None:
            self._found[key] = event
        return event

    @property
    def found(self) -> tuple[Event, ...]:
        """The entries that were asked for and are there, in the order of the first question."""
        return tuple(self._found.values())
