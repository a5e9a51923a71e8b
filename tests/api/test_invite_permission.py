"""Who blocks invites gets none: not by any route, not over federation, and sees none that came before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from comity.protocol.build import Draft
from comity.protocol.event import Event
from tests.api.neighbours import FEDERATION, client_of, name_of, neighbours, refusal, settle
from tests.api.support_rooms import Client, Place, place
from tests.api.support_users import Answer, at
from tests.api.test_sliding_sync import slide, window

BLOCKED = "M_INVITE_BLOCKED"
PERMISSION = "m.invite_permission_config"


async def block(client: Client, action: object = "block") -> None:
    """Have no invites any more."""
    await client.account_data(PERMISSION, {"default_action": action})


async def invite(client: Client, room_id: str, user_id: str) -> Answer:
    """Invite somebody."""
    return await client.ask("POST", at("rooms", room_id, "invite"), {"user_id": user_id})


async def invite_by_state(client: Client, room_id: str, user_id: str, **more: Any) -> Answer:
    """Invite somebody, by the route that sets state."""
    path = at("rooms", room_id, "state", "m.room.member", user_id)
    return await client.ask("PUT", path, {"membership": "invite", **more})


async def membership(client: Client, room_id: str, user_id: str) -> Any:
    """A membership as a member of the room sees it."""
    answer = await client.ask("GET", at("rooms", room_id, "state", "m.room.member", user_id))
    return answer.body.get("membership")


async def invites(client: Client, since: str | None = None) -> list[str]:
    """The rooms that a user is told to be invited to."""
    return list((await client.sync(since))["rooms"]["invite"])


async def test_by_no_route(tmp_path: Path) -> None:
    async with place(tmp_path) as server:
        alice, bob, carol = await server.clients("alice", "bob", "carol")
        room_id = await alice.create()
        await block(bob)
        (await invite(alice, room_id, bob.user_id)).failed(403, BLOCKED)
        (await invite_by_state(alice, room_id, bob.user_id)).failed(403, BLOCKED)
        assert await membership(alice, room_id, bob.user_id) is None
        before = (await alice.ask("GET", "/joined_rooms")).ok()
        body = {"preset": "private_chat", "invite": [carol.user_id, bob.user_id]}
        (await alice.ask("POST", "/createRoom", body)).failed(403, BLOCKED)
        assert (await alice.ask("GET", "/joined_rooms")).ok() == before
        assert await invites(carol) == []
        # Theirs alone: others are invited, and they themselves join and invite.
        (await invite(alice, room_id, carol.user_id)).ok()
        await bob.join(room_id)
        (await invite_by_state(bob, room_id, carol.user_id, reason="again")).ok()
        assert await invites(carol) == [room_id]
        await block(bob, None)
        await alice.treat(room_id, "kick", bob)
        (await invite(alice, room_id, bob.user_id)).ok()
        assert await invites(bob) == [room_id]


@pytest.mark.parametrize(
    "content", [{}, {"default_action": "allow"}, {"default_action": ["block"]}, ["block"]]
)
async def test_what_does_not_block(tmp_path: Path, content: object) -> None:
    async with place(tmp_path) as server:
        alice, bob = await server.clients("alice", "bob")
        path = at("user", bob.user_id, "account_data", PERMISSION)
        answer = await bob.ask("PUT", path, content)
        assert answer.status == (200 if isinstance(content, dict) else 400)
        room_id = await alice.create(invite=[bob.user_id])
        assert await invites(bob) == [room_id]


async def test_what_came_before_is_not_shown_while_it_lasts(tmp_path: Path) -> None:
    async with place(tmp_path) as server:
        alice, bob = await server.clients("alice", "bob")
        start = await bob.token_now()
        room_id = await alice.create(invite=[bob.user_id])
        assert await invites(bob, start) == [room_id]
        await block(bob)
        assert await invites(bob, start) == await invites(bob) == []
        state = (await alice.ask("GET", at("rooms", room_id, "state"))).ok()
        assert "invite" in [event["content"].get("membership") for event in state]
        await block(bob, None)
        assert await invites(bob) == [room_id]
        await bob.join(room_id)
        await block(bob)
        assert room_id in (await bob.sync())["rooms"]["join"]


async def test_nor_by_sliding_sync(tmp_path: Path) -> None:
    async with place(tmp_path) as server:
        alice, bob = await server.clients("alice", "bob")
        start = (await slide(bob, window()))["pos"]
        room_id = await alice.create(invite=[bob.user_id])
        assert (await slide(bob, window(), start))["rooms"].keys() == {room_id}
        await block(bob)
        asked = {**window(), "room_subscriptions": {room_id: {"timeline_limit": 1, "required_state": []}}}
        answer = await slide(bob, asked)
        assert (answer["rooms"], answer["lists"]["all"]["count"]) == ({}, 0)
        await block(bob, None)
        answer = await slide(bob, asked, answer["pos"])
        assert (answer["rooms"].keys(), answer["lists"]["all"]["count"]) == ({room_id}, 1)


async def test_over_federation(tmp_path: Path) -> None:
    async with neighbours(tmp_path) as (here, there):
        alice, bob = await here.client("alice"), await there.client("bob")
        room_id = await alice.create(name="The trap")
        await block(bob)
        (await invite(alice, room_id, bob.user_id)).failed(403, BLOCKED)
        (await invite_by_state(alice, room_id, bob.user_id)).failed(403, BLOCKED)
        assert await membership(alice, room_id, bob.user_id) is None
        (await alice.ask("POST", "/createRoom", {"invite": [bob.user_id]})).failed(403, BLOCKED)
        assert (await alice.ask("GET", "/joined_rooms")).ok() == {"joined_rooms": [room_id]}
        assert await invites(bob) == []
        for version in ("v1", "v2"):
            assert await refusal(_invite_as(here, version, alice, bob)) == (403, BLOCKED)
        await block(bob, None)
        assert (await invite(alice, room_id, bob.user_id)).ok() == {}
        assert await invites(bob) == [room_id]


async def _invite_as(here: Place, version: str, alice: Client, bob: Client) -> None:
    """Send an invite to a room of version 1, in either form."""
    room_id = await alice.create(room_version="1")
    event = await _drafted(here, room_id, alice, bob)
    body: dict[str, Any] = {"room_version": "1", "event": dict(event.source), "invite_room_state": []}
    if version == "v1":
        body = dict(event.source)
    path = f"{FEDERATION}/{version}/invite/{room_id}/{event.event_id}"
    await client_of(here).request(name_of(2), "PUT", path, content=body)


async def _drafted(here: Place, room_id: str, alice: Client, bob: Client) -> Event:
    rooms = here.app._rooms
    room = await rooms.writer.resident_room(room_id)
    draft = Draft("m.room.member", alice.user_id, {"membership": "invite"}, state_key=bob.user_id)
    return await rooms.memberships._decisions.draft(
        room, lambda tx, batch: rooms.writer.draft_event(tx, batch, draft)
    )


async def test_an_invite_that_comes_as_an_event_is_kept_and_not_shown(tmp_path: Path) -> None:
    """A server in the room need not have asked ours."""
    async with neighbours(tmp_path) as (here, there):
        alice, bob, ben = await here.client("alice"), await there.client("bob"), await there.client("ben")
        room_id = await alice.create()
        await ben.join(room_id, via=name_of(1))
        await settle(here, there)
        await block(bob)
        start = await bob.token_now()
        content = {"membership": "invite"}
        await here.app._rooms.writer.send(
            room_id, Draft("m.room.member", alice.user_id, content, state_key=bob.user_id)
        )
        await settle(here, there)
        assert await membership(ben, room_id, bob.user_id) == "invite"
        assert await invites(bob, start) == await invites(bob) == []
        await block(bob, None)
        assert await invites(bob) == [room_id]
