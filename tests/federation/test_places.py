"""Who may send: those that let us wait do not keep the others from it."""

from __future__ import annotations

import asyncio

import pytest

from comity.federation import places
from comity.federation.places import SLOW_SECONDS, Places


async def nothing() -> None:
    await asyncio.Event().wait()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "MAX_SENDING", 2)
    monkeypatch.setattr(places, "MAX_UNPROVEN", 1)


async def test_the_slow_count_among_those_that_may_not_answer(small: None) -> None:
    tasks = [asyncio.create_task(nothing()) for _ in range(3)]
    group = Places()
    group.take(tasks[0], 10.0, unproven=False)
    group.take(tasks[1], 10.5, unproven=False)
    assert not group.has_room(unproven=False)
    # None is slow yet; the first will be then.
    assert group.set_aside_the_slow(10.25) == pytest.approx(SLOW_SECONDS - 0.25)
    assert not group.has_room(unproven=False)
    # The first is; of the second it is told when.
    assert group.set_aside_the_slow(10 + SLOW_SECONDS) == pytest.approx(0.5)
    assert group.has_room(unproven=False)
    assert not group.has_room(unproven=True)
    group.take(tasks[2], 11.1, unproven=False)
    # There is no more room among those: the second keeps its place.
    assert group.set_aside_the_slow(20.0) == SLOW_SECONDS
    assert not group.has_room(unproven=False)
    assert set(group.all()) == set(tasks)
    for task in tasks:
        group.give_back(task)
        task.cancel()
    assert group.has_room(unproven=False)
    assert group.has_room(unproven=True)
    assert group.all() == []
