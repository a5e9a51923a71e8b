"""`python -m bench.joining`: joining a room of very many members, comity and Synapse side by side.

The resident is a replayed answer: a peer with a certificate that the servers trust, which holds a room of
N members on M servers (all signed), gives it whole or without members, and is the notary for those servers.
Told: seconds from the join to the first message that was sent, to all members, and memory.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import aiohttp
import orjson
import uvloop
from aiohttp import web

from bench import machine
from comity.protocol.build import Draft, Reference, build, reference_to
from comity.protocol.event import Event
from comity.protocol.room_versions import ROOM_VERSIONS
from comity.protocol.signing import SigningKey, build_key_document, sign_json
from tests.interop.authority import Authority, create_authority
from tests.interop.client import Client, register
from tests.interop.process import free_port
from tests.interop.servers import Homeserver, make_server

VERSION = ROOM_VERSIONS["10"]
#: An answer must hold for a server that asks until a week from now.
VALID_MS = 7 * 24 * 3_600_000
#: Seconds after which a server that has not all members is given up.
PATIENCE = 900.0


def key_for(number: int) -> SigningKey:
    return SigningKey("1", number.to_bytes(32, "big"))


@dataclass
class Resident:
    """The room, and who is in it."""

    name: str
    members: int
    servers: int
    state: list[Event] = field(default_factory=list)
    by_id: dict[str, Event] = field(default_factory=dict)
    sent: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.keys = {f"server{number}.example": key_for(number + 2) for number in range(self.servers)}
        self.keys[self.name] = key_for(1)
        self.room_id = f"!large:{self.name}"
        self.alice = f"@alice:{self.name}"
        self.now = int(time.time() * 1000) - 3_600_000
        create = self.add(self.alice, "m.room.create", {"room_version": "10", "creator": self.alice}, "")
        first = self.add(self.alice, "m.room.member", {"membership": "join"}, self.alice, create)
        levels = self.add(self.alice, "m.room.power_levels", {"users": {self.alice: 100}}, "", create, first)
        rules = self.add(self.alice, "m.room.join_rules", {"join_rule": "public"}, "", create, levels, first)
        shown = {"history_visibility": "shared"}
        self.add(self.alice, "m.room.history_visibility", shown, "", create, levels, first)
        self.add(self.alice, "m.room.name", {"name": "A large room"}, "", create, levels, first)
        self.auth = (create, levels, rules)
        #: A notary has the keys of a large room's servers at hand: to sign them takes none of the time.
        self.signed: dict[str, dict[str, Any]] = {}
        self.documents(list(self.keys))
        names = [name for name in self.keys if name != self.name]
        for number in range(self.members - 1):
            user = f"@member{number}:{names[number % len(names)]}"
            content = {"membership": "join", "displayname": f"Member {number}"}
            self.add(user, "m.room.member", content, user, *self.auth)

    def add(self, sender: str, kind: str, content: dict[str, Any], state_key: str, *auth: Event) -> Event:
        server = sender.partition(":")[2]
        prev: list[Reference] = [reference_to(self.state[-1])] if self.state else []
        self.now += 10
        event = build(
            Draft(kind, sender, content, state_key=state_key),
            version=VERSION,
            room_id=self.room_id,
            prev=prev,
            auth=[reference_to(item) for item in auth],
            now_ms=self.now,
            server=server,
            key=self.keys[server],
            assigned_id="",
        )
        self.state.append(event)
        self.by_id[event.event_id] = event
        return event

    # -- answers

    def documents(self, wanted: list[str]) -> list[dict[str, Any]]:
        valid_until = int(time.time() * 1000) + VALID_MS
        own = self.keys[self.name]
        for name in wanted:
            if name in self.keys and name not in self.signed:
                document = build_key_document(name, [self.keys[name]], {}, valid_until)
                self.signed[name] = sign_json(document, self.name, own)
        return [self.signed[name] for name in wanted if name in self.signed]

    def make_join(self, user_id: str) -> dict[str, Any]:
        last = self.state[-1]
        event = {
            "type": "m.room.member", "room_id": self.room_id, "sender": user_id, "state_key": user_id,
            "content": {"membership": "join"}, "depth": last.depth + 1, "origin_server_ts": self.now,
            "prev_events": [last.event_id], "auth_events": [item.event_id for item in self.auth],
            "origin": user_id.partition(":")[2],
        }  # fmt: skip
        return {"room_version": "10", "event": event}

    def joined(self, body: bytes, *, omit: bool) -> bytes:
        state = [event for event in self.state if not omit or event.type != "m.room.member"]
        chain = [event for event in self.state[:4] if event not in state or not omit]
        return b"".join(
            (
                b'{"origin":', orjson.dumps(self.name), b',"members_omitted":', b"true" if omit else b"false",
                b',"servers_in_room":', orjson.dumps(list(self.keys)), b',"event":', body,
                b',"state":[', b",".join(event.encoded for event in state),
                b'],"auth_chain":[', b",".join(event.encoded for event in chain), b"]}",
            )
        )  # fmt: skip

    def whole(self) -> bytes:
        pdus = b",".join(event.encoded for event in self.state)
        chain = b",".join(event.encoded for event in self.state[:4])
        return b'{"pdus":[' + pdus + b'],"auth_chain":[' + chain + b"]}"

    async def answer(self, request: web.Request) -> web.StreamResponse:
        parts = [unquote(part) for part in request.raw_path.partition("?")[0].split("/")[3:]]
        body = await request.read()
        match [request.method, *parts]:
            case ["GET", "v2", "server", *_]:
                return web.json_response(self.documents([self.name])[0])
            case ["POST", "v2", "query"]:
                wanted = list(orjson.loads(body)["server_keys"])
                return web.json_response({"server_keys": self.documents(wanted)})
            case ["GET", "v1", "version"]:
                return web.json_response({"server": {"name": "replay", "version": "1"}})
            case ["GET", "v1", "make_join", _, user_id]:
                return web.json_response(self.make_join(user_id))
            case ["PUT", "v2", "send_join", *_]:
                omit = request.query.get("omit_members") == "true" or (
                    request.query.get("org.matrix.msc3706.partial_state") == "true"
                )
                return self._json(self.joined(body, omit=omit))
            case ["GET", "v1", "state", *_]:
                return self._json(self.whole())
            case ["GET", "v1", "state_ids", *_]:
                ids = [event.event_id for event in self.state]
                return web.json_response({"pdu_ids": ids, "auth_chain_ids": ids[:4]})
            case ["GET", "v1", "event", event_id] if event_id in self.by_id:
                pdu = self.by_id[event_id].encoded
                return self._json(b'{"origin":"x","origin_server_ts":1,"pdus":[' + pdu + b"]}")
            case ["PUT", "v1", "send", *_]:
                self.sent.extend(pdu.get("type", "") for pdu in orjson.loads(body).get("pdus", []))
                return web.json_response({"pdus": {}})
        return web.json_response({"errcode": "M_NOT_FOUND", "error": "not replayed"}, status=404)

    @staticmethod
    def _json(data: bytes) -> web.Response:
        return web.Response(body=data, content_type="application/json")


@asynccontextmanager
async def serve(resident: Resident, port: int, authority: Authority) -> AsyncIterator[None]:
    app = web.Application(client_max_size=1 << 26)
    app.router.add_route("*", "/{path:.*}", resident.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, ssl_context=authority.server_context()).start()
    try:
        yield
    finally:
        await runner.cleanup()


def trust(server: Homeserver, resident: Resident) -> None:
    """Have the server ask the resident for the keys of the others."""
    comity, synapse = server.directory / "comity.toml", server.directory / "homeserver.yaml"
    if comity.exists():
        text = comity.read_text().replace(
            "trusted_key_servers = []", f'trusted_key_servers = ["{resident.name}"]'
        )
        assert resident.name in text
        comity.write_text(text)
        return
    settings = orjson.loads(synapse.read_text())
    key = resident.keys[resident.name]
    settings["trusted_key_servers"] = [
        {"server_name": resident.name, "verify_keys": {key.key_id: key.public}}
    ]
    synapse.write_bytes(orjson.dumps(settings))


def peak_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


async def measure(
    http: aiohttp.ClientSession, server: Homeserver, resident: Resident, *, kill: bool
) -> tuple[float, float, float, float, float, float]:
    """(seconds to the first message, to all members, MiB before, MiB at most, its CPU seconds, ours)."""
    client = await register(http, server, "bob")
    before = machine.memory_mib(server.process.pid)
    used, ours = machine.cpu_seconds(server.process.pid), time.process_time()
    began = time.perf_counter()
    await client.call("POST", "join", resident.room_id, body={}, query={"server_name": resident.name})
    await client.send(resident.room_id, "hello")
    first = time.perf_counter() - began
    if kill:
        await asyncio.to_thread(server.process.kill)
        await asyncio.to_thread(server.process.start)
    while True:
        count = await members(client, resident.room_id)
        whole = time.perf_counter() - began
        if count == resident.members + 1:
            break
        if whole > PATIENCE:
            print(f"{server.software}: only {count} members after {whole:.0f} s", file=sys.stderr)
            break
        await asyncio.sleep(0.05)
    used = machine.cpu_seconds(server.process.pid) - (0 if kill else used)
    return first, whole, before, peak_mib(server.process.pid), used, time.process_time() - ours


async def members(client: Client, room_id: str) -> int:
    answer = await client.call("GET", "rooms", room_id, "joined_members")
    return len(answer["joined"])


async def main(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="comity-joining-") as name:
        folder = Path(name)
        authority = create_authority(folder / "authority")
        port = free_port()
        began = time.perf_counter()
        resident = Resident(f"localhost:{port}", options.members, options.servers)
        size = sum(len(event.encoded) for event in resident.state) / 1e6
        print(f"a room of {options.members:,} members on {options.servers} servers, {size:.1f} MB "
              f"(made in {time.perf_counter() - began:.0f} s)")  # fmt: skip
        connector = aiohttp.TCPConnector(ssl=authority.client_context(), limit=0)
        results = {}
        async with aiohttp.ClientSession(connector=connector) as http, serve(resident, port, authority):
            for software in options.software.split(","):
                server = make_server(software, folder / software, authority, plain=True)
                trust(server, resident)
                await asyncio.to_thread(server.process.start)
                try:
                    results[software] = await measure(http, server, resident, kill=options.kill)
                finally:
                    # One of them ends only when it has given up all 500 servers.
                    await asyncio.to_thread(server.process.kill)
                first, whole, before, peak, used, ours = results[software]
                arrived = resident.sent.count("m.room.message")
                resident.sent.clear()
                print(f"{software:8} first message {first:7.2f} s, all members {whole:7.2f} s, "
                      f"{before:.0f} -> at most {peak:.0f} MiB, the message came {arrived} times; "
                      f"processor: {used:.1f} s, the resident {ours:.1f} s", flush=True)  # fmt: skip
        if len(results) == 2:
            comity, synapse = results["comity"], results["synapse"]
            print(f"ratio    first message {synapse[0] / comity[0]:.1f}x, "
                  f"all members {synapse[1] / comity[1]:.1f}x")  # fmt: skip


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.joining", description=__doc__)
    parser.add_argument("--members", type=int, default=10_000)
    parser.add_argument("--servers", type=int, default=500)
    parser.add_argument(
        "--kill", action="store_true", help="SIGKILL and start again once the first message is acknowledged"
    )
    parser.add_argument("--software", default="comity,synapse")
    return parser.parse_args()


if __name__ == "__main__":
    uvloop.run(main(arguments()))
