"""Rooms whose graph has many ends, to which nobody here writes: an event that nobody sees joins them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from comity.rooms.read.visible import HIDDEN_TYPE
from tests.rooms.support import ALICE, BOB, Place, a_place, settle

HALF_AN_HOUR = 1_800


async def a_frayed_room(place: Place, forks: int, **fields: Any) -> str:
    room_id = await place.create(**fields)
    await place.accept(place.branch(room_id).join(BOB))
    start = place.branch(room_id)
    for number in range(forks):
        await place.accept(start.fork().send(BOB, "m.room.message", {"body": f"fork {number}"}))
    assert len(place.head(room_id).extremities) == forks
    return room_id


def joining(place: Place, room_id: str) -> list[str]:
    """The senders of the events that join ends."""
    events = (place.stored(event_id) for event_id in place.timeline(room_id))
    return [held.event.sender for held in events if held is not None and held.event.type == HIDDEN_TYPE]


async def test_many_ends_that_last_are_joined_by_what_nobody_sees(tmp_path: Path) -> None:
    async with a_place(tmp_path) as place:
        room_id = await a_frayed_room(place, 25)
        await settle(place.clock, seconds=HALF_AN_HOUR)
        assert joining(place, room_id) == []
        await settle(place.clock, seconds=HALF_AN_HOUR)
        assert joining(place, room_id) == [ALICE, ALICE]
        assert len(place.head(room_id).extremities) <= 10
        place.assert_head_is_stored(room_id)
        await settle(place.clock, seconds=4 * HALF_AN_HOUR)
        assert len(joining(place, room_id)) == 2
        number = place.head(room_id).number
        view = place.database.read_now(
            lambda tx: [
                place.rooms.reader.visibility.view(tx, ALICE, number).may_see(stored)
                for stored in place.all_events(room_id)
                if stored.event.type == HIDDEN_TYPE
            ]
        )
        assert view == [False, False]


async def test_a_room_is_joined_at_most_once_an_hour(tmp_path: Path) -> None:
    async with a_place(tmp_path) as place:
        room_id = await a_frayed_room(place, 11)
        await settle(place.clock, seconds=2 * HALF_AN_HOUR)
        assert len(joining(place, room_id)) == 1
        start = place.branch(room_id)
        for number in range(12):
            await place.accept(start.fork().send(BOB, "m.room.message", {"body": f"again {number}"}))
        await settle(place.clock, seconds=HALF_AN_HOUR)
        assert len(joining(place, room_id)) == 1
        await settle(place.clock, seconds=4 * HALF_AN_HOUR)
        assert len(joining(place, room_id)) == 2


@pytest.mark.parametrize(("forks", "needed"), [(10, 0), (11, 101)])
async def test_few_ends_stay_and_where_nobody_may_write_nothing_is_written(
    tmp_path: Path, forks: int, needed: int
) -> None:
    async with a_place(tmp_path) as place:
        levels = {"events": {HIDDEN_TYPE: needed}}
        room_id = await a_frayed_room(place, forks, version="10", power_level_content_override=levels)
        await settle(place.clock, seconds=4 * HALF_AN_HOUR)
        assert joining(place, room_id) == []
        assert len(place.head(room_id).extremities) == forks
