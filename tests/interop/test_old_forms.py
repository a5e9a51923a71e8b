"""The first version of send_join, send_leave and invite, between two servers of different make.

Neither would use it with the other. Each stands behind a front that does not know the second
version, so that each asks as it asks an old server, and answers as it answers one.
"""

from __future__ import annotations

import pytest

from tests.interop.agreement import same_state
from tests.interop.client import ApiError, Client, MakeUser
from tests.interop.front import Fronts
from tests.interop.servers import Pair
from tests.interop.waiting import eventually

pytestmark = [pytest.mark.interop, pytest.mark.xdist_group("interop-fronts")]

ALL = {"send_join", "send_leave", "invite"}


@pytest.fixture
def pair(fronted_pair: Pair) -> Pair:
    return fronted_pair


async def _is(viewer: Client, room: str, whom: Client, membership: str) -> bool:
    return await viewer.membership(room, whom.user_id) == membership


@pytest.mark.parametrize("kind", ["1", "2", "10", "12"])
async def test_joining(pair: Pair, fronts: Fronts, alice: Client, bob: Client, kind: str) -> None:
    front = fronts[pair.host.name]
    front.hidden = ALL
    room = await alice.create_room(kind)
    await bob.join(room, pair.host)
    assert front.seen == [("v2", "send_join", 404), ("v1", "send_join", 200)]
    await same_state(room, alice, bob)
    await bob.send(room, "of old")
    await alice.hears(room, "of old")
    await alice.send(room, "as ever")
    await bob.hears(room, "as ever")


@pytest.mark.parametrize("kind", ["1", "2"])
async def test_inviting_and_refusing(
    pair: Pair, fronts: Fronts, alice: Client, bob: Client, user: MakeUser, kind: str
) -> None:
    for front in fronts.values():
        front.hidden = ALL
    room = await alice.create_room(kind, "private_chat", name="Old")
    await alice.invite(room, bob.user_id)
    assert fronts[pair.guest.name].seen == [("v2", "invite", 404), ("v1", "invite", 200)]
    await bob.follow(lambda: room in bob.invites, "the invite")
    shown = {event["type"]: event["content"] for event in bob.invites[room]}
    assert shown["m.room.name"] == {"name": "Old"}
    await bob.leave(room)
    assert fronts[pair.host.name].seen == [("v2", "send_leave", 404), ("v1", "send_leave", 200)]
    await eventually(lambda: _is(alice, room, bob, "leave"), "the refusal at the host")
    carol = await user(pair.guest, "carol")
    await alice.invite(room, carol.user_id)
    await carol.follow(lambda: room in carol.invites, "the second invite")
    await carol.join(room)
    await same_state(room, alice, carol)


@pytest.mark.parametrize("kind", ["10", "12"])
async def test_refusing_where_invites_are_new(
    pair: Pair, fronts: Fronts, alice: Client, bob: Client, kind: str
) -> None:
    fronts[pair.host.name].hidden = {"send_leave"}
    room = await alice.create_room(kind, "private_chat")
    await alice.invite(room, bob.user_id)
    await bob.follow(lambda: room in bob.invites, "the invite")
    await bob.leave(room)
    assert fronts[pair.host.name].seen == [("v2", "send_leave", 404), ("v1", "send_leave", 200)]
    await eventually(lambda: _is(alice, room, bob, "leave"), "the refusal at the host")


async def test_no_invite_of_old_to_a_new_room(pair: Pair, fronts: Fronts, alice: Client, bob: Client) -> None:
    """The first version names no room version: it is for rooms of versions 1 and 2."""
    fronts[pair.guest.name].hidden = ALL
    room = await alice.create_room("10", "private_chat")
    with pytest.raises(ApiError):
        await alice.invite(room, bob.user_id)
    assert fronts[pair.guest.name].seen == [("v2", "invite", 404)]
    assert await alice.membership(room, bob.user_id) == ""
