"""What other servers are to be told beside events, and must not miss: read from the one log of positions.

Messages to devices have rows of their own; receipts, changes of devices and signing keys are found where
they are stored, so that a server that was away is told the newest of each and no row is written per server.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import orjson

from comity.store.database import Row, Tx

TO_DEVICE, RECEIPT = "m.direct_to_device", "m.receipt"
DEVICE_LIST, SIGNING_KEY = "m.device_list_update", "m.signing_key_update"
#: Rows deleted by one statement, so that no write waits long for it.
PRUNED_AT_ONCE = 5_000


@dataclass(frozen=True, slots=True)
class DueEdu:
    """One thing to be told; `content` is the JSON object of the EDU's content."""

    position: int
    edu_type: str
    content: bytes


_STAYS = (
    "EXISTS (SELECT 1 FROM server_stays s WHERE s.server = ? AND s.room_num = r.room_num "
    "AND s.to_position IS NULL)"
)
_IS_LOCAL = "EXISTS (SELECT 1 FROM users u WHERE u.user_id = {})"
# Whether a user shares a room with the server.
_SHARES = (
    "EXISTS (SELECT 1 FROM memberships m JOIN server_stays s ON s.room_num = m.room_num AND s.server = ? "
    "AND s.to_position IS NULL WHERE m.user_id = {} AND m.membership = 'join')"
)


def due(tx: Tx, server: str, after: int, upto: int, limit: int) -> tuple[list[DueEdu], int]:
    """What a server is to be told of `after < position <= upto`, in order, and how far that goes.

    About `limit` at most; where there is more, the second is less than `upto`. What came at one
    position is never parted.
    """
    if after >= upto or last_position(tx) <= after:
        return [], upto
    rows: list[tuple[int, str, Row]] = []
    for edu_type, statement in _SOURCES:
        found = tx.all(statement, (after, upto, server, limit + 1))
        rows.extend((row[0], edu_type, row) for row in found)
    rows.sort(key=lambda item: item[0])
    if len(rows) > limit:
        # The last position may have more than was read: it comes whole the next time, or now.
        end = rows[limit][0]
        upto = end - 1 if rows[0][0] < end else end
        rows = [item for item in rows if item[0] <= upto]
    return list(_edus(tx, rows)), upto


_TO_DEVICE = (
    "SELECT position, content FROM outbound_to_device WHERE position > ? AND position <= ? "
    "AND server = ? ORDER BY position LIMIT ?"
)
_RECEIPTS = (
    "SELECT r.position, rooms.room_id, r.user_id, r.thread_id, r.event_id, r.ts FROM receipts r "
    "JOIN rooms ON rooms.room_num = r.room_num WHERE r.position > ? AND r.position <= ? "
    f"AND r.receipt_type = 'm.read' AND {_STAYS} AND {_IS_LOCAL.format('r.user_id')} "
    "ORDER BY r.position LIMIT ?"
)
_DEVICES = (
    "SELECT c.position, c.user_id, c.device_id, c.previous, k.json, d.display_name, d.device_id "
    "FROM device_changes c LEFT JOIN devices d ON d.user_id = c.user_id AND d.device_id = c.device_id "
    "LEFT JOIN device_keys k ON k.user_id = c.user_id AND k.device_id = c.device_id "
    f"WHERE c.position > ? AND c.position <= ? AND {_SHARES.format('c.user_id')} "
    "ORDER BY c.position LIMIT ?"
)
_SIGNING_KEYS = (
    "SELECT max(c.position), c.user_id FROM cross_signing_keys c WHERE c.position > ? "
    f"AND c.position <= ? AND c.usage <> 'user_signing' AND {_IS_LOCAL.format('c.user_id')} "
    f"AND {_SHARES.format('c.user_id')} GROUP BY c.user_id ORDER BY 1 LIMIT ?"
)
#: Each asks with (after, upto, server, limit).
_SOURCES = (
    (TO_DEVICE, _TO_DEVICE),
    (RECEIPT, _RECEIPTS),
    (DEVICE_LIST, _DEVICES),
    (SIGNING_KEY, _SIGNING_KEYS),
)


def _edus(tx: Tx, rows: Iterable[tuple[int, str, Row]]) -> Iterable[DueEdu]:
    for position, edu_type, row in rows:
        if edu_type == TO_DEVICE:
            yield DueEdu(position, edu_type, row[1].encode())
        elif edu_type == RECEIPT:
            _, room_id, user_id, thread_id, event_id, ts = row
            data = {"ts": ts, "thread_id": thread_id} if thread_id else {"ts": ts}
            told = {user_id: {"data": data, "event_ids": [event_id]}}
            yield DueEdu(position, edu_type, orjson.dumps({room_id: {"m.read": told}}))
        elif edu_type == DEVICE_LIST:
            yield DueEdu(position, edu_type, orjson.dumps(_device_list_update(row)))
        else:
            yield DueEdu(position, edu_type, orjson.dumps(_signing_keys(tx, row[1])))


def _device_list_update(row: Row) -> dict[str, Any]:
    """server-server §Device Management: m.device_list_update."""
    position, user_id, device_id, previous, json, name, held = row
    content: dict[str, Any] = {
        "user_id": user_id,
        "device_id": device_id,
        "stream_id": position,
        "prev_id": [previous] if previous else [],
    }
    if held is None:
        return {**content, "deleted": True}
    if json is not None:
        content["keys"] = orjson.Fragment(json)
    if name is not None:
        content["device_display_name"] = name
    return content


def _signing_keys(tx: Tx, user_id: str) -> dict[str, Any]:
    """server-server §End-to-End Encryption: m.signing_key_update."""
    content: dict[str, Any] = {"user_id": user_id}
    for usage, json in tx.all(
        "SELECT usage, json FROM cross_signing_keys WHERE user_id = ? AND usage <> 'user_signing'", (user_id,)
    ):
        content[f"{usage}_key"] = orjson.Fragment(json)
    return content


def last_position(tx: Tx) -> int:
    """The position of the newest of all that is told this way; 0 if there is none."""
    row = tx.one(
        "SELECT (SELECT max(position) FROM outbound_to_device), (SELECT max(position) FROM receipts), "
        "(SELECT max(position) FROM device_changes), (SELECT max(position) FROM cross_signing_keys)"
    )
    return max(position or 0 for position in row) if row else 0


def prune_delivered(tx: Tx) -> int:
    """Delete messages to devices that their server has, some at most; how many."""
    return tx.changed(
        "DELETE FROM outbound_to_device WHERE (server, position) IN (SELECT o.server, o.position "
        "FROM outbound_to_device o JOIN destinations d ON d.server = o.server "
        "WHERE o.position <= d.delivered LIMIT ?)",
        (PRUNED_AT_ONCE,),
    )
