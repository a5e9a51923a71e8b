"""Links at rest: who signs in to which account through another provider (OpenID Connect).

Plain functions over an open transaction; whether somebody may link or unlink is decided above.
"""

from __future__ import annotations

from dataclasses import dataclass

from comity.store.database import Tx


@dataclass(frozen=True, slots=True)
class Link:
    """One person at one provider, and the account that they sign in to. `linked_at` is in ms."""

    issuer: str
    subject: str
    user_id: str
    shown: str
    linked_at: int


_LINK = "issuer, subject, user_id, shown, linked_at"


def insert(tx: Tx, link: Link) -> bool:
    """Link a person to an account; False if they are linked to one already."""
    return (
        tx.changed(
            f"INSERT INTO upstream_links ({_LINK}) VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT (issuer, subject) DO NOTHING",
            (link.issuer, link.subject, link.user_id, link.shown, link.linked_at),
        )
        > 0
    )


def user_of(tx: Tx, issuer: str, subject: str) -> str | None:
    """The account that a person is linked to."""
    row = tx.one("SELECT user_id FROM upstream_links WHERE issuer = ? AND subject = ?", (issuer, subject))
    return row[0] if row else None


def of_user(tx: Tx, user_id: str) -> list[Link]:
    """The links of one account, oldest first."""
    rows = tx.all(
        f"SELECT {_LINK} FROM upstream_links WHERE user_id = ? ORDER BY linked_at, issuer, subject",
        (user_id,),
    )
    return [Link(*row) for row in rows]


def every(tx: Tx) -> list[Link]:
    """Every link, by user id."""
    return [Link(*row) for row in tx.all(f"SELECT {_LINK} FROM upstream_links ORDER BY user_id, linked_at")]


def delete(tx: Tx, user_id: str, issuer: str, subject: str) -> bool:
    """End one link of an account; False if it has no such link."""
    return (
        tx.changed(
            "DELETE FROM upstream_links WHERE user_id = ? AND issuer = ? AND subject = ?",
            (user_id, issuer, subject),
        )
        > 0
    )


def delete_of_issuer(tx: Tx, user_id: str, issuer: str) -> int:
    """End every link of an account to one provider; how many there were."""
    return tx.changed("DELETE FROM upstream_links WHERE user_id = ? AND issuer = ?", (user_id, issuer))
