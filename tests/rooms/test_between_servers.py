"""Two whole servers on one network: joins, history, invites."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest

from comity.protocol.build import Draft, build
from comity.protocol.errors import MatrixError
from comity.protocol.room_versions import ROOM_VERSIONS
from comity.store import queues
from comity.store import rooms as stored_rooms
from comity.store.database import Tx
from tests.rooms.support import Place, learn_keys, places, settle
from tests.rules.rooms import key_of

ONE, TWO, THREE = "one.test:1001", "two.test:1002", "three.test:1003"
ALICE, BOB, CAROL = f"@alice:{ONE}", f"@bob:{TWO}", f"@carol:{THREE}"


async def fill(place: Place, room_id: str, limit: int) -> None:
    """Page back until nothing more comes."""
    for _ in range(100):
        if not await place.rooms.reader._paging._fill_gap(room_id, 2**62, limit):
            return
    raise AssertionError("history has no end")


@pytest.mark.parametrize("version", ["1", "6", "11", "12"])
async def test_a_join_brings_the_state_and_paging_back_the_history(tmp_path: Path, version: str) -> None:
    """Also where history goes through events that were known before as part of the state."""
    async with places(tmp_path, ONE, TWO) as (one, two):
        room_id = await one.create(ALICE, version=version)
        for number in range(60):
            await one.say(room_id, str(number), ALICE)
            if number % 7 == 0:
                await one.send(room_id, ALICE, f"x.kind{number}", {"n": number}, "")
            if number % 20 == 0:
                await one.send(room_id, ALICE, "m.room.topic", {"topic": str(number)}, "")
        await two.rooms.memberships.join(BOB, room_id, [ONE])
        assert two.state(room_id) == one.state(room_id)
        two.assert_head_is_stored(room_id)
        assert two.timeline(room_id) == one.timeline(room_id)[-1:]
        await fill(two, room_id, 20)
        assert two.timeline(room_id) == one.timeline(room_id)
        assert two.count("gaps") == 0
        for event_id in one.timeline(room_id):
            here, there = two.stored(event_id), one.stored(event_id)
            assert here is not None
            assert there is not None
            assert here.event.encoded == there.event.encoded
            assert (here.verdict, here.is_outlier) == (0, False)
        two.assert_head_is_stored(room_id)
        assert two.state(room_id) == one.state(room_id)


async def test_messages_go_both_ways(tmp_path: Path) -> None:
    async with places(tmp_path, ONE, TWO) as (one, two):
        room_id = await one.create(ALICE)
        await two.rooms.memberships.join(BOB, room_id, [ONE])
        first = await one.say(room_id, "hello", ALICE)
        await settle(one.clock, two.clock, seconds=1)
        second = await two.say(room_id, "hello yourself", BOB)
        await settle(one.clock, two.clock, seconds=1)
        assert two.timeline(room_id)[-2:] == one.timeline(room_id)[-2:] == [first, second]
        await one.rooms.memberships.kick(ALICE, room_id, BOB)
        await settle(one.clock, two.clock, seconds=1)
        assert two.membership(room_id, BOB) == one.membership(room_id, BOB) == "leave"
        assert not two.head(room_id).resident


async def test_several_who_join_at_once(tmp_path: Path) -> None:
    """The first brings the server into the room: what it knows of it since is not replaced."""
    async with places(tmp_path, ONE, TWO) as (one, two):
        room_id = await one.create(ALICE)
        await one.say(room_id, "before", ALICE)
        users = [f"@{name}:{TWO}" for name in ("bob", "ben", "bea")]
        await asyncio.gather(*(two.rooms.memberships.join(user_id, room_id, [ONE]) for user_id in users))
        for place in (one, two):
            await settle(one.clock, two.clock, seconds=1)
            assert {place.membership(room_id, user_id) for user_id in users} == {"join"}
        assert two.state(room_id) == one.state(room_id)
        network: Any = two.app._ports.transport
        assert len([path for _, path in network.requests if "/send_join/" in path]) == 1


async def test_coming_back_after_having_left(tmp_path: Path) -> None:
    async with places(tmp_path, ONE, TWO) as (one, two):
        room_id = await one.create(ALICE)
        await two.rooms.memberships.join(BOB, room_id, [ONE])
        await two.rooms.memberships.leave(BOB, room_id)
        await settle(one.clock, two.clock, seconds=1)
        for number in range(5):
            await one.send(room_id, ALICE, "m.room.topic", {"topic": str(number)}, "")
        await two.rooms.memberships.join(BOB, room_id, [ONE])
        assert two.state(room_id) == one.state(room_id)
        assert two.membership(room_id, BOB) == two.membership(room_id, ALICE) == "join"
        two.assert_head_is_stored(room_id)
        await fill(two, room_id, 20)
        assert two.timeline(room_id) == one.timeline(room_id)
        await two.say(room_id, "back", BOB)
        await settle(one.clock, two.clock, seconds=1)
        assert two.timeline(room_id) == one.timeline(room_id)


@pytest.mark.parametrize("claimed", ["1", "6", "11"])
async def test_an_invite_does_not_decide_what_version_a_room_has(tmp_path: Path, claimed: str) -> None:
    """Anybody may claim anything of a room that we are not in."""
    async with places(tmp_path, ONE, TWO) as (one, two):
        room_id = await one.create(ALICE, version="10")
        await learn_keys(two, ["evil.example"])
        version = ROOM_VERSIONS[claimed]
        evil = "@evil:evil.example"
        invite = build(
            Draft("m.room.member", evil, {"membership": "invite"}, BOB),
            version=version,
            room_id=room_id,
            prev=[],
            auth=[],
            now_ms=two.clock.now_ms(),
            server="evil.example",
            key=key_of("evil.example"),
            assigned_id="$x:evil.example",
        )
        asked = {"room_version": claimed, "event": dict(invite.source), "invite_room_state": []}
        await two.rooms.resident.take_invite(
            "evil.example", room_id, invite.event_id, asked, user_exists=True
        )
        await two.rooms.memberships.join(BOB, room_id, [ONE])
        assert two.head(room_id).version.identifier == "10"
        await two.say(room_id, "hello", BOB)
        await settle(one.clock, two.clock, seconds=1)
        assert two.timeline(room_id)[-1] == one.timeline(room_id)[-1]
    async with places(tmp_path, ONE, TWO) as (one, two):
        assert two.head(room_id).version.identifier == "10"
        assert two.state(room_id) == one.state(room_id)


async def test_an_invite_from_elsewhere(tmp_path: Path) -> None:
    async with places(tmp_path, ONE, TWO) as (one, two):
        await two.app._users.accounts.create(BOB, "correct horse battery")
        room_id = await one.create(ALICE, preset="private_chat", name="secret")
        await one.rooms.memberships.invite(ALICE, room_id, BOB)
        assert one.membership(room_id, BOB) == "invite"
        assert not two.head(room_id).resident
        await two.rooms.memberships.join(BOB, room_id, [])
        assert two.state(room_id) == one.state(room_id)
        assert one.membership(room_id, BOB) == "join"


async def test_an_invite_turned_down(tmp_path: Path) -> None:
    async with places(tmp_path, ONE, TWO) as (one, two):
        await two.app._users.accounts.create(BOB, "correct horse battery")
        room_id = await one.create(ALICE, preset="private_chat")
        await one.rooms.memberships.invite(ALICE, room_id, BOB)
        await two.rooms.memberships.leave(BOB, room_id)
        assert one.membership(room_id, BOB) == "leave"
        one.assert_head_is_stored(room_id)


@pytest.mark.parametrize("alone", [False, True])
async def test_an_invite_turned_down_while_the_inviter_is_away(tmp_path: Path, alone: bool) -> None:
    """The server that the id of the room names is told instead; if there is none, the user is out here."""
    async with places(tmp_path, ONE, TWO, THREE) as (one, two, three):
        await three.app._users.accounts.create(CAROL, "correct horse battery")
        room_id = await one.create(ALICE, version="11")
        await two.rooms.memberships.join(BOB, room_id, [ONE])
        await two.rooms.memberships.invite(BOB, room_id, CAROL)
        await settle(one.clock, two.clock, seconds=1)
        network: Any = three.app._ports.transport
        for name in (TWO, ONE) if alone else (TWO,):
            del network.apps[name]
        await three.rooms.memberships.leave(CAROL, room_id)

        def last(tx: Tx) -> str | None:
            found = stored_rooms.last_local_membership(tx, CAROL, three.head(room_id).number)
            return found.membership if found is not None else None

        assert three.database.read_now(last) == "leave"
        assert one.membership(room_id, CAROL) == ("invite" if alone else "leave")


@pytest.mark.parametrize("joined", [False, True])
async def test_leaving_twice_is_no_error_where_nobody_of_us_is_left(tmp_path: Path, joined: bool) -> None:
    """A client that heard nothing of the answer asks again."""
    async with places(tmp_path, ONE, TWO) as (one, two):
        await two.app._users.accounts.create(BOB, "correct horse battery")
        room_id = await one.create(ALICE, preset="private_chat")
        await one.rooms.memberships.invite(ALICE, room_id, BOB)
        if joined:
            await two.rooms.memberships.join(BOB, room_id, [])
        await two.rooms.memberships.leave(BOB, room_id)
        await settle(one.clock, two.clock, seconds=1)
        events = two.count("events")
        await two.rooms.memberships.leave(BOB, room_id)
        assert two.count("events") == events
        # Who was never in it has nothing to leave.
        with pytest.raises(MatrixError) as caught:
            await two.rooms.memberships.leave(f"@ben:{TWO}", room_id)
        assert caught.value.code == "M_FORBIDDEN"


async def test_an_invite_tells_who_invites(tmp_path: Path) -> None:
    async with places(tmp_path, ONE, TWO) as (one, two):
        await two.app._users.accounts.create(BOB, "correct horse battery")
        room_id = await one.create(ALICE, preset="private_chat")
        profile = {"membership": "join", "displayname": "Alice", "avatar_url": "mxc://one.test/alice"}
        await one.send(room_id, ALICE, "m.room.member", profile, ALICE)
        await one.rooms.memberships.invite(ALICE, room_id, BOB)

        def shown(tx: Tx) -> str | None:
            last = stored_rooms.last_local_membership(tx, BOB, two.head(room_id).number)
            return last.stripped if last is not None else None

        stripped = orjson.loads(two.database.read_now(shown) or "[]")
        assert {"type": "m.room.member", "state_key": ALICE, "sender": ALICE, "content": profile} in stripped


async def test_who_is_banned_hears_nothing_of_the_end_of_it(tmp_path: Path) -> None:
    """Told late, an unban would meet the join that it allows."""
    async with places(tmp_path, ONE, TWO) as (one, two):
        room_id = await one.create(ALICE)
        await two.rooms.memberships.join(BOB, room_id, [ONE])
        await one.rooms.memberships.ban(ALICE, room_id, BOB)
        await one.rooms.memberships.unban(ALICE, room_id, BOB)

        def owed(tx: Tx) -> list[str | None]:
            numbers = [number for _, number, _ in queues.due(tx, TWO, 0, 100)]
            return [stored.event.membership for stored in one.rooms.reader.events.load(tx, numbers).values()]

        assert one.database.read_now(owed)[-1] == "ban"
        # The ban has arrived.
        await settle()
        await two.rooms.memberships.join(BOB, room_id, [ONE])
        assert one.membership(room_id, BOB) == two.membership(room_id, BOB) == "join"
