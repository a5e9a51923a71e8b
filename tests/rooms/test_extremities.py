"""The ends of a room's graph stay few: each event of ours joins those that there are."""

from __future__ import annotations

from pathlib import Path

import pytest

from comity.rooms.write import MAX_PREV_OF_OURS
from tests.rooms.support import BOB, a_place

FORKS = 25


@pytest.mark.parametrize("version", ["6", "12"])
async def test_each_event_of_ours_joins_at_most_ten_ends(tmp_path: Path, version: str) -> None:
    async with a_place(tmp_path) as place:
        room_id = await place.create(version=version)
        await place.accept(place.branch(room_id).join(BOB))
        one = place.branch(room_id)
        ends = {}
        for number in range(FORKS):
            branch = one.fork()
            # Of different lengths: the room has ends at several depths.
            event = branch.send(BOB, "m.room.message", {"body": f"fork {number}"})
            await place.accept(event)
            for _ in range(number % 3):
                event = branch.send(BOB, "m.room.message", {"body": f"more of {number}"})
                await place.accept(event)
            ends[event.event_id] = event.depth
        assert set(place.head(room_id).extremities) == set(ends)
        left = FORKS
        while left > 1:
            depths = {
                event_id: end.reference.depth for event_id, end in place.head(room_id).extremities.items()
            }
            stored = place.stored(await place.say(room_id, "joined"))
            assert stored is not None
            joined = stored.event.prev_event_ids
            assert len(joined) == min(left, MAX_PREV_OF_OURS)
            # The deepest first: nobody sees the room's depth or its state go back.
            assert min(depths[each] for each in joined) >= max(
                (depth for each, depth in depths.items() if each not in joined), default=0
            )
            assert stored.event.depth == max(depths.values()) + 1
            left -= len(joined) - 1
            assert len(place.head(room_id).extremities) == left
            place.assert_head_is_stored(room_id)
        assert list(place.head(room_id).extremities) == [place.timeline(room_id)[-1]]
