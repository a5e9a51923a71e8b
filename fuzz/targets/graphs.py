"""Target: many events from a stranger at once, as the answer to send_join has them.

Head: the room version. Body: `{"events": [...], "states": [[...], [...]]}` with events in an order
in which each may name earlier ones: the texts `#0`, `#1`, … stand for their ids, `#room` for the
room's, and numbers in `states` for events of a state. Signatures and hashes were checked before
this point of a join, so events have none that would hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comity.protocol.auth.rules import authorize
from comity.protocol.canonical_json import CanonicalJsonError, check_nesting
from comity.protocol.errors import EventFormatError
from comity.protocol.event import Event, StateKey, parse
from comity.protocol.room_versions import ROOM_VERSIONS, RoomVersion, StateResolution
from comity.protocol.snapshot import Snapshot, SnapshotError, judge
from comity.rooms.graft import in_graph_order
from fuzz.target import Target, require
from fuzz.targets.events import TARGETS as EVENTS
from fuzz.targets.servers import object_of
from tests.rules.rooms import ALICE, Graph, resolve_states

#: What an event has that does not say otherwise.
DEFAULTS: Mapping[str, Any] = {
    "sender": ALICE,
    "room_id": "#room",
    "content": {},
    "depth": 1,
    "origin_server_ts": 1,
    "prev_events": [],
    "auth_events": [],
    "hashes": {"sha256": ""},
    "signatures": {},
}
MAX_EVENTS = 60
#: Judged and resolved in full; larger ones are only judged, for the slow reference takes its time.
MAX_RESOLVED = 30


class _Ids:
    """What the texts with `#` stand for."""

    def __init__(self, version: RoomVersion) -> None:
        self.version = version
        self.known: dict[str, str] = {"#room": "!room:a.example"}

    def resolved(self, value: Any) -> Any:
        """The value with every such text replaced, however deep."""
        if isinstance(value, str):
            return self.known.get(value, value)
        if isinstance(value, list):
            return [self.resolved(item) for item in value]
        if isinstance(value, dict):
            return {name: self.resolved(item) for name, item in value.items()}
        return value

    def reference(self, value: Any) -> Any:
        """A reference to an event, in the form that the room version wants."""
        value = self.resolved(value)
        return (
            [value, {"sha256": ""}]
            if self.version.references_carry_hashes and isinstance(value, str)
            else value
        )


def events_of(version: RoomVersion, written: object) -> list[Event]:
    """The events that can be parsed, in their order."""
    ids, found = _Ids(version), list[Event]()
    for number, item in enumerate(written[:MAX_EVENTS] if isinstance(written, list) else ()):
        if not isinstance(item, dict):
            continue
        source = {**DEFAULTS, "event_id": f"${number}:a.example", **item}
        if version.room_id_is_create_hash and source.get("type") == "m.room.create" and "room_id" not in item:
            del source["room_id"]
        source = ids.resolved(source)
        for name in ("prev_events", "auth_events"):
            if isinstance(source.get(name), list):
                source[name] = [ids.reference(reference) for reference in source[name]]
        try:
            event = parse(version, source)
        except EventFormatError:
            continue
        ids.known[f"#{number}"] = event.event_id
        if version.room_id_is_create_hash and event.type == "m.room.create":
            ids.known.setdefault("#create", event.event_id)
            ids.known["#room"] = event.room_id
        found.append(event)
    return found


def check_join_answer(data: bytes) -> str:
    """Judge the events as a room's state, and resolve two states made of them."""
    head, _, body = data.partition(b"\n")
    identifier = head.decode("ascii", "replace")
    version = ROOM_VERSIONS.get(identifier) or ROOM_VERSIONS["12"]
    given = object_of(body)
    try:
        check_nesting(given)
    except CanonicalJsonError:
        return "deep"
    listed = events_of(version, given.get("events"))
    events = {event.event_id: event for event in listed}
    states = _states(listed, given.get("states"))
    ordered = in_graph_order(events)
    require(len(set(ordered)) == len(ordered) <= len(events), "no event comes twice")
    create = next((event for event in listed if event.type == "m.room.create"), None)
    room_id = create.room_id if create is not None else "!room:a.example"
    wanted = states[0] or {event.key: event for event in listed if event.is_state}
    snapshot = _judge(room_id, list(dict.fromkeys(event.event_id for event in wanted.values())), events)
    if not isinstance(snapshot, Snapshot):
        return f"{identifier} {snapshot[:50]}"
    _check_snapshot(snapshot, room_id)
    if len(events) <= MAX_RESOLVED:
        _check_resolution(version, snapshot, states)
    return f"{identifier} {len(snapshot.state)} of {len(events)}, {len(snapshot.rejected)} rejected"


def _states(listed: list[Event], written: object) -> list[dict[StateKey, Event]]:
    states: list[dict[StateKey, Event]] = []
    for numbers in written[:3] if isinstance(written, list) else ():
        chosen = numbers if isinstance(numbers, list) else []
        picked = [listed[number] for number in chosen if type(number) is int and 0 <= number < len(listed)]
        states.append({event.key: event for event in picked if event.is_state})
    return states or [{}]


def _judge(room_id: str, state_ids: list[str], events: Mapping[str, Event]) -> Snapshot | str:
    try:
        snapshot = judge(room_id, state_ids, events)
    except SnapshotError as error:
        return str(error)
    turned = judge(room_id, state_ids[::-1], dict(reversed(list(events.items()))))
    require(turned.state == snapshot.state, "the order of an answer does not matter")
    require(turned.rejected == snapshot.rejected, "nor to what is rejected")
    return snapshot


def _check_snapshot(snapshot: Snapshot, room_id: str) -> None:
    seen: set[str] = set()
    for event in snapshot.ordered:
        require(event.room_id == room_id, "all events are of the room")
        require(seen.issuperset(event.auth_event_ids), "auth events come before those that they authorize")
        seen.add(event.event_id)
    for key, event in snapshot.state.items():
        require(event.key == key and event.event_id in seen, "the state is made of what was judged")
        require(event.event_id not in snapshot.rejected, "what was rejected is not part of the state")


def _check_resolution(version: RoomVersion, snapshot: Snapshot, states: list[dict[StateKey, Event]]) -> None:
    graph = Graph()
    graph.events = {event.event_id: event for event in snapshot.ordered}
    graph.rejected = set(snapshot.rejected)
    create = snapshot.state["m.room.create", ""]
    held = [
        {key: event for key, event in state.items() if event.event_id in graph.events} | {create.key: create}
        for state in (snapshot.state, *states)
    ]
    resolved = resolve_states(version, held, graph)
    require(resolved == resolve_states(version, held[::-1], graph), "the order of states does not matter")
    # From version 2 of the algorithm on, events of the auth chains may come back into the state.
    if version.state_resolution is StateResolution.V1:
        offered = [event for state in held for event in state.values()]
    else:
        offered = snapshot.ordered
    require(all(event in offered for event in resolved.values()), "resolution invents nothing")
    for probe in snapshot.ordered[:10]:
        authorize(probe, resolved.get)


TARGETS = (
    Target(
        "join_answers",
        check_join_answer,
        json=True,
        separator=b"\n",
        heads=tuple(version.encode() for version in ROOM_VERSIONS),
        words=(
            "events",
            "states",
            "#room",
            "#create",
            *(f"#{number}" for number in range(9)),
            *EVENTS[0].words,
        ),
        max_bytes=32_768,
        seconds=2.0,
        weight=3.0,
    ),
)
