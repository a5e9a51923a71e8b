"""What users keep for themselves: account data (tags, push rules, markers), filters, receipts.

Plain functions over an open transaction. JSON is stored as text and handed out as text; what
it means is the affair of `comity.users` and `comity.sync`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from comity.store.database import Row, Tx
from comity.store.lists import parts

PRIVATE_RECEIPT = "m.read.private"


# -- account data: `room_id` is '' for the account as a whole


def put_account_data(tx: Tx, user_id: str, room_id: str, kind: str, content: str, position: int) -> None:
    """Set account data of one type; `content` is JSON text."""
    tx.run(
        "INSERT INTO account_data (user_id, room_id, type, content, position) VALUES (?, ?, ?, ?, ?) "
        "ON CONFLICT (user_id, room_id, type) DO UPDATE SET content = excluded.content, "
        "position = excluded.position",
        (user_id, room_id, kind, content, position),
    )


def account_data(tx: Tx, user_id: str, room_id: str, kind: str) -> str | None:
    """The JSON text of account data of one type."""
    row = tx.one(
        "SELECT content FROM account_data WHERE user_id = ? AND room_id = ? AND type = ?",
        (user_id, room_id, kind),
    )
    return row[0] if row else None


def account_data_since(tx: Tx, user_id: str, position: int, upto: int) -> list[tuple[str, str, str]]:
    """(room id or '', type, JSON text) of what changed at `position < p <= upto`, in order."""
    rows = tx.all(
        "SELECT room_id, type, content FROM account_data "
        "WHERE user_id = ? AND position > ? AND position <= ? ORDER BY position",
        (user_id, position, upto),
    )
    return [(row[0], row[1], row[2]) for row in rows]


def room_account_data(tx: Tx, user_id: str, room_id: str, upto: int) -> list[tuple[str, str]]:
    """(type, JSON text) of all of a user's account data in one room, for a room that is new to a client."""
    rows = tx.all(
        "SELECT type, content FROM account_data WHERE user_id = ? AND room_id = ? AND position <= ? "
        "ORDER BY position",
        (user_id, room_id, upto),
    )
    return [(row[0], row[1]) for row in rows]


def all_room_account_data(tx: Tx, user_id: str, upto: int) -> list[tuple[str, str, str]]:
    """(room id, type, JSON text) of all of a user's account data in rooms."""
    rows = tx.all(
        "SELECT room_id, type, content FROM account_data WHERE user_id = ? AND room_id <> '' "
        "AND position <= ? ORDER BY position",
        (user_id, upto),
    )
    return [(row[0], row[1], row[2]) for row in rows]


def of_type_in_rooms(tx: Tx, user_id: str, kind: str) -> list[tuple[str, str]]:
    """(room id, JSON text) of a user's account data of one type, in every room that has it."""
    rows = tx.all(
        "SELECT room_id, content FROM account_data WHERE user_id = ? AND type = ? AND room_id <> ''",
        (user_id, kind),
    )
    return [(row[0], row[1]) for row in rows]


def delete_account_data(tx: Tx, user_id: str) -> None:
    """Erase all account data and filters of a user."""
    tx.run("DELETE FROM account_data WHERE user_id = ?", (user_id,))
    tx.run("DELETE FROM filters WHERE user_id = ?", (user_id,))


def delete_private_receipts(tx: Tx, user_id: str) -> None:
    """Erase how far a user has read where nobody else is told of it."""
    tx.run("DELETE FROM receipts WHERE user_id = ? AND receipt_type = 'm.read.private'", (user_id,))


# -- filters


def put_filter(tx: Tx, user_id: str, filter_id: str, definition: str) -> None:
    """Keep a filter; one of that id is the same filter."""
    tx.run(
        "INSERT INTO filters (user_id, filter_id, definition) VALUES (?, ?, ?) "
        "ON CONFLICT (user_id, filter_id) DO NOTHING",
        (user_id, filter_id, definition),
    )


