"""The smallest graph of each known disagreement, written by hand: who differs on its last event, and how."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from comity.protocol.event import Event
from tests.rules.oracle.disagreements import KNOWN, Disagreement
from tests.rules.oracle.generator import Graph
from tests.rules.rooms import ALICE, BOB, Room, a_room

EVE = "@eve:a.example"


@dataclass(frozen=True)
class Case:
    """A graph on whose last event (or fork) the sides differ."""

    known: Disagreement
    graph: Graph
    #: Whether comity allows the last event; None where the sides differ on a fork.
    allowed: bool | None


def _graph(room: Room, events: Sequence[Event] | None = None, forks: Sequence[Sequence[Event]] = ()) -> Graph:
    assert room.room_id is not None
    held = list(room.graph.events.values()) if events is None else events
    ids = [[event.event_id for event in fork] for fork in forks]
    return Graph(room.version.identifier, 0, room.room_id, [dict(event.source) for event in held], ids, [])


def unreadable_to_synapse() -> tuple[Graph, bool | None]:
    """Power levels whose `events` are null: the rules of room versions up to 9 do not mind."""
    room = a_room("6", BOB)
    room.write(ALICE, "m.room.power_levels", {"users": {ALICE: 100}, "events": None}, "")
    return _graph(room), True


def invite_out_of_an_unfederated_room() -> tuple[Graph, bool | None]:
    """Alice invites somebody of another server into a room that does not federate."""
    room = Room("10", content={"m.federate": False})
    room.join(ALICE)
    room.membership(ALICE, "invite", BOB)
    return _graph(room), True


def membership_of_no_user() -> tuple[Graph, bool | None]:
    """Alice invites `@nobody`, who has no server."""
    room = a_room("10")
    room.membership(ALICE, "invite", "@nobody")
    return _graph(room), True


def power_of_no_user() -> tuple[Graph, bool | None]:
    """Power for a user of a server whose name has an underscore, which no server name has."""
    room = a_room("10")
    room.write(ALICE, "m.room.power_levels", {"users": {ALICE: 100, "@u:under_score.example": 50}}, "")
    return _graph(room), False


def join_that_needs_nobody() -> tuple[Graph, bool | None]:
    """Bob, who is in the room, names somebody who vouches for him, whose server has not signed."""
    room = a_room("10", BOB)
    room.membership(BOB, "join", join_authorised_via_users_server=ALICE)
    return _graph(room), False


def levels_with_a_state_key() -> tuple[Graph, bool | None]:
    """Bob, who has 50, writes power levels with another state key, above his own."""
    room = a_room("10", BOB, powers={BOB: 50})
    room.write(BOB, "m.room.power_levels", {"users": {BOB: 100}}, "elsewhere")
    return _graph(room), False


def a_level_that_is_true() -> tuple[Graph, bool | None]:
    """A level that is a number for Python."""
    room = a_room("6")
    room.write(ALICE, "m.room.power_levels", {"users": {ALICE: 100}, "ban": True}, "")
    return _graph(room), False


def a_redaction_that_was_redacted() -> tuple[Graph, bool | None]:
    """Eve, without power, redacts an event of her server; the redaction's own hash is wrong."""
    room = a_room("2", EVE)
    topic = room.send(ALICE, "m.room.topic", {"topic": "x"}, "")
    redaction = room.write(EVE, "m.room.redaction", {}, redacts=topic.event_id)
    wrong = Event(room.version, {**redaction.source, "hashes": {"sha256": "Zm9v"}})
    return _graph(room, [*list(room.graph.events.values())[:-1], wrong]), False


def two_create_events() -> tuple[Graph, bool | None]:
    """The room is made again. One state has the first create event and who joined, the other the second."""
    room = Room("10")
    join = room.join(ALICE)
    again = room.write(ALICE, "m.room.create", {"room_version": "10", "creator": ALICE}, "", prev=[], auth=[])
    return _graph(room, forks=[[join, again]]), None


_BUILT: dict[str, Callable[[], tuple[Graph, bool | None]]] = {
    "an event that Synapse cannot judge": unreadable_to_synapse,
    "an invite out of a room that does not federate": invite_out_of_an_unfederated_room,
    "a membership of what has no server name": membership_of_no_user,
    "power levels of what is no user id": power_of_no_user,
    "an authorising user whose server has not signed": join_that_needs_nobody,
    "power levels with a state key": levels_with_a_state_key,
    "power levels that are numbers for Python alone": a_level_that_is_true,
    "a redaction whose hash is wrong": a_redaction_that_was_redacted,
    "a second create event": two_create_events,
}
CASES = tuple(Case(known, *_BUILT[known.name]()) for known in KNOWN)
