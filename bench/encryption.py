"""`python -m bench.encryption`: what end-to-end encryption asks of a server, beside Synapse.

Owns the workloads of keys and of messages from device to device; each server is set up in the same
way and measured in the same run, on one CPU, the load on the other. Keys are of the right shape and
length; only what a server verifies (cross-signing) is really signed.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import itertools
import json
import random
import re
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import nacl.signing
import uvloop

from bench import load, machine
from bench.rooms import Figures, headers, many, table, timed
from tests.interop import wire
from tests.interop.authority import create_authority
from tests.interop.client import Client, login, register
from tests.interop.servers import Homeserver, make_server, missing

#: How long each kind of request is timed (s).
SECONDS = 5.0
#: One-time keys that each device has: more than are claimed of it.
STOCK = 40
#: Devices that one claim, and one sending of room keys, is for: a room of some size.
ROOM_DEVICES = 100
#: Requests at a time where they are many.
CROWD = 32
#: Messages sent and received one by one.
TALK = 500
ALGORITHM = "signed_curve25519"
#: Bytes of an encrypted room key, about, in base64.
CIPHERTEXT = 900
_numbers = itertools.count(1)
_NEXT = re.compile(rb'"next_batch":\s?"([^"]+)"')
_MESSAGE = re.compile(rb'"type":\s?"m\.room\.encrypted"')
_chance = random.Random(1)


@dataclass(frozen=True)
class Crowd:
    """Local users whose devices all have keys: user id -> their devices, each logged in."""

    users: dict[str, list[Client]]

    def devices(self) -> list[Client]:
        return [client for clients in self.users.values() for client in clients]


def _base64(count: int) -> str:
    return base64.b64encode(_chance.randbytes(count)).decode().rstrip("=")


def _signature(client: Client) -> dict[str, dict[str, str]]:
    return {client.user_id: {f"ed25519:{client.device_id}": _base64(64)}}


def upload_body(client: Client, stock: int) -> dict[str, Any]:
    """Identity keys, one-time keys and a fallback key, as a client uploads them when it is new."""
    device = client.device_id
    algorithms = ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"]
    keys = {f"curve25519:{device}": _base64(32), f"ed25519:{device}": _base64(32)}

    def one(**more: bool) -> dict[str, Any]:
        return {"key": _base64(32), "signatures": _signature(client), **more}

    return {
        "device_keys": {
            "user_id": client.user_id, "device_id": device, "algorithms": algorithms, "keys": keys,
            "signatures": _signature(client),
        },
        "one_time_keys": {f"{ALGORITHM}:{_base64(8)}{n}": one() for n in range(stock)},
        "fallback_keys": {f"{ALGORITHM}:{_base64(8)}": one(fallback=True)},
    }  # fmt: skip


def cross_signing_body(user_id: str) -> dict[str, Any]:
    """The three keys of a user; the lower ones signed by the first."""
    master = nacl.signing.SigningKey(_chance.randbytes(32))

    def public(key: nacl.signing.SigningKey) -> str:
        return base64.b64encode(bytes(key.verify_key)).decode().rstrip("=")

    def key(usage: str, name: str) -> dict[str, Any]:
        return {"user_id": user_id, "usage": [usage], "keys": {f"ed25519:{name}": name}}

    body = {"master_key": key("master", public(master))}
    for usage in ("self_signing", "user_signing"):
        below = key(usage, public(nacl.signing.SigningKey(_chance.randbytes(32))))
        signature = base64.b64encode(master.sign(wire.canonical(below)).signature).decode().rstrip("=")
        below["signatures"] = {user_id: {f"ed25519:{public(master)}": signature}}
        body[f"{usage}_key"] = below
    return body


async def crowd(
    server: Homeserver, http: aiohttp.ClientSession, users: int, devices: int, stock: int
) -> Crowd:
    """That many users with that many devices each, all keys uploaded, and those for cross-signing."""
    prefix = f"keys{next(_numbers)}x"

    async def one(number: int) -> tuple[str, list[Client]]:
        name = f"{prefix}{number}"
        clients = [await register(http, server, name)]
        clients += [await login(http, server, name) for _ in range(devices - 1)]
        for client in clients:
            await client.call("POST", "keys", "upload", body=upload_body(client, stock))
        user_id = clients[0].user_id
        await clients[0].call("POST", "keys", "device_signing", "upload", body=cross_signing_body(user_id))
        return user_id, clients

    made = await many(users, one, f"users of {devices} devices")
    return Crowd(dict(item for item in made if isinstance(item, tuple)))


async def busy(
    what: str,
    server: Homeserver,
    client: Client,
    make: Callable[[int], tuple[str, str, bytes]],
    concurrency: int,
    each: int = 1,
) -> Figures:
    """Requests at a time for a while; CPU per thing done, of which a request does `each`."""
    port = server.plain_port

    def raw(number: int) -> bytes:
        method, path, body = make(number)
        return load.request_bytes(method, path, port, headers(client), body)

    await machine.quiet([server.process.pid])
    await load.run(port, (raw(-n) for n in range(1, 3)), 1, _is_ok)
    before = machine.cpu_seconds(server.process.pid)
    timing = await load.run_for(port, raw, concurrency, SECONDS, _is_ok)
    cpu = machine.cpu_seconds(server.process.pid) - before
    note = f"{each * timing.rate:.0f} a second"
    return Figures(what, server.software, 1000 * cpu / (timing.count * each), timing.latencies, note)


def _is_ok(status: int, _: bytes) -> bool:
    return status == 200


async def queries(server: Homeserver, asker: Client, few: Crowd, single: Crowd) -> AsyncIterator[Figures]:
    """Everybody's keys at once, as somebody asks who sends to a large encrypted room."""
    for people, title in ((few, "users with 10"), (single, "users with 1")):
        body = json.dumps({"device_keys": {user_id: [] for user_id in people.users}}).encode()
        devices = len(people.devices())
        what = f"/keys/query, {devices} devices, {len(people.users)} {title}"

        def ask(number: int, body: bytes = body) -> tuple[str, str, bytes]:
            return "POST", f"/_matrix/client/v3/keys/query?n={number}", body

        figures = await timed(what, server, [asker], ask)
        answer = await asker.call("POST", "keys", "query", body=json.loads(body))
        if sum(map(len, answer["device_keys"].values())) != devices:
            raise RuntimeError("not all devices were told")
        if len(answer["master_keys"]) != len(people.users):
            raise RuntimeError("not all master keys were told")
        yield figures


