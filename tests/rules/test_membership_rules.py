"""The rule on `m.room.member` in every room version (rooms/v1 rule 5, v6 rule 4, v12 rule 5)."""

from __future__ import annotations

from typing import Any

import pytest

from comity.protocol.auth.third_party import MAX_THIRD_PARTY_VERIFICATIONS
from comity.protocol.event import Event
from comity.protocol.room_versions import ROOM_VERSIONS
from comity.protocol.signing import SigningKey, sign_json
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
    key_of,
    versions,
)

every_version = pytest.mark.parametrize("version", ALL_VERSIONS)
restricted_versions = pytest.mark.parametrize("version", versions(allows_restricted_joins=True))


def set_membership(room: Room, user: str, membership: str) -> None:
    """Put a membership into the state, whatever the rules would say of it."""
    if membership == "none":
        room.state.pop(("m.room.member", user), None)
    else:
        room.add(room.membership(user, membership))


@every_version
def test_a_membership_needs_its_parts(version: str) -> None:
    room = a_room(version)
    assert_denied(room, room.write(BOB, "m.room.member", {"membership": "join"}), "1:5.1 6:4.1 12:5.1")
    assert_denied(room, room.write(BOB, "m.room.member", {}, BOB), "1:5.1 6:4.1 12:5.1")
    assert_denied(room, room.write(BOB, "m.room.member", {"membership": 5}, BOB), "1:5.1 6:4.1 12:5.1")
    unknown = "1:5.6 6:4.6 7:4.7 8:4.8 12:5.8"
    assert_denied(room, room.membership(BOB, "nonsense"), unknown)


# join


@every_version
def test_the_creator_joins_first(version: str) -> None:
    room = Room(version)
    assert_allowed(room, room.membership(ALICE, "join", prev=[room.create]))
    refused = "1:5.2.6 6:4.2.6 8:4.3.7 12:5.3.7"
    assert_denied(room, room.membership(BOB, "join", prev=[room.create]), refused)
    first = room.write(ALICE, "m.room.message", {}, prev=[room.create])
    assert_denied(room, room.membership(ALICE, "join", prev=[first]), refused)
    assert_denied(room, room.membership(ALICE, "join", prev=[room.create, first]), refused)


@every_version
@pytest.mark.parametrize(
    "join_rule", ["public", "invite", "knock", "restricted", "knock_restricted", "private", ""]
)
@pytest.mark.parametrize("current", ["none", "leave", "invite", "join", "knock", "ban"])
def test_joining(version: str, join_rule: str, current: str) -> None:
    fields = ROOM_VERSIONS[version]
    room = a_room(version, join_rule=join_rule)
    set_membership(room, BOB, current)
    join = room.membership(BOB, "join")
    restricted = (join_rule == "restricted" and fields.allows_restricted_joins) or (
        join_rule == "knock_restricted" and fields.allows_knock_restricted
    )
    by_invite = join_rule == "invite" or (join_rule == "knock" and fields.allows_knocking) or restricted
    if current == "ban":
        assert_denied(room, join, "1:5.2.3 6:4.2.3 8:4.3.3 12:5.3.3")
    elif join_rule == "public" or (by_invite and current in ("invite", "join")):
        assert_allowed(room, join)
    elif restricted:
        assert_denied(room, join, "8:4.3.5.2 12:5.3.5.2")
    else:
        assert_denied(room, join, "1:5.2.6 6:4.2.6 8:4.3.7 12:5.3.7")


@every_version
def test_nobody_joins_for_another(version: str) -> None:
    room = a_room(version, BOB)
    for sender in (ALICE, CAROL):
        assert_denied(room, room.membership(sender, "join", BOB), "1:5.2.2 6:4.2.2 8:4.3.2 12:5.3.2")


