"""Memberships as clients change them (client-server §Room membership): the answers of each endpoint."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from comity.protocol.signing import SigningKey, sign_json
from tests.api.neighbours import name_of, neighbours, settle
from tests.api.support_rooms import Client, Place, by_key, place
from tests.api.support_users import at

ONE, TWO = name_of(1), name_of(2)
NOWHERE = "!nothing:example.org"
#: An identity server's key.
IDENTITY = SigningKey("0", b"i" * 32)
TOKEN = "abc123"


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Place]:
    async with place(tmp_path) as opened:
        yield opened


async def member(client: Client, room_id: str, other: Client) -> Any:
    """Somebody's membership event's content."""
    return (await client.ask("GET", at("rooms", room_id, "state", "m.room.member", other.user_id))).ok()


async def test_joining_by_alias_and_by_id(here: Place) -> None:
    alice, bob = await here.clients("alice", "bob")
    room_id = await alice.create(room_alias_name="club")
    alias = "#club:example.org"
    # /rooms/{roomId}/join requires a room id.
    (await bob.ask("POST", at("rooms", alias, "join"), {})).failed(400, "M_INVALID_PARAM")
    assert (await bob.ask("POST", at("join", alias), {"reason": "why not"})).ok() == {"room_id": room_id}
    assert (await member(bob, room_id, bob))["reason"] == "why not"
    for path in (at("join", alias), at("rooms", room_id, "join")):
        assert (await bob.ask("POST", path, {})).ok() == {"room_id": room_id}
    (await bob.ask("POST", at("join", "#no:example.org"), {})).failed(404, "M_NOT_FOUND")
    (await bob.ask("POST", at("join", "club"), {})).failed(400, "M_INVALID_PARAM")
    (await bob.ask("POST", at("join", alias), {"reason": 4})).failed(400, "M_BAD_JSON")
    (await bob.ask("POST", at("join", alias), {"third_party_signed": "x"})).failed(400, "M_BAD_JSON")


async def test_joining_again_changes_nothing(here: Place) -> None:
    """Apps join to be on the safe side: what one is called in the room stays, and nobody hears of it."""
    alice, bob = await here.clients("alice", "bob")
    room_id = await alice.create()
    await bob.join(room_id)
    own = {"membership": "join", "displayname": "Bob of the club"}
    await bob.set_state(room_id, "m.room.member", own, bob.user_id)
    since = await alice.token_now()
    for body in ({}, {"reason": "again"}):
        assert (await bob.ask("POST", at("join", room_id), body)).ok() == {"room_id": room_id}
    assert await member(bob, room_id, bob) == own
    assert (await alice.sync(since))["rooms"]["join"] == {}


async def test_coming_back_and_leaving_twice(tmp_path: Path) -> None:
    """Nobody here is in the room any more, and a room id of version 12 names no server."""
    async with neighbours(tmp_path) as (here, there):
        alice, bob = await here.client("alice"), await there.client("bob")
        room_id = await alice.create()
        closed = await alice.create(preset="private_chat")
        await bob.join(room_id, via=ONE)
        await alice.treat(closed, "invite", bob)
        for left in (room_id, closed):
            for _ in range(2):
                await bob.leave(left)
            await settle(here, there)
        assert (await bob.ask("POST", at("join", room_id), {})).ok() == {"room_id": room_id}
        await settle(here, there)
        assert (await member(alice, room_id, bob))["membership"] == "join"
        # A ban is not left, and those who never were in a room cannot leave it.
        await bob.leave(room_id)
        await alice.treat(closed, "invite", bob)
        await alice.treat(closed, "ban", bob)
        await settle(here, there)
        (await bob.ask("POST", at("rooms", closed, "leave"), {})).failed(403, "M_FORBIDDEN")
        amy = await there.client("amy")
        (await amy.ask("POST", at("rooms", closed, "leave"), {})).failed(403, "M_FORBIDDEN")


async def test_a_room_that_everybody_has_left(here: Place) -> None:
    """It is as they left it: who may come in is for its rules to say, and nobody else knows them."""
    alice, bob, carol = await here.clients("alice", "bob", "carol")
    room_id = await alice.create(visibility="public", name="Club")
    await alice.treat(room_id, "ban", carol)
    closed = await alice.create(preset="private_chat")
    await alice.treat(closed, "invite", bob)
    await alice.treat(closed, "invite", carol)
    for left in (room_id, closed):
        await alice.leave(left)
    assert (await bob.ask("GET", "/publicRooms")).ok()["chunk"] == []
    (await carol.ask("POST", at("join", room_id), {})).failed(403, "M_FORBIDDEN")
    await bob.join(room_id)
    (found,) = (await bob.ask("GET", "/publicRooms")).ok()["chunk"]
    assert (found["room_id"], found["num_joined_members"]) == (room_id, 1)
    (await alice.ask("POST", at("join", closed), {})).failed(403, "M_FORBIDDEN")
    await carol.leave(closed)
    await bob.join(closed)
    # Who turned the invite down meanwhile can be invited again.
    assert (await member(bob, closed, carol))["membership"] == "leave"
    await bob.treat(closed, "invite", carol)
    assert closed in (await carol.sync())["rooms"]["invite"]


async def test_who_may_not_come_in(here: Place) -> None:
    alice, bob = await here.clients("alice", "bob")
    closed = await alice.create(preset="private_chat")
    (await bob.ask("POST", at("join", closed), {})).failed(403, "M_FORBIDDEN")
    club = await alice.create(preset="private_chat")
    allow = [{"type": "m.room_membership", "room_id": club}]
    rule = {"type": "m.room.join_rules", "content": {"join_rule": "restricted", "allow": allow}}
    restricted = await alice.create(room_version="12", initial_state=[rule])
    (await bob.ask("POST", at("join", restricted), {})).failed(403, "M_FORBIDDEN")
    room_id = await alice.create()
    await alice.treat(room_id, "ban", bob)
    (await bob.ask("POST", at("join", room_id), {})).failed(403, "M_FORBIDDEN")
    (await bob.ask("POST", at("knock", room_id), {})).failed(403, "M_FORBIDDEN")
    (await bob.ask("POST", at("knock", closed), {})).failed(403, "M_FORBIDDEN")
    await alice.treat(room_id, "unban", bob)
    await bob.join(room_id)


async def test_reasons_are_handed_on(here: Place) -> None:
    alice, bob = await here.clients("alice", "bob")
    room_id = await alice.create()
    for how, membership in (("invite", "invite"), ("kick", "leave"), ("ban", "ban"), ("unban", "leave")):
        body = {"user_id": bob.user_id, "reason": f"{how} it is"}
        assert (await alice.ask("POST", at("rooms", room_id, how), body)).ok() == {}
        found = await member(alice, room_id, bob)
        assert (found["membership"], found["reason"]) == (membership, f"{how} it is")
    await bob.join(room_id)
    assert (await bob.ask("POST", at("rooms", room_id, "leave"), {"reason": "enough"})).ok() == {}
    assert (await member(alice, room_id, bob))["reason"] == "enough"


@pytest.mark.parametrize("how", ["invite", "kick", "ban", "unban"])
async def test_who_may_not_change_others(here: Place, how: str) -> None:
    alice, bob, carol = await here.clients("alice", "bob", "carol")
    room_id = await alice.create(power_level_content_override={"invite": 50})
    for target in (bob, carol):
        await target.join(room_id)
    if how == "unban":
        await alice.treat(room_id, "ban", carol)
    if how == "invite":
        await carol.leave(room_id)
    body = {"user_id": carol.user_id}
    # Too little power, not in the room, no such room.
    (await bob.ask("POST", at("rooms", room_id, how), body)).failed(403, "M_FORBIDDEN")
    await bob.leave(room_id)
    (await bob.ask("POST", at("rooms", room_id, how), body)).failed(403, "M_FORBIDDEN")
    (await bob.ask("POST", at("rooms", NOWHERE, how), body)).failed(403, "M_FORBIDDEN")
    path = at("rooms", room_id, how)
    (await alice.ask("POST", path, {})).failed(400, "M_MISSING_PARAM")
    (await alice.ask("POST", path, {"user_id": 4})).failed(400, "M_BAD_JSON")
    (await alice.ask("POST", path, {"user_id": "carol"})).failed(400, "M_INVALID_PARAM")
    (await alice.ask("POST", path, {**body, "reason": []})).failed(400, "M_BAD_JSON")
    await alice.treat(room_id, how, carol)


async def test_every_membership_says_what_the_user_is_called(here: Place) -> None:
    alice, bob = await here.clients("alice", "bob")
    for field, value in (("displayname", "Bob"), ("avatar_url", "mxc://example.org/face")):
        (await bob.ask("PUT", at("profile", bob.user_id, field), {field: value})).ok()
    room_id = await alice.create()
    for client, how, body, membership in (
        (alice, "invite", {"user_id": bob.user_id}, "invite"),
        (bob, "join", {}, "join"),
        (bob, "leave", {"reason": "late"}, "leave"),
        (bob, "join", {}, "join"),
        (alice, "kick", {"user_id": bob.user_id}, "leave"),
        (alice, "ban", {"user_id": bob.user_id}, "ban"),
        (alice, "unban", {"user_id": bob.user_id}, "leave"),
    ):
        (await client.ask("POST", at("rooms", room_id, how), body)).ok()
        said = await member(alice, room_id, bob)
        assert said.pop("reason", None) == body.get("reason")
        assert said == {
            "membership": membership, "displayname": "Bob", "avatar_url": "mxc://example.org/face"
        }  # fmt: skip


async def test_the_reason_of_a_join_is_none_of_a_new_name(here: Place) -> None:
    alice, bob = await here.clients("alice", "bob")
    room_id = await alice.create()
    (await bob.ask("POST", at("join", room_id), {"reason": "why not"})).ok()
    (await bob.ask("PUT", at("profile", bob.user_id, "displayname"), {"displayname": "Bob"})).ok()
    assert await member(alice, room_id, bob) == {"membership": "join", "displayname": "Bob"}


async def test_inviting_who_is_invited_or_in(here: Place) -> None:
    alice, bob = await here.clients("alice", "bob")
    room_id = await alice.create()
    await alice.treat(room_id, "invite", bob)
    await alice.treat(room_id, "invite", bob)
    await bob.join(room_id)
    again = await alice.ask("POST", at("rooms", room_id, "invite"), {"user_id": bob.user_id})
    again.failed(403, "M_FORBIDDEN")


async def test_kicking_who_is_not_in(here: Place) -> None:
    alice, bob = await here.clients("alice", "bob")
    room_id = await alice.create()
    for how in ("kick", "unban"):
        answer = await alice.ask("POST", at("rooms", room_id, how), {"user_id": bob.user_id})
        answer.failed(403, "M_FORBIDDEN")


async def test_forgetting(here: Place) -> None:
    alice, bob = await here.clients("alice", "bob")
    room_id = await alice.create()
    await bob.join(room_id)
    path = at("rooms", room_id, "forget")
    (await bob.ask("POST", path, {})).failed(400, "M_UNKNOWN")
    await bob.leave(room_id)
    (await bob.try_messages(room_id)).ok()
    (await bob.ask("POST", path, {})).ok()
    # "A user will no longer be able to retrieve history for this room."
    (await bob.try_messages(room_id)).failed(403, "M_FORBIDDEN")


async def test_memberships_set_as_state(tmp_path: Path) -> None:
    """client-server §Kicking users: as by the endpoints; a user elsewhere hears of their invite."""
    async with neighbours(tmp_path) as (here, there):
        alice, amy = await here.clients("alice", "amy")
        bob = await there.client("bob")
        room_id = await alice.create(preset="private_chat")
        event_id = await alice.set_state(room_id, "m.room.member", {"membership": "invite"}, bob.user_id)
        assert room_id in (await bob.sync())["rooms"]["invite"]
        found = (await alice.ask("GET", at("rooms", room_id, "event", event_id))).ok()
        assert found["state_key"] == bob.user_id
        await bob.join(room_id)
        await settle(here, there)
        await alice.set_state(room_id, "m.room.member", {"membership": "leave", "reason": "x"}, bob.user_id)
        await settle(here, there)
        assert room_id in (await bob.sync(wanted={"room": {"include_leave": True}}))["rooms"]["leave"]
        path = at("rooms", room_id, "state", "m.room.member", bob.user_id)
        (await amy.ask("PUT", path, {"membership": "invite"})).failed(403, "M_FORBIDDEN")
        path = at("rooms", NOWHERE, "state", "m.room.member", bob.user_id)
        (await amy.ask("PUT", path, {"membership": "invite"})).failed(403, "M_FORBIDDEN")


@pytest.mark.parametrize("membership", ["invite", "leave", "ban", "join", "knock"])
async def test_memberships_of_nobody(here: Place, membership: str) -> None:
    """What is no user cannot be a member, and a membership is state."""
    alice, bob = await here.clients("alice", "bob")
    room_id = await alice.create()
    await bob.join(room_id)
    for state_key in ("bob", "", "@bob", "@bob:no server", "#bob:example.org"):
        path = at("rooms", room_id, "state", "m.room.member", state_key)
        (await alice.ask("PUT", path, {"membership": membership})).failed(400, "M_INVALID_PARAM")
    path = at("rooms", room_id, "send", "m.room.member", "t")
    (await alice.ask("PUT", path, {"membership": membership})).failed(403, "M_FORBIDDEN")
    assert (await alice.sync())["rooms"]["join"][room_id]["summary"]["m.heroes"] == [bob.user_id]


async def test_nobody_is_no_hero(here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another server may have invited what is no user: apps get no such name for a room."""
    alice = await here.client("alice")
    room_id = await alice.create()
    with monkeypatch.context() as patch:
        patch.setattr("comity.rooms.write.is_user_id", lambda _: True)
        for state_key in ("bob", "@bob:no server"):
            await alice.set_state(room_id, "m.room.member", {"membership": "invite"}, state_key)
    assert (await alice.sync())["rooms"]["join"][room_id]["summary"]["m.heroes"] == []


