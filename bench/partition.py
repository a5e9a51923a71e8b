"""`python -m bench.partition`: comity and a real Synapse, parted for minutes while people talk on both sides.

The servers reach each other through forwarders that this process opens and shuts; clients speak to each
directly. Afterwards both must have the same timeline (as a set) and the same state.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
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
    with tempfile.TemporaryDirectory(prefix="comity-partition-") as name:
        folder = Path(name)
        authority = create_authority(folder / "authority")
        servers = [
            make_server(software, folder / software, authority, plain=True)
            for software in ("comity", "synapse")
        ]
        forwarders = []
        for server in servers:
            hidden = free_port()
            behind(server, hidden)
            forwarders.append(Forwarder(int(server.name.rpartition(":")[2]), hidden))
            await forwarders[-1].start()
            await asyncio.to_thread(server.process.start)
            # Clients go past the forwarder.
            server.process.port = hidden
        connector = aiohttp.TCPConnector(ssl=authority.client_context(), limit=0)
        async with aiohttp.ClientSession(connector=connector) as http:
            alice, bob = await register(http, servers[0], "alice"), await register(http, servers[1], "bob")
            room_id = await alice.create_room(version="10")
            await bob.join(room_id, servers[0])
            await alice.set_state(
                room_id, "m.room.power_levels", {"users": {alice.user_id: 100, bob.user_id: 100}}
            )
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
            while time.monotonic() - began < options.patience:
                # People go on talking, which is what tells a server that the other is back.
                wanted.add(await alice.send(room_id, "are you there"))
                wanted.add(await bob.send(room_id, "are you"))
                await asyncio.sleep(5)
                here, there = await timeline(alice, room_id), await timeline(bob, room_id)
                state = await alice.state(room_id) == await bob.state(room_id)
                print(
                    f"{time.monotonic() - began:5.0f} s: comity lacks {len(wanted - here)}, Synapse "
                    f"{len(wanted - there)} of {len(wanted)}; state {'equal' if state else 'differs'}",
                    flush=True,
                )
                if state and wanted <= here and wanted <= there:
                    break
        for server in servers:
            await asyncio.to_thread(server.process.kill)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.partition", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--pause", type=float, default=2.0)
    parser.add_argument("--patience", type=float, default=180.0)
    return parser.parse_args()


if __name__ == "__main__":
    uvloop.run(main(arguments()))
