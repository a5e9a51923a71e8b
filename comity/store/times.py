"""Events by their time: which are closest to one."""

from __future__ import annotations

from comity.store.database import Tx


def closest(
    tx: Tx, room_num: int, at_ms: int, *, forwards: bool, after: int = 0, upto: int, limit: int, skip: int = 0
) -> list[int]:
    """Numbers of accepted events in a room's timeline at or after a time, or at or before it; closest first.

    `at_ms` is in milliseconds since the epoch, as events say it; lines count that are above `after` and not
    above `upto`.
    """
    compare, order = (">=", "ASC") if forwards else ("<=", "DESC")
    rows = tx.all(
        f"SELECT event_num FROM events WHERE room_num = ? AND origin_server_ts {compare} ? "
        f"AND line > ? AND line <= ? AND verdict = 0 "
        f"ORDER BY origin_server_ts {order}, line {order} LIMIT ? OFFSET ?",
        (room_num, at_ms, after, upto, limit, skip),
    )
    return [row[0] for row in rows]


def longest_there(tx: Tx, room_num: int, limit: int) -> list[str]:
    """The servers in a room, those first that have been there for longest."""
    rows = tx.all(
        "SELECT server FROM server_stays WHERE room_num = ? AND to_position IS NULL "
        "ORDER BY from_position, server LIMIT ?",
        (room_num, limit),
    )
    return [row[0] for row in rows]
