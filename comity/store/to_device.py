"""Messages from device to device, until their receiver has them (client-server §Send-to-Device)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from comity.store.database import Tx
from comity.store.lists import parts


@dataclass(frozen=True, slots=True)
class DeviceMessage:
    """One message that waits; `content` is JSON text."""

    position: int
    sender: str
    type: str
    content: str


def devices_of(tx: Tx, user_ids: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(user id, device id) of every device of these users."""
    for marks, part in parts(user_ids):
        rows = tx.all(f"SELECT user_id, device_id FROM devices WHERE user_id IN ({marks})", part)
        yield from ((row[0], row[1]) for row in rows)


def put(tx: Tx, position: int, sender: str, kind: str, messages: Iterable[tuple[str, str, str]]) -> None:
    """Queue messages of one type at one position: (user id, device id, content as JSON text) of each."""
    tx.many(
        "INSERT INTO to_device (user_id, device_id, position, sender, type, content) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        [(user_id, device_id, position, sender, kind, content) for user_id, device_id, content in messages],
    )


def since(tx: Tx, user_id: str, device_id: str, position: int, upto: int, limit: int) -> list[DeviceMessage]:
    """The first `limit` messages of a device at `position < p <= upto`, oldest first."""
    rows = tx.all(
        "SELECT position, sender, type, content FROM to_device WHERE user_id = ? AND device_id = ? "
        "AND position > ? AND position <= ? ORDER BY position LIMIT ?",
        (user_id, device_id, position, upto, limit),
    )
    return [DeviceMessage(*row) for row in rows]


def newest(tx: Tx, user_id: str, device_id: str) -> int:
    """The position of the newest message of a device; 0 if none waits."""
    row = tx.one(
        "SELECT max(position) FROM to_device WHERE user_id = ? AND device_id = ?", (user_id, device_id)
    )
    return int(row[0] or 0) if row else 0


def drop(tx: Tx, user_id: str, device_id: str, upto: int) -> int:
    """The device has all up to `upto`: delete them; how many there were."""
    return tx.changed(
        "DELETE FROM to_device WHERE user_id = ? AND device_id = ? AND position <= ?",
        (user_id, device_id, upto),
    )


def drop_beyond(tx: Tx, user_id: str, device_id: str, keep: int) -> int:
    """Delete all but the newest `keep` messages of a device; how many that were."""
    row = tx.one(
        "SELECT position FROM to_device WHERE user_id = ? AND device_id = ? "
        "ORDER BY position DESC LIMIT 1 OFFSET ?",
        (user_id, device_id, keep),
    )
    return drop(tx, user_id, device_id, row[0]) if row else 0


# -- to and from other servers


def put_outbound(tx: Tx, server: str, position: int, content: str) -> None:
    """Queue the content (JSON text) of an `m.direct_to_device` EDU for a server."""
    tx.run(
        "INSERT INTO outbound_to_device (server, position, content) VALUES (?, ?, ?)",
        (server, position, content),
    )


def drop_outbound_beyond(tx: Tx, server: str, keep: int) -> int:
    """Delete all but the newest `keep` messages that wait for a server; how many that were."""
    row = tx.one(
        "SELECT position FROM outbound_to_device WHERE server = ? ORDER BY position DESC LIMIT 1 OFFSET ?",
        (server, keep),
    )
    if row is None:
        return 0
    return tx.changed("DELETE FROM outbound_to_device WHERE server = ? AND position <= ?", (server, row[0]))


def note_received(tx: Tx, origin: str, message_id: str, now_ms: int) -> bool:
    """Remember the id of a message that came from `origin`; False if it has come before."""
    return (
        tx.changed(
            "INSERT INTO received_to_device (origin, message_id, at) VALUES (?, ?, ?) "
            "ON CONFLICT (origin, message_id) DO NOTHING",
            (origin, message_id, now_ms),
        )
        > 0
    )


def forget_received(tx: Tx, before_ms: int) -> int:
    """Forget the ids of messages that came before a moment; how many."""
    return tx.changed("DELETE FROM received_to_device WHERE at < ?", (before_ms,))