async def claims(server: Homeserver, asker: Client, few: Crowd, single: Crowd) -> AsyncIterator[Figures]:
    """Keys given out: of one device a request, one and many at a time; of a room's devices at once."""
    at = "/_matrix/client/v3/keys/claim"
    listed = few.devices()
    turn = itertools.count()

    def one(_: int) -> tuple[str, str, bytes]:
        client = listed[next(turn) % len(listed)]
        wanted = {client.user_id: {client.device_id: ALGORITHM}}
        return "POST", at, json.dumps({"one_time_keys": wanted}).encode()

    yield await busy("one-time key of one device, 1 at a time", server, asker, one, 1)
    yield await busy(f"one-time key of one device, {CROWD} at a time", server, asker, one, CROWD)
    others = single.devices()

    def room(_: int) -> tuple[str, str, bytes]:
        start = next(turn) * ROOM_DEVICES
        wanted = {
            others[(start + n) % len(others)].user_id: {
                others[(start + n) % len(others)].device_id: ALGORITHM
            }
            for n in range(ROOM_DEVICES)
        }
        return "POST", at, json.dumps({"one_time_keys": wanted}).encode()

    yield await busy(
        f"one-time key of each of {ROOM_DEVICES} devices a request", server, asker, room, 1, ROOM_DEVICES
    )