async def test_who_invites_is_shown_elsewhere_too(tmp_path: Path) -> None:
    """Apps show who invites by the name and avatar in the stripped state."""
    async with neighbours(tmp_path) as (here, there):
        alice, amy = await here.clients("alice", "amy")
        bob = await there.client("bob")
        path = at("profile", alice.user_id, "displayname")
        (await alice.ask("PUT", path, {"displayname": "Alice"})).ok()
        room_id = await alice.create()
        for target in (amy, bob):
            await alice.treat(room_id, "invite", target)
            invite = (await target.sync())["rooms"]["invite"][room_id]["invite_state"]["events"]
            shown = by_key(invite)["m.room.member", alice.user_id]
            assert shown == {"membership": "join", "displayname": "Alice"}


async def test_inviting_who_does_not_exist_elsewhere(tmp_path: Path) -> None:
    """Their server has answered: it is not that it could not be asked."""
    async with neighbours(tmp_path) as (here, _):
        alice = await here.client("alice")
        room_id = await alice.create()
        for user_id, status, code in (
            (f"@nobody:{TWO}", 404, "M_NOT_FOUND"),
            (f"@nobody:{name_of(3)}", 502, "M_UNKNOWN"),
        ):
            answer = await alice.ask("POST", at("rooms", room_id, "invite"), {"user_id": user_id})
            answer.failed(status, code)


