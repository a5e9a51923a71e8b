"""/sync from every kind of place: what a device was told last, tokens of lost logs, lost answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.support_keys import KIND, claim_key, device_keys_of, give_keys
from tests.api.support_rooms import Place, bodies, place, until_waiting
from tests.api.support_users import at

#: Long enough that a test which waits for it has failed.
LONG_MS = 60_000


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Place]:
    async with place(tmp_path) as opened:
        yield opened


# -- keys


def keys_left(answer: Any) -> tuple[dict[str, int], list[str]]:
    return answer["device_one_time_keys_count"], answer["device_unused_fallback_key_types"]


async def test_a_device_whose_keys_are_given_out_is_told_at_once(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    await give_keys(bob, "a", "b")
    answer = await bob.sync()
    assert keys_left(answer) == ({KIND: 2}, [KIND])
    waiting = asyncio.create_task(bob.sync(answer["next_batch"], timeout=LONG_MS))
    await until_waiting()
    assert not waiting.done()
    await claim_key(alice, bob)
    answer = await asyncio.wait_for(waiting, 10)
    assert keys_left(answer) == ({KIND: 1}, [KIND])
    # Also who asks only after that, and once.
    await claim_key(alice, bob)
    answer = await asyncio.wait_for(bob.sync(answer["next_batch"], timeout=LONG_MS), 10)
    assert keys_left(answer) == ({}, [KIND])
    await claim_key(alice, bob)
    answer = await asyncio.wait_for(bob.sync(answer["next_batch"], timeout=LONG_MS), 10)
    assert keys_left(answer) == ({}, [])
    waiting = asyncio.create_task(bob.sync(answer["next_batch"], timeout=LONG_MS))
    # A fallback key that is used already is given out again without news.
    await claim_key(alice, bob)
    await until_waiting()
    assert not waiting.done()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


async def test_none_left_is_a_number(server: Place) -> None:
    """Apps take a count that is left out for one that has not changed: they would make no other keys."""
    alice, bob = await server.clients("alice", "bob")
    assert keys_left(await bob.sync()) == ({}, [])
    (await bob.ask("POST", "/keys/upload", {"device_keys": await device_keys_of(bob)})).ok()
    answer = await bob.sync()
    assert keys_left(answer) == ({KIND: 0}, [])
    await give_keys(bob, "a")
    answer = await bob.sync(answer["next_batch"])
    assert keys_left(answer) == ({KIND: 1}, [KIND])
    waiting = asyncio.create_task(bob.sync(answer["next_batch"], timeout=LONG_MS))
    await until_waiting()
    await claim_key(alice, bob)
    answer = await asyncio.wait_for(waiting, 10)
    assert keys_left(answer) == ({KIND: 0}, [KIND])
    # Also from memory.
    waiting = asyncio.create_task(bob.sync(answer["next_batch"], timeout=LONG_MS))
    await until_waiting()
    await bob.create()
    answer = await asyncio.wait_for(waiting, 10)
    assert keys_left(await bob.sync(answer["next_batch"])) == ({KIND: 0}, [KIND])


# -- tokens that are not of this log


@pytest.mark.parametrize("token", ["s9999999_1", "s9999999_1_1", "s1_1_9999999"])
async def test_a_token_of_a_log_that_was_lost_is_answered_with_everything(server: Place, token: str) -> None:
    """The database was restored from an older copy: nothing may be skipped, and nobody may wait forever."""
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create(name="Kitchen")
    await alice.say(room_id, "since the copy")
    message = {"messages": {alice.user_id: {"*": {"n": 1}}}}
    (await bob.ask("PUT", at("sendToDevice", "org.example.ping", "1"), message)).ok()
    answer = await asyncio.wait_for(alice.sync(token, timeout=LONG_MS), 10)
    part = answer["rooms"]["join"][room_id]
    assert bodies(part["timeline"]["events"]) == ["since the copy"]
    shown = [*part["state"]["events"], *part["timeline"]["events"]]
    assert [event["content"]["name"] for event in shown if event["type"] == "m.room.name"] == ["Kitchen"]
    assert [event["content"] for event in answer["to_device"]["events"]] == [{"n": 1}]
    # From there it goes on.
    again = await alice.sync(answer["next_batch"])
    assert again["rooms"]["join"] == {}
    assert "to_device" not in again


async def test_tokens_as_old_as_the_server_are_understood(server: Place) -> None:
    alice = await server.client("alice")
    first = await alice.token_now()
    room_id = await alice.create()
    said = await alice.say(room_id, "hello")
    for token in ("s0_0", first):
        part = (await alice.sync(token))["rooms"]["join"][room_id]
        assert part["timeline"]["events"][-1]["event_id"] == said
        assert part["summary"]["m.joined_member_count"] == 1


# -- members that are loaded lazily

LAZY = {"room": {"state": {"lazy_load_members": True}, "timeline": {"limit": 2}}}


def members(part: Any, name: str = "state") -> list[str]:
    """Whose membership events a room's part has in its state."""
    return sorted(event["state_key"] for event in part[name]["events"] if event["type"] == "m.room.member")


