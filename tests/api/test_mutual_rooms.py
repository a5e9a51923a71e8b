"""Rooms that two users share: those that both are joined to, in batches."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from comity.users.mutual_rooms import MAX_ROOMS
from tests.api.neighbours import name_of, neighbours, settle
from tests.api.support_rooms import Client, Place, place
from tests.api.support_users import SERVER, Answer, user_server

PATH = "/_matrix/client/v1/mutual_rooms"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Place]:
    async with place(tmp_path) as opened:
        yield opened


async def shared(client: Client, other: str) -> list[str]:
    """What a client is told, in one batch."""
    answer = (await client.ask("GET", PATH, user_id=other)).ok()
    assert answer["count"] == len(answer["joined"])
    assert "next_batch" not in answer
    return sorted(answer["joined"])


async def test_rooms_that_both_are_in(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    both, left, invited, private = [await alice.create() for _ in range(4)]
    await bob.create()
    assert await shared(alice, bob.user_id) == []
    for room_id in (both, left):
        await bob.join(room_id)
    await alice.treat(invited, "invite", bob)
    assert await shared(alice, bob.user_id) == sorted([both, left])
    assert await shared(bob, alice.user_id) == sorted([both, left])
    await bob.leave(left)
    assert await shared(alice, bob.user_id) == [both]
    await alice.treat(both, "ban", bob)
    assert await shared(alice, bob.user_id) == await shared(bob, alice.user_id) == []
    assert private not in await shared(bob, alice.user_id)


async def test_with_users_of_other_servers_and_with_nobody(tmp_path: Path) -> None:
    async with neighbours(tmp_path) as (here, there):
        alice, bob = await here.client("alice"), await there.client("bob")
        room_id = await alice.create()
        await bob.join(room_id, via=name_of(1))
        await settle(here, there)
        assert await shared(alice, bob.user_id) == [room_id]
        assert await shared(bob, alice.user_id) == [room_id]
        for nobody in ("@nobody:elsewhere.example", f"@nobody:{name_of(1)}"):
            assert await shared(alice, nobody) == []


async def test_many_come_in_batches(tmp_path: Path) -> None:
    async with user_server(tmp_path) as server:
        token, other = await server.user("alice"), "@bob:elsewhere.example"
        rooms = [f"!r{number}:{SERVER}" for number in range(MAX_ROOMS * 2)]
        for number, room_id in enumerate(rooms):
            await server.room(room_id, f"@alice:{SERVER}", other)
            await server.room(f"!x{number}:{SERVER}", f"@alice:{SERVER}")

        async def ask(query: str) -> Answer:
            return await server.ask("GET", f"{PATH}?user_id={other}{query}", token=token)

        first = (await ask("")).ok()
        assert (first["joined"], first["count"]) == (rooms[:MAX_ROOMS], len(rooms))
        second = (await ask(f"&from={first['next_batch']}")).ok()
        assert second == {"joined": rooms[MAX_ROOMS:], "count": len(rooms)}
        for wrong in ("", "nonsense", "-1", "1.5", "٣", "9" * 19, "9" * 200):
            (await ask(f"&from={wrong}")).failed(400, "M_INVALID_PARAM")


async def test_what_cannot_be_asked(server: Place) -> None:
    (alice,) = await server.clients("alice")
    (await alice.ask("GET", PATH)).failed(400, "M_MISSING_PARAM")
    outside = ("@:example.org", "@a b:example.org", "@ä:example.org")
    for wrong in ("", "alice", "@alice", *outside, alice.user_id):
        (await alice.ask("GET", PATH, user_id=wrong)).failed(400, "M_INVALID_PARAM")
    alice.token = ""
    (await alice.ask("GET", PATH, user_id="@bob:example.org")).failed(401, "M_MISSING_TOKEN")


async def test_asking_has_a_rate(tmp_path: Path) -> None:
    async with user_server(tmp_path, "[rate_limits]\nenabled = true\n") as server:
        token = await server.user("alice")
        path = f"{PATH}?user_id=@bob:{SERVER}"
        codes = [(await server.ask("GET", path, token=token)).code for _ in range(51)]
        assert codes == [""] * 50 + ["M_LIMIT_EXCEEDED"]
