"""Delayed events at rest (MSC4140): what is scheduled, and for a while what became of it.

Plain functions over an open transaction. When something is due, and whether it may be sent, is
decided elsewhere (`comity.rooms.delayed`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from comity.store.database import Row, Tx

SEND, CANCEL = "send", "cancel"
#: The device in the transactions by which they are sent; a real one so named would only be told of them.
SENDING_DEVICE = "*delayed"


@dataclass(frozen=True, slots=True)
class Final:
    """What became of a delayed event.

    `outcome` is SEND or CANCEL, `reason` "action", "delay" or "error"; `error` is the JSON of a
    standard error response, `at` in milliseconds since the epoch.
    """

    at: int
    outcome: str
    reason: str
    event_id: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Delayed:
    """A delayed event. `content` is JSON; times are milliseconds since the epoch.

    `position` is where the log stood when it was scheduled; `device_id`, `scope` and
    `transaction_id` are those of the request (None: a request without one). `due_at` is None once
    `final` is known.
    """

    delay_id: str
    user_id: str
    room_id: str
    type: str
    state_key: str | None
    content: str
    delay_ms: int
    running_since: int
    position: int
    device_id: str
    scope: str
    transaction_id: str | None
    due_at: int | None
    final: Final | None = None


_COLUMNS = (
    "delay_id, user_id, room_id, type, state_key, content, delay_ms, running_since, position, device_id, "
    "scope, transaction_id, due_at, finalised_at, outcome, reason, event_id, error"
)


def _delayed(row: Row) -> Delayed:
    final = None if row[13] is None else Final(*row[13:])
    return replace(Delayed(*row[:13]), final=final)


def insert(tx: Tx, new: Delayed) -> None:
    """Store what is scheduled."""
    tx.run(
        "INSERT INTO delayed_events (delay_id, user_id, room_id, type, state_key, content, delay_ms, "
        "running_since, position, device_id, scope, transaction_id, due_at) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            new.delay_id, new.user_id, new.room_id, new.type, new.state_key, new.content, new.delay_ms,
            new.running_since, new.position, new.device_id, new.scope, new.transaction_id, new.due_at,
        ),
    )  # fmt: skip


def get(tx: Tx, delay_id: str) -> Delayed | None:
    """The delayed event of that id."""
    row = tx.one(f"SELECT {_COLUMNS} FROM delayed_events WHERE delay_id = ?", (delay_id,))
    return _delayed(row) if row else None


def by_request(tx: Tx, user_id: str, device_id: str, scope: str, transaction_id: str) -> str | None:
    """The id that the same request was given before (client-server §Transaction identifiers)."""
    row = tx.one(
        "SELECT delay_id FROM delayed_events "
        "WHERE user_id = ? AND device_id = ? AND scope = ? AND transaction_id = ?",
        (user_id, device_id, scope, transaction_id),
    )
    return row[0] if row else None


def scheduled(tx: Tx, user_id: str) -> list[Delayed]:
    """What a user has scheduled, the next to be sent first."""
    rows = tx.all(
        f"SELECT {_COLUMNS} FROM delayed_events WHERE user_id = ? AND finalised_at IS NULL "
        "ORDER BY running_since + delay_ms, delay_id",
        (user_id,),
    )
    return [_delayed(row) for row in rows]


def finalised(tx: Tx, user_id: str, before: tuple[int, str] | None, limit: int) -> list[Delayed]:
    """A user's finalised ones, newest first, from before the place (finalised at, id) on."""
    sql = f"SELECT {_COLUMNS} FROM delayed_events WHERE user_id = ? AND finalised_at IS NOT NULL"
    values: list[object] = [user_id]
    if before is not None:
        sql += " AND (finalised_at < ? OR (finalised_at = ? AND delay_id < ?))"
        values += [before[0], before[0], before[1]]
    rows = tx.all(sql + " ORDER BY finalised_at DESC, delay_id DESC LIMIT ?", [*values, limit])
    return [_delayed(row) for row in rows]


def upcoming(tx: Tx, limit: int) -> list[tuple[str, int]]:
    """(id, when it is due) of what is to be sent next."""
    rows = tx.all(
        "SELECT delay_id, due_at FROM delayed_events WHERE due_at IS NOT NULL ORDER BY due_at LIMIT ?",
        (limit,),
    )
    return [(row[0], row[1]) for row in rows]


def restart(tx: Tx, delay_id: str, running_since: int, due_at: int) -> None:
    """Count the delay anew."""
    tx.run(
        "UPDATE delayed_events SET running_since = ?, due_at = ? WHERE delay_id = ? AND finalised_at IS NULL",
        (running_since, due_at, delay_id),
    )


def postpone(tx: Tx, delay_id: str, due_at: int) -> None:
    """Try again later what is due already."""
    tx.run(
        "UPDATE delayed_events SET due_at = ? WHERE delay_id = ? AND finalised_at IS NULL",
        (due_at, delay_id),
    )


def finalise(tx: Tx, delay_id: str, final: Final) -> None:
    """Store what became of a delayed event; what was stored before stands."""
    tx.run(
        "UPDATE delayed_events SET due_at = NULL, finalised_at = ?, outcome = ?, reason = ?, event_id = ?, "
        "error = ? WHERE delay_id = ? AND finalised_at IS NULL",
        (final.at, final.outcome, final.reason, final.event_id, final.error, delay_id),
    )


def forget_before(tx: Tx, at: int) -> None:
    """Forget what was finalised before a time."""
    tx.run("DELETE FROM delayed_events WHERE finalised_at < ?", (at,))


def forget_oldest(tx: Tx, user_id: str, keep: int) -> None:
    """Forget a user's finalised ones but for the newest."""
    row = tx.one(
        "SELECT finalised_at FROM delayed_events WHERE user_id = ? AND finalised_at IS NOT NULL "
        "ORDER BY finalised_at DESC LIMIT 1 OFFSET ?",
        (user_id, keep),
    )
    if row is not None:
        tx.run("DELETE FROM delayed_events WHERE user_id = ? AND finalised_at <= ?", (user_id, row[0]))
