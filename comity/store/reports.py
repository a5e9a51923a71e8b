"""Reports at rest (client-server §Reporting Content): what users have told the operator of."""

from __future__ import annotations

from dataclasses import dataclass

from comity.store.database import Row, Tx
from comity.store.events import ACCEPTED


@dataclass(frozen=True, slots=True)
class Report:
    """One report: of an event, of a room (no event id) or of a user (no room id). Times in ms.

    `user_id` is the user who is reported or the event's sender; `closed_at` is 0 while it is open.
    """

    report_id: int
    reporter: str
    room_id: str
    event_id: str
    user_id: str
    reason: str
    at: int
    closed_at: int = 0


_COLUMNS = "report_id, reporter, room_id, event_id, user_id, reason, at, closed_at"


def add(
    tx: Tx, reporter: str, reason: str, at: int, *, room_id: str = "", event_id: str = "", user_id: str = ""
) -> int:
    """Keep a report; its number. Numbers only grow: the newest report is never forgotten."""
    row = tx.one("SELECT max(report_id) FROM reports")
    report_id = int(row[0] or 0) + 1 if row else 1
    tx.run(
        f"INSERT INTO reports ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, 0)",
        (report_id, reporter, room_id, event_id, user_id, reason, at),
    )
    return report_id


def forget_beyond(tx: Tx, reporter: str, most: int) -> int:
    """Forget what a reporter has reported beyond `most`, closed reports and the oldest first; how many."""
    row = tx.one("SELECT count(*) FROM reports WHERE reporter = ?", (reporter,))
    surplus = (int(row[0]) if row else 0) - most
    if surplus <= 0:
        return 0
    rows = tx.all(
        "SELECT report_id FROM reports WHERE reporter = ? "
        "ORDER BY CASE WHEN closed_at > 0 THEN 0 ELSE 1 END, report_id LIMIT ?",
        (reporter, surplus),
    )
    tx.many("DELETE FROM reports WHERE report_id = ?", rows)
    return len(rows)


def newest(tx: Tx, limit: int, *, closed: bool = False) -> list[Report]:
    """The newest reports, oldest of them first: those that are open, or with `closed` all."""
    which = "" if closed else "WHERE closed_at = 0 "
    rows = tx.all(f"SELECT {_COLUMNS} FROM reports {which}ORDER BY report_id DESC LIMIT ?", (limit,))
    return [_report(row) for row in reversed(rows)]


def count(tx: Tx, *, closed: bool = False) -> int:
    """How many reports are open, or with `closed` how many there are."""
    row = tx.one("SELECT count(*) FROM reports" + ("" if closed else " WHERE closed_at = 0"))
    return int(row[0]) if row else 0


def close(tx: Tx, report_id: int, at: int) -> bool:
    """Close an open report; False if there is none of that number."""
    return (
        tx.changed("UPDATE reports SET closed_at = ? WHERE report_id = ? AND closed_at = 0", (at, report_id))
        > 0
    )


def sender_of(tx: Tx, room_num: int, event_id: str) -> str | None:
    """Who sent an accepted event of that room, one of its timeline or of its state alone; None: no such."""
    row = tx.one(
        "SELECT sender FROM events WHERE event_id = ? AND room_num = ? AND verdict = ?",
        (event_id, room_num, ACCEPTED),
    )
    return row[0] if row else None


def _report(row: Row) -> Report:
    return Report(*row)
