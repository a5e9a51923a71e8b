"""Lists of devices at rest: which changes of ours others are told of, and what is known of theirs.

server-server §Device Management. Plain functions over an open transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from comity.store.database import Tx
from comity.store.lists import parts

# -- who is to be told


def servers_sharing(tx: Tx, user_id: str) -> set[str]:
    """The servers that are in a room which a user is joined to."""
    rows = tx.all(
        "SELECT DISTINCT s.server FROM memberships m JOIN server_stays s ON s.room_num = m.room_num "
        "AND s.to_position IS NULL WHERE m.user_id = ? AND m.membership = 'join'",
        (user_id,),
    )
    return {row[0] for row in rows}


def users_sharing(tx: Tx, user_id: str, server: str, limit: int) -> list[str]:
    """Some users of a server, `limit` at most, who are joined to a room that `user_id` is joined to."""
    rows = tx.all(
        "SELECT DISTINCT b.user_id FROM memberships a JOIN memberships b ON b.room_num = a.room_num "
        "WHERE a.user_id = ? AND a.membership = 'join' AND b.server = ? AND b.membership = 'join' LIMIT ?",
        (user_id, server, limit),
    )
    return [row[0] for row in rows]


def sharing_with(tx: Tx, server: str, user_ids: Iterable[str]) -> set[str]:
    """Those of these users who are joined to a room that a user of a server is joined to."""
    found: set[str] = set()
    for marks, part in parts(user_ids):
        rows = tx.all(
            f"SELECT DISTINCT a.user_id FROM memberships a WHERE a.user_id IN ({marks}) "
            "AND a.membership = 'join' AND EXISTS (SELECT 1 FROM memberships b WHERE "
            "b.room_num = a.room_num AND b.server = ? AND b.membership = 'join')",
            [*part, server],
        )
        found.update(row[0] for row in rows)
    return found


# -- our devices


def note_change(tx: Tx, user_id: str, device_id: str, position: int) -> None:
    """A device of ours, or what others see of it, changed at `position`."""
    tx.run(
        "INSERT INTO device_changes (user_id, device_id, position, previous) VALUES (?, ?, ?, ?) "
        "ON CONFLICT (user_id, device_id) DO UPDATE SET position = excluded.position, "
        "previous = excluded.previous",
        (user_id, device_id, position, last_change(tx, user_id)),
    )


def last_change(tx: Tx, user_id: str) -> int:
    """The position of the newest change of a user's devices: their `stream_id`; 0 if there was none."""
    row = tx.one("SELECT max(position) FROM device_changes WHERE user_id = ?", (user_id,))
    return int(row[0] or 0) if row else 0


# -- others' devices


@dataclass(frozen=True, slots=True)
class RemoteList:
    """How far a list is known; `fetched_at` in ms since the epoch."""

    stream_id: int
    stale: bool
    fetched_at: int


def remote_list(tx: Tx, user_id: str) -> RemoteList | None:
    """What is known of a list that is followed."""
    row = tx.one("SELECT stream_id, stale, fetched_at FROM remote_device_lists WHERE user_id = ?", (user_id,))
    return RemoteList(row[0], bool(row[1]), row[2]) if row else None


def remote_lists(tx: Tx, user_ids: Iterable[str]) -> dict[str, RemoteList]:
    """What is known of the lists of these users, where they are followed."""
    found: dict[str, RemoteList] = {}
    for marks, part in parts(user_ids):
        rows = tx.all(
            "SELECT user_id, stream_id, stale, fetched_at FROM remote_device_lists "
            f"WHERE user_id IN ({marks})",
            part,
        )
        found.update((row[0], RemoteList(row[1], bool(row[2]), row[3])) for row in rows)
    return found


def put_remote_list(tx: Tx, user_id: str, known: RemoteList) -> None:
    """Set how far a list is known."""
    tx.run(
        "INSERT INTO remote_device_lists (user_id, stream_id, stale, fetched_at) VALUES (?, ?, ?, ?) "
        "ON CONFLICT (user_id) DO UPDATE SET stream_id = excluded.stream_id, stale = excluded.stale, "
        "fetched_at = excluded.fetched_at",
        (user_id, known.stream_id, int(known.stale), known.fetched_at),
    )


def mark_stale(tx: Tx, user_id: str) -> None:
    """Changes of the list may have been missed: it is to be asked for anew."""
    tx.run("UPDATE remote_device_lists SET stale = 1 WHERE user_id = ?", (user_id,))


def stale_lists(tx: Tx, limit: int) -> list[str]:
    """Some users, `limit` at most, whose list is to be asked for anew."""
    rows = tx.all("SELECT user_id FROM remote_device_lists WHERE stale = 1 LIMIT ?", (limit,))
    return [row[0] for row in rows]


def remote_devices(tx: Tx, user_id: str) -> list[tuple[str, str, str | None]]:
    """(device id, JSON text, display name) of every device that has identity keys."""
    return [row[1:] for row in sorted(remote_devices_of(tx, (user_id,)))]


def remote_devices_of(tx: Tx, user_ids: Iterable[str]) -> Iterator[tuple[str, str, str, str | None]]:
    """(user id, device id, JSON text, display name) of every device of these users that has identity keys."""
    for marks, part in parts(user_ids):
        rows = tx.all(
            "SELECT user_id, device_id, json, display_name FROM remote_devices "
            f"WHERE user_id IN ({marks}) AND json IS NOT NULL",
            part,
        )
        yield from ((row[0], row[1], row[2], row[3]) for row in rows)


def count_remote_devices(tx: Tx, user_id: str) -> int:
    """How many devices of a user are known."""
    row = tx.one("SELECT count(*) FROM remote_devices WHERE user_id = ?", (user_id,))
    return int(row[0]) if row else 0


def put_remote_device(tx: Tx, user_id: str, device_id: str, json: str | None, name: str | None) -> None:
    """Set what is known of one device."""
    tx.run(
        "INSERT INTO remote_devices (user_id, device_id, json, display_name) VALUES (?, ?, ?, ?) "
        "ON CONFLICT (user_id, device_id) DO UPDATE SET json = excluded.json, "
        "display_name = excluded.display_name",
        (user_id, device_id, json, name),
    )


def delete_remote_device(tx: Tx, user_id: str, device_id: str) -> None:
    """A device is gone."""
    tx.run("DELETE FROM remote_devices WHERE user_id = ? AND device_id = ?", (user_id, device_id))


def replace_remote_devices(
    tx: Tx, user_id: str, devices: Iterable[tuple[str, str | None, str | None]]
) -> None:
    """Set the whole list: (device id, JSON text, display name)."""
    tx.run("DELETE FROM remote_devices WHERE user_id = ?", (user_id,))
    for device_id, json, name in devices:
        put_remote_device(tx, user_id, device_id, json, name)
