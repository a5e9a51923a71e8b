"""Local users write: once per transaction, on a true head, on disk before the answer."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from typing import Any

import pytest

from comity.protocol.build import Draft
from comity.protocol.errors import MatrixError
from comity.rooms import room as room_module
from comity.rooms.batch import Batch
from comity.store import queues
from comity.store.database import StoreFailedError, Tx, WriteTx
from tests.engines import mend, refuse_at_commit, refuse_events
from tests.rooms.support import ALICE, AMY, BOB, a_place, settle
from tests.store.support import Held

VERSIONS = ("1", "6", "10", "11", "12")


async def refused(attempt: Any) -> tuple[int, str]:
    """(status, code) of the error that an attempt ends with."""
    with pytest.raises(MatrixError) as caught:
        await attempt
    assert caught.value.text
    return caught.value.status, caught.value.code


@pytest.mark.parametrize("version", VERSIONS)
async def test_an_event_is_at_the_head_and_on_disk(tmp_path: Path, version: str) -> None:
    async with a_place(tmp_path) as place:
        room_id = await place.create(version=version)
        before = list(place.head(room_id).extremities)
        event_id = await place.say(room_id, "hello")
        stored = place.at_rest(event_id)
        assert stored is not None
        assert stored.event.prev_event_ids == tuple(before)
        assert list(place.head(room_id).extremities) == [event_id]
        assert stored.event.content_hash_matches()
        assert place.timeline(room_id)[-1] == event_id
        place.assert_head_is_stored(room_id)


@pytest.mark.parametrize("version", ["1", "12"])
async def test_messages_sent_at_once_make_one_line(tmp_path: Path, version: str) -> None:
    async with a_place(tmp_path) as place:
        room_id = await place.create(version=version)
        ids = await asyncio.gather(*(place.say(room_id, str(number)) for number in range(50)))
        assert len(set(ids)) == 50
        timeline = place.timeline(room_id)
        for earlier, later in itertools.pairwise(timeline):
            stored = place.stored(later)
            assert stored is not None
            assert stored.event.prev_event_ids == (earlier,)
        place.assert_head_is_stored(room_id)


async def test_a_repeated_transaction_is_one_event(tmp_path: Path) -> None:
    async with a_place(tmp_path) as place:
        room_id = await place.create()
        content = {"body": "once"}
        at_once = await asyncio.gather(
            *(place.send(room_id, ALICE, "m.room.message", content, transaction="1") for _ in range(5))
        )
        later = await place.send(room_id, ALICE, "m.room.message", content, transaction="1")
        assert {*at_once, later} == {later}
        other = await place.send(room_id, ALICE, "m.room.message", content, transaction="2")
        assert other != later
        assert place.count("client_transactions") == 2
    async with a_place(tmp_path) as place:
        assert await place.send(room_id, ALICE, "m.room.message", content, transaction="1") == later


@pytest.mark.parametrize("version", VERSIONS)
async def test_the_same_state_again_is_the_same_event(tmp_path: Path, version: str) -> None:
    async with a_place(tmp_path) as place:
        room_id = await place.create(version=version)
        first = await place.send(room_id, ALICE, "m.room.topic", {"topic": "a", "n": {"x": 1, "y": 2}}, "")
        count = place.count("events")
        assert (
            await place.send(room_id, ALICE, "m.room.topic", {"n": {"y": 2, "x": 1}, "topic": "a"}, "")
            == first
        )
        assert place.count("events") == count
        assert await place.send(room_id, ALICE, "m.room.topic", {"topic": "b"}, "") != first
        # Once it was something else, setting it back is news.
        assert (
            await place.send(room_id, ALICE, "m.room.topic", {"topic": "a", "n": {"x": 1, "y": 2}}, "")
            != first
        )


async def test_the_same_state_again_waits_for_the_disk_too(tmp_path: Path) -> None:
    held = Held()
    held.gate.set()
    async with a_place(tmp_path, offload=held) as place:
        room_id = await place.create()
        held.gate.clear()
        loop = asyncio.get_running_loop()
        first, second = (
            loop.create_task(place.send(room_id, ALICE, "m.room.topic", {"topic": "a"}, "")) for _ in range(2)
        )
        await settle()
        assert not first.done()
        assert not second.done(), "a 200 was given for what is not on disk"
        held.gate.set()
        assert await first == await second


async def test_who_may_not_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    async with a_place(tmp_path) as place:
        room_id = await place.create()
        await place.rooms.memberships.join(AMY, room_id, [])
        state, count = place.state(room_id), place.count("events")
        assert await refused(place.send(room_id, AMY, "m.room.topic", {"topic": "x"}, "")) == (
            403,
            "M_FORBIDDEN",
        )
        assert await refused(place.say(room_id, "x", f"@zoe:{AMY[5:]}")) == (403, "M_FORBIDDEN")
        assert await refused(place.send(room_id, AMY, "m.room.member", {"membership": "join"}, ALICE)) == (
            403,
            "M_FORBIDDEN",
        )
        assert await refused(place.send(room_id, AMY, "x.y", {}, ALICE)) == (403, "M_FORBIDDEN")
        assert (place.state(room_id), place.count("events")) == (state, count)
        await place.say(room_id, "still well", AMY)
        place.assert_head_is_stored(room_id)


async def test_what_no_event_may_hold(tmp_path: Path) -> None:
    async with a_place(tmp_path) as place:
        room_id = await place.create()
        assert await refused(place.say(room_id, "x" * 70_000)) == (413, "M_TOO_LARGE")
        assert await refused(place.send(room_id, ALICE, "x", {"n": 1.5})) == (400, "M_BAD_JSON")
        assert await refused(place.send(room_id, ALICE, "x", {"n": 2**53})) == (400, "M_BAD_JSON")
        assert await refused(place.send(room_id, ALICE, "x" * 256, {})) == (413, "M_TOO_LARGE")
        assert await refused(place.send(room_id, ALICE, "x", {}, "k" * 256)) == (413, "M_TOO_LARGE")
        assert await refused(place.send(room_id, ALICE, "é" * 128, {})) == (413, "M_TOO_LARGE")
        assert await place.send(room_id, ALICE, "x" * 255, {}, "k" * 255)
        assert await refused(place.say("!nowhere:a.example", "x")) == (404, "M_NOT_FOUND")
        await place.say(room_id, "still well")
        place.assert_head_is_stored(room_id)


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_redaction(tmp_path: Path, version: str) -> None:
    async with a_place(tmp_path) as place:
        room_id = await place.create(version=version)
        await place.rooms.memberships.join(AMY, room_id, [])
        target = await place.say(room_id, "secret", AMY)
        redaction = await place.send(room_id, ALICE, "m.room.redaction", {"reason": "x"}, redacts=target)
        for _ in range(2):
            stored = place.at_rest(target)
            assert stored is not None
            assert (stored.event.content, stored.event.event_id) == ({}, target)
            by = place.stored(redaction)
            assert by is not None
            assert stored.redacted_by == by.number
        rows = place.database.read_now(lambda tx: tx.all("SELECT json FROM events"))
        assert not any(b"secret" in bytes(row[0]) for row in rows)


@pytest.mark.parametrize("version", ["3", "10", "12"])
async def test_a_redaction_without_the_power_changes_nothing(tmp_path: Path, version: str) -> None:
    """rooms/v3 §Handling redactions: only of events of one's own server."""
    async with a_place(tmp_path) as place:
        room_id = await place.create(version=version)
        branch = place.branch(room_id)
        await place.accept(branch.join(BOB))
        target = await place.say(room_id, "stays")
        branch = place.branch(room_id)
        redaction = branch.send(BOB, "m.room.redaction", {}, redacts=target)
        await place.receive("b.example", redaction)
        stored = place.at_rest(target)
        assert stored is not None
        assert stored.event.content["body"] == "stays"
        assert stored.redacted_by is None
        assert redaction.event_id not in place.timeline(room_id)


