"""The machine's own clock, chance and threads, behind the doors of `comity.ports`.

Owns the only calls of the operating system's clock and random source. Holds no state of
the protocol and decides nothing.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import os
import random
import secrets
import string
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

#: Threads for arithmetic: signatures free the interpreter's lock, so cores are what counts.
DEFAULT_OFFLOAD_THREADS = min(32, (os.cpu_count() or 1) + 2)

#: Jobs handed to the threads at once; a caller past that waits its turn, so that a flood of
#: jobs is held back where it comes from and the executor's own queue stays short.
MAX_QUEUED_JOBS = 1024

_ALPHABET = string.ascii_letters + string.digits

#: The largest multiple of the alphabet's size that fits a byte: bytes from here on are
#: thrown away, or the first characters of the alphabet would be likelier than the last.
_FAIR_LIMIT = 256 - 256 % len(_ALPHABET)


class SystemClock:
    """`ports.Clock` on the system's clocks."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    # Asked several times for every request: without a frame of ours.
    monotonic = staticmethod(time.monotonic)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class SystemEntropy:
    """`ports.Entropy` on the system's random source."""

    def __init__(self) -> None:
        self._jitter = random.Random(secrets.randbits(128))  # noqa: S311 - for jitter only

    def bytes(self, count: int) -> bytes:
        return secrets.token_bytes(count)

    def token(self, length: int) -> str:
        characters: list[str] = []
        while len(characters) < length:
            characters.extend(
                _ALPHABET[byte % len(_ALPHABET)]
                for byte in secrets.token_bytes(length - len(characters) + 8)
                if byte < _FAIR_LIMIT
            )
        return "".join(characters[:length])

    def random(self) -> float:
        return self._jitter.random()


class ThreadOffload:
    """`ports.Offload` on a bounded pool of threads.

    `run` carries the caller's context variables (the request id) into the thread. When the
    awaiting task is cancelled, a job that has not begun is dropped; one that has begun runs
    to its end, and its result is thrown away.
    """

    def __init__(self, threads: int = DEFAULT_OFFLOAD_THREADS, *, niceness: int = 0) -> None:
        """`niceness` is added to the process's own: such threads yield the processor to the others."""
        if threads < 1:
            raise ValueError("an offload needs at least one thread")
        self._executor = ThreadPoolExecutor(
            threads,
            thread_name_prefix="comity-offload",
            initializer=functools.partial(_be_nicer, niceness) if niceness else None,
        )
        self._places = asyncio.Semaphore(MAX_QUEUED_JOBS)

    async def run(self, function: Callable[..., T], *arguments: object) -> T:
        job = functools.partial(contextvars.copy_context().run, function, *arguments)
        async with self._places:
            return await asyncio.get_running_loop().run_in_executor(self._executor, job)

    async def close(self) -> None:
        """Drop the jobs that have not begun and wait for those that have."""
        await asyncio.to_thread(self._executor.shutdown, wait=True, cancel_futures=True)


def _be_nicer(niceness: int) -> None:
    """Lower the priority of the calling thread alone, where the system has priorities of threads."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + niceness)
