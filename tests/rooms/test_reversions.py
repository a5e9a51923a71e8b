"""The guard against state resets: what state resolution takes back is recorded with its cause."""

from __future__ import annotations

from pathlib import Path

import pytest

from comity.rooms.reversions import Guard
from comity.store import resolutions
from comity.store.database import Tx
from comity.store.resolutions import Resolution, Reversion
from comity.store.state import NewPages
from tests.rooms.support import ALICE, BOB, CAROL, Place, a_place
from tests.rooms.test_forks import a_shared_room

EVE = "@eve:d.example"


def reversions(place: Place, room_id: str) -> list[Reversion]:
    number = place.head(room_id).number
    return [item for _, item in place.database.read_now(lambda tx: resolutions.reversions(tx, number, 10))]


def merged(place: Place, room_id: str) -> list[Resolution]:
    number = place.head(room_id).number
    return [item for _, item in place.database.read_now(lambda tx: resolutions.latest(tx, number, 10))]


def number_of(place: Place, event_id: str) -> int:
    stored = place.stored(event_id)
    assert stored is not None
    return stored.number


@pytest.mark.parametrize("version", ["2", "6", "11", "12"])
async def test_a_member_is_lost_to_a_join_rule_of_another_branch(tmp_path: Path, version: str) -> None:
    async with a_place(tmp_path) as place:
        room_id, branch = await a_shared_room(place, version)
        late = branch.fork()
        join = branch.join(EVE)
        await place.accept(join)
        assert place.membership(room_id, EVE) == "join"
        assert reversions(place, room_id) == []
        rules = late.send(BOB, "m.room.join_rules", {"join_rule": "invite"}, "")
        await place.accept(rules)
        assert place.membership(room_id, EVE) is None
        [found] = reversions(place, room_id)
        assert (found.key, found.was, found.became) == (
            ("m.room.member", EVE),
            number_of(place, join.event_id),
            0,
        )
        assert join.event_id in found.cause
        assert rules.event_id in found.cause, "it says what the join was judged by"
        assert f"rooms/v{version} rule" in found.cause
        [resolution] = merged(place, room_id)
        assert resolution.result == place.head(room_id).state
        assert len(resolution.inputs) == 2


@pytest.mark.parametrize("version", ["6", "12"])
async def test_what_an_event_says_is_no_reversion(tmp_path: Path, version: str) -> None:
    async with a_place(tmp_path) as place:
        room_id, branch = await a_shared_room(place, version)
        late = branch.fork()
        await place.accept(branch.send(CAROL, "m.room.topic", {"topic": "one"}, ""))
        # The ban of another branch, and its topic, are events that say so.
        await place.accept(late.send(BOB, "m.room.topic", {"topic": "two"}, ""), late.ban(BOB, CAROL))
        assert place.membership(room_id, CAROL) == "ban"
        assert reversions(place, room_id) == []
        await place.send(room_id, ALICE, "m.room.topic", {"topic": "three"}, "")
        assert reversions(place, room_id) == []


async def test_an_older_value_that_comes_back_is_one(tmp_path: Path) -> None:
    """The topic of somebody whom another branch has banned goes, and the one before it is back."""
    async with a_place(tmp_path) as place:
        room_id, branch = await a_shared_room(place, "11")
        first = branch.send(BOB, "m.room.topic", {"topic": "first"}, "")
        await place.accept(first)
        late = branch.fork()
        second = branch.send(CAROL, "m.room.topic", {"topic": "second"}, "")
        await place.accept(second)
        await place.accept(late.ban(BOB, CAROL))
        assert place.content(room_id, "m.room.topic") == {"topic": "first"}
        [found] = reversions(place, room_id)
        assert found.key == ("m.room.topic", "")
        assert (found.was, found.became) == (
            number_of(place, second.event_id),
            number_of(place, first.event_id),
        )
        assert "rule 5" in found.cause


async def test_resolutions_are_kept_with_what_went_in(tmp_path: Path) -> None:
    async with a_place(tmp_path) as place:
        room_id, branch = await a_shared_room(place, "11")
        other = branch.fork()
        await place.accept(branch.send(BOB, "m.room.name", {"name": "n"}, ""))
        one = place.head(room_id).state
        await place.accept(other.send(CAROL, "m.room.topic", {"topic": "t"}, ""))
        [resolution] = merged(place, room_id)
        assert one in resolution.inputs
        assert resolution.result == place.head(room_id).state
        # Our own event joins the fork: the same states are not merged again.
        await place.say(room_id, "both")
        assert len(merged(place, room_id)) == 1


@pytest.mark.parametrize("version", ["1", "11", "12"])
async def test_what_another_server_tells_of_a_state_can_take_back_too(tmp_path: Path, version: str) -> None:
    """An event whose past is not here brings a state that lacks a member; nothing was merged for that."""
    async with a_place(tmp_path) as place:
        room_id, branch = await a_shared_room(place, version)
        head, parts = place.head(room_id), place.rooms.writer._rooms
        join, message = (
            branch.state["m.room.member", CAROL],
            branch.write(BOB, "m.room.message", {"body": "x"}),
        )

        def look(tx: Tx) -> list[Reversion]:
            slot = parts.states.slot(tx, head.number, join.key)
            assert slot is not None
            pages: NewPages = {}
            without = parts.states.replace(tx, head.state, {slot: 0}, pages)
            guard = Guard(place.rooms.writer._merger)
            return guard.reversions(tx, head, head.state, without, [without], message)

        [found] = place.database.read_now(look)
        assert found.key == join.key
        assert found.became == 0
        assert "another server told" in found.cause
