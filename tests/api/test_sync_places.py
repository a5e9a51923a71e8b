"""/sync from every kind of place: what a device was told last, tokens of lost logs, lost answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.support_keys import KIND, claim_key, give_keys
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
