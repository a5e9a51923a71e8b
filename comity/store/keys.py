"""Other servers' public keys at rest."""

from __future__ import annotations

from collections.abc import Iterable

from comity.protocol.signing import PublishedKey
from comity.store.database import Tx


def load(tx: Tx, server: str) -> list[tuple[PublishedKey, int]]:
    """The stored keys of a server, each with when it was fetched (ms since the epoch)."""
    rows = tx.all(
        "SELECT key_id, public, valid_until, expired, fetched_at FROM server_keys WHERE server = ?", (server,)
    )
    return [(PublishedKey(row[0], bytes(row[1]), row[2], expired=bool(row[3])), row[4]) for row in rows]


def put(tx: Tx, server: str, keys: Iterable[PublishedKey], fetched_at: int) -> None:
    """Store what a server publishes now; keys it no longer names keep their last validity."""
    tx.many(
        "INSERT INTO server_keys (server, key_id, public, valid_until, expired, fetched_at) "
        "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (server, key_id) DO UPDATE SET "
        "public = excluded.public, valid_until = excluded.valid_until, expired = excluded.expired, "
        "fetched_at = excluded.fetched_at",
        [(server, key.key_id, key.public, key.valid_until_ms, int(key.expired), fetched_at) for key in keys],
    )
