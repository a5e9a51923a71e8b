"""Transactions of other servers: each PDU's fate, the same answer again, what waits."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest

from comity.protocol.errors import MatrixError
from comity.protocol.event import Event
from comity.protocol.signing import sign_event
from comity.rooms.graft import Cutting
from comity.store import heads, queues
from comity.store import rooms as stored_rooms
from comity.store.events import ACCEPTED, REJECTED
from tests.rooms.support import ALICE, AMY, BOB, CAROL, Place, a_place, settle
from tests.rules.rooms import Room, key_of


async def a_shared_room(place: Place, version: str = "10") -> tuple[str, Room]:
    """A room with Bob in it, and a branch at its head."""
    room_id = await place.create(version=version)
    await place.accept(place.branch(room_id).join(BOB))
    return room_id, place.branch(room_id)


async def test_a_transaction_again_gets_the_same_answer(tmp_path: Path) -> None:
    async with a_place(tmp_path) as place:
        room_id, branch = await a_shared_room(place)
        good = branch.send(BOB, "m.room.message", {"body": "x"})
        bad = branch.write(BOB, "m.room.topic", {"topic": "x"}, "")
        values: list[object] = [dict(good.source), dict(bad.source)]
        intake = place.rooms.intake
        at_once = await asyncio.gather(*(intake.receive("b.example", "t", values) for _ in range(3)))
        answer = at_once[0]
        assert set(at_once) == {answer}
        results = orjson.loads(answer)["pdus"]
        assert results[good.event_id] == {}
        assert "error" in results[bad.event_id]
        # Nobody looks at the PDUs of a repetition.
        assert await intake.receive("b.example", "t", []) == answer
        # Another server's transaction of that id is another one.
        assert orjson.loads(await intake.receive("c.example", "t", []))["pdus"] == {}
    async with a_place(tmp_path) as place:
        assert await place.rooms.intake.receive("b.example", "t", []) == answer
        assert place.timeline(room_id)[-1] == good.event_id


async def test_what_is_malformed_or_forged_is_dropped(tmp_path: Path) -> None:
    async with a_place(tmp_path) as place:
        room_id, branch = await a_shared_room(place)
        count = place.count("events")
        honest = branch.write(BOB, "m.room.message", {"body": "x"})
        unsigned = {**honest.source, "signatures": {}}
        source = {name: part for name, part in honest.source.items() if name not in ("hashes", "signatures")}
        impostor = sign_event(branch.version, {**source, "depth": 99}, "b.example", key_of("c.example"))
        by_another = sign_event(branch.version, {**source, "depth": 98}, "c.example", key_of("c.example"))
        junk: list[Any] = [
            1,
            None,
            "x",
            [],
            {},
            {"room_id": room_id},
            {"room_id": 1},
            {**honest.source, "depth": -1},
        ]
        answer = await place.rooms.intake.receive(
            "b.example", "t", [unsigned, dict(impostor.source), dict(by_another.source), *junk]
        )
        results = orjson.loads(answer)["pdus"]
        assert all("error" in result for result in results.values())
        assert {honest.event_id, impostor.event_id, by_another.event_id} <= results.keys()
        assert place.count("events") == count
        place.assert_head_is_stored(room_id)
        # The honest one is not spoiled by its forgery.
        await place.accept(honest)


async def test_an_event_whose_hash_fails_is_kept_redacted(tmp_path: Path) -> None:
    """server-server §Checks on receipt, 3."""
    async with a_place(tmp_path) as place:
        room_id, branch = await a_shared_room(place)
        event = branch.write(BOB, "m.room.message", {"body": "x"})
        await place.receive("b.example", {**event.source, "content": {"body": "changed on the way"}})
        stored = place.at_rest(event.event_id)
        assert stored is not None
        assert stored.event.content == {}
        assert place.timeline(room_id)[-1] == event.event_id


async def test_the_acl_holds_for_transactions_and_invites(tmp_path: Path) -> None:
    async with a_place(tmp_path) as place:
        room_id, branch = await a_shared_room(place)
        acl = {"allow": ["*"], "deny": ["B.*"]}
        await place.send(room_id, ALICE, "m.room.server_acl", acl, "")
        event = branch.send(BOB, "m.room.message", {"body": "x"})
        assert "error" in (await place.receive("b.example", event))[event.event_id]
        assert place.stored(event.event_id) is None
        invite = branch.membership(BOB, "invite", "@amy:a.example")
        asked = {"room_version": "10", "event": dict(invite.source), "invite_room_state": []}
        # Whoever is denied is told so, and nothing of what else is wrong.
        for body in (asked, {**asked, "event": {}}, {}):
            with pytest.raises(MatrixError) as caught:
                await place.rooms.resident.take_invite(
                    "b.example", room_id, invite.event_id, body, user_exists=True
                )
            assert (caught.value.status, caught.value.code) == (403, "M_FORBIDDEN")


async def test_an_invite_into_a_room_that_we_are_in_does_not_wait_for_its_transaction(tmp_path: Path) -> None:
    """Who is told by their friend that the invite is sent can come in at once."""
    async with a_place(tmp_path) as place:
        room_id = await place.create(preset="private_chat", version="10")
        await place.send(room_id, ALICE, "m.room.join_rules", {"join_rule": "public"}, "")
        await place.accept(place.branch(room_id).join(BOB))
        await place.send(room_id, ALICE, "m.room.join_rules", {"join_rule": "invite"}, "")
        branch = place.branch(room_id)
        invite = branch.membership(BOB, "invite", AMY)

        async def invited(event: Event) -> Event:
            asked = {"room_version": "10", "event": dict(event.source), "invite_room_state": []}
            return await place.rooms.resident.take_invite(
                "b.example", room_id, event.event_id, asked, user_exists=True
            )

        signed = await invited(invite)
        assert place.membership(room_id, AMY) == "invite"
        place.assert_head_is_stored(room_id)
        await place.rooms.memberships.join(AMY, room_id, [])
        # It comes again, from everybody who has it.
        count = place.count("events")
        assert (await invited(invite)).encoded == signed.encoded
        await place.accept(signed)
        assert place.count("events") == count
        assert place.membership(room_id, AMY) == "join"
        # What cannot be judged yet, or is not allowed as far as is known here, is theirs to bring about.
        branch = place.branch(room_id)
        branch.send(BOB, "m.room.message", {"body": "on its way"})
        for event in (
            branch.membership(BOB, "invite", "@ann:a.example"),
            place.branch(room_id).membership(CAROL, "invite", "@ann:a.example"),
        ):
            asked = {"room_version": "10", "event": dict(event.source), "invite_room_state": []}
            origin = event.sender.partition(":")[2]
            await place.rooms.resident.take_invite(origin, room_id, event.event_id, asked, user_exists=True)
            assert place.stored(event.event_id) is None
            assert place.membership(room_id, "@ann:a.example") is None


async def test_what_lacks_something_is_staged_in_the_same_commit(tmp_path: Path) -> None:
    async with a_place(tmp_path) as place:
        room_id, branch = await a_shared_room(place)
        first = branch.send(BOB, "m.room.message", {"body": "first"})
        second = branch.send(BOB, "m.room.message", {"body": "second"})
        assert await place.receive("b.example", second) == {second.event_id: {}}
        assert place.stored(second.event_id) is None
        number = place.head(room_id).number
        staged = place.database.read_now(lambda tx: queues.staged(tx, number, 10))
        assert [(item.event_id, item.origin) for item in staged] == [(second.event_id, "b.example")]
        assert staged[0].encoded == second.encoded
        await place.accept(first)
    # It is taken up where it was left.
    async with a_place(tmp_path) as place:
        await settle(place.clock, seconds=1)
        assert place.timeline(room_id)[-1] == second.event_id
        assert place.count("staged_events") == 0
        assert list(place.head(room_id).extremities) == [second.event_id]
        place.assert_head_is_stored(room_id)


async def test_a_staged_event_does_not_wait_long_for_what_came_meanwhile(tmp_path: Path) -> None:
    """However often it was tried before: the room's work begins anew with each news."""
    async with a_place(tmp_path) as place:
        room_id, branch = await a_shared_room(place)
        first = branch.send(BOB, "m.room.message", {"body": "first"})
        second = branch.send(BOB, "m.room.message", {"body": "second"})
        third = branch.send(BOB, "m.room.message", {"body": "third"})
        await place.receive("b.example", second)
        # Nobody answers; the pauses grow.
        await settle(place.clock, seconds=3000)
        assert place.stored(second.event_id) is None
        await place.accept(first)
        await place.receive("b.example", third)
        await settle(place.clock, seconds=2)
        assert place.timeline(room_id)[-2:] == [second.event_id, third.event_id]
        place.assert_head_is_stored(room_id)


