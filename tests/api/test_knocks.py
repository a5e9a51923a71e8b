"""Knocks between servers and within one: asked, shown, accepted, refused, taken back, denied."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.api.neighbours import ask_as, name_of, neighbours, refusal, settle, signed
from tests.api.support_rooms import Client, by_key
from tests.api.support_users import Answer, at

ONE, TWO = name_of(1), name_of(2)


def rule(join_rule: str, **more: object) -> dict[str, Any]:
    """Initial state with a join rule."""
    content = {"join_rule": join_rule, **more}
    return {"type": "m.room.join_rules", "state_key": "", "content": content}


async def a_room(alice: Client, join_rule: str = "knock", **fields: Any) -> str:
    """A room on which one can knock."""
    more: dict[str, Any] = {"allow": []} if join_rule == "knock_restricted" else {}
    fields = {"preset": "private_chat", "name": "The club", **fields}
    return await alice.create(initial_state=[rule(join_rule, **more)], **fields)


async def knock(client: Client, room_id: str, via: str = ONE) -> Answer:
    """Knock on a room."""
    return await client.ask("POST", at("knock", room_id), {"reason": "please"}, via=via)


async def membership(client: Client, room_id: str, user_id: str) -> Any:
    """A membership as a member of the room sees it."""
    answer = await client.ask("GET", at("rooms", room_id, "state", "m.room.member", user_id))
    return answer.body.get("membership")


@pytest.mark.parametrize(
    ("version", "join_rule"), [("7", "knock"), ("10", "knock_restricted"), ("12", "knock")]
)
async def test_a_knock_is_shown_and_an_invite_answers_it(
    tmp_path: Path, version: str, join_rule: str
) -> None:
    async with neighbours(tmp_path) as (here, there):
        alice, bob = await here.client("alice"), await there.client("bob")
        room_id = await a_room(alice, join_rule, room_version=version)
        since, alices = await bob.token_now(), await alice.token_now()
        assert (await knock(bob, room_id)).ok() == {"room_id": room_id}
        part = (await bob.sync(since))["rooms"]
        shown = by_key(part["knock"][room_id]["knock_state"]["events"])
        assert shown["m.room.name", ""] == {"name": "The club"}
        assert shown["m.room.create", ""]["room_version"] == version
        assert shown["m.room.member", bob.user_id]["reason"] == "please"
        told = (await alice.sync(alices))["rooms"]["join"][room_id]["timeline"]["events"]
        assert [event["content"]["membership"] for event in told] == ["knock"]
        assert room_id in (await bob.sync())["rooms"]["knock"]
        await alice.treat(room_id, "invite", bob)
        rooms = (await bob.sync(since))["rooms"]
        assert room_id in rooms["invite"]
        assert room_id not in rooms.get("knock", {})
        await bob.join(room_id)
        await settle(here, there)
        assert await membership(alice, room_id, bob.user_id) == "join"
        assert await membership(bob, room_id, bob.user_id) == "join"


async def test_a_knock_taken_back(tmp_path: Path) -> None:
    """Through the server that took it, whoever the room's others are."""
    async with neighbours(tmp_path) as (here, there):
        alice, bob = await here.client("alice"), await there.client("bob")
        room_id = await a_room(alice)
        (await knock(bob, room_id)).ok()
        since = await bob.token_now()
        await bob.leave(room_id)
        assert await membership(alice, room_id, bob.user_id) == "leave"
        assert room_id in (await bob.sync(since))["rooms"]["leave"]
        (await bob.ask("POST", at("rooms", room_id, "forget"), {})).ok()
        (await knock(bob, room_id)).ok()
        assert await membership(alice, room_id, bob.user_id) == "knock"


@pytest.mark.parametrize("how", ["kick", "ban"])
async def test_a_knock_refused(tmp_path: Path, how: str) -> None:
    """It is told to the one who knocked, though their server is not in the room."""
    async with neighbours(tmp_path) as (here, there):
        alice, bob = await here.client("alice"), await there.client("bob")
        room_id = await a_room(alice)
        (await knock(bob, room_id)).ok()
        since = await bob.token_now()
        await alice.treat(room_id, how, bob)
        await settle(here, there)
        rooms = (await bob.sync(since))["rooms"]
        assert room_id in rooms["leave"]
        assert room_id not in rooms.get("knock", {})


