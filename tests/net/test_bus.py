"""The bus: positions by key, and what is asked of them."""

from __future__ import annotations

import asyncio
import itertools
from random import Random

import pytest

from comity.bus import MAX_REMEMBERED_KEYS, TOLD_AT_ONCE, Bus, Parked


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


async def test_a_subscription_wakes_all_who_wait_by_it() -> None:
    bus, of = Bus(5), object()
    subscription = bus.subscription("ann", of, lambda: ["a", "b"])
    assert bus.subscription("ann", of, lambda: ["never asked for"]) is subscription
    first, second = (asyncio.create_task(bus.wait_by(subscription, 5, 60)) for _ in range(2))
    other = asyncio.create_task(bus.wait_by(bus.subscription("ben", of, lambda: ["c"]), 5, 60))
    await asyncio.sleep(0)
    bus.publish(6, ["b"])
    assert await first and await second
    assert not other.done()
    # What was published while nobody waited is seen by the position.
    assert await bus.wait_by(subscription, 5, 60)
    assert not await bus.wait_by(subscription, 6, 0)
    bus.publish(7, ["c"])
    assert await other
    assert not await bus.wait_by(subscription, 6, 0)


async def test_a_subscription_that_is_made_anew_lets_those_look_who_wait_by_the_old_one() -> None:
    bus = Bus(5)
    old = bus.subscription("ann", 1, lambda: ["a"])
    waiting = asyncio.create_task(bus.wait_by(old, 5, 60))
    await asyncio.sleep(0)
    new = bus.subscription("ann", 2, lambda: ["b"])
    assert await waiting
    bus.publish(6, ["a"])
    assert not await bus.wait_by(new, 5, 0)
    bus.publish(7, ["b"])
    assert await bus.wait_by(new, 5, 0)


async def test_subscriptions_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("comity.bus.MAX_SUBSCRIBED_KEYS", 5)
    bus = Bus(5)
    first = bus.subscription("one", 0, lambda: ["a", "b"])
    waiting = asyncio.create_task(bus.wait_by(first, 5, 60))
    await asyncio.sleep(0)
    second = bus.subscription("two", 0, lambda: ["a", "c"])
    third = bus.subscription("three", 0, lambda: ["d"])
    fourth = bus.subscription("four", 0, lambda: ["b"])
    # The oldest that nobody waits by had to go.
    assert bus.subscription("one", 0, list) is first
    assert bus.subscription("three", 0, list) is third
    assert bus.subscription("four", 0, list) is fourth
    assert not waiting.done()
    assert bus.subscription("two", 0, lambda: ["a", "c"]) is not second
    bus.publish(6, ["b"])
    assert await waiting


@pytest.mark.parametrize("seconds", [0.001, 0.03, 0.3, 1.1])
async def test_a_wait_by_a_subscription_lasts_as_long_as_it_was_to(seconds: float) -> None:
    bus = Bus(5)
    began = asyncio.get_running_loop().time()
    assert not await bus.wait_by(bus.subscription("ann", 0, lambda: ["a"]), 5, seconds)
    # The clock of a loop may go by milliseconds.
    assert asyncio.get_running_loop().time() - began > seconds - 0.002


async def test_closing_ends_all_waits() -> None:
    bus = Bus(5)
    by = bus.subscription("ann", 0, lambda: ["a"])
    waits = [asyncio.create_task(bus.wait_by(by, 5, 60)), asyncio.create_task(bus.wait(["a"], 5, 60))]
    await asyncio.sleep(0)
    bus.close()
    assert await asyncio.gather(*waits) == [False, False]
    assert not await bus.wait_by(by, 5, 60)


class Noted(Parked):
    """Who waits without a task, and notes what it is told."""

    def __init__(self, notes: list[tuple[Parked, bool]]) -> None:
        self.notes = notes

    def told(self, *, news: bool) -> None:
        self.notes.append((self, news))


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_who_is_parked_is_told_once_and_not_in_the_midst_of_what_happens() -> None:
    bus, notes = Bus(5), list[tuple[Parked, bool]]()
    by = bus.subscription("ann", 0, lambda: ["a", "b"])
    first, second = Noted(notes), Noted(notes)
    bus.park(first, by, 60)
    bus.park(second, bus.subscription("ben", 0, lambda: ["c"]), 60)
    bus.publish(6, ["a", "b"])
    assert not notes
    bus.publish(7, ["a"])
    await turns(3)
    assert notes == [(first, True)]
    bus.park(first, by, 60)
    bus.leave(first)
    bus.publish(8, ["a", "c"])
    await turns(3)
    assert notes == [(first, True), (second, True)]


async def test_who_is_parked_is_told_when_the_time_is_over_and_when_the_bus_closes() -> None:
    bus, notes = Bus(5), list[tuple[Parked, bool]]()
    by = bus.subscription("ann", 0, lambda: ["a"])
    short, long, late = Noted(notes), Noted(notes), Noted(notes)
    bus.park(short, by, 0.01)
    bus.park(long, by, 60)
    assert not await bus.wait_by(by, 5, 0.03)
    assert notes == [(short, False)]
    bus.close()
    bus.park(late, by, 60)
    await turns(3)
    assert notes == [(short, False), (long, False), (late, False)]


async def test_many_who_are_woken_together_are_told_in_several_turns_and_each_of_them() -> None:
    bus, notes = Bus(5), list[tuple[Parked, bool]]()
    by = bus.subscription("ann", 0, lambda: ["a"])
    many = [Noted(notes) for _ in range(1_000)]
    for parked in many:
        bus.park(parked, by, 60)
    bus.publish(6, ["a"])
    seen = []
    while len(notes) < len(many):
        await asyncio.sleep(0)
        seen.append(len(notes))
    assert seen[:4] == [1, 3, 7, 15]
    assert max(later - earlier for earlier, later in itertools.pairwise(seen)) == TOLD_AT_ONCE
    assert {parked for parked, _ in notes} == set(many)
    # And again, from the beginning.
    bus.park(many[0], by, 60)
    bus.publish(7, ["a"])
    await turns(2)
    assert len(notes) == len(many) + 1


async def test_one_who_fails_at_being_told_keeps_nobody_from_it() -> None:
    class Failing(Parked):
        def told(self, *, news: bool) -> None:
            raise RuntimeError("told")

    bus, notes = Bus(5), list[tuple[Parked, bool]]()
    by, faults = bus.subscription("ann", 0, lambda: ["a"]), list[object]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context["exception"]))
    parked = [Failing(), Noted(notes), Failing(), Noted(notes)]
    for one in parked:
        bus.park(one, by, 60)
    bus.publish(6, ["a"])
    await turns(8)
    assert {one for one, _ in notes} == {parked[1], parked[3]}
    assert [str(fault) for fault in faults] == ["told", "told"]