@pytest.mark.parametrize("version", ["10", "12"])
async def test_events_of_another_room_are_no_state_of_this_one(tmp_path: Path, version: str) -> None:
    """Another server's word about the state before an event must not bring in other rooms' events."""
    async with a_place(tmp_path) as place:
        room_id, branch = await a_shared_room(place, version)
        users = {BOB: 100} if version == "12" else {BOB: 100, ALICE: 100}
        other_id = await place.create(version=version, power_level_content_override={"users": users})
        await place.accept(place.branch(other_id).join(BOB))
        foreign = [event.event_id for event in place.state_events(other_id).values()]
        hidden = branch.send(BOB, "m.room.message", {"body": "never sent"})
        event = branch.send(BOB, "m.room.message", {"body": "after a gap"})
        own = list(place.state(room_id).values())
        cutting = Cutting([event], {}, {event.event_id: [*own, *foreign]})
        before = place.state(room_id)
        await graft(place, room_id, cutting)
        assert place.verdict(event.event_id) == ACCEPTED
        assert place.state(room_id) == before
        stored = place.stored(event.event_id)
        assert stored is not None
        held = {item.event.event_id for item in place.all_events(room_id)}
        states = place.rooms.writer._rooms.states
        numbers = place.database.read_now(
            lambda tx: [n for _, n in states.items(tx, stored.state_before or b"")]
        )
        events = place.rooms.writer._rooms.events
        assert {
            item.event.event_id
            for item in place.database.read_now(lambda tx: events.load(tx, numbers)).values()
        } <= held
        assert hidden.event_id not in held
        gaps = place.database.read_now(lambda tx: tx.all("SELECT missing FROM gaps"))
        assert [orjson.loads(row[0]) for row in gaps] == [[hidden.event_id]]