# -- heads


async def test_a_write_that_the_store_refuses_leaves_a_true_head(tmp_path: Path) -> None:
    async with a_place(tmp_path) as place:
        room_id = await place.create()
        before = list(place.head(room_id).extremities)
        state = place.state(room_id)
        refuse_events(place.database.driver)
        results = await asyncio.gather(
            place.send(room_id, ALICE, "m.room.topic", {"topic": "lost"}, ""),
            place.say(room_id, "lost too"),
            return_exceptions=True,
        )
        assert all(isinstance(result, Exception) for result in results)
        mend(place.database.driver)
        await settle()
        assert list(place.head(room_id).extremities) == before
        assert place.state(room_id) == state
        event_id = await place.send(room_id, ALICE, "m.room.topic", {"topic": "kept"}, "")
        stored = place.stored(event_id)
        assert stored is not None
        assert list(stored.event.prev_event_ids) == before
        place.assert_head_is_stored(room_id)
        assert (place.content(room_id, "m.room.topic") or {}).get("topic") == "kept"


async def test_a_write_that_fails_between_others_does_not_lose_them(tmp_path: Path) -> None:
    """One savepoint of a group fails: what stands on it fails too, what came before is in the head."""
    held = Held()
    held.gate.set()
    async with a_place(tmp_path, offload=held) as place:
        room_id = await place.create()
        held.gate.clear()
        held.begun.clear()
        loop = asyncio.get_running_loop()

        def taken(tx: WriteTx) -> None:
            queues.put_client_event(tx, ALICE, "PHONE", room_id, "1", "$other", 0)

        # While a group is under way, the next one gathers.
        place.database.submit(lambda tx: None)
        await held.begun.wait()
        first = loop.create_task(place.send(room_id, ALICE, "m.room.topic", {"topic": "first"}, ""))
        await settle()
        other = place.database.submit(taken)
        second = loop.create_task(
            place.send(room_id, ALICE, "m.room.name", {"name": "x"}, "", transaction="1")
        )
        await settle()
        held.let_one_go()
        await settle()
        third = loop.create_task(place.send(room_id, ALICE, "m.room.message", {"body": "third"}))
        await settle()
        held.gate.set()
        results = await asyncio.gather(first, other, second, third, return_exceptions=True)
        assert isinstance(results[0], str)
        assert isinstance(results[2], Exception)
        await settle()
        place.assert_head_is_stored(room_id)
        assert (place.content(room_id, "m.room.topic") or {}).get("topic") == "first"
        last = await place.say(room_id, "last")
        assert list(place.head(room_id).extremities) == [last]
        place.assert_head_is_stored(room_id)
        assert (place.content(room_id, "m.room.topic") or {}).get("topic") == "first"