async def test_turning_down_from_elsewhere_set_as_state(tmp_path: Path) -> None:
    """client-server §Room membership: an invite is rejected, and a knock retracted, by such an event."""
    async with neighbours(tmp_path) as (here, there):
        alice, bob = await here.client("alice"), await there.client("bob")
        rules = [{"type": "m.room.join_rules", "content": {"join_rule": "knock"}}]
        room_id = await alice.create(preset="private_chat", initial_state=rules)
        path = at("rooms", room_id, "state", "m.room.member", bob.user_id)
        for how in ("invite", "knock"):
            if how == "invite":
                await alice.treat(room_id, "invite", bob)
            else:
                (await bob.ask("POST", at("knock", room_id), {}, via=ONE)).ok()
            assert room_id in (await bob.sync())["rooms"][how]
            answer = await bob.ask("PUT", path, {"membership": "leave", "reason": how})
            assert answer.ok()["event_id"].startswith("$")
            assert room_id not in (await bob.sync())["rooms"][how]
            await settle(here, there)
            assert await member(alice, room_id, bob) == {"membership": "leave", "reason": how}
        amy = await there.client("amy")
        path = at("rooms", room_id, "state", "m.room.member", amy.user_id)
        (await amy.ask("PUT", path, {"membership": "leave"})).failed(403, "M_FORBIDDEN")