def _encrypted() -> dict[str, Any]:
    return {
        "algorithm": "m.olm.v1.curve25519-aes-sha2",
        "sender_key": _base64(32),
        "ciphertext": {_base64(32): {"type": 1, "body": _base64(CIPHERTEXT * 3 // 4)}},
    }


def sending(receivers: Sequence[Client]) -> Callable[[int], tuple[str, str, bytes]]:
    """Requests that send one message to each of these devices."""
    messages: dict[str, dict[str, Any]] = {}
    for client in receivers:
        messages.setdefault(client.user_id, {})[client.device_id] = _encrypted()
    body = json.dumps({"messages": messages}).encode()
    prefix = f"{next(_numbers)}-{time.time_ns()}"
    return lambda n: ("PUT", f"/_matrix/client/v3/sendToDevice/m.room.encrypted/{prefix}-{n}", body)


async def talk(server: Homeserver, sender: Client, receiver: Client) -> Figures:
    """One message after the other, each awaited in /sync by the one it is for."""
    port, make = server.plain_port, sending([receiver])
    listening, speaking = await load.connect(port), await load.connect(port)
    path = "/_matrix/client/v3/sync"
    _, body = await listening.request(load.request_bytes("GET", path, port, headers(receiver)))
    latencies: list[float] = []
    await machine.quiet([server.process.pid])
    before = machine.cpu_seconds(server.process.pid)
    for number in range(TALK):
        found = _NEXT.search(body)
        since = quote(found[1].decode() if found else "", safe="")
        at = f"{path}?since={since}&timeout=20000"
        waiting = asyncio.create_task(
            listening.request(load.request_bytes("GET", at, port, headers(receiver)))
        )
        await asyncio.sleep(0)
        started = time.perf_counter()
        method, to, message = make(number)
        status, _ = await speaking.request(load.request_bytes(method, to, port, headers(sender), message))
        answered, body = await waiting
        while answered == 200 and not _MESSAGE.search(body):
            # Woken by something else: it waits on.
            found = _NEXT.search(body)
            at = f"{path}?since={quote(found[1].decode() if found else '', safe='')}&timeout=20000"
            answered, body = await listening.request(load.request_bytes("GET", at, port, headers(receiver)))
        latencies.append(time.perf_counter() - started)
        if status != 200 or answered != 200:
            raise RuntimeError(f"{status} {answered}")
    cpu = machine.cpu_seconds(server.process.pid) - before
    listening.close()
    speaking.close()
    what = "a to-device message, sent and received by /sync"
    return Figures(what, server.software, 1000 * cpu / TALK, latencies)


async def backlog(server: Homeserver, senders: Sequence[Client], receiver: Client, count: int) -> Figures:
    """A device that was away: what waits for it, page after page, until there is no more."""
    port = server.plain_port
    shares = [(client, sending([receiver])) for client in senders]

    def requests() -> list[bytes]:
        made = []
        for number in range(count):
            client, make = shares[number % len(shares)]
            method, path, body = make(number)
            made.append(load.request_bytes(method, path, port, headers(client), body))
        return made

    await load.run(port, iter(requests()), CROWD, _is_ok)
    await machine.quiet([server.process.pid])
    connection = await load.connect(port)
    latencies: list[float] = []
    received, since = 0, ""
    before = machine.cpu_seconds(server.process.pid)
    while True:
        path = "/_matrix/client/v3/sync?timeout=0" + (f"&since={quote(since, safe='')}" if since else "")
        started = time.perf_counter()
        status, body = await connection.request(load.request_bytes("GET", path, port, headers(receiver)))
        if status != 200:
            raise RuntimeError(f"{status} {body[:300]!r}")
        got, found = len(_MESSAGE.findall(body)), _NEXT.search(body)
        if not got and received >= count:
            break
        latencies.append(time.perf_counter() - started)
        received, since = received + got, found[1].decode() if found else ""
    cpu = machine.cpu_seconds(server.process.pid) - before
    connection.close()
    if received != count:
        raise RuntimeError(f"{received} of {count} messages came")
    note = f"{len(latencies)} answers in {sum(latencies):.2f} s"
    what = f"each of {count} to-device messages that waited, by /sync"
    return Figures(what, server.software, 1000 * cpu / count, latencies, note)


async def measure(
    server: Homeserver, http: aiohttp.ClientSession, options: argparse.Namespace
) -> AsyncIterator[Figures]:
    parts = options.only.split(",")
    asker = await register(http, server, "asker")
    devices = 10
    few = await crowd(server, http, options.devices // devices, devices, STOCK)
    if "queries" in parts or "claims" in parts:
        single = await crowd(server, http, options.devices, 1, STOCK)
        if "queries" in parts:
            async for figures in queries(server, asker, few, single):
                yield figures
        if "claims" in parts:
            async for figures in claims(server, asker, few, single):
                yield figures
    listed = few.devices()
    if "to_device" in parts:
        # Never to one that is full: receivers take turns.
        yield await busy("a to-device message sent, 1 at a time", server, asker, _in_turn(listed), 1)
        yield await busy(
            f"a to-device message sent, {CROWD} at a time", server, asker, _in_turn(listed), CROWD
        )
        room = sending(listed[:ROOM_DEVICES])
        what = f"to-device messages to {ROOM_DEVICES} devices a request, each"
        yield await busy(what, server, asker, room, 1, ROOM_DEVICES)
        yield await talk(server, asker, await register(http, server, "listener"))
    if "backlog" in parts:
        yield await backlog(server, listed[:CROWD], await register(http, server, "away"), options.waiting)


def _in_turn(receivers: Sequence[Client]) -> Callable[[int], tuple[str, str, bytes]]:
    """One message a request, each to another device."""
    makers = [sending([client]) for client in receivers]
    return lambda n: makers[n % len(makers)](n)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.encryption", description=__doc__)
    parser.add_argument(
        "--servers", default="comity,synapse", help="which; the first is compared with others"
    )
    parser.add_argument("--devices", type=int, default=1000, help="devices that keys are asked of")
    parser.add_argument("--waiting", type=int, default=10_000, help="messages that wait for one device")
    parser.add_argument("--only", default="queries,claims,to_device,backlog", help="which parts")
    parser.add_argument("--profile", type=Path, help="run comity under cProfile and write its profile here")
    return parser.parse_args()


async def compare(names: list[str], directory: Path, options: argparse.Namespace) -> None:
    authority = create_authority(directory / "authority")
    found: dict[str, list[Figures]] = {}
    async with AsyncExitStack() as stack:
        connector = aiohttp.TCPConnector(ssl=authority.client_context(), limit=0)
        http = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        for name in names:
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
