"""Relations, bundles and threads (client-server §Forming relationships between events, §Threading)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.support_rooms import Client, Place, ids, place
from tests.api.support_users import at


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Place]:
    async with place(tmp_path) as opened:
        yield opened


async def relate(
    client: Client, room_id: str, target: str, rel_type: str, body: str = "x", **more: Any
) -> str:
    content: dict[str, Any] = {"msgtype": "m.text", "body": body, **more.pop("content", {})}
    content["m.relates_to"] = {"rel_type": rel_type, "event_id": target, **more}
    return await client.send(room_id, "m.room.message", content)


async def react(client: Client, room_id: str, target: str, key: str = "+") -> str:
    relation = {"rel_type": "m.annotation", "event_id": target, "key": key}
    return await client.send(room_id, "m.reaction", {"m.relates_to": relation})


async def edit(client: Client, room_id: str, target: str, body: str) -> str:
    content = {"m.new_content": {"msgtype": "m.text", "body": body}}
    return await relate(client, room_id, target, "m.replace", "* " + body, content=content)


async def relations(client: Client, room_id: str, event_id: str, *rest: str, **query: object) -> Any:
    if "from_" in query:
        query["from"] = query.pop("from_")
    path = "/_matrix/client/v1" + at("rooms", room_id, "relations", event_id, *rest)
    return (await client.ask("GET", path, **query)).ok()


async def threads(client: Client, room_id: str, **query: object) -> Any:
    if "from_" in query:
        query["from"] = query.pop("from_")
    return (await client.ask("GET", "/_matrix/client/v1" + at("rooms", room_id, "threads"), **query)).ok()


async def bundle(client: Client, room_id: str, event_id: str) -> Any:
    event = (await client.ask("GET", at("rooms", room_id, "event", event_id))).ok()
    return event["unsigned"].get("m.relations")


async def a_room(server: Place) -> tuple[Client, Client, str]:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create()
    await bob.join(room_id)
    return alice, bob, room_id


async def test_the_latest_valid_replacement_is_bundled(server: Place) -> None:
    alice, bob, room_id = await a_room(server)
    said = await alice.say(room_id, "frist")
    assert await bundle(bob, room_id, said) is None
    await edit(bob, room_id, said, "not bob's to edit")
    await relate(alice, room_id, said, "m.replace", "without new content")
    assert await bundle(bob, room_id, said) is None
    first = await edit(alice, room_id, said, "first")
    await server.clock.turn(1)
    second = await edit(alice, room_id, said, "First")
    told = await bundle(bob, room_id, said)
    assert told["m.replace"]["event_id"] == second
    assert told["m.replace"]["content"]["m.new_content"]["body"] == "First"
    assert told["m.replace"]["room_id"] == room_id
    # An edit of an edit is none.
    await edit(alice, room_id, second, "again")
    assert await bundle(bob, room_id, second) is None
    await alice.redact(room_id, second)
    assert (await bundle(bob, room_id, said))["m.replace"]["event_id"] == first
    await alice.redact(room_id, said)
    assert await bundle(bob, room_id, said) is None


async def test_references_are_bundled_and_reactions_are_not(server: Place) -> None:
    alice, bob, room_id = await a_room(server)
    said = await alice.say(room_id, "this")
    await react(bob, room_id, said)
    assert await bundle(alice, room_id, said) is None
    one = await relate(bob, room_id, said, "m.reference")
    two = await relate(alice, room_id, said, "m.reference")
    assert await bundle(bob, room_id, said) == {
        "m.reference": {"chunk": [{"event_id": one}, {"event_id": two}]}
    }
    await bob.redact(room_id, one)
    assert await bundle(bob, room_id, said) == {"m.reference": {"chunk": [{"event_id": two}]}}


async def test_a_thread_is_summed_up_at_its_root(server: Place) -> None:
    alice, bob, room_id = await a_room(server)
    root = await alice.say(room_id, "root")
    await relate(alice, room_id, root, "m.thread", "one")
    last = await relate(alice, room_id, root, "m.thread", "two")
    corrected = await edit(alice, room_id, last, "Two")
    told = (await bundle(bob, room_id, root))["m.thread"]
    assert (told["count"], told["current_user_participated"]) == (2, False)
    assert told["latest_event"]["event_id"] == last
    assert told["latest_event"]["unsigned"]["m.relations"]["m.replace"]["event_id"] == corrected
    assert (await bundle(alice, room_id, root))["m.thread"]["current_user_participated"] is True
    answer = await relate(bob, room_id, root, "m.thread", "three")
    told = (await bundle(bob, room_id, root))["m.thread"]
    assert (told["count"], told["current_user_participated"]) == (3, True)
    assert told["latest_event"]["event_id"] == answer
    # Redacted, it is in the thread no more.
    await bob.redact(room_id, answer)
    told = (await bundle(bob, room_id, root))["m.thread"]
    assert (told["count"], told["current_user_participated"]) == (2, False)
    assert told["latest_event"]["event_id"] == last


async def test_bundles_come_with_every_list_of_events(server: Place) -> None:
    alice, bob, room_id = await a_room(server)
    said = await alice.say(room_id, "frist")
    corrected = await edit(alice, room_id, said, "first")

    def told(events: Any) -> str:
        event = next(event for event in events if event["event_id"] == said)
        found: str = event["unsigned"]["m.relations"]["m.replace"]["event_id"]
        return found

    assert told((await bob.messages(room_id))["chunk"]) == corrected
    context = (await bob.ask("GET", at("rooms", room_id, "context", said))).ok()
    assert told([context["event"]]) == corrected
    around = (await bob.ask("GET", at("rooms", room_id, "context", corrected))).ok()
    assert told(around["events_before"]) == corrected
    wanted = {"room": {"timeline": {"limit": 2}}}
    part = (await bob.sync(wanted=wanted))["rooms"]["join"][room_id]["timeline"]
    assert part["limited"]
    assert told(part["events"]) == corrected
    # Whoever is given all the children has them already.
    since = await bob.token_now()
    later = await alice.say(room_id, "and")
    await edit(alice, room_id, later, "And")
    events = (await bob.sync(since))["rooms"]["join"][room_id]["timeline"]["events"]
    assert all("m.relations" not in event["unsigned"] for event in events)


async def test_children_are_listed_by_type_and_in_pages(server: Place) -> None:
    alice, bob, room_id = await a_room(server)
    root = await alice.say(room_id, "root")
    replies = [await relate(alice, room_id, root, "m.thread", str(number)) for number in range(5)]
    reaction = await react(bob, room_id, root)
    assert ids((await relations(bob, room_id, root))["chunk"]) == [reaction, *reversed(replies)]
    assert ids((await relations(bob, room_id, root, "m.thread"))["chunk"]) == replies[::-1]
    assert ids((await relations(bob, room_id, root, "m.annotation", "m.reaction"))["chunk"]) == [reaction]
    assert (await relations(bob, room_id, root, "m.annotation", "m.room.message"))["chunk"] == []
    found: list[str] = []
    query: dict[str, object] = {}
    for _ in range(3):
        page = await relations(bob, room_id, root, "m.thread", limit=2, **query)
        found += ids(page["chunk"])
        query = {"from_": page.get("next_batch")}
    assert found == replies[::-1]
    assert query == {"from_": None}
    page = await relations(bob, room_id, root, "m.thread", limit=2, dir="f")
    assert ids(page["chunk"]) == replies[:2]
    page = await relations(bob, room_id, root, "m.thread", limit=9, dir="f", from_=page["next_batch"])
    assert ids(page["chunk"]) == replies[2:]
    assert "next_batch" not in page
    first = await relations(bob, room_id, root, "m.thread", limit=2)
    rest = await relations(bob, room_id, root, "m.thread", to=first["next_batch"])
    assert ids(rest["chunk"]) == replies[:2:-1]


async def test_children_of_children_are_listed_if_asked(server: Place) -> None:
    alice, bob, room_id = await a_room(server)
    root = await alice.say(room_id, "root")
    reply = await relate(alice, room_id, root, "m.thread", "reply")
    reaction = await react(bob, room_id, reply)
    deep = await relate(alice, room_id, reaction, "m.reference")
    beyond = await relate(alice, room_id, deep, "m.reference")
    assert ids((await relations(bob, room_id, root))["chunk"]) == [reply]
    found = await relations(bob, room_id, root, recurse=True)
    assert ids(found["chunk"]) == [deep, reaction, reply]
    assert found["recursion_depth"] == 3
    assert beyond not in ids(found["chunk"])
    # client-server §Relationships API: what only an event leads to that is not asked for is not included.
    assert ids((await relations(bob, room_id, root, "m.annotation", recurse=True))["chunk"]) == []
    assert ids((await relations(bob, room_id, reply, "m.annotation", recurse=True))["chunk"]) == [reaction]
    found = await relations(bob, room_id, reaction, "m.reference", recurse=True)
    assert ids(found["chunk"]) == [beyond, deep]
    found = await relations(bob, room_id, reaction, "m.reference", "m.room.message", recurse=True)
    assert ids(found["chunk"]) == [beyond, deep]


async def test_what_may_not_be_seen_is_neither_listed_nor_counted(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    visibility = {"type": "m.room.history_visibility", "content": {"history_visibility": "joined"}}
    room_id = await alice.create(initial_state=[visibility])
    hidden = await alice.say(room_id, "before bob")
    await relate(alice, room_id, hidden, "m.thread", "hidden")
    await bob.join(room_id)
    root = await alice.say(room_id, "root")
    await relate(alice, room_id, root, "m.thread", "seen")
    await bob.leave(room_id)
    await relate(alice, room_id, root, "m.thread", "while bob is away")
    await edit(alice, room_id, root, "edited while bob is away")
    await relate(alice, room_id, root, "m.reference", "referred to while bob is away")
    await bob.join(room_id)
    told = await bundle(bob, room_id, root)
    assert told.keys() == {"m.thread"}
    assert told["m.thread"]["count"] == 1
    assert told["m.thread"]["latest_event"]["content"]["body"] == "seen"
    assert len((await relations(bob, room_id, root))["chunk"]) == 1
    assert ids((await threads(bob, room_id))["chunk"]) == [root]
    path = "/_matrix/client/v1" + at("rooms", room_id, "relations", hidden)
    (await bob.ask("GET", path)).failed(404, "M_NOT_FOUND")
    assert (await bundle(alice, room_id, root))["m.thread"]["count"] == 2
    carol = await server.client("carol")
    (await carol.ask("GET", path)).failed(403, "M_FORBIDDEN")
    path = "/_matrix/client/v1" + at("rooms", room_id, "threads")
    (await carol.ask("GET", path)).failed(403, "M_FORBIDDEN")


async def test_nobody_hears_of_those_whom_they_ignore(server: Place) -> None:
    alice, bob, room_id = await a_room(server)
    carol = await server.client("carol")
    await carol.join(room_id)
    root = await alice.say(room_id, "root")
    await relate(alice, room_id, root, "m.thread", "from alice")
    await relate(carol, room_id, root, "m.thread", "from carol")
    other = await carol.say(room_id, "a root of carol's")
    await edit(carol, room_id, other, "changed by carol")
    await relate(alice, room_id, other, "m.thread", "an answer to carol")
    await bob.account_data("m.ignored_user_list", {"ignored_users": {carol.user_id: {}}})
    told = (await bundle(bob, room_id, root))["m.thread"]
    assert (told["count"], told["latest_event"]["content"]["body"]) == (1, "from alice")
    assert len((await relations(bob, room_id, root))["chunk"]) == 1
    listed = (await threads(bob, room_id))["chunk"]
    assert ids(listed) == [other, root]
    assert listed[0]["content"] == {}
    children = listed[0]["unsigned"]["m.relations"]
    assert children["m.thread"]["count"] == 1
    assert "m.replace" not in children
    # Where carol speaks last is not where bob hears of something last.
    await relate(carol, room_id, root, "m.thread", "again from carol")
    assert ids((await threads(bob, room_id))["chunk"]) == [other, root]
    assert ids((await threads(alice, room_id))["chunk"]) == [root, other]
    for_alice = (await threads(alice, room_id))["chunk"][1]
    assert for_alice["content"]["body"] == "a root of carol's"
    assert "m.replace" in for_alice["unsigned"]["m.relations"]


async def test_threads_are_listed_by_their_last_event(server: Place) -> None:
    alice, bob, room_id = await a_room(server)
    roots = [await alice.say(room_id, f"root {number}") for number in range(4)]
    for root in roots:
        await relate(alice, room_id, root, "m.thread")
    mine = await relate(bob, room_id, roots[1], "m.thread", "mine")
    expected = [roots[1], roots[3], roots[2], roots[0]]
    assert ids((await threads(bob, room_id))["chunk"]) == expected
    found: list[str] = []
    query: dict[str, object] = {}
    while True:
        page = await threads(bob, room_id, limit=3, **query)
        found += ids(page["chunk"])
        if "next_batch" not in page:
            break
        query = {"from_": page["next_batch"]}
    assert found == expected
    assert ids((await threads(bob, room_id, include="participated"))["chunk"]) == [roots[1]]
    assert ids((await threads(alice, room_id, include="participated"))["chunk"]) == expected
    await bob.redact(room_id, mine)
    assert ids((await threads(bob, room_id))["chunk"]) == roots[::-1]
    assert (await threads(bob, room_id, include="participated"))["chunk"] == []


async def test_some_relations_are_refused(server: Place) -> None:
    alice, bob, room_id = await a_room(server)
    said = await alice.say(room_id, "this")
    reaction = await react(bob, room_id, said)
    content = {"m.relates_to": {"rel_type": "m.annotation", "event_id": said, "key": "+"}}
    path = at("rooms", room_id, "send", "m.reaction", "again")
    (await bob.ask("PUT", path, content)).failed(400, "M_DUPLICATE_ANNOTATION")
    await react(alice, room_id, said)
    await react(bob, room_id, said, "-")
    await bob.redact(room_id, reaction)
    await react(bob, room_id, said)
    reply = await relate(alice, room_id, said, "m.thread")
    nested = {"msgtype": "m.text", "body": "x", "m.relates_to": {"rel_type": "m.thread", "event_id": reply}}
    path = at("rooms", room_id, "send", "m.room.message", "nested")
    (await bob.ask("PUT", path, nested)).failed(400, "M_UNKNOWN")
    # Of an event in another room nothing is told: it is no parent there, and not everybody's to know of.
    (await bob.ask("PUT", at("rooms", await bob.create(), "send", "m.room.message", "x"), nested)).ok()
    path = "/_matrix/client/v1" + at("rooms", room_id, "relations", said)
    wrong: list[dict[str, str]] = [{"dir": "x"}, {"from": "nonsense"}, {"limit": "many"}]
    for query in wrong:
        (await bob.ask("GET", path, **query)).failed(400, "M_INVALID_PARAM")


async def test_relations_outlive_a_restart(tmp_path: Path) -> None:
    async with place(tmp_path) as server:
        alice, bob, room_id = await a_room(server)
        root = await alice.say(room_id, "root")
        reply = await relate(alice, room_id, root, "m.thread")
    async with place(tmp_path) as server:
        bob = server.again(bob)
        assert (await bundle(bob, room_id, root))["m.thread"]["latest_event"]["event_id"] == reply
