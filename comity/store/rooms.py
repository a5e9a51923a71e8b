"""Rooms at rest: who is in them, where their graph ends, what is missing, their aliases.

Plain functions over an open transaction; nothing here judges anything.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import orjson

from comity.protocol.identifiers import server_of
from comity.store.database import Row, Tx


@dataclass(frozen=True, slots=True)
class RoomRow:
    """What is stored of a room itself."""

    room_num: int
    room_id: str
    version: str
    state: bytes
    resident: bool
    creator: str


_COLUMNS = "room_num, room_id, version, state, resident, creator"


def _room(row: Row) -> RoomRow:
    room_num, room_id, version, state, resident, creator = row
    return RoomRow(room_num, room_id, version, bytes(state or b""), bool(resident), creator)


def by_id(tx: Tx, room_id: str) -> RoomRow | None:
    """The room of that id."""
    row = tx.one(f"SELECT {_COLUMNS} FROM rooms WHERE room_id = ?", (room_id,))
    return _room(row) if row else None


def by_number(tx: Tx, room_num: int) -> RoomRow | None:
    """The room of that number."""
    row = tx.one(f"SELECT {_COLUMNS} FROM rooms WHERE room_num = ?", (room_num,))
    return _room(row) if row else None


def last_number(tx: Tx) -> int:
    """The greatest room number in use."""
    row = tx.one("SELECT max(room_num) FROM rooms")
    return int(row[0] or 0) if row else 0


def insert(tx: Tx, room_num: int, room_id: str, version: str, creator: str) -> None:
    """Store a room; one that is there already is left as it is."""
    tx.run(
        "INSERT INTO rooms (room_num, room_id, version, creator) VALUES (?, ?, ?, ?) "
        "ON CONFLICT (room_id) DO NOTHING",
        (room_num, room_id, version, creator),
    )


def set_head(tx: Tx, room_num: int, state: bytes, *, resident: bool) -> None:
    """Store the current state's name, and whether a user of ours is joined."""
    tx.run("UPDATE rooms SET state = ?, resident = ? WHERE room_num = ?", (state, int(resident), room_num))


def set_version(tx: Tx, room_num: int, version: str) -> None:
    """Correct the room's version."""
    tx.run("UPDATE rooms SET version = ? WHERE room_num = ?", (version, room_num))


def set_published(tx: Tx, room_num: int, *, published: bool) -> None:
    """Whether the room is in the published directory."""
    tx.run("UPDATE rooms SET published = ? WHERE room_num = ?", (int(published), room_num))


# -- the graph's ends


def extremities(tx: Tx, room_num: int) -> list[int]:
    """The numbers of the events that nothing accepted points to."""
    return [
        row[0]
        for row in tx.all(
            "SELECT event_num FROM forward_extremities WHERE room_num = ? ORDER BY event_num", (room_num,)
        )
    ]


def set_extremities(tx: Tx, room_num: int, numbers: Iterable[int]) -> None:
    """Store where the graph ends now."""
    tx.run("DELETE FROM forward_extremities WHERE room_num = ?", (room_num,))
    tx.many(
        "INSERT INTO forward_extremities (room_num, event_num) VALUES (?, ?)",
        [(room_num, number) for number in numbers],
    )


@dataclass(frozen=True, slots=True)
class Gap:
    """Missing history just below `line`; what is fetched goes from `next_line` downwards."""

    line: int
    next_line: int
    missing: tuple[str, ...]
    #: How often it was tried to fill it without a client's asking.
    rounds: int = 0


def put_gap(tx: Tx, room_num: int, gap: Gap) -> None:
    """Record or update a gap."""
    tx.run(
        "INSERT INTO gaps (room_num, line, next_line, missing, rounds) VALUES (?, ?, ?, ?, ?) "
        "ON CONFLICT (room_num, line) DO UPDATE SET next_line = excluded.next_line, "
        "missing = excluded.missing, rounds = excluded.rounds",
        (room_num, gap.line, gap.next_line, orjson.dumps(list(gap.missing)).decode(), gap.rounds),
    )