@every_version
@pytest.mark.parametrize("content", [None, {}, {"join_rule": "invite"}, {"join_rule": 7}])
def test_a_room_without_a_join_rule_is_for_the_invited(version: str, content: dict[str, Any] | None) -> None:
    room = a_room(version)
    del room.state["m.room.join_rules", ""]
    if content is not None:
        room.send(ALICE, "m.room.join_rules", content, "")
    assert_denied(room, room.membership(BOB, "join"), "1:5.2.6 6:4.2.6 8:4.3.7 12:5.3.7")
    room.invite(ALICE, BOB)
    if content == {"join_rule": 7}:
        assert_denied(room, room.membership(BOB, "join"), "1:5.2.6 6:4.2.6 8:4.3.7 12:5.3.7")
    else:
        assert_allowed(room, room.membership(BOB, "join"))


# Restricted joins (rooms/v8)


def authorised_join(room: Room, authoriser: object, **options: Any) -> Event:
    return room.membership(DAVE, "join", join_authorised_via_users_server=authoriser, **options)


@restricted_versions
def test_restricted_joins(version: str) -> None:
    room = a_room(version, BOB, CAROL, powers={BOB: 50}, invite=50, join_rule="restricted")
    refused = "8:4.3.5.2 12:5.3.5.2"
    assert_allowed(room, authorised_join(room, BOB, signers=["b.example"]))
    assert_allowed(room, authorised_join(room, ALICE, signers=["a.example"]))
    assert_denied(room, authorised_join(room, CAROL, signers=["c.example"]), refused)
    room.leave(BOB)
    assert_denied(room, authorised_join(room, BOB, signers=["b.example"]), refused)
    assert_denied(room, authorised_join(room, "@nobody:b.example", signers=["b.example"]), refused)
    room.ban(ALICE, DAVE)
    assert_denied(room, authorised_join(room, ALICE, signers=["a.example"]), "8:4.3.3 12:5.3.3")


@restricted_versions
@pytest.mark.parametrize("authoriser", [BOB, "not a user", "@b:no server", 5, None, [BOB]])
def test_a_membership_without_the_authorisers_signature(version: str, authoriser: object) -> None:
    room = a_room(version, BOB)
    assert_denied(room, authorised_join(room, authoriser), "8:4.2.1 12:5.2.1")


@pytest.mark.parametrize("version", versions(allows_restricted_joins=False))
def test_authorised_joins_mean_nothing_before(version: str) -> None:
    room = a_room(version, BOB)
    assert_allowed(room, authorised_join(room, BOB))
    room.join_rules(ALICE, "restricted")
    assert_denied(room, authorised_join(room, BOB, signers=["b.example"]), "1:5.2.6 6:4.2.6")


# invite


@every_version
def test_inviting(version: str) -> None:
    room = a_room(version, BOB, CAROL, powers={BOB: 10}, invite=10)
    assert_allowed(room, room.membership(BOB, "invite", DAVE))
    assert_denied(room, room.membership(CAROL, "invite", DAVE), "1:5.3.5 6:4.3.5 8:4.4.5 12:5.4.5")
    assert_denied(room, room.membership(DAVE, "invite", DAVE), "1:5.3.2 6:4.3.2 8:4.4.2 12:5.4.2")
    for current, allowed in [("join", 0), ("ban", 0), ("leave", 1), ("invite", 1), ("knock", 1)]:
        set_membership(room, DAVE, current)
        invite = room.membership(BOB, "invite", DAVE)
        if allowed:
            assert_allowed(room, invite)
        else:
            assert_denied(room, invite, "1:5.3.3 6:4.3.3 8:4.4.3 12:5.4.3")


# Third-party invites

IDENTITY = key_of("identity.example")
OTHER = key_of("other.example")


def signed_invite(key: SigningKey = IDENTITY, **changes: Any) -> dict[str, Any]:
    """What an identity server signs when an invited address is bound to Dave."""
    signed = sign_json({"mxid": DAVE, "token": "token"}, "identity.example", key)
    signed = {name: value for name, value in {**signed, **changes}.items() if value is not None}
    return {"display_name": "d…", "signed": signed}


def third_party_room(version: str, **content: Any) -> Room:
    room = a_room(version, BOB, join_rule="invite")
    room.send(BOB, "m.room.third_party_invite", content or {"public_key": IDENTITY.public}, "token")
    return room


def third_party(room: Room, invite: object, sender: str = BOB) -> Event:
    return room.membership(sender, "invite", DAVE, third_party_invite=invite)


