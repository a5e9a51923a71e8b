"""Addresses outside of Matrix at rest: whose each is, whom identity servers were told of, what is accepted.

Plain functions over an open transaction. Addresses arrive canonical; nothing here knows whether one is
proven (`comity.store.validation` holds what proves it).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from comity.store.database import Tx


@dataclass(frozen=True, slots=True)
class ThirdPartyId:
    """One address of a user; times in ms since the epoch. `written` is as its owner wrote it."""

    medium: str
    address: str
    written: str
    validated_at: int
    added_at: int


@dataclass(frozen=True, slots=True)
class Binding:
    """An identity server knows that an address is a user's."""

    medium: str
    address: str
    id_server: str


# -- addresses of accounts


def owner(tx: Tx, medium: str, address: str) -> str | None:
    """The user whose address it is."""
    row = tx.one("SELECT user_id FROM third_party_ids WHERE medium = ? AND address = ?", (medium, address))
    return row[0] if row else None


def owner_and_written(tx: Tx, medium: str, address: str) -> tuple[str, str] | None:
    """The user whose address it is, and how they wrote it."""
    row = tx.one(
        "SELECT user_id, written FROM third_party_ids WHERE medium = ? AND address = ?", (medium, address)
    )
    return (row[0], row[1]) if row else None


def of_user(tx: Tx, user_id: str) -> list[ThirdPartyId]:
    """Every address of a user, oldest first."""
    rows = tx.all(
        "SELECT medium, address, written, validated_at, added_at FROM third_party_ids WHERE user_id = ? "
        "ORDER BY added_at, medium, address",
        (user_id,),
    )
    return [ThirdPartyId(*row) for row in rows]


def add(tx: Tx, user_id: str, new: ThirdPartyId) -> bool:
    """Make an address a user's; False if it is another's already. Adding it again is no change."""
    tx.run(
        "INSERT INTO third_party_ids (medium, address, user_id, written, validated_at, added_at) "
        "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (medium, address) DO NOTHING",
        (new.medium, new.address, user_id, new.written, new.validated_at, new.added_at),
    )
    return owner(tx, new.medium, new.address) == user_id


def delete(tx: Tx, user_id: str, medium: str, address: str) -> bool:
    """Take an address from a user; False if it was not theirs."""
    return (
        tx.changed(
            "DELETE FROM third_party_ids WHERE medium = ? AND address = ? AND user_id = ?",
            (medium, address, user_id),
        )
        > 0
    )


def delete_all(tx: Tx, user_id: str) -> None:
    """Take every address from a user."""
    tx.run("DELETE FROM third_party_ids WHERE user_id = ?", (user_id,))


# -- what identity servers know


def put_binding(tx: Tx, user_id: str, binding: Binding, now_ms: int, most: int) -> None:
    """Note that an identity server knows an address of a user; the newest `most` of a user are kept."""
    tx.run(
        "INSERT INTO bound_third_party_ids (user_id, medium, address, id_server, bound_at) "
        "VALUES (?, ?, ?, ?, ?) "
        "ON CONFLICT (user_id, medium, address, id_server) DO UPDATE SET bound_at = excluded.bound_at",
        (user_id, binding.medium, binding.address, binding.id_server, now_ms),
    )
    for old in bindings(tx, user_id)[most:]:
        delete_binding(tx, user_id, old)


def bindings(tx: Tx, user_id: str) -> list[Binding]:
    """What identity servers know of a user, newest first."""
    rows = tx.all(
        "SELECT medium, address, id_server FROM bound_third_party_ids WHERE user_id = ? "
        "ORDER BY bound_at DESC, medium, address, id_server",
        (user_id,),
    )
    return [Binding(*row) for row in rows]


def delete_binding(tx: Tx, user_id: str, binding: Binding) -> None:
    """An identity server does not know it any more, or will not be asked again."""
    tx.run(
        "DELETE FROM bound_third_party_ids "
        "WHERE user_id = ? AND medium = ? AND address = ? AND id_server = ?",
        (user_id, binding.medium, binding.address, binding.id_server),
    )


def delete_bindings(tx: Tx, user_id: str) -> None:
    """Forget what identity servers know of a user."""
    tx.run("DELETE FROM bound_third_party_ids WHERE user_id = ?", (user_id,))


# -- terms


def accept_terms(tx: Tx, user_id: str, policies: Iterable[tuple[str, str]], now_ms: int) -> None:
    """Note the (policy id, version) that a user has accepted."""
    for policy_id, version in policies:
        tx.run(
            "INSERT INTO accepted_terms (user_id, policy_id, version, accepted_at) VALUES (?, ?, ?, ?) "
            "ON CONFLICT (user_id, policy_id, version) DO NOTHING",
            (user_id, policy_id, version, now_ms),
        )


def accepted_terms(tx: Tx, user_id: str) -> list[tuple[str, str]]:
    """The (policy id, version) that a user has accepted."""
    rows = tx.all(
        "SELECT policy_id, version FROM accepted_terms WHERE user_id = ? ORDER BY policy_id, accepted_at",
        (user_id,),
    )
    return [(row[0], row[1]) for row in rows]
