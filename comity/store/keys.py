"""Other servers' public keys at rest, and the documents in which they published them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from comity.protocol.signing import PublishedKey
from comity.store.database import Tx
from comity.store.lists import parts


@dataclass(frozen=True, slots=True)
class KeyDocument:
    """A server's key document as it published it: JSON. Times in ms since the epoch.

    `fetched_at` is when the server itself gave it; 0 if that was not we who fetched it, but a notary.
    """

    document: bytes
    valid_until: int
    fetched_at: int


def load(tx: Tx, servers: Iterable[str]) -> dict[str, list[tuple[PublishedKey, int]]]:
    """The stored keys of each server, each key with when it was fetched (ms since the epoch)."""
    found: dict[str, list[tuple[PublishedKey, int]]] = {}
    for marks, part in parts(servers):
        rows = tx.all(
            "SELECT server, key_id, public, valid_until, expired, fetched_at FROM server_keys "
            f"WHERE server IN ({marks})",
            part,
        )
        for server, key_id, public, valid_until, expired, fetched_at in rows:
            key = PublishedKey(key_id, bytes(public), valid_until, expired=bool(expired))
            found.setdefault(server, []).append((key, fetched_at))
    return found


def put(tx: Tx, server: str, keys: Iterable[PublishedKey], fetched_at: int) -> None:
    """Store what a server publishes now; keys it no longer names keep their last validity."""
    tx.many(
        "INSERT INTO server_keys (server, key_id, public, valid_until, expired, fetched_at) "
        "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (server, key_id) DO UPDATE SET "
        "public = excluded.public, valid_until = excluded.valid_until, expired = excluded.expired, "
        "fetched_at = excluded.fetched_at",
        [(server, key.key_id, key.public, key.valid_until_ms, int(key.expired), fetched_at) for key in keys],
    )


def documents(tx: Tx, servers: Iterable[str]) -> dict[str, KeyDocument]:
    """The stored key document of each server that has one."""
    found: dict[str, KeyDocument] = {}
    for marks, part in parts(servers):
        rows = tx.all(
            f"SELECT server, document, valid_until, fetched_at FROM key_documents WHERE server IN ({marks})",
            part,
        )
        found.update((row[0], KeyDocument(bytes(row[1]), row[2], row[3])) for row in rows)
    return found


def put_document(tx: Tx, server: str, document: KeyDocument) -> None:
    """Store what a server publishes now, in the place of what it published before.

    What a notary has told takes the place only of what was valid for a shorter time.
    """
    tx.run(
        "INSERT INTO key_documents (server, document, valid_until, fetched_at) VALUES (?, ?, ?, ?) "
        "ON CONFLICT (server) DO UPDATE SET document = excluded.document, "
        "valid_until = excluded.valid_until, fetched_at = excluded.fetched_at "
        "WHERE excluded.fetched_at > 0 OR excluded.valid_until > key_documents.valid_until",
        (server, document.document, document.valid_until, document.fetched_at),
    )
