"""What follows from a change of an account in all of its rooms, beside requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from comity.store import errands as stored
from comity.users import errands
from tests.api.support_accounts import deactivate
from tests.api.support_rooms import Client, Place, by_key, place, until_waiting
from tests.api.support_users import Answer, at
from tests.slow_reads import SlowReads


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Place]:
    async with place(tmp_path) as opened:
        yield opened


async def call_oneself(client: Client, name: str) -> Answer:
    """Change a display name."""
    return await client.ask("PUT", at("profile", client.user_id, "displayname"), {"displayname": name})


async def names(reader: Client, client: Client, rooms: list[str]) -> list[str | None]:
    """What a user is called in each room."""
    return [
        by_key((await reader.ask("GET", at("rooms", room_id, "state"))).ok())[
            "m.room.member", client.user_id
        ].get("displayname")
        for room_id in rooms
    ]


async def waiting(server: Place, client: Client) -> list[stored.Errand]:
    return await server.database.read(lambda tx: stored.of(tx, client.user_id))


async def in_rooms(server: Place, count: int) -> tuple[Client, list[str]]:
    """A user in so many rooms."""
    alice = await server.client("alice")
    return alice, [await alice.create() for _ in range(count)]


async def test_few_rooms_have_the_name_when_the_request_is_answered(server: Place) -> None:
    alice, rooms = await in_rooms(server, 3)
    (await call_oneself(alice, "Alice")).ok()
    assert await names(alice, alice, rooms) == ["Alice"] * 3
    assert await waiting(server, alice) == []


async def test_many_rooms_do_not_hold_the_request(server: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errands, "AT_ONCE", 2)
    monkeypatch.setattr(errands, "LOG_EVERY", 2)
    alice, rooms = await in_rooms(server, 7)
    (await call_oneself(alice, "Alice")).ok()
    (errand,) = await waiting(server, alice)
    assert (errand.kind, errand.total) == (stored.PROFILE, 7)
    assert 2 <= errand.done < 7
    for _ in range(10):
        await until_waiting()
    assert await names(alice, alice, rooms) == ["Alice"] * 7
    assert await waiting(server, alice) == []


async def test_what_was_under_way_is_done_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(errands, "AT_ONCE", 2)
    async with place(tmp_path) as server:
        alice, rooms = await in_rooms(server, 7)
        await server.app._errands.stop()
        (await call_oneself(alice, "Alice")).ok()
        assert (await names(alice, alice, rooms)).count("Alice") == 2
    async with place(tmp_path, seed=2) as server:
        for _ in range(10):
            await until_waiting()
        alice = server.again(alice)
        assert await names(alice, alice, rooms) == ["Alice"] * 7
        # What had the name has it from the first time.
        for room_id in rooms:
            events = (await alice.messages(room_id, limit=100))["chunk"]
            assert len([event for event in events if event["type"] == "m.room.member"]) == 2


async def test_a_second_change_supersedes_the_first(server: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errands, "AT_ONCE", 2)
    alice, rooms = await in_rooms(server, 7)
    await server.app._errands.stop()
    (await call_oneself(alice, "older")).ok()
    (await call_oneself(alice, "newer")).ok()
    await server.app._errands.start()
    for _ in range(10):
        await until_waiting()
    assert await names(alice, alice, rooms) == ["newer"] * 7
    changes = 0
    for room_id in rooms:
        events = (await alice.messages(room_id, limit=100))["chunk"]
        changes += len([event for event in events if event["content"].get("displayname") == "older"])
    assert changes == 2


async def test_the_last_of_two_changes_at_once_is_the_last_in_the_rooms(server: Place) -> None:
    alice, rooms = await in_rooms(server, 1)
    slow = SlowReads(server.database)
    slow.hold_next()
    older = asyncio.ensure_future(call_oneself(alice, "older"))
    await slow.until_held()
    newer = asyncio.ensure_future(call_oneself(alice, "newer"))
    await until_waiting()
    slow.let_go()
    for answer in await asyncio.gather(older, newer):
        answer.ok()
    await until_waiting()
    profile = (await alice.ask("GET", at("profile", alice.user_id))).ok()
    assert await names(alice, alice, rooms) == [profile["displayname"]]


async def test_who_ends_their_account_leaves_many_rooms(
    server: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(errands, "AT_ONCE", 2)
    alice, rooms = await in_rooms(server, 5)
    bob = await server.client("bob")
    invited = await bob.create(preset="private_chat")
    await bob.treat(invited, "invite", alice)
    for room_id in rooms:
        await bob.join(room_id)
    # A name on its way does not matter any more.
    await server.app._errands.stop()
    (await call_oneself(alice, "Alice")).ok()
    await deactivate(alice)
    assert [errand.kind for errand in await waiting(server, alice)] == [stored.DEPARTURE]
    await server.app._errands.start()
    for _ in range(10):
        await until_waiting()
    for room_id in (*rooms, invited):
        state = by_key((await bob.ask("GET", at("rooms", room_id, "state"))).ok())
        assert state["m.room.member", alice.user_id] == {"membership": "leave"}
    assert await waiting(server, alice) == []


async def test_a_room_that_refuses_does_not_hold_the_others(server: Place) -> None:
    alice, rooms = await in_rooms(server, 2)
    bob = await server.client("bob")
    strict = await bob.create()
    await alice.join(strict)
    slow = SlowReads(server.database)
    slow.hold_next()
    changing = asyncio.ensure_future(call_oneself(alice, "Alice"))
    await slow.until_held()
    await bob.treat(strict, "ban", alice)
    slow.let_go()
    (await changing).ok()
    assert await names(alice, alice, rooms) == ["Alice"] * 2
    assert await waiting(server, alice) == []
