"""A user of one server comes into a room of the other: by alias, by invite; and declines."""

from __future__ import annotations

import pytest

from tests.interop.agreement import same_events, same_state
from tests.interop.client import ApiError, Client, MakeUser
from tests.interop.servers import Pair
from tests.interop.waiting import eventually

pytestmark = [pytest.mark.interop, pytest.mark.xdist_group("interop-rooms")]


async def test_join_by_alias(pair: Pair, version: str, alice: Client, bob: Client) -> None:
    name = alice.user_id.split(":")[0][1:]
    room = await alice.create_room(version, name="By alias", room_alias_name=name)
    alias = f"#{name}:{pair.host.name}"

    assert await bob.join(alias) == room

    assert room in await bob.joined_rooms()
    state = await same_state(room, alice, bob)
    assert ("m.room.member", bob.user_id) in state
    create = await bob.state_content(room, "m.room.create")
    assert create.get("room_version", "1") == version
    assert await bob.joined_members(room) == {alice.user_id, bob.user_id}
    assert await bob.state_content(room, "m.room.canonical_alias") == {"alias": alias}
    # Versions 12 and up name a room by its create event, without a domain.
    assert (":" in room) == (version != "12")


async def test_join_by_room_id(pair: Pair, alice: Client, bob: Client) -> None:
    room = await alice.create_room()
    assert await bob.join(room, pair.host) == room
    await same_state(room, alice, bob)


async def test_join_by_invite(pair: Pair, version: str, alice: Client, bob: Client) -> None:
    await bob.sync()
    room = await alice.create_room(version, "private_chat", name="By invite")
    await alice.invite(room, bob.user_id)
    await bob.follow(lambda: room in bob.invites, "the invite")
    stripped = {(e["type"], e["state_key"]): e for e in bob.invites[room]}
    assert stripped["m.room.member", bob.user_id]["content"]["membership"] == "invite"
    assert stripped["m.room.member", bob.user_id]["sender"] == alice.user_id
    assert stripped["m.room.name", ""]["content"]["name"] == "By invite"
    assert ("m.room.create", "") in stripped

    assert await bob.join(room) == room

    await bob.follow(lambda: room in bob.timelines, "the room among the joined")
    await eventually(lambda: _is(alice, room, bob, "join"), "the join at the host")
    await same_state(room, alice, bob)
    await alice.send(room, "welcome")
    await bob.hears(room, "welcome")
    # Everything since the invite is the guest's to read.
    await same_events(room, alice, bob)


async def test_uninvited_cannot_join(pair: Pair, alice: Client, bob: Client) -> None:
    room = await alice.create_room(preset="private_chat")
    with pytest.raises(ApiError) as refused:
        await bob.join(room, pair.host)
    assert (refused.value.status, refused.value.errcode) == (403, "M_FORBIDDEN")
    assert room not in await bob.joined_rooms()
    assert await alice.membership(room, bob.user_id) == ""


async def test_unknown_alias_and_room(pair: Pair, bob: Client) -> None:
    with pytest.raises(ApiError) as unknown:
        await bob.join(f"#nothing-here:{pair.host.name}")
    assert (unknown.value.status, unknown.value.errcode) == (404, "M_NOT_FOUND")
    with pytest.raises(ApiError) as no_room:
        await bob.join(f"!nothing-here:{pair.host.name}", pair.host)
    # The specification names no code; Synapse says that nobody could help it.
    assert no_room.value.status in (403, 404, 502)


async def test_decline_an_invite(pair: Pair, version: str, alice: Client, bob: Client) -> None:
    await bob.sync()
    room = await alice.create_room(version, "private_chat")
    await alice.invite(room, bob.user_id)
    await bob.follow(lambda: room in bob.invites, "the invite")

    await bob.leave(room)

    await eventually(lambda: _is(alice, room, bob, "leave"), "the refusal at the host")
    await bob.follow(lambda: room in bob.left, "the room among the left")


async def test_withdrawn_invite(pair: Pair, alice: Client, bob: Client) -> None:
    await bob.sync()
    room = await alice.create_room(preset="private_chat")
    await alice.invite(room, bob.user_id)
    await bob.follow(lambda: room in bob.invites, "the invite")
    await alice.kick(room, bob.user_id)
    await eventually(lambda: _is(alice, room, bob, "leave"), "the withdrawal at the host")

    async def refused() -> bool:
        try:
            await bob.join(room, pair.host)
        except ApiError as error:
            return error.status == 403
        raise RuntimeError("joined on a withdrawn invite")

    await eventually(refused, "a refused join")


async def test_second_user_joins_where_the_server_is_already(
    pair: Pair, version: str, alice: Client, bob: Client, user: MakeUser
) -> None:
    room = await alice.create_room(version)
    await bob.join(room, pair.host)
    # Synapse joins before it knows the whole state, and until then lets nobody follow.
    await same_state(room, alice, bob)
    carol = await user(pair.guest, "carol")
    await carol.join(room)
    await eventually(lambda: _is(alice, room, carol, "join"), "the second join at the host")
    await carol.send(room, "from carol")
    await alice.hears(room, "from carol")
    await same_state(room, alice, bob, carol)


async def _is(viewer: Client, room: str, whom: Client, membership: str) -> bool:
    return await viewer.membership(room, whom.user_id) == membership


async def test_second_user_is_invited_where_the_server_is_already(
    pair: Pair, version: str, alice: Client, bob: Client, user: MakeUser
) -> None:
    """They need not wait until the invite has come with the room's other events."""
    room = await alice.create_room(version, preset="private_chat")
    carol = await user(pair.guest, "carol")
    for guest in (bob, carol):
        await alice.invite(room, guest.user_id)
        await guest.join(room, pair.host)
        # Synapse joins before it knows the whole state, and until then lets nobody follow.
        await same_state(room, alice, guest)
    await same_state(room, alice, bob, carol)
    await same_events(room, alice, bob)
