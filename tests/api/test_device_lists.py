"""`device_lists` of both syncs, GET /keys/changes (client-server §Tracking the device list for a user)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from comity.api.client.sliding import PATHS
from comity.store import shared_rooms
from tests.api.support_rooms import Client, Place, place


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Place]:
    async with place(tmp_path) as opened:
        yield opened


class Follower:
    """A client that is told in three ways, which must say the same."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._since = self._position = ""

    async def _slide(self) -> Any:
        query = {"pos": self._position} if self._position else {}
        body = {"extensions": {"e2ee": {"enabled": True}}}
        answer = (await self.client.ask("POST", PATHS[0], body, **query)).ok()
        self._position = answer["pos"]
        return answer["extensions"].get("e2ee", {}).get("device_lists", {"changed": [], "left": []})

    async def begin(self) -> None:
        self._since = await self.client.token_now()
        await self._slide()

    async def news(self) -> tuple[list[str], list[str]]:
        """(changed, left) since the last time, without oneself."""
        answer = await self.client.sync(self._since)
        upto = answer["next_batch"]
        changes = (await self.client.ask("GET", "/keys/changes", **{"from": self._since, "to": upto})).ok()
        assert answer["device_lists"] == changes == await self._slide()
        self._since = upto
        changed = [user_id for user_id in changes["changed"] if user_id != self.client.user_id]
        return changed, changes["left"]


async def followers(server: Place, *names: str) -> list[Follower]:
    return [Follower(await server.client(name)) for name in names]


async def test_who_comes_in_and_who_is_met(server: Place) -> None:
    alice, bob, carol = await followers(server, "alice", "bob", "carol")
    room_id = await alice.client.create()
    await bob.client.join(room_id)
    for person in (alice, bob, carol):
        await person.begin()
    await carol.client.join(room_id)
    ids = [person.client.user_id for person in (alice, bob, carol)]
    assert await alice.news() == ([ids[2]], [])
    assert await carol.news() == (ids[:2], [])
    assert await carol.news() == ([], [])
    # Another name is no coming in.
    path = f"/profile/{ids[2]}/displayname"
    (await carol.client.ask("PUT", path, {"displayname": "Carol"})).ok()
    assert await alice.news() == ([], [])
    assert await carol.news() == ([], [])


async def test_the_last_common_room_ends(server: Place) -> None:
    alice, bob, carol = await followers(server, "alice", "bob", "carol")
    one, two = await alice.client.create(), await alice.client.create()
    for person in (bob, carol):
        await person.client.join(one)
    await bob.client.join(two)
    for person in (alice, bob, carol):
        await person.begin()
    a, b, c = (person.client.user_id for person in (alice, bob, carol))
    await bob.client.leave(one)
    # Alice and Bob have another room; Carol and Bob have none.
    assert await alice.news() == ([], [])
    assert await bob.news() == ([], [c])
    assert await carol.news() == ([], [b])
    await alice.client.treat(two, "kick", bob.client)
    assert await alice.news() == ([], [b])
    assert await bob.news() == ([], [a])
    assert await carol.news() == ([], [])
    await alice.client.leave(one)
    assert await alice.news() == ([], [c])
    assert await carol.news() == ([], [a])
    for person in (alice, bob, carol):
        assert await person.news() == ([], [])


async def test_who_went_and_came_back_has_not_left(server: Place) -> None:
    alice, bob = await followers(server, "alice", "bob")
    room_id = await alice.client.create()
    await bob.client.join(room_id)
    await alice.begin()
    await bob.begin()
    await bob.client.leave(room_id)
    await bob.client.join(room_id)
    a, b = alice.client.user_id, bob.client.user_id
    assert await alice.news() == ([b], [])
    changed, left = await bob.news()
    assert left == []
    assert set(changed) <= {a}
    # Both went, one after the other, while nobody looked.
    await bob.client.leave(room_id)
    await alice.client.leave(room_id)
    assert await alice.news() == ([], [b])
    assert await bob.news() == ([], [a])


async def test_an_invite_that_is_refused_ends_nothing(server: Place) -> None:
    alice, bob = await followers(server, "alice", "bob")
    room_id = await alice.client.create()
    await alice.begin()
    await bob.begin()
    await alice.client.treat(room_id, "invite", bob.client)
    await bob.client.leave(room_id)
    assert await alice.news() == ([], [])
    assert await bob.news() == ([], [])


async def test_a_leaving_wakes_who_waits(server: Place) -> None:
    alice, bob = await followers(server, "alice", "bob")
    room_id = await alice.client.create()
    await bob.client.join(room_id)
    since = await bob.client.token_now()
    await bob.client.leave(room_id)
    only_devices = {"room": {"rooms": []}, "presence": {"not_types": ["*"]}}
    answer = await bob.client.sync(since, only_devices, timeout=30_000)
    assert answer["device_lists"]["left"] == [alice.client.user_id]


async def test_a_crowd_is_not_told_whole(server: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_rooms, "MAX_MET", 2)
    names = ("alice", "bob", "carol", "dave", "eve")
    people = await followers(server, *names)
    room_id = await people[0].client.create()
    for person in people[1:4]:
        await person.client.join(room_id)
    eve = people[4]
    await eve.begin()
    await eve.client.join(room_id)
    assert len((await eve.news())[0]) == 2
    # But of everybody whom she leaves behind she is told.
    await eve.client.leave(room_id)
    assert len((await eve.news())[1]) == 4
