"""Who ceased to share a room with somebody who left one: alike, whichever way it is found."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from comity.store import shared_rooms
from comity.store.database import Tx
from tests.store.support import a_driver, write

ME = "@me:example.org"
#: The room that was left, and how many others there are.
LEFT, ROOMS = 1, 12
AFTER, WENT, NOW = 10, 20, 30


def people(seed: int) -> dict[str, set[int]]:
    """user id -> the rooms that they are in."""
    chance = random.Random(seed)
    found = {}
    for number in range(60):
        rooms = {room for room in range(2, ROOMS + 2) if chance.random() < 0.1}
        found[f"@user{number}:example.org"] = rooms | ({LEFT} if chance.random() < 0.8 else set())
    found[ME] = {room for room in range(2, ROOMS + 2) if chance.random() < 0.2}
    return found


def fill(tx: Tx, everybody: dict[str, set[int]]) -> None:
    rows = [(room, user, "join", 1, 0) for user, rooms in everybody.items() for room in rooms]
    rows.append((LEFT, ME, "leave", WENT, WENT))
    tx.many(
        "INSERT INTO memberships (room_num, user_id, server, membership, event_num, position, left_at) "
        "VALUES (?, ?, 'example.org', ?, 1, ?, ?)",
        rows,
    )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("many", "members"), [(1_000, 5), (0, 5), (0, 0), (0, 1)])
async def test_who_is_in_no_other_room_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, many: int, members: int, seed: int
) -> None:
    monkeypatch.setattr(shared_rooms, "MANY", many)
    monkeypatch.setattr(shared_rooms, "MEMBERS_FOR_EACH", members)
    everybody = people(seed)
    expected = {
        user
        for user, rooms in everybody.items()
        if user != ME and LEFT in rooms and not rooms & everybody[ME]
    }
    assert expected
    with a_driver(tmp_path) as driver:
        write(driver, lambda tx: fill(tx, everybody))
        assert driver.read_now(lambda tx: shared_rooms.parted(tx, ME, AFTER, NOW)) == expected
        # What came to pass before or after is no news.
        assert driver.read_now(lambda tx: shared_rooms.parted(tx, ME, WENT, NOW)) == set()
        assert driver.read_now(lambda tx: shared_rooms.parted(tx, ME, AFTER, WENT - 1)) == set()
