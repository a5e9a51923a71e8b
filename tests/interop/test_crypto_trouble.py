"""Devices come and go while the other server is away: once it is back, everybody reads everything."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.engines import SQLITE
from tests.interop.authority import Authority
from tests.interop.client import MakeUser
from tests.interop.crypto import Device, Program, js_devices
from tests.interop.servers import Homeserver

pytestmark = [pytest.mark.interop, pytest.mark.xdist_group("interop-rooms")]

#: Until the servers speak again: the longest pause of either, the client's own, and some requests.
BACK_WITHIN = 60.0


@pytest.fixture
async def js(authority: Authority) -> AsyncIterator[Program]:
    async with js_devices(authority) as program:
        yield program


@asynccontextmanager
async def away(server: Homeserver) -> AsyncIterator[None]:
    """The server is stopped meanwhile."""
    await asyncio.to_thread(server.process.stop)
    try:
        yield
    finally:
        await asyncio.to_thread(server.process.start)


# The keys are the same on every engine; what these minutes of two servers show is not the database.
@pytest.mark.parametrize("engine", [SQLITE], indirect=True)
@pytest.mark.parametrize("fails", ["there", "here"])
async def test_devices_change_while_a_server_is_away(
    js: Program, user: MakeUser, here: Homeserver, there: Homeserver, fails: str
) -> None:
    up, down = (here, there) if fails == "there" else (there, here)
    alice_user, bob_user = await user(up, "alice"), await user(down, "bob")
    alice, old = await js.log_in("alice", alice_user), await js.log_in("old alice", alice_user)
    bob = await js.log_in("bob", bob_user)
    recovery = [await alice.do("bootstrap"), await bob.do("bootstrap")]
    await old.do("recover", key=recovery[0])
    room = await alice.make_room(bob)
    for speaker in (alice, bob):
        await speaker.say(room, f"{speaker.name} was here")
    for listener in (alice, old, bob):
        await listener.reads(room, "alice was here")
        await listener.reads(room, "bob was here")
    # A device of bob's of which alice knows, and of which she has claimed no key yet.
    fresh = await js.log_in("fresh bob", bob_user, sliding=down is here)
    await fresh.do("recover", key=recovery[1])
    await alice.knows(bob, fresh)

    async with away(down):
        new = await js.log_in("new alice", alice_user, sliding=up is here)
        await new.do("recover", key=recovery[0])
        await old.do("logout")
        await alice.knows(alice, new)
        await alice.say(room, "into the void")
        await new.reads(room, "into the void")
        # One who has never seen the other's devices learns of them all the same.
        await new.knows(bob, fresh)

    everybody = (alice, new, bob, fresh)
    for one in everybody:
        await one.do("wake")
    # Of that alice could give no key to the fresh device: it has it from bob's backup.
    for listener in (bob, fresh):
        await listener.reads(room, "into the void", within=BACK_WITHIN)
        await listener.knows(alice, new, within=BACK_WITHIN)
    for speaker in everybody:
        await speaker.say(room, f"{speaker.name} is back")
        for listener in everybody:
            await listener.reads(room, f"{speaker.name} is back", within=BACK_WITHIN)
    await _all_is_read(room, everybody)


async def _all_is_read(room: str, devices: tuple[Device, ...]) -> None:
    for one in devices:
        assert await one.unread(room) == []
