"""The known state resets, each against each algorithm: what is reset, and that nothing else is.

The whole resolved state is compared, so that a case says all that becomes of a room. The
cases and their stories are in tests/rules/resets.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from comity.protocol.auth.rules import authorize, check_auth_events
from comity.protocol.event import Event, StateKey
from comity.protocol.room_versions import StateResolution
from tests.rules.resets import ALGORITHMS, CASES, Reset
from tests.rules.resets.past import left_joined_and_left_again
from tests.rules.resets.scene import CREATE, LEVELS, RULES, State, changed, member
from tests.rules.rooms import ALICE, BOB, CAROL, Graph, Room, resolve_states

DOCUMENT = Path(__file__).parents[2] / "docs" / "state-resets.md"

by_name = {case.name: case for case in CASES}
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def in_versions(case: Reset) -> tuple[tuple[str, StateResolution], ...]:
    """Each room version of a case with its algorithm, and the modern ones with the other one too."""
    return tuple(
        (version, algorithm)
        for version in case.versions
        for algorithm in ((StateResolution.V1,) if version == "1" else ALGORITHMS)
    )


@pytest.mark.parametrize(
    ("case", "version", "algorithm"),
    [
        pytest.param(case, version, algorithm, id=f"{case.name}, {version} by {algorithm.value}")
        for case in CASES
        for version, algorithm in in_versions(case)
    ],
)
def test_what_is_reset(case: Reset, version: str, algorithm: StateResolution) -> None:
    scene = case.build(version)
    expected = scene.expected(algorithm)
    assert scene.resolved(algorithm) == expected
    # No order of the states makes a difference.
    assert replace(scene, states=scene.states[::-1]).resolved(algorithm) == expected


@every_case
def test_the_room_version_has_one_of_these_algorithms(case: Reset) -> None:
    """Nothing but the algorithm is different in what a room of that version makes of it."""
    for version in case.versions:
        scene = case.build(version)
        assert resolve_states(scene.version, scene.states, scene.graph) == scene.expected(
            scene.version.state_resolution
        )


@every_case
def test_every_event_is_allowed_by_what_it_cites(case: Reset) -> None:
    """No story needs an event that a server would reject by its auth events."""
    for version in case.versions:
        scene = case.build(version)
        create = scene.intended[CREATE]
        for event in scene.graph.events.values():
            cited = [scene.graph.events[event_id] for event_id in event.auth_event_ids]
            assert check_auth_events(event, cited, lambda _: False, create) is None
            state: dict[StateKey, Event] = {CREATE: create, **{auth.key: auth for auth in cited}}
            assert authorize(event, state.get) is None


@every_case
def test_every_case_is_told(case: Reset) -> None:
    assert case.story
    assert case.sources
    assert f"| {case.name} |" in DOCUMENT.read_text("utf-8")
    for source in case.sources:
        assert f"[{source}]" in DOCUMENT.read_text("utf-8")


def test_names_are_distinct() -> None:
    assert len(by_name) == len(CASES)


# What comes of a reset


@pytest.mark.parametrize("version", ["2", "6", "10", "11"])
def test_without_join_rules_nobody_can_join(version: str) -> None:
    scene = by_name["join rules of one who left"].build(version)
    room = as_a_room(version, scene.expected(StateResolution.V2))
    assert authorize(room.membership(CAROL, "join"), room.state.get) is not None


@pytest.mark.parametrize("version", ["2", "6", "10", "11"])
def test_without_power_levels_the_creator_alone_has_power(version: str) -> None:
    scene = by_name["power levels of one who left"].build(version)
    meant = as_a_room(version, scene.intended)
    reset = as_a_room(version, scene.expected(StateResolution.V2))
    for room, user, is_allowed in ((meant, CAROL, True), (reset, CAROL, False), (reset, ALICE, True)):
        topic = room.write(user, "m.room.topic", {"topic": "t"}, "")
        assert (authorize(topic, room.state.get) is None) is is_allowed


def as_a_room(version: str, state: State) -> Room:
    """A room of that state, to write further events in."""
    room = Room(version)
    room.state = dict(state)
    room.create = state[CREATE]
    room.room_id = room.create.room_id
    return room


@pytest.mark.parametrize("version", ["1", "11", "12"])
def test_in_version_1_two_merges_bring_back_who_left(version: str) -> None:
    """The first merge takes the first leave for the last one; against it, the join is later still."""
    scene = left_joined_and_left_again(version)
    left_again = scene.intended[member(BOB)]
    joined = cited_by(left_again, scene.graph, member(BOB))
    once = resolve_states(scene.version, scene.states, scene.graph)
    while_joined = changed(scene.intended, {member(BOB): joined})
    twice = resolve_states(scene.version, [once, while_joined], scene.graph)
    assert twice[member(BOB)] == (joined if version == "1" else left_again)


def cited_by(event: Event, graph: Graph, key: StateKey) -> Event:
    """The event at a key among those that an event cites."""
    (cited,) = [
        graph.events[event_id] for event_id in event.auth_event_ids if graph.events[event_id].key == key
    ]
    return cited


# Why it is


def test_version_2_1_has_no_mainline_where_nobody_disagrees_on_the_levels() -> None:
    """The same two names: with the levels in conflict too, the mainline is there and decides."""
    scene = by_name["name from a fast clock"].build("12")
    assert scene.expected(StateResolution.V2) == scene.intended
    assert scene.expected(StateResolution.V2_1) != scene.intended
    current, told = scene.states
    older = cited_by(scene.intended[LEVELS], scene.graph, LEVELS)
    told = changed(told, {LEVELS: older})
    assert resolve_states(scene.version, [current, told], scene.graph) == scene.intended


def test_version_2_1_keeps_those_who_joined_while_nobody_disagrees_on_the_join_rule() -> None:
    """Next to no state is what it takes to lose them: with the current join rule, they stay."""
    scene = by_name["next to no state"].build("12")
    current, told = scene.states
    told = changed(told, {RULES: scene.intended[RULES]})
    assert resolve_states(scene.version, [current, told], scene.graph) == scene.intended


@pytest.mark.parametrize("version", ["6", "11"])
def test_the_same_server_can_create_a_room_twice_until_version_12(version: str) -> None:
    first, second = Room(version), Room(version, content={"note": "again"})
    assert first.create.event_id != second.create.event_id
    assert first.room_id == second.room_id
    assert Room("12").room_id != Room("12", content={"note": "again"}).room_id
