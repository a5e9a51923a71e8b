"""`python -m bench.delivery`: a message to thousands of servers, some dead, some slow.

One peer process answers for all of them, on addresses of loopback (each its own server name). Told: rows per
message, seconds until those that live have it, the processor time of comity and of the peer in them, what the
dead get when they come back, and memory. Then it is killed while messages are on their way: a transaction
whose answer was not on disk comes again, by the same id, so that a server that has taken it knows it; no
event must come in a second one.

Before the first message it is quiet until no connection is kept any more, so that one pays for a TLS
handshake with every server, and the next ones for none. The certificate is as most servers have it (ECDSA
P-256); a handshake takes about twice as much of comity's time as of the peer's, which speaks as plain an HTTP
as can be. comity does not insist on the certificate, since none can name thousands of addresses, but its
chain is looked at all the same, at the same cost.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import multiprocessing
import sqlite3
import ssl
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

import aiohttp
import httptools
import orjson
import uvloop
from yarl import URL

from bench import machine
from comity.federation.client import path
from comity.net.client_pool import KEEPALIVE_SECONDS
from comity.protocol import canonical_json
from comity.protocol.build import Draft, Reference, build, reference_to
from comity.protocol.event import Event, parse
from comity.protocol.room_versions import ROOM_VERSIONS
from comity.protocol.signing import SigningKey, build_key_document, sign_request
from tests.interop.authority import Authority, create_authority
from tests.interop.client import register
from tests.interop.process import free_port
from tests.interop.servers import Homeserver, make_server

VERSION = ROOM_VERSIONS["10"]
SLOW_SECONDS = 5.0
TOGETHER = 50
#: Messages that are on their way when the server is killed.
BURST = 5
KEY = SigningKey("1", b"\x07" * 32)


def address(number: int) -> str:
    return f"127.{1 + number // 60_000}.{number // 250 % 240}.{number % 250 + 1}"


class Peer:
    """Answers for every server; who is slow is told to it."""

    def __init__(self, slow: set[str]) -> None:
        self.slow = slow
        #: body of a message -> server -> (when it came first, the ids of the transactions it came in)
        self.came: dict[str, dict[str, tuple[float, list[str]]]] = {}

    def answer(self, name: str, method: str, path: str, body: bytes) -> tuple[int, Any, float]:
        """The status and the answer of a server, and after how many seconds it comes."""
        if "/key/v2/server" in path:
            valid_until = int(time.time() * 1000) + 86_400_000
            return 200, build_key_document(name, [KEY], {}, valid_until), 0
        if method == "PUT" and "/send/" in path:
            for pdu in orjson.loads(body)["pdus"]:
                text = str(pdu["content"].get("body", ""))
                _, ids = self.came.setdefault(text, {}).setdefault(name, (time.time(), []))
                ids.append(path.rpartition("/")[2])
            return 200, {"pdus": {}}, SLOW_SECONDS if name in self.slow else 0
        return 404, {"errcode": "M_NOT_FOUND", "error": "?"}, 0


class PeerConnection(asyncio.Protocol):
    """A connection to the peer, as plain as can be, its TLS too: what it takes is not comity's."""

    transport: asyncio.Transport

    def __init__(self, peer: Peer, context: ssl.SSLContext) -> None:
        self.peer = peer
        self.parser = httptools.HttpRequestParser(self)
        self.path = self.host = ""
        self.body = b""
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=True)
        self.is_ready = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.incoming.write(data)
        try:
            if not self.is_ready:
                self.tls.do_handshake()
                self.is_ready = True
                self.flush()
            while self.incoming.pending or self.tls.pending():
                plain = self.tls.read(65_536)
                if not plain:
                    self.transport.close()
                    return
                self.parser.feed_data(plain)
        except ssl.SSLWantReadError:
            self.flush()
        except ssl.SSLError:
            self.transport.abort()

    def flush(self) -> None:
        if self.outgoing.pending:
            self.transport.write(self.outgoing.read())

    def on_message_begin(self) -> None:
        self.path = self.host = ""

    def on_url(self, part: bytes) -> None:
        self.path += part.decode()

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"host":
            self.host = value.decode()

    def on_body(self, part: bytes) -> None:
        self.body += part

    def on_message_complete(self) -> None:
        body, self.body = self.body, b""
        method = self.parser.get_method().decode()
        status, content, seconds = self.peer.answer(self.host, method, self.path, body)
        told = orjson.dumps(content)
        head = f"HTTP/1.1 {status} ?\r\nContent-Type: application/json\r\nContent-Length: {len(told)}\r\n\r\n"
        if seconds:
            asyncio.get_running_loop().call_later(seconds, self.tell, head.encode() + told)
        else:
            self.tell(head.encode() + told)

    def tell(self, answer: bytes) -> None:
        if not self.transport.is_closing():
            self.tls.write(answer)
            self.flush()


