"""Judge a whole state and its auth chain at once: the answer to `send_join`.

Pure. Given are events whose format, signatures and hashes are already checked; what comes out
is the order to store them in and which of them may stand (server-server §Joining Rooms,
§Checks performed on receipt of a PDU, checks 4 and 5).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from comity.protocol.admission import lookup_in
from comity.protocol.auth.rules import authorize, check_auth_events
from comity.protocol.event import Event, StateKey


class SnapshotError(ValueError):
    """The answer cannot be a room's state; the text says why."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What may be believed."""

    #: Every usable event, auth events before those that they authorize.
    ordered: list[Event]
    #: Those of them that their auth events do not allow.
    rejected: dict[str, str]
    #: The state: only what was allowed.
    state: dict[StateKey, Event]


class Authed(Protocol):
    """What the order asks of an event, or of what stands for one."""

    @property
    def event_id(self) -> str: ...
    @property
    def auth_event_ids(self) -> tuple[str, ...]: ...
    @property
    def depth(self) -> int: ...


E = TypeVar("E", bound=Authed)


def in_auth_order(events: Mapping[str, E]) -> list[E]:
    """Auth events first; events on a cycle, or that stand on one, are left out."""
    ordered: list[E] = []
    waiting: dict[str, int] = {}
    above: dict[str, list[str]] = {}
    ready: list[str] = []
    for event_id, event in events.items():
        held = [auth_id for auth_id in set(event.auth_event_ids) if auth_id in events]
        waiting[event_id] = len(held)
        for auth_id in held:
            above.setdefault(auth_id, []).append(event_id)
        if not held:
            ready.append(event_id)
    ready.sort(key=lambda event_id: (events[event_id].depth, event_id), reverse=True)
    while ready:
        event_id = ready.pop()
        ordered.append(events[event_id])
        for next_id in above.get(event_id, ()):
            waiting[next_id] -= 1
            if waiting[next_id] == 0:
                ready.append(next_id)
    return ordered


def judge(room_id: str, state_ids: Sequence[str], events: Mapping[str, Event]) -> Snapshot:
    """Judge `events` (state and auth chain, by id), of which `state_ids` claim to be the state.

    Raises SnapshotError when there is no create event, or two, or events of another room.
    """
    creates = [event for event in events.values() if event.type == "m.room.create" and event.state_key == ""]
    if len(creates) != 1:
        raise SnapshotError("The state has not exactly one create event")
    create = creates[0]
    if create.content.get("room_version", "1") != create.version.identifier:
        raise SnapshotError("The create event is of another room version")
    held: dict[str, Event] = {}
    for event in in_auth_order(events):
        # What lacks an auth event cannot be judged: it is left out, not rejected for ever, or whoever
        # answers could make us reject what is true by keeping something back.
        if event.room_id == room_id and all(auth_id in held for auth_id in event.auth_event_ids):
            held[event.event_id] = event
    rejected: dict[str, str] = {}
    implied = create if create.version.room_id_is_create_hash else None
    for event in held.values():
        auth_events = [events[auth_id] for auth_id in event.auth_event_ids]
        denied = check_auth_events(event, auth_events, rejected.__contains__, create)
        if denied is None:
            denied = authorize(event, lookup_in(auth_events, implied))
        if denied is not None:
            rejected[event.event_id] = f"{denied.reason} ({denied.rule})"
    if create.event_id in rejected:
        raise SnapshotError(f"The create event is not allowed: {rejected[create.event_id]}")
    state: dict[StateKey, Event] = {}
    for event_id in state_ids:
        event = events[event_id]
        if event_id in rejected or event_id not in held or not event.is_state:
            continue
        if event.key in state:
            raise SnapshotError(f"The state has two events for {event.key}")
        state[event.key] = event
    if state.get(("m.room.create", "")) is not create:
        raise SnapshotError("The create event is not part of the state")
    return Snapshot(list(held.values()), rejected, state)
