"""The machine's clock, chance and threads."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time

import pytest

from comity.net.dns import DnsResolver
from comity.net.http_client import HttpsTransport
from comity.net.pausing import GreenletPausing
from comity.net.system import SystemClock, SystemEntropy, ThreadOffload
from comity.ports import Clock, Entropy, Offload, Ports, Resolver, Transport, request_id


async def test_the_doors_fit_the_ports() -> None:
    entropy = SystemEntropy()
    transport = HttpsTransport(trusted_ca=[], verify_certificates=True, allow_ranges=[], user_agent="comity")
    offload = ThreadOffload(1)
    ports = Ports(SystemClock(), entropy, transport, DnsResolver(), offload, GreenletPausing())
    clock: Clock = ports.clock
    chance: Entropy = ports.entropy
    doors: tuple[Transport, Resolver, Offload] = (ports.transport, ports.resolver, ports.offload)
    assert clock.now_ms() > 0
    assert chance.bytes(1)
    assert len(doors) == 3
    await offload.close()


async def test_the_clock() -> None:
    clock = SystemClock()
    assert abs(clock.now_ms() - time.time() * 1000) < 5000
    before = clock.monotonic()
    await clock.sleep(0.01)
    assert clock.monotonic() - before >= 0.009


def test_chance() -> None:
    entropy = SystemEntropy()
    assert len(entropy.bytes(32)) == 32
    assert entropy.bytes(32) != entropy.bytes(32)
    tokens = {entropy.token(24) for _ in range(100)}
    assert len(tokens) == 100
    assert all(len(token) == 24 and token.isalnum() and token.isascii() for token in tokens)
    assert entropy.token(0) == ""
    assert len(set(entropy.token(20_000))) == 62
    assert all(0 <= entropy.random() < 1 for _ in range(100))


async def test_work_goes_to_threads_and_knows_its_request() -> None:
    offload = ThreadOffload(2)
    request_id.set("abc")

    def work(number: int) -> tuple[int, str, bool]:
        return number * 2, request_id.get(), threading.current_thread() is threading.main_thread()

    assert await offload.run(work, 21) == (42, "abc", False)
    await offload.close()


async def test_what_work_raises_is_raised() -> None:
    offload = ThreadOffload(1)
    with pytest.raises(ZeroDivisionError):
        await offload.run(lambda: 1 // 0)
    await offload.close()


async def test_work_runs_beside_the_loop_and_in_bounds() -> None:
    offload = ThreadOffload(2)
    both = threading.Barrier(2, timeout=10)
    await asyncio.gather(offload.run(both.wait), offload.run(both.wait))
    running = [0, 0]
    lock = threading.Lock()

    def count() -> None:
        with lock:
            running[0] += 1
            running[1] = max(running)
        time.monotonic()
        with lock:
            running[0] -= 1

    await asyncio.gather(*(offload.run(count) for _ in range(2000)))
    assert running[1] <= 2
    await offload.close()


async def test_work_that_has_not_begun_is_dropped_with_its_caller() -> None:
    offload = ThreadOffload(1)
    release = threading.Event()
    ran: list[int] = []
    first = asyncio.create_task(offload.run(release.wait, 10))
    second = asyncio.create_task(offload.run(ran.append, 1))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    release.set()
    assert await first
    await offload.close()
    assert ran == []


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no priorities of threads")
async def test_patient_threads_give_way_to_all_others() -> None:
    offload, patient = ThreadOffload(1), ThreadOffload(1, niceness=3)

    def niceness() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    own = niceness()
    assert await patient.run(niceness) == own + 3
    assert await offload.run(niceness) == own
    assert niceness() == own
    await offload.close()
    await patient.close()


def test_an_offload_without_threads_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one"):
        ThreadOffload(0)