def filter_definition(tx: Tx, user_id: str, filter_id: str) -> str | None:
    """The JSON text of a filter."""
    row = tx.one("SELECT definition FROM filters WHERE user_id = ? AND filter_id = ?", (user_id, filter_id))
    return row[0] if row else None


def count_filters(tx: Tx, user_id: str) -> int:
    """How many filters a user has."""
    row = tx.one("SELECT count(*) FROM filters WHERE user_id = ?", (user_id,))
    return int(row[0]) if row else 0


# -- receipts: `thread_id` is '' for an unthreaded one


@dataclass(frozen=True, slots=True)
class Receipt:
    """How far a user has read: in a thread ('main' or its root), or ('') regardless of threads."""

    user_id: str
    receipt_type: str
    thread_id: str
    event_id: str
    ts: int


def put_receipt(tx: Tx, room_num: int, receipt: Receipt, position: int) -> None:
    """Set a receipt: it replaces the one of the same user, type and thread."""
    tx.run(
        "INSERT INTO receipts (room_num, user_id, receipt_type, thread_id, event_id, ts, position) "
        "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (room_num, user_id, receipt_type, thread_id) DO UPDATE SET "
        "event_id = excluded.event_id, ts = excluded.ts, position = excluded.position",
        (
            room_num,
            receipt.user_id,
            receipt.receipt_type,
            receipt.thread_id,
            receipt.event_id,
            receipt.ts,
            position,
        ),
    )


def receipts_of(tx: Tx, room_num: int, user_id: str) -> list[Receipt]:
    """Every receipt of one user in a room."""
    rows = tx.all(
        "SELECT user_id, receipt_type, thread_id, event_id, ts FROM receipts "
        "WHERE room_num = ? AND user_id = ?",
        (room_num, user_id),
    )
    return [Receipt(*row) for row in rows]


def receipts_since(tx: Tx, room_num: int, position: int, upto: int, user_id: str) -> bytes | None:
    """The `content` of an `m.receipt` event with what changed at `position < p <= upto`.

    As `user_id` may see it: nobody else's private receipts. None if there is nothing.
    """
    rows = tx.all(
        "SELECT event_id, receipt_type, user_id, ts, thread_id FROM receipts "
        "WHERE room_num = ? AND position > ? AND position <= ? AND (receipt_type <> ? OR user_id = ?) "
        "ORDER BY position",
        (room_num, position, upto, PRIVATE_RECEIPT, user_id),
    )
    return _receipt_content(rows)


def public_receipts(tx: Tx, room_num: int, upto: int) -> tuple[bytes | None, frozenset[str]]:
    """(the `content` of an `m.receipt` event with all that is for everybody, who has private ones beside)."""
    rows = tx.all(
        "SELECT event_id, receipt_type, user_id, ts, thread_id FROM receipts "
        "WHERE room_num = ? AND position <= ? ORDER BY position",
        (room_num, upto),
    )
    private = frozenset(row[2] for row in rows if row[1] == PRIVATE_RECEIPT)
    return _receipt_content([row for row in rows if row[1] != PRIVATE_RECEIPT]), private


def receipts_on(
    tx: Tx, room_num: int, event_ids: Sequence[str], after: int, upto: int, user_id: str
) -> bytes | None:
    """The same, of the receipts on those events, all of the user's own, and all after `after`."""
    rows: dict[tuple[object, ...], None] = {}
    for marks, chunk in parts(event_ids or [""]):
        rows.update(
            dict.fromkeys(
                tx.all(
                    "SELECT event_id, receipt_type, user_id, ts, thread_id FROM receipts "
                    "WHERE room_num = ? AND position <= ? AND (user_id = ? OR "
                    f"(receipt_type <> ? AND (position > ? OR event_id IN ({marks})))) ORDER BY position",
                    (room_num, upto, user_id, PRIVATE_RECEIPT, after, *chunk),
                )
            )
        )
    return _receipt_content(list(rows))