async def hold_as_outlier(place: Place, room_id: str, event: Event) -> None:
    """Have an event for authorization only, as a part of somebody's state."""
    await place.rooms.staging._decisions.make(
        lambda: place.rooms.writer.resident_room(room_id), lambda tx, batch: batch.add_outlier(tx, event)
    )


async def graft(place: Place, room_id: str, cutting: Cutting) -> None:
    """Join events to the graph as they come from another server."""
    grafter = place.rooms.staging._grafter
    await place.rooms.staging._decisions.make(
        lambda: place.rooms.writer.resident_room(room_id),
        lambda tx, batch: grafter.decide(tx, batch, cutting),
    )


async def test_a_former_outlier_has_its_place_in_the_order_of_the_graph(tmp_path: Path) -> None:
    async with a_place(tmp_path) as place:
        room_id, branch = await a_shared_room(place)
        first = branch.join(BOB, displayname="first")
        second = branch.join(BOB, displayname="second")
        third = branch.send(BOB, "m.room.message", {"body": "third"})
        await hold_as_outlier(place, room_id, second)
        results = await place.receive("b.example", first, second, third)
        assert results == {event.event_id: {} for event in (first, second, third)}
        assert place.count("staged_events") == 0
        assert place.timeline(room_id)[-3:] == [first.event_id, second.event_id, third.event_id]
        place.assert_head_is_stored(room_id)
        head = place.head(room_id)
        assert list(head.extremities) == [third.event_id]
        now = place.database.last_committed
        assert place.database.read_now(lambda tx: heads.at(tx, head.number, now)) == head.state
        member = place.database.read_now(lambda tx: stored_rooms.member(tx, head.number, BOB))
        stored = place.stored(second.event_id)
        assert member is not None
        assert stored is not None
        assert member.event_num == stored.number


async def test_a_redacted_outlier_stays_redacted_when_it_comes_again(tmp_path: Path) -> None:
    async with a_place(tmp_path) as place:
        room_id, branch = await a_shared_room(place)
        fork = branch.fork()
        target = fork.join(BOB, displayname="secret")
        await hold_as_outlier(place, room_id, target)
        await place.accept(branch.send(BOB, "m.room.redaction", {}, redacts=target.event_id))
        await place.accept(target)
        for stored in (place.stored(target.event_id), place.at_rest(target.event_id)):
            assert stored is not None
            assert stored.event.content == {"membership": "join"}
            assert not stored.is_outlier


