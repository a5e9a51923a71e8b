"""Validation sessions at rest: who says that an address is theirs, and whether they have proven it.

Plain functions over an open transaction. Secrets and tokens arrive hashed.
"""

from __future__ import annotations

from dataclasses import dataclass

from comity.store.database import Tx

_COLUMNS = (
    "sid, purpose, medium, address, written, secret_hash, token_hash, user_id, send_attempt, next_link, "
    "failures, validated_at, expires_at"
)


@dataclass(frozen=True, slots=True)
class ValidationSession:
    """One session; times in ms since the epoch. `user_id` is who asked, where that was known."""

    sid: str
    purpose: str
    medium: str
    address: str
    written: str
    secret_hash: bytes
    token_hash: bytes
    user_id: str | None
    send_attempt: int
    next_link: str | None
    failures: int
    validated_at: int | None
    expires_at: int


def insert(tx: Tx, session: ValidationSession) -> None:
    """Keep a new session."""
    marks = ", ".join("?" * 13)
    tx.run(
        f"INSERT INTO validation_sessions ({_COLUMNS}) VALUES ({marks})",
        (
            session.sid, session.purpose, session.medium, session.address, session.written,
            session.secret_hash, session.token_hash, session.user_id, session.send_attempt,
            session.next_link, session.failures, session.validated_at, session.expires_at,
        ),
    )  # fmt: skip


def find(tx: Tx, sid: str) -> ValidationSession | None:
    """The session of that id, over or not."""
    return _one(tx, "sid = ?", (sid,))


def find_by_secret(
    tx: Tx, purpose: str, medium: str, address: str, secret_hash: bytes
) -> ValidationSession | None:
    """The session that a client began for an address, over or not."""
    return _one(
        tx,
        "medium = ? AND address = ? AND secret_hash = ? AND purpose = ?",
        (medium, address, secret_hash, purpose),
    )


def _one(tx: Tx, condition: str, parameters: tuple[object, ...]) -> ValidationSession | None:
    row = tx.one(f"SELECT {_COLUMNS} FROM validation_sessions WHERE {condition}", parameters)
    if row is None:
        return None
    sid, purpose, medium, address, written, secret_hash, token_hash, *rest = row
    return ValidationSession(
        sid, purpose, medium, address, written, bytes(secret_hash), bytes(token_hash), *rest
    )


def note_attempt(tx: Tx, sid: str, before: int, attempt: int, token_hash: bytes) -> bool:
    """A letter is about to be sent, with a token in the place of the last; False if another was faster."""
    return (
        tx.changed(
            "UPDATE validation_sessions SET send_attempt = ?, token_hash = ?, failures = 0 "
            "WHERE sid = ? AND send_attempt = ?",
            (attempt, token_hash, sid, before),
        )
        > 0
    )


def withdraw_attempt(tx: Tx, sid: str, before: int, attempt: int) -> None:
    """That letter was not sent: the client may ask for it again."""
    tx.run(
        "UPDATE validation_sessions SET send_attempt = ? WHERE sid = ? AND send_attempt = ?",
        (before, sid, attempt),
    )


def note_failure(tx: Tx, sid: str) -> None:
    """Somebody gave a wrong token."""
    tx.run("UPDATE validation_sessions SET failures = failures + 1 WHERE sid = ?", (sid,))


def validate(tx: Tx, sid: str, token_hash: bytes, now_ms: int, expires_at: int) -> bool:
    """The address is proven; False if the token has been replaced meanwhile. Once is enough."""
    return (
        tx.changed(
            "UPDATE validation_sessions SET validated_at = COALESCE(validated_at, ?), expires_at = ? "
            "WHERE sid = ? AND token_hash = ?",
            (now_ms, expires_at, sid, token_hash),
        )
        > 0
    )


def take(tx: Tx, sid: str, now_ms: int) -> bool:
    """Use a session up that is validated; whether it was there still."""
    return (
        tx.changed(
            "DELETE FROM validation_sessions WHERE sid = ? AND validated_at IS NOT NULL AND expires_at > ?",
            (sid, now_ms),
        )
        > 0
    )


def delete(tx: Tx, sid: str) -> None:
    """End a session."""
    tx.run("DELETE FROM validation_sessions WHERE sid = ?", (sid,))


def forget(tx: Tx, now_ms: int, most: int) -> None:
    """Sessions that are over go, and those that end first, so that `most` stay."""
    tx.run("DELETE FROM validation_sessions WHERE expires_at <= ?", (now_ms,))
    row = tx.one("SELECT count(*) FROM validation_sessions")
    if row is not None and row[0] > most:
        tx.run(
            "DELETE FROM validation_sessions WHERE sid IN "
            "(SELECT sid FROM validation_sessions ORDER BY expires_at, sid LIMIT ?)",
            (row[0] - most,),
        )
