"""`python -m bench.storm`: everybody logs in at once, and those who are logged in go on talking.

Owns a storm of logins by password at the default cost of a hash, from one address, and the paced requests
of others meanwhile: `GET /versions` and sends. What counts is how long those take, before and in the storm.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import uvloop

from bench import load, machine
from bench.rooms import headers, many, sending
from tests.interop.authority import create_authority
from tests.interop.client import PASSWORD, Client, register
from tests.interop.servers import Homeserver, make_server, missing

#: Users who talk, and requests of each kind a second, of all together.
TALKERS, RATE = 10, 40.0
#: How long is measured before the storm, and how long at most in it (s).
CALM_SECONDS, STORM_SECONDS = 5.0, 20.0
#: What is told to wait when an answer does not say.
DEFAULT_WAIT = 1.0
#: What the configurations for tests have for cheap hashes and no limits, and what stands there here.
CHEAP = {
    "comity": ("memory_kib = 8\niterations = 1\n", ""),
    "synapse": ('"bcrypt_rounds": 4', '"bcrypt_rounds": 12'),
}
FREE = ("[rate_limits]\nenabled = false\n", "[rate_limits]\nenabled = true\n")


@dataclass
class Seen:
    """What one run saw: latencies in s by kind, answers to logins by status."""

    calm: dict[str, list[float]] = field(default_factory=dict)
    storm: dict[str, list[float]] = field(default_factory=dict)
    logins: dict[int, int] = field(default_factory=dict)
    login_seconds: list[float] = field(default_factory=list)
    seconds: float = 0.0


async def paced(
    server: Homeserver, talkers: Sequence[Client], room: str, ended: asyncio.Event
) -> dict[str, list[float]]:
    """Requests at fixed times until `ended`, whatever the server does with the ones before: latencies."""
    port = server.plain_port
    found: dict[str, list[float]] = {"/versions": [], "sends": []}
    makers = [sending(room) for _ in talkers]
    under_way: set[asyncio.Task[None]] = set()
    idle: list[load.Connection] = []

    async def one(kind: str, due: float, raw: bytes) -> None:
        connection = idle.pop() if idle else await load.connect(port)
        status, body = await connection.request(raw)
        if status != 200:
            raise RuntimeError(f"{status} {body[:300]!r} to {raw[:200]!r}")
        found[kind].append(time.perf_counter() - due)
        idle.append(connection)

    started, number = time.perf_counter(), 0
    while not ended.is_set():
        due = started + number / RATE
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        talker = talkers[number % len(talkers)]
        method, path, body = makers[number % len(talkers)](number)
        for kind, raw in (
            ("/versions", load.request_bytes("GET", "/_matrix/client/versions", port, {})),
            ("sends", load.request_bytes(method, path, port, headers(talker), body)),
        ):
            task = asyncio.create_task(one(kind, due, raw))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        number += 1
    await asyncio.gather(*under_way)
    for connection in idle:
        connection.close()
    return found


async def log_in(server: Homeserver, name: str, seen: Seen, until: float) -> None:
    """One who logs in, and comes again when told to, as clients do."""
    body = {
        "type": "m.login.password", "identifier": {"type": "m.id.user", "user": name}, "password": PASSWORD,
    }  # fmt: skip
    raw = load.request_bytes(
        "POST", "/_matrix/client/v3/login", server.plain_port, {"Content-Type": "application/json"},
        json.dumps(body).encode(),
    )  # fmt: skip
    connection, began = await load.connect(server.plain_port), time.perf_counter()
    while True:
        status, answer = await connection.request(raw)
        seen.logins[status] = seen.logins.get(status, 0) + 1
        if status == 200:
            seen.login_seconds.append(time.perf_counter() - began)
        wait = DEFAULT_WAIT if status == 200 else json.loads(answer).get("retry_after_ms", 1000) / 1000
        if status == 200 or time.perf_counter() + wait > until:
            break
        await asyncio.sleep(wait)
    connection.close()


async def measure(server: Homeserver, logins: int) -> Seen:
    """One server: calm, then the storm."""
    seen = Seen()
    connector = aiohttp.TCPConnector(ssl=server.authority.client_context(), limit=0)
    async with aiohttp.ClientSession(connector=connector) as http:
        talkers = [await register(http, server, f"talker{number}") for number in range(TALKERS)]
        room = await talkers[0].create_room(preset="public_chat")
        for talker in talkers[1:]:
            await talker.join(room)
        await many(logins, lambda n: register(http, server, f"sleeper{n}"), "accounts")
    await machine.quiet([server.process.pid])
    ended = asyncio.Event()
    asyncio.get_running_loop().call_later(CALM_SECONDS, ended.set)
    seen.calm = await paced(server, talkers, room, ended)
    ended = asyncio.Event()
    talking = asyncio.create_task(paced(server, talkers, room, ended))
    await asyncio.sleep(0.2)
    started = time.perf_counter()
    until = started + STORM_SECONDS
    await asyncio.gather(*(log_in(server, f"sleeper{n}", seen, until) for n in range(logins)))
    seen.seconds = time.perf_counter() - started
    ended.set()
    seen.storm = await talking
    return seen


def prepared(name: str, directory: Path, *, limits: bool) -> Homeserver:
    """A server with its default cost of a hash; comity with its default limits, if they are wanted."""
    authority = create_authority(directory.with_name(directory.name + "-authority"))
    server = make_server(name, directory, authority, plain=True)
    file = directory / ("comity.toml" if name == "comity" else "homeserver.yaml")
    text = file.read_text()
    changes = [CHEAP[name]] + ([FREE] if limits else [])
    for old, new in changes:
        if old not in text:
            raise RuntimeError(f"{file.name} does not say {old!r}")
        text = text.replace(old, new)
    file.write_text(text)
    return server


def lines(what: str, seen: Seen) -> list[str]:
    """Lines of the table."""
    made = []
    for kind in seen.calm:
        calm, storm = (load.Timing(1, times[kind]) for times in (seen.calm, seen.storm))
        cells = [f"{1000 * of.percentile(share):.0f}" for of in (calm, storm) for share in (0.5, 0.95, 0.99)]
        made.append(f"| {what} | {kind} | " + " | ".join(cells) + " |")
    answers = ", ".join(f"{count}x {status}" for status, count in sorted(seen.logins.items()))
    longest = max(seen.login_seconds, default=0.0)
    made.append(f"\n{what}: {answers} to logins in {seen.seconds:.1f} s, the longest took {longest:.1f} s\n")
    return made


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.storm", description=__doc__)
    parser.add_argument(
        "--servers", default="comity,comity-free", help="which; -free without limits, synapse is always"
    )
    parser.add_argument("--logins", type=int, default=200, help="logins at once")
    parser.add_argument("--cpus", default="0", help='CPUs for the server; "" leaves it and the load free')
    return parser.parse_args()


async def compare(names: list[str], folder: Path, options: argparse.Namespace) -> None:
    print("| server | | calm: median ms | 95 % | 99 % | storm: median ms | 95 % | 99 % |")
    print("|---|---|--:|--:|--:|--:|--:|--:|")
    for name in names:
        software, _, free = name.partition("-")
        server = prepared(software, folder / name, limits=software == "comity" and not free)
        await asyncio.to_thread(server.process.start)
        try:
            if options.cpus:
                machine.pin(server.process.pid, {int(cpu) for cpu in options.cpus.split(",")})
            print("\n".join(lines(name, await measure(server, options.logins))), flush=True)
        finally:
            await asyncio.to_thread(server.process.stop)


def main() -> int:
    options = arguments()
    names = options.servers.split(",")
    for name in names:
        reason = missing(name.partition("-")[0])
        if reason is not None:
            print(reason, file=sys.stderr)
            return 1
    if options.cpus:
        machine.pin(0, {1})
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        print(f"{machine.describe(Path(folder))}\n")
        uvloop.run(compare(names, Path(folder), options))
    return 0


if __name__ == "__main__":
    sys.exit(main())
