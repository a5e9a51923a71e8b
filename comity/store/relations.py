"""Relations between events at rest, and the threads that they make (client-server §Threading).

Plain functions over an open transaction. Which of the events somebody may see is asked by
whoever reads: rows are grouped by what that depends on, so that a thread of thousands costs as
many rows as there are states in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from comity.protocol.event import Event
from comity.protocol.relations import THREAD, Relation
from comity.store.database import Tx
from comity.store.lists import parts

#: The timeline beside all threads, as receipts and counts name it.
MAIN = "main"
#: How far relations are followed to find a thread (client-server §Threaded read receipts advises so).
MAX_HOPS = 3
#: Beyond every line.
LAST_LINE = 2**62


@dataclass(frozen=True, slots=True)
class NewRelation:
    """A relation to store: of the event with that number, which stands at `line`."""

    relation: Relation
    number: int
    line: int
    event: Event


@dataclass(frozen=True, slots=True)
class Group:
    """Events of one sender that relate to one, and that share the state before them.

    `later`: whether their lines are beyond the one asked about.
    """

    state_before: bytes
    later: bool
    sender: str
    count: int
    last_line: int


def insert(tx: Tx, room_num: int, new: Sequence[NewRelation]) -> None:
    """Store relations, and mark what they relate to."""
    tx.many(
        "INSERT INTO relations (target, event_num, room_num, rel_type, type, sender, line, origin_server_ts) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (target, event_num) DO UPDATE SET line = excluded.line",
        [
            (
                item.relation.target,
                item.number,
                room_num,
                item.relation.rel_type,
                item.event.type,
                item.event.sender,
                item.line,
                item.event.origin_server_ts,
            )
            for item in new
        ],
    )
    tx.many(
        "UPDATE events SET related = 1 WHERE event_id = ? AND related = 0",
        [(target,) for target in {item.relation.target for item in new}],
    )
    tx.many(
        "INSERT INTO threads (room_num, root, last_line) VALUES (?, ?, ?) ON CONFLICT (room_num, root) "
        "DO UPDATE SET last_line = excluded.last_line WHERE threads.last_line < excluded.last_line",
        [(room_num, item.relation.target, item.line) for item in new if item.relation.rel_type == THREAD],
    )


def mark_related(tx: Tx, event_ids: Iterable[str]) -> list[str]:
    """Mark those events, new here, that others relate to already; their ids."""
    found: list[str] = []
    for marks, chunk in parts(event_ids):
        found += [
            row[0]
            for row in tx.all(f"SELECT DISTINCT target FROM relations WHERE target IN ({marks})", chunk)
        ]
    tx.many("UPDATE events SET related = 1 WHERE event_id = ?", [(event_id,) for event_id in found])
    return found


def thread_of_event(tx: Tx, event_id: str) -> str:
    """The root of the thread that an event belongs to, or MAIN."""
    row = tx.one(
        "SELECT r.rel_type, r.target FROM relations r JOIN events e ON e.event_num = r.event_num "
        "WHERE e.event_id = ?",
        (event_id,),
    )
    return MAIN if row is None else thread_of(tx, Relation(row[0], row[1]))


def forget(tx: Tx, number: int) -> None:
    """An event relates to nothing any more: it was redacted."""
    row = tx.one("SELECT target, room_num, rel_type FROM relations WHERE event_num = ?", (number,))
    if row is None:
        return
    target, room_num, rel_type = row
    tx.run("DELETE FROM relations WHERE event_num = ?", (number,))
    if rel_type == THREAD:
        last = tx.one(
            "SELECT max(line) FROM relations WHERE target = ? AND rel_type = ? AND room_num = ?",
            (target, THREAD, room_num),
        )
        if last is None or last[0] is None:
            tx.run("DELETE FROM threads WHERE room_num = ? AND root = ?", (room_num, target))
        else:
            tx.run(
                "UPDATE threads SET last_line = ? WHERE room_num = ? AND root = ?",
                (last[0], room_num, target),
            )


def thread_of(tx: Tx, relation: Relation | None) -> str:
    """The root of the thread that an event with such a relation belongs to, or MAIN."""
    for _ in range(MAX_HOPS):
        if relation is None:
            return MAIN
        if relation.rel_type == THREAD:
            return relation.target
        row = tx.one(
            "SELECT r.rel_type, r.target FROM relations r JOIN events e ON e.event_num = r.event_num "
            "WHERE e.event_id = ?",
            (relation.target,),
        )
        relation = None if row is None else Relation(row[0], row[1])
    return MAIN


def is_cut_off(tx: Tx, event_id: str) -> bool:
    """Whether an event, or one that its relations lead to, was redacted: its thread is not known any more."""
    for _ in range(MAX_HOPS):
        row = tx.one(
            "SELECT e.redacted_by, r.target FROM events e LEFT JOIN relations r ON r.event_num = e.event_num "
            "WHERE e.event_id = ?",
            (event_id,),
        )
        if row is None:
            return False
        if row[0] is not None:
            return True
        if row[1] is None:
            return False
        event_id = row[1]
    return False


def children(
    tx: Tx,
    room_num: int,
    targets: Sequence[str],
    *,
    rel_type: str | None = None,
    event_type: str | None = None,
    sender: str | None = None,
    after: int = 0,
    upto: int = LAST_LINE,
    limit: int,
    backwards: bool = True,
) -> list[tuple[int, int]]:
    """(line, event number) of events that relate to one of `targets`, at `after < line <= upto`."""
    found: set[tuple[int, int]] = set()
    order = "DESC" if backwards else "ASC"
    for marks, chunk in parts(targets):
        sql = f"SELECT line, event_num FROM relations WHERE target IN ({marks}) AND room_num = ?"
        values: list[object] = [*chunk, room_num]
        for column, value in (("rel_type", rel_type), ("type", event_type), ("sender", sender)):
            if value is not None:
                sql += f" AND {column} = ?"
                values.append(value)
        sql += f" AND line > ? AND line <= ? ORDER BY line {order} LIMIT ?"
        found.update((row[0], row[1]) for row in tx.all(sql, [*values, after, upto, limit]))
    return sorted(found, reverse=backwards)[:limit]


def related_by(
    tx: Tx,
    room_num: int,
    target: str,
    rel_types: Iterable[str] | None,
    senders: Iterable[str] | None,
    limit: int,
) -> list[int]:
    """The numbers of events that relate to one, by one of those types and of one of those senders.

    The newest `limit` of them for each 512 names. None stands for any.
    """
    found: list[int] = []
    for type_marks, types in [("", [])] if rel_types is None else parts(rel_types):
        for sender_marks, users in [("", [])] if senders is None else parts(senders):
            sql = "SELECT event_num FROM relations WHERE target = ? AND room_num = ?"
            sql += f" AND rel_type IN ({type_marks})" if types else ""
            sql += f" AND sender IN ({sender_marks})" if users else ""
            rows = tx.all(sql + " ORDER BY line DESC LIMIT ?", [target, room_num, *types, *users, limit])
            found += [row[0] for row in rows]
    return found


def edits(tx: Tx, room_num: int, target: str, sender: str, limit: int) -> list[int]:
    """The numbers of events by `sender` that replace an event, those with the latest times first."""
    rows = tx.all(
        "SELECT event_num FROM relations WHERE target = ? AND room_num = ? AND rel_type = 'm.replace' "
        "AND sender = ? ORDER BY origin_server_ts DESC, event_num DESC LIMIT ?",
        (target, room_num, sender, limit),
    )
    return [row[0] for row in rows]


def groups(tx: Tx, room_num: int, target: str, rel_type: str, line: int) -> list[Group]:
    """The accepted events that relate to one in that way, in groups; `later` than `line` or not."""
    rows = tx.all(
        "SELECT e.state_before, CASE WHEN e.line > ? THEN 1 ELSE 0 END AS later, r.sender, count(*), "
        "max(e.line) FROM relations r JOIN events e ON e.event_num = r.event_num "
        "WHERE r.target = ? AND r.room_num = ? AND r.rel_type = ? AND e.verdict = 0 "
        "AND e.state_before IS NOT NULL AND e.line IS NOT NULL GROUP BY 1, 2, 3",
        (line, target, room_num, rel_type),
    )
    return [Group(bytes(row[0]), bool(row[1]), row[2], int(row[3]), int(row[4])) for row in rows]


def kinds(tx: Tx, event_ids: Sequence[str]) -> dict[str, set[str]]:
    """event id -> the relation types by which others relate to it."""
    found: dict[str, set[str]] = {}
    for marks, chunk in parts(event_ids):
        for target, rel_type in tx.all(
            f"SELECT DISTINCT target, rel_type FROM relations WHERE target IN ({marks})", chunk
        ):
            found.setdefault(target, set()).add(rel_type)
    return found


def threads(
    tx: Tx, room_num: int, below: int, limit: int, participant: str | None = None
) -> list[tuple[str, int]]:
    """(root, line of the newest event) of a room's threads with newest events below a line, newest first.

    With a `participant`: those whose root or one of whose events they sent (client-server §Threading).
    """
    sql = "SELECT t.root, t.last_line FROM threads t WHERE t.room_num = ? AND t.last_line < ?"
    values: list[object] = [room_num, below]
    if participant is not None:
        sql += (
            " AND (EXISTS (SELECT 1 FROM events e WHERE e.event_id = t.root AND e.sender = ?) "
            "OR EXISTS (SELECT 1 FROM relations r WHERE r.target = t.root AND r.rel_type = 'm.thread' "
            "AND r.sender = ?))"
        )
        values += [participant, participant]
    return [(row[0], row[1]) for row in tx.all(sql + " ORDER BY t.last_line DESC LIMIT ?", [*values, limit])]