async def test_a_failed_commit_drops_the_head(tmp_path: Path) -> None:
    held = Held()
    held.gate.set()
    async with a_place(tmp_path, offload=held) as place:
        room_id = await place.create()
        refuse_at_commit(place.database.driver)
        before = list(place.head(room_id).extremities)
        held.gate.clear()
        held.begun.clear()
        loop = asyncio.get_running_loop()
        # While a group is under way, the next one gathers.
        place.database.submit(lambda tx: None)
        await held.begun.wait()
        first = loop.create_task(place.send(room_id, ALICE, "m.room.topic", {"topic": "lost"}, ""))
        await settle()
        broken = place.database.submit(lambda tx: tx.run("INSERT INTO c (id) VALUES (1)"))
        held.let_one_go()
        await settle()
        # Decided on the head that will be lost.
        second = loop.create_task(place.say(room_id, "lost too"))
        await settle()
        held.gate.set()
        results = await asyncio.gather(first, broken, second, return_exceptions=True)
        assert all(isinstance(result, StoreFailedError) for result in results)
        assert list(place.head(room_id).extremities) == before
        event_id = await place.say(room_id, "well again")
        stored = place.stored(event_id)
        assert stored is not None
        assert list(stored.event.prev_event_ids) == before
        place.assert_head_is_stored(room_id)