def gaps_to_fill(
    tx: Tx, now_ms: int, limit: int, most_rounds: int
) -> tuple[list[tuple[int, Gap]], int | None]:
    """(room_num, gap) of rooms that we are in, tried fewer times than that: those due, newest first.

    And when (ms) the next of the others is due; None if there are no others.
    """
    open_gaps = "FROM gaps g JOIN rooms r ON r.room_num = g.room_num WHERE r.resident = 1 AND g.rounds < ? "
    rows = tx.all(
        f"SELECT g.room_num, g.line, g.next_line, g.missing, g.rounds {open_gaps}"
        "AND g.retry_at <= ? ORDER BY g.line DESC, g.room_num LIMIT ?",
        (most_rounds, now_ms, limit),
    )
    next_at = tx.one(f"SELECT min(g.retry_at) {open_gaps}AND g.retry_at > ?", (most_rounds, now_ms))
    found = [
        (room_num, Gap(line, next_line, tuple(orjson.loads(missing)), rounds))
        for room_num, line, next_line, missing, rounds in rows
    ]
    return found, None if next_at is None else next_at[0]


def note_gap_tried(tx: Tx, room_num: int, line: int, rounds: int, retry_at: int) -> None:
    """A gap has been tried so often, and is not to be tried again before `retry_at` (ms)."""
    tx.run(
        "UPDATE gaps SET rounds = ?, retry_at = ? WHERE room_num = ? AND line = ?",
        (rounds, retry_at, room_num, line),
    )


def missing(tx: Tx, room_num: int) -> set[str]:
    """The ids that all gaps of the room name."""
    found: set[str] = set()
    for row in tx.all("SELECT missing FROM gaps WHERE room_num = ?", (room_num,)):
        found.update(orjson.loads(row[0]))
    return found


def close_gap(tx: Tx, room_num: int, line: int) -> None:
    """Nothing is missing there any more."""
    tx.run("DELETE FROM gaps WHERE room_num = ? AND line = ?", (room_num, line))


def gaps(tx: Tx, room_num: int, *, after: int, upto: int) -> list[Gap]:
    """The gaps of a room whose missing history lies in `after < line <= upto`, newest first."""
    rows = tx.all(
        "SELECT line, next_line, missing, rounds FROM gaps "
        "WHERE room_num = ? AND line > ? AND next_line <= ? "
        "ORDER BY line DESC",
        (room_num, after, upto),
    )
    return [
        Gap(line, next_line, tuple(orjson.loads(missing)), rounds)
        for line, next_line, missing, rounds in rows
    ]


def with_many_ends(tx: Tx, most: int, limit: int) -> list[int]:
    """Rooms (their numbers) that we are in and whose graph has more ends than `most`, most ends first."""
    rows = tx.all(
        "SELECT e.room_num FROM forward_extremities e JOIN rooms r ON r.room_num = e.room_num "
        "WHERE r.resident = 1 GROUP BY e.room_num HAVING count(*) > ? "
        "ORDER BY count(*) DESC, e.room_num LIMIT ?",
        (most, limit),
    )
    return [row[0] for row in rows]


# -- members


@dataclass(frozen=True, slots=True)
class Member:
    """A current membership."""

    user_id: str
    membership: str
    event_num: int
    position: int


def put_memberships(tx: Tx, room_num: int, members: Iterable[Member]) -> None:
    """Set current memberships, and note of those who were joined and are not any more when they went."""
    tx.many(
        "INSERT INTO memberships (room_num, user_id, server, membership, event_num, position) "
        "VALUES (?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (room_num, user_id) DO UPDATE SET membership = excluded.membership, "
        "event_num = excluded.event_num, position = excluded.position, left_at = CASE "
        "WHEN memberships.membership = 'join' AND excluded.membership <> 'join' THEN excluded.position "
        "ELSE memberships.left_at END",
        [
            (
                room_num,
                member.user_id,
                server_of(member.user_id),
                member.membership,
                member.event_num,
                member.position,
            )
            for member in members
        ],
    )


def delete_memberships(tx: Tx, room_num: int, users: Iterable[str]) -> None:
    """Users who have no membership in the current state any more."""
    tx.many(
        "DELETE FROM memberships WHERE room_num = ? AND user_id = ?", [(room_num, user) for user in users]
    )


def clear_memberships(tx: Tx, room_num: int) -> None:
    """Forget every current membership, before a joined room's are stored."""
    tx.run("DELETE FROM memberships WHERE room_num = ?", (room_num,))


