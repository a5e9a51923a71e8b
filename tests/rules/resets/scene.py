"""What the known state resets have in common: a room in which states meet, and what comes of it.

Almost every reset begins alike. One server has a state that is older than it should be at a
few keys: it missed events, or believed another server that had. Some event then joins that
state to the current one, and the resolution has to see which of the two is old.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from comity.protocol.event import Event, StateKey
from comity.protocol.room_versions import RoomVersion, StateResolution
from tests.rules.rooms import Graph, Room, resolve_states

State = Mapping[StateKey, Event]
#: Events by key that a state has instead of those of another; None where it has no event.
Changes = Mapping[StateKey, Event | None]

LEVELS: StateKey = ("m.room.power_levels", "")
RULES: StateKey = ("m.room.join_rules", "")
CREATE: StateKey = ("m.room.create", "")
NAME: StateKey = ("m.room.name", "")

ALGORITHMS = (StateResolution.V2, StateResolution.V2_1)


def member(user: str) -> StateKey:
    return "m.room.member", user


def changed(state: State, changes: Changes) -> dict[StateKey, Event]:
    """The state with those changes."""
    merged = {**state, **changes}
    return {key: event for key, event in merged.items() if event is not None}


def cited(room: Room, *events: Event) -> list[Event]:
    """Those events as auth events, with the create event where the room version has it cited."""
    return [*events] if room.version.room_id_is_create_hash else [room.create, *events]


@dataclass(frozen=True, slots=True)
class Scene:
    """The states that meet in a room, and what is made of them."""

    version: RoomVersion
    graph: Graph
    states: tuple[State, ...]
    #: What the room's members take for its state, and nobody revoked.
    intended: State
    #: What an algorithm makes of it instead, where that differs.
    resets: Mapping[StateResolution, Changes]

    def expected(self, algorithm: StateResolution) -> dict[StateKey, Event]:
        """The whole state that an algorithm resolves to."""
        return changed(self.intended, self.resets.get(algorithm, {}))

    def resolved(self, algorithm: StateResolution) -> dict[StateKey, Event]:
        """What comity makes of this very graph by an algorithm, be it that of the room version or not."""
        version = replace(self.version, state_resolution=algorithm)
        return resolve_states(version, self.states, self.graph)


def scene(
    room: Room,
    *others: State,
    v1: Changes | None = None,
    v2: Changes | None = None,
    v2_1: Changes | None = None,
) -> Scene:
    """The scene in which the room, whose state is the intended one, meets other states."""
    resets = {StateResolution.V1: v1 or {}, StateResolution.V2: v2 or {}, StateResolution.V2_1: v2_1 or {}}
    return Scene(room.version, room.graph, (room.state, *others), room.state, resets)


@dataclass(frozen=True, slots=True)
class Reset:
    """One way in which state was reset, or might be taken to have been."""

    name: str
    #: Makes the scene in a room version. Its docstring is the story.
    build: Callable[[str], Scene]
    #: Public reports and proposals that tell of it.
    sources: tuple[str, ...]
    #: The room versions in which it can be told.
    versions: tuple[str, ...] = ("2", "6", "10", "11", "12")
    #: Whether Synapse, which keeps rejected events out of every state, comes to another result.
    synapse_differs: bool = False

    @property
    def story(self) -> str:
        return inspect.getdoc(self.build) or ""
