"""`python -m bench.rooms`: what a client lives in, beside Synapse: many rooms, many members, many who wait.

Owns the workloads of one account with many rooms and of one room with many members; each server is
set up in the same way and measured in the same run, on one CPU, the load on the other. The figures
that count are CPU per operation and how long a message takes to those who wait for it.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import re
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import aiohttp
import uvloop

from bench import load, machine
from bench.following import SLIDING, BySliding, BySync, Way
from tests.interop.authority import create_authority
from tests.interop.client import Client, login, register
from tests.interop.servers import Homeserver, make_server, missing

#: Users made, and joins, at a time.
AT_ONCE = 8
#: Messages a second to those who wait, and for how long (s).
RATE, SPEAKING_SECONDS = 20, 15.0
#: How much longer a server may take for it, and seconds that the last message may take to all.
SLOWEST, LAST_WITHIN = 3, 45.0
#: Requests of each kind that are timed at least, and for how long (s).
TIMED_SECONDS = 5.0
#: Devices of one account that ask beside each other: a server that many use is never quite at rest.
DEVICES = 8
#: The parts that measure deliveries, and how those who wait follow.
WAYS: dict[str, Way] = {"delivery": BySync, "sliding-delivery": BySliding}
_numbers = itertools.count(1)
_MARK = re.compile(rb'"mark ([0-9.]+)"')


@dataclass
class Figures:
    """One line of the table: CPU per operation in ms, latencies in s."""

    what: str
    server: str
    cpu_ms: float
    latencies: list[float]
    note: str = ""

    def ms(self, share: float) -> str:
        """The latency that this share stayed within."""
        return f"{1000 * load.Timing(1, self.latencies).percentile(share):.1f}"


def headers(client: Client) -> dict[str, str]:
    return {"Authorization": f"Bearer {client.token}", "Content-Type": "application/json"}


async def many(count: int, make: Callable[[int], Awaitable[object]], what: str) -> list[object]:
    """Do something `count` times, some at once, and show how far it is."""
    done: list[object] = [None] * count
    numbers = iter(range(count))
    started = time.monotonic()

    async def work() -> None:
        for number in numbers:
            done[number] = await make(number)
            if number % 250 == 249:
                print(f"  {what}: {number + 1}/{count}, {time.monotonic() - started:.0f} s",
                      file=sys.stderr, flush=True)  # fmt: skip

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    return done


async def timed(
    what: str, server: Homeserver, clients: Sequence[Client], make: Callable[[int], tuple[str, str, bytes]]
) -> Figures:
    """Requests of each client one after the other, the clients beside each other; each must be answered."""
    port = server.plain_port

    def good(status: int, _: bytes) -> bool:
        return status == 200

    def requests(client: Client) -> Callable[[int], bytes]:
        def raw(number: int) -> bytes:
            method, path, body = make(number)
            return load.request_bytes(method, path, port, headers(client), body)

        return raw

    for client in clients:
        await load.run(port, (requests(client)(-n) for n in range(1, 3)), 1, good)
    before = machine.cpu_seconds(server.process.pid)
    timings = await asyncio.gather(
        *(load.run_for(port, requests(client), 1, TIMED_SECONDS, good) for client in clients)
    )
    cpu = machine.cpu_seconds(server.process.pid) - before
    latencies = [seconds for timing in timings for seconds in timing.latencies]
    note = f"{len(latencies)} requests"
    return Figures(what, server.software, 1000 * cpu / len(latencies), latencies, note)


async def reading(
    server: Homeserver, http: aiohttp.ClientSession, rooms: int, messages: int
) -> list[Figures]:
    """One account in many rooms: everything, nothing new, a long page of history."""
    client = await register(http, server, f"reader{next(_numbers)}")
    other = await register(http, server, f"writer{next(_numbers)}")

    async def one(number: int) -> str:
        room: str = await other.create_room(name=f"room {number}", preset="public_chat")
        await client.join(room)
        for text in range(3):
            await other.send(room, f"message {text}")
        return room

    made = [str(room) for room in await many(rooms, one, "rooms")]
    for number in range(messages):
        await other.send(made[0], f"message {number} of many")
    devices = [await login(http, server, client.user_id) for _ in range(DEVICES)]
    for device in devices:
        await device.sync()
    since = quote(str((await client.sync())["next_batch"]), safe="")
    page = f"/_matrix/client/v3/rooms/{quote(made[0], safe='')}/messages?dir=b&limit={messages}"
    return [
        # Never the same request twice: an answer may be remembered.
        await timed(f"initial sync, {rooms} rooms", server, [client],
                    lambda n: ("GET", f"/_matrix/client/v3/sync?timeout={next(_numbers)}", b"")),
        await timed(f"idle sync, {rooms} rooms", server, [client],
                    lambda n: ("GET", f"/_matrix/client/v3/sync?timeout=0&since={since}&n={n}", b"")),
        await timed(f"idle sync, {rooms} rooms, {DEVICES} devices at once", server, devices,
                    lambda n: ("GET", f"/_matrix/client/v3/sync?timeout=0&since={since}&n={n}", b"")),
        await timed(f"/messages, {messages} events", server, [client],
                    lambda n: ("GET", f"{page}&n={n}", b"")),
    ]  # fmt: skip


async def crowd(server: Homeserver, http: aiohttp.ClientSession, members: int) -> tuple[str, list[Client]]:
    """A room with that many local members, the first of whom made it."""
    prefix = f"member{next(_numbers)}x"

    async def one(number: int) -> Client:
        return await register(http, server, f"{prefix}{number}")

    clients = [client for client in await many(members, one, "accounts") if isinstance(client, Client)]
    room = await clients[0].create_room(preset="public_chat", name="crowd")
    await many(members - 1, lambda number: clients[number + 1].join(room), "joins")
    return room, clients


def sending(room: str) -> Callable[[int], tuple[str, str, bytes]]:
    at = f"/_matrix/client/v3/rooms/{quote(room, safe='')}/send/m.room.message"
    prefix = f"{next(_numbers)}-{time.time_ns()}"

    def make(number: int) -> tuple[str, str, bytes]:
        body = json.dumps({"msgtype": "m.text", "body": f"message {number}"}).encode()
        return "PUT", f"{at}/{prefix}-{number}", body

    return make


async def _or_failure(what: Awaitable[object], tasks: Sequence[asyncio.Task[None]]) -> None:
    """Wait for something that does not come if one of the tasks fails. Raises what it failed with."""
    awaited = asyncio.ensure_future(what)
    await asyncio.wait({awaited, *tasks}, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        if task.done():
            task.result()
    await awaited


async def delivery(
    server: Homeserver, room: str, clients: Sequence[Client], receivers: int, way: Way
) -> Figures:
    """Some who wait, and one who speaks: from the send to each receiver's answer."""
    port = server.plain_port
    delays: list[float] = []
    ended = asyncio.Event()
    ready = asyncio.Semaphore(0)

    async def receive(client: Client) -> None:
        connection, place = await load.connect(port), way()
        _, body = await connection.request(place.request(port, headers(client)))
        place.take(body)
        ready.release()
        try:
            while not ended.is_set():
                status, body = await connection.request(place.request(port, headers(client)))
                now = time.perf_counter()
                if status != 200:
                    raise RuntimeError(f"{status} {body[:200]!r}")
                delays.extend(now - float(mark) for mark in _MARK.findall(body))
                place.take(body)
        finally:
            connection.close()

    waiting = [asyncio.create_task(receive(client)) for client in clients[1 : receivers + 1]]
    for _ in waiting:
        await _or_failure(ready.acquire(), waiting)
    await machine.quiet([server.process.pid])
    before, started = machine.cpu_seconds(server.process.pid), time.perf_counter()
    connection, make = await load.connect(port), sending(room)
    count = 0
    for number in range(int(RATE * SPEAKING_SECONDS)):
        if time.perf_counter() - started > SLOWEST * SPEAKING_SECONDS:
            # The server does not keep up: what it has taken so far is what is measured.
            break
        count += 1
        await asyncio.sleep(max(0.0, started + number / RATE - time.perf_counter()))
        method, path, _ = make(number)
        body = json.dumps({"msgtype": "m.text", "body": f"mark {time.perf_counter():.6f}"}).encode()
        await connection.request(load.request_bytes(method, path, port, headers(clients[0]), body))
    spoken = time.perf_counter() - started
    deadline = time.perf_counter() + LAST_WITHIN
    while len(delays) < count * receivers and time.perf_counter() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    cpu = machine.cpu_seconds(server.process.pid) - before
    memory = machine.memory_mib(server.process.pid)
    ended.set()
    await connection.request(load.request_bytes(*make(-1)[:2], port, headers(clients[0]), make(-1)[2]))
    await asyncio.gather(*waiting)
    connection.close()
    note = f"{len(delays)} deliveries, {count / spoken:.1f} messages a second, {memory:.0f} MiB"
    what = f"a message to {receivers} who wait{way().title}, {RATE} a second"
    return Figures(what, server.software, 1000 * cpu / len(delays), delays, note)


