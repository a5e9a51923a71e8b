"""State resolution of room versions 2 to 11 (2) and 12 (2.1): rooms/v2 and rooms/v12 §State resolution.

Owns the algorithm itself. It looks at the conflicted events, the auth difference and what
they cite; the unconflicted state is asked key by key and never walked.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from comity.protocol.auth.rules import Denied, auth_keys, authorize, rule_on
from comity.protocol.auth.selection import CREATE_KEY, JOIN_RULES_KEY, POWER_LEVELS_KEY, StateLookup
from comity.protocol.event import Event, StateKey
from comity.protocol.room_versions import RoomVersion, StateResolution
from comity.protocol.state_resolution.graph import AuthGraph, conflicted_subgraph
from comity.protocol.state_resolution.ordering import PowerLevelsBehind, mainline_order, power_order
from comity.protocol.state_resolution.trace import Step, Trace, Watched


def resolve_v2(
    version: RoomVersion,
    *,
    unconflicted: StateLookup,
    conflicted: Mapping[StateKey, Collection[Event]],
    auth_difference: Collection[str],
    graph: AuthGraph,
    subgraph: Collection[str] | None = None,
    behind: PowerLevelsBehind | None = None,
    trace: Trace | None = None,
) -> dict[StateKey, Event]:
    """The resolution for every key that is not unconflicted; see `resolve.resolve`."""
    starts_empty = version.state_resolution is StateResolution.V2_1
    full = {event.event_id: event for events in conflicted.values() for event in events}
    if starts_empty and subgraph is None:
        subgraph = conflicted_subgraph(list(full), graph)
    for event_id in (*auth_difference, *(subgraph if starts_empty and subgraph else ())):
        event = full.get(event_id) or graph.event(event_id)
        if event is not None and event.is_state:
            full[event_id] = event
    if trace is not None:
        trace.auth_difference = frozenset(auth_difference)
        trace.subgraph = frozenset(subgraph or ()) if starts_empty else frozenset()
    create = unconflicted(CREATE_KEY) or _only_create(conflicted)
    resolution = _Resolution(graph, create, None if starts_empty else unconflicted, trace)
    powerful = _with_cited(filter(is_power_event, full.values()), full)
    step = Step.V2_1_POWER if starts_empty else Step.V2_POWER
    resolution.apply(power_order(powerful, create, graph), step)
    remaining = [event for event_id, event in full.items() if event_id not in powerful]
    step = Step.V2_1_MAINLINE if starts_empty else Step.V2_MAINLINE
    resolution.apply(mainline_order(remaining, resolution.current(POWER_LEVELS_KEY), graph, behind), step)
    return {key: event for key, event in resolution.state.items() if unconflicted(key) is None}


def is_power_event(event: Event) -> bool:
    """rooms/v2 §Definitions, *power events*: those that might take somebody's abilities away.

    COMPAT: power levels and join rules at another state key than the empty one have no
    power, and other servers do not count them here.
    """
    if event.type == "m.room.member":
        return event.membership in ("leave", "ban") and event.sender != event.state_key
    return event.is_state and event.key in (POWER_LEVELS_KEY, JOIN_RULES_KEY)


def _only_create(conflicted: Mapping[StateKey, Collection[Event]]) -> Event | None:
    """A create event that some state set lacks, so that it counts as conflicted; a room has one."""
    return min(conflicted.get(CREATE_KEY, ()), key=lambda event: event.event_id, default=None)


def _with_cited(power_events: Iterable[Event], full: Mapping[str, Event]) -> dict[str, Event]:
    """The power events and those of their auth chains that are in the full conflicted set.

    COMPAT: chains are followed inside the full conflicted set only, as other servers do. In
    room version 12 the conflicted state subgraph makes that exact; in room versions 2 to 11
    it passes over an event that is cited through an unconflicted one alone.
    """
    found: dict[str, Event] = {}
    pending = list(power_events)
    while pending:
        event = pending.pop()
        if event.event_id not in found:
            found[event.event_id] = event
            pending.extend(full[auth_id] for auth_id in event.auth_event_ids if auth_id in full)
    return found


class _Resolution:
    """A room state in the making: the *iterative auth checks algorithm*."""

    def __init__(
        self, graph: AuthGraph, create: Event | None, base: StateLookup | None, trace: Trace | None
    ) -> None:
        """`base` is the state that the algorithm starts from, None for an empty one."""
        self.state: dict[StateKey, Event] = {}
        self._graph = graph
        self._create = create
        self._base = base
        self._trace = trace

    def current(self, key: StateKey) -> Event | None:
        """The event at a key so far."""
        event = self.state.get(key)
        if event is None and self._base is not None:
            event = self._base(key)
        return event

    def apply(self, events: Iterable[Event], step: Step) -> None:
        """Check each event in turn, against the state so far and what the event cites beyond it."""
        for event in events:
            if self._trace is None:
                allowed = self._is_as_cited(event) or authorize(event, self._state_for(event)) is None
            else:
                watched = Watched(self._state_for(event))
                ruling = rule_on(event, watched)
                allowed = not isinstance(ruling, Denied)
                self._trace.note(event, step, ruling, watched.found)
            if allowed:
                self.state[event.key] = event

    def _is_as_cited(self, event: Event) -> bool:
        """Whether an accepted event would be judged by nothing but what it cites.

        Then it is allowed: that very question was asked when it came (server-server §Checks
        performed on receipt of a PDU, 4). Where the state lacks an entry, the cited one counts.
        """
        for key in auth_keys(event.version, event.type, event.sender, event.state_key, event.content):
            found = self.current(key)
            if found is not None and found.event_id not in event.auth_event_ids:
                return False
        is_rejected = self._graph.is_rejected
        return not is_rejected(event.event_id) and not any(map(is_rejected, event.auth_event_ids))

    def _state_for(self, event: Event) -> StateLookup:
        cited: dict[StateKey, Event] | None = None

        def lookup(key: StateKey) -> Event | None:
            nonlocal cited
            found = self.current(key)
            if found is None and key == CREATE_KEY and event.version.room_id_is_create_hash:
                # The room id implies it; no event cites it.
                found = self._create
            if found is None:
                if cited is None:
                    cited = self._cited(event)
                found = cited.get(key)
            return found

        return lookup

    def _cited(self, event: Event) -> dict[StateKey, Event]:
        """An event's auth events by key, without those that were rejected or are not known."""
        cited: dict[StateKey, Event] = {}
        for auth_id in event.auth_event_ids:
            auth = self._graph.event(auth_id)
            if auth is not None and auth.is_state and not self._graph.is_rejected(auth_id):
                cited[auth.key] = auth
        return cited
