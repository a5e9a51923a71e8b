"""comity's resolutions, timed: its engine over its database, and the plain definitions beside it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.size.forks import Case
from bench.size.rooms import Graph, State
from bench.size.stored import Engine, Stored
from comity.protocol.event import StateKey
from comity.protocol.room_versions import StateResolution
from comity.protocol.state_resolution.graph import auth_difference, conflicted_subgraph, separate
from comity.protocol.state_resolution.resolve import resolve
from comity.store.database import Tx
from comity.store.state import NewPages


def merge(engine: Engine, stored: Stored, roots: Sequence[bytes]) -> tuple[float, bytes]:
    """One resolution that the engine has no result of: its seconds, and the name of the state."""
    engine.merger.forget()
    pages: NewPages = {}
    slots: dict[StateKey, int] = {}
    started = time.perf_counter()
    root = stored.driver.read_now(lambda tx: engine.merge(tx, roots, pages, slots))
    seconds = time.perf_counter() - started
    assert not slots, "a resolution needs no slot that no fork had"
    # As after a commit: nothing is held for the writer any more.
    engine.states.settle(pages)
    return seconds, root


def cold(stored: Stored, roots: Sequence[bytes]) -> float:
    """Seconds of one resolution by an engine that has read nothing yet."""
    return merge(stored.engine(), stored, roots)[0]


def result(stored: Stored, name: str) -> dict[StateKey, str]:
    """What the engine comes to: event ids by key."""
    engine = stored.engine()
    _, root = merge(engine, stored, stored.roots[name])
    return stored.driver.read_now(lambda tx: engine.entries(tx, root))


@dataclass(frozen=True)
class Sets:
    """What a case comes to by the plain definitions."""

    difference: set[str]
    subgraph: set[str]
    resolved: dict[StateKey, str]
    #: The keys at which the states differ.
    conflicted: frozenset[StateKey]


def _ids(state: State) -> dict[StateKey, str]:
    return {key: event.event_id for key, event in state.items()}


def plain_difference(case: Case, graph: Graph) -> float:
    """Seconds that the auth difference takes by its definition, everything in memory."""
    states = [set(_ids(state).values()) for state in case.states]
    started = time.perf_counter()
    auth_difference(states, graph)
    return time.perf_counter() - started


def by_definition(case: Case, graph: Graph) -> Sets:
    """Resolve a case from plain sets, without the store."""
    states: list[Mapping[StateKey, str]] = [_ids(state) for state in case.states]
    unconflicted, conflicted = separate(states)
    difference = auth_difference([set(state.values()) for state in states], graph)
    subgraph: set[str] = set()
    if graph.version.state_resolution is StateResolution.V2_1:
        subgraph = conflicted_subgraph(set().union(*conflicted.values()), graph)
    resolved = resolve(
        graph.version,
        unconflicted=lambda key: graph.events[unconflicted[key]] if key in unconflicted else None,
        conflicted={key: [graph.events[event_id] for event_id in ids] for key, ids in conflicted.items()},
        auth_difference=difference,
        graph=graph,
        subgraph=subgraph,
    )
    entries = {**unconflicted, **_ids(resolved)}
    return Sets(difference, subgraph, entries, frozenset(conflicted))


def difference(engine: Engine, stored: Stored, roots: Sequence[bytes]) -> float:
    """Seconds of the store's auth difference alone, between states whose differences are known."""
    chains = engine.merger.chains

    def read(tx: Tx) -> float:
        conflict = engine.merger.conflict(tx, engine.room, roots)
        own = [
            {number for number in numbers if number}
            for numbers in zip(*conflict.values.values(), strict=True)
        ]
        started = time.perf_counter()
        chains.difference(tx, own, conflict)
        return time.perf_counter() - started

    return stored.driver.read_now(read)
