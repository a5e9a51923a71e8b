"""The bus: positions and wake-ups. It carries no news, only that there is some.

A waiter names the keys that concern it (a user id, a room, a destination) and the position
up to which it has already looked; comparing positions means that no wake-up can be lost
(DESIGN §3, /sync).
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Callable, Iterable

#: The key of all changes of anybody's devices: no user id and no room id.
DEVICE_LISTS = "device lists"
#: Keys whose last position is remembered. Forgetting one costs a waiter a spurious look.
MAX_REMEMBERED_KEYS = 100_000
#: Keys of subscriptions that are kept though nobody waits by them, some 150 bytes each.
MAX_SUBSCRIBED_KEYS = 500_000
#: Subscriptions that are looked at for one that can go, when there are too many keys.
MAX_LOOKED_AT = 16
#: Seconds by which the end of a long wait may come later than was asked for, and of a short one.
GRAIN_SECONDS, SHORT_GRAIN_SECONDS = 0.5, 0.01


class Subscription:
    """What concerns somebody who waits again and again: keys, held by the bus from one wait to the next.

    A long poll of somebody in a thousand rooms need not be entered under a thousand keys each time.
    """

    __slots__ = ("keys", "of", "waiters")

    def __init__(self, of: object, keys: frozenset[str]) -> None:
        """`of` is what the keys were made from."""
        self.of = of
        self.keys = keys
        self.waiters: set[asyncio.Future[bool]] = set()

    def wake(self) -> None:
        """Let everybody look who waits by it."""
        for waiter in self.waiters:
            _set(waiter, True)


class Bus:
    """Positions by key, and those who wait for them. Lives on one event loop."""

    def __init__(self, position: int = 0) -> None:
        """`position` is the last committed position."""
        self._position = position
        self._floor = position
        self._last: dict[str, int] = {}
        self._waiters: dict[str, set[asyncio.Future[bool]]] = {}
        self._subscriptions: dict[object, Subscription] = {}
        self._subscribed_keys = 0
        #: By key, those that hold it; in the order in which they came.
        self._subscribed: dict[str, dict[Subscription, None]] = {}
        self._closed = False
        #: By when their time ends (of the loop's clock), those who wait by a subscription.
        self._endings: dict[float, set[asyncio.Future[bool]]] = {}

    @property
    def position(self) -> int:
        """The last committed position; everything up to it may be read."""
        return self._position

    def publish(self, position: int, keys: Iterable[str]) -> None:
        """Tell that what concerns `keys` is on disk up to `position`."""
        # Those of one group of writes may come in another order than their positions: never an earlier one
        # after a later, for `keys_after` stops at the first that is too early.
        position = self._position = max(self._position, position)
        for key in keys:
            self._last.pop(key, None)
            self._last[key] = position
            self._wake(key)
        if len(self._last) > MAX_REMEMBERED_KEYS:
            for key in list(self._last)[: MAX_REMEMBERED_KEYS // 10]:
                self._floor = max(self._floor, self._last.pop(key))

    def wake(self, keys: Iterable[str]) -> None:
        """Wake who waits now for one of `keys`; nothing was stored, and nothing is remembered of it.

        Whoever waits later has to know by other means that there was something.
        """
        for key in keys:
            self._wake(key)

    def _wake(self, key: str) -> None:
        for waiter in self._waiters.pop(key, ()):
            _set(waiter, True)
        for subscription in self._subscribed.get(key, ()):
            if subscription.waiters:
                subscription.wake()

    def key_changed(self, key: str, after: int) -> bool:
        """Whether anything may have been published for that key after that position."""
        return after < self._floor or self._last.get(key, 0) > after

    def changed(self, keys: Iterable[str], after: int) -> bool:
        """Whether anything may have been published for one of `keys` after that position."""
        if after < self._floor:
            return True
        # A plain loop: this is asked some ten times for every answer.
        last = self._last
        for key in keys:  # noqa: SIM110
            if last.get(key, 0) > after:
                return True
        return False

    def keys_after(self, after: int) -> list[str] | None:
        """The keys for which something was published after that position; None: not known any more."""
        if after < self._floor:
            return None
        found = []
        for key, position in reversed(self._last.items()):
            if position <= after:
                break
            found.append(key)
        return found

    def subscription(self, name: object, of: object, keys: Callable[[], Iterable[str]]) -> Subscription:
        """The subscription of that name, which holds `keys()`: asked for if it was not made of `of`."""
        held = self._subscriptions.pop(name, None)
        if held is None or held.of is not of:
            if held is not None:
                self._end(held)
            held = Subscription(of, frozenset(keys()))
            self._subscribed_keys += len(held.keys)
            for key in held.keys:
                self._subscribed.setdefault(key, {})[held] = None
            if self._subscribed_keys > MAX_SUBSCRIBED_KEYS:
                self._end_idle()
        self._subscriptions[name] = held
        return held

    def _end_idle(self) -> None:
        """End the oldest subscriptions that nobody waits by."""
        for name in list(itertools.islice(self._subscriptions, MAX_LOOKED_AT)):
            subscription = self._subscriptions.pop(name)
            if subscription.waiters:
                self._subscriptions[name] = subscription
            else:
                self._end(subscription)
                if self._subscribed_keys <= MAX_SUBSCRIBED_KEYS:
                    return

    def _end(self, subscription: Subscription) -> None:
        self._subscribed_keys -= len(subscription.keys)
        for key in subscription.keys:
            holding = self._subscribed[key]
            del holding[subscription]
            if not holding:
                del self._subscribed[key]
        # Whoever waits by it looks again, and subscribes anew.
        subscription.wake()

    async def wait_by(self, subscription: Subscription, after: int, timeout: float) -> bool:
        """Wait until one of a subscription's keys passes `after`; False after `timeout` seconds or on close.

        May return early: for a subscription that ended, or a change that is not known to be older.
        """
        if after < self._position:
            news = self.keys_after(after)
            if news is None or any(key in subscription.keys for key in news):
                return True
        if timeout <= 0 or self._closed:
            return False
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[bool] = loop.create_future()
        ending = self._ending(loop, timeout)
        ending.add(waiter)
        subscription.waiters.add(waiter)
        try:
            return await waiter
        finally:
            ending.discard(waiter)
            subscription.waiters.discard(waiter)

    def _ending(self, loop: asyncio.AbstractEventLoop, timeout: float) -> set[asyncio.Future[bool]]:
        """Those whose time ends with that of who waits `timeout` seconds from now: no timer for each."""
        now, grain = loop.time(), GRAIN_SECONDS if timeout >= 2 * GRAIN_SECONDS else SHORT_GRAIN_SECONDS
        moment = math.ceil((now + timeout) / grain) * grain
        ending = self._endings.get(moment)
        if ending is None:
            ending = self._endings[moment] = set()
            loop.call_at(moment, self._end_time, moment)
        return ending

    def _end_time(self, moment: float) -> None:
        for waiter in self._endings.pop(moment):
            _set(waiter, False)

    async def wait(self, keys: Iterable[str], after: int, timeout: float) -> bool:
        """Wait until one of `keys` passes `after`; False after `timeout` seconds or on close."""
        wanted = list(keys)
        if self.changed(wanted, after):
            return True
        if timeout <= 0 or self._closed:
            return False
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[bool] = loop.create_future()
        # A timer of its own, and no `asyncio.timeout`: every long poll comes through here.
        timer = loop.call_later(timeout, _set, waiter, False)
        for key in wanted:
            self._waiters.setdefault(key, set()).add(waiter)
        try:
            return await waiter
        finally:
            timer.cancel()
            for key in wanted:
                waiting = self._waiters.get(key)
                if waiting is not None:
                    waiting.discard(waiter)
                    if not waiting:
                        del self._waiters[key]

    def close(self) -> None:
        """Wake everybody for the last time; later waits return at once."""
        self._closed = True
        for waiters in list(self._waiters.values()):
            for waiter in waiters:
                _set(waiter, False)
        self._waiters.clear()
        for subscription in self._subscriptions.values():
            for waiter in subscription.waiters:
                _set(waiter, False)


def _set(waiter: asyncio.Future[bool], news: bool) -> None:
    if not waiter.done():
        waiter.set_result(news)
