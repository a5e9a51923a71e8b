"""The benchmark of speed at size times right answers: tiny rooms of its making, resolved by everybody."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bench.size import changes, comity_resolver, others
from bench.size.forks import Case, fork
from bench.size.rooms import Branch, deep_room, grown_room
from bench.size.stored import stored
from comity.protocol.auth.rules import authorize
from comity.protocol.event import Event, StateKey, event_id_of
from tests.interop.servers import synapse_python
from tests.rules.rooms import Graph, resolve_states

VERSIONS = ("10", "12")
Built = tuple[Branch, list[Case]]


def wide(version: str) -> Built:
    """A hundred entries, and forks by ten events and by forty."""
    room, members = grown_room(version, 100)
    return room, [fork(str(difference), room, members, difference) for difference in (10, 40)]


def deep(version: str) -> Built:
    """Sixty power levels, one after the other, and forks that concern new members and an old one."""
    room, members = deep_room(version, 60, 30, 20)
    late, old = members[-20:], members[15]
    return room, [fork("late", room, late, 10), fork("old", room, late, 10, also=[old])]


def ids(state: dict[StateKey, Event]) -> dict[StateKey, str]:
    return {key: event.event_id for key, event in state.items()}


every_room = pytest.mark.parametrize("build", [wide, deep])
every_version = pytest.mark.parametrize("version", VERSIONS)


@every_version
@every_room
def test_the_engine_and_the_definitions_come_to_the_same(
    build: Callable[[str], Built], version: str, tmp_path: Path
) -> None:
    room, cases = build(version)
    graph = Graph()
    graph.events = room.graph.events
    with stored(tmp_path, room, cases) as place:
        for case in cases:
            right = ids(resolve_states(room.graph.version, case.states, graph))
            assert comity_resolver.by_definition(case, room.graph).resolved == right
            assert comity_resolver.result(place, case.name) == right
            assert right not in [ids(state) for state in case.states], "both sides have to count"


@pytest.mark.interop
@every_version
@every_room
def test_synapse_comes_to_the_same(build: Callable[[str], Built], version: str, tmp_path: Path) -> None:
    if synapse_python() is None:
        pytest.skip("install Synapse with tests/interop/install.sh")
    room, cases = build(version)
    sets = {case.name: comity_resolver.by_definition(case, room.graph) for case in cases}
    with others.running(synapse=True, ruma=False) as (synapse,):
        synapse.load(*others.write_files(tmp_path, room.graph, cases, sets))
        for name, right in sets.items():
            for variant in synapse.variants:
                assert synapse.resolve(name, variant, 0).digest == others.digest(right.resolved)


@every_version
@every_room
def test_its_events_are_real(build: Callable[[str], Built], version: str) -> None:
    room, _ = build(version)
    state: dict[StateKey, Event] = {}
    events = iter(room.graph.events.items())
    for event_id, event in events:
        assert event_id == event_id_of(room.graph.version, event.source)
        assert authorize(event, state.get) is None
        state[event.key] = event
        if event is room.head:
            break
    assert state == room.state


@every_version
def test_forks_differ_by_as_much_as_they_say(version: str) -> None:
    room, cases = wide(version)
    for case in cases:
        own = [{e.event_id for e in state.values()} - {*ids(room.state).values()} for state in case.states]
        assert [len(events) for events in own] == [int(case.name) // 2] * 2
        one, other = case.states
        assert one.keys() - other.keys() and other.keys() - one.keys()
        assert any(key in room.state and one[key] is not other[key] for key in one.keys() & other.keys())


async def test_changes_are_stored_and_counted(tmp_path: Path) -> None:
    room, members = grown_room("12", 100)
    with stored(tmp_path, room, []) as place:
        # It looks for itself whether the state on disk is the right one.
        costs = await changes.measure(place, room, members, count=60, rounds=2)
    assert costs.changes == 120
    assert len(costs.whole) == 2
    assert costs.growth > 0
