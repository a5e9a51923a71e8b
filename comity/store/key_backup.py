"""Backups of the keys of encrypted sessions, at rest (client-server §Server-side key backups).

Plain functions over an open transaction. Which of two keys is the better one is decided above.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from comity.store.database import Row, Tx
from comity.store.lists import parts


@dataclass(frozen=True, slots=True)
class Backup:
    """One version of a user's backup. `etag` counts the changes of its keys; `auth_data` is JSON text."""

    version: int
    algorithm: str
    auth_data: str
    etag: int
    count: int


@dataclass(frozen=True, slots=True)
class BackedUpKey:
    """The key of one session; `json` is the whole of it as JSON text."""

    room_id: str
    session_id: str
    is_verified: bool
    first_message_index: int
    forwarded_count: int
    json: str


_BACKUP = "version, algorithm, auth_data, etag, key_count"
_KEY = "room_id, session_id, is_verified, first_message_index, forwarded_count, json"


def _key(row: Row) -> BackedUpKey:
    room_id, session_id, is_verified, index, count, json = row
    return BackedUpKey(room_id, session_id, bool(is_verified), index, count, json)


# -- versions


def last_version(tx: Tx, user_id: str) -> int:
    """The newest version that a user ever made, deleted or not; 0 if there is none."""
    row = tx.one("SELECT max(version) FROM key_backups WHERE user_id = ?", (user_id,))
    return int(row[0] or 0) if row else 0


def current(tx: Tx, user_id: str) -> Backup | None:
    """The newest version that is there."""
    row = tx.one(
        f"SELECT {_BACKUP} FROM key_backups WHERE user_id = ? AND deleted = 0 ORDER BY version DESC LIMIT 1",
        (user_id,),
    )
    return Backup(*row) if row else None


def backup(tx: Tx, user_id: str, version: int) -> Backup | None:
    """One version."""
    row = tx.one(
        f"SELECT {_BACKUP} FROM key_backups WHERE user_id = ? AND version = ? AND deleted = 0",
        (user_id, version),
    )
    return Backup(*row) if row else None


def count_versions(tx: Tx, user_id: str) -> int:
    """How many versions a user has."""
    row = tx.one("SELECT count(*) FROM key_backups WHERE user_id = ? AND deleted = 0", (user_id,))
    return int(row[0]) if row else 0


def create(tx: Tx, user_id: str, algorithm: str, auth_data: str) -> int:
    """Make a new version; its number."""
    version = last_version(tx, user_id) + 1
    tx.run("DELETE FROM key_backups WHERE user_id = ? AND deleted = 1", (user_id,))
    tx.run(
        "INSERT INTO key_backups (user_id, version, algorithm, auth_data) VALUES (?, ?, ?, ?)",
        (user_id, version, algorithm, auth_data),
    )
    return version


def set_auth_data(tx: Tx, user_id: str, version: int, auth_data: str) -> None:
    """Replace the `auth_data` of a version."""
    tx.run(
        "UPDATE key_backups SET auth_data = ? WHERE user_id = ? AND version = ?",
        (auth_data, user_id, version),
    )


def delete(tx: Tx, user_id: str, version: int) -> None:
    """Delete a version and its keys."""
    tx.run("DELETE FROM backed_up_keys WHERE user_id = ? AND version = ?", (user_id, version))
    if version == last_version(tx, user_id):
        tx.run(
            "UPDATE key_backups SET deleted = 1, auth_data = '{}', key_count = 0, key_bytes = 0 "
            "WHERE user_id = ? AND version = ?",
            (user_id, version),
        )
    else:
        tx.run("DELETE FROM key_backups WHERE user_id = ? AND version = ?", (user_id, version))


def delete_all(tx: Tx, user_id: str) -> None:
    """The account ends: every version with its keys goes."""
    tx.run("DELETE FROM backed_up_keys WHERE user_id = ?", (user_id,))
    tx.run("DELETE FROM key_backups WHERE user_id = ?", (user_id,))


# -- keys


def sizes(tx: Tx, user_id: str) -> tuple[int, int]:
    """(keys, their bytes) of all versions of a user."""
    row = tx.one(
        "SELECT sum(key_count), sum(key_bytes) FROM key_backups WHERE user_id = ?",
        (user_id,),
    )
    return (int(row[0] or 0), int(row[1] or 0)) if row else (0, 0)


def held(tx: Tx, user_id: str, version: int, room_id: str, sessions: Iterable[str]) -> list[BackedUpKey]:
    """Those keys of a room that are in a backup."""
    found: dict[str, BackedUpKey] = {}
    for marks, part in parts(sessions):
        rows = tx.all(
            f"SELECT {_KEY} FROM backed_up_keys WHERE user_id = ? AND version = ? AND room_id = ? "
            f"AND session_id IN ({marks})",
            [user_id, version, room_id, *part],
        )
        found.update((row[1], _key(row)) for row in rows)
    return list(found.values())


def put(tx: Tx, user_id: str, version: int, keys: Iterable[BackedUpKey]) -> None:
    """Set keys; `count_change` is the caller's to call."""
    tx.many(
        f"INSERT INTO backed_up_keys (user_id, version, {_KEY}) VALUES (?, ?, ?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (user_id, version, room_id, session_id) DO UPDATE SET "
        "is_verified = excluded.is_verified, first_message_index = excluded.first_message_index, "
        "forwarded_count = excluded.forwarded_count, json = excluded.json",
        [
            (
                user_id,
                version,
                key.room_id,
                key.session_id,
                int(key.is_verified),
                key.first_message_index,
                key.forwarded_count,
                key.json,
            )
            for key in keys
        ],
    )


def count_change(tx: Tx, user_id: str, version: int, keys: int, size: int) -> None:
    """The keys of a version changed: there are so many more of them, and bytes of them."""
    tx.run(
        "UPDATE key_backups SET etag = etag + 1, key_count = key_count + ?, key_bytes = key_bytes + ? "
        "WHERE user_id = ? AND version = ?",
        (keys, size, user_id, version),
    )


def _where(
    user_id: str, version: int, room_id: str | None, session_id: str | None
) -> tuple[str, list[object]]:
    """The condition for the keys of a version, of one room of it, or one session of that."""
    text, values = "user_id = ? AND version = ?", list[object]((user_id, version))
    if room_id is not None:
        text, values = text + " AND room_id = ?", [*values, room_id]
    if session_id is not None:
        text, values = text + " AND session_id = ?", [*values, session_id]
    return text, values


def delete_keys(
    tx: Tx, user_id: str, version: int, room_id: str | None = None, session_id: str | None = None
) -> None:
    """Delete the keys of a version, of one room of it, or one session of that."""
    where, values = _where(user_id, version, room_id, session_id)
    row = tx.one(f"SELECT count(*), sum(length(json)) FROM backed_up_keys WHERE {where}", values)
    if row is not None and row[0]:
        tx.run(f"DELETE FROM backed_up_keys WHERE {where}", values)
        count_change(tx, user_id, version, -int(row[0]), -int(row[1]))


def keys_after(
    tx: Tx, user_id: str, version: int, room_id: str | None, after: Sequence[str], limit: int
) -> list[BackedUpKey]:
    """The first `limit` keys of a version, or of one room of it, behind `after`: (room id, session id)."""
    where, values = _where(user_id, version, room_id, None)
    rows = tx.all(
        f"SELECT {_KEY} FROM backed_up_keys WHERE {where} AND (room_id, session_id) > (?, ?) "
        "ORDER BY room_id, session_id LIMIT ?",
        [*values, *after, limit],
    )
    return [_key(row) for row in rows]
