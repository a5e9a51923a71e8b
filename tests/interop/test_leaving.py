"""Leave, come back, be kicked, be banned: what one server decides takes effect on the other."""

from __future__ import annotations

import pytest

from tests.interop.agreement import same_events, same_state
from tests.interop.client import ApiError, Client, MakeUser
from tests.interop.servers import Pair
from tests.interop.waiting import eventually

pytestmark = [pytest.mark.interop, pytest.mark.xdist_group("interop-rooms")]


async def _is(viewer: Client, room: str, whom: Client, membership: str) -> bool:
    return await viewer.membership(room, whom.user_id) == membership


async def _forbidden(client: Client, room: str, what: str) -> None:
    with pytest.raises(ApiError) as refused:
        await client.send(room, what)
    assert (refused.value.status, refused.value.errcode) == (403, "M_FORBIDDEN")


async def test_leave_and_rejoin(pair: Pair, version: str, alice: Client, bob: Client) -> None:
    room = await alice.create_room(version)
    await alice.sync()
    await bob.join(room, pair.host)
    await bob.sync()
    await bob.send(room, "before")
    await alice.hears(room, "before")

    await bob.leave(room)
    await bob.follow(lambda: room in bob.left, "the leave")
    await eventually(lambda: _is(alice, room, bob, "leave"), "the leave at the host")
    await alice.send(room, "while bob was away")
    await alice.set_state(room, "m.room.topic", {"topic": "while bob was away"})
    await _forbidden(bob, room, "not in the room")
    assert room not in await bob.joined_rooms()

    await bob.join(room, pair.host)
    await eventually(lambda: _is(alice, room, bob, "join"), "the return at the host")
    state = await same_state(room, alice, bob)
    assert ("m.room.topic", "") in state
    await alice.send(room, "again together")
    await bob.hears(room, "again together")
    await bob.send(room, "indeed")
    await alice.hears(room, "indeed")
    assert "while bob was away" in [
        e["content"].get("body") for e in await bob.history(room) if e["type"] == "m.room.message"
    ]
    await same_events(room, alice, bob)


async def test_kick(pair: Pair, version: str, alice: Client, bob: Client) -> None:
    room = await alice.create_room(version)
    await bob.join(room, pair.host)
    await bob.sync()
    await alice.kick(room, bob.user_id)

    await bob.follow(lambda: room in bob.left, "the kick")
    assert room not in await bob.joined_rooms()
    await _forbidden(bob, room, "kicked out")
    # The room is public: a kick is no ban.
    await bob.join(room, pair.host)
    await eventually(lambda: _is(alice, room, bob, "join"), "the return at the host")
    await same_state(room, alice, bob)


async def test_kick_by_the_guest(
    pair: Pair, version: str, alice: Client, bob: Client, user: MakeUser
) -> None:
    """A moderator on the guest's server kicks and bans a user of the host's."""
    room = await alice.create_room(version)
    await bob.join(room, pair.host)
    carol = await user(pair.host, "carol")
    await carol.join(room)
    await carol.sync()
    levels = await alice.state_content(room, "m.room.power_levels")
    levels["users"] = {**levels.get("users", {}), bob.user_id: 50}
    changed = await alice.set_state(room, "m.room.power_levels", levels)
    await bob.sees_event(room, changed)
    await eventually(lambda: _is(bob, room, carol, "join"), "carol's join at the guest")

    await bob.ban(room, carol.user_id)

    await carol.follow(lambda: room in carol.left, "the ban")
    await eventually(lambda: _is(alice, room, carol, "ban"), "the ban at the host")
    await _forbidden(carol, room, "banned")
    await same_state(room, alice, bob)


async def test_ban_and_unban(pair: Pair, version: str, alice: Client, bob: Client) -> None:
    room = await alice.create_room(version)
    await alice.sync()
    await bob.join(room, pair.host)
    await bob.sync()
    await bob.send(room, "before the ban")
    await alice.hears(room, "before the ban")

    await alice.ban(room, bob.user_id)
    await bob.follow(lambda: room in bob.left, "the ban")
    await _forbidden(bob, room, "banned")
    with pytest.raises(ApiError) as refused:
        await bob.join(room, pair.host)
    assert (refused.value.status, refused.value.errcode) == (403, "M_FORBIDDEN")
    assert await alice.membership(room, bob.user_id) == "ban"
    await alice.send(room, "in peace")
    await alice.hears(room, "in peace")
    assert alice.texts(room) == ["before the ban", "in peace"]

    await alice.unban(room, bob.user_id)
    assert await alice.membership(room, bob.user_id) == "leave"
    await bob.join(room, pair.host)
    await eventually(lambda: _is(alice, room, bob, "join"), "the return at the host")
    await bob.send(room, "I am sorry")
    await alice.hears(room, "I am sorry")
    await same_state(room, alice, bob)
    await same_events(room, alice, bob)
