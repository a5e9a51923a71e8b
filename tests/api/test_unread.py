"""Counts of what was not read: once for all members, and by each member's rules, to the same result."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.api.support_rooms import Client, Place, place
from tests.api.support_users import at

THREADS = {"room": {"timeline": {"unread_thread_notifications": True, "limit": 1}}}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Place]:
    async with place(tmp_path) as opened:
        yield opened


async def counts(client: Client, room_id: str, since: str | None = None) -> tuple[Any, Any]:
    part = (await client.sync(since, THREADS))["rooms"]["join"][room_id]
    return part["unread_notifications"], part["unread_thread_notifications"]


async def with_a_rule(client: Client) -> None:
    """A rule of one's own that never matches: the user's events are held against their rules, one by one."""
    rule = {
        "conditions": [{"kind": "event_match", "key": "type", "pattern": "x.never"}],
        "actions": ["notify"],
    }
    (await client.ask("PUT", "/pushrules/global/override/never", rule)).ok()


@pytest.mark.parametrize("seed", range(6))
async def test_both_ways_of_counting_agree(server: Place, seed: int) -> None:
    chance = Random(seed)
    alice, bob, carol = await server.clients("alice", "bob", "carol")
    await with_a_rule(carol)
    room_id = await alice.create(
        power_level_content_override={"users": {alice.user_id: 100}}, room_version="11"
    )
    for client, other in ((bob, carol), (carol, bob)):
        await client.join(room_id)
        # What one of them says is no news to the other, so that both have the same to read.
        await client.account_data("m.ignored_user_list", {"ignored_users": {other.user_id: {}}})
    said: list[str] = [await alice.say(room_id, "first")]
    since = {client.user_id: await client.token_now() for client in (bob, carol)}
    for step in range(40):
        kind = chance.randrange(9)
        named = chance.choice([[], [bob.user_id, carol.user_id]])
        content: dict[str, Any] = {"msgtype": chance.choice(["m.text", "m.notice"]), "body": str(step)}
        if named:
            content["m.mentions"] = {"user_ids": named}
        if kind == 0:
            content["m.mentions"] = {"room": True}
        if kind in (1, 2):
            content["m.relates_to"] = {"rel_type": "m.thread", "event_id": said[0]}
        if kind == 3:
            content["m.relates_to"] = {"rel_type": "m.replace", "event_id": chance.choice(said)}
        if kind == 4:
            # Both read alike.
            read = chance.choice(said)
            thread = chance.choice([{}, {"thread_id": "main"}, {"thread_id": said[0]}])
            path = at("rooms", room_id, "receipt", "m.read", read)
            # Where the event is not in that thread, it is refused to both.
            answers = [await client.ask("POST", path, thread) for client in (bob, carol)]
            assert [answer.status for answer in answers] in ([200, 200], [400, 400])
        elif kind == 5 and len(said) > 2:
            await alice.redact(room_id, said.pop(chance.randrange(1, len(said))))
        elif kind == 7:
            # Both say something, and have read what was before it in that thread.
            words: dict[str, Any] = {"msgtype": "m.text", "body": "x"}
            if chance.random() < 0.5:
                words["m.relates_to"] = {"rel_type": "m.thread", "event_id": said[0]}
            for client in (bob, carol):
                await client.send(room_id, "m.room.message", words)
        elif kind == 6:
            await alice.send(room_id, "x.custom", {"m.mentions": {"user_ids": named}})
        else:
            said.append(await alice.send(room_id, "m.room.message", content))
        if chance.random() < 0.6:
            told = []
            for client in (bob, carol):
                whole = await counts(client, room_id)
                answer = await client.sync(since[client.user_id], THREADS)
                since[client.user_id] = answer["next_batch"]
                part = answer["rooms"]["join"].get(room_id)
                if part is not None:
                    newest = part["unread_notifications"], part["unread_thread_notifications"]
                    assert newest == whole
                told.append(whole)
            assert told[0] == told[1], step


async def test_who_speaks_has_read(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create()
    await bob.join(room_id)
    root = await alice.say(room_id, "root")
    thread = {"m.relates_to": {"rel_type": "m.thread", "event_id": root}}
    await alice.send(room_id, "m.room.message", {"msgtype": "m.text", "body": "in it", **thread})
    one = {"notification_count": 1, "highlight_count": 0}
    assert await counts(bob, room_id) == (one, {root: one})
    await bob.say(room_id, "an answer beside the thread")
    none = {"notification_count": 0, "highlight_count": 0}
    assert await counts(bob, room_id) == (none, {root: one})
    await bob.send(room_id, "m.room.message", {"msgtype": "m.text", "body": "and in it", **thread})
    assert await counts(bob, room_id) == (none, {})
    await alice.say(room_id, "more")
    assert await counts(bob, room_id) == (one, {})


async def test_a_redacted_event_counts_no_more(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create()
    await bob.join(room_id)
    since = await bob.token_now()
    mention = {"msgtype": "m.text", "body": "you", "m.mentions": {"user_ids": [bob.user_id]}}
    one = await alice.send(room_id, "m.room.message", mention)
    await alice.say(room_id, "two")
    assert (await counts(bob, room_id, since))[0] == {"notification_count": 2, "highlight_count": 1}
    await alice.redact(room_id, one)
    assert (await counts(bob, room_id, since))[0] == {"notification_count": 1, "highlight_count": 0}


async def test_who_is_ignored_notifies_nobody(server: Place) -> None:
    alice, bob, carol = await server.clients("alice", "bob", "carol")
    room_id = await alice.create()
    for client in (bob, carol):
        await client.join(room_id)
    await alice.say(room_id, "one")
    mention = {"msgtype": "m.text", "body": "you", "m.mentions": {"user_ids": [bob.user_id]}}
    await carol.send(room_id, "m.room.message", mention)
    assert (await counts(bob, room_id))[0] == {"notification_count": 2, "highlight_count": 1}
    await bob.account_data("m.ignored_user_list", {"ignored_users": {carol.user_id: {}}})
    assert (await counts(bob, room_id))[0] == {"notification_count": 1, "highlight_count": 0}
    await with_a_rule(bob)
    assert (await counts(bob, room_id))[0] == {"notification_count": 1, "highlight_count": 0}


async def test_a_muted_room_counts_nothing_and_others_do(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    muted, other = await alice.create(), await alice.create()
    for room_id in (muted, other):
        await bob.join(room_id)
        await alice.say(room_id, "hello")
    rule = {"conditions": [{"kind": "event_match", "key": "room_id", "pattern": muted}], "actions": []}
    (await bob.ask("PUT", at("pushrules", "global", "override", muted), rule)).ok()
    assert (await counts(bob, muted))[0]["notification_count"] == 0
    assert (await counts(bob, other))[0]["notification_count"] == 1


async def test_counts_outlive_a_restart(tmp_path: Path) -> None:
    async with place(tmp_path) as server:
        alice, bob = await server.clients("alice", "bob")
        room_id = await alice.create()
        await bob.join(room_id)
        first = await alice.say(room_id, "one")
        mention = {"msgtype": "m.text", "body": "you", "m.mentions": {"user_ids": [bob.user_id]}}
        await alice.send(room_id, "m.room.message", mention)
        await bob.receipt(room_id, first)
        for number in range(50):
            await alice.say(room_id, str(number))
    async with place(tmp_path) as server:
        bob = server.again(bob)
        assert (await counts(bob, room_id))[0] == {"notification_count": 51, "highlight_count": 1}


@pytest.mark.parametrize("own_rules", [False, True])
async def test_a_new_stay_begins_with_nothing_unread(server: Place, *, own_rules: bool) -> None:
    alice, bob = await server.clients("alice", "bob")
    if own_rules:
        await with_a_rule(bob)
    room_id = await alice.create()
    await bob.join(room_id)
    await alice.say(room_id, "hello")
    assert (await counts(bob, room_id))[0]["notification_count"] == 1
    since = await bob.token_now()
    await bob.leave(room_id)
    await bob.join(room_id)
    assert (await counts(bob, room_id, since))[0]["notification_count"] == 0
    await alice.say(room_id, "welcome back")
    assert (await counts(bob, room_id))[0]["notification_count"] == 1


async def test_a_thread_that_ends_in_what_was_redacted_can_be_read(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create()
    await bob.join(room_id)
    root, other = await alice.say_all(room_id, "root", "other")

    async def reply(body: str) -> str:
        relation = {"rel_type": "m.thread", "event_id": root}
        content = {"msgtype": "m.text", "body": body, "m.relates_to": relation}
        return await alice.send(room_id, "m.room.message", content)

    await reply("one")
    last = await reply("two")
    annotation = {"rel_type": "m.annotation", "event_id": last, "key": "x"}
    reaction = await alice.send(room_id, "m.reaction", {"m.relates_to": annotation})
    await alice.redact(room_id, last)
    assert (await counts(bob, room_id))[1] == {root: {"notification_count": 1, "highlight_count": 0}}
    for event_id in (last, reaction):
        path = at("rooms", room_id, "receipt", "m.read", event_id)
        (await bob.ask("POST", path, {"thread_id": "$elsewhere"})).failed(400, "M_INVALID_PARAM")
        (await bob.ask("POST", path, {"thread_id": root})).ok()
        assert (await counts(bob, room_id))[1] == {}
    path = at("rooms", room_id, "receipt", "m.read", other)
    (await bob.ask("POST", path, {"thread_id": root})).failed(400, "M_INVALID_PARAM")
