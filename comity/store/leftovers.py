"""What nobody asks for any more: found and deleted, a little at a time.

Plain functions over an open transaction; how long something is kept is decided above.
"""

from __future__ import annotations

from comity.store.database import Tx


def forget_device_changes(tx: Tx, before_ms: int) -> int:
    """Delete news of devices that are gone, of before a moment in ms; how many.

    The newest of each user stays: it is their list's `stream_id`.
    """
    row = tx.one("SELECT max(position) FROM position_times WHERE at < ?", (before_ms,))
    if row is None or row[0] is None:
        return 0
    return tx.changed(
        "DELETE FROM device_changes WHERE position <= ? AND NOT EXISTS (SELECT 1 FROM devices d "
        "WHERE d.user_id = device_changes.user_id AND d.device_id = device_changes.device_id) "
        "AND EXISTS (SELECT 1 FROM device_changes newer WHERE newer.user_id = device_changes.user_id "
        "AND newer.position > device_changes.position)",
        (row[0],),
    )


def drop_messages_of_absent(tx: Tx, before_ms: int, limit: int) -> int:
    """Delete the messages that wait for devices which were not seen since a moment in ms.

    Of `limit` devices at most; how many messages. Dehydrated devices are never seen, and keep theirs.
    """
    absent = tx.all(
        "SELECT d.user_id, d.device_id FROM devices d WHERE coalesce(d.last_seen_at, d.created_at) < ? "
        "AND EXISTS (SELECT 1 FROM to_device t WHERE t.user_id = d.user_id AND t.device_id = d.device_id) "
        "AND NOT EXISTS (SELECT 1 FROM dehydrated_devices h WHERE h.user_id = d.user_id "
        "AND h.device_id = d.device_id) LIMIT ?",
        (before_ms, limit),
    )
    return sum(
        tx.changed("DELETE FROM to_device WHERE user_id = ? AND device_id = ?", (user_id, device_id))
        for user_id, device_id in absent
    )


def followed_users(tx: Tx, after: str, limit: int) -> list[str]:
    """The next `limit` users of other servers, in their order, of whose devices something is kept."""
    rows = tx.all(
        "SELECT user_id FROM remote_device_lists WHERE user_id > ? ORDER BY user_id LIMIT ?", (after, limit)
    )
    return [row[0] for row in rows]


def forget_remote_user(tx: Tx, user_id: str) -> None:
    """Delete what is kept of the devices and keys of a user of another server."""
    for table in ("remote_devices", "remote_device_lists", "cross_signing_keys"):
        tx.run(f"DELETE FROM {table} WHERE user_id = ?", (user_id,))
