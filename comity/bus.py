"""The bus: positions and wake-ups. It carries no news, only that there is some.

A waiter names the keys that concern it (a user id, a room, a destination) and the position
up to which it has already looked; comparing positions means that no wake-up can be lost
(DESIGN §3, /sync).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

#: The key of all changes of anybody's devices: no user id and no room id.
DEVICE_LISTS = "device lists"
#: Keys whose last position is remembered. Forgetting one costs a waiter a spurious look.
MAX_REMEMBERED_KEYS = 100_000


class Bus:
    """Positions by key, and those who wait for them. Lives on one event loop."""

    def __init__(self, position: int = 0) -> None:
        """`position` is the last committed position."""
        self._position = position
        self._floor = position
        self._last: dict[str, int] = {}
        self._waiters: dict[str, set[asyncio.Future[bool]]] = {}
        self._closed = False

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


def _set(waiter: asyncio.Future[bool], news: bool) -> None:
    if not waiter.done():
        waiter.set_result(news)
