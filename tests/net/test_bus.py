"""The bus: positions by key, and what is asked of them."""

from __future__ import annotations

import asyncio
from random import Random

from comity.bus import MAX_REMEMBERED_KEYS, Bus


def test_keys_after_a_position() -> None:
    bus = Bus(10)
    bus.publish(11, ["a", "b"])
    bus.publish(12, ["c"])
    bus.publish(13, ["a"])
    assert bus.keys_after(13) == []
    assert bus.keys_after(12) == ["a"]
    assert bus.keys_after(11) == ["a", "c"]
    assert sorted(bus.keys_after(10) or []) == ["a", "b", "c"]
    # Of what was before it began, a bus knows nothing.
    assert bus.keys_after(9) is None


def test_both_ways_of_asking_agree_in_whatever_order_positions_come() -> None:
    for seed in range(50):
        chance, bus = Random(seed), Bus()
        for position in range(1, 40):
            bus.publish(
                max(1, position - chance.randrange(3)), chance.sample("abcdefgh", chance.randrange(1, 4))
            )
            for after in range(position + 1):
                keys = bus.keys_after(after)
                assert keys is not None
                assert set(keys) == {key for key in "abcdefgh" if bus.changed((key,), after)}


def test_what_was_forgotten_may_have_changed() -> None:
    bus = Bus()
    bus.publish(1, ["old"])
    bus.publish(2, map(str, range(MAX_REMEMBERED_KEYS)))
    assert bus.keys_after(0) is None
    assert bus.changed(("old",), 0)
    assert not bus.changed(("old",), 2)


async def test_a_wait_is_over_when_one_of_its_keys_passes_the_position() -> None:
    bus = Bus(5)
    assert not await bus.wait(["a"], 5, 0)
    waiting = asyncio.create_task(bus.wait(["a", "b"], 5, 60))
    await asyncio.sleep(0)
    bus.publish(6, ["c"])
    await asyncio.sleep(0)
    assert not waiting.done()
    bus.publish(7, ["b"])
    assert await waiting
    assert await bus.wait(["b"], 5, 60)
