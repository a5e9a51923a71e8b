"""The published directory at rest: which rooms are in it."""

from __future__ import annotations

from comity.store.database import Tx
from comity.store.rooms import RoomRow


def is_published(tx: Tx, room_num: int) -> bool:
    """Whether the room is in the published directory."""
    row = tx.one("SELECT published FROM rooms WHERE room_num = ?", (room_num,))
    return row is not None and bool(row[0])


def published(tx: Tx) -> list[RoomRow]:
    """The rooms of the published directory that we are in."""
    rows = tx.all(
        "SELECT room_num, room_id, version, state, creator FROM rooms "
        "WHERE published = 1 AND resident = 1 ORDER BY room_num"
    )
    return [
        RoomRow(room_num, room_id, version, bytes(state or b""), True, creator)
        for room_num, room_id, version, state, creator in rows
    ]
