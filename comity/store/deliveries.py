"""How deliveries went: events that other servers refused, and when each position was given."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from comity.store.database import Tx

#: Refusals and times are kept this long: who asks why something did not arrive asks soon.
KEEP_MS = 30 * 24 * 3_600_000


@dataclass(frozen=True, slots=True)
class Refusal:
    """An event that a server answered with an error; `at` is ms since the epoch."""

    event_num: int
    server: str
    error: str
    at: int


def put_refusals(tx: Tx, refusals: Iterable[Refusal]) -> None:
    """Remember refusals; of the same event and server, the newest counts."""
    tx.many(
        "INSERT INTO refused_events (event_num, server, error, at) VALUES (?, ?, ?, ?) "
        "ON CONFLICT (event_num, server) DO UPDATE SET error = excluded.error, at = excluded.at",
        [(item.event_num, item.server, item.error, item.at) for item in refusals],
    )


def refusals(tx: Tx, event_num: int) -> list[Refusal]:
    """Every refusal of an event, by server."""
    rows = tx.all(
        "SELECT event_num, server, error, at FROM refused_events WHERE event_num = ? ORDER BY server",
        (event_num,),
    )
    return [Refusal(*row) for row in rows]


def note_time(tx: Tx, position: int, at: int) -> None:
    """`position` was given at a time (ms since the epoch)."""
    tx.run(
        "INSERT INTO position_times (position, at) VALUES (?, ?) ON CONFLICT (position) DO NOTHING",
        (position, at),
    )


def time_of(tx: Tx, position: int) -> int | None:
    """About when a position was given (ms since the epoch); None if that is forgotten.

    What was stored within a second has one time, that of the first.
    """
    row = tx.one(
        "SELECT at FROM position_times WHERE position <= ? ORDER BY position DESC LIMIT 1", (position,)
    )
    return int(row[0]) if row else None


def forget_before(tx: Tx, at: int) -> int:
    """Delete what is older than `at` (ms); how many rows."""
    gone = tx.changed("DELETE FROM refused_events WHERE at < ?", (at,))
    return gone + tx.changed("DELETE FROM position_times WHERE at < ?", (at,))
