"""Who comes and goes: the rules that local users meet."""

from __future__ import annotations

from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest

from comity.protocol.errors import MatrixError
from comity.store import rooms as stored_rooms
from tests.rooms.support import ALICE, AMY, BOB, Place, a_place

ANN = "@ann:a.example"


async def status(attempt: Awaitable[object]) -> int:
    """200, or the status of the error."""
    try:
        await attempt
    except MatrixError as error:
        assert error.text
        return error.status
    return 200


async def a_room(place: Place, **fields: Any) -> str:
    """A room of Alice with Amy in it."""
    room_id = await place.create(**fields)
    await place.rooms.memberships.join(AMY, room_id, [])
    return room_id


@pytest.mark.parametrize("version", ["1", "10", "12"])
async def test_coming_and_going(tmp_path: Path, version: str) -> None:
    async with a_place(tmp_path) as place:
        memberships = place.rooms.memberships
        room_id = await a_room(place, version=version)
        assert place.membership(room_id, AMY) == "join"
        count = place.count("events")
        await memberships.join(AMY, room_id, [])
        assert place.count("events") == count
        await memberships.leave(AMY, room_id, reason="bored")
        assert place.membership(room_id, AMY) == "leave"
        assert place.content(room_id, "m.room.member", AMY) == {"membership": "leave", "reason": "bored"}
        place.assert_head_is_stored(room_id)


async def test_leaving_twice_is_no_error(tmp_path: Path) -> None:
    """As the docstring of `leave` promises; somebody who never was there is told so."""
    async with a_place(tmp_path) as place:
        memberships = place.rooms.memberships
        room_id = await a_room(place)
        await memberships.leave(AMY, room_id)
        count = place.count("events")
        assert await status(memberships.leave(AMY, room_id)) == 200
        assert place.count("events") == count
        assert await status(memberships.leave(ANN, room_id)) in (403, 404)
        assert await status(memberships.leave(AMY, "!no:a.example")) == 404


async def test_kick(tmp_path: Path) -> None:
    async with a_place(tmp_path) as place:
        memberships = place.rooms.memberships
        room_id = await a_room(place)
        assert await status(memberships.kick(AMY, room_id, ALICE)) == 403
        assert await status(memberships.kick(ALICE, room_id, ANN)) == 403
        assert await status(memberships.kick(ALICE, room_id, "amy")) == 400
        assert await status(memberships.kick(ANN, room_id, AMY)) == 403
        await memberships.kick(ALICE, room_id, AMY, reason="spam")
        assert place.membership(room_id, AMY) == "leave"
        assert await status(place.say(room_id, "x", AMY)) == 403
        await memberships.join(AMY, room_id, [])
        assert place.membership(room_id, AMY) == "join"


async def test_ban_and_unban(tmp_path: Path) -> None:
    async with a_place(tmp_path) as place:
        memberships = place.rooms.memberships
        room_id = await a_room(place)
        assert await status(memberships.unban(ALICE, room_id, AMY)) == 403
        await memberships.ban(ALICE, room_id, AMY)
        assert place.membership(room_id, AMY) == "ban"
        for attempt in (
            memberships.join(AMY, room_id, []),
            memberships.leave(AMY, room_id),
            memberships.invite(ALICE, room_id, AMY),
            memberships.kick(ALICE, room_id, AMY),
            place.say(room_id, "x", AMY),
        ):
            assert await status(attempt) == 403
        assert place.membership(room_id, AMY) == "ban"
        await memberships.unban(ALICE, room_id, AMY)
        assert place.membership(room_id, AMY) == "leave"
        await memberships.join(AMY, room_id, [])
        # Somebody who never was here can be banned.
        await memberships.ban(ALICE, room_id, ANN)
        assert await status(memberships.join(ANN, room_id, [])) == 403


async def test_invites(tmp_path: Path) -> None:
    async with a_place(tmp_path) as place:
        memberships = place.rooms.memberships
        room_id = await place.create(preset="private_chat")
        assert await status(memberships.join(AMY, room_id, [])) == 403
        await memberships.invite(ALICE, room_id, AMY)
        await memberships.leave(AMY, room_id)
        assert await status(memberships.join(AMY, room_id, [])) == 403
        await memberships.invite(ALICE, room_id, AMY)
        await memberships.join(AMY, room_id, [])
        assert await status(memberships.invite(ALICE, room_id, AMY)) in (200, 403)
        assert place.membership(room_id, AMY) == "join"
        assert await status(memberships.invite(ANN, room_id, ANN)) == 403


async def test_forgetting(tmp_path: Path) -> None:
    async with a_place(tmp_path) as place:
        memberships = place.rooms.memberships
        room_id = await a_room(place)
        assert await status(memberships.forget(AMY, room_id)) == 400
        assert await status(memberships.forget(ANN, room_id)) == 404
        assert await status(memberships.forget(AMY, "!no:a.example")) == 404
        await memberships.leave(AMY, room_id)
        await memberships.forget(AMY, room_id)
        number = place.head(room_id).number

        def forgotten() -> bool:
            last = place.database.read_now(lambda tx: stored_rooms.last_local_membership(tx, AMY, number))
            assert last is not None
            return last.forgotten

        assert forgotten()
        await memberships.join(AMY, room_id, [])
        assert not forgotten()


async def test_the_last_of_us_takes_the_room_along(tmp_path: Path) -> None:
    async with a_place(tmp_path) as place:
        memberships = place.rooms.memberships
        room_id = await place.create()
        branch = place.branch(room_id)
        await place.accept(branch.join(BOB))
        await memberships.leave(ALICE, room_id)
        assert not place.head(room_id).resident
        branch = place.branch(room_id)
        event = branch.send(BOB, "m.room.message", {"body": "alone"})
        assert "error" in (await place.receive("b.example", event))[event.event_id]
        assert place.stored(event.event_id) is None
        assert await status(place.say(room_id, "x")) in (403, 404)
    async with a_place(tmp_path) as place:
        assert not place.head(room_id).resident


async def test_servers_stay_while_they_have_users(tmp_path: Path) -> None:
    async with a_place(tmp_path) as place:
        room_id = await place.create()
        branch = place.branch(room_id)
        other = "@ben:b.example"
        await place.accept(branch.join(BOB), branch.join(other))
        number = place.head(room_id).number

        def servers() -> set[str]:
            return place.database.read_now(lambda tx: stored_rooms.servers(tx, number))

        assert servers() == {"b.example"}
        await place.accept(branch.leave(BOB))
        assert servers() == {"b.example"}
        await place.rooms.memberships.kick(ALICE, room_id, other)
        assert servers() == set()
        branch = place.branch(room_id)
        await place.accept(branch.join(BOB))
        assert servers() == {"b.example"}
        stays = place.database.read_now(
            lambda tx: tx.all("SELECT from_position, to_position FROM server_stays ORDER BY from_position")
        )
        assert len(stays) == 2
        assert stays[0][1] is not None
        assert stays[0][0] < stays[0][1] < stays[1][0]
        assert stays[1][1] is None
