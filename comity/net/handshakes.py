"""The arithmetic of TLS handshakes, beside the loop.

Owns the threads that do it. A step is nearly a millisecond of calculating in which the interpreter's lock is
free; to thousands of servers that are seconds in which the loop can do everything else. The loop is told
together of all steps that are done by the time it looks.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

_log = logging.getLogger(__name__)
T = TypeVar("T")
U = TypeVar("U")

#: Threads that shake hands; they calculate and never wait, so that more of them would only compete.
HANDSHAKE_THREADS = 2


class Handshakes:
    """Calls functions in threads, in the order in which they come; made within the running loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        #: (function, its argument, who is told). As many wait as there are connections, which are counted.
        self._waiting: queue.SimpleQueue[tuple[Callable[[Any], Any], Any, Callable[[Any], None]] | None]
        self._waiting = queue.SimpleQueue()
        self._done: collections.deque[tuple[Callable[[Any], None], Any]] = collections.deque()
        #: Whether the loop has been told that something is done, and has not looked yet.
        self._is_told = False
        self._threads = [
            threading.Thread(target=self._work, name=f"comity-tls-{number}", daemon=True)
            for number in range(HANDSHAKE_THREADS)
        ]
        for thread in self._threads:
            thread.start()

    def do(self, function: Callable[[T], U], argument: T, then: Callable[[U], None]) -> None:
        """Call `function`, which must not raise, in a thread; then `then` with its outcome in the loop."""
        self._waiting.put((function, argument, then))

    def close(self) -> None:
        """Drop what waits, tell nobody any more, and end the threads."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._waiting.get_nowait()
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join()
        self._done.clear()

    def _work(self) -> None:
        while (job := self._waiting.get()) is not None:
            function, argument, then = job
            self._done.append((then, function(argument)))
            del job, function, argument, then
            if not self._is_told:
                self._is_told = True
                with contextlib.suppress(RuntimeError):  # the loop is no more
                    self._loop.call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        self._is_told = False  # before looking: what is done after this look is told anew
        done = self._done
        while done:
            then, outcome = done.popleft()
            try:
                then(outcome)
            except Exception:  # noqa: BLE001 - one connection's fault must not keep the others waiting
                _log.exception("what followed a TLS handshake went wrong")
