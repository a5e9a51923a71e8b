"""What notifies, at rest: one row for an event, however many it notifies (DESIGN §4.8).

Plain functions over an open transaction. They hold for whoever has the predefined push rules;
what other rules make of events is worked out when it is asked (`comity.sync.unread`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from comity.store.database import Tx
from comity.store.lists import parts

#: Rooms of which the newest rows are read in one statement.
ROOMS_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class Notification:
    """An event that notifies: `weight` 1, or 2 with a highlight; `aside`: some may not see it."""

    line: int
    thread: str
    sender: str
    weight: int
    aside: bool


@dataclass(frozen=True, slots=True)
class Mention:
    """An event that notifies one user by naming them, with a highlight."""

    user_id: str
    line: int
    thread: str


def insert(tx: Tx, room_num: int, new: Notification, mentioned: Sequence[str]) -> None:
    """Store what a live event does; `weight` 0: only those `mentioned`, of whom members are kept."""
    if new.weight:
        tx.run(
            "INSERT INTO notifications (room_num, line, thread, sender, weight, aside) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (room_num, new.line, new.thread, new.sender, new.weight, int(new.aside)),
        )
    members: set[str] = set()
    for marks, chunk in parts(mentioned):
        members.update(
            row[0]
            for row in tx.all(
                f"SELECT user_id FROM memberships WHERE room_num = ? AND user_id IN ({marks}) "
                "AND membership = 'join'",
                [room_num, *chunk],
            )
        )
    tx.many(
        "INSERT INTO mentions (user_id, room_num, line, thread) VALUES (?, ?, ?, ?)",
        [(user_id, room_num, new.line, new.thread) for user_id in sorted(members)],
    )


def forget(tx: Tx, room_num: int, lines: Sequence[int]) -> None:
    """Events at these lines notify nobody any more: redacted, or not accepted after all."""
    for table in ("notifications", "mentions"):
        tx.many(f"DELETE FROM {table} WHERE room_num = ? AND line = ?", [(room_num, line) for line in lines])


def notifications(tx: Tx, room_num: int, after: int, upto: int, limit: int) -> list[Notification]:
    """The newest `limit` notifications of a room at `after < line <= upto`, oldest first."""
    rows = tx.all(
        "SELECT line, thread, sender, weight, aside FROM notifications WHERE room_num = ? AND line > ? "
        "AND line <= ? ORDER BY line DESC LIMIT ?",
        (room_num, after, upto, limit),
    )
    return [Notification(row[0], row[1], row[2], row[3], bool(row[4])) for row in reversed(rows)]


def mentions(tx: Tx, room_num: int, after: int, upto: int) -> list[Mention]:
    """Everybody's mentions in a room at `after < line <= upto`, oldest first."""
    rows = tx.all(
        "SELECT user_id, line, thread FROM mentions WHERE room_num = ? AND line > ? AND line <= ? "
        "ORDER BY line, user_id",
        (room_num, after, upto),
    )
    return [Mention(*row) for row in rows]


def mentions_of(tx: Tx, user_id: str, room_num: int, after: int, upto: int, limit: int) -> list[Mention]:
    """A user's newest `limit` mentions in a room at `after < line <= upto`."""
    rows = tx.all(
        "SELECT user_id, line, thread FROM mentions WHERE user_id = ? AND room_num = ? AND line > ? "
        "AND line <= ? ORDER BY line DESC LIMIT ?",
        (user_id, room_num, after, upto, limit),
    )
    return [Mention(*row) for row in rows]


def newest_notifications(
    tx: Tx, room_nums: Sequence[int], before: int, limit: int
) -> list[tuple[int, int, int]]:
    """(room, line, weight) of the newest `limit` notifications of each of some rooms, at `line < before`."""
    return _newest(
        tx,
        "SELECT room_num, line, weight FROM notifications WHERE room_num = ?",
        (),
        room_nums,
        before,
        limit,
    )


def newest_mentions(
    tx: Tx, user_id: str, room_nums: Sequence[int], before: int, limit: int
) -> list[tuple[int, int, int]]:
    """The same of a user's mentions, all of weight 2."""
    select = "SELECT room_num, line, 2 FROM mentions WHERE user_id = ? AND room_num = ?"
    return _newest(tx, select, (user_id,), room_nums, before, limit)


def newest_events(tx: Tx, room_nums: Sequence[int], before: int, limit: int) -> list[tuple[int, int, int]]:
    """The same of all events that were accepted, of weight 0: whoever asks has to look at them."""
    select = "SELECT room_num, line, 0 FROM events WHERE verdict = 0 AND room_num = ?"
    return _newest(tx, select, (), room_nums, before, limit)


def _newest(
    tx: Tx, select: str, values: tuple[object, ...], room_nums: Sequence[int], before: int, limit: int
) -> list[tuple[int, int, int]]:
    """Some rows of each room, of many rooms in one statement: one a room would be as many round trips."""
    one = f"SELECT * FROM ({select} AND line < ? ORDER BY line DESC LIMIT ?) AS room"
    found: dict[tuple[int, int, int], None] = {}
    for start in range(0, len(room_nums), ROOMS_AT_ONCE):
        rooms = list(room_nums[start : start + ROOMS_AT_ONCE])
        # Filled up with the last one again: the statement has one text, and stays prepared.
        rooms += rooms[-1:] * (ROOMS_AT_ONCE - len(rooms))
        bound = [value for room_num in rooms for value in (*values, room_num, before, limit)]
        rows = tx.all(" UNION ALL ".join([one] * ROOMS_AT_ONCE), bound)
        found.update(dict.fromkeys((row[0], row[1], row[2]) for row in rows))
    return list(found)


def note_activity(tx: Tx, room_num: int, position: int) -> None:
    """Something happened in a room that people would look at."""
    tx.run(
        "INSERT INTO room_activity (room_num, position) VALUES (?, ?) ON CONFLICT (room_num) DO UPDATE SET "
        "position = excluded.position",
        (room_num, position),
    )


def activity(tx: Tx, room_nums: Sequence[int]) -> dict[int, int]:
    """room number -> the position of the last such event, of rooms that had one."""
    found: dict[int, int] = {}
    for marks, chunk in parts(room_nums):
        found.update(
            (row[0], row[1])
            for row in tx.all(
                f"SELECT room_num, position FROM room_activity WHERE room_num IN ({marks})", chunk
            )
        )
    return found
