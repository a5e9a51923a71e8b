"""Filters of history: every field of a RoomEventFilter (client-server §Filtering)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest

from tests.api.support_rooms import Client, Place, ids, place
from tests.api.support_users import at


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Place]:
    async with place(tmp_path) as opened:
        yield opened


async def relate(client: Client, room_id: str, target: str, rel_type: str) -> str:
    content = {"body": "about it", "m.relates_to": {"rel_type": rel_type, "event_id": target}}
    return await client.send(room_id, "m.room.message", content)


async def found(client: Client, room_id: str, **wanted: object) -> list[str]:
    return ids((await client.messages(room_id, "f", wanted=wanted, limit=100))["chunk"])


async def test_events_to_which_others_relate(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create()
    await bob.join(room_id)
    thread, reference, alone = await alice.say_all(room_id, "thread", "reference", "alone")
    in_thread = await relate(alice, room_id, thread, "m.thread")
    await relate(bob, room_id, thread, "m.reference")
    about = await relate(bob, room_id, reference, "m.reference")
    assert await found(alice, room_id, related_by_rel_types=["m.thread"]) == [thread]
    assert await found(alice, room_id, related_by_rel_types=["m.reference"]) == [thread, reference]
    assert await found(alice, room_id, related_by_rel_types=["m.thread", "m.x"]) == [thread]
    assert await found(alice, room_id, related_by_senders=[alice.user_id]) == [thread]
    assert await found(alice, room_id, related_by_senders=[bob.user_id]) == [thread, reference]
    # One relation has to match both.
    both = {"related_by_rel_types": ["m.thread"], "related_by_senders": [bob.user_id]}
    assert await found(alice, room_id, **both) == []
    assert await found(alice, room_id, related_by_rel_types=[]) == []
    wanted = {"related_by_rel_types": ["m.reference"], "senders": [bob.user_id]}
    assert await found(alice, room_id, **wanted) == []
    context = await alice.ask(
        "GET",
        at("rooms", room_id, "context", alone),
        filter=orjson.dumps({"related_by_rel_types": ["m.thread"]}).decode(),
    )
    assert ids(context.ok()["events_before"]) == [thread]
    # What is redacted relates to nothing, and whom one ignores is not heard.
    await alice.redact(room_id, in_thread)
    assert await found(alice, room_id, related_by_rel_types=["m.thread"]) == []
    await alice.account_data("m.ignored_user_list", {"ignored_users": {bob.user_id: {}}})
    assert await found(alice, room_id, related_by_rel_types=["m.reference"]) == []
    assert about


async def test_relations_from_before_one_came_do_not_count(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create()
    said = await alice.say(room_id, "seen by all")
    await alice.set_state(room_id, "m.room.history_visibility", {"history_visibility": "joined"})
    await relate(alice, room_id, said, "m.thread")
    await alice.set_state(room_id, "m.room.history_visibility", {"history_visibility": "shared"})
    await bob.join(room_id)
    assert await found(alice, room_id, related_by_rel_types=["m.thread"]) == [said]
    assert await found(bob, room_id, related_by_rel_types=["m.thread"]) == []


async def test_the_lesser_limit_holds(server: Place) -> None:
    alice = await server.client("alice")
    room_id = await alice.create()
    said = await alice.say_all(room_id, *"abcdefgh")
    assert ids((await alice.messages(room_id, wanted={"limit": 2}))["chunk"]) == said[:-3:-1]
    assert len((await alice.messages(room_id, wanted={"limit": 2}, limit=5))["chunk"]) == 2
    assert len((await alice.messages(room_id, wanted={"limit": 50}, limit=5))["chunk"]) == 5
    assert len((await alice.messages(room_id, wanted={"limit": 12}))["chunk"]) == 12
    path = at("rooms", room_id, "context", said[4])
    context = (await alice.ask("GET", path, filter='{"limit": 2}')).ok()
    assert ids(context["events_before"]) == [said[3]]
    assert ids(context["events_after"]) == [said[5]]
    context = (await alice.ask("GET", path, limit=0)).ok()
    assert (context["events_before"], context["events_after"]) == ([], [])
    assert context["event"]["event_id"] == said[4]


async def test_rooms_and_urls(server: Place) -> None:
    alice = await server.client("alice")
    room_id = await alice.create()
    said = await alice.say(room_id, "text")
    picture = await alice.send(room_id, "m.room.message", {"url": "mxc://example.org/x"})
    types = ["m.room.mess*"]
    assert await found(alice, room_id, types=types, rooms=[room_id]) == [said, picture]
    assert await found(alice, room_id, types=types, rooms=["!other:example.org"]) == []
    assert await found(alice, room_id, types=types, rooms=[room_id], not_rooms=[room_id]) == []
    assert await found(alice, room_id, types=types, contains_url=True) == [picture]
    assert await found(alice, room_id, types=types, contains_url=False) == [said]
    assert await found(alice, room_id, types=types, not_types=["m.room.message"]) == []
    assert (
        await found(alice, room_id, types=types, senders=[alice.user_id], not_senders=[alice.user_id]) == []
    )
