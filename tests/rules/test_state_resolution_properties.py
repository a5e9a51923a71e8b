"""What must hold of state resolution in every room, whatever happened there."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comity.protocol.auth.rules import authorize
from comity.protocol.event import Event, StateKey
from comity.protocol.state_resolution.graph import auth_difference, conflicted_subgraph, separate
from comity.protocol.state_resolution.ordering import Mainline, power_order
from tests.rules.rooms import ALICE, BOB, CAROL, DAVE, Room, a_room, resolve_states

USERS = (ALICE, BOB, CAROL, DAVE)
VERSIONS = ("1", "2", "6", "10", "12")
State = dict[StateKey, Event]
Step = tuple[str, str, str, int]
Plan = Sequence[Sequence[Step]]

#: What one may try: (what, who, to whom, how much). The rules decide whether it happens.
steps = st.tuples(
    st.sampled_from(["join", "leave", "kick", "ban", "invite", "levels", "rules", "topic"]),
    st.sampled_from(USERS),
    st.sampled_from(USERS),
    st.sampled_from([0, 25, 50, 75, 100]),
)
branches = st.lists(st.lists(steps, max_size=8), min_size=2, max_size=4)
examples = settings(max_examples=40, deadline=None)


def attempt(room: Room, what: str, who: str, whom: str, level: int) -> Event:
    """The event of one step, written only; its clock is a little wrong, as clocks are."""
    ts = room.graph.clock + (level - 50) * 100
    if what in ("join", "leave"):
        return room.membership(who, what, ts=ts, displayname=str(level))
    if what in ("kick", "ban", "invite"):
        return room.membership(who, "leave" if what == "kick" else what, whom, ts=ts)
    if what == "levels":
        content = dict(room.state["m.room.power_levels", ""].content)
        users = {**content["users"], whom: level}
        if room.version.creators_have_infinite_power:
            users.pop(ALICE, None)
        return room.write(who, "m.room.power_levels", {**content, "users": users}, "", ts=ts)
    if what == "rules":
        rule = "public" if level < 50 else "invite"
        return room.write(who, "m.room.join_rules", {"join_rule": rule}, "", ts=ts)
    return room.write(who, "m.room.topic", {"topic": str(level)}, "", ts=ts)


def grow(version: str, plan: Plan) -> tuple[Room, list[State]]:
    """A room that branched as planned, and the state after each branch."""
    trunk = a_room(version, BOB, CAROL, powers={BOB: 50, CAROL: 50}, events={"m.room.power_levels": 50})
    states = []
    for branch in plan:
        room = trunk.fork()
        for step in branch:
            event = attempt(room, *step)
            if authorize(event, room.state.get) is None:
                room.add(event)
        states.append(room.state)
    return trunk, states


@pytest.mark.parametrize("version", VERSIONS)
@given(plan=branches, seed=st.integers(0, 2**32))
@examples
def test_the_order_of_the_states_means_nothing(version: str, plan: Plan, seed: int) -> None:
    room, states = grow(version, plan)
    expected = resolve_states(room.version, states, room.graph)
    shuffled = list(states)
    random.Random(seed).shuffle(shuffled)
    # The order of a state's own entries means no more, nor does a state that is given twice.
    turned = [dict(reversed(state.items())) for state in shuffled]
    assert resolve_states(room.version, turned, room.graph) == expected
    assert resolve_states(room.version, [*states, states[0]], room.graph) == expected


@pytest.mark.parametrize("version", VERSIONS)
@given(plan=branches)
@examples
def test_what_all_agree_on_stays(version: str, plan: Plan) -> None:
    room, states = grow(version, plan)
    resolved = resolve_states(room.version, states, room.graph)
    for key, event in resolved.items():
        assert event.key == key
        assert room.graph.events[event.event_id] is event
    for key, event in states[0].items():
        if all(state.get(key) is event for state in states):
            assert resolved[key] is event


@pytest.mark.parametrize("version", VERSIONS)
@given(plan=branches)
@examples
def test_what_is_resolved_stays_resolved(version: str, plan: Plan) -> None:
    room, states = grow(version, plan)
    resolved = resolve_states(room.version, states, room.graph)
    assert resolve_states(room.version, [resolved], room.graph) == resolved
    assert resolve_states(room.version, [resolved, dict(resolved)], room.graph) == resolved


@pytest.mark.parametrize("version", VERSIONS)
@given(branch=st.lists(steps, max_size=12))
@examples
def test_without_a_conflict_nothing_changes(version: str, branch: list[Step]) -> None:
    room, states = grow(version, [branch, branch[:0]])
    assert resolve_states(room.version, [states[0]] * 3, room.graph) == states[0]


@pytest.mark.parametrize("version", ["2", "12"])
@given(plan=branches)
@examples
def test_the_power_order_is_topological_and_does_not_depend_on_the_input(version: str, plan: Plan) -> None:
    room, _ = grow(version, plan)
    ordered = power_order(room.graph.events, room.create, room.graph)
    assert {event.event_id for event in ordered} == set(room.graph.events)
    places = {event.event_id: place for place, event in enumerate(ordered)}
    for event in ordered:
        assert all(places[auth_id] < places[event.event_id] for auth_id in event.auth_event_ids)
    reversed_events = dict(reversed(room.graph.events.items()))
    assert power_order(reversed_events, room.create, room.graph) == ordered


def chain(room: Room, event_ids: set[str]) -> set[str]:
    """The events that those reach, by the plainest means."""
    found = set(event_ids)
    while True:
        more = {auth_id for event_id in found for auth_id in room.graph.events[event_id].auth_event_ids}
        if more <= found:
            return found
        found |= more


@pytest.mark.parametrize("version", ["2", "12"])
@given(plan=branches)
@examples
def test_the_sets_are_what_their_definitions_say(version: str, plan: Plan) -> None:
    room, states = grow(version, plan)
    ids = [{key: event.event_id for key, event in state.items()} for state in states]
    chains = [chain(room, set(state.values())) for state in ids]
    everything: set[str] = set().union(*chains)
    expected = {event_id for event_id in everything if not all(event_id in found for found in chains)}
    assert auth_difference([state.values() for state in ids], room.graph) == expected
    unconflicted, conflicted = separate(ids)
    assert unconflicted.keys() | conflicted.keys() == {key for state in ids for key in state}
    assert all(all(state.get(key) == value for state in ids) for key, value in unconflicted.items())
    assert not any(len({state.get(key) for state in ids}) == 1 for key in conflicted)
    ends = {event_id for candidates in conflicted.values() for event_id in candidates}
    above = chain(room, ends)
    assert conflicted_subgraph(ends, room.graph) == {
        event_id for event_id in above if chain(room, {event_id}) & ends
    }


@given(
    behind=st.lists(st.integers(0, 30), min_size=31, max_size=31),
    start=st.integers(0, 30),
    asked=st.lists(st.integers(0, 30), max_size=8),
)
def test_the_mainline_position_is_that_of_the_first_event_on_it(
    behind: list[int], start: int, asked: list[int]
) -> None:
    # Each number leads to a smaller one, or (at 0) nowhere: a forest of lines of power levels.
    leads = {str(n): str(behind[n] % n) if n and behind[n] % 5 else None for n in range(31)}

    def line(first: str | None) -> list[str]:
        found = []
        while first is not None:
            found.append(first)
            first = leads[first]
        return found

    on_it = line(str(start))
    mainline = Mainline(str(start), leads.__getitem__)
    for number in asked:
        expected = next((on_it.index(n) for n in line(str(number)) if n in on_it), float("inf"))
        assert mainline.position(str(number)) == expected