async def test_a_refusal_by_a_third_server(tmp_path: Path) -> None:
    async with neighbours(tmp_path, 3) as (here, there, third):
        alice, bob, carol = await here.client("alice"), await there.client("bob"), await third.client("carol")
        room_id = await a_room(
            alice,
            power_level_content_override={"users": {alice.user_id: 100, carol.user_id: 60}},
            room_version="11",
        )
        await alice.treat(room_id, "invite", carol)
        await carol.join(room_id)
        (await knock(bob, room_id)).ok()
        await settle(here, there, third)
        since = await bob.token_now()
        await carol.treat(room_id, "kick", bob)
        await settle(here, there, third)
        assert room_id in (await bob.sync(since))["rooms"]["leave"]


async def test_a_knock_within_one_server(tmp_path: Path) -> None:
    async with neighbours(tmp_path, 1) as (here,):
        alice, amy = await here.clients("alice", "amy")
        room_id = await a_room(alice, room_alias_name="club")
        assert (await knock(amy, f"#club:{ONE}")).ok() == {"room_id": room_id}
        events = (await amy.sync())["rooms"]["knock"][room_id]["knock_state"]["events"]
        assert by_key(events)["m.room.name", ""] == {"name": "The club"}
        await amy.leave(room_id)
        assert await membership(alice, room_id, amy.user_id) == "leave"
        (await knock(amy, room_id)).ok()
        await alice.treat(room_id, "invite", amy)
        (await knock(amy, room_id)).failed(403, "M_FORBIDDEN")
        await amy.join(room_id)


async def test_where_nobody_can_knock(tmp_path: Path) -> None:
    async with neighbours(tmp_path) as (here, there):
        alice, bob = await here.client("alice"), await there.client("bob")
        closed = await a_room(alice, "invite")
        (await knock(bob, closed)).failed(403, "M_FORBIDDEN")
        old = await a_room(alice, "invite", room_version="6")
        refused = await knock(bob, old)
        assert refused.failed(400, "M_INCOMPATIBLE_ROOM_VERSION")
        # client-server §Standard error response: "Inspect the room_version property".
        assert refused.body["room_version"] == "6"
        room_id = await a_room(alice)
        await alice.treat(room_id, "ban", bob)
        (await knock(bob, room_id)).failed(403, "M_FORBIDDEN")
        (await knock(bob, "!nothing:192.0.2.1:1")).failed(404, "M_NOT_FOUND")
        (await knock(bob, "no room")).failed(400, "M_INVALID_PARAM")
        (await bob.ask("POST", at("knock", "!" + "a" * 43), {})).failed(404, "M_NOT_FOUND")
        (await bob.ask("POST", at("knock", room_id), {"reason": 3}, via=ONE)).failed(400, "M_BAD_JSON")
        assert (await bob.sync())["rooms"].get("knock", {}) == {}


async def test_what_servers_are_refused(tmp_path: Path) -> None:
    async with neighbours(tmp_path) as (here, there):
        alice, bob = await here.client("alice"), await there.client("bob")
        room_id = await a_room(alice, room_version="10")
        make = at("v1", "make_knock", room_id, bob.user_id)
        assert await refusal(ask_as(there, ONE, "GET", make, ver=["6", "11"])) == (
            400,
            "M_INCOMPATIBLE_ROOM_VERSION",
        )
        strange = at("v1", "make_knock", room_id, alice.user_id)
        assert await refusal(ask_as(there, ONE, "GET", strange, ver="10")) == (403, "M_FORBIDDEN")
        template = await ask_as(there, ONE, "GET", make, ver="10")
        assert template["event"]["content"] == {"membership": "knock"}
        event = signed(there, template, bob.user_id, {"membership": "knock"})

        async def send(event_id: str, value: dict[str, Any]) -> tuple[int | None, str | None]:
            return await refusal(ask_as(there, ONE, "PUT", at("v1", "send_knock", room_id, event_id), value))

        source = dict(event.source)
        assert await send("$other", source) == (400, "M_INVALID_PARAM")
        assert await send(event.event_id, {**source, "signatures": {}}) == (400, "M_INVALID_PARAM")
        assert await send(event.event_id, {**source, "state_key": alice.user_id}) == (400, "M_INVALID_PARAM")
        assert await send(event.event_id, source) == (200, None)
        await alice.set_state(
            room_id, "m.room.server_acl", {"allow": ["*"], "deny": ["192.0.2.1"], "allow_ip_literals": False}
        )
        assert await refusal(ask_as(there, ONE, "GET", make, ver="10")) == (403, "M_FORBIDDEN")
