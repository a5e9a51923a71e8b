"""Browsers at rest: who is signed in to this server's own pages.

Plain functions over an open transaction. Tokens arrive hashed (SHA-256); who may sign in and how
long that lasts is decided in `comity.users.browsers`.
"""

from __future__ import annotations

from dataclasses import dataclass

from comity.store.database import Row, Tx


@dataclass(frozen=True, slots=True)
class Browser:
    """One browser in which a user is signed in; times in ms since the epoch."""

    token_hash: bytes
    user_id: str
    created_at: int
    proven_at: int
    last_used_at: int
    expires_at: int
    address: str
    user_agent: str


_COLUMNS = "token_hash, user_id, created_at, proven_at, last_used_at, expires_at, address, user_agent"


def _browser(row: Row) -> Browser:
    return Browser(bytes(row[0]), *row[1:])


def insert(tx: Tx, browser: Browser, keep: int) -> None:
    """Let a browser be signed in; of the user's other ones, all but the `keep - 1` last used end."""
    tx.run("DELETE FROM browser_sessions WHERE expires_at <= ?", (browser.created_at,))
    tx.run(
        f"INSERT INTO browser_sessions ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            browser.token_hash,
            browser.user_id,
            browser.created_at,
            browser.proven_at,
            browser.last_used_at,
            browser.expires_at,
            browser.address,
            browser.user_agent,
        ),
    )
    for other in of_user(tx, browser.user_id)[keep:]:
        delete(tx, other.token_hash)


def find(tx: Tx, token_hash: bytes, now_ms: int) -> tuple[Browser, bool] | None:
    """The browser of that token, and whether its user is suspended.

    None once it has ended, or its account is deactivated or locked.
    """
    columns = ", ".join(f"b.{name}" for name in _COLUMNS.split(", "))
    row = tx.one(
        f"SELECT {columns}, m.suspended FROM browser_sessions b JOIN users u ON u.user_id = b.user_id "
        "LEFT JOIN moderated_accounts m ON m.user_id = b.user_id "
        "WHERE b.token_hash = ? AND b.expires_at > ? AND u.deactivated = 0 AND coalesce(m.locked, 0) = 0",
        (token_hash, now_ms),
    )
    return (_browser(row[:-1]), bool(row[-1])) if row else None


def of_user(tx: Tx, user_id: str) -> list[Browser]:
    """Every browser of a user, last used first."""
    rows = tx.all(
        f"SELECT {_COLUMNS} FROM browser_sessions WHERE user_id = ? ORDER BY last_used_at DESC, token_hash",
        (user_id,),
    )
    return [_browser(row) for row in rows]


def touch(tx: Tx, token_hash: bytes, now_ms: int, expires_at: int) -> None:
    """A browser was used: it ends that much later."""
    tx.run(
        "UPDATE browser_sessions SET last_used_at = ?, expires_at = ? WHERE token_hash = ?",
        (now_ms, expires_at, token_hash),
    )


def prove(tx: Tx, token_hash: bytes, now_ms: int) -> None:
    """Who sits there has just been proven again."""
    tx.run("UPDATE browser_sessions SET proven_at = ? WHERE token_hash = ?", (now_ms, token_hash))


def delete(tx: Tx, token_hash: bytes) -> None:
    """Sign a browser out."""
    tx.run("DELETE FROM browser_sessions WHERE token_hash = ?", (token_hash,))


def delete_all(tx: Tx, user_id: str) -> None:
    """Sign a user out of every browser."""
    tx.run("DELETE FROM browser_sessions WHERE user_id = ?", (user_id,))