def _receipt_content(rows: Sequence[Row]) -> bytes | None:
    content: dict[str, dict[str, dict[str, dict[str, object]]]] = {}
    for event_id, receipt_type, reader, ts, thread_id in rows:
        readers = content.setdefault(event_id, {}).setdefault(receipt_type, {})
        known = readers.get(reader)
        if known is not None and "thread_id" not in known:
            # One event can carry an unthreaded receipt and a threaded one of the same user, but the
            # format has room for one: the unthreaded says more.
            continue
        readers[reader] = {"ts": ts, "thread_id": thread_id} if thread_id else {"ts": ts}
    return orjson.dumps(content) if content else None


def event_place(tx: Tx, event_id: str) -> tuple[int, int] | None:
    """(room number, line) of an event of a timeline."""
    row = tx.one("SELECT room_num, line FROM events WHERE event_id = ? AND line IS NOT NULL", (event_id,))
    return (row[0], row[1]) if row else None


# -- who is with whom


def joined_room(tx: Tx, room_id: str, user_id: str) -> int | None:
    """The number of the room if the user is joined to it now."""
    row = tx.one(
        "SELECT m.room_num FROM rooms r JOIN memberships m ON m.room_num = r.room_num "
        "WHERE r.room_id = ? AND m.user_id = ? AND m.membership = 'join'",
        (room_id, user_id),
    )
    return row[0] if row else None


def rooms_of(tx: Tx, user_id: str, limit: int) -> list[tuple[int, str]]:
    """(number, id) of some rooms that a user of any server is joined to, `limit` at most."""
    rows = tx.all(
        "SELECT m.room_num, r.room_id FROM memberships m JOIN rooms r ON r.room_num = m.room_num "
        "WHERE m.user_id = ? AND m.membership = 'join' LIMIT ?",
        (user_id, limit),
    )
    return [(row[0], row[1]) for row in rows]


def shares_room(tx: Tx, one: str, other: str) -> bool:
    """Whether two users are joined to the same room."""
    return (
        tx.one(
            "SELECT 1 FROM memberships a JOIN memberships b ON b.room_num = a.room_num "
            "WHERE a.user_id = ? AND a.membership = 'join' "
            "AND b.user_id = ? AND b.membership = 'join' LIMIT 1",
            (one, other),
        )
        is not None
    )


def shared_rooms(tx: Tx, one: str, other: str, after: int, limit: int) -> list[tuple[int, str]]:
    """(room number, room id) of rooms that two users are joined to, by number, beyond `after`."""
    rows = tx.all(
        "SELECT a.room_num, r.room_id FROM memberships a "
        "JOIN memberships b ON b.room_num = a.room_num JOIN rooms r ON r.room_num = a.room_num "
        "WHERE a.user_id = ? AND a.membership = 'join' AND a.room_num > ? "
        "AND b.user_id = ? AND b.membership = 'join' ORDER BY a.room_num LIMIT ?",
        (one, after, other, limit),
    )
    return [(row[0], row[1]) for row in rows]


def count_shared_rooms(tx: Tx, one: str, other: str) -> int:
    """How many rooms two users are joined to."""
    row = tx.one(
        "SELECT count(*) FROM memberships a JOIN memberships b ON b.room_num = a.room_num "
        "WHERE a.user_id = ? AND a.membership = 'join' AND b.user_id = ? AND b.membership = 'join'",
        (one, other),
    )
    return int(row[0]) if row else 0


def sharing_room(tx: Tx, user_id: str, others: Sequence[str]) -> set[str]:
    """Those of `others` who are joined to a room that `user_id` is joined to."""
    found: set[str] = set()
    for marks, part in parts(others):
        rows = tx.all(
            "SELECT DISTINCT b.user_id FROM memberships a JOIN memberships b ON b.room_num = a.room_num "
            "WHERE a.user_id = ? AND a.membership = 'join' AND b.membership = 'join' "
            f"AND b.user_id IN ({marks})",
            [user_id, *part],
        )
        found.update(row[0] for row in rows)
    return found
