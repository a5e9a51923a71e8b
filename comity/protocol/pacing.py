"""Pacing: when to try a failing destination again, and how often somebody may do something.

Arithmetic on `now`; nothing here waits, counts or remembers. Jitter is an argument.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

#: The first pause after a failure: long enough for a restart, short enough that nobody notices.
MIN_RETRY_MS = 2_000
#: The longest pause: a server that is back after weeks hears from us within half a day.
MAX_RETRY_MS = 12 * 3_600_000
#: Each failure multiplies the pause by this.
RETRY_FACTOR = 2
#: The pause is spread over this share of it, half to either side, so that destinations that
#: failed together (our network was down) are not tried again together.
JITTER_SHARE = 0.5
#: Tokens below this are rounding, not missing.
_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class Retry:
    """A destination that fails: since when, when to try again, and the pause before jitter (ms)."""

    failing_since_ms: int
    retry_at_ms: int
    interval_ms: int


def after_failure(previous: Retry | None, now_ms: int, jitter: float, *, at_least_ms: int = 0) -> Retry:
    """The schedule after a failure at `now_ms`; `previous` is None if all was well before.

    `jitter` is in [0, 1). `at_least_ms` is a pause that the peer asked for (Retry-After), obeyed
    up to MAX_RETRY_MS. A failure before the pause is over belongs to the one already counted
    (requests under way together fail together): it does not lengthen the interval.
    """
    asked_for = now_ms + min(at_least_ms, MAX_RETRY_MS)
    if previous is not None and not may_try(previous, now_ms):
        return replace(previous, retry_at_ms=max(previous.retry_at_ms, asked_for))
    if previous is None:
        since, interval = now_ms, MIN_RETRY_MS
    else:
        since = min(previous.failing_since_ms, now_ms)
        interval = min(max(previous.interval_ms, MIN_RETRY_MS) * RETRY_FACTOR, MAX_RETRY_MS)
    pause = int(interval * (1 - JITTER_SHARE / 2 + JITTER_SHARE * jitter))
    return Retry(since, max(now_ms + pause, asked_for), interval)


def may_try(state: Retry | None, now_ms: int) -> bool:
    """Whether the destination may be tried now.

    A pause that ends further away than any pause is long was written under another clock.
    """
    longest = int(MAX_RETRY_MS * (1 + JITTER_SHARE / 2))
    return state is None or not 0 < state.retry_at_ms - now_ms <= longest


@dataclass(frozen=True, slots=True)
class Rate:
    """How often: `per_second` in the long run, `burst` at once. Both above 0."""

    per_second: float
    burst: float


@dataclass(frozen=True, slots=True)
class Bucket:
    """A token bucket: how many tokens it held, and when (ms)."""

    tokens: float
    updated_ms: int


def take(rate: Rate, bucket: Bucket | None, now_ms: int, cost: float = 1.0) -> tuple[Bucket, int]:
    """Take `cost` tokens: (the bucket now, 0), or (it unchanged but for time, ms to wait).

    None is a full bucket. A cost above the burst passes when the bucket is full and leaves it
    in debt, so that it can pass at all.
    """
    tokens = _filled(rate, bucket, now_ms)
    needed = min(cost, rate.burst)
    missing = needed - tokens
    if missing <= _ROUNDING:
        return Bucket(tokens - cost, now_ms), 0
    return Bucket(tokens, now_ms), max(1, math.ceil((missing - _ROUNDING) / rate.per_second * 1000))


def is_full(rate: Rate, bucket: Bucket, now_ms: int) -> bool:
    """Whether the bucket says no more than a missing one: it may be forgotten."""
    return _filled(rate, bucket, now_ms) >= rate.burst


def _filled(rate: Rate, bucket: Bucket | None, now_ms: int) -> float:
    if bucket is None:
        return rate.burst
    # A clock that was set back earns nothing.
    elapsed = max(0, now_ms - bucket.updated_ms)
    return min(rate.burst, bucket.tokens + elapsed * rate.per_second / 1000)
