"""Retry schedules and token buckets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comity.protocol.pacing import (
    MAX_RETRY_MS,
    MIN_RETRY_MS,
    Bucket,
    Rate,
    Retry,
    after_failure,
    is_full,
    may_try,
    take,
)

MIDDLE = 0.5  # this jitter leaves the interval as it is


def test_the_first_failure() -> None:
    retry = after_failure(None, 1000, MIDDLE)
    assert retry == Retry(1000, 1000 + MIN_RETRY_MS, MIN_RETRY_MS)
    assert not may_try(retry, 1000)
    assert not may_try(retry, retry.retry_at_ms - 1)
    assert may_try(retry, retry.retry_at_ms)
    assert may_try(None, 0)


def test_each_failure_doubles_the_pause_up_to_the_longest() -> None:
    retry = after_failure(None, 0, MIDDLE)
    intervals = [retry.interval_ms]
    while retry.interval_ms < MAX_RETRY_MS:
        retry = after_failure(retry, retry.retry_at_ms, MIDDLE)
        intervals.append(retry.interval_ms)
    assert intervals[:4] == [MIN_RETRY_MS * factor for factor in (1, 2, 4, 8)]
    assert after_failure(retry, retry.retry_at_ms, MIDDLE).interval_ms == MAX_RETRY_MS
    assert retry.failing_since_ms == 0
    assert len(intervals) < 20


def test_failures_of_requests_under_way_count_once() -> None:
    first = after_failure(None, 1000, MIDDLE)
    for now in (1000, 1001, first.retry_at_ms - 1):
        assert after_failure(first, now, 0.9) == first


def test_a_pause_that_the_peer_asks_for() -> None:
    assert after_failure(None, 0, MIDDLE, at_least_ms=60_000) == Retry(0, 60_000, MIN_RETRY_MS)
    assert after_failure(None, 0, MIDDLE, at_least_ms=1).retry_at_ms == MIN_RETRY_MS
    assert after_failure(None, 0, MIDDLE, at_least_ms=10**12).retry_at_ms == MAX_RETRY_MS
    later = after_failure(after_failure(None, 0, MIDDLE), 1, MIDDLE, at_least_ms=60_000)
    assert later == Retry(0, 60_001, MIN_RETRY_MS)


def test_a_clock_set_back_does_not_silence_us() -> None:
    retry = after_failure(None, 10**12, MIDDLE)
    assert may_try(retry, 1000)
    again = after_failure(retry, 1000, MIDDLE)
    assert 1000 < again.retry_at_ms <= 1000 + MAX_RETRY_MS
    assert again.failing_since_ms == 1000


@given(st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True), st.integers(0, 10**13))
def test_jitter_spreads_the_pause(first: float, second: float, now: int) -> None:
    retry = after_failure(None, now, first)
    assert MIN_RETRY_MS * 0.75 <= retry.retry_at_ms - now <= MIN_RETRY_MS * 1.25
    assert not may_try(retry, now)
    following = after_failure(retry, retry.retry_at_ms, second)
    assert following.retry_at_ms > retry.retry_at_ms + MIN_RETRY_MS


def test_a_bucket_gives_its_burst_and_then_its_rate() -> None:
    rate = Rate(per_second=2, burst=3)
    bucket: Bucket | None = None
    for _ in range(3):
        bucket, wait = take(rate, bucket, 1000)
        assert wait == 0
    bucket, wait = take(rate, bucket, 1000)
    assert wait == 500
    bucket, wait = take(rate, bucket, 1499)
    assert wait == 1
    bucket, wait = take(rate, bucket, 1500)
    assert wait == 0
    assert bucket.tokens == pytest.approx(0)


def test_a_full_bucket_may_be_forgotten() -> None:
    rate = Rate(per_second=1, burst=2)
    bucket, _ = take(rate, None, 0)
    assert not is_full(rate, bucket, 999)
    assert is_full(rate, bucket, 1000)
    assert take(rate, bucket, 10**9)[0] == take(rate, None, 10**9)[0]


def test_a_bucket_under_a_clock_set_back() -> None:
    rate = Rate(per_second=1, burst=1)
    bucket, _ = take(rate, None, 10_000)
    bucket, wait = take(rate, bucket, 5_000)
    assert wait == 1000
    assert take(rate, bucket, 6_000)[1] == 0


def test_a_cost_above_the_burst_waits_for_a_full_bucket() -> None:
    rate = Rate(per_second=1, burst=2)
    bucket, wait = take(rate, None, 0, cost=5)
    assert (bucket.tokens, wait) == (-3, 0)
    assert take(rate, bucket, 0, cost=5)[1] == 5000
    assert take(rate, bucket, 5000, cost=5)[1] == 0


@pytest.mark.parametrize("cost", [0.0, 0.25])
def test_small_costs(cost: float) -> None:
    bucket, wait = take(Rate(1, 1), None, 0, cost=cost)
    assert (bucket.tokens, wait) == (1 - cost, 0)


@given(
    st.floats(0.01, 1000),
    st.floats(1, 1000),
    st.lists(st.tuples(st.integers(0, 10_000), st.floats(0, 3)), min_size=1, max_size=30),
)
def test_a_wait_is_long_enough(per_second: float, burst: float, steps: list[tuple[int, float]]) -> None:
    rate, bucket, now = Rate(per_second, burst), None, 0
    for elapsed, cost in steps:
        now += elapsed
        bucket, wait = take(rate, bucket, now, cost)
        assert bucket.tokens <= burst
        if wait:
            assert take(rate, bucket, now + wait, cost)[1] == 0
