"""Jobs in processes of their own: arithmetic over masses, which threads do in turns with the event loop.

Owns the processes: made when there is work, ended when there has been none for a while. They get what is
pickled for them and nothing else, neither the environment nor a file. Where there can be none, or one
ends, threads do the job.
"""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from comity.net.process_child import LENGTH
from comity.ports import Offload

T = TypeVar("T")
_log = logging.getLogger(__name__)
#: Processes at most; each takes 25 to 40 MiB while there are some.
MAX_PROCESSES = 2
#: Jobs that are given to one process before it has done the first of them; the others wait for a place.
MAX_AHEAD = 3
#: Seconds without a job after which the processes end.
IDLE_SECONDS = 20.0
#: Seconds for which threads do all jobs where a process ended before it had done one.
REST_SECONDS = 60.0
#: Seconds that a process is given to end by itself.
END_SECONDS = 2.0
#: Seconds in which a job must be done, those before it included: one takes some hundredths of a second.
JOB_SECONDS = 60.0


class ProcessOffload:
    """`ports.Offload` for functions of modules, with arguments and results that can be pickled."""

    def __init__(self, otherwise: Offload, processes: int | None = None) -> None:
        """`otherwise` does what no process can; `processes`: None for as many as there are CPUs."""
        self._otherwise = otherwise
        self._count = min(processes or os.cpu_count() or 1, MAX_PROCESSES)
        self._children: list[_Child] = []
        self._places = asyncio.Semaphore(self._count * MAX_AHEAD)
        self._idle: asyncio.TimerHandle | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self._is_closed = False
        #: Until when (of the loop's clock) none is begun: the last one never did anything.
        self._rest_until = 0.0

    async def run(self, function: Callable[..., T], *arguments: object) -> T:
        """Run `function` in another process and return its outcome, its error included.

        It may be begun twice, if a process ends in the midst of it: a function without effects.
        Raises RuntimeError once closed.
        """
        loop = asyncio.get_running_loop()
        async with self._places:
            if loop.time() < self._rest_until and not self._is_closed:
                return await self._otherwise.run(function, *arguments)
            child = self._free()
            try:
                is_well, outcome = await child.ask((function, arguments))
            except _EndedError as error:
                if self._is_closed:
                    raise RuntimeError("the processes have been closed") from None
                if not child.has_worked:
                    self._rest_until = loop.time() + REST_SECONDS
                _log.warning("a process for large jobs is not there (%s): threads do them", error)
                return await self._otherwise.run(function, *arguments)
            finally:
                self._await_idleness()
            if not is_well:
                raise outcome
            result: T = outcome
            return result

    def _free(self) -> _Child:
        """The process with the least to do, a new one if all have some. Raises RuntimeError once closed."""
        if self._is_closed:
            raise RuntimeError("the processes have been closed")
        self._children = [child for child in self._children if not child.is_ended]
        least = min(self._children, key=lambda child: len(child.asked), default=None)
        if least is None or (not least.is_free and len(self._children) < self._count):
            least = _Child()
            self._children.append(least)
        return least

    def _await_idleness(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
        if self._is_closed:
            return
        self._idle = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._end_if_idle)

    def _end_if_idle(self) -> None:
        self._idle = None
        if all(child.is_free for child in self._children):
            self._end()
        else:
            self._await_idleness()

    def _end(self) -> None:
        children, self._children = self._children, []
        for child in children:
            task = asyncio.get_running_loop().create_task(child.end())
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def close(self) -> None:
        """End the processes; what they have not done is not done."""
        self._is_closed = True
        if self._idle is not None:
            self._idle.cancel()
        self._end()
        await asyncio.gather(*self._ending, return_exceptions=True)


class _EndedError(Exception):
    """The process is not there, or no more."""


class _Child:
    """One process, and what it was asked to do, in that order."""

    def __init__(self) -> None:
        self.asked: deque[asyncio.Future[tuple[bool, Any]]] = deque()
        self.is_ended = False
        #: Whether it has done a job.
        self.has_worked = False
        self._process: asyncio.subprocess.Process | None = None
        self._jobs: asyncio.Queue[bytes] = asyncio.Queue()
        self._task = asyncio.get_running_loop().create_task(self._live())

    @property
    def is_free(self) -> bool:
        """Whether it has nothing to do."""
        return not self.asked

    async def ask(self, job: tuple[Callable[..., Any], tuple[object, ...]]) -> tuple[bool, Any]:
        """Whether a function came to an end, and its result or error. Raises _EndedError."""
        data = pickle.dumps(job, pickle.HIGHEST_PROTOCOL)
        future: asyncio.Future[tuple[bool, Any]] = asyncio.get_running_loop().create_future()
        self.asked.append(future)
        self._jobs.put_nowait(len(data).to_bytes(LENGTH) + data)
        try:
            async with asyncio.timeout(JOB_SECONDS):
                return await future
        except TimeoutError:
            self._kill()
            raise _EndedError(f"it took more than {JOB_SECONDS:.0f} s") from None

    def _kill(self) -> None:
        """It is of no use any more."""
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.kill()

    async def _live(self) -> None:
        why = "it has ended"
        writing: asyncio.Task[None] | None = None
        try:
            self._process = process = await _start()
            assert process.stdin is not None and process.stdout is not None
            writing = asyncio.create_task(self._write(process.stdin))
            while True:
                length = int.from_bytes(await process.stdout.readexactly(LENGTH))
                outcome = pickle.loads(await process.stdout.readexactly(length))  # noqa: S301 - our own
                self.has_worked = True
                future = self.asked.popleft()
                if not future.done():
                    future.set_result(outcome)
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            why = str(error) or why
        finally:
            self.is_ended = True
            self._kill()
            if writing is not None:
                writing.cancel()
            for future in self.asked:
                if not future.done():
                    future.set_exception(_EndedError(why))
            self.asked.clear()

    async def _write(self, stdin: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while True:
                stdin.write(await self._jobs.get())
                await stdin.drain()

    async def end(self) -> None:
        """Let the process go; what it was asked fails."""
        process = self._process
        if process is not None and process.stdin is not None and process.returncode is None:
            process.stdin.close()
            try:
                async with asyncio.timeout(END_SECONDS):
                    await process.wait()
            except TimeoutError:
                self._kill()
                await process.wait()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def _start() -> asyncio.subprocess.Process:
    """A process that can import what this one can, and starts in a tenth of a second."""
    found = [str(Path(__file__).parents[2]), *(path for path in sys.path if path)]
    return await asyncio.create_subprocess_exec(
        sys.executable, "-S", "-m", "comity.net.process_child",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={"PYTHONPATH": os.pathsep.join(found)},
        start_new_session=True,
        limit=1 << 20,
    )  # fmt: skip
