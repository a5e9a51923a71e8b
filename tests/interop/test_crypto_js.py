"""End-to-end encryption with matrix-js-sdk and its Rust crate: keys for signing, secret storage, backup.

Two users of the server under test, then one of it and one of another make, then who meets who
speaks another library.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.interop.authority import Authority
from tests.interop.client import MakeUser
from tests.interop.crypto import Device, Program, js_devices
from tests.interop.servers import Homeserver

pytestmark = [pytest.mark.interop, pytest.mark.xdist_group("interop-rooms")]


@pytest.fixture
async def js(authority: Authority) -> AsyncIterator[Program]:
    async with js_devices(authority) as program:
        yield program


async def _talk(room: str, said: list[str], *devices: Device) -> None:
    """Each says something, which the others read."""
    for speaker in devices:
        text = f"{len(said)} from {speaker.name}"
        said.append(text)
        await speaker.say(room, text)
        for listener in devices:
            await listener.reads(room, text)


@pytest.mark.parametrize("other", ["here", "there"])
async def test_a_life_with_encryption(
    js: Program, user: MakeUser, here: Homeserver, other: str, request: pytest.FixtureRequest
) -> None:
    elsewhere: Homeserver = request.getfixturevalue(other)
    alice_user, bob_user = await user(here, "alice"), await user(elsewhere, "bob")
    alice, bob = await js.log_in("alice", alice_user), await js.log_in("bob", bob_user)
    recovery: dict[str, str] = {}
    for one in (alice, bob):
        recovery[one.user_id] = await one.do("bootstrap")
    room = await alice.make_room(bob)
    said: list[str] = []
    await _talk(room, said, alice, bob)
    await alice.knows(bob)
    await bob.knows(alice)

    # A new device of each: it signs itself with the recovery key and reads what was said before it.
    everybody = [alice, bob]
    for one, account in ((alice, alice_user), (bob, bob_user)):
        # One session of keys for each who spoke; the other's new device has not spoken yet.
        await one.do("backedUp", count=2)
        late = await js.log_in(f"late {one.name}", account)
        told: Any = await late.do("recover", key=recovery[one.user_id])
        assert told["imported"] == told["total"] >= 2
        await late.do("verified", user=late.user_id, other=late.device_id)
        for text in said:
            await late.reads(room, text)
        for known in everybody:
            own = [device for device in (*everybody, late) if device.user_id == late.user_id]
            await known.knows(*own)
        everybody.append(late)
        await _talk(room, said, *everybody)
    for one in everybody:
        assert await one.unread(room) == []
    # Who is gone is known to be gone.
    gone = everybody.pop(2)
    await gone.do("logout")
    await bob.knows(alice)
    await _talk(room, said, *everybody)


async def test_a_dehydrated_device_receives_keys(js: Program, user: MakeUser, here: Homeserver) -> None:
    alice_user = await user(here, "alice")
    alice, bob = await js.log_in("alice", alice_user), await js.log_in("bob", await user(here, "bob"))
    key = await alice.do("bootstrap")
    room = await alice.make_room(bob)
    await alice.do("dehydrate")
    await alice.do("logout")
    await bob.say(room, "while nobody was there")
    late = await js.log_in("late", alice_user)
    await late.do("recover", key=key)
    await late.do("dehydrate")
    await late.reads(room, "while nobody was there")
