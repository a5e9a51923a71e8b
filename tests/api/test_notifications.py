"""What a user was notified of (client-server §Listing notifications)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from comity.sync import notifications
from tests.api.neighbours import neighbours
from tests.api.support_rooms import Client, Place, place


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Place]:
    async with place(tmp_path) as opened:
        yield opened


async def listed(client: Client, **query: object) -> list[Any]:
    """All pages, as one list, newest first."""
    found: list[Any] = []
    while True:
        answer = (await client.ask("GET", "/notifications", **query)).ok()
        found += answer["notifications"]
        if "next_token" not in answer:
            return found
        query["from"] = answer["next_token"]


def ids(found: list[Any]) -> list[str]:
    return [each["event"]["event_id"] for each in found]


async def with_a_rule(client: Client) -> None:
    """A rule of one's own that never matches: the user's events are held against their rules."""
    condition = {"kind": "event_match", "key": "type", "pattern": "x.never"}
    rule = {"conditions": [condition], "actions": ["notify"]}
    (await client.ask("PUT", "/pushrules/global/override/never", rule)).ok()


async def mention(client: Client, room_id: str, whom: Client) -> str:
    content = {"msgtype": "m.text", "body": "you!", "m.mentions": {"user_ids": [whom.user_id]}}
    return await client.send(room_id, "m.room.message", content)


@pytest.mark.parametrize("own_rules", [False, True])
async def test_what_notifies_is_listed_newest_first(server: Place, own_rules: bool) -> None:
    alice, bob, carol = await server.clients("alice", "bob", "carol")
    if own_rules:
        await with_a_rule(bob)
    room_id, other = await alice.create(), await carol.create()
    before = await alice.say(room_id, "before bob came")
    for each in (room_id, other):
        await bob.join(each)
    await carol.join(room_id)
    first = await alice.say(room_id, "first")
    named = await mention(alice, room_id, bob)
    notice = {"msgtype": "m.notice", "body": "of no interest"}
    quiet = await alice.send(room_id, "m.room.message", notice)
    own = await bob.say(room_id, "mine")
    gone = await alice.say(room_id, "gone")
    await alice.redact(room_id, gone)
    elsewhere = await carol.say(other, "elsewhere")
    found = await listed(bob)
    assert ids(found) == [elsewhere, named, first]
    assert not {before, quiet, own, gone} & set(ids(found))
    assert [each["room_id"] for each in found] == [other, room_id, room_id]
    assert found[1]["actions"] == [
        "notify", {"set_tweak": "sound", "value": "default"}, {"set_tweak": "highlight"}
    ]  # fmt: skip
    assert found[2]["actions"] == ["notify"]
    # A room of two has a rule of its own.
    assert found[0]["actions"] == ["notify", {"set_tweak": "sound", "value": "default"}]
    assert found[2]["ts"] == found[2]["event"]["origin_server_ts"]
    assert found[2]["event"]["content"]["body"] == "first"
    assert "room_id" not in found[2]["event"]
    assert ids(await listed(bob, only="highlight")) == [named]
    assert ids(await listed(bob, only="something")) == ids(found)


@pytest.mark.parametrize("own_rules", [False, True])
async def test_read_says_what_was_read(server: Place, own_rules: bool) -> None:
    alice, bob = await server.clients("alice", "bob")
    if own_rules:
        await with_a_rule(bob)
    room_id = await alice.create()
    await bob.join(room_id)
    root = await alice.say(room_id, "root")
    relation = {"rel_type": "m.thread", "event_id": root}
    content = {"msgtype": "m.text", "body": "in it", "m.relates_to": relation}
    inside = await alice.send(room_id, "m.room.message", content)
    last = await alice.say(room_id, "last")
    assert [each["read"] for each in await listed(bob)] == [False, False, False]
    await bob.receipt(room_id, root, "m.read.private")
    assert [each["read"] for each in await listed(bob)] == [False, False, True]
    await bob.receipt(room_id, last, thread_id="main")
    assert [each["read"] for each in await listed(bob)] == [True, False, True]
    await bob.receipt(room_id, inside, thread_id=root)
    assert [each["read"] for each in await listed(bob)] == [True, True, True]


@pytest.mark.parametrize("own_rules", [False, True])
async def test_pages(server: Place, own_rules: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    alice, bob = await server.clients("alice", "bob")
    if own_rules:
        await with_a_rule(bob)
    rooms = [await alice.create() for _ in range(3)]
    for room_id in rooms:
        await bob.join(room_id)
    said = [await alice.say(rooms[number % 7 % 3], str(number)) for number in range(20)]
    said.reverse()
    for limit in (1, 3, 7, 20, 1_000):
        assert ids(await listed(bob, limit=limit)) == said, limit
    answer = (await bob.ask("GET", "/notifications", limit=20)).ok()
    assert "next_token" not in answer
    # However little is looked at in one round, and for one answer, nothing is left out.
    monkeypatch.setattr(notifications, "ROUND_EVENTS", 2)
    assert ids(await listed(bob)) == said
    monkeypatch.setattr(notifications, "MAX_ROUNDS", 1)
    monkeypatch.setattr(notifications, "MAX_READ", 3)
    assert ids(await listed(bob, limit=4)) == said
    assert ids(await listed(bob, only="highlight")) == []
    (await bob.ask("GET", "/notifications", **{"from": "nonsense"})).failed(400, "M_INVALID_PARAM")
    (await bob.ask("GET", "/notifications", limit="many")).failed(400, "M_INVALID_PARAM")


async def test_rules_of_ones_own_count(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id, muted = await alice.create(), await alice.create()
    for each in (room_id, muted):
        await bob.join(each)
    (await bob.ask("PUT", f"/pushrules/global/room/{muted}", {"actions": []})).ok()
    actions = ["notify", {"set_tweak": "highlight"}]
    (await bob.ask("PUT", "/pushrules/global/content/cake", {"pattern": "cake", "actions": actions})).ok()
    plain, cake = await alice.say_all(room_id, "hello", "there is cake")
    loud = await alice.say(muted, "more cake")
    await alice.say(muted, "but nothing of this")
    found = await listed(bob)
    assert ids(found) == [loud, cake, plain]
    assert found[1]["actions"] == actions
    assert ids(await listed(bob, only="highlight")) == [loud, cake]


async def test_who_is_ignored_notifies_nobody_and_other_rooms_are_not_listed(server: Place) -> None:
    alice, bob, carol = await server.clients("alice", "bob", "carol")
    room_id, left = await alice.create(), await alice.create()
    for each in (bob, carol):
        await each.join(room_id)
    await bob.join(left)
    await alice.say(left, "before they left")
    await bob.leave(left)
    heard = await alice.say(room_id, "hello")
    await carol.say(room_id, "hello too")
    await bob.account_data("m.ignored_user_list", {"ignored_users": {carol.user_id: {}}})
    assert ids(await listed(bob)) == [heard]


@pytest.mark.parametrize("own_rules", [False, True])
async def test_an_invite_is_listed_while_it_waits(
    server: Place, own_rules: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice, bob, carol = await server.clients("alice", "bob", "carol")
    if own_rules:
        await with_a_rule(bob)
    room_id = await alice.create()
    await bob.join(room_id)
    first = await alice.say(room_id, "first")
    secret = await alice.create(preset="private_chat", invite=[bob.user_id])
    last = await alice.say(room_id, "last")
    unwanted = await carol.create(preset="private_chat", invite=[bob.user_id])
    await carol.treat(await carol.create(preset="private_chat"), "invite", bob)
    found = await listed(bob)
    assert [each["room_id"] for each in found[1:]] == [unwanted, room_id, secret, room_id]
    invite = found[3]
    assert (invite["event"]["type"], invite["event"]["state_key"]) == ("m.room.member", bob.user_id)
    assert invite["event"]["content"]["membership"] == "invite"
    assert invite["event"]["sender"] == alice.user_id
    assert invite["actions"] == ["notify", {"set_tweak": "sound", "value": "default"}]
    assert invite["read"] is False
    assert await listed(bob, only="highlight") == []
    # Nobody is told of what they have not been asked for, nor of what comes of those they ignore.
    assert [each["room_id"] for each in await listed(alice)] == []
    await bob.account_data("m.ignored_user_list", {"ignored_users": {carol.user_id: {}}})
    assert ids(await listed(bob)) == [last, invite["event"]["event_id"], first]
    for limit in (1, 2):
        assert ids(await listed(bob, limit=limit)) == [last, invite["event"]["event_id"], first]
    monkeypatch.setattr(notifications, "ROUND_EVENTS", 1)
    assert ids(await listed(bob)) == [last, invite["event"]["event_id"], first]
    # Rules of one's own hold for invites too; and one that is answered waits no more.
    rule = "/pushrules/global/override/.m.rule.invite_for_me/enabled"
    (await bob.ask("PUT", rule, {"enabled": False})).ok()
    assert ids(await listed(bob)) == [last, first]
    (await bob.ask("PUT", rule, {"enabled": True})).ok()
    await bob.account_data("m.invite_permission_config", {"default_action": "block"})
    assert ids(await listed(bob)) == [last, first]
    await bob.account_data("m.invite_permission_config", {})
    assert len(await listed(bob)) == 3
    await bob.join(secret)
    assert ids(await listed(bob)) == [last, first]


async def test_an_invite_from_another_server_is_listed(tmp_path: Path) -> None:
    async with neighbours(tmp_path) as (here, there):
        alice, bob = await here.client("alice"), await there.client("bob")
        room_id = await alice.create(preset="private_chat")
        await alice.treat(room_id, "invite", bob)
        (found,) = await listed(bob)
        assert found["room_id"] == room_id
        assert found["event"]["state_key"] == bob.user_id
        await bob.leave(room_id)
        assert await listed(bob) == []
