"""Auth events selection, and the rule that considers an event's `auth_events`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from comity.protocol.auth import rules
from comity.protocol.auth.rules import auth_keys, authorize, check_auth_events
from comity.protocol.event import Event, StateKey
from comity.protocol.room_versions import ROOM_VERSIONS
from tests.rules.rooms import ALICE, ALL_VERSIONS, BOB, CAROL, Room, a_room, rule, versions

every_version = pytest.mark.parametrize("version", ALL_VERSIONS)

CREATE, LEVELS, RULES = ("m.room.create", ""), ("m.room.power_levels", ""), ("m.room.join_rules", "")


def member(user: str) -> StateKey:
    return "m.room.member", user


def selected(
    version: str, event_type: str, state_key: str | None = None, content: dict[str, Any] | None = None
) -> set[StateKey]:
    """The selection without the create event, which must be there just where the version wants it."""
    keys = auth_keys(ROOM_VERSIONS[version], event_type, ALICE, state_key, content or {})
    assert len(set(keys)) == len(keys)
    assert (CREATE in keys) is not ROOM_VERSIONS[version].room_id_is_create_hash
    return set(keys) - {CREATE}


@every_version
def test_create_events_cite_nothing(version: str) -> None:
    assert auth_keys(ROOM_VERSIONS[version], "m.room.create", ALICE, "", {}) == ()


@every_version
def test_most_events_cite_the_sender_and_the_levels(version: str) -> None:
    for event_type, state_key in [("m.room.message", None), ("m.room.topic", ""), LEVELS]:
        assert selected(version, event_type, state_key, {"membership": "join"}) == {LEVELS, member(ALICE)}


@every_version
@pytest.mark.parametrize("membership", ["join", "invite", "knock", "leave", "ban", "nonsense", None, 5])
def test_memberships(version: str, membership: object) -> None:
    keys = selected(version, "m.room.member", BOB, {"membership": membership})
    expected = {LEVELS, member(ALICE), member(BOB)}
    if membership in ("join", "invite", "knock"):
        expected.add(RULES)
    assert keys == expected
    assert selected(version, "m.room.member", None, {"membership": membership}) == expected - {member(BOB)}


@every_version
def test_third_party_invites(version: str) -> None:
    invite = {"membership": "invite", "third_party_invite": {"signed": {"token": "token"}}}
    plain = {LEVELS, member(ALICE), member(BOB), RULES}
    assert selected(version, "m.room.member", BOB, invite) == plain | {("m.room.third_party_invite", "token")}
    broken_ones: list[object] = [5, {}, {"signed": 5}, {"signed": {}}, {"signed": {"token": 5}}]
    for broken in broken_ones:
        assert selected(version, "m.room.member", BOB, {**invite, "third_party_invite": broken}) == plain
    assert selected(version, "m.room.member", BOB, {**invite, "membership": "join"}) == plain


@every_version
def test_restricted_joins(version: str) -> None:
    join: dict[str, Any] = {"membership": "join", "join_authorised_via_users_server": CAROL}
    plain = {LEVELS, member(ALICE), RULES}
    authorised = {member(CAROL)} if ROOM_VERSIONS[version].allows_restricted_joins else set()
    assert selected(version, "m.room.member", ALICE, join) == plain | authorised
    join["join_authorised_via_users_server"] = 5
    assert selected(version, "m.room.member", ALICE, join) == plain
    leave = {"membership": "leave", "join_authorised_via_users_server": CAROL}
    assert selected(version, "m.room.member", ALICE, leave) == {LEVELS, member(ALICE)}


@every_version
def test_the_rules_read_nothing_but_the_selection_and_the_create_event(version: str) -> None:
    room = a_room(version, BOB, CAROL, join_rule="knock_restricted")
    room.send(ALICE, "m.room.third_party_invite", {"public_key": "x"}, "token")
    events = [
        room.write(ALICE, "m.room.message", {}),
        room.write(ALICE, "m.room.redaction", {}, redacts="$x:a.example"),
        room.write(ALICE, "m.room.power_levels", {}, ""),
        room.write(ALICE, "m.room.third_party_invite", {}, "other"),
        room.membership("@d:d.example", "join", join_authorised_via_users_server=BOB, signers=["b.example"]),
        room.membership(ALICE, "invite", "@d:d.example", third_party_invite={
            "signed": {"token": "token", "mxid": "@d:d.example"}}),
        *(room.membership(BOB, membership, target)
          for membership in ("join", "invite", "leave", "ban", "knock") for target in (BOB, CAROL)),
    ]  # fmt: skip
    for event in events:
        read: set[StateKey] = set()

        def lookup(key: StateKey, read: set[StateKey] = read) -> Event | None:
            read.add(key)
            return room.state.get(key)

        authorize(event, lookup)
        keys = auth_keys(event.version, event.type, event.sender, event.state_key, event.content)
        assert read <= {*keys, CREATE}


# Considering the event's auth_events


def verdict(room: Room, event: Event, auth: Sequence[Event], create: Event | None = None) -> str | None:
    """The rule that denies, with `create` (or the room's own) as the event that the room id implies."""
    denial = check_auth_events(event, auth, room.graph.is_rejected, create or room.create)
    if event.type != "m.room.create":
        # What is asked once for many events that cite the same comes to the same.
        common = rules.cited(event.version, auth, room.graph.is_rejected, create or room.create)
        assert (common is not None and common.may_be_cited_by(event)) == (denial is None)
    return None if denial is None else denial.rule


def cited(room: Room, event: Event) -> list[Event]:
    return [room.graph.events[event_id] for event_id in event.auth_event_ids]


@every_version
def test_what_the_selection_gives_is_accepted(version: str) -> None:
    room = a_room(version, BOB)
    for event in room.graph.events.values():
        assert verdict(room, event, cited(room, event)) is None


@every_version
def test_two_of_a_kind(version: str) -> None:
    room = a_room(version)
    event = room.write(ALICE, "m.room.message", {})
    older = next(event for event in room.graph.events.values() if event.key == LEVELS)
    room.power_levels(ALICE, {})
    newer = room.state[LEVELS]
    assert verdict(room, event, [*cited(room, event), newer]) == rule(version, "1:2.1 12:3.1")
    assert verdict(room, event, [*cited(room, event), older]) == rule(version, "1:2.1 12:3.1")


@every_version
def test_what_may_not_be_cited(version: str) -> None:
    room = a_room(version, BOB)
    event = room.write(ALICE, "m.room.message", {})
    for other in (room.state[RULES], room.state[member(BOB)], room.write(ALICE, "m.room.message", {})):
        assert verdict(room, event, [*cited(room, event), other]) == rule(version, "1:2.2 12:3.2")


@pytest.mark.parametrize("version", versions(room_id_is_create_hash=True))
def test_the_create_event_may_not_be_cited_in_version_12(version: str) -> None:
    room = a_room(version)
    event = room.write(ALICE, "m.room.message", {})
    assert verdict(room, event, [*cited(room, event), room.create]) == rule(version, "12:3.2")


@every_version
def test_what_was_rejected_may_not_be_cited(version: str) -> None:
    room = a_room(version)
    event = room.write(ALICE, "m.room.message", {})
    room.graph.rejected.add(room.state[LEVELS].event_id)
    assert verdict(room, event, cited(room, event)) == rule(version, "1:2.3 12:3.3")


@pytest.mark.parametrize("version", versions(room_id_is_create_hash=False))
def test_the_create_event_must_be_cited(version: str) -> None:
    room = a_room(version)
    event = room.write(ALICE, "m.room.message", {})
    assert verdict(room, event, cited(room, event)[1:]) == rule(version, "1:2.4")
    assert verdict(room, event, []) == rule(version, "1:2.4")


@pytest.mark.parametrize("version", versions(room_id_is_create_hash=True))
def test_the_room_id_must_be_that_of_an_accepted_create_event(version: str) -> None:
    room, other = a_room(version), Room(version, creator=BOB)
    event = room.write(ALICE, "m.room.message", {})
    auth = cited(room, event)
    denial = check_auth_events(event, auth, room.graph.is_rejected, None)
    assert denial is not None
    assert denial.rule == rule(version, "12:2")
    assert verdict(room, event, auth, create=other.create) == rule(version, "12:2")
    assert verdict(room, event, auth, create=room.state[LEVELS]) == rule(version, "12:2")
    room.graph.rejected.add(room.create.event_id)
    assert verdict(room, event, auth) == rule(version, "12:2")


@every_version
def test_auth_events_of_another_room(version: str) -> None:
    room = a_room(version)
    other = Room(version, creator="@alice:z.example")
    foreign = other.write(ALICE, "m.room.member", {"membership": "join"}, ALICE)
    event = room.write(ALICE, "m.room.message", {})
    auth = [auth for auth in cited(room, event) if auth.type != "m.room.member"]
    assert verdict(room, event, [*auth, foreign]) == rule(version, "1:2.5 12:3.5")
