"""Receipts and the fully-read marker (client-server §Receipts, §Read and unread markers)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from comity.store import personal
from comity.store.database import last_position
from tests.api.support_users import SERVER, Answer, UserServer, at, user_server


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[UserServer]:
    async with user_server(tmp_path) as built:
        yield built


ALICE, BOB = f"@alice:{SERVER}", f"@bob:{SERVER}"
ROOM = "!room:example.org"


async def read(
    server: UserServer, token: str, event_id: str, kind: str = "m.read", body: object = None, room: str = ROOM
) -> Answer:
    return await server.ask("POST", at("rooms", room, "receipt", kind, event_id), body, token=token)


def seen(server: UserServer, user_id: str, after: int = 0) -> Any:
    """What sync would show of the room's receipts."""
    content = server.database.read_now(
        lambda tx: personal.receipts_since(tx, 1, after, server.bus.position, user_id)
    )
    return None if content is None else orjson.loads(content)


async def test_a_receipt_is_seen_by_all_and_a_private_one_by_its_user(server: UserServer) -> None:
    alice, bob = await server.user("alice"), await server.user("bob")
    events = await server.room(ROOM, ALICE, BOB, events=3)
    before = server.bus.position
    assert (await read(server, alice, events[0])).ok() == {}
    assert server.bus.changed([ROOM], before)
    assert (await read(server, bob, events[1], "m.read.private", {})).ok() == {}
    now = server.clock.now_ms()
    public = {events[0]: {"m.read": {ALICE: {"ts": now}}}}
    assert seen(server, ALICE) == public
    assert seen(server, BOB) == {**public, events[1]: {"m.read.private": {BOB: {"ts": now}}}}
    assert seen(server, ALICE, server.bus.position) is None
    assert server.database.read_now(last_position) == server.bus.position


async def test_reading_goes_forward_only(server: UserServer) -> None:
    alice = await server.user("alice")
    events = await server.room(ROOM, ALICE, events=3)
    (await read(server, alice, events[1])).ok()
    position = server.bus.position
    (await read(server, alice, events[0])).ok()
    (await read(server, alice, events[1])).ok()
    assert server.bus.position == position
    (await read(server, alice, events[2])).ok()
    assert list(seen(server, ALICE)) == [events[2]]


async def test_threads_have_receipts_of_their_own(server: UserServer) -> None:
    alice = await server.user("alice")
    events = await server.room(ROOM, ALICE, events=4)
    await relate(server, events[2], events[0], "m.thread")
    (await read(server, alice, events[3], body={"thread_id": "main"})).ok()
    (await read(server, alice, events[2], body={"thread_id": events[0]})).ok()
    (await read(server, alice, events[1])).ok()
    now = server.clock.now_ms()
    assert seen(server, ALICE) == {
        events[3]: {"m.read": {ALICE: {"ts": now, "thread_id": "main"}}},
        events[2]: {"m.read": {ALICE: {"ts": now, "thread_id": events[0]}}},
        events[1]: {"m.read": {ALICE: {"ts": now}}},
    }


async def test_an_event_is_read_in_the_thread_that_it_is_in(server: UserServer) -> None:
    alice = await server.user("alice")
    root, inside, reaction, beside = await server.room(ROOM, ALICE, events=4)
    await relate(server, inside, root, "m.thread")
    await relate(server, reaction, inside, "m.annotation")
    await relate(server, beside, root, "m.annotation")
    for event_id, thread_id in ((inside, "main"), (reaction, "main"), (beside, root), (inside, beside)):
        (await read(server, alice, event_id, body={"thread_id": thread_id})).failed(400, "M_INVALID_PARAM")
        private = await read(server, alice, event_id, "m.read.private", {"thread_id": thread_id})
        private.failed(400, "M_INVALID_PARAM")
    assert seen(server, ALICE) is None
    for event_id, thread_id in (
        (root, root),
        (inside, root),
        (reaction, root),
        (root, "main"),
        (beside, "main"),
    ):
        (await read(server, alice, event_id, body={"thread_id": thread_id})).ok()
    assert set(seen(server, ALICE)) == {reaction, beside}


