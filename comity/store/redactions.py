"""Redactions at rest that came before the event that they redact."""

from __future__ import annotations

from collections.abc import Sequence

from comity.store.database import Tx
from comity.store.lists import parts


def wait_for(tx: Tx, redacts: str, event_num: int) -> None:
    """Remember a redaction whose target is not here."""
    tx.run(
        "INSERT INTO pending_redactions (redacts, event_num) VALUES (?, ?) "
        "ON CONFLICT (redacts, event_num) DO NOTHING",
        (redacts, event_num),
    )


def forget(tx: Tx, event_ids: Sequence[str]) -> None:
    """The targets are here: nothing waits for them any more."""
    tx.many("DELETE FROM pending_redactions WHERE redacts = ?", [(event_id,) for event_id in event_ids])


def waiting_for(tx: Tx, event_ids: Sequence[str]) -> list[tuple[str, int]]:
    """(target, redaction's number) of redactions that wait for one of these events."""
    found: list[tuple[str, int]] = []
    for marks, part in parts(event_ids):
        found.extend(
            tx.all(
                f"SELECT redacts, event_num FROM pending_redactions WHERE redacts IN ({marks}) "
                "ORDER BY redacts, event_num",
                part,
            )
        )
    return found