def members(tx: Tx, room_num: int, membership: str | None = None) -> list[Member]:
    """The current members, of one membership or all."""
    if membership is None:
        rows = tx.all(
            "SELECT user_id, membership, event_num, position FROM memberships WHERE room_num = ?", (room_num,)
        )
    else:
        rows = tx.all(
            "SELECT user_id, membership, event_num, position FROM memberships "
            "WHERE room_num = ? AND membership = ?",
            (room_num, membership),
        )
    return [Member(*row) for row in rows]


def first_members(tx: Tx, room_num: int, limit: int) -> list[str]:
    """Users who are joined or invited, those that have been for longest first."""
    rows = tx.all(
        "SELECT user_id FROM memberships WHERE room_num = ? AND membership IN ('join', 'invite') "
        "ORDER BY position, user_id LIMIT ?",
        (room_num, limit),
    )
    return [row[0] for row in rows]


def member(tx: Tx, room_num: int, user_id: str) -> Member | None:
    """A user's current membership."""
    row = tx.one(
        "SELECT user_id, membership, event_num, position FROM memberships WHERE room_num = ? AND user_id = ?",
        (room_num, user_id),
    )
    return Member(*row) if row else None


def member_counts(tx: Tx, room_num: int) -> dict[str, int]:
    """membership -> how many users have it."""
    return {
        row[0]: row[1]
        for row in tx.all(
            "SELECT membership, count(*) FROM memberships WHERE room_num = ? GROUP BY membership", (room_num,)
        )
    }


@dataclass(frozen=True, slots=True)
class LocalMembership:
    """One membership of a local user, in a room, since a position."""

    room_num: int
    position: int
    membership: str
    event_num: int
    #: JSON list of stripped state events, for invites and knocks from outside.
    stripped: str | None
    forgotten: bool
    #: The server through which a knock from outside went.
    through: str | None = None
    #: Forgotten in leaving: the user's apps have yet to hear that they left.
    at_once: bool = False


def add_local_membership(
    tx: Tx,
    user_id: str,
    room_num: int,
    position: int,
    membership: str,
    event_num: int,
    stripped: str | None = None,
    through: str | None = None,
) -> None:
    """Append to a local user's history in a room."""
    tx.run(
        "INSERT INTO local_memberships (user_id, room_num, position, membership, event_num, stripped, "
        "through) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (user_id, room_num, position, membership, event_num, stripped, through),
    )


_LOCAL = "l.room_num, l.position, l.membership, l.event_num, l.stripped, l.forgotten, l.through"


#: What `forgotten` is for a room that was forgotten in leaving; 1 where it was later.
_AT_ONCE = 2


def _local(row: Row) -> LocalMembership:
    room_num, position, membership, event_num, stripped, forgotten, through = row
    return LocalMembership(
        room_num, position, membership, event_num, stripped, forgotten > 0, through, forgotten == _AT_ONCE
    )


def local_rooms(tx: Tx, user_id: str, upto: int) -> list[LocalMembership]:
    """A local user's membership in every room, as it was at position `upto`."""
    rows = tx.all(
        f"SELECT {_LOCAL} FROM local_memberships l "
        "JOIN (SELECT room_num, max(position) AS last FROM local_memberships "
        "WHERE user_id = ? AND position <= ? GROUP BY room_num) m "
        "ON l.room_num = m.room_num AND l.position = m.last "
        "WHERE l.user_id = ?",
        (user_id, upto, user_id),
    )
    return [_local(row) for row in rows]


def local_history(tx: Tx, user_id: str, room_num: int) -> list[LocalMembership]:
    """Every membership that a local user has had in a room, oldest first."""
    rows = tx.all(
        f"SELECT {_LOCAL} FROM local_memberships l "
        "WHERE l.user_id = ? AND l.room_num = ? ORDER BY l.position",
        (user_id, room_num),
    )
    return [_local(row) for row in rows]


def last_local_membership(tx: Tx, user_id: str, room_num: int) -> LocalMembership | None:
    """The newest membership of a local user in a room."""
    row = tx.one(
        f"SELECT {_LOCAL} FROM local_memberships l WHERE l.user_id = ? AND l.room_num = ? "
        "ORDER BY l.position DESC LIMIT 1",
        (user_id, room_num),
    )
    return _local(row) if row else None


