"""Rooms that are forgotten as soon as they are left, where the operator wants it so."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.api.neighbours import name_of, neighbours, settle
from tests.api.support_rooms import Client, Network, Place, bodies, networked_place
from tests.api.support_users import at
from tests.api.test_sliding_sync import slide, window

FORGETFUL = "[rooms]\nforget_upon_leave = true\n"
ARCHIVE = {"room": {"include_leave": True}}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Place]:
    async with networked_place(tmp_path / "a", Network(), 1, FORGETFUL) as opened:
        yield opened


async def is_forgotten(client: Client, room_id: str) -> bool:
    """Whether nothing of a room that was left can be had any more, by those who come anew."""
    answer = await client.try_messages(room_id)
    listed = (await client.sync(wanted=ARCHIVE))["rooms"]["leave"]
    assert (answer.status == 403) is (room_id not in listed)
    return room_id not in listed


async def test_clients_are_told(server: Place) -> None:
    alice = await server.client("alice")
    capabilities = (await alice.ask("GET", "/capabilities")).ok()["capabilities"]
    assert capabilities["m.forget_forced_upon_leave"] == {"enabled": True}


@pytest.mark.parametrize("how", ["leave", "kick", "ban"])
async def test_however_it_is_left(server: Place, how: str) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create()
    await bob.join(room_id)
    await alice.say(room_id, "hello")
    since, pos = await bob.token_now(), (await slide(bob, window()))["pos"]
    await alice.say(room_id, "bye")
    if how == "leave":
        await bob.leave(room_id)
    else:
        await alice.treat(room_id, how, bob)
    assert await is_forgotten(bob, room_id)
    # Their other apps have to hear of it all the same, with what came before the end.
    answer = await bob.sync(since)
    timeline = answer["rooms"]["leave"][room_id]["timeline"]["events"]
    assert bodies(timeline) == ["bye"]
    assert timeline[-1]["content"]["membership"] == ("ban" if how == "ban" else "leave")
    told = (await slide(bob, window(), pos))["rooms"][room_id]
    assert (told["membership"], bodies(told["timeline"])) == (timeline[-1]["content"]["membership"], ["bye"])
    later = await bob.sync(answer["next_batch"])
    assert room_id not in later["rooms"]["leave"]
    (await bob.ask("POST", at("rooms", room_id, "forget"), {})).ok()
    # Then they hear that it was left, and nothing else of it.
    part = (await bob.sync(since))["rooms"]["leave"][room_id]
    assert part["timeline"]["events"] == [timeline[-1]]
    if how == "ban":
        await alice.treat(room_id, "unban", bob)
        assert await is_forgotten(bob, room_id)
    await bob.join(room_id)
    assert room_id in (await bob.sync())["rooms"]["join"]
    assert "hello" in bodies((await bob.messages(room_id))["chunk"])


async def test_an_invite_turned_down(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create(invite=[bob.user_id])
    since = await bob.token_now()
    await bob.leave(room_id)
    assert await is_forgotten(bob, room_id)
    assert room_id in (await bob.sync(since))["rooms"]["leave"]
    await alice.treat(room_id, "invite", bob)
    assert room_id in (await bob.sync())["rooms"]["invite"]


async def test_rooms_of_other_servers(tmp_path: Path) -> None:
    async with neighbours(tmp_path, p2=FORGETFUL) as (here, there):
        alice, bob = await here.client("alice"), await there.client("bob")
        room_id, other = await alice.create(), await alice.create(invite=[bob.user_id])
        await bob.join(room_id, via=name_of(1))
        await settle(here, there)
        since = await bob.token_now()
        await alice.treat(room_id, "kick", bob)
        await bob.leave(other)
        await settle(here, there)
        assert await is_forgotten(bob, room_id)
        assert await is_forgotten(bob, other)
        assert (await bob.sync(since))["rooms"]["leave"].keys() == {room_id, other}
        # The first server keeps what its own users leave.
        await alice.leave(room_id)
        assert not await is_forgotten(alice, room_id)
