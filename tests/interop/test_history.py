"""A client pages back through what was said before its server knew the room."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.interop.agreement import same_events, told_in_order
from tests.interop.client import Client
from tests.interop.servers import Pair

pytestmark = [pytest.mark.interop, pytest.mark.xdist_group("interop-rooms")]


async def test_history_from_before_the_join(pair: Pair, version: str, alice: Client, bob: Client) -> None:
    room = await alice.create_room(version)
    said = [f"before {number}" for number in range(40)]
    for number, text in enumerate(said):
        await alice.send(room, text)
        if number % 10 == 5:
            await alice.set_state(room, "m.room.topic", {"topic": f"after {number}"})
    await bob.join(room, pair.host)
    later = [f"after {number}" for number in range(5)]
    for text in later:
        await alice.send(room, text)
        await bob.hears(room, text)

    await told_in_order(bob, room, said + later)
    history = await bob.history(room)
    assert history[-1]["type"] == "m.room.create"
    twice = [event_id for event_id, count in Counter(e["event_id"] for e in history).items() if count > 1]
    assert not twice
    await same_events(room, alice, bob)


async def test_history_longer_than_one_backfill(pair: Pair, alice: Client, bob: Client) -> None:
    """More than one backfill answer is needed: servers send at most about a hundred events each."""
    room = await alice.create_room()
    said = [f"old {number}" for number in range(130)]
    for text in said:
        await alice.send(room, text)
    await bob.join(room, pair.host)
    await told_in_order(bob, room, said)
    await same_events(room, alice, bob)


async def test_history_visible_since_joining_only(pair: Pair, alice: Client, bob: Client) -> None:
    room = await alice.create_room(
        initial_state=[
            {
                "type": "m.room.history_visibility",
                "state_key": "",
                "content": {"history_visibility": "joined"},
            }
        ]
    )
    await alice.send(room, "not for bob")
    await bob.join(room, pair.host)
    await alice.send(room, "for bob")
    await bob.hears(room, "for bob")
    bodies = [e["content"].get("body") for e in await bob.history(room) if e["type"] == "m.room.message"]
    assert bodies == ["for bob"]
