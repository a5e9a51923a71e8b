"""Typing and presence (client-server §Typing Notifications, §Presence)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from comity.users.ephemeral import DEFAULT_TYPING_MS, MAX_TYPING_MS
from comity.users.presence import GONE_SECONDS
from tests.api.support_rooms import place
from tests.api.support_users import SERVER, Answer, UserServer, at, user_server


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[UserServer]:
    async with user_server(tmp_path) as built:
        yield built


ALICE, BOB = f"@alice:{SERVER}", f"@bob:{SERVER}"
ROOM = "!room:example.org"


async def types(
    server: UserServer, token: str, body: object, *, user: str = ALICE, room: str = ROOM
) -> Answer:
    return await server.ask("PUT", at("rooms", room, "typing", user), body, token=token)


async def test_typing_begins_and_stops(server: UserServer) -> None:
    alice, bob = await server.user("alice"), await server.user("bob")
    await server.room(ROOM, ALICE, BOB)
    assert server.ephemeral.typing(ROOM) == (0, [])
    start = server.ephemeral.typing_serial
    assert (await types(server, alice, {"typing": True, "timeout": 5000})).ok() == {}
    assert server.ephemeral.typing(ROOM) == (start + 1, [ALICE])
    assert (await types(server, bob, {"typing": True}, user=BOB)).ok() == {}
    assert server.ephemeral.typing(ROOM) == (start + 2, [ALICE, BOB])
    # Saying it again is no news.
    assert (await types(server, alice, {"typing": True, "timeout": 5000})).ok() == {}
    assert server.ephemeral.typing_serial == start + 2
    assert (await types(server, alice, {"typing": False})).ok() == {}
    assert (await types(server, alice, {"typing": False})).ok() == {}
    assert server.ephemeral.typing(ROOM) == (start + 3, [BOB])


async def test_typing_times_out(server: UserServer) -> None:
    alice, bob = await server.user("alice"), await server.user("bob")
    await server.room(ROOM, ALICE, BOB)
    (await types(server, alice, {"typing": True})).ok()
    (await types(server, bob, {"typing": True, "timeout": 4000}, user=BOB)).ok()
    await server.clock.turn(6)
    assert server.ephemeral.typing(ROOM)[1] == [ALICE]
    await server.clock.turn(DEFAULT_TYPING_MS / 1000)
    assert server.ephemeral.typing(ROOM)[1] == []
    # And again, after the task that ends it has gone to rest.
    (await types(server, alice, {"typing": True, "timeout": 10**12})).ok()
    await server.clock.turn(MAX_TYPING_MS / 1000 - 1)
    assert server.ephemeral.typing(ROOM)[1] == [ALICE]
    await server.clock.turn(3)
    assert server.ephemeral.typing(ROOM)[1] == []


async def test_typing_wakes_who_waits_for_the_room(server: UserServer) -> None:
    alice = await server.user("alice")
    await server.room(ROOM, ALICE)
    for body in ({"typing": True}, {"typing": False}):
        waiting = asyncio.ensure_future(server.bus.wait([ROOM], server.bus.position, 60))
        await asyncio.sleep(0)
        (await types(server, alice, body)).ok()
        assert await waiting


@pytest.mark.parametrize("how", ["leave", "kick", "ban"])
async def test_who_leaves_types_no_more(tmp_path: Path, how: str) -> None:
    async with place(tmp_path) as here:
        alice, bob, carol = await here.clients("alice", "bob", "carol")
        room_id = await alice.create()
        for client in (bob, carol):
            await client.join(room_id)
            typing = at("rooms", room_id, "typing", client.user_id)
            (await client.ask("PUT", typing, {"typing": True, "timeout": 60_000})).ok()
        since = await alice.token_now()
        if how == "leave":
            await bob.leave(room_id)
        else:
            await alice.treat(room_id, how, bob)
        for token in (since, None):
            told = (await alice.sync(token))["rooms"]["join"][room_id]["ephemeral"]["events"]
            assert told == [{"type": "m.typing", "content": {"user_ids": [carol.user_id]}}]


async def test_serial_numbers_grow_over_a_restart(tmp_path: Path) -> None:
    async with user_server(tmp_path) as server:
        alice = await server.user("alice")
        await server.room(ROOM, ALICE)
        (await types(server, alice, {"typing": True})).ok()
        before = server.ephemeral.typing_serial
        later = server.clock.now_ms() + 60_000
        assert before < later  # what a server that starts a minute later begins with


async def test_who_may_not_type(server: UserServer) -> None:
    alice, bob = await server.user("alice"), await server.user("bob")
    await server.room(ROOM, ALICE)
    (await types(server, bob, {"typing": True})).failed(403, "M_FORBIDDEN")
    (await types(server, bob, {"typing": True}, user=BOB)).failed(403, "M_FORBIDDEN")
    (await types(server, alice, {"typing": True}, room="!no:example.org")).failed(403, "M_FORBIDDEN")
    (await types(server, alice, {})).failed(400, "M_MISSING_PARAM")
    (await types(server, alice, {"typing": "yes"})).failed(400, "M_BAD_JSON")
    (await types(server, alice, {"typing": True, "timeout": "long"})).failed(400, "M_BAD_JSON")
    (await types(server, alice, {"typing": True, "timeout": True})).failed(400, "M_BAD_JSON")
    assert server.ephemeral.typing(ROOM) == (0, [])


def status(user: str) -> str:
    return at("presence", user, "status")


async def test_presence_is_what_the_user_says(server: UserServer) -> None:
    alice, bob = await server.user("alice"), await server.user("bob")
    await server.room(ROOM, ALICE, BOB)
    assert (await server.ask("GET", status(ALICE), token=bob)).ok() == {"presence": "offline"}
    body = {"presence": "online", "status_msg": "here"}
    assert (await server.ask("PUT", status(ALICE), body, token=alice)).ok() == {}
    await server.clock.turn(2)
    shown = (await server.ask("GET", status(ALICE), token=bob)).ok()
    assert shown == {
        "presence": "online",
        "status_msg": "here",
        "last_active_ago": 2000,
        "currently_active": True,
    }
    # Whoever follows no stream of events is not there for long.
    await server.clock.turn(GONE_SECONDS)
    shown = (await server.ask("GET", status(ALICE), token=alice)).ok()
    assert (shown["presence"], "currently_active" in shown) == ("offline", False)
    (await server.ask("PUT", status(ALICE), {"presence": "unavailable"}, token=alice)).ok()
    shown = (await server.ask("GET", status(ALICE), token=bob)).ok()
    assert shown == {"presence": "unavailable", "last_active_ago": 0}
    (await server.ask("PUT", status(ALICE), {"presence": "offline"}, token=alice)).ok()
    shown = (await server.ask("GET", status(ALICE), token=bob)).ok()
    assert shown == {"presence": "offline", "last_active_ago": 0}


async def test_presence_is_for_those_who_share_a_room(server: UserServer) -> None:
    alice, bob = await server.user("alice"), await server.user("bob")
    (await server.ask("GET", status(ALICE), token=alice)).ok()
    (await server.ask("GET", status(ALICE), token=bob)).failed(404, "M_NOT_FOUND")
    (await server.ask("GET", status(f"@no:{SERVER}"), token=bob)).failed(404, "M_NOT_FOUND")
    (await server.ask("PUT", status(ALICE), {"presence": "online"}, token=bob)).failed(403, "M_FORBIDDEN")
    (await server.ask("PUT", status(ALICE), {}, token=alice)).failed(400, "M_MISSING_PARAM")
    (await server.ask("PUT", status(ALICE), {"presence": "busy"}, token=alice)).failed(400, "M_INVALID_PARAM")
    wrong = {"presence": "online", "status_msg": 5}
    (await server.ask("PUT", status(ALICE), wrong, token=alice)).failed(400, "M_BAD_JSON")
