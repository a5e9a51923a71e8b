"""Keys for signing devices and people, at rest (client-server §Cross-signing): of anybody.

Signatures by users of ours of other users' keys, too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

from comity.store.database import Tx
from comity.store.lists import parts

MASTER, SELF_SIGNING, USER_SIGNING = "master", "self_signing", "user_signing"
USAGES = (MASTER, SELF_SIGNING, USER_SIGNING)


def keys_of(tx: Tx, user_id: str) -> dict[str, str]:
    """usage -> JSON text of a user's keys."""
    rows = tx.all("SELECT usage, json FROM cross_signing_keys WHERE user_id = ?", (user_id,))
    return {row[0]: row[1] for row in rows}


def told_keys(tx: Tx, user_ids: Iterable[str]) -> list[tuple[str, str, str]]:
    """(user id, usage, JSON text) of these users' keys that others are told of: not for signing users."""
    found: list[tuple[str, str, str]] = []
    for marks, part in parts(user_ids):
        found += cast(
            list[tuple[str, str, str]],
            tx.all(
                "SELECT user_id, usage, json FROM cross_signing_keys "
                f"WHERE user_id IN ({marks}) AND usage <> '{USER_SIGNING}'",
                part,
            ),
        )
    return found


def put(tx: Tx, user_id: str, usage: str, json: str, position: int) -> None:
    """Set one key; `usage` is one of USAGES."""
    tx.run(
        "INSERT INTO cross_signing_keys (user_id, usage, json, position) VALUES (?, ?, ?, ?) "
        "ON CONFLICT (user_id, usage) DO UPDATE SET json = excluded.json, position = excluded.position",
        (user_id, usage, json, position),
    )


# -- signatures of other users' keys


@dataclass(frozen=True, slots=True)
class UserSignature:
    """A signature by a user's user-signing key of another's master key, by the ids of both keys."""

    target: str
    target_key: str
    signer_key: str
    signature: str


def put_signature(tx: Tx, signer: str, signed: UserSignature, position: int) -> None:
    """Keep a signature; the one of the same two users before it goes."""
    tx.run(
        "INSERT INTO user_signatures (signer, target, target_key, signer_key, signature, position) "
        "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (signer, target) DO UPDATE SET "
        "target_key = excluded.target_key, signer_key = excluded.signer_key, "
        "signature = excluded.signature, position = excluded.position",
        (signer, signed.target, signed.target_key, signed.signer_key, signed.signature, position),
    )


def signatures_by(tx: Tx, signer: str, targets: Iterable[str]) -> list[UserSignature]:
    """A user's signatures of those users' keys."""
    found: dict[str, UserSignature] = {}
    for marks, part in parts(targets):
        rows = tx.all(
            "SELECT target, target_key, signer_key, signature FROM user_signatures "
            f"WHERE signer = ? AND target IN ({marks})",
            [signer, *part],
        )
        found.update((row[0], UserSignature(*row)) for row in rows)
    return list(found.values())


def count_signatures(tx: Tx, signer: str) -> int:
    """How many users' keys a user has signed."""
    row = tx.one("SELECT count(*) FROM user_signatures WHERE signer = ?", (signer,))
    return int(row[0]) if row else 0


def signed_since(tx: Tx, signer: str, position: int, upto: int) -> list[str]:
    """Whose keys a user signed at `position < p <= upto`."""
    rows = tx.all(
        "SELECT target FROM user_signatures WHERE signer = ? AND position > ? AND position <= ?",
        (signer, position, upto),
    )
    return [row[0] for row in rows]


def forget_signatures(tx: Tx, signer: str) -> None:
    """The key with which a user signed is theirs no more."""
    tx.run("DELETE FROM user_signatures WHERE signer = ?", (signer,))


# -- keys that go


def delete(tx: Tx, user_id: str, usage: str) -> None:
    """Forget one key."""
    tx.run("DELETE FROM cross_signing_keys WHERE user_id = ? AND usage = ?", (user_id, usage))
