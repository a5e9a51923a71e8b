"""The order in which SRV targets are tried (RFC 2782)."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comity.protocol.discovery import Target, draw


def targets(*weights: int, priority: int = 0) -> list[Target]:
    return [Target(str(n), 8448, "t", "t", priority, weight) for n, weight in enumerate(weights)]


def order(weights: Sequence[int], chances: Sequence[float]) -> list[int]:
    drawn = draw(targets(*weights), iter(chances).__next__)
    return [int(target.host) for target in drawn]


def test_the_running_sum_decides() -> None:
    assert order([10, 30, 60], [0.09, 0.1]) == [0, 1, 2]
    assert order([10, 30, 60], [0.11, 0.0]) == [1, 0, 2]
    assert order([10, 30, 60], [0.41, 0.9]) == [2, 1, 0]


def test_weight_nothing_has_a_small_chance() -> None:
    assert order([0, 5], [0.003]) == [1, 0]
    assert order([0, 5], [0.001]) == [0, 1]


def test_without_weights_the_load_is_shared() -> None:
    assert order([0, 0, 0], [0.9, 0.6]) == [2, 1, 0]


@pytest.mark.parametrize(
    "weights", [(1, 1), (60, 30, 10), (90, 10), (1, 2, 3, 4), (0, 0, 0, 0), (65535, 1, 0)]
)
def test_weights_become_shares(weights: tuple[int, ...]) -> None:
    chance = random.Random(1).random
    draws, total = 10_000, sum(weights)
    first = Counter(draw(targets(*weights), chance)[0].host for _ in range(draws))
    for index, weight in enumerate(weights):
        expected = weight / total if total else 1 / len(weights)
        assert abs(first[str(index)] / draws - expected) < 0.05 * max(expected, 0.2)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 65535)), max_size=12),
    st.floats(0, 1, exclude_max=True),
)
def test_every_target_once_and_by_priority(ranks: list[tuple[int, int]], chance: float) -> None:
    given_targets = [Target(str(n), 1, "t", "t", *rank) for n, rank in enumerate(ranks)]
    drawn = draw(given_targets, lambda: chance)
    assert Counter(drawn) == Counter(given_targets)
    assert [target.priority for target in drawn] == sorted(target.priority for target in given_targets)
