"""Why a state event stands, or does not: what each state resolution that it was in made of it.

Runs resolutions that happened here anew, from the states that were merged, with a trace.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from comity.protocol.auth.ruling import Denied
from comity.protocol.event import Event, StateKey
from comity.protocol.state_resolution.trace import Considered, Trace
from comity.rooms.merge import Merger
from comity.rooms.room import Room, Rooms
from comity.store import resolutions
from comity.store.database import Tx
from comity.store.events import REJECTED, StoredEvent
from comity.store.resolutions import Resolution

#: Resolutions of a room that are looked through, newest first, and those of them that are told.
MAX_RESOLUTIONS = 2_000
MAX_TOLD = 5
#: Reversions of a room that are told.
MAX_REVERSIONS = 100
_SOURCES = ("in the states", "auth difference", "conflicted subgraph")


@dataclass(frozen=True, slots=True)
class Told:
    """One line on an event."""

    event_id: str
    type: str
    state_key: str | None
    sender: str
    origin_server_ts: int
    #: `membership` of a membership.
    membership: str | None
    rejected: bool


def tell(event: Event, stored: StoredEvent | None) -> Told:
    """One line on an event and what was made of it."""
    membership = event.membership if event.type == "m.room.member" else None
    rejected = stored is not None and stored.verdict == REJECTED
    return Told(
        event.event_id,
        event.type,
        event.state_key,
        event.sender,
        event.origin_server_ts,
        membership,
        rejected,
    )


@dataclass(frozen=True, slots=True)
class Candidate:
    """One event that a resolution considered for the key, in the order of consideration."""

    event: Told
    #: The step, with its place in the specification, and the set from which the event came.
    step: str
    source: str
    taken: bool
    rule: str
    reason: str
    stood_on: tuple[Told, ...]


@dataclass(frozen=True, slots=True)
class Contest:
    """What one state resolution made of the key."""

    #: The position of the first event that stood on it; 0 for history.
    position: int
    #: How many states were merged, and the distinct events at the key, None where one lacked it.
    states: int
    entries: tuple[Told | None, ...]
    candidates: tuple[Candidate, ...]
    chosen: Told | None


@dataclass(frozen=True, slots=True)
class Reverted:
    """An entry of the current state that state resolution took back or away."""

    position: int
    key: StateKey
    was: Told | None
    became: Told | None
    cause: str


@dataclass(frozen=True, slots=True)
class Standing:
    """A state event's place in the room's state."""

    #: What stands at its key now; None if nothing does.
    current: Told | None
    is_current: bool
    #: The newest resolutions in which the key was in conflict, and how many there were in all.
    contests: tuple[Contest, ...]
    count: int
    reversions: tuple[Reverted, ...]


class StateExplainer:
    """Explains the state of the rooms that are held here."""

    def __init__(self, rooms: Rooms, merger: Merger) -> None:
        self._rooms = rooms
        self._merger = merger
        self._events, self._states = rooms.events, rooms.states

    def standing(self, tx: Tx, event_id: str) -> Standing | None:
        """The place of an event in the state; None if it is no state event that is held."""
        stored = self._events.by_id(tx, event_id)
        room = None if stored is None else self._rooms.peek_number(tx, stored.room_num)
        if stored is None or room is None or not stored.event.is_state:
            return None
        key = stored.event.key
        current = self._merger.current(tx, room)(key)
        found = list(self._conflicts(tx, room, stored))
        contests = [self._contest(tx, room, key, *item) for item in found[:MAX_TOLD]]
        return Standing(
            None if current is None else self._told(tx, current),
            current is not None and current.event_id == event_id,
            tuple(contests),
            len(found),
            tuple(item for item in self.reversions(tx, room) if item.key == key),
        )

    def reversions(self, tx: Tx, room: Room) -> list[Reverted]:
        """What state resolution has taken back in a room, newest first."""
        return [
            Reverted(
                position, item.key, self._number(tx, item.was), self._number(tx, item.became), item.cause
            )
            for position, item in resolutions.reversions(tx, room.number, MAX_REVERSIONS)
        ]

    def _conflicts(self, tx: Tx, room: Room, stored: StoredEvent) -> Iterator[tuple[int, Resolution]]:
        """The resolutions in which the event's key was in conflict, and which may have met it."""
        slot = self._states.slot(tx, room.number, stored.event.key)
        if slot is None:
            return
        for position, resolution in resolutions.latest(tx, room.number, MAX_RESOLUTIONS):
            values = {self._states.get(tx, root, slot) for root in resolution.inputs}
            if len(values) > 1 and max(values) >= stored.number:
                yield position, resolution

    def _contest(self, tx: Tx, room: Room, key: StateKey, position: int, resolution: Resolution) -> Contest:
        conflict = self._merger.conflict(tx, room, resolution.inputs)
        trace = Trace()
        chosen = conflict.resolve(trace).get(key)
        lookups = (self._merger.lookup(tx, room, root) for root in resolution.inputs)
        entries = {event.event_id if event else "": event for event in (find(key) for find in lookups)}
        return Contest(
            position,
            len(resolution.inputs),
            tuple(self._told(tx, event) if event else None for event in entries.values()),
            tuple(self._candidate(tx, trace, entry, frozenset(entries)) for entry in trace.at(key)),
            None if chosen is None else self._told(tx, chosen),
        )

    def _candidate(self, tx: Tx, trace: Trace, entry: Considered, ids: frozenset[str]) -> Candidate:
        event_id = entry.event.event_id
        source = _SOURCES[0 if event_id in ids else 1 if event_id in trace.auth_difference else 2]
        ruling = entry.ruling
        return Candidate(
            self._told(tx, entry.event),
            entry.step.value,
            source,
            not isinstance(ruling, Denied),
            ruling.rule if ruling is not None else "",
            ruling.reason if ruling is not None else "Taken without asking the rules",
            tuple(self._told(tx, event) for event in entry.stood_on),
        )

    def _told(self, tx: Tx, event: Event) -> Told:
        return tell(event, self._events.by_id(tx, event.event_id))

    def _number(self, tx: Tx, number: int) -> Told | None:
        stored = self._events.get(tx, number) if number else None
        return None if stored is None else tell(stored.event, stored)
