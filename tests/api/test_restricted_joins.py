"""Restricted joins: who vouches, who cannot and says so, and whom that makes one ask next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.api.neighbours import ask_as, name_of, neighbours, refusal, settle, signed
from tests.api.support_rooms import Client
from tests.api.support_users import Answer, at

ONE, TWO, THREE = name_of(1), name_of(2), name_of(3)


async def a_restricted_room(
    alice: Client, condition: str, join_rule: str = "restricted", **fields: Any
) -> str:
    """A room that members of another may join."""
    allow = [{"type": "m.room_membership", "room_id": condition}]
    content = {"join_rule": join_rule, "allow": allow}
    state = [{"type": "m.room.join_rules", "state_key": "", "content": content}]
    return await alice.create(initial_state=state, **{"preset": "private_chat", **fields})


async def join(client: Client, room_id: str, via: str, then: str | None = None) -> Answer:
    """Try to join through a server, then through another."""
    more = {} if then is None else {"server_name": then}
    return await client.ask("POST", at("join", room_id), {}, via=via, **more)


async def membership(client: Client, room_id: str, user_id: str) -> Any:
    """A membership event's content as a member of the room sees it."""
    return (await client.ask("GET", at("rooms", room_id, "state", "m.room.member", user_id))).body


VOUCHER = "join_authorised_via_users_server"


@pytest.mark.parametrize(
    ("version", "rule"), [("8", "restricted"), ("10", "knock_restricted"), ("12", "restricted")]
)
async def test_who_is_in_the_other_room_may_join(tmp_path: Path, version: str, rule: str) -> None:
    async with neighbours(tmp_path) as (here, there):
        alice, (bob, ben) = await here.client("alice"), await there.clients("bob", "ben")
        space = await alice.create()
        room_id = await a_restricted_room(alice, space, rule, room_version=version)
        (await join(bob, room_id, ONE)).failed(403, "M_FORBIDDEN")
        await bob.join(space, via=ONE)
        (await join(bob, room_id, ONE)).ok()
        await settle(here, there)
        for client in (alice, bob):
            assert (await membership(client, room_id, bob.user_id))[VOUCHER] == alice.user_id
        # Now Bob's own server can vouch for the next of its users.
        (await join(ben, room_id, ONE)).failed(403, "M_FORBIDDEN")
        await ben.join(space)
        (await join(ben, room_id, ONE)).ok()
        await settle(here, there)
        assert (await membership(alice, room_id, ben.user_id))[VOUCHER] == bob.user_id


async def test_a_server_that_may_not_invite_has_another_vouch(tmp_path: Path) -> None:
    """Though it is in the room: the join is written there, and comes as the room's event."""
    async with neighbours(tmp_path) as (here, there):
        alice, (bob, ben) = await here.client("alice"), await there.clients("bob", "ben")
        space = await alice.create()
        room_id = await a_restricted_room(alice, space, power_level_content_override={"invite": 50})
        await alice.treat(room_id, "invite", bob)
        await bob.join(room_id)
        await ben.join(space, via=ONE)
        await settle(here, there)
        since = await ben.token_now()
        (await join(ben, room_id, ONE)).ok()
        assert (await membership(bob, room_id, ben.user_id))[VOUCHER] == alice.user_id
        assert room_id in (await ben.sync(since))["rooms"]["join"]
        await settle(here, there)
        assert (await membership(alice, room_id, ben.user_id))[VOUCHER] == alice.user_id
        await ben.say(room_id, "hello")
        await settle(here, there)
        assert (await alice.messages(room_id, limit=1))["chunk"][0]["content"]["body"] == "hello"


