"""Where an event has gone, and through whom one came: reads for the operator's questions."""

from __future__ import annotations

from dataclasses import dataclass

from comity.store.database import Tx
from comity.store.queues import Destination

#: Servers of one room that are looked at; the largest rooms have some thousands.
MAX_RECEIVERS = 20_000
#: Transactions that are looked through for an event, the newest of its time first: each answer names
#: its events, and fifty of them are 5 KiB.
MAX_TRANSACTIONS = 5_000


@dataclass(frozen=True, slots=True)
class Receiver:
    """A server that is owed an event, and how sending to it goes; None: nothing is known of that yet."""

    server: str
    #: The position at which it came into the room.
    since: int
    destination: Destination | None


def except_server(tx: Tx, room_num: int, position: int) -> str | None:
    """Whom the event at a position need not be sent to; None if it is in no queue, or not any more."""
    row = tx.one(
        "SELECT except_server FROM outbound WHERE room_num = ? AND position = ?", (room_num, position)
    )
    return None if row is None else str(row[0])


def receivers(tx: Tx, room_num: int, position: int) -> list[Receiver]:
    """The servers that are told what happened in a room at a position, by name."""
    rows = tx.all(
        "SELECT s.since, s.server, d.delivered, d.failing_since, d.retry_at, d.interval_ms, d.sending_upto, "
        "d.failure, d.failure_kind FROM (SELECT server, max(from_position) AS since FROM server_stays "
        "WHERE room_num = ? AND from_position <= ? AND (to_position IS NULL OR to_position >= ?) "
        "GROUP BY server) AS s LEFT JOIN destinations d ON d.server = s.server ORDER BY s.server LIMIT ?",
        (room_num, position, position, MAX_RECEIVERS),
    )
    return [Receiver(row[1], row[0], None if row[2] is None else Destination(*row[1:])) for row in rows]


def brought_by(tx: Tx, event_id: str, after: int, before: int) -> tuple[str, int] | None:
    """(server, when) of the first transaction between two times (ms) that had an event in it.

    Transactions are remembered for some days; an event that was fetched was in none.
    """
    wanted = event_id.encode()
    rows = tx.all(
        "SELECT origin, received_at, answer FROM received_transactions WHERE received_at >= ? "
        "AND received_at <= ? ORDER BY received_at DESC LIMIT ?",
        (after, before, MAX_TRANSACTIONS),
    )
    for origin, received_at, answer in reversed(rows):
        if b'"' + wanted + b'"' in bytes(answer):
            return str(origin), int(received_at)
    return None


def is_staged(tx: Tx, event_id: str) -> bool:
    """Whether an event waits for what it stands on."""
    return tx.one("SELECT 1 FROM staged_events WHERE event_id = ?", (event_id,)) is not None