async def sliding(server: Homeserver, http: aiohttp.ClientSession, rooms: int) -> list[Figures]:
    """One account in thousands of rooms, by sliding sync: the first answer, one with news, an idle one."""
    client = await register(http, server, f"slider{next(_numbers)}")
    other = await register(http, server, f"other{next(_numbers)}")

    async def one(number: int) -> str:
        room: str = await other.create_room(name=f"room {number}", preset="public_chat")
        await client.join(room)
        return room

    made = [str(room) for room in await many(rooms, one, "rooms")]
    memory = machine.memory_mib(server.process.pid)
    body = json.dumps(
        {
            "lists": {
                "all": {
                    "ranges": [[0, 19]], "timeline_limit": 10,
                    "required_state": [["m.room.name", ""], ["m.room.member", "$LAZY"]],
                }
            },
            "extensions": {name: {"enabled": True} for name in ("to_device", "account_data", "receipts")},
        }
    ).encode()  # fmt: skip
    first = await timed(f"sliding sync, first answer, {rooms} rooms", server, [client],
                        lambda n: ("POST", f"{SLIDING}?n={n}", body))  # fmt: skip
    connection = await load.connect(server.plain_port)
    raw = load.request_bytes("POST", SLIDING, server.plain_port, headers(client), body)
    pos = str(json.loads((await connection.request(raw))[1])["pos"])
    latencies: list[float] = []
    idle: list[float] = []
    before = machine.cpu_seconds(server.process.pid)
    for number in range(200):
        for news in (True, False):
            if news:
                await other.send(made[number % len(made)], "news")
            path = f"{SLIDING}?pos={quote(pos, safe='')}"
            raw = load.request_bytes("POST", path, server.plain_port, headers(client), body)
            started = time.perf_counter()
            status, answer = await connection.request(raw)
            (latencies if news else idle).append(time.perf_counter() - started)
            if status != 200:
                raise RuntimeError(f"{status} {answer[:200]!r}")
            pos = json.loads(answer)["pos"]
    cpu = machine.cpu_seconds(server.process.pid) - before
    connection.close()
    now = machine.memory_mib(server.process.pid)
    first.note = f"{memory:.0f} MiB before, {now:.0f} MiB after"
    each = "CPU with that of the send and of the idle one"
    return [
        first,
        Figures(
            f"sliding sync, a room's news, {rooms} rooms", server.software, 1000 * cpu / 200, latencies, each
        ),
        Figures(f"sliding sync, nothing new, {rooms} rooms", server.software, 0.0, idle),
    ]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.rooms", description=__doc__)
    parser.add_argument(
        "--servers", default="comity,synapse", help="which; the first is compared with others"
    )
    parser.add_argument("--rooms", type=int, default=500, help="rooms of the account that reads")
    parser.add_argument("--messages", type=int, default=1000, help="events of a page of history")
    parser.add_argument("--members", type=int, default=2000, help="local members of the room that is sent to")
    parser.add_argument("--receivers", default="200,1000", help="how many of them wait in /sync")
    parser.add_argument("--sliding", type=int, default=5000, help="rooms of a sliding sync (0: not measured)")
    parser.add_argument("--sliding-servers", default="comity", help="on which servers that is measured")
    parser.add_argument("--profile", type=Path, help="run comity under cProfile and write its profile here")
    parser.add_argument(
        "--only", default="reading,sending,delivery,sliding-delivery,sliding", help="which parts"
    )
    return parser.parse_args()


