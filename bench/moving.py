"""`python -m bench.moving`: a large database carried to PostgreSQL and back, timed and compared.

Fills a server on SQLite over its API and over federation, moves its database there and back with
`comity database move`, compares digests and dumps, and has a client go on with its old token.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import sqlite3
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

import aiohttp
import uvloop

from bench import load, machine
from tests.interop.authority import create_authority
from tests.interop.client import Client, register
from tests.interop.peer import Peer, uri
from tests.interop.peer_service import serve_peer
from tests.interop.servers import Homeserver, make_server
from tests.postgres_server import PostgresServer

#: Events in a transaction of the peer's, and sends at the same time.
TOGETHER, CONCURRENCY = 50, 64


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.moving", description=__doc__)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--members", type=int, default=5_000)
    return parser.parse_args()


async def join_members(peer: Peer, server: Homeserver, room_id: str, count: int) -> None:
    """Users of the peer join a room, in transactions of its own."""
    room = await peer.join(server.name, room_id, peer.user("member0"))
    waiting = []
    for number in range(1, count):
        user = peer.user(f"member{number}")
        content = {"membership": "join", "displayname": f"Member {number}"}
        event = peer.signer.sign_event(room.draft("m.room.member", user, content, user), room.version)
        room.add(event)
        # The peer's own book of states is not needed, and would be as large as all of them.
        room.before.clear()
        waiting.append(event)
        if len(waiting) == TOGETHER or number == count - 1:
            body = peer.transaction(waiting)
            answer = await peer.request("PUT", server.name, uri("send", f"members{number}"), body)
            assert answer.status == 200 and not any(answer.body["pdus"].values()), answer
            waiting = []
            told(f"{number + 1:,} members", number + 1, count)


async def say(client: Client, rooms: list[str], count: int) -> None:
    """Messages in several rooms, many at a time."""
    port = client.server.plain_port
    headers = {"Authorization": f"Bearer {client.token}", "Content-Type": "application/json"}

    def make(number: int) -> bytes:
        room = quote(rooms[number % len(rooms)], safe="")
        path = f"/_matrix/client/v3/rooms/{room}/send/m.room.message/fill{number}"
        body = b'{"msgtype":"m.text","body":"message %d of very many, as long as people write"}' % number
        return load.request_bytes("PUT", path, port, headers, body)

    for start in range(0, count, 5_000):
        upto = min(start + 5_000, count)
        await load.run(port, (make(n) for n in range(start, upto)), CONCURRENCY, _is_ok)
        told(f"{upto:,} messages", upto, count)


def _is_ok(status: int, _: bytes) -> bool:
    return status == 200


def told(what: str, done: int, total: int) -> None:
    print(
        f"\r{what} ({done * 100 // total} %)  ", end="" if done < total else "\n", file=sys.stderr, flush=True
    )


async def command(server: Homeserver, *words: str) -> tuple[str, float]:
    """Run `comity …` on the server's configuration; what it printed, and the seconds it took."""
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "comity", *words, "--config", str(server.directory / "comity.toml"),
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    return out.decode(), time.perf_counter() - began


def point_to(server: Homeserver, url: str) -> None:
    """Have the server's configuration name another database."""
    file = server.directory / "comity.toml"
    lines = file.read_text().splitlines()
    file.write_text("\n".join(f'url = "{url}"' if line.startswith("url = ") else line for line in lines))


def dump(file: Path) -> str:
    """A digest of SQLite's own dump of a file, its lines in order."""
    digest = hashlib.sha256()
    connection = sqlite3.connect(file)
    for line in sorted(connection.iterdump()):
        digest.update(line.encode())
    connection.close()
    return digest.hexdigest()


async def goes_on(server: Homeserver, client: Client, since: str, rooms: list[str], text: str) -> None:
    """A client with its old token syncs from where it was, and says something that it then hears."""
    await asyncio.to_thread(server.process.start)
    try:
        await client.send(rooms[0], text, txn=text)
        client.since = since
        answer = await client.sync()
        joined = answer["rooms"]["join"]
        bodies = [event["content"].get("body") for event in joined[rooms[0]]["timeline"]["events"]]
        assert text in bodies, bodies
        assert "after the token" in bodies, bodies
    finally:
        await asyncio.to_thread(server.process.stop)


async def measure(options: argparse.Namespace, folder: Path, postgres: PostgresServer) -> None:
    authority = create_authority(folder / "authority")
    server = make_server("comity", folder / "comity", authority, plain=True)
    await asyncio.to_thread(server.process.start)
    connector = aiohttp.TCPConnector(ssl=authority.client_context(), limit=0)
    async with aiohttp.ClientSession(connector=connector) as http, serve_peer(authority) as peer:
        client = await register(http, server, "alice")
        rooms = [await client.create_room() for _ in range(5)]
        await join_members(peer, server, rooms[0], options.members)
        await say(client, rooms, max(0, options.events - options.members))
        since = str((await client.sync())["next_batch"])
        await client.send(rooms[0], "after the token")
        await asyncio.to_thread(server.process.stop)
        first, _ = await command(server, "database", "digest")
        size = (server.directory / "data" / "comity.db").stat().st_size / (1 << 20)
        rows = {line.split()[2]: line.split()[1] for line in first.splitlines()}
        print(f"{rows['events']} events, {rows['memberships']} memberships, {size:.0f} MiB in SQLite")
        url = postgres.make_database("moved")
        for name, target in (("SQLite -> PostgreSQL", url), ("PostgreSQL -> SQLite", "sqlite:again.db")):
            said, seconds = await command(server, "database", "move", "--to", target)
            print(f"{name}: {seconds:.1f} s: {'; '.join(said.splitlines()[2:4])}")
            point_to(server, target)
            digest, taken = await command(server, "database", "digest")
            assert digest == first, (first, digest)
            print(f"  the digests of all {len(digest.splitlines())} tables are equal ({taken:.1f} s)")
        data = server.directory / "data"
        assert dump(data / "comity.db") == dump(data / "again.db")
        print("  SQLite's own dumps of the first file and of the one that came back are equal")
        print((await command(server, "database", "check"))[0].splitlines()[-1])
        for name, target in (("PostgreSQL", url), ("SQLite again", "sqlite:again.db")):
            point_to(server, target)
            await goes_on(server, client, since, rooms, f"said on {name}")
            print(f"the client of before goes on with its token on {name}")


def main() -> int:
    options = arguments()
    postgres = PostgresServer(settings={"shared_buffers": "512MB"})
    postgres.start()
    try:
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            print(f"{machine.describe(Path(folder))}\n")
            uvloop.run(measure(options, Path(folder), postgres))
    finally:
        postgres.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
