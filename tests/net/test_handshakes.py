"""Threads beside the loop: what one connection makes of its outcome keeps no other waiting."""

from __future__ import annotations

import asyncio
import threading

import pytest

from comity.net.handshakes import Handshakes


async def test_outcomes_come_back_to_the_loop_and_a_fault_keeps_none_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    handshakes = Handshakes()
    here, came = threading.get_ident(), list[int]()
    all_came = asyncio.Event()

    def then(outcome: tuple[int, int]) -> None:
        number, thread = outcome
        assert thread != here
        assert threading.get_ident() == here
        came.append(number)
        if len(came) == 10:
            all_came.set()
        if number % 2:
            raise RuntimeError("one connection's fault")

    for number in range(10):
        handshakes.do(lambda argument: (argument, threading.get_ident()), number, then)
    async with asyncio.timeout(20):
        await all_came.wait()
    handshakes.close()
    assert sorted(came) == list(range(10))
    assert [str(record.exc_info[1]) for record in caplog.records if record.exc_info] == [
        "one connection's fault"
    ] * 5


async def test_what_waits_is_dropped_at_the_end() -> None:
    handshakes = Handshakes()
    may_go_on, told = threading.Event(), list[object]()
    for _ in range(50):
        handshakes.do(lambda event: event.wait(20), may_go_on, told.append)
    setting = asyncio.get_running_loop().run_in_executor(None, may_go_on.set)
    handshakes.close()
    await setting
    await asyncio.sleep(0)
    assert not told