# -- joining with what an identity server says


def signed(sender: Client, user: Client, key: SigningKey = IDENTITY, token: str = TOKEN) -> dict[str, Any]:
    """What an identity server gives a user who has shown that an address is theirs."""
    told = {"mxid": user.user_id, "sender": sender.user_id, "token": token}
    return sign_json(told, "id.example", key)


async def a_waiting_invite(alice: Client) -> str:
    """A closed room in which an invite to an address waits."""
    room_id = await alice.create(preset="private_chat")
    # Without a key_validity_url the key is valid for ever, and nobody has to be asked.
    content = {"display_name": "b...@...", "public_key": IDENTITY.public}
    await alice.set_state(room_id, "m.room.third_party_invite", content, TOKEN)
    return room_id


async def test_joining_by_a_third_party_invite(here: Place) -> None:
    """The server MUST verify that it matches an invite that waits in the room."""
    alice, bob, carol = await here.clients("alice", "bob", "carol")
    room_id = await a_waiting_invite(alice)
    path = at("join", room_id)
    for value, status, code in (
        (signed(alice, bob, SigningKey("0", b"x" * 32)), 403, "M_FORBIDDEN"),
        (signed(alice, bob, token="other"), 403, "M_FORBIDDEN"),
        (signed(carol, bob), 403, "M_FORBIDDEN"),
        (signed(alice, carol), 400, "M_INVALID_PARAM"),
        ({**signed(alice, bob), "sender": "alice"}, 400, "M_BAD_JSON"),
        ({"sender": alice.user_id}, 400, "M_BAD_JSON"),
    ):
        (await bob.ask("POST", path, {"third_party_signed": value})).failed(status, code)
    body = {"third_party_signed": signed(alice, bob)}
    assert (await bob.ask("POST", path, body)).ok() == {"room_id": room_id}
    found = await member(alice, room_id, bob)
    assert found["membership"] == "join"
    assert "third_party_invite" not in found
    # Once in, it is an ordinary join again.
    assert (await bob.ask("POST", path, body)).ok() == {"room_id": room_id}


async def test_joining_a_room_elsewhere_by_a_third_party_invite(tmp_path: Path) -> None:
    async with neighbours(tmp_path) as (here, there):
        alice, bob = await here.client("alice"), await there.client("bob")
        room_id = await a_waiting_invite(alice)
        wrong = {"third_party_signed": signed(alice, bob, SigningKey("0", b"x" * 32))}
        (await bob.ask("POST", at("join", room_id), wrong, via=ONE)).failed(403, "M_FORBIDDEN")
        body = {"third_party_signed": signed(alice, bob)}
        (await bob.ask("POST", at("join", room_id), body, via=ONE)).ok()
        await settle(here, there)
        assert (await member(alice, room_id, bob))["membership"] == "join"
