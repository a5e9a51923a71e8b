"""The bus: positions and wake-ups. It carries no news, only that there is some.

A waiter names the keys that concern it (a user id, a room, a destination) and the position
up to which it has already looked; comparing positions means that no wake-up can be lost
(DESIGN §3, /sync).
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections import deque
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
#: Of those who were woken together, how many are told before other things of the loop get their turn. It
#: begins with one, and doubles: the first ones read what the others then find in memory.
TOLD_AT_ONCE = 64


class Parked:
    """Who waits by a subscription, without a task: told once, unless it leaves before."""

    __slots__ = ("_ending", "_subscription")
    #: Set by `Bus.park`: those whose time ends with this one's, and by what it waits; None once it does not.
    _ending: set[Parked] | None
    _subscription: Subscription | None

    def told(self, *, news: bool) -> None:
        """There is news, or the time is over; in a turn of the loop after that in which it came."""
        raise NotImplementedError


class Subscription:
    """What concerns somebody who waits again and again: keys, held by the bus from one wait to the next.

    A long poll of somebody in a thousand rooms need not be entered under a thousand keys each time.
    """

    __slots__ = ("keys", "of", "waiters")

    def __init__(self, of: object, keys: frozenset[str]) -> None:
        """`of` is what the keys were made from."""
        self.of = of
        self.keys = keys
        self.waiters: set[Parked] = set()


class Bus:
    """Positions by key, and those who wait for them. Lives on one event loop."""

    def __init__(self, position: int = 0) -> None:
        """`position` is the last committed position."""
        #: The last committed position; everything up to it may be read. Set by `publish` alone.
        self.position = position
        self._floor = position
        self._last: dict[str, int] = {}
        self._waiters: dict[str, set[asyncio.Future[bool]]] = {}
        self._subscriptions: dict[object, Subscription] = {}
        self._subscribed_keys = 0
        #: By key, those that hold it; in the order in which they came.
        self._subscribed: dict[str, dict[Subscription, None]] = {}
        self._closed = False
        #: By when their time ends (of the loop's clock), those who wait by a subscription.
        self._endings: dict[float, set[Parked]] = {}
        #: Those who wait no more and are to be told why. Bounded by the connections.
        self._woken: deque[tuple[Parked, bool]] = deque()
        #: How many of them are told in the next turn; 0: there is none.
        self._told_next = 0

    def publish(self, position: int, keys: Iterable[str]) -> None:
        """Tell that what concerns `keys` is on disk up to `position`."""
        # Those of one group of writes may come in another order than their positions: never an earlier one
        # after a later, for `keys_after` stops at the first that is too early.
        position = self.position = max(self.position, position)
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
                self._release(subscription.waiters, news=True)

    def key_changed(self, key: str, after: int) -> bool:
        """Whether anything may have been published for that key after that position."""
        return after < self._floor or self._last.get(key, 0) > after

    def touched(self, key: str) -> int:
        """The last position at which anything may have been published for that key."""
        last = self._last.get(key, 0)
        return last if last > self._floor else self._floor  # `max` takes three times as long

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
        self._release(subscription.waiters, news=True)

    async def wait_by(self, subscription: Subscription, after: int, timeout: float) -> bool:
        """Wait until one of a subscription's keys passes `after`; False after `timeout` seconds or on close.

        May return early: for a subscription that ended, or a change that is not known to be older.
        """
        if after < self.position:
            news = self.keys_after(after)
            if news is None or any(key in subscription.keys for key in news):
                return True
        if timeout <= 0 or self._closed:
            return False
        sleeper = _Sleeper()
        self.park(sleeper, subscription, timeout)
        try:
            return await sleeper.woken
        finally:
            self.leave(sleeper)

    def park(self, parked: Parked, subscription: Subscription, timeout: float) -> None:
        """Have told, once, when one of the subscription's keys is published for from now on: `news`.

        Or when `timeout` seconds are over or the bus closes. Whoever parks has looked up to `position`.
        """
        ending = self._ending(timeout)
        parked._subscription, parked._ending = subscription, ending
        ending.add(parked)
        subscription.waiters.add(parked)
        if self._closed:
            self._release([parked], news=False)

    def leave(self, parked: Parked) -> None:
        """What was parked waits no more. Nothing is told after that but what is being told already."""
        subscription, ending = parked._subscription, parked._ending
        if subscription is not None and ending is not None:
            subscription.waiters.discard(parked)
            ending.discard(parked)
            parked._subscription = parked._ending = None

    def _release(self, waiters: Iterable[Parked], *, news: bool) -> None:
        """Those wait no more, and are told in the loop's next turns."""
        for parked in list(waiters):
            self.leave(parked)
            self._woken.append((parked, news))
        if self._woken and not self._told_next:
            self._told_next = 1
            asyncio.get_running_loop().call_soon(self._tell)

    def _tell(self) -> None:
        """Tell some of those who were released; the others after what else is to be done."""
        woken = self._woken
        try:
            for _ in range(min(len(woken), self._told_next)):
                parked, news = woken.popleft()
                parked.told(news=news)
        finally:
            self._told_next = min(2 * self._told_next, TOLD_AT_ONCE) if woken else 0
            if woken:
                asyncio.get_running_loop().call_soon(self._tell)

    def _ending(self, timeout: float) -> set[Parked]:
        """Those whose time ends with that of who waits `timeout` seconds from now: no timer for each."""
        loop = asyncio.get_running_loop()
        now, grain = loop.time(), GRAIN_SECONDS if timeout >= 2 * GRAIN_SECONDS else SHORT_GRAIN_SECONDS
        moment = math.ceil((now + timeout) / grain) * grain
        ending = self._endings.get(moment)
        if ending is None:
            ending = self._endings[moment] = set()
            loop.call_at(moment, self._end_time, moment)
        return ending

    def _end_time(self, moment: float) -> None:
        self._release(self._endings.pop(moment), news=False)

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
            self._release(subscription.waiters, news=False)


class _Sleeper(Parked):
    """Who waits by a subscription in a task."""

    __slots__ = ("woken",)

    def __init__(self) -> None:
        self.woken: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def told(self, *, news: bool) -> None:
        _set(self.woken, news)


def _set(waiter: asyncio.Future[bool], news: bool) -> None:
    if not waiter.done():
        waiter.set_result(news)