async def measure(
    server: Homeserver, http: aiohttp.ClientSession, options: argparse.Namespace
) -> AsyncIterator[Figures]:
    parts = options.only.split(",")
    if "reading" in parts:
        for figures in await reading(server, http, options.rooms, options.messages):
            yield figures
    ways = [way for part, way in WAYS.items() if part in parts]
    if "sending" in parts or ways:
        room, clients = await crowd(server, http, options.members)
        if "sending" in parts:
            yield await timed(f"a send in a room of {options.members}", server, clients[:1], sending(room))
        for way in ways:
            for receivers in map(int, options.receivers.split(",")):
                yield await delivery(server, room, clients, receivers, way)
    if "sliding" in parts and options.sliding and server.software in options.sliding_servers.split(","):
        for figures in await sliding(server, http, options.sliding):
            yield figures


async def compare(names: list[str], directory: Path, options: argparse.Namespace) -> None:
    authority = create_authority(directory / "authority")
    found: dict[str, list[Figures]] = {}
    async with AsyncExitStack() as stack:
        connector = aiohttp.TCPConnector(ssl=authority.client_context(), limit=0)
        http = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        for name in names:
            # One after the other, so that neither takes the other's CPU.
            server = make_server(name, directory / name, authority, plain=True)
            if name == "comity" and options.profile:
                server.process.run_under("-m", "cProfile", "-o", str(options.profile.absolute()))
            await asyncio.to_thread(server.process.start)
            try:
                machine.pin(server.process.pid, {0})
                async for figures in measure(server, http, options):
                    found.setdefault(figures.what, []).append(figures)
                    line = f"{figures.server}: {figures.what}: {figures.cpu_ms:.3f} ms of CPU, "
                    print(f"{line}95 % {figures.ms(0.95)} ms; {figures.note}", file=sys.stderr, flush=True)
            finally:
                await asyncio.to_thread(server.process.stop)
    print(table(found))


def table(found: dict[str, list[Figures]]) -> str:
    lines = [
        "| measure | server | CPU ms each | ratio | median ms | 95 % | 99 % | |",
        "|---|---|--:|--:|--:|--:|--:|---|",
    ]
    for what, listed in found.items():
        for figures in listed:
            ratio = (
                figures.cpu_ms / listed[0].cpu_ms if listed[0].cpu_ms and figures is not listed[0] else 0.0
            )
            lines.append(
                f"| {what} | {figures.server} | {figures.cpu_ms:.3f} | {f'{ratio:.0f}x' if ratio else ''} | "
                f"{figures.ms(0.5)} | {figures.ms(0.95)} | {figures.ms(0.99)} | {figures.note} |"
            )
    return "\n".join(lines)


def main() -> int:
    options = arguments()
    names = options.servers.split(",")
    for name in names:
        reason = missing(name)
        if reason is not None:
            print(reason, file=sys.stderr)
            return 1
    machine.pin(0, {1})
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        print(f"{machine.describe(Path(folder))}\n")
        uvloop.run(compare(names, Path(folder), options))
    return 0


if __name__ == "__main__":
    sys.exit(main())
