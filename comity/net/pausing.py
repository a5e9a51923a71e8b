"""Synchronous functions that wait for sockets without the event loop waiting: greenlets.

A function runs in a greenlet of its own on the loop's thread. Where it would block, it switches
back to the loop, which goes on with other work and resumes it when the socket is ready. So there
is one thread, no lock, and other code runs only where a function waits (docs/decisions/0014).
"""

from __future__ import annotations

import asyncio
import contextvars
import select
import socket
import time
from collections.abc import Callable
from typing import Any, TypeVar

import greenlet

T = TypeVar("T")
#: How often is looked whether somebody has waited too long, in seconds.
SWEEP_SECONDS = 0.5

#: Seconds that the system's resolver is given for a name.
RESOLVER_SECONDS = 10.0


def _addresses(host: str) -> list[str]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        # What cannot be a name is not even asked for: two points in a row, a part that is too long.
        raise OSError(str(error)) from None
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class _Function(greenlet.greenlet):
    """One function that runs, or waits."""

    loop: asyncio.AbstractEventLoop


class _Waiting:
    """What a function waits for: it is resumed once, by whoever comes first."""

    __slots__ = ("_function", "deadline", "timed_out")

    def __init__(self, function: _Function, deadline: float) -> None:
        self._function: _Function | None = function
        self.deadline = deadline
        self.timed_out = False

    def resume(self) -> None:
        """Go on, in the loop's turn."""
        function, self._function = self._function, None
        if function is not None:
            function.switch()


class _Watch:
    """`ports.Watch`."""

    def __init__(self, pausing: GreenletPausing, descriptor: int, unasked: Callable[[], None] | None) -> None:
        self._pausing = pausing
        self._descriptor = descriptor
        self._unasked = unasked
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: _Waiting | None = None

    def wait(self, seconds: float, *, writing: bool = False) -> None:
        function = greenlet.getcurrent()
        if not isinstance(function, _Function):
            self._block(seconds, writing=writing)
            return
        if self._loop is None:
            # It stays: most waits are for the next answer on the same socket.
            self._loop = function.loop
            self._loop.add_reader(self._descriptor, self._ready)
        if writing:
            self._loop.add_writer(self._descriptor, self._ready)
        waiting = self._waiting = self._pausing.begin(function, seconds)
        try:
            self._pausing.wait_on(function, waiting)
        finally:
            self._waiting = None
            # Closed meanwhile, the descriptor may be another's by now.
            if writing and self._loop is not None:
                self._loop.remove_writer(self._descriptor)

    def _ready(self) -> None:
        if self._waiting is not None:
            self._waiting.resume()
        elif self._unasked is not None:
            self._unasked()
        else:
            self.close()

    def _block(self, seconds: float, *, writing: bool) -> None:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN | (select.POLLOUT if writing else 0))
        # Less than nothing would be for ever.
        if not poll.poll(max(0.0, seconds) * 1000):
            raise TimeoutError

    def close(self) -> None:
        loop, self._loop = self._loop, None
        if loop is None or loop.is_closed():
            return
        loop.remove_reader(self._descriptor)
        if self._waiting is not None:
            # Nothing will come any more: it goes on and finds out.
            loop.remove_writer(self._descriptor)
            loop.call_soon(self._waiting.resume)


class _Turn:
    """`ports.Turn`."""

    def __init__(self, pausing: GreenletPausing) -> None:
        self._pausing = pausing
        self._waiting: _Waiting | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._has_come = False

    def wait(self, seconds: float) -> None:
        function = greenlet.getcurrent()
        if self._has_come:
            return
        if not isinstance(function, _Function):
            raise TimeoutError("Nobody can come while the whole process waits")
        self._loop = function.loop
        self._waiting = self._pausing.begin(function, seconds)
        self._pausing.wait_on(function, self._waiting)

    def come(self) -> None:
        self._has_come = True
        if self._waiting is not None and self._loop is not None:
            self._loop.call_soon(self._waiting.resume)


class GreenletPausing:
    """`ports.Pausing` on the running event loop."""

    def __init__(self) -> None:
        self._waiting: set[_Waiting] = set()
        self._sweeper: asyncio.TimerHandle | None = None

    async def run(self, function: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()

        def body() -> None:
            try:
                result = function()
            except BaseException as error:  # noqa: BLE001 - it goes to whoever waits
                if isinstance(error, StopIteration):
                    error = RuntimeError(repr(error))
                done.set_exception(error)
            else:
                done.set_result(result)

        running = _Function(body)
        running.loop = loop
        running.gr_context = contextvars.copy_context()
        running.switch()
        if done.done():
            return done.result()
        cancelled: asyncio.CancelledError | None = None
        while not done.done():
            try:
                await asyncio.shield(done)
            except asyncio.CancelledError as error:
                # What it has begun it ends: half a decision must not stay behind.
                cancelled = error
            except BaseException:  # noqa: BLE001 - told below
                break
        if cancelled is not None:
            done.exception()
            raise cancelled
        return done.result()

    def watch(self, descriptor: int, unasked: Callable[[], None] | None = None) -> _Watch:
        return _Watch(self, descriptor, unasked)

    def turn(self) -> _Turn:
        return _Turn(self)

    def addresses(self, host: str) -> list[str]:
        function = greenlet.getcurrent()
        if not isinstance(function, _Function):
            return _addresses(host)
        # The system's resolver blocks: it has a thread for that.
        looking_up = function.loop.run_in_executor(None, _addresses, host)
        turn = self.turn()
        looking_up.add_done_callback(lambda _: turn.come())
        try:
            turn.wait(RESOLVER_SECONDS)
        except TimeoutError:
            looking_up.cancel()
            raise OSError(f"no name server answers for {host}") from None
        return looking_up.result()

    def monotonic(self) -> float:
        return time.monotonic()

    def pause(self, seconds: float) -> None:
        function = greenlet.getcurrent()
        if not isinstance(function, _Function):
            time.sleep(seconds)
            return
        waiting = _Waiting(function, float("inf"))
        function.loop.call_later(seconds, waiting.resume)
        self.wait_on(function, waiting)

    @property
    def is_waiting(self) -> bool:
        """Whether a function waits."""
        return bool(self._waiting)

    # -- for those who wait

    def begin(self, function: _Function, seconds: float) -> _Waiting:
        """A wait of at most so long."""
        waiting = _Waiting(function, time.monotonic() + seconds)
        self._waiting.add(waiting)
        if self._sweeper is None:
            self._sweeper = function.loop.call_later(SWEEP_SECONDS, self._sweep, function.loop)
        return waiting

    def wait_on(self, function: _Function, waiting: _Waiting) -> None:
        """Go back to the loop until somebody resumes the function. Raises TimeoutError."""
        parent: Any = function.parent
        parent.switch()
        self._waiting.discard(waiting)
        if waiting.timed_out:
            raise TimeoutError

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        self._sweeper = None
        now = time.monotonic()
        for waiting in [item for item in self._waiting if item.deadline <= now]:
            waiting.timed_out = True
            waiting.resume()
        if self._waiting:
            self._sweeper = loop.call_later(SWEEP_SECONDS, self._sweep, loop)