async def test_servers_that_cannot_tell_are_passed_over(tmp_path: Path) -> None:
    """One knows nothing of the other room, one has nobody who may invite: the third lets Carol in."""
    async with neighbours(tmp_path, 3) as (here, there, third):
        alice, bob, carol = await here.client("alice"), await there.client("bob"), await third.client("carol")
        space = await alice.create()
        room_id = await a_restricted_room(
            alice, space, power_level_content_override={"invite": 50}, room_version="12"
        )
        await alice.treat(room_id, "invite", bob)
        await bob.join(room_id)
        await carol.join(space, via=ONE)
        await settle(here, there, third)
        make = at("v1", "make_join", room_id, carol.user_id)
        assert await refusal(ask_as(third, TWO, "GET", make, ver="12")) == (400, "M_UNABLE_TO_AUTHORISE_JOIN")
        (await join(carol, room_id, TWO)).failed(400, "M_UNABLE_TO_AUTHORISE_JOIN")
        await bob.join(space, via=ONE)
        await settle(here, there, third)
        assert await refusal(ask_as(third, TWO, "GET", make, ver="12")) == (400, "M_UNABLE_TO_GRANT_JOIN")
        (await join(carol, room_id, TWO, then=ONE)).ok()
        await settle(here, there, third)
        assert (await membership(bob, room_id, carol.user_id))["membership"] == "join"


async def test_no_signature_for_who_meets_no_condition(tmp_path: Path) -> None:
    """Neither with the template's way nor with a voucher that nobody gave."""
    async with neighbours(tmp_path) as (here, there):
        alice, bob = await here.client("alice"), await there.client("bob")
        space = await alice.create()
        room_id = await a_restricted_room(alice, space, room_version="11")
        make = at("v1", "make_join", room_id, bob.user_id)
        assert await refusal(ask_as(there, ONE, "GET", make, ver="11")) == (403, "M_FORBIDDEN")
        await bob.join(space, via=ONE)
        template = await ask_as(there, ONE, "GET", make, ver="11")
        assert template["event"]["content"] == {"membership": "join", VOUCHER: alice.user_id}
        await bob.leave(space)
        await settle(here, there)
        event = signed(there, template, bob.user_id, {"membership": "join"})
        send = at("v1", "send_join", room_id, event.event_id)
        assert await refusal(ask_as(there, ONE, "PUT", send, dict(event.source))) == (403, "M_FORBIDDEN")


async def test_conditions_of_no_known_kind_count_as_failed(tmp_path: Path) -> None:
    async with neighbours(tmp_path) as (here, there):
        alice, bob = await here.client("alice"), await there.client("bob")
        content: dict[str, Any] = {"join_rule": "restricted", "allow": [{"type": "x.y"}, 3, {"room_id": {}}]}
        state = [{"type": "m.room.join_rules", "state_key": "", "content": content}]
        room_id = await alice.create(preset="private_chat", initial_state=state)
        (await join(bob, room_id, ONE)).failed(403, "M_FORBIDDEN")
        amy = await here.client("amy")
        (await join(amy, room_id, ONE)).failed(403, "M_FORBIDDEN")


@pytest.mark.parametrize("version", ["8", "12"])
async def test_nobody_vouches_for_themselves(tmp_path: Path, version: str) -> None:
    """A join that is set as state is vouched for as any other, whatever the client says of it."""
    async with neighbours(tmp_path) as (here, there):
        alice, amy = await here.clients("alice", "amy")
        bob = await there.client("bob")
        space = await alice.create()
        room_id = await a_restricted_room(alice, space, room_version=version)
        path = at("rooms", room_id, "state", "m.room.member", amy.user_id)
        forged = {"membership": "join", VOUCHER: alice.user_id}
        (await amy.ask("PUT", path, forged)).failed(403, "M_FORBIDDEN")
        delay = {"org.matrix.msc4140.delay": 10}
        (await amy.ask("PUT", path, forged, **delay)).ok()
        await here.clock.turn(1)
        (await amy.ask("POST", at("join", room_id), {})).failed(403, "M_FORBIDDEN")
        await amy.join(space)
        (await amy.ask("PUT", path, {"membership": "join"})).ok()
        assert await membership(alice, room_id, amy.user_id) == forged
        # Who was let in by another server changes their name with all that stands there, as apps do.
        await bob.join(space, via=ONE)
        (await join(bob, room_id, ONE)).ok()
        standing = await membership(bob, room_id, bob.user_id)
        assert standing[VOUCHER] == alice.user_id
        await bob.set_state(room_id, "m.room.member", {**standing, "displayname": "Bob"}, bob.user_id)
        await settle(here, there)
        found = await membership(alice, room_id, bob.user_id)
        assert found == {"membership": "join", "displayname": "Bob"}