def forget(tx: Tx, user_id: str, room_num: int, *, at_once: bool = False) -> None:
    """The user wants to hear of the room no more; `at_once`: now that they leave it."""
    tx.run(
        "UPDATE local_memberships SET forgotten = ? WHERE user_id = ? AND room_num = ?",
        (_AT_ONCE if at_once else 1, user_id, room_num),
    )


# -- servers


def servers(tx: Tx, room_num: int) -> set[str]:
    """The servers that have joined users in the room now."""
    return {
        row[0]
        for row in tx.all(
            "SELECT server FROM server_stays WHERE room_num = ? AND to_position IS NULL", (room_num,)
        )
    }


def begin_stay(tx: Tx, server: str, room_num: int, position: int) -> None:
    """The server's first user joined at `position`."""
    tx.run(
        "INSERT INTO server_stays (server, room_num, from_position) VALUES (?, ?, ?) "
        "ON CONFLICT (server, room_num, from_position) DO UPDATE SET to_position = NULL",
        (server, room_num, position),
    )


def end_stay(tx: Tx, server: str, room_num: int, position: int) -> None:
    """The server's last user left at `position`, of which it is still told."""
    tx.run(
        "UPDATE server_stays SET to_position = ? WHERE server = ? AND room_num = ? AND to_position IS NULL",
        (position, server, room_num),
    )


def visit(tx: Tx, server: str, room_num: int, position: int) -> None:
    """The server is to be told of what happened at `position` alone."""
    tx.run(
        "INSERT INTO server_stays (server, room_num, from_position, to_position) VALUES (?, ?, ?, ?) "
        "ON CONFLICT (server, room_num, from_position) DO NOTHING",
        (server, room_num, position, position),
    )


def has_joined_members(tx: Tx, room_num: int, server: str) -> bool:
    """Whether a user of that server is joined."""
    return (
        tx.one(
            "SELECT 1 FROM memberships WHERE room_num = ? AND server = ? AND membership = 'join' LIMIT 1",
            (room_num, server),
        )
        is not None
    )


def members_of_server(tx: Tx, room_num: int, server: str) -> list[Member]:
    """Every current membership of a server's users."""
    rows = tx.all(
        "SELECT user_id, membership, event_num, position FROM memberships "
        "WHERE room_num = ? AND server = ? ORDER BY user_id",
        (room_num, server),
    )
    return [Member(*row) for row in rows]


def is_staying(tx: Tx, server: str, room_num: int) -> bool:
    """Whether a stay of the server in the room is open."""
    return (
        tx.one(
            "SELECT 1 FROM server_stays WHERE server = ? AND room_num = ? AND to_position IS NULL",
            (server, room_num),
        )
        is not None
    )


def came_before(tx: Tx, server: str, room_num: int, position: int) -> bool:
    """Whether a stay of the server in the room had begun at a position."""
    row = tx.one(
        "SELECT 1 FROM server_stays WHERE server = ? AND room_num = ? AND from_position <= ? "
        "AND (to_position IS NULL OR to_position > from_position) LIMIT 1",
        (server, room_num, position),
    )
    return row is not None


# -- aliases


def alias(tx: Tx, name: str) -> tuple[str, str] | None:
    """(room id, creator) of a local alias."""
    row = tx.one("SELECT room_id, creator FROM aliases WHERE alias = ?", (name,))
    return (row[0], row[1]) if row else None


def put_alias(tx: Tx, name: str, room_id: str, creator: str) -> bool:
    """Create an alias; False if it exists."""
    return (
        tx.changed(
            "INSERT INTO aliases (alias, room_id, creator) VALUES (?, ?, ?) ON CONFLICT (alias) DO NOTHING",
            (name, room_id, creator),
        )
        > 0
    )


def delete_alias(tx: Tx, name: str) -> bool:
    """Delete an alias; False if there was none."""
    return tx.changed("DELETE FROM aliases WHERE alias = ?", (name,)) > 0


def aliases_of(tx: Tx, room_id: str) -> list[str]:
    """The local aliases of a room."""
    return [
        row[0] for row in tx.all("SELECT alias FROM aliases WHERE room_id = ? ORDER BY alias", (room_id,))
    ]


def move_aliases(tx: Tx, room_id: str, other: str) -> None:
    """Have all local aliases of a room lead to another."""
    tx.run("UPDATE aliases SET room_id = ? WHERE room_id = ?", (other, room_id))
