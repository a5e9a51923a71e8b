"""Jobs in processes: done, refused, begun again; and no process outlives its use."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import select
import signal
import sys
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

import pytest

from comity.net import processes
from comity.net.processes import MAX_AHEAD, ProcessOffload
from tests.net.serving import PATIENCE

T = TypeVar("T")


class Threads:
    """What does the jobs where there is no process: on the spot, and counted."""

    def __init__(self) -> None:
        self.jobs = 0

    async def run(self, function: Callable[..., T], *arguments: object) -> T:
        self.jobs += 1
        return function(*arguments)


@pytest.fixture
async def threads() -> Threads:
    return Threads()


@pytest.fixture
async def offload(threads: Threads) -> AsyncIterator[ProcessOffload]:
    made = ProcessOffload(threads, 2)
    yield made
    await made.close()


def pid_after(rounds: int) -> int:
    hashlib.pbkdf2_hmac("sha256", b"work", b"salt", max(rounds, 1))
    return os.getpid()


def hanging() -> None:
    signal.pause()


def environment() -> dict[str, str]:
    return dict(os.environ)


def doubled(data: bytes) -> bytes:
    return data * 2


def failing(text: str) -> None:
    raise ValueError(text)


def dying() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def within_patience_ended(process: int) -> bool:
    """Whether the process of a descriptor, which is closed, ends."""
    try:
        ended, _, _ = await asyncio.to_thread(select.select, [process], [], [], PATIENCE)
    finally:
        os.close(process)
    return bool(ended)


async def test_jobs_are_done_in_other_processes(offload: ProcessOffload, threads: Threads) -> None:
    found = await asyncio.gather(*(offload.run(pid_after, 50_000) for _ in range(3 * MAX_AHEAD)))
    assert len(set(found)) == 2
    assert os.getpid() not in found
    large = b"\0" * 5_000_000
    assert await offload.run(doubled, large) == large * 2
    assert threads.jobs == 0


async def test_a_process_is_given_no_secrets_of_the_environment(
    offload: ProcessOffload, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMITY_SECRET", "secret")
    assert set(await offload.run(environment)) <= {"PYTHONPATH", "LC_CTYPE"}


async def test_an_error_of_a_job_is_whoever_asked_s(offload: ProcessOffload) -> None:
    with pytest.raises(ValueError, match="wrong"):
        await offload.run(failing, "wrong")
    assert await offload.run(doubled, b"a") == b"aa"


async def test_who_asks_no_more_keeps_nobody_waiting(offload: ProcessOffload) -> None:
    asked = [asyncio.create_task(offload.run(pid_after, 50_000)) for _ in range(4)]
    await asyncio.sleep(0)
    for task in asked:
        task.cancel()
    await asyncio.gather(*asked, return_exceptions=True)
    assert await offload.run(doubled, b"a") == b"aa"


async def test_where_a_process_ends_threads_do_what_it_was_asked(
    offload: ProcessOffload, threads: Threads, caplog: pytest.LogCaptureFixture
) -> None:
    first = await offload.run(pid_after, 0)
    os.kill(first, signal.SIGSTOP)
    asked = [asyncio.create_task(offload.run(doubled, bytes((number,)))) for number in range(4)]
    await asyncio.sleep(0)
    os.kill(first, signal.SIGKILL)
    with caplog.at_level(logging.WARNING):
        assert await asyncio.gather(*asked) == [bytes((number,)) * 2 for number in range(4)]
    assert "threads do them" in caplog.text
    assert threads.jobs >= 1
    before = threads.jobs
    assert await offload.run(pid_after, 0) != first
    assert threads.jobs == before


async def test_where_there_can_be_no_process_threads_do_the_jobs(
    offload: ProcessOffload, threads: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert await offload.run(doubled, b"a") == b"aa"
    assert threads.jobs == 1
    # And none is tried for the next ones.
    monkeypatch.undo()
    assert await offload.run(pid_after, 0) == os.getpid()
    assert threads.jobs == 2


async def test_a_job_that_takes_too_long_ends_its_process(
    offload: ProcessOffload, threads: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await offload.run(pid_after, 0)
    its_end = os.pidfd_open(first)
    os.kill(first, signal.SIGSTOP)
    monkeypatch.setattr(processes, "JOB_SECONDS", 0.05)
    assert await offload.run(doubled, b"a") == b"aa"
    assert threads.jobs == 1
    assert await within_patience_ended(its_end)
    monkeypatch.undo()
    assert await offload.run(pid_after, 0) not in (first, os.getpid())


async def test_processes_end_when_there_is_nothing_to_do(
    offload: ProcessOffload, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "IDLE_SECONDS", 0.05)
    first = await offload.run(pid_after, 0)
    # Who is asked no more for what it does is waited for all the same.
    asked = asyncio.create_task(offload.run(pid_after, 50_000))
    await asyncio.sleep(0)
    asked.cancel()
    assert await within_patience_ended(os.pidfd_open(first))
    assert await offload.run(pid_after, 0) != first


async def test_processes_end_with_the_server(threads: Threads) -> None:
    made = ProcessOffload(threads, 1)
    pid = await made.run(pid_after, 0)
    hung = asyncio.create_task(made.run(hanging))
    await asyncio.sleep(0)
    async with asyncio.timeout(PATIENCE):
        await made.close()
    assert not is_running(pid)
    for asked in (hung, made.run(pid_after, 0)):
        with pytest.raises(RuntimeError, match="closed"):
            await asked
    assert threads.jobs == 0
