"""What each room's current state was, at every position of the log.

An event knows the state of its own branch alone; what the room as a whole came to, once its
branches were merged, is here. One row a change, written with the event that brought it.
"""

from __future__ import annotations

from comity.store.database import Tx

_AT = "SELECT state FROM room_heads WHERE room_num = ? AND position <= ? ORDER BY position DESC LIMIT 1"


def record(tx: Tx, room_num: int, position: int, state: bytes) -> None:
    """The room's current state is `state` from `position` on; nothing is stored if it was already."""
    row = tx.one(_AT, (room_num, position))
    if row is None or bytes(row[0]) != state:
        tx.run(
            "INSERT INTO room_heads (room_num, position, state) VALUES (?, ?, ?) "
            "ON CONFLICT (room_num, position) DO UPDATE SET state = excluded.state",
            (room_num, position, state),
        )


def at(tx: Tx, room_num: int, position: int) -> bytes:
    """The name of the state that was current at `position`; b"" if the room was not here yet."""
    row = tx.one(_AT, (room_num, position))
    return bytes(row[0]) if row else b""


def between(tx: Tx, room_num: int, after: int, upto: int) -> list[tuple[int, bytes]]:
    """(position, state) of every change at `after < position <= upto`, in order."""
    rows = tx.all(
        "SELECT position, state FROM room_heads WHERE room_num = ? AND position > ? AND position <= ? "
        "ORDER BY position",
        (room_num, after, upto),
    )
    return [(row[0], bytes(row[1])) for row in rows]
