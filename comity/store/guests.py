"""Guest accounts at rest: who is a guest, and in which rooms guests are (client-server §Guest Access)."""

from __future__ import annotations

from comity.store import accounts
from comity.store.database import Tx


def insert(tx: Tx, user_id: str, now_ms: int) -> bool:
    """Create a guest account; False if that user id was ever taken."""
    if not accounts.insert_user(tx, user_id, None, admin=False, now_ms=now_ms):
        return False
    tx.run("INSERT INTO guests (user_id) VALUES (?)", (user_id,))
    return True


def is_guest(tx: Tx, user_id: str) -> bool:
    """Whether it is the id of a guest of this server."""
    return tx.one("SELECT 1 FROM guests WHERE user_id = ?", (user_id,)) is not None


def upgrade(tx: Tx, user_id: str, password_hash: str | None) -> bool:
    """Make a guest's account a full one; False if it is none that a guest uses."""
    found = accounts.user(tx, user_id)
    if found is None or found.deactivated or not is_guest(tx, user_id):
        return False
    tx.run("DELETE FROM guests WHERE user_id = ?", (user_id,))
    accounts.set_password_hash(tx, user_id, password_hash)
    return True


def joined(tx: Tx, room_num: int, server: str) -> list[str]:
    """The guests who are joined to a room. `server` is ours."""
    rows = tx.all(
        "SELECT m.user_id FROM memberships m JOIN guests g ON g.user_id = m.user_id "
        "WHERE m.room_num = ? AND m.server = ? AND m.membership = 'join' ORDER BY m.user_id",
        (room_num, server),
    )
    return [row[0] for row in rows]


def rooms(tx: Tx) -> list[str]:
    """The ids of the rooms that guests are joined to."""
    rows = tx.all(
        "SELECT DISTINCT r.room_id FROM guests g JOIN memberships m ON m.user_id = g.user_id "
        "JOIN rooms r ON r.room_num = m.room_num WHERE m.membership = 'join' ORDER BY r.room_id"
    )
    return [row[0] for row in rows]
