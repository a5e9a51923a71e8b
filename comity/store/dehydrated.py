"""Dehydrated devices at rest (MSC3814): one of a user at most.

Such a device is among the user's others, too: with its name, its keys, the messages that wait for it.
"""

from __future__ import annotations

from comity.store.database import Tx


def get(tx: Tx, user_id: str) -> tuple[str, str] | None:
    """(device id, JSON text of its data) of a user's dehydrated device."""
    row = tx.one("SELECT device_id, data FROM dehydrated_devices WHERE user_id = ?", (user_id,))
    return (row[0], row[1]) if row else None


def put(tx: Tx, user_id: str, device_id: str, data: str) -> None:
    """Set it."""
    tx.run(
        "INSERT INTO dehydrated_devices (user_id, device_id, data) VALUES (?, ?, ?) "
        "ON CONFLICT (user_id) DO UPDATE SET device_id = excluded.device_id, data = excluded.data",
        (user_id, device_id, data),
    )


def drop(tx: Tx, user_id: str, device_id: str) -> None:
    """A device is gone: if it was the dehydrated one, there is none any more."""
    tx.run("DELETE FROM dehydrated_devices WHERE user_id = ? AND device_id = ?", (user_id, device_id))