async def serve(names: list[str], authority: Authority, slow: set[str], pipe: Connection) -> None:
    """Listen on the address of every server; who is away takes no connection."""
    peer = Peer(slow)
    context = authority.server_context()
    loop = asyncio.get_running_loop()
    listeners: dict[str, asyncio.AbstractServer] = {}

    async def be_there(name: str) -> None:
        host, _, port = name.partition(":")
        listeners[name] = await loop.create_server(lambda: PeerConnection(peer, context), host, int(port))

    for name in names:
        await be_there(name)
    pipe.send("ready")
    while True:
        command, value = await asyncio.to_thread(pipe.recv)
        if command == "away":
            for name in value & listeners.keys():
                listeners.pop(name).close()
        elif command == "back":
            for name in names:
                if name not in listeners:
                    await be_there(name)
        else:
            pipe.send(peer.came.get(value, {}))


def run_peer(names: list[str], authority: Authority, slow: set[str], pipe: Connection) -> None:
    gc.disable()
    uvloop.run(serve(names, authority, slow, pipe))


async def put(http: aiohttp.ClientSession, server: Homeserver, origin: str, target: str, body: Any) -> Any:
    header = sign_request("PUT", target, origin, server.name, body, KEY)
    async with http.put(
        URL(f"https://{server.name}{target}", encoded=True), data=canonical_json.encode(body),
        headers={"Authorization": header, "Content-Type": "application/json"},
    ) as response:  # fmt: skip
        answer = await response.json()
        assert response.status == 200, answer
        return answer


async def fill(http: aiohttp.ClientSession, server: Homeserver, room_id: str, names: list[str]) -> None:
    """A user of each server joins."""
    user = f"@member:{names[0]}"
    target = f"/_matrix/federation/v1/make_join/{room_id}/{user}?ver=10".replace("!", "%21").replace(
        "@", "%40"
    )
    header = sign_request("GET", target, names[0], server.name, None, KEY)
    async with http.get(
        URL(f"https://{server.name}{target}", encoded=True), headers={"Authorization": header}
    ) as response:
        template = (await response.json())["event"]
    auth = [Reference(event_id, 0) for event_id in template["auth_events"]]
    prev = [Reference(event_id, template["depth"] - 1) for event_id in template["prev_events"]]
    events: list[Event] = []
    for name in names:
        member = f"@member:{name}"
        event = build(
            Draft("m.room.member", member, {"membership": "join"}, state_key=member), version=VERSION,
            room_id=room_id, prev=prev, auth=auth, now_ms=int(time.time() * 1000), server=name, key=KEY,
            assigned_id="",
        )  # fmt: skip
        prev = [reference_to(event)]
        events.append(parse(VERSION, dict(event.source)))
    first = events[0]
    await put(
        http, server, names[0],
        path("/_matrix/federation/v2/send_join", room_id, first.event_id),
        dict(first.source),
    )  # fmt: skip
    for start in range(1, len(events), TOGETHER):
        pdus = [dict(event.source) for event in events[start : start + TOGETHER]]
        body = {"origin": names[0], "origin_server_ts": int(time.time() * 1000), "pdus": pdus}
        answer = await put(http, server, names[0], f"/_matrix/federation/v1/send/fill{start}", body)
        assert not any(answer["pdus"].values()), answer
        print(f"\r{start + len(pdus):,} servers ", end="", file=sys.stderr, flush=True)


