"""End-to-end encryption with matrix-nio (vodozemac): its like on another server, and matrix-js-sdk."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.interop.authority import Authority
from tests.interop.client import MakeUser
from tests.interop.crypto import Program, js_devices, nio_devices
from tests.interop.servers import Homeserver

pytestmark = [pytest.mark.interop, pytest.mark.xdist_group("interop-rooms")]


@pytest.fixture
async def nio(authority: Authority) -> AsyncIterator[Program]:
    async with nio_devices(authority) as program:
        yield program


@pytest.fixture
async def js(authority: Authority) -> AsyncIterator[Program]:
    async with js_devices(authority) as program:
        yield program


async def test_two_libraries_read_each_other(
    nio: Program, js: Program, user: MakeUser, here: Homeserver, there: Homeserver
) -> None:
    alice = await nio.log_in("alice", await user(here, "alice"))
    bob = await nio.log_in("bob", await user(there, "bob"))
    carol = await js.log_in("carol", await user(here, "carol"))
    room = await alice.make_room(bob, carol)
    for number, speaker in enumerate((alice, bob, carol, alice)):
        text = f"{number} from {speaker.name}"
        await speaker.say(room, text)
        for listener in (alice, bob, carol):
            await listener.reads(room, text)
    for one in (alice, bob, carol):
        assert await one.unread(room) == []
