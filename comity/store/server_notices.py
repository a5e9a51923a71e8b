"""Server notices at rest: those that wait to be sent, and each user's room for them.

client-server §Server Notices. Operators write from a process of their own, so what they write waits
here until the server looks.
"""

from __future__ import annotations

from dataclasses import dataclass

from comity.store.database import Tx


@dataclass(frozen=True, slots=True)
class Notice:
    """One notice that waits. `user_id` is a user of this server."""

    notice_id: str
    user_id: str
    body: str


def put(tx: Tx, notice: Notice, now_ms: int) -> None:
    """Have a notice wait."""
    tx.run(
        "INSERT INTO server_notices (notice_id, user_id, body, at) VALUES (?, ?, ?, ?)",
        (notice.notice_id, notice.user_id, notice.body, now_ms),
    )


def waiting(tx: Tx, limit: int) -> list[Notice]:
    """The notices that wait, oldest first."""
    rows = tx.all(
        "SELECT notice_id, user_id, body FROM server_notices ORDER BY at, notice_id LIMIT ?", (limit,)
    )
    return [Notice(*row) for row in rows]


def delete(tx: Tx, notice_id: str) -> None:
    """A notice was sent, or cannot be."""
    tx.run("DELETE FROM server_notices WHERE notice_id = ?", (notice_id,))


def room_of(tx: Tx, user_id: str) -> str | None:
    """The id of the room in which a user gets notices."""
    row = tx.one("SELECT room_id FROM server_notice_rooms WHERE user_id = ?", (user_id,))
    return row[0] if row else None


def put_room(tx: Tx, user_id: str, room_id: str) -> None:
    """Remember the room in which a user gets notices."""
    tx.run(
        "INSERT INTO server_notice_rooms (user_id, room_id) VALUES (?, ?) "
        "ON CONFLICT (user_id) DO UPDATE SET room_id = excluded.room_id",
        (user_id, room_id),
    )
