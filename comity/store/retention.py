"""Messages whose time is over, at rest: finding them, and erasing what they said.

Plain functions over an open transaction. How long events are kept is decided elsewhere
(`comity.rooms.read.lifetimes`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from comity.protocol.event import Event
from comity.store import compression
from comity.store.database import Tx

#: As the redaction of an event: there is none, its content was erased when its time was over.
ERASED = 0


@dataclass(frozen=True, slots=True)
class Old:
    """An event from before a time; `whole`: it is a message that still says what it said."""

    number: int
    at: int
    line: int | None
    whole: bool


def rooms_after(tx: Tx, room_num: int, limit: int) -> list[int]:
    """The numbers of the next rooms."""
    rows = tx.all(
        "SELECT room_num FROM rooms WHERE room_num > ? ORDER BY room_num LIMIT ?", (room_num, limit)
    )
    return [row[0] for row in rows]


def from_before(tx: Tx, room_num: int, time: int, after: tuple[int, int], limit: int) -> list[Old]:
    """A room's events from before a time (ms), oldest first, behind the place (time, event number)."""
    rows = tx.all(
        "SELECT event_num, origin_server_ts, line, "
        "CASE WHEN state_key IS NULL AND redacted_by IS NULL THEN 1 ELSE 0 END "
        "FROM events WHERE room_num = ? AND origin_server_ts < ? AND origin_server_ts >= ? "
        "AND (origin_server_ts > ? OR event_num > ?) ORDER BY origin_server_ts, event_num LIMIT ?",
        (room_num, time, after[0], after[0], after[1], limit),
    )
    return [Old(row[0], row[1], row[2], bool(row[3])) for row in rows]


def erase(tx: Tx, erased: Iterable[tuple[int, Event]]) -> None:
    """Overwrite events, given by number, with what redaction leaves of them."""
    tx.many(
        "UPDATE events SET json = ?, redacted_by = ? WHERE event_num = ? AND redacted_by IS NULL",
        [(compression.pack(event.encoded), ERASED, number) for number, event in erased],
    )
