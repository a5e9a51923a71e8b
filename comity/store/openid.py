"""OpenID tokens at rest (client-server §OpenID): whom each stands for, and until when."""

from __future__ import annotations

from comity.store.database import Tx


def put(tx: Tx, token_hash: bytes, user_id: str, expires_at: int) -> None:
    """Keep a token; `expires_at` is in ms since the epoch."""
    tx.run(
        "INSERT INTO openid_tokens (token_hash, user_id, expires_at) VALUES (?, ?, ?)",
        (token_hash, user_id, expires_at),
    )


def user_of(tx: Tx, token_hash: bytes, now_ms: int) -> str | None:
    """Whom a token stands for, unless it is over."""
    row = tx.one(
        "SELECT user_id FROM openid_tokens WHERE token_hash = ? AND expires_at > ?", (token_hash, now_ms)
    )
    return row[0] if row else None


def forget_user(tx: Tx, user_id: str) -> None:
    """No token stands for a user any more."""
    tx.run("DELETE FROM openid_tokens WHERE user_id = ?", (user_id,))


def forget_expired(tx: Tx, now_ms: int) -> int:
    """Delete tokens that are over; how many."""
    return tx.changed("DELETE FROM openid_tokens WHERE expires_at <= ?", (now_ms,))