async def test_a_member_whose_answer_was_lost_is_told_again_when_needed(server: Place) -> None:
    alice, bob, carol = await server.clients("alice", "bob", "carol")
    room_id = await alice.create(name="Crowd")
    for client in (bob, carol):
        await client.join(room_id)
    await alice.say_all(room_id, "1", "2", "3")
    since = (await bob.sync(wanted=LAZY))["next_batch"]
    await carol.say(room_id, "first")
    lost = (await bob.sync(since, LAZY))["rooms"]["join"][room_id]
    assert members(lost) == [carol.user_id]
    await alice.say_all(room_id, "4", "5")
    # The answer that comes in the place of the lost one has no event of hers any more.
    answer = await bob.sync(since, LAZY)
    assert members(answer["rooms"]["join"][room_id]) == []
    await carol.say(room_id, "second")
    part = (await bob.sync(answer["next_batch"], LAZY))["rooms"]["join"][room_id]
    assert members(part) == [carol.user_id]


@pytest.mark.parametrize("name", ["state", "state_after"])
async def test_who_spoke_before_the_user_left_is_told_of(server: Place, name: str) -> None:
    alice, bob, carol, dave = await server.clients("alice", "bob", "carol", "dave")
    room_id = await alice.create(name="Crowd")
    for client in (bob, carol, dave):
        await client.join(room_id)
    await alice.say_all(room_id, "1", "2", "3")
    since = (await bob.sync(wanted=LAZY))["next_batch"]
    await carol.say(room_id, "farewell")
    await alice.treat(room_id, "kick", bob)
    part = (await bob.sync(since, LAZY, use_state_after=name == "state_after"))["rooms"]["leave"][room_id]
    assert bodies(part["timeline"]["events"]) == ["farewell"]
    told = set(members(part, name))
    assert {carol.user_id, alice.user_id} <= told
    assert dave.user_id not in told


# -- rooms that are forgotten


async def test_a_room_that_is_left_and_forgotten_is_left_on_every_device(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    left, refused = await alice.create(), await alice.create(preset="private_chat")
    await bob.join(left)
    await alice.treat(refused, "invite", bob)
    since = await bob.token_now()
    await alice.say(left, "not to be read any more")
    for room_id in (left, refused):
        await bob.leave(room_id)
        (await bob.ask("POST", at("rooms", room_id, "forget"), {})).ok()
    answer = await bob.sync(since)
    assert answer["rooms"]["leave"].keys() == {left, refused}
    for part in answer["rooms"]["leave"].values():
        assert [event["content"]["membership"] for event in part["timeline"]["events"]] == ["leave"]
        assert part["state"]["events"] == []
    # Once is enough.
    assert (await bob.sync(answer["next_batch"]))["rooms"]["leave"] == {}
    assert (await bob.sync(wanted={"room": {"include_leave": True}}))["rooms"]["leave"] == {}


async def test_a_stay_that_began_and_ended_between_two_syncs_is_told_anew(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create()
    await bob.join(room_id)
    await alice.say(room_id, "the first stay")
    since = await bob.token_now()
    await bob.leave(room_id)
    since = (await bob.sync(since))["next_batch"]
    await bob.join(room_id)
    await alice.say(room_id, "the second stay")
    await alice.treat(room_id, "ban", bob)
    wanted = {"room": {"timeline": {"limit": 50}}}
    timeline = (await bob.sync(since, wanted))["rooms"]["leave"][room_id]["timeline"]
    # It begins before what the client has, which must not take it for what comes after that.
    assert bodies(timeline["events"]) == ["the first stay", "the second stay"]
    assert timeline["limited"] is True
