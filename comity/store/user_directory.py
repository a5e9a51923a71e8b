"""The user directory at rest: words by which people are found, and who is where.

Plain functions over an open transaction. The words are an index that may hold more than is true
any more; whoever finds something looks at the names themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from comity.protocol.identifiers import server_of
from comity.protocol.names import id_words, name_words
from comity.store import compression
from comity.store.database import Tx
from comity.store.lists import parts

#: Words that belong to no room.
NO_ROOM = 0
#: Rows that one step looks at: a step is a transaction, and others wait for it.
STEP_ROWS = 500
#: Behind every character that a word can have.
_LAST = "\U0010ffff"
_DISPLAY_NAME = "displayname"


@dataclass(frozen=True, slots=True)
class Place:
    """A room that a user is joined to, by that event."""

    user_id: str
    room_num: int
    event_num: int
    position: int


# -- keeping it


def name_ours(tx: Tx, user_id: str, before: str | None, after: str | None, *, is_new: bool = False) -> None:
    """A user of ours has another display name (the JSON text of it), or is new."""
    old, new = set(name_words(_text(before))), set(name_words(_text(after)))
    ours = set(id_words(user_id))
    for word in sorted(old - new - ours):
        tx.run(
            "DELETE FROM directory_words WHERE word = ? AND room_num = ? AND user_id = ?",
            (word, NO_ROOM, user_id),
        )
    _put(tx, [(word, NO_ROOM, user_id) for word in sorted(new - old | (ours if is_new else set()))])


def forget_ours(tx: Tx, user_id: str, name: str | None) -> None:
    """An account has ended: nobody finds it any more."""
    tx.many(
        "DELETE FROM directory_words WHERE word = ? AND room_num = ? AND user_id = ?",
        [(word, NO_ROOM, user_id) for word in sorted({*id_words(user_id), *name_words(_text(name))})],
    )


def _text(value: str | None) -> str | None:
    name = orjson.loads(value) if value is not None else None
    return name if isinstance(name, str) else None


def _put(tx: Tx, rows: Sequence[tuple[str, int, str]]) -> None:
    tx.many(
        "INSERT INTO directory_words (word, room_num, user_id) VALUES (?, ?, ?) "
        "ON CONFLICT (word, room_num, user_id) DO NOTHING",
        rows,
    )


def _progress(tx: Tx) -> tuple[int, int, str]:
    row = tx.one("SELECT position, room_num, user_id FROM directory_progress WHERE id = 1")
    return (row[0], row[1], row[2]) if row else (-1, 0, "")


def is_behind(tx: Tx) -> bool:
    """Whether there are memberships, or old accounts, that no step has looked at."""
    at = _progress(tx)
    return (
        at[0] < 0
        or tx.one(
            "SELECT 1 FROM memberships WHERE (position, room_num, user_id) > (?, ?, ?) "
            "ORDER BY position, room_num, user_id LIMIT 1",
            at,
        )
        is not None
    )


def step(tx: Tx, server_name: str) -> bool:
    """Look at the next STEP_ROWS accounts or memberships; whether there may be more."""
    before = _progress(tx)
    is_of_accounts = before[0] < 0
    at, count = _old_accounts(tx, before[2]) if is_of_accounts else _memberships(tx, before, server_name)
    tx.run(
        "INSERT INTO directory_progress (id, position, room_num, user_id) VALUES (1, ?, ?, ?) "
        "ON CONFLICT (id) DO UPDATE SET position = excluded.position, room_num = excluded.room_num, "
        "user_id = excluded.user_id",
        at,
    )
    return is_of_accounts or count == STEP_ROWS


def _old_accounts(tx: Tx, after: str) -> tuple[tuple[int, int, str], int]:
    rows = tx.all(
        "SELECT u.user_id, p.value FROM users u LEFT JOIN profiles p ON p.user_id = u.user_id "
        "AND p.field = ? WHERE u.user_id > ? AND u.deactivated = 0 ORDER BY u.user_id LIMIT ?",
        (_DISPLAY_NAME, after, STEP_ROWS),
    )
    for user_id, name in rows:
        name_ours(tx, user_id, None, name, is_new=True)
    return ((-1, 0, rows[-1][0]) if len(rows) == STEP_ROWS else (0, 0, "")), len(rows)


def _memberships(tx: Tx, after: tuple[int, int, str], server_name: str) -> tuple[tuple[int, int, str], int]:
    rows = tx.all(
        "SELECT position, room_num, user_id, membership, event_num FROM memberships "
        "WHERE (position, room_num, user_id) > (?, ?, ?) ORDER BY position, room_num, user_id LIMIT ?",
        (*after, STEP_ROWS),
    )
    # Our own users are found by their profiles.
    joined = {
        row[4]: (row[1], row[2]) for row in rows if row[3] == "join" and server_of(row[2]) != server_name
    }
    words: list[tuple[str, int, str]] = []
    for event_num, name in _names(tx, list(joined)):
        room_num, user_id = joined[event_num]
        ids = id_words(user_id)
        words += [(word, NO_ROOM, user_id) for word in ids]
        words += [(word, room_num, user_id) for word in name_words(name) if word not in ids]
    _put(tx, words)
    last = rows[-1] if rows else None
    return ((last[0], last[1], last[2]) if last else after), len(rows)


def _names(tx: Tx, numbers: Sequence[int]) -> list[tuple[int, str | None]]:
    """(event number, display name in it) of membership events."""
    found: dict[int, str | None] = {}
    for marks, part in parts(numbers):
        for number, packed in tx.all(
            f"SELECT event_num, json FROM events WHERE event_num IN ({marks})", part
        ):
            content = orjson.loads(compression.unpack(bytes(packed))).get("content")
            name = content.get(_DISPLAY_NAME) if isinstance(content, dict) else None
            found[number] = name if isinstance(name, str) else None
    return list(found.items())


# -- asking it


def beginning_with(tx: Tx, word: str, limit: int) -> list[tuple[int, str]]:
    """(room number or NO_ROOM, user id) by words that begin so: in their order, `limit` at most."""
    rows = tx.all(
        "SELECT room_num, user_id FROM directory_words WHERE word >= ? AND word < ? "
        "ORDER BY word, room_num, user_id LIMIT ?",
        (word, word + _LAST, limit),
    )
    return [(row[0], row[1]) for row in rows]


def rooms_of(tx: Tx, user_id: str) -> set[int]:
    """The numbers of the rooms that a user is joined to."""
    rows = tx.all("SELECT room_num FROM memberships WHERE user_id = ? AND membership = 'join'", (user_id,))
    return {row[0] for row in rows}


def places(tx: Tx, user_ids: Sequence[str], limit: int) -> dict[str, list[Place]]:
    """user id -> the rooms that they are joined to; `limit` at most, over all of them."""
    found: dict[str, list[Place]] = {}
    for marks, part in parts(user_ids):
        rows = tx.all(
            "SELECT user_id, room_num, event_num, position FROM memberships "
            f"WHERE user_id IN ({marks}) AND membership = 'join' LIMIT ?",
            [*part, limit],
        )
        for row in rows:
            found.setdefault(row[0], []).append(Place(*row))
    return found


def accounts_among(tx: Tx, user_ids: Sequence[str]) -> dict[str, bool]:
    """Those of some users of ours whose accounts have not ended: user id -> whether it is a guest's."""
    found: dict[str, bool] = {}
    for marks, part in parts(user_ids):
        rows = tx.all(
            "SELECT u.user_id, g.user_id FROM users u LEFT JOIN guests g ON g.user_id = u.user_id "
            f"WHERE u.user_id IN ({marks}) AND u.deactivated = 0",
            part,
        )
        found.update((row[0], row[1] is not None) for row in rows)
    return found