async def relate(server: UserServer, event_id: str, target: str, rel_type: str) -> None:
    """Have an event relate to another."""
    insert = (
        "INSERT INTO relations (target, event_num, room_num, rel_type, type, sender, line, origin_server_ts) "
        "SELECT ?, event_num, room_num, ?, type, sender, line, 1 FROM events WHERE event_id = ?"
    )
    await server.database.write(lambda tx: tx.run(insert, (target, rel_type, event_id)))


async def test_an_unthreaded_receipt_says_more_than_a_threaded_one(server: UserServer) -> None:
    alice = await server.user("alice")
    events = await server.room(ROOM, ALICE, events=1)
    (await read(server, alice, events[0])).ok()
    (await read(server, alice, events[0], body={"thread_id": "main"})).ok()
    assert seen(server, ALICE) == {events[0]: {"m.read": {ALICE: {"ts": server.clock.now_ms()}}}}


async def test_the_fully_read_marker_is_account_data(server: UserServer) -> None:
    alice = await server.user("alice")
    events = await server.room(ROOM, ALICE, events=3)
    assert (await read(server, alice, events[1], "m.fully_read")).ok() == {}
    path = at("user", ALICE, "rooms", ROOM, "account_data", "m.fully_read")
    assert (await server.ask("GET", path, token=alice)).ok() == {"event_id": events[1]}
    before = server.bus.position
    markers = {"m.fully_read": events[2], "m.read": events[2], "m.read.private": events[1]}
    markers_path = at("rooms", ROOM, "read_markers")
    assert (await server.ask("POST", markers_path, markers, token=alice)).ok() == {}
    assert server.bus.changed([ALICE], before)
    assert server.bus.changed([ROOM], before)
    assert (await server.ask("GET", path, token=alice)).ok() == {"event_id": events[2]}
    assert set(seen(server, ALICE)) == {events[1], events[2]}
    assert (await server.ask("POST", markers_path, {}, token=alice)).ok() == {}


@pytest.mark.parametrize(
    ("kind", "event_id", "body", "code"),
    [
        ("m.seen", None, {}, "M_INVALID_PARAM"),
        ("m.read", "$unknown", {}, "M_INVALID_PARAM"),
        ("m.read", "unknown", {}, "M_INVALID_PARAM"),
        ("m.fully_read", "$unknown", {}, "M_INVALID_PARAM"),
        ("m.read", None, {"thread_id": ""}, "M_INVALID_PARAM"),
        ("m.read", None, {"thread_id": 5}, "M_INVALID_PARAM"),
        ("m.read", None, {"thread_id": "side"}, "M_INVALID_PARAM"),
        ("m.fully_read", None, {"thread_id": "main"}, "M_INVALID_PARAM"),
        ("m.read", None, [], "M_BAD_JSON"),
    ],
)
async def test_what_is_no_receipt(
    server: UserServer, kind: str, event_id: str | None, body: object, code: str
) -> None:
    alice = await server.user("alice")
    events = await server.room(ROOM, ALICE, events=1)
    (await read(server, alice, event_id or events[0], kind, body)).failed(400, code)
    assert seen(server, ALICE) is None


async def test_markers_are_all_set_or_none(server: UserServer) -> None:
    alice = await server.user("alice")
    events = await server.room(ROOM, ALICE, events=1)
    path = at("rooms", ROOM, "read_markers")
    half = {"m.read": events[0], "m.fully_read": "$unknown"}
    (await server.ask("POST", path, half, token=alice)).failed(400, "M_INVALID_PARAM")
    (await server.ask("POST", path, {"m.read": 5}, token=alice)).failed(400, "M_BAD_JSON")
    assert seen(server, ALICE) is None


async def test_only_members_read(server: UserServer) -> None:
    await server.user("alice")
    bob = await server.user("bob")
    events = await server.room(ROOM, ALICE, events=1)
    other = await server.room("!two:example.org", BOB, events=1)
    (await read(server, bob, events[0])).failed(403, "M_FORBIDDEN")
    (await read(server, bob, events[0], room="!none:example.org")).failed(403, "M_FORBIDDEN")
    (await read(server, bob, events[0], room="!two:example.org")).failed(400, "M_INVALID_PARAM")
    (await read(server, bob, other[0], room="!two:example.org")).ok()
