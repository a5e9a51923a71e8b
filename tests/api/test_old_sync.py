"""Room previews, and what clients from before /sync ask (client-server §Room Previews)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from comity.sync.old_stream import MAX_EVENTS
from tests.api.neighbours import name_of, neighbours, settle
from tests.api.support_rooms import Client, Place, bodies, by_key, ids, place, until_waiting
from tests.api.support_users import Answer, at


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Place]:
    async with place(tmp_path) as opened:
        yield opened


WORLD_READABLE = {"type": "m.room.history_visibility", "content": {"history_visibility": "world_readable"}}


async def an_open_room(owner: Client, **body: Any) -> str:
    return await owner.create(initial_state=[WORLD_READABLE], **body)


async def look_into(client: Client, room_id: str, **query: object) -> Any:
    return (await client.ask("GET", at("rooms", room_id, "initialSync"), **query)).ok()


async def try_stream(client: Client, start: str | None = None, **query: object) -> Answer:
    if start is not None:
        query["from"] = start
    return await client.ask("GET", "/events", **{"timeout": 0, **query})


async def stream(client: Client, start: str | None = None, **query: object) -> Any:
    return (await try_stream(client, start, **query)).ok()


def texts(answer: Any) -> list[str]:
    return bodies(answer["chunk"])


async def everything(client: Client, **query: object) -> Any:
    return (await client.ask("GET", "/initialSync", **query)).ok()


async def rooms_of(client: Client, **query: object) -> dict[str, Any]:
    return {room["room_id"]: room for room in (await everything(client, **query))["rooms"]}


# -- looking into a room


@pytest.mark.parametrize("who", ["user", "guest"])
async def test_a_stranger_looks_into_a_room(server: Place, who: str) -> None:
    (alice,) = await server.clients("alice")
    stranger = await server.guest() if who == "guest" else await server.client("bob")
    room_id = await an_open_room(alice, name="Den")
    said = await alice.say_all(room_id, "one", "two", "three")
    told = await look_into(stranger, room_id, limit=2)
    assert told["room_id"] == room_id
    assert told["visibility"] == "private"
    assert told["account_data"] == []
    assert "membership" not in told
    assert ids(told["messages"]["chunk"]) == said[1:]
    assert by_key(told["state"])["m.room.name", ""] == {"name": "Den"}
    assert all(event["room_id"] == room_id for event in [*told["state"], *told["messages"]["chunk"]])
    earlier = await stranger.messages(room_id, from_=told["messages"]["start"], limit=1)
    assert texts(earlier) == ["one"]
    # And what comes next.
    assert (await stream(stranger, told["messages"]["end"], room_id=room_id))["chunk"] == []
    waiting = asyncio.get_running_loop().create_task(
        stream(stranger, told["messages"]["end"], room_id=room_id, timeout=30_000)
    )
    await until_waiting()
    assert not waiting.done()
    await alice.say(room_id, "four")
    news = await waiting
    assert texts(news) == ["four"]
    assert news["start"] == told["messages"]["end"]
    assert (await stream(stranger, news["end"], room_id=room_id))["chunk"] == []


async def test_a_room_without_beginning_to_page_to(server: Place) -> None:
    (alice,) = await server.clients("alice")
    room_id = await alice.create(visibility="public")
    await alice.account_data("org.example", {"a": 1}, room_id)
    told = await look_into(alice, room_id, limit=100)
    assert "start" not in told["messages"]
    assert told["messages"]["chunk"][0]["type"] == "m.room.create"
    assert told["visibility"] == "public"
    assert told["membership"] == "join"
    assert told["account_data"] == [{"type": "org.example", "content": {"a": 1}}]


async def test_what_is_not_for_everybody_is_not_looked_into(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create()
    for path in (room_id, "!unknown:example.org"):
        (await bob.ask("GET", at("rooms", path, "initialSync"))).failed(403, "M_FORBIDDEN")
        (await try_stream(bob, room_id=path)).failed(403, "M_FORBIDDEN")
    await bob.join(room_id)
    assert (await stream(bob, room_id=room_id))["chunk"] == []
    start = (await stream(bob, room_id=room_id))["end"]
    await bob.leave(room_id)
    await alice.say(room_id, "after")
    # Their leaving is theirs to see, and what comes then is not.
    news = await stream(bob, start, room_id=room_id)
    assert [event["type"] for event in news["chunk"]] == ["m.room.member"]
    (await try_stream(bob, news["end"], room_id=room_id)).failed(403, "M_FORBIDDEN")
    told = await look_into(bob, room_id)
    assert told["membership"] == "leave"
    assert texts(told["messages"]) == []
    assert by_key(told["state"])["m.room.member", bob.user_id] == {"membership": "leave"}


async def test_a_wait_ends_when_the_room_is_closed(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await an_open_room(alice)
    await alice.say(room_id, "open")
    waiting = asyncio.get_running_loop().create_task(try_stream(bob, room_id=room_id, timeout=30_000))
    await until_waiting()
    await alice.set_state(room_id, "m.room.history_visibility", {"history_visibility": "joined"})
    (await waiting).failed(403, "M_FORBIDDEN")
    # Opened again, it shows what was said while it was open.
    await alice.say(room_id, "secret")
    await alice.set_state(room_id, "m.room.history_visibility", {"history_visibility": "world_readable"})
    await alice.say(room_id, "open again")
    assert texts(await stream(bob, "t0", room_id=room_id)) == ["open", "open again"]


async def test_a_stream_goes_on_where_it_was_cut(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    rooms = [await an_open_room(alice), await an_open_room(alice)]
    for room_id in rooms:
        await bob.join(room_id)
    start = (await stream(bob))["end"]
    said = [str(number) for number in range(MAX_EVENTS + 30)]
    for number, text in enumerate(said):
        await alice.say(rooms[number % 7 == 0], text)
    first = await stream(bob, start)
    assert len(first["chunk"]) == MAX_EVENTS
    second = await stream(bob, first["end"])
    assert texts(first) + texts(second) == said
    peeked = await stream(bob, start, room_id=rooms[0])
    rest = await stream(bob, peeked["end"], room_id=rooms[0])
    expected = [text for number, text in enumerate(said) if number % 7]
    assert texts(peeked) + texts(rest) == expected


@pytest.mark.parametrize("token", ["x", "t", "-1", "t1234567890123456789012"])
async def test_tokens_that_are_none(server: Place, token: str) -> None:
    (alice,) = await server.clients("alice")
    (await try_stream(alice, token)).failed(400, "M_INVALID_PARAM")
    (await try_stream(alice, timeout="soon")).failed(400, "M_INVALID_PARAM")


async def test_a_token_from_the_future_is_now(server: Place) -> None:
    (alice,) = await server.clients("alice")
    room_id = await alice.create()
    answer = await stream(alice, "t999999999999999999")
    await alice.say(room_id, "hello")
    assert texts(await stream(alice, answer["end"])) == ["hello"]


# -- the stream of all rooms


async def test_the_stream_of_all_rooms(server: Place) -> None:
    alice, bob, carol = await server.clients("alice", "bob", "carol")
    first, second, third = await alice.create(), await alice.create(), await alice.create()
    await bob.join(first)
    start = (await everything(bob))["end"]
    await alice.say(second, "before he came")
    waiting = asyncio.get_running_loop().create_task(stream(bob, start, timeout=30_000))
    await until_waiting()
    await alice.say(first, "one")
    answer = await waiting
    assert texts(answer) == ["one"]
    await alice.say(third, "not his")
    await bob.join(second)
    await alice.say(second, "two")
    await alice.treat(third, "invite", bob)
    await bob.leave(first)
    await alice.say(first, "after he left")
    news = await stream(bob, answer["end"])
    told = [event["content"].get("body") or event["content"].get("membership") for event in news["chunk"]]
    assert told == ["join", "two", "invite", "leave"]
    assert (await stream(bob, news["end"]))["chunk"] == []
    # Whom he ignores invites him in vain.
    await bob.account_data("m.ignored_user_list", {"ignored_users": {carol.user_id: {}}})
    fourth = await carol.create()
    await carol.treat(fourth, "invite", bob)
    assert (await stream(bob, news["end"]))["chunk"] == []


async def test_the_stream_waits_no_longer_than_it_is_asked_to(server: Place) -> None:
    (alice,) = await server.clients("alice")
    await alice.create()
    waiting = asyncio.get_running_loop().create_task(stream(alice, timeout=10))
    answer = await waiting
    assert answer["chunk"] == []
    assert answer["start"] == answer["end"]


# -- everything at once


async def test_everything_at_once(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    joined, invited, left = await alice.create(name="Den"), await alice.create(), await alice.create()
    for room_id in (joined, left):
        await bob.join(room_id)
    await alice.treat(invited, "invite", bob)
    await alice.say_all(joined, "one", "two")
    await alice.say(left, "then")
    await bob.leave(left)
    await alice.say(left, "now")
    await bob.account_data("org.example", {"a": 1})
    (await alice.ask("PUT", at("presence", alice.user_id, "status"), {"presence": "online"})).ok()
    told = await everything(bob, limit=1)
    assert {"type": "org.example", "content": {"a": 1}} in told["account_data"]
    assert [(event["type"], event["sender"]) for event in told["presence"]] == [("m.presence", alice.user_id)]
    rooms = {room["room_id"]: room for room in told["rooms"]}
    assert rooms.keys() == {joined, invited}
    assert rooms[joined]["membership"] == "join"
    assert texts(rooms[joined]["messages"]) == ["two"]
    assert by_key(rooms[joined]["state"])["m.room.name", ""] == {"name": "Den"}
    assert rooms[invited]["membership"] == "invite"
    assert rooms[invited]["invite"]["state_key"] == bob.user_id
    assert "state" not in rooms[invited]
    archived = await rooms_of(bob, archived=True)
    assert archived[left]["membership"] == "leave"
    assert texts(archived[left]["messages"]) == ["then"]
    # What is forgotten is not told.
    (await bob.ask("POST", at("rooms", left, "forget"), {})).ok()
    assert left not in await rooms_of(bob, archived=True)


async def test_everything_takes_no_message_from_the_device(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    body = {"messages": {bob.user_id: {"*": {"hello": 1}}}}
    (await alice.ask("PUT", at("sendToDevice", "org.example", "1"), body)).ok()
    end = (await everything(bob))["end"]
    await stream(bob, end)
    (await bob.ask("GET", "/sync", since=end)).failed(400, "M_INVALID_PARAM")
    assert [event["content"] for event in (await bob.sync())["to_device"]["events"]] == [{"hello": 1}]


async def test_an_invite_from_elsewhere(tmp_path: Path) -> None:
    async with neighbours(tmp_path) as (here, there):
        (alice,), (bob,) = await here.clients("alice"), await there.clients("bob")
        start = (await stream(alice))["end"]
        room_id = await bob.create()
        await bob.treat(room_id, "invite", alice)
        (invite,) = (await stream(alice, start))["chunk"]
        assert (invite["room_id"], invite["content"]["membership"]) == (room_id, "invite")
        assert (await rooms_of(alice))[room_id]["invite"]["event_id"] == invite["event_id"]
        await alice.join(room_id, via=name_of(2))
        await settle(here, there)
        await bob.say(room_id, "hello")
        await settle(here, there)
        news = await stream(alice, start)
        assert texts(news)[-1:] == ["hello"]


# -- one event


async def test_one_event_by_its_id_alone(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    closed, open_ = await alice.create(), await an_open_room(alice)
    hidden, shown = await alice.say(closed, "hidden"), await alice.say(open_, "shown")
    for client, event_id, text in ((alice, hidden, "hidden"), (alice, shown, "shown"), (bob, shown, "shown")):
        event = (await client.ask("GET", at("events", event_id))).ok()
        assert (event["event_id"], event["content"]["body"]) == (event_id, text)
    for event_id in (hidden, "$unknown"):
        (await bob.ask("GET", at("events", event_id))).failed(404, "M_NOT_FOUND")
