"""/sync from every kind of place: what a device was told last, tokens of lost logs, answers that were lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.support_keys import KIND, claim_key, give_keys
from tests.api.support_rooms import Place, place, until_waiting

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
