"""The graph of auth events as state resolution sees it, and the sets that are defined on it.

Owns the definitions of rooms/v2 and rooms/v12 §State resolution that need no order and no
authorization: what is conflicted, the auth difference, the conflicted state subgraph. A
server may know better ways to find these sets (auth chains as sets of bits); these are the
reference forms, linear in the edges they visit, and they never recurse.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from comity.protocol.event import Event, StateKey


class AuthGraph(Protocol):
    """The events that the caller has at hand, each judged on its auth events when it came.

    server-server §Checks performed on receipt of a PDU, 4: what failed it is rejected.
    """

    def event(self, event_id: str) -> Event | None:
        """An event by id, rejected ones included; None if it is not known."""
        ...

    def is_rejected(self, event_id: str) -> bool:
        """Whether the event was rejected (server-server §Rejection)."""
        ...


def separate(
    state_sets: Sequence[Mapping[StateKey, str]],
) -> tuple[dict[StateKey, str], dict[StateKey, set[str]]]:
    """The unconflicted state map, and the ids at each conflicted key (rooms/v2 §Definitions).

    A key is conflicted if its ids differ or if a set lacks it.
    """
    unconflicted: dict[StateKey, str] = {}
    conflicted: dict[StateKey, set[str]] = {}
    for state in state_sets:
        for key, event_id in state.items():
            if key in unconflicted or key in conflicted:
                continue
            ids = {other[key] for other in state_sets if key in other}
            if len(ids) == 1 and all(key in other for other in state_sets):
                unconflicted[key] = event_id
            else:
                conflicted[key] = ids
    return unconflicted, conflicted


def auth_difference(state_sets: Sequence[Collection[str]], graph: AuthGraph) -> set[str]:
    """The ids of the events that are in the auth chain of some state set and not of all.

    Each set is the ids of a state's events. COMPAT: a state's own events count into its auth
    chain, as other servers have it; by the letter of rooms/v2 they would not, and an event that
    all sets agree on could be part of the difference. Unknown events are left out.
    """
    sets = [frozenset(state) for state in state_sets]
    if len(sets) < 2:
        return set()
    # What all sets hold, and all that stands below it, is in every chain.
    common = set(_reachable(frozenset.intersection(*sets), graph, ()))
    everywhere = (1 << len(sets)) - 1
    reached: dict[str, int] = {}
    for number, state in enumerate(sets):
        for event_id in _reachable(state, graph, common):
            reached[event_id] = reached.get(event_id, 0) | 1 << number
    return {event_id for event_id, mask in reached.items() if mask != everywhere}


def _reachable(roots: Iterable[str], graph: AuthGraph, stop: Collection[str]) -> Iterator[str]:
    """Each known event that `roots` reach by auth events, themselves included, but for `stop`."""
    pending = list(roots)
    seen: set[str] = set()
    while pending:
        event_id = pending.pop()
        if event_id in seen or event_id in stop:
            continue
        seen.add(event_id)
        event = graph.event(event_id)
        if event is not None:
            yield event_id
            pending.extend(event.auth_event_ids)


def conflicted_subgraph(conflicted: Collection[str], graph: AuthGraph) -> set[str]:
    """rooms/v12 §Definitions, *conflicted state subgraph*: the events on all paths of auth events
    that lead from one of `conflicted` to another, ends included.

    Visits the auth chains of `conflicted`.
    """
    ends = frozenset(conflicted)
    #: For each visited event, whether it is on such a path; False while it is still open.
    leads: dict[str, bool] = {}
    for root in ends:
        # An event is taken twice from the stack: to open it, and when all below it is settled.
        pending: list[tuple[str, bool]] = [(root, False)]
        while pending:
            event_id, below_is_settled = pending.pop()
            if not below_is_settled and event_id in leads:
                continue
            event = graph.event(event_id)
            if event is None:
                continue
            if below_is_settled:
                if any(leads.get(auth_id, False) for auth_id in event.auth_event_ids):
                    leads[event_id] = True
                continue
            leads[event_id] = event_id in ends
            pending.append((event_id, True))
            pending.extend((auth_id, False) for auth_id in event.auth_event_ids)
    return {event_id for event_id, is_on_path in leads.items() if is_on_path}
