"""The authorization rules of every room version, each rule in both directions (rooms/v1–v12)."""

from __future__ import annotations

from typing import Any

import pytest

from comity.protocol.auth.rules import authorize
from comity.protocol.event import Event
from comity.protocol.room_versions import ROOM_VERSIONS
from tests.rules.rooms import (
    ALICE,
    ALL_VERSIONS,
    BOB,
    CAROL,
    DAVE,
    Room,
    a_room,
    assert_allowed,
    assert_denied,
    rule,
    versions,
)

every_version = pytest.mark.parametrize("version", ALL_VERSIONS)


def a_create(version: str, sender: str = ALICE, **changes: Any) -> Event:
    """A create event whose source differs from a good one by `changes` (None removes)."""
    source = {**Room(version).create.source, "sender": sender}
    for name, value in changes.items():
        if value is None:
            source.pop(name)
        else:
            source[name] = value
    return Event(ROOM_VERSIONS[version], source, event_id="$create:a.example")


def nothing(_: object) -> None:
    """The state of a room before its first event."""


# Rule 1


@every_version
def test_a_create_event_is_allowed(version: str) -> None:
    assert authorize(Room(version).create, nothing) is None


@every_version
def test_a_create_event_with_previous_events(version: str) -> None:
    before = "$before:a.example"
    prev = [[before, {}]] if ROOM_VERSIONS[version].references_carry_hashes else [before]
    denial = authorize(a_create(version, prev_events=prev), nothing)
    assert denial is not None
    assert denial.rule == rule(version, "1:1.1")


@pytest.mark.parametrize("version", versions(room_id_is_create_hash=False))
def test_a_create_event_for_a_room_id_of_another_server(version: str) -> None:
    denial = authorize(a_create(version, sender=BOB), nothing)
    assert denial is not None
    assert denial.rule == rule(version, "1:1.2")


@pytest.mark.parametrize("version", versions(room_id_is_create_hash=True))
def test_a_create_event_that_chooses_its_room_id(version: str) -> None:
    denial = authorize(a_create(version, room_id="!room:a.example"), nothing)
    assert denial is not None
    assert denial.rule == rule(version, "12:1.2")


@every_version
@pytest.mark.parametrize("unknown", ["nonsense", "0", 12, None, ["1"], True])
def test_a_create_event_of_an_unknown_room_version(version: str, unknown: object) -> None:
    room = Room(version)
    denial = authorize(a_create(version, content={**room.create.content, "room_version": unknown}), nothing)
    assert denial is not None
    assert denial.rule == rule(version, "1:1.3")


@every_version
def test_a_create_event_without_creator(version: str) -> None:
    content = {name: value for name, value in Room(version).create.content.items() if name != "creator"}
    denial = authorize(a_create(version, content=content), nothing)
    if ROOM_VERSIONS[version].creator_is_sender:
        assert denial is None
    else:
        assert denial is not None
        assert denial.rule == rule(version, "1:1.4")


@every_version
@pytest.mark.parametrize(
    ("additional", "valid"),
    [([], True), ([BOB, CAROL], True), ([BOB, BOB], True), (BOB, False), ([5], False), (["bob"], False),
     (["@bob"], False), ([BOB, "@b:no server"], False), ({BOB: 1}, False), (None, False)],
)  # fmt: skip
def test_additional_creators(version: str, additional: object, valid: bool) -> None:
    content = {**Room(version).create.content, "additional_creators": additional}
    denial = authorize(a_create(version, content=content), nothing)
    if valid or not ROOM_VERSIONS[version].creators_have_infinite_power:
        assert denial is None
    else:
        assert denial is not None
        assert denial.rule == rule(version, "12:1.4")


# What every other event needs of the room


@every_version
def test_without_a_create_event_nothing_is_allowed(version: str) -> None:
    room = a_room(version)
    denial = authorize(room.write(ALICE, "m.room.message", {}), nothing)
    assert denial is not None
    assert denial.rule == rule(version, "1:2.4 12:2")


