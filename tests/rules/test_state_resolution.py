"""State resolution in all its versions: rooms/v1, v2 and v12 §State resolution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from comity.protocol.event import Event, StateKey
from comity.protocol.room_versions import ROOM_VERSIONS
from comity.protocol.state_resolution.graph import auth_difference, conflicted_subgraph, separate
from comity.protocol.state_resolution.ordering import (
    Mainline,
    behind_in,
    cited_power_levels,
    mainline_order,
    power_order,
)
from comity.protocol.state_resolution.resolve import resolve
from tests.rules.rooms import (
    ALICE,
    ALL_VERSIONS,
    BOB,
    CAROL,
    DAVE,
    Graph,
    a_room,
    merge,
    resolve_states,
)

every_version = pytest.mark.parametrize("version", ALL_VERSIONS)
modern_versions = pytest.mark.parametrize("version", [version for version in ALL_VERSIONS if version != "1"])
version_2_alone = pytest.mark.parametrize("version", [v for v in ALL_VERSIONS if v not in ("1", "12")])

LEVELS: StateKey = ("m.room.power_levels", "")
RULES: StateKey = ("m.room.join_rules", "")
TOPIC: StateKey = ("m.room.topic", "")


def member(user: str) -> StateKey:
    return "m.room.member", user


# The sets that the algorithm starts from


def an_event(event_id: str, auth: Sequence[str] = (), **fields: Any) -> Event:
    """An event that is nothing but a place in the graph."""
    source = {
        "type": "m.room.topic",
        "state_key": "",
        "sender": ALICE,
        "room_id": "!room:a.example",
        "content": {},
        "depth": 1,
        "origin_server_ts": 0,
        "prev_events": [],
        "auth_events": list(auth),
        **fields,
    }
    return Event(ROOM_VERSIONS["6"], source, event_id=event_id)


def a_graph(edges: Mapping[str, str]) -> Graph:
    """A graph of events named by letters: `{"b": "a"}` is b, which cites a."""
    graph = Graph()
    for event_id, auth in edges.items():
        graph.events[event_id] = an_event(event_id, auth)
    return graph


def test_separate() -> None:
    keys: list[StateKey] = [("type", str(number)) for number in range(4)]
    one = {keys[0]: "$a", keys[1]: "$b", keys[2]: "$c"}
    two = {keys[0]: "$a", keys[1]: "$x", keys[3]: "$d"}
    unconflicted, conflicted = separate([one, two])
    assert unconflicted == {keys[0]: "$a"}
    assert conflicted == {keys[1]: {"$b", "$x"}, keys[2]: {"$c"}, keys[3]: {"$d"}}
    assert separate([one]) == (one, {})
    assert separate([]) == ({}, {})
    assert separate([one, {}]) == ({}, {key: {event_id} for key, event_id in one.items()})


def test_auth_difference() -> None:
    graph = a_graph({"a": "", "b": "a", "c": "b", "d": "b", "e": "d", "f": "e", "z": ""})
    assert auth_difference([{"c"}, {"e"}], graph) == {"c", "d", "e"}
    assert auth_difference([{"c"}, {"f"}, {"e"}], graph) == {"c", "d", "e", "f"}
    # An event that every set holds or stands on is in every chain.
    assert auth_difference([{"e", "f"}, {"e"}], graph) == {"f"}
    assert auth_difference([{"b"}, {"c"}], graph) == {"c"}
    assert auth_difference([{"c"}], graph) == set()
    assert auth_difference([], graph) == set()
    assert auth_difference([{"c"}, set()], graph) == {"a", "b", "c"}
    # What is not known is no part of it.
    assert auth_difference([{"z", "missing"}, {"a"}], graph) == {"a", "z"}


def test_conflicted_subgraph() -> None:
    #      a ← b ← c ← d ← e
    #           ↖ x ↙       ↖ y
    graph = a_graph({"a": "", "b": "a", "c": "b", "x": "b", "d": "cx", "e": "d", "y": "e"})
    assert conflicted_subgraph({"b", "e"}, graph) == {"b", "c", "x", "d", "e"}
    assert conflicted_subgraph({"c", "d"}, graph) == {"c", "d"}
    assert conflicted_subgraph({"c", "x"}, graph) == {"c", "x"}
    assert conflicted_subgraph({"x", "y"}, graph) == {"x", "d", "e", "y"}
    assert conflicted_subgraph({"a", "x", "y"}, graph) == set(graph.events)
    assert conflicted_subgraph({"e"}, graph) == {"e"}
    assert conflicted_subgraph(set(), graph) == set()
    assert conflicted_subgraph({"missing", "a"}, graph) == {"a"}
    # A cycle, which event ids of room versions 1 and 2 allow, does no harm.
    graph = a_graph({"a": "b", "b": "a", "c": "b"})
    assert conflicted_subgraph({"c", "a"}, graph) == {"a", "b", "c"}


# The orders


def test_power_order_puts_power_then_age_then_id_first() -> None:
    room = a_room("10", BOB, CAROL, powers={BOB: 50})
    events = {
        event.event_id: event
        for event in (
            room.write(CAROL, "a", {}, "", ts=1),
            room.write(BOB, "a", {}, "", ts=5),
            room.write(ALICE, "a", {}, "", ts=9),
            room.write(BOB, "b", {}, "", ts=4),
            *(room.write(BOB, "c", {"n": number}, "", ts=6) for number in range(3)),
        )
    }
    ordered = power_order(events, room.create, room.graph)
    assert [event.sender for event in ordered] == [ALICE, *[BOB] * 5, CAROL]
    assert [event.origin_server_ts for event in ordered[1:6]] == [4, 5, 6, 6, 6]
    assert [event.event_id for event in ordered[3:6]] == sorted(event.event_id for event in ordered[3:6])
    assert power_order(dict(reversed(events.items())), room.create, room.graph) == ordered


def test_power_order_puts_causes_before_effects() -> None:
    room = a_room("10", BOB)
    weak = room.join(BOB, displayname="cause", ts=100)
    strong = room.kick(ALICE, BOB, ts=1)
    assert weak.event_id in strong.auth_event_ids
    events = {event.event_id: event for event in (strong, weak)}
    assert power_order(events, room.create, room.graph) == [weak, strong]


def test_a_cycle_is_left_out_of_the_power_order() -> None:
    graph = a_graph({"a": "b", "b": "a", "c": "", "d": "a"})
    assert power_order(graph.events, None, graph) == [graph.events["c"]]


def test_mainline_order() -> None:
    room = a_room("10", BOB, powers={BOB: 50})
    oldest = room.write(BOB, "m.room.topic", {"from": "oldest"}, "", ts=9)
    aside = room.fork()
    newer = room.powers(ALICE, {ALICE: 100, BOB: 51})
    middle = room.write(BOB, "m.room.topic", {"from": "middle"}, "", ts=5)
    middle_too = room.write(BOB, "m.room.topic", {"from": "middle too"}, "", ts=4)
    newest_levels = room.powers(ALICE, {ALICE: 100, BOB: 52})
    newest = room.write(BOB, "m.room.topic", {"from": "newest"}, "", ts=1)
    # It cites power levels beside the mainline, which stand on the oldest of it.
    aside.powers(ALICE, {ALICE: 100, BOB: 40})
    aside.powers(ALICE, {ALICE: 100, BOB: 41})
    beside = aside.write(ALICE, "m.room.topic", {"from": "beside"}, "", ts=8)
    nowhere = room.write(ALICE, "m.room.topic", {"from": "nowhere"}, "", auth=[room.create], ts=99)
    events = [newest, middle, oldest, nowhere, beside, middle_too]
    expected = [nowhere, beside, oldest, middle_too, middle, newest]
    for given in (events, list(reversed(events))):
        assert mainline_order(given, newest_levels, room.graph) == expected
    assert mainline_order(events, None, room.graph) == sorted(
        events, key=lambda event: (event.origin_server_ts, event.event_id)
    )
    mainline = Mainline(newest_levels.event_id, behind_in(room.graph))
    cited = [cited_power_levels(event, room.graph) for event in (newest, middle, oldest, beside, newer)]
    # A power levels event itself is where what it cites stands.
    assert [mainline.position(event.event_id) for event in cited if event] == [0, 1, 2, 2, 2]
    assert mainline.position(None) == float("inf")


def test_a_mainline_in_a_circle_ends() -> None:
    graph = Graph()
    for event_id, auth in {"p": "q", "q": "p", "r": "s", "s": "r"}.items():
        graph.events[event_id] = an_event(event_id, [auth], type="m.room.power_levels")
    mainline = Mainline("p", behind_in(graph))
    # Both are on it, and which is nearer has no meaning in a circle.
    assert mainline.position("q") in (0, 1)
    assert mainline.position("r") == float("inf")


# What no version differs in


@every_version
def test_equal_states_stay_as_they_are(version: str) -> None:
    room = a_room(version, BOB)
    assert resolve_states(room.version, [room.state, dict(room.state)], room.graph) == room.state
    assert resolve_states(room.version, [room.state], room.graph) == room.state


@every_version
def test_branches_that_do_not_meet_are_joined(version: str) -> None:
    left = a_room(version, BOB)
    right = left.fork()
    left.send(ALICE, "m.room.topic", {"topic": "t"}, "")
    right.send(ALICE, "m.room.name", {"name": "n"}, "")
    right.join(CAROL)
    assert merge(left, right) == {**left.state, **right.state}


@every_version
def test_a_ban_on_one_side_beats_what_the_banned_did_on_the_other(version: str) -> None:
    left = a_room(version, BOB, powers={BOB: 50})
    right = left.fork()
    ban = left.ban(ALICE, BOB)
    right.join(BOB, displayname="Bobby")
    merged = merge(left, right)
    assert merged[member(BOB)] == ban


@modern_versions
def test_a_ban_takes_the_topic_back(version: str) -> None:
    left = a_room(version, BOB, powers={BOB: 50})
    right = left.fork()
    ban = left.ban(ALICE, BOB)
    right.send(BOB, "m.room.topic", {"topic": "mine"}, "")
    merged = merge(left, right)
    assert merged[member(BOB)] == ban
    assert TOPIC not in merged


def test_in_version_1_the_topic_of_the_banned_stays() -> None:
    left = a_room("1", BOB, powers={BOB: 50})
    right = left.fork()
    left.ban(ALICE, BOB)
    topic = right.send(BOB, "m.room.topic", {"topic": "mine"}, "")
    assert merge(left, right)[TOPIC] == topic


@every_version
def test_closing_the_room_beats_joining_it(version: str) -> None:
    left = a_room(version)
    right = left.fork()
    closed = left.join_rules(ALICE, "invite")
    join = right.join(BOB)
    merged = merge(left, right)
    assert merged[RULES] == closed
    if version == "1":
        # Nobody disagrees over Bob there, so that nobody asks whether he may.
        assert merged[member(BOB)] == join
    else:
        assert member(BOB) not in merged


@modern_versions
@pytest.mark.parametrize("ban_is_first", [True, False])
def test_the_more_powerful_comes_first_whatever_the_clocks_say(version: str, ban_is_first: bool) -> None:
    left = a_room(version, BOB, CAROL, DAVE, powers={BOB: 60, CAROL: 50})
    right = left.fork()
    ban = left.ban(BOB, CAROL, ts=2 if ban_is_first else 9)
    right.kick(CAROL, DAVE, ts=5)
    merged = merge(left, right)
    assert merged[member(CAROL)] == ban
    assert merged[member(DAVE)].membership == "join"


@modern_versions
@pytest.mark.parametrize("alice_is_first", [True, False])
def test_equals_who_change_the_levels_at_once(version: str, alice_is_first: bool) -> None:
    left = a_room(version, BOB, CAROL, powers={BOB: 90, CAROL: 90}, events={"m.room.power_levels": 50})
    right = left.fork()
    now = left.graph.clock
    base = dict(left.state[LEVELS].content["users"])
    bobs = left.power_levels(BOB, {"users": {**base, BOB: 40}}, ts=now + (1 if alice_is_first else 9))
    carols = right.power_levels(CAROL, {"users": {**base, CAROL: 40}}, ts=now + 5)
    # Whoever is first is held to the new levels; the other comes after and is last.
    assert merge(left, right)[LEVELS] == (carols if alice_is_first else bobs)


@modern_versions
def test_a_demotion_beats_what_the_demoted_did(version: str) -> None:
    left = a_room(version, BOB, powers={BOB: 50}, events={"m.room.power_levels": 50})
    right = left.fork()
    base = dict(left.state[LEVELS].content["users"])
    demotion = left.power_levels(ALICE, {"users": {**base, BOB: 0}})
    right.power_levels(BOB, {"users": {**base, CAROL: 50}}, ts=1)
    right.send(BOB, "m.room.topic", {}, "")
    merged = merge(left, right)
    assert merged[LEVELS] == demotion
    assert TOPIC not in merged


@modern_versions
def test_the_newer_mainline_wins_over_the_newer_clock(version: str) -> None:
    left = a_room(version, BOB, powers={BOB: 50})
    right = left.fork()
    base = dict(left.state[LEVELS].content["users"])
    left.power_levels(ALICE, {"users": {**base, CAROL: 10}})
    newer = left.send(BOB, "m.room.topic", {"topic": "newer"}, "", ts=1)
    right.send(BOB, "m.room.topic", {"topic": "older"}, "", ts=2**40)
    assert merge(left, right)[TOPIC] == newer


@every_version
def test_of_three_branches(version: str) -> None:
    first = a_room(version, BOB, CAROL, powers={BOB: 50})
    second, third = first.fork(), first.fork()
    first.send(BOB, "m.room.topic", {"n": 1}, "")
    ban = second.ban(ALICE, BOB)
    third.join(CAROL, displayname="C")
    merged = merge(first, second, third)
    assert merged[member(BOB)] == ban
    assert merged[member(CAROL)] == third.state[member(CAROL)]
    assert (TOPIC in merged) is (version == "1")


# What is missing or rejected


@modern_versions
def test_auth_events_that_nobody_has_are_passed_over(version: str) -> None:
    left = a_room(version, BOB, powers={BOB: 50})
    right = left.fork()
    ban = left.ban(ALICE, BOB)
    right.join(BOB, displayname="Bobby")
    gone = next(event for event in left.graph.events.values() if event.type == "m.room.power_levels")
    states = [left.state, right.state]
    for state in states:
        del state[gone.key]
    del left.graph.events[gone.event_id]
    merged = resolve_states(left.version, states, left.graph)
    # Without power levels Alice is still the creator.
    assert merged[member(BOB)] == ban


@pytest.mark.parametrize("version", ["2", "11", "12"])
def test_rejected_auth_events_authorize_nothing(version: str) -> None:
    room = a_room(version, join_rule="invite")
    without = dict(room.state)
    invite = room.invite(ALICE, BOB)
    join = room.join(BOB)
    assert member(BOB) in resolve_states(room.version, [room.state, without], room.graph)
    room.graph.rejected.add(invite.event_id)
    # The invite is judged anew as a conflicted event, if it is one. Here it is none.
    ids = [{event.event_id for event in state.values()} for state in (room.state, without)]
    difference = auth_difference(ids, room.graph)
    resolved = resolve(
        room.version,
        unconflicted=without.get,
        conflicted={member(BOB): [join]},
        auth_difference=difference - {invite.event_id},
        graph=room.graph,
    )
    assert resolved == {}


def test_a_set_without_the_create_event_does_not_end_the_room() -> None:
    for version in ALL_VERSIONS:
        room = a_room(version, BOB)
        merged = resolve_states(room.version, [room.state, {}], room.graph)
        assert merged == room.state


@pytest.mark.parametrize("version", ["2", "12"])
def test_chains_of_any_length_are_walked(version: str) -> None:
    room = a_room(version, BOB, powers={BOB: 50})
    graph, levels = room.graph, room.state[LEVELS]
    older = dict(room.state)
    source = {**levels.source, "content": levels.content}
    hashes: list[Any] = [levels.event_id]
    for number in range(20_000):
        auth = [*levels.auth_event_ids, hashes[-1]]
        references = [[event_id, {}] for event_id in auth] if room.version.references_carry_hashes else auth
        levels_now = {**source, "auth_events": references, "origin_server_ts": number}
        event = Event(room.version, levels_now, event_id=f"${number}:a.example")
        graph.events[event.event_id] = event
        hashes.append(event.event_id)
    room.state[LEVELS] = graph.events[hashes[-1]]
    topic = room.send(BOB, "m.room.topic", {}, "")
    merged = resolve_states(room.version, [room.state, older], graph)
    assert merged[LEVELS] == room.state[LEVELS]
    assert merged[TOPIC] == topic


# Version 1


def test_version_1_follows_the_depth() -> None:
    room = a_room("1", BOB, CAROL, powers={BOB: 50, CAROL: 50})
    left, right = room, room.fork()
    older = left.send(BOB, "m.room.topic", {"n": 1}, "")
    right.send(CAROL, "m.room.message", {})
    deeper = right.send(CAROL, "m.room.topic", {"n": 2}, "", ts=1)
    assert older.depth < deeper.depth
    assert merge(left, right)[TOPIC] == deeper
    # The deepest that is allowed.
    left.kick(ALICE, CAROL)
    right.state[member(CAROL)] = left.state[member(CAROL)]
    assert merge(left, right)[TOPIC] == older


def test_version_1_stops_at_the_first_levels_that_are_not_allowed() -> None:
    left = a_room("1", BOB, CAROL, powers={BOB: 50}, events={"m.room.power_levels": 50})
    right, third = left.fork(), left.fork()
    users = dict(left.state[LEVELS].content["users"])
    first = left.power_levels(ALICE, {"users": {**users, BOB: 10}})
    right.send(BOB, "m.room.message", {})
    right.power_levels(BOB, {"users": {**users, CAROL: 50}, "events": {"m.room.power_levels": 50}})
    assert merge(left, right)[LEVELS] == first
    for _ in range(5):
        third.send(ALICE, "m.room.message", {})
    third.power_levels(ALICE, {"users": users})
    # Alice's later levels come after Bob's, which are not allowed, and are not looked at.
    assert merge(left, right, third)[LEVELS] == first
    assert merge(left, third)[LEVELS] == third.state[LEVELS]


def test_version_1_keeps_the_shallowest_where_none_is_allowed() -> None:
    room = a_room("1", BOB, CAROL, powers={BOB: 50, CAROL: 50})
    left, right = room, room.fork()
    shallow = left.send(BOB, "m.room.topic", {"n": 1}, "")
    right.send(CAROL, "m.room.message", {})
    right.send(CAROL, "m.room.topic", {"n": 2}, "")
    for user in (BOB, CAROL):
        left.kick(ALICE, user)
        right.state[member(user)] = left.state[member(user)]
    assert merge(left, right)[TOPIC] == shallow


# Where 2.1 differs from 2 (rooms/v12 §State resolution)


@modern_versions
def test_a_join_is_judged_by_the_rule_it_was_made_under(version: str) -> None:
    """The room was public when Bob and Carol came. A server then forgets that Bob did."""
    room = a_room(version, CAROL)
    join = room.join(BOB)
    room.join_rules(ALICE, "invite")
    forgetful = {key: event for key, event in room.state.items() if key != member(BOB)}
    merged = resolve_states(room.version, [room.state, forgetful], room.graph)
    if version == "12":
        assert merged[member(BOB)] == join
    else:
        # Version 2 starts from the unconflicted state, in which the room is closed. The rule of
        # old is not replayed, because Carol's join stands on it in both states.
        assert member(BOB) not in merged


@modern_versions
def test_the_events_between_conflicted_ones_are_replayed(version: str) -> None:
    """Levels 1, 2 and 3 follow each other; a server has a state with 1 and what 2 allowed."""
    room = a_room(version, BOB, CAROL, events={"m.room.power_levels": 50, "m.room.topic": 50})
    first = room.state[LEVELS]
    users = dict(first.content["users"])
    rest = {name: value for name, value in first.content.items() if name != "users"}
    second = room.power_levels(ALICE, {"users": {**users, BOB: 50}, **rest})
    room.send(BOB, "m.room.topic", {}, "")
    third = room.power_levels(BOB, {"users": {**users, BOB: 50, CAROL: 10}, **rest})
    stale = {**room.state, LEVELS: first}
    ids = [{event.event_id for event in state.values()} for state in (stale, room.state)]
    # Both states stand on the second levels, because of the topic: no difference shows them.
    assert second.event_id not in auth_difference(ids, room.graph)
    merged = resolve_states(room.version, [stale, room.state], room.graph)
    assert merged[LEVELS] == (third if version == "12" else first)


def test_the_caller_may_know_the_subgraph() -> None:
    room = a_room("12", BOB, events={"m.room.power_levels": 50})
    before = dict(room.state)
    room.power_levels(ALICE, {"users": {BOB: 50}})
    levels = [before[LEVELS], room.state[LEVELS]]
    unconflicted = {key: event for key, event in room.state.items() if key != LEVELS}
    for subgraph in (None, [event.event_id for event in levels]):
        resolved = resolve(
            room.version,
            unconflicted=unconflicted.get,
            conflicted={LEVELS: levels},
            auth_difference=[room.state[LEVELS].event_id],
            graph=room.graph,
            subgraph=subgraph,
        )
        assert resolved == {LEVELS: room.state[LEVELS]}


@version_2_alone
def test_chains_are_followed_inside_the_conflict_alone(version: str) -> None:
    """An event that a power event cites by way of an unconflicted one is not replayed early."""
    room = a_room(version, BOB, powers={BOB: 100})
    levels = room.state[LEVELS]
    first_name = room.join(BOB, displayname="first")
    bobs_levels = room.power_levels(BOB, {"users": {ALICE: 100, BOB: 100}})
    assert first_name.event_id in bobs_levels.auth_event_ids
    left, right = room, room.fork()
    left.ban(ALICE, CAROL)
    # By its levels and its clock the second name is no later than the first.
    auth = [room.create, levels, room.state[RULES], first_name]
    content = {"membership": "join", "displayname": "second"}
    right.send(BOB, "m.room.member", content, BOB, auth=auth, ts=1)
    assert merge(left, right)[member(BOB)] == first_name
