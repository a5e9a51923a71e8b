"""Knocks, restricted joins, and what rooms look like from outside, between two servers of different make."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from tests.interop.agreement import same_state
from tests.interop.client import ApiError, Client, Json, MakeUser, request
from tests.interop.servers import Pair
from tests.interop.waiting import eventually

pytestmark = [pytest.mark.interop, pytest.mark.xdist_group("interop-rooms")]


_limits = itertools.count(1)


def rule(join_rule: str, *allowed: str) -> Json:
    """Initial state: a join rule."""
    allow = [{"type": "m.room_membership", "room_id": room} for room in allowed]
    content = {"join_rule": join_rule, **({"allow": allow} if "restricted" in join_rule else {})}
    return {"type": "m.room.join_rules", "state_key": "", "content": content}


async def knock(client: Client, room: str, pair: Pair) -> str:
    """Knock on a room through the host."""
    query = {"via": pair.host.name, "server_name": pair.host.name}
    answer = await client.call("POST", "knock", room, body={"reason": "please"}, query=query)
    return str(answer["room_id"])


async def knocked(client: Client) -> dict[str, list[Json]]:
    """The rooms that a first /sync tells as knocked on: their stripped state."""
    # Synapse remembers the answer to a first /sync for a while: by its filter, among others.
    wanted = json.dumps({"room": {"timeline": {"limit": next(_limits)}}})
    rooms = (await client.call("GET", "sync", query={"filter": wanted})).get("rooms", {}).get("knock", {})
    return {room: part["knock_state"]["events"] for room, part in rooms.items()}


async def v1(client: Client, path: str, **query: str | int) -> Json:
    """GET of an endpoint under `/_matrix/client/v1`."""
    return await request(
        client.http,
        "GET",
        client.server.base_url,
        "/_matrix/client/v1" + path,
        token=client.token,
        query=query,
    )


async def _is(viewer: Client, room: str, whom: Client, membership: str) -> bool:
    return await viewer.membership(room, whom.user_id) == membership


@pytest.mark.parametrize(("kind", "join_rule"), [("7", "knock"), ("11", "knock"), ("12", "knock_restricted")])
async def test_a_knock_is_accepted(pair: Pair, alice: Client, bob: Client, kind: str, join_rule: str) -> None:
    room = await alice.create_room(kind, "private_chat", name="Club", initial_state=[rule(join_rule)])
    assert await knock(bob, room, pair) == room
    assert await alice.membership(room, bob.user_id) == "knock"
    shown = {(event["type"], event["state_key"]): event["content"] for event in (await knocked(bob))[room]}
    assert shown["m.room.name", ""] == {"name": "Club"}
    assert shown["m.room.member", bob.user_id]["membership"] == "knock"
    await alice.invite(room, bob.user_id)
    await bob.follow(lambda: room in bob.invites, "the invite")
    assert room not in await knocked(bob)
    await bob.join(room)
    await eventually(lambda: _is(alice, room, bob, "join"), "the join at the host")
    await same_state(room, alice, bob)


async def test_a_knock_is_refused(pair: Pair, alice: Client, bob: Client) -> None:
    room = await alice.create_room("11", "private_chat", initial_state=[rule("knock")])
    await knock(bob, room, pair)
    await alice.kick(room, bob.user_id)
    assert await alice.membership(room, bob.user_id) == "leave"

    async def gone() -> bool:
        return room not in await knocked(bob)

    # Synapse tells the other server nothing of it, and heeds nothing that it is told.
    if "synapse" not in (pair.host.software, pair.guest.software):
        await eventually(gone, "the refusal of the knock")
    await knock(bob, room, pair)
    assert await alice.membership(room, bob.user_id) == "knock"


async def test_a_knock_is_taken_back(pair: Pair, alice: Client, bob: Client) -> None:
    room = await alice.create_room("11", "private_chat", initial_state=[rule("knock")])
    await knock(bob, room, pair)
    await bob.leave(room)
    if pair.guest.software != "synapse":  # which tells nobody
        await eventually(lambda: _is(alice, room, bob, "leave"), "the end of the knock at the host")
    assert room not in await knocked(bob)


async def test_where_nobody_can_knock(pair: Pair, alice: Client, bob: Client) -> None:
    for version in ("6", "11"):
        room = await alice.create_room(version, "private_chat")
        with pytest.raises(ApiError) as refused:
            await knock(bob, room, pair)
        assert refused.value.status in (400, 403)


@pytest.mark.parametrize(
    ("kind", "join_rule"), [("8", "restricted"), ("12", "restricted"), ("10", "knock_restricted")]
)
async def test_a_restricted_join(
    pair: Pair, alice: Client, bob: Client, user: MakeUser, kind: str, join_rule: str
) -> None:
    space = await alice.create_room(kind)
    room = await alice.create_room(kind, "private_chat", initial_state=[rule(join_rule, space)])
    with pytest.raises(ApiError) as refused:
        await bob.join(room, pair.host)
    assert refused.value.status == 403
    await bob.join(space, pair.host)
    await bob.join(room, pair.host)
    await same_state(room, alice, bob)
    member = await alice.state_content(room, "m.room.member", bob.user_id)
    assert member["join_authorised_via_users_server"] == alice.user_id
    carol = await user(pair.guest, "carol")
    await carol.join(space)
    await carol.join(room)
    await eventually(lambda: _is(alice, room, carol, "join"), "the second join at the host")
    await same_state(room, alice, bob, carol)


async def test_a_join_that_the_guest_cannot_vouch_for(
    pair: Pair, alice: Client, bob: Client, user: MakeUser
) -> None:
    """The guest's server is in the room, but has nobody who may invite."""
    space = await alice.create_room("11")
    room = await alice.create_room(
        "11", "private_chat", initial_state=[rule("restricted", space)],
        power_level_content_override={"invite": 50},
    )  # fmt: skip
    await alice.invite(room, bob.user_id)
    await bob.follow(lambda: room in bob.invites, "the invite")
    await bob.join(room)
    await same_state(room, alice, bob)
    carol = await user(pair.guest, "carol")
    await carol.join(space, pair.host)
    await carol.join(room, pair.host)
    await eventually(lambda: _is(alice, room, carol, "join"), "the join at the host")
    await same_state(room, alice, bob, carol)
    await carol.send(room, "let in")
    await alice.hears(room, "let in")


