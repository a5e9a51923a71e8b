"""`python -m bench.partition`: comity and a real Synapse, parted for minutes while people talk on both sides.

The servers reach each other through forwarders that this process opens and shuts; clients speak to each
directly. Afterwards both must have the same timeline (as a set) and the same state.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import uvloop

from tests.interop.authority import create_authority
from tests.interop.client import Client, register
from tests.interop.process import free_port
from tests.interop.servers import Homeserver, make_server


class Forwarder:
    """Carries connections from one port to another, or cuts them all."""

    def __init__(self, port: int, to: int) -> None:
        self.port, self.to = port, to
        self.open = True
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", self.port)

    def cut(self) -> None:
        self.open = False
        for writer in list(self._writers):
            writer.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.open:
            writer.transport.abort()
            return
        try:
            there_reader, there = await asyncio.open_connection("127.0.0.1", self.to)
        except OSError:  # it is starting
            writer.transport.abort()
            return
        self._writers |= {writer, there}
        try:
            await asyncio.gather(self._pump(reader, there), self._pump(there_reader, writer))
        finally:
            self._writers -= {writer, there}

    @staticmethod
    async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        writer.close()


def behind(server: Homeserver, hidden: int) -> None:
    """Have the server listen on another port than its name says."""
    port = server.name.rpartition(":")[2]
    comity, synapse = server.directory / "comity.toml", server.directory / "homeserver.yaml"
    if comity.exists():
        comity.write_text(
            comity.read_text().replace(f'bind = "127.0.0.1:{port}"', f'bind = "127.0.0.1:{hidden}"')
        )
    else:
        synapse.write_text(synapse.read_text().replace(f'"port": {port}', f'"port": {hidden}'))


async def talk(client: Client, room_id: str, who: str, ends: float, pause: float) -> list[str]:
    """Messages, and now and then a change of state; the ids."""
    sent: list[str] = []
    while time.monotonic() < ends:
        number = len(sent)
        if number % 20 == 10:
            content = {"n": number}
            sent.append(str(await client.set_state(room_id, "x.counter", content, who)))
        elif number % 50 == 25:
            sent.append(str(await client.set_state(room_id, "m.room.topic", {"topic": f"{who} {number}"})))
        else:
            sent.append(await client.send(room_id, f"{who} {number}"))
        await asyncio.sleep(pause)
    return sent


async def timeline(client: Client, room_id: str) -> set[str]:
    return {event["event_id"] for event in await client.history(room_id)}


async def main(options: argparse.Namespace) -> None:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="comity-partition-")))
        authority = create_authority(folder / "authority")
        servers, forwarders = [], []
        for software in ("comity", "synapse"):
            server, hidden = make_server(software, folder / software, authority, plain=True), free_port()
            behind(server, hidden)
            forwarder = Forwarder(int(server.name.rpartition(":")[2]), hidden)
            await forwarder.start()
            await asyncio.to_thread(server.process.start)
            stack.push_async_callback(asyncio.to_thread, server.process.kill)
            # Clients go past the forwarder.
            server.process.port = hidden
            servers.append(server)
            forwarders.append(forwarder)
        connector = aiohttp.TCPConnector(ssl=authority.client_context(), limit=0)
        http = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        await part(options, http, servers, forwarders)


async def part(
    options: argparse.Namespace,
    http: aiohttp.ClientSession,
    servers: list[Homeserver],
    forwarders: list[Forwarder],
) -> None:
    """Part them, let people talk, join them, and tell what each has."""
    alice, bob = await register(http, servers[0], "alice"), await register(http, servers[1], "bob")
    room_id = await alice.create_room(version="10")
    await bob.join(room_id, servers[0])
    levels = {"users": {alice.user_id: 100, bob.user_id: 100}}
    await alice.set_state(room_id, "m.room.power_levels", levels)
    await asyncio.sleep(3)
    for forwarder in forwarders:
        forwarder.cut()
    ends = time.monotonic() + options.minutes * 60
    said = await asyncio.gather(
        talk(alice, room_id, "alice", ends, options.pause),
        talk(bob, room_id, "bob", ends, options.pause),
    )
    for forwarder in forwarders:
        forwarder.open = True
    began = time.monotonic()
    wanted = {*said[0], *said[1]}
    print(f"{options.minutes:g} minutes apart, {len(said[0])} and {len(said[1])} events", flush=True)
    while time.monotonic() - began < options.patience:
        # People go on talking, which is what tells a server that the other is back.
        wanted.add(await alice.send(room_id, "are you there"))
        wanted.add(await bob.send(room_id, "are you"))
        await asyncio.sleep(5)
        here, there = await timeline(alice, room_id), await timeline(bob, room_id)
        is_same = await alice.state(room_id) == await bob.state(room_id)
        print(
            f"{time.monotonic() - began:5.0f} s: comity lacks {len(wanted - here)}, Synapse "
            f"{len(wanted - there)} of {len(wanted)}; state {'equal' if is_same else 'differs'}; "
            f"timelines {'equal' if here == there else 'differ'}",
            flush=True,
        )
        if is_same and here == there and wanted <= here:
            return
    sys.exit("they did not come to the same")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.partition", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--pause", type=float, default=2.0)
    parser.add_argument("--patience", type=float, default=180.0)
    return parser.parse_args()


if __name__ == "__main__":
    uvloop.run(main(arguments()))
