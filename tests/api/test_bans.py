"""Banning, and what ends it (client-server §Banning users in a room), and joining by a room's id."""

from __future__ import annotations

from pathlib import Path

from tests.api.support_rooms import place
from tests.api.support_users import at


async def test_who_is_banned_may_come_back_once_the_ban_is_lifted(tmp_path: Path) -> None:
    async with place(tmp_path) as server:
        alice, bob = await server.clients("alice", "bob")
        room_id = await alice.create()
        joining = at("rooms", room_id, "join")
        assert (await bob.ask("POST", joining, {})).ok() == {"room_id": room_id}
        await alice.treat(room_id, "ban", bob)
        (await bob.ask("POST", joining, {})).failed(403, "M_FORBIDDEN")
        unban = at("rooms", room_id, "unban")
        (await bob.ask("POST", unban, {"user_id": bob.user_id})).failed(403, "M_FORBIDDEN")
        assert (await alice.ask("POST", unban, {"user_id": bob.user_id})).ok() == {}
        # To lift a ban is to leave the room in another's stead: it is no way back by itself.
        path = at("rooms", room_id, "state", "m.room.member", bob.user_id)
        assert (await alice.ask("GET", path)).ok()["membership"] == "leave"
        assert (await bob.ask("POST", joining, {})).ok() == {"room_id": room_id}


async def test_who_is_not_banned_cannot_be_let_back(tmp_path: Path) -> None:
    async with place(tmp_path) as server:
        alice, bob = await server.clients("alice", "bob")
        room_id = await alice.create()
        await bob.join(room_id)
        answer = await alice.ask("POST", at("rooms", room_id, "unban"), {"user_id": bob.user_id})
        answer.failed(403, "M_FORBIDDEN")
        assert set((await alice.ask("GET", at("rooms", room_id, "joined_members"))).ok()["joined"]) == {
            alice.user_id,
            bob.user_id,
        }
