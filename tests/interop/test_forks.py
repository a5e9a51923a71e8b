"""Both servers write at once: the history forks and heals, and both end with the same room."""

from __future__ import annotations

import asyncio

import pytest

from tests.interop.agreement import same_events, same_state
from tests.interop.client import Client, MakeUser, texts
from tests.interop.servers import Pair

pytestmark = [pytest.mark.interop, pytest.mark.xdist_group("interop-rooms")]

#: What each side sends at the same time.
EACH = 15


async def _talk(client: Client, room: str, who: str) -> None:
    for number in range(EACH):
        await client.send(room, f"{who} {number}")
        if number % 5 == 2:
            await client.set_state(room, "m.room.topic", {"topic": f"{who} {number}"})
            await client.set_state(room, "org.example.mine", {"n": number}, who)


async def test_concurrent_sends(pair: Pair, version: str, alice: Client, bob: Client) -> None:
    room = await alice.create_room(version, power_level_content_override={"state_default": 0})
    await bob.join(room, pair.host)

    await asyncio.gather(_talk(alice, room, "alice"), _talk(bob, room, "bob"))

    # One more word from each side joins the ends of the fork.
    await alice.send(room, "last of alice")
    await bob.hears(room, "last of alice")
    await bob.send(room, "last of bob")
    await alice.hears(room, "last of bob")
    state = await same_state(room, alice, bob)
    assert ("org.example.mine", "alice") in state
    assert ("org.example.mine", "bob") in state
    await same_events(room, alice, bob)
    for client in (alice, bob):
        history = texts(list(reversed(await client.history(room, page=50))))
        for who in ("alice", "bob"):
            own = [text for text in history if text.startswith(f"{who} ")]
            assert own == [f"{who} {number}" for number in range(EACH)], client.server.name


async def test_concurrent_power_struggle(
    pair: Pair, version: str, alice: Client, bob: Client, user: MakeUser
) -> None:
    """Two moderators ban and promote at the same moment; both servers resolve it alike."""
    room = await alice.create_room(version)
    await bob.join(room, pair.host)
    carol = await user(pair.guest, "carol")
    await carol.join(room, pair.host)
    levels = await alice.state_content(room, "m.room.power_levels")
    levels["users"] = {**levels.get("users", {}), bob.user_id: 60, carol.user_id: 50}
    levels["events"] = {**levels.get("events", {}), "m.room.power_levels": 60}
    changed = await alice.set_state(room, "m.room.power_levels", levels)
    await bob.sees_event(room, changed)
    await same_state(room, alice, bob, carol)
    raised = {**levels, "users": {**levels["users"], carol.user_id: 59}}

    outcomes = await asyncio.gather(
        alice.ban(room, carol.user_id),
        bob.set_state(room, "m.room.power_levels", raised),
        carol.set_state(room, "m.room.topic", {"topic": "carol was here"}),
        alice.set_state(room, "m.room.topic", {"topic": "alice was here"}),
        return_exceptions=True,
    )
    # The ban may have reached carol's server before her topic did.
    assert not isinstance(outcomes[2], BaseException) or getattr(outcomes[2], "status", 0) == 403
    assert not [outcome for outcome in (*outcomes[:2], outcomes[3]) if isinstance(outcome, BaseException)]

    await alice.send(room, "settled?")
    await bob.hears(room, "settled?")
    await bob.send(room, "settled")
    await alice.hears(room, "settled")
    await same_state(room, alice, bob)
    assert await bob.membership(room, carol.user_id) == "ban"
