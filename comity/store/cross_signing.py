"""Keys for signing devices and people, at rest (client-server §Cross-signing): of anybody."""

from __future__ import annotations

from comity.store.database import Tx

MASTER, SELF_SIGNING, USER_SIGNING = "master", "self_signing", "user_signing"
USAGES = (MASTER, SELF_SIGNING, USER_SIGNING)


def keys_of(tx: Tx, user_id: str) -> dict[str, str]:
    """usage -> JSON text of a user's keys."""
    rows = tx.all("SELECT usage, json FROM cross_signing_keys WHERE user_id = ?", (user_id,))
    return {row[0]: row[1] for row in rows}


def put(tx: Tx, user_id: str, usage: str, json: str, position: int) -> None:
    """Set one key; `usage` is one of USAGES."""
    tx.run(
        "INSERT INTO cross_signing_keys (user_id, usage, json, position) VALUES (?, ?, ?, ?) "
        "ON CONFLICT (user_id, usage) DO UPDATE SET json = excluded.json, position = excluded.position",
        (user_id, usage, json, position),
    )


def delete(tx: Tx, user_id: str, usage: str) -> None:
    """Forget one key."""
    tx.run("DELETE FROM cross_signing_keys WHERE user_id = ? AND usage = ?", (user_id, usage))