async def delivered(pipe: Connection, body: str, wanted: set[str], patience: float) -> dict[str, Any]:
    ends = time.monotonic() + patience
    while True:
        pipe.send(("came", body))
        came: dict[str, Any] = await asyncio.to_thread(pipe.recv)
        if wanted <= came.keys() or time.monotonic() > ends:
            return came
        await asyncio.sleep(0.5)


async def main(options: argparse.Namespace) -> None:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="comity-delivery-")))
        authority = create_authority(folder / "authority")
        port = free_port()
        names = [f"{address(number)}:{port}" for number in range(options.servers)]
        dead = set(names[1::10])
        slow = set(names[5::20]) - dead
        live = set(names) - dead - slow
        here, there = multiprocessing.Pipe()
        process = multiprocessing.Process(target=run_peer, args=(names, authority, slow, there), daemon=True)
        process.start()
        stack.callback(process.kill)
        assert here.recv() == "ready"
        server = make_server("comity", folder / "comity", authority, plain=True)
        file = server.directory / "comity.toml"
        file.write_text(file.read_text().replace("verify_certificates = true", "verify_certificates = false"))
        await asyncio.to_thread(server.process.start)
        stack.push_async_callback(asyncio.to_thread, server.process.kill)
        connector = aiohttp.TCPConnector(ssl=authority.client_context(), limit=0)
        async with aiohttp.ClientSession(connector=connector) as http:
            client = await register(http, server, "alice")
            room_id = await client.create_room(version="10")
            await fill(http, server, room_id, names)
            await asyncio.sleep(options.settle)
            print(f"\n{len(live)} live, {len(slow)} slow ({SLOW_SECONDS:.0f} s an answer), {len(dead)} dead; "
                  f"{machine.memory_mib(server.process.pid):.0f} MiB")  # fmt: skip
            here.send(("away", dead))

            def cpu() -> list[float]:
                return [machine.cpu_seconds(pid) for pid in (server.process.pid, process.pid or 0)]

            database = sqlite3.connect(server.directory / "data" / "comity.db")
            for number in range(3):
                rows = database.execute("SELECT count(*) FROM outbound").fetchone()[0]
                used = cpu()
                began = time.time()
                await client.send(room_id, f"message {number}")
                more = database.execute("SELECT count(*) FROM outbound").fetchone()[0] - rows
                came = await delivered(here, f"message {number}", live, 60)
                comity, peer = (now - before for now, before in zip(cpu(), used, strict=True))
                times = sorted(at - began for name, (at, _) in came.items() if name in live)
                print(f"message {number}: {more} row, {len(times)} of {len(live)} live servers, half in "
                      f"{times[len(times) // 2]:.2f} s, all in {times[-1]:.2f} s; "
                      f"processor: comity {comity:.1f} s, the peer {peer:.1f} s; "
                      f"{machine.memory_mib(server.process.pid):.0f} MiB", flush=True)  # fmt: skip
                await asyncio.sleep(2)
            burst = [f"before the kill {number}" for number in range(BURST)]
            for text in burst:
                await client.send(room_id, text)
            await asyncio.to_thread(server.process.kill)
            await asyncio.to_thread(server.process.start)
            await client.send(room_id, "after the kill")
            here.send(("back", None))
            texts = ["message 0", "message 1", "message 2", *burst, "after the kill"]
            began = time.time()
            for text in texts:
                came = await delivered(here, text, set(names), options.patience)
                again = sum(len(ids) > 1 for _, ids in came.values())
                twice = sum(len(set(ids)) > 1 for _, ids in came.values())
                print(f"{text!r}: {len(came)} of {len(names)} servers have it "
                      f"{time.time() - began:.0f} s after all were back; its transaction came again to "
                      f"{again}, and it in another one to {twice}", flush=True)  # fmt: skip
            print(f"{machine.memory_mib(server.process.pid):.0f} MiB")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.delivery", description=__doc__)
    parser.add_argument("--servers", type=int, default=3_000)
    parser.add_argument("--settle", type=float, default=KEEPALIVE_SECONDS + 10)
    parser.add_argument("--patience", type=float, default=240.0)
    return parser.parse_args()


if __name__ == "__main__":
    uvloop.run(main(arguments()))