async def test_the_event_at_a_time(pair: Pair, alice: Client, bob: Client) -> None:
    room = await alice.create_room("11")
    ids = [await alice.send(room, str(number)) for number in range(30)]
    times = [(await alice.event(room, event_id))["origin_server_ts"] for event_id in ids]
    await bob.join(room, pair.host)
    await same_state(room, alice, bob)
    path = f"/rooms/{room.replace('!', '%21').replace(':', '%3A')}/timestamp_to_event"
    for direction in ("b", "f"):
        found = await v1(bob, path, ts=times[10], dir=direction)
        assert found["origin_server_ts"] == times[10]
        assert times[ids.index(found["event_id"])] == times[10]
        around = await bob.call("GET", "rooms", room, "context", found["event_id"], query={"limit": 2})
        assert around["event"]["event_id"] == found["event_id"]


async def test_a_space_over_two_servers(pair: Pair, alice: Client, bob: Client) -> None:
    async def put(owner: Client, space: str, child: str) -> None:
        await owner.set_state(space, "m.space.child", {"via": [owner.server.name]}, child)

    inner = await alice.create_room(name="inner", creation_content={"type": "m.space"})
    leaf = await alice.create_room(name="leaf")
    closed = await alice.create_room(preset="private_chat", name="closed")
    for child in (leaf, closed):
        await put(alice, inner, child)
    outer = await bob.create_room(name="outer", creation_content={"type": "m.space"})
    await bob.set_state(outer, "m.space.child", {"via": [pair.host.name]}, inner)
    answer = await v1(bob, f"/rooms/{outer.replace('!', '%21')}/hierarchy")
    assert [room["name"] for room in answer["rooms"]] == ["outer", "inner", "leaf"]
    told: dict[str, Any] = answer["rooms"][1]
    assert {child["state_key"] for child in told["children_state"]} == {leaf, closed}
    assert told["room_type"] == "m.space"


async def test_the_other_servers_published_rooms(pair: Pair, alice: Client, bob: Client) -> None:
    name = f"Listed by {alice.user_id}"
    room = await alice.create_room(name=name, visibility="public")
    body = {"filter": {"generic_search_term": alice.user_id}}
    answer = await bob.call("POST", "publicRooms", body=body, query={"server": pair.host.name})
    assert [(item["room_id"], item["name"]) for item in answer["chunk"]] == [(room, name)]
    assert answer["chunk"][0]["num_joined_members"] == 1
    everything = await bob.call("GET", "publicRooms", query={"server": pair.host.name, "limit": 100})
    assert room in {item["room_id"] for item in everything["chunk"]}
