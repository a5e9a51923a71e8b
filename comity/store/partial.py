"""Rooms that were joined before all of their state was here (fast joins), at rest."""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from comity.store.database import Row, Tx
from comity.store.events import live_line


@dataclass(frozen=True, slots=True)
class Partial:
    """A room whose members are not all known yet: who let us in, and which servers are in it."""

    room_num: int
    #: The number of our join: what is missing is the state before it.
    join_num: int
    server: str
    servers: frozenset[str]
    #: ms since the epoch
    since: int


_COLUMNS = "room_num, join_num, server, servers, since"


def _partial(row: Row) -> Partial:
    return Partial(row[0], row[1], row[2], frozenset(orjson.loads(row[3])), row[4])


def put(tx: Tx, partial: Partial) -> None:
    """The room's state is to be completed."""
    tx.run(
        f"INSERT INTO partial_rooms ({_COLUMNS}) VALUES (?, ?, ?, ?, ?) ON CONFLICT (room_num) DO UPDATE "
        "SET join_num = excluded.join_num, server = excluded.server, servers = excluded.servers, "
        "since = excluded.since, completed = 0",
        (
            partial.room_num,
            partial.join_num,
            partial.server,
            orjson.dumps(sorted(partial.servers)).decode(),
            partial.since,
        ),
    )


def get(tx: Tx, room_num: int) -> Partial | None:
    """What is missing of a room's state; None if nothing is."""
    row = tx.one(f"SELECT {_COLUMNS} FROM partial_rooms WHERE room_num = ? AND completed = 0", (room_num,))
    return _partial(row) if row else None


def every(tx: Tx) -> list[Partial]:
    """All of them, the oldest first."""
    rows = tx.all(f"SELECT {_COLUMNS} FROM partial_rooms WHERE completed = 0 ORDER BY since, room_num")
    return [_partial(row) for row in rows]


def complete(tx: Tx, room_num: int, position: int) -> None:
    """The room's state is whole from a position on."""
    tx.run("UPDATE partial_rooms SET completed = ? WHERE room_num = ?", (position, room_num))


def completed_at(tx: Tx, room_num: int, position: int) -> int:
    """The position from which on the state at `position` is known whole: itself, or a later one."""
    row = tx.one(
        "SELECT p.completed FROM partial_rooms p JOIN events e ON e.event_num = p.join_num "
        "WHERE p.room_num = ? AND p.completed > ? AND e.line <= ?",
        (room_num, position, live_line(position)),
    )
    return int(row[0]) if row else position


def delete(tx: Tx, room_num: int) -> None:
    """The room's state is whole, or nobody wants it any more."""
    tx.run("DELETE FROM partial_rooms WHERE room_num = ?", (room_num,))