@every_version
@pytest.mark.parametrize(("federate", "allowed"), [(False, False), (True, True), (None, True), (0, True)])
def test_m_federate(version: str, federate: object, allowed: bool) -> None:
    room = Room(version, content={"m.federate": federate})
    room.join(ALICE)
    room.join_rules(ALICE, "public")
    assert_allowed(room, room.membership("@neighbour:a.example", "join"))
    stranger = room.membership(BOB, "join")
    if allowed:
        assert_allowed(room, stranger)
    else:
        assert_denied(room, stranger, "1:3 12:4")


@pytest.mark.parametrize("version", versions(aliases_have_rule=True))
def test_aliases_of_old(version: str) -> None:
    room = a_room(version)
    # Whoever sends them need not be in the room.
    assert_allowed(room, room.write(BOB, "m.room.aliases", {"aliases": []}, "b.example"))
    assert_denied(room, room.write(BOB, "m.room.aliases", {"aliases": []}, "a.example"), "1:4.2")
    assert_denied(room, room.write(BOB, "m.room.aliases", {"aliases": []}), "1:4.1")


@pytest.mark.parametrize("version", versions(aliases_have_rule=False))
def test_aliases_are_state_like_any_other_later(version: str) -> None:
    room = a_room(version, BOB)
    assert_allowed(room, room.write(ALICE, "m.room.aliases", {"aliases": []}, "b.example"))
    assert_denied(room, room.write(BOB, "m.room.aliases", {"aliases": []}, "b.example"), "6:7 12:8")
    assert_denied(room, room.write(CAROL, "m.room.aliases", {"aliases": []}, "c.example"), "6:5 12:6")


# The rules after the one on memberships


@every_version
@pytest.mark.parametrize("membership", ["leave", "invite", "ban", None])
def test_only_members_send(version: str, membership: str | None) -> None:
    room = a_room(version, BOB)
    assert_allowed(room, room.write(BOB, "m.room.message", {}))
    if membership is None:
        del room.state["m.room.member", BOB]
    else:
        room.add(room.membership(ALICE, membership, BOB))
    assert_denied(room, room.write(BOB, "m.room.message", {}), "1:6 6:5 12:6")


@every_version
def test_third_party_invites_take_the_invite_level(version: str) -> None:
    room = a_room(version, BOB, CAROL, powers={BOB: 30}, invite=30, events={"m.room.third_party_invite": 90})
    assert_allowed(room, room.write(BOB, "m.room.third_party_invite", {}, "token"))
    # The rules that follow are not reached, so a state key may begin with an @.
    assert_allowed(room, room.write(BOB, "m.room.third_party_invite", {}, "@token"))
    assert_denied(room, room.write(CAROL, "m.room.third_party_invite", {}, "token"), "1:7.1 6:6.1 12:7.1")


@every_version
def test_required_power(version: str) -> None:
    events = {"m.room.topic": 20, "a.message": 21}
    room = a_room(version, BOB, powers={BOB: 20}, events=events, events_default=19)
    assert_allowed(room, room.write(BOB, "m.room.topic", {}, ""))
    assert_allowed(room, room.write(BOB, "m.room.message", {}))
    assert_denied(room, room.write(BOB, "m.room.name", {}, ""), "1:8 6:7 12:8")
    assert_denied(room, room.write(BOB, "a.message", {}), "1:8 6:7 12:8")


@every_version
def test_state_keys_that_are_users(version: str) -> None:
    room = a_room(version, BOB, state_default=0)
    assert_allowed(room, room.write(BOB, "a.state", {}, BOB))
    assert_allowed(room, room.write(BOB, "a.state", {}, "free"))
    assert_allowed(room, room.write(BOB, "a.state", {}, "a@b"))
    assert_denied(room, room.write(BOB, "a.state", {}, ALICE), "1:9 6:8 12:9")
    assert_denied(room, room.write(BOB, "a.state", {}, "@"), "1:9 6:8 12:9")
    # Not even with all power.
    assert_denied(room, room.write(ALICE, "a.state", {}, BOB), "1:9 6:8 12:9")