@pytest.mark.parametrize("version", ["1", "2"])
@pytest.mark.parametrize("held", ["for authorization alone", "in its timeline"])
async def test_the_id_of_another_rooms_event_is_refused(tmp_path: Path, version: str, held: str) -> None:
    """Where servers choose the ids of their events, one of a room must not move another room's event."""
    async with a_place(tmp_path) as place:
        room_id, branch = await a_shared_room(place, version)
        await place.clock.turn(100)
        other_id, other = await a_shared_room(place, version)
        event = other.write(BOB, "m.room.member", {"membership": "join", "displayname": "B"}, BOB)
        if held == "in its timeline":
            await place.accept(event)
        else:
            message = other.send(BOB, "m.room.message", {"body": "of the other room"}, prev=[event])
            state = [*place.state(other_id).values(), event.event_id]
            cutting = Cutting([message], {event.event_id: event}, {message.event_id: state})
            await graft(place, other_id, cutting)
        before, timelines = place.stored(event.event_id), [place.timeline(room_id), place.timeline(other_id)]
        assert before is not None
        # The next that is written there has the id of the one here.
        branch.graph.clock = int(event.event_id[1:].partition(":")[0]) - 1000
        same = branch.write(BOB, "m.room.message", {"body": "moves in"})
        assert same.event_id == event.event_id
        assert "error" in (await place.receive("b.example", same))[event.event_id]
        for now in (place.stored(event.event_id), place.at_rest(event.event_id)):
            assert now is not None
            assert (now.room_num, now.line, now.state_before) == (
                before.room_num,
                before.line,
                before.state_before,
            )
            assert now.event.encoded == before.event.encoded
        assert [place.timeline(room_id), place.timeline(other_id)] == timelines


async def test_an_event_that_fills_a_gap_is_no_end_of_the_graph(tmp_path: Path) -> None:
    async with a_place(tmp_path) as place:
        room_id, branch = await a_shared_room(place)
        state = list(place.state(room_id).values())
        missing = branch.send(BOB, "m.room.message", {"body": "missing"})
        later = branch.send(BOB, "m.room.message", {"body": "later"})
        await graft(place, room_id, Cutting([later], {}, {later.event_id: state}))
        await place.accept(missing)
        assert list(place.head(room_id).extremities) == [later.event_id]
        place.assert_head_is_stored(room_id)
        mine = await place.say(room_id, "mine")
        stored = place.stored(mine)
        assert stored is not None
        assert stored.event.prev_event_ids == (later.event_id,)


async def test_a_refused_join_is_not_answered_by_sending_it_again(tmp_path: Path) -> None:
    async with a_place(tmp_path) as place:
        room_id = await place.create(preset="private_chat")
        branch = place.branch(room_id)
        join = branch.membership(BOB, "join")
        assert "error" in (await place.receive("b.example", join))[join.event_id]
        assert place.verdict(join.event_id) == REJECTED
        with pytest.raises(MatrixError) as caught:
            await place.rooms.resident.send_join("b.example", room_id, join.event_id, dict(join.source))
        assert caught.value.status == 403


async def test_joins_that_other_servers_hand_in(tmp_path: Path) -> None:
    async with a_place(tmp_path) as place:
        room_id = await place.create()
        resident = place.rooms.resident
        template = await resident.make("b.example", room_id, BOB, "join", ["10", "11", "12"])
        branch = place.branch(room_id)
        join = branch.membership(BOB, "join")
        assert template["event"]["prev_events"] == list(join.prev_event_ids)
        assert sorted(template["event"]["auth_events"]) == sorted(join.auth_event_ids)
        before = set(place.state(room_id).values())
        for _ in range(2):
            answer = orjson.loads(
                await resident.send_join("b.example", room_id, join.event_id, dict(join.source))
            )
            given = {Event(branch.version, value).event_id for value in answer["state"]}
            assert given == before
            assert not answer["members_omitted"]
        assert place.membership(room_id, BOB) == "join"
        place.assert_head_is_stored(room_id)

        async def status(*arguments: Any) -> int:
            with pytest.raises(MatrixError) as caught:
                await resident.send_join(*arguments)
            return caught.value.status

        carol = branch.membership(CAROL, "join")
        assert await status("b.example", room_id, carol.event_id, dict(carol.source)) == 400
        assert await status("c.example", room_id, "$other", dict(carol.source)) == 400
        assert await status("c.example", room_id, carol.event_id, {}) == 400
        leave = branch.membership(BOB, "leave")
        assert await status("b.example", room_id, leave.event_id, dict(leave.source)) == 400
        for user, origin in ((CAROL, "b.example"), ("carol", "c.example")):
            with pytest.raises(MatrixError) as caught:
                await resident.make(origin, room_id, user, "join", ["10", "12"])
            assert caught.value.status == 403
        with pytest.raises(MatrixError) as caught:
            await resident.make("c.example", room_id, CAROL, "join", ["1"])
        assert caught.value.code == "M_INCOMPATIBLE_ROOM_VERSION"