async def test_a_head_with_a_write_under_way_is_not_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room_module, "MAX_ROOMS_IN_MEMORY", 10)
    held = Held()
    held.gate.set()
    async with a_place(tmp_path, offload=held) as place:
        rooms = [await place.create(name=f"room {number}") for number in range(15)]
        place.rooms.writer._rooms._by_id.clear()
        held.gate.clear()
        loop = asyncio.get_running_loop()
        first = loop.create_task(place.send(rooms[0], ALICE, "m.room.topic", {"topic": "first"}, ""))
        await settle()
        others = [loop.create_task(place.say(room_id, "x")) for room_id in rooms[1:]]
        await settle()
        again = loop.create_task(place.say(rooms[0], "second"))
        await settle()
        held.gate.set()
        first_id, second_id, *_ = await asyncio.gather(first, again, *others)
        stored = place.stored(second_id)
        assert stored is not None
        assert stored.event.prev_event_ids == (first_id,)
        place.assert_head_is_stored(rooms[0])
        assert (place.content(rooms[0], "m.room.topic") or {}).get("topic") == "first"


@pytest.mark.parametrize("version", VERSIONS)
async def test_the_head_after_a_restart_is_the_head_before(tmp_path: Path, version: str) -> None:
    async with a_place(tmp_path) as place:
        room_id = await place.create(version=version, name="N", topic="T", alias_localpart="al")
        branch = place.branch(room_id)
        await place.accept(branch.join(BOB))
        fork = branch.fork()
        await place.accept(
            branch.send(BOB, "m.room.message", {"body": "1"}), fork.send(BOB, "m.room.message", {"body": "2"})
        )
        head = place.head(room_id)
        before = (head.state, head.extremities, head.resident, head.next_slot, place.state(room_id))
        assert len(head.extremities) == 2
    async with a_place(tmp_path) as place:
        head = place.head(room_id)
        assert (head.state, head.extremities, head.resident, head.next_slot, place.state(room_id)) == before
        event_id = await place.say(room_id, "on we go")
        assert list(place.head(room_id).extremities) == [event_id]
        place.assert_head_is_stored(room_id)


async def test_who_reads_sees_nothing_of_a_decision_that_comes_to_nothing(tmp_path: Path) -> None:
    """Where reads pause, others look at the room meanwhile."""
    async with a_place(tmp_path) as place:
        room_id = await place.create()
        await place.send(room_id, ALICE, "m.room.topic", {"topic": "old"}, "")
        room, writer = place.head(room_id), place.rooms.writer
        decisions, merger = place.rooms.staging._decisions, writer._merger
        key = ("m.room.topic", "")
        seen: list[Any] = []

        def topic(find: Any) -> Any:
            return find(key).content["topic"]

        def decide(tx: Tx, batch: Batch) -> None:
            writer.append(tx, batch, Draft("m.room.topic", ALICE, {"topic": "never"}, state_key=""))
            seen.extend((topic(merger.lookup(tx, room, room.state)), topic(merger.current(tx, room))))
            raise MatrixError(403, "M_FORBIDDEN", "no")

        await refused(decisions.make(lambda: writer.resident_room(room_id), decide))
        assert seen == ["never", "old"]
        assert room.decided_state == room.state
        await place.send(room_id, ALICE, "m.room.topic", {"topic": "new"}, "")
        room = place.head(room_id)
        assert place.database.read_now(lambda tx: topic(merger.current(tx, room))) == "new"
        place.assert_head_is_stored(room_id)