@every_version
@pytest.mark.parametrize(
    ("content", "allowed"),
    [
        ({"public_key": IDENTITY.public}, True),
        ({"public_key": IDENTITY.public.replace("+", "-").replace("/", "_") + "="}, True),
        ({"public_keys": [{"public_key": OTHER.public}, {"public_key": IDENTITY.public}]}, True),
        ({"public_key": OTHER.public, "public_keys": [{"public_key": IDENTITY.public}]}, True),
        ({"public_key": OTHER.public}, False),
        ({"public_key": OTHER.public, "public_keys": IDENTITY.public}, False),
        ({"public_keys": [IDENTITY.public, 5, None, {"key": 1}, {"public_key": 5}]}, False),
        ({"public_key": "short", "public_keys": [{"public_key": "äö"}]}, False),
        ({"display_name": "no key"}, False),
    ],
)
def test_third_party_invites(version: str, content: dict[str, Any], allowed: bool) -> None:
    room = third_party_room(version, **content)
    event = third_party(room, signed_invite())
    if allowed:
        assert_allowed(room, event)
        # The inviter need not be in the room any more.
        room.leave(BOB)
        assert_allowed(room, event)
    else:
        assert_denied(room, event, "1:5.3.1.8 6:4.3.1.8 8:4.4.1.8 12:5.4.1.8")


@every_version
@pytest.mark.parametrize(
    ("invite", "step"),
    [
        ("nonsense", 2),
        ({}, 2),
        ({"signed": 5}, 2),
        (signed_invite(mxid=None), 3),
        (signed_invite(token=None), 3),
        (signed_invite(token=5), 3),
        (signed_invite(mxid=CAROL), 4),
        (signed_invite(token="another"), 5),
        (signed_invite(signatures=None), 8),
        (signed_invite(signatures=[]), 8),
        (signed_invite(signatures={"identity.example": "x"}), 8),
        (signed_invite(signatures={"identity.example": {"ed25519:1": 5, "ed25519:2": "!"}}), 8),
        (signed_invite(more="unsigned part"), 8),
        (signed_invite(OTHER), 8),
    ],
)
def test_third_party_invites_that_do_not_hold(version: str, invite: object, step: int) -> None:
    room = third_party_room(version)
    event = third_party(room, invite)
    assert_denied(room, event, " ".join(f"{top}.1.{step}" for top in "1:5.3 6:4.3 8:4.4 12:5.4".split()))


@every_version
def test_third_party_invites_by_another_or_for_the_banned(version: str) -> None:
    room = third_party_room(version)
    by_another = third_party(room, signed_invite(), sender=ALICE)
    assert_denied(room, by_another, "1:5.3.1.6 6:4.3.1.6 8:4.4.1.6 12:5.4.1.6")
    room.ban(ALICE, DAVE)
    banned = third_party(room, signed_invite())
    assert_denied(room, banned, "1:5.3.1.1 6:4.3.1.1 8:4.4.1.1 12:5.4.1.1")


def test_third_party_signatures_are_tried_a_bounded_number_of_times() -> None:
    count = MAX_THIRD_PARTY_VERIFICATIONS
    others = [{"public_key": key_of(str(number)).public} for number in range(count)]
    room = third_party_room("12", public_keys=[*others, {"public_key": IDENTITY.public}])
    assert_denied(room, third_party(room, signed_invite()), "12:5.4.1.8")
    room = third_party_room("12", public_keys=[*others[:10], {"public_key": IDENTITY.public}])
    assert_allowed(room, third_party(room, signed_invite()))


# leave, kick, unban


@every_version
@pytest.mark.parametrize("current", ["none", "leave", "invite", "join", "knock", "ban"])
def test_leaving(version: str, current: str) -> None:
    room = a_room(version)
    set_membership(room, BOB, current)
    event = room.membership(BOB, "leave")
    knocking = current == "knock" and ROOM_VERSIONS[version].allows_knocking
    if current in ("invite", "join") or knocking:
        assert_allowed(room, event)
    else:
        assert_denied(room, event, "1:5.4.1 6:4.4.1 8:4.5.1 12:5.5.1")