# m.room.redaction (rooms/v1–v2 rule 11)


@every_version
def test_redactions(version: str) -> None:
    room = a_room(version, BOB, CAROL, powers={BOB: 50})
    of_alice, of_carol = room.write(ALICE, "m.room.message", {}), room.write(CAROL, "m.room.message", {})
    assert_allowed(room, room.write(BOB, "m.room.redaction", {}, redacts=of_alice.event_id))
    assert_allowed(room, room.write(CAROL, "m.room.redaction", {}, redacts=of_carol.event_id))
    foreign = room.write(CAROL, "m.room.redaction", {}, redacts=of_alice.event_id)
    nothing_named = room.write(CAROL, "m.room.redaction", {})
    if ROOM_VERSIONS[version].redactions_need_authorization:
        assert_denied(room, foreign, "1:11.3")
        assert_denied(room, nothing_named, "1:11.3")
    else:
        assert_allowed(room, foreign)
        assert_allowed(room, nothing_named)


@every_version
def test_redactions_take_the_power_of_their_type(version: str) -> None:
    room = a_room(version, BOB, events={"m.room.redaction": 10})
    own = room.write(BOB, "m.room.message", {})
    redaction = room.write(BOB, "m.room.redaction", {}, redacts=own.event_id)
    assert_denied(room, redaction, "1:8 6:7 12:8")


# Room creators of room version 12


def test_creators_of_version_12_are_above_everybody() -> None:
    room = Room("12", content={"additional_creators": [BOB]})
    for user in (ALICE, BOB):
        room.join(user, prev=[room.create] if user == ALICE else None)
        room.join_rules(ALICE, "public")
    room.join(CAROL)
    room.power_levels(ALICE, {"users": {CAROL: 2**53 - 1}, "users_default": 100, "events": {"a": 2**53 - 1}})
    assert_allowed(room, room.write(BOB, "a", {}))
    assert_allowed(room, room.membership(BOB, "ban", CAROL))
    assert_denied(room, room.membership(CAROL, "ban", BOB), "12:5.6.3")
    assert_denied(room, room.membership(CAROL, "leave", ALICE), "12:5.5.5")
    # Nor do creators rule each other.
    assert_denied(room, room.membership(ALICE, "leave", BOB), "12:5.5.5")
    assert_denied(room, room.membership(BOB, "ban", ALICE), "12:5.6.3")


def test_additional_creators_mean_nothing_before_version_12() -> None:
    room = Room("11", content={"additional_creators": [BOB]})
    room.join(ALICE)
    room.join_rules(ALICE, "public")
    room.join(BOB)
    assert_denied(room, room.write(BOB, "a.state", {}, ""), "11:7")
    assert_allowed(room, room.write(ALICE, "a.state", {}, ""))


def test_an_additional_creator_does_not_join_first() -> None:
    room = Room("12", content={"additional_creators": [BOB]})
    assert_denied(room, room.membership(BOB, "join", prev=[room.create]), "12:5.3.7")
    assert_allowed(room, room.membership(ALICE, "join", prev=[room.create]))


@pytest.mark.parametrize("version", versions(creator_is_sender=False))
def test_the_creator_of_old_is_the_one_that_the_content_names(version: str) -> None:
    room = Room(version, content={"creator": DAVE})
    assert_allowed(room, room.membership(DAVE, "join", prev=[room.create]))
    assert_denied(room, room.membership(ALICE, "join", prev=[room.create]), "1:5.2.6 6:4.2.6 8:4.3.7")
    room.join(DAVE)
    assert_allowed(room, room.write(DAVE, "a.state", {}, ""))
