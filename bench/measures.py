"""What is measured: sends by local users, and events taken in from another server.

Owns the workloads. Each measure prepares everything first (rooms, users, signed events,
requests as bytes) and then times only what the server does.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import quote

import aiohttp

from bench import load, machine
from tests.interop import wire
from tests.interop.client import Client, register
from tests.interop.peer import Peer, uri
from tests.interop.servers import Homeserver

_names = itertools.count(1)

#: Rooms of the user who reads, and messages in each.
READ_ROOMS, READ_MESSAGES = 10, 20
#: How long the events taken in may take to be visible.
VISIBLE_WITHIN = 300.0
#: Between two looks at whether the last event is visible: 1 % of the shortest run.
LOOK_EVERY = 0.02


@dataclass
class Result:
    """One measurement: operations per second, latencies in ms, the server's CPU ms per operation."""

    rate: float
    median_ms: float
    slow_ms: float
    cpu_ms: float


@dataclass
class Subject:
    """A running server under load, with the peer that sends to it."""

    #: The name in the table: the software, and the engine if that is not a file.
    name: str
    server: Homeserver
    http: aiohttp.ClientSession
    peer: Peer
    #: A user with rooms, and a token from before the last messages in them; made when it is first needed.
    reader: tuple[Client, str] | None = None


Measure = Callable[[Subject], Awaitable[Result]]


async def _user(subject: Subject) -> Client:
    return await register(subject.http, subject.server, f"bench{next(_names)}x{time.time_ns() % 100_000}")


def _result(subject: Subject, timing: load.Timing, operations: int, cpu: float, seconds: float) -> Result:
    return Result(
        rate=operations / seconds,
        median_ms=1000 * timing.percentile(0.5),
        slow_ms=1000 * timing.percentile(0.99),
        cpu_ms=1000 * cpu / operations,
    )


def _has_event_id(status: int, body: bytes) -> bool:
    return status == 200 and b"event_id" in body


def sends(concurrency: int, seconds: float) -> Measure:
    """Messages of one user into one room, `concurrency` at a time, for `seconds`."""

    async def measure(subject: Subject) -> Result:
        client = await _user(subject)
        room = await client.create_room()
        port = subject.server.plain_port
        at = f"/_matrix/client/v3/rooms/{quote(room, safe='')}/send/m.room.message"
        headers = {"Authorization": f"Bearer {client.token}", "Content-Type": "application/json"}
        prefix = f"{next(_names)}-{time.time_ns()}"

        def make(number: int) -> bytes:
            body = b'{"msgtype":"m.text","body":"message %d of a benchmark"}' % number
            return load.request_bytes("PUT", f"{at}/{prefix}-{number}", port, headers, body)

        await load.run(port, (make(-n) for n in range(1, 2 * concurrency + 1)), concurrency, _has_event_id)
        before = machine.cpu_seconds(subject.server.process.pid)
        timing = await load.run_for(port, make, concurrency, seconds, _has_event_id)
        cpu = machine.cpu_seconds(subject.server.process.pid) - before
        return _result(subject, timing, timing.count, cpu, timing.seconds)

    return measure


def intake(per_transaction: int, transactions: dict[str, int]) -> Measure:
    """Events of a peer in one room, one transaction after the other, `transactions[software]` of them.

    The clock stops when the last event is visible to a client: a server may answer before
    it has taken in what it was sent.
    """

    async def measure(subject: Subject) -> Result:
        server, peer = subject.server, subject.peer
        client = await _user(subject)
        room_id = await client.create_room()
        sender = peer.user("mallory")
        room = await peer.join(server.name, room_id, sender)
        count = transactions[server.software]
        requests, last = [], ""
        for number in range(count):
            events = []
            for index in range(per_transaction):
                text = f"message {number}.{index} of a benchmark"
                events.append(peer.signer.sign_event(room.message(sender, text), room.version))
                last = room.add(events[-1])
            requests.append(_transaction(subject, events))
        port = server.plain_port
        await load.run(port, iter([_transaction(subject, [])]), 1, _all_taken)
        before = machine.cpu_seconds(server.process.pid)
        started = time.perf_counter()
        timing = await load.run(port, iter(requests), 1, _all_taken)
        await _visible(client, room_id, last)
        elapsed = time.perf_counter() - started
        cpu = machine.cpu_seconds(server.process.pid) - before
        return _result(subject, timing, count * per_transaction, cpu, elapsed)

    return measure


async def _reader(subject: Subject) -> tuple[Client, str]:
    """A user in some rooms in which something was said before and after a token."""
    if subject.reader is None:
        client = await _user(subject)
        rooms = [await client.create_room() for _ in range(READ_ROOMS)]
        for number in range(READ_MESSAGES):
            for room in rooms:
                await client.send(room, f"message {number} of many")
        since = str((await client.sync())["next_batch"])
        for room in rooms:
            await client.send(room, "news")
        subject.reader = client, since
    return subject.reader


def syncs(seconds: float, *, initial: bool) -> Measure:
    """/sync of one user in READ_ROOMS rooms, one after the other: everything, or one event in each room."""

    async def measure(subject: Subject) -> Result:
        client, since = await _reader(subject)
        port = subject.server.plain_port
        headers = {"Authorization": f"Bearer {client.token}"}

        def make(number: int) -> bytes:
            # Never the same request twice: an answer may be remembered.
            query = f"timeout={next(_names)}" + ("" if initial else f"&since={quote(since, safe='')}")
            return load.request_bytes("GET", f"/_matrix/client/v3/sync?{query}", port, headers)

        await load.run(port, (make(n) for n in range(3)), 1, _has_rooms)
        before = machine.cpu_seconds(subject.server.process.pid)
        timing = await load.run_for(port, make, 1, seconds, _has_rooms)
        cpu = machine.cpu_seconds(subject.server.process.pid) - before
        return _result(subject, timing, timing.count, cpu, timing.seconds)

    return measure


def _has_rooms(status: int, body: bytes) -> bool:
    return status == 200 and len(json.loads(body)["rooms"]["join"]) == READ_ROOMS


def _transaction(subject: Subject, events: list[wire.Json]) -> bytes:
    peer, server = subject.peer, subject.server
    at = uri("send", f"{next(_names)}-{time.time_ns()}")
    content = peer.transaction(events)
    headers = {
        "Authorization": peer.authorization("PUT", at, server.name, content),
        "Content-Type": "application/json",
    }
    return load.request_bytes("PUT", at, server.plain_port, headers, wire.canonical(content))


def _all_taken(status: int, body: bytes) -> bool:
    return status == 200 and not any(result for result in json.loads(body)["pdus"].values())


async def _visible(client: Client, room_id: str, event_id: str) -> None:
    port = client.server.plain_port
    path = f"/_matrix/client/v3/rooms/{quote(room_id, safe='')}/event/{quote(event_id, safe='')}"
    raw = load.request_bytes("GET", path, port, {"Authorization": f"Bearer {client.token}"})
    connection = await load.connect(port)
    deadline = time.perf_counter() + VISIBLE_WITHIN
    try:
        while (await connection.request(raw))[0] != 200:
            if time.perf_counter() > deadline:
                raise RuntimeError(f"{event_id} was never taken in")
            await asyncio.sleep(LOOK_EVERY)
    finally:
        connection.close()