@every_version
def test_kicking(version: str) -> None:
    powers = {BOB: 40, CAROL: 40, DAVE: 39, "@weak:c.example": 39}
    room = a_room(version, BOB, CAROL, DAVE, "@weak:c.example", powers=powers, kick=40)
    refused = "1:5.4.5 6:4.4.5 8:4.5.5 12:5.5.5"
    assert_allowed(room, room.membership(BOB, "leave", DAVE))
    assert_denied(room, room.membership(BOB, "leave", CAROL), refused)
    assert_denied(room, room.membership(DAVE, "leave", "@weak:c.example"), refused)
    assert_denied(room, room.membership(BOB, "leave", ALICE), refused)
    # An invitation is revoked, and one who is not there removed, by the same rule.
    room.invite(ALICE, "@guest:d.example")
    assert_allowed(room, room.membership(BOB, "leave", "@guest:d.example"))
    assert_allowed(room, room.membership(BOB, "leave", "@nobody:d.example"))
    room.leave(BOB)
    assert_denied(room, room.membership(BOB, "leave", DAVE), "1:5.4.2 6:4.4.2 8:4.5.2 12:5.5.2")


@every_version
def test_unbanning_takes_the_ban_and_the_kick_level(version: str) -> None:
    room = a_room(version, BOB, CAROL, powers={BOB: 60, CAROL: 50}, ban=60, kick=50)
    room.ban(ALICE, DAVE)
    assert_allowed(room, room.membership(BOB, "leave", DAVE))
    assert_denied(room, room.membership(CAROL, "leave", DAVE), "1:5.4.3 6:4.4.3 8:4.5.3 12:5.5.3")
    assert_denied(room, room.membership(DAVE, "leave"), "1:5.4.1 6:4.4.1 8:4.5.1 12:5.5.1")
    room = a_room(version, BOB, powers={BOB: 50}, ban=50, kick=60)
    room.ban(ALICE, DAVE)
    assert_denied(room, room.membership(BOB, "leave", DAVE), "1:5.4.5 6:4.4.5 8:4.5.5 12:5.5.5")


# ban


@every_version
def test_banning(version: str) -> None:
    room = a_room(version, BOB, CAROL, DAVE, powers={BOB: 40, CAROL: 40, DAVE: 39}, ban=40)
    refused = "1:5.5.3 6:4.5.3 8:4.6.3 12:5.6.3"
    assert_allowed(room, room.membership(BOB, "ban", DAVE))
    assert_allowed(room, room.membership(BOB, "ban", "@nobody:d.example"))
    assert_denied(room, room.membership(BOB, "ban", CAROL), refused)
    assert_denied(room, room.membership(BOB, "ban", BOB), refused)
    assert_denied(room, room.membership(DAVE, "ban", "@nobody:d.example"), refused)
    room.leave(BOB)
    assert_denied(room, room.membership(BOB, "ban", DAVE), "1:5.5.1 6:4.5.1 8:4.6.1 12:5.6.1")


# knock


@every_version
@pytest.mark.parametrize("join_rule", ["public", "invite", "knock", "restricted", "knock_restricted"])
@pytest.mark.parametrize("current", ["none", "leave", "invite", "join", "knock", "ban"])
def test_knocking(version: str, join_rule: str, current: str) -> None:
    fields = ROOM_VERSIONS[version]
    room = a_room(version, join_rule=join_rule)
    set_membership(room, BOB, current)
    knock = room.membership(BOB, "knock")
    if not fields.allows_knocking:
        assert_denied(room, knock, "1:5.6 6:4.6")
    elif join_rule != "knock" and not (join_rule == "knock_restricted" and fields.allows_knock_restricted):
        assert_denied(room, knock, "7:4.6.1 8:4.7.1 12:5.7.1")
    elif current in ("none", "leave", "knock"):
        assert_allowed(room, knock)
        assert_denied(room, room.membership(CAROL, "knock", BOB), "7:4.6.2 8:4.7.2 12:5.7.2")
    else:
        assert_denied(room, knock, "7:4.6.4 8:4.7.4 12:5.7.4")
