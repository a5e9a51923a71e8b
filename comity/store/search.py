"""The index of words at rest, and how far it has come (client-server §Server Side Search).

One row for each word of each event, in the order (word, room, line): the newest events of a room that
have a word are one stretch. What is found here has to be looked at: who may see it, and whether it says
that still, is decided by the reader.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from comity.protocol.words import KEY_OF_TYPE, KEYS, searched_text, words_of
from comity.store import compression
from comity.store.database import Row, Tx
from comity.store.lists import parts

#: Words in one question: each is one more look for every event that has the first of them. What a term
#: asks beyond that is compared with the events themselves.
MAX_ASKED_WORDS = 8
#: Rows counted of a word, to find out which is rare: beyond that, it is common.
MAX_COUNTED = 1_000

_FIELDS = {key: number for number, key in enumerate(KEYS)}
_SAME_EVENT = "o.room_num = w.room_num AND o.line = w.line"
_ALSO_HAS = f"EXISTS (SELECT 1 FROM search_words AS o WHERE o.word = ? AND {_SAME_EVENT})"
_TYPES = ", ".join(f"'{name}'" for name in KEY_OF_TYPE)
_COLUMNS = "event_num, room_num, line, verdict, redacted_by, type, json"
_IN_RANGE = f"FROM events WHERE event_num > ? AND event_num <= ? AND type IN ({_TYPES})"


@dataclass(frozen=True, slots=True)
class Progress:
    """Events up to `newest` and above `oldest` are in the index, by number."""

    newest: int
    oldest: int


@dataclass(frozen=True, slots=True)
class Mark:
    """What decides, beside its content, whether an event is found, and where."""

    number: int
    room_num: int
    line: int | None
    verdict: int
    redacted_by: int | None


@dataclass(frozen=True, slots=True)
class Readied:
    """An event and the words by which it is found: none where it is not to be found."""

    mark: Mark
    field: int
    words: frozenset[str]


@dataclass(frozen=True, slots=True)
class Posting:
    """A place in a room's timeline where a word is; `matches`: the other words are, too."""

    line: int
    event_num: int
    matches: bool


# -- building


def progress(tx: Tx) -> Progress | None:
    """How far the index has come; None before it was begun."""
    row = tx.one("SELECT newest, oldest FROM search_progress WHERE id = 1")
    return Progress(*row) if row else None


def save_progress(tx: Tx, reached: Progress) -> None:
    """The index has come so far."""
    tx.run(
        "INSERT INTO search_progress (id, newest, oldest) VALUES (1, ?, ?) "
        "ON CONFLICT (id) DO UPDATE SET newest = excluded.newest, oldest = excluded.oldest",
        (reached.newest, reached.oldest),
    )


def ready(tx: Tx, after: int, upto: int) -> list[Readied]:
    """The searched events of a stretch of numbers, with their words."""
    return [_readied(row) for row in tx.all(f"SELECT {_COLUMNS} {_IN_RANGE}", (after, upto))]


def ready_again(tx: Tx, limit: int) -> tuple[list[int], list[Readied]]:
    """(numbers of events that are to be looked at again, those of them that are searched)."""
    rows = tx.all("SELECT event_num FROM search_again ORDER BY event_num LIMIT ?", (limit,))
    numbers = [row[0] for row in rows]
    return numbers, ready_numbers(tx, numbers)


def ready_numbers(tx: Tx, numbers: Iterable[int]) -> list[Readied]:
    """Those of some events that are searched, with their words."""
    found: dict[int, Readied] = {}
    for marks, part in parts(numbers):
        sql = f"SELECT {_COLUMNS} FROM events WHERE event_num IN ({marks}) AND type IN ({_TYPES})"
        found.update((row[0], _readied(row)) for row in tx.all(sql, part))
    return list(found.values())


def _readied(row: Row) -> Readied:
    number, room_num, line, verdict, redacted_by, event_type, packed = row
    mark = Mark(number, room_num, line, verdict, redacted_by)
    words: frozenset[str] = frozenset()
    if line is not None and verdict == 0 and redacted_by is None:
        content = orjson.loads(compression.unpack(bytes(packed)))["content"]
        text = searched_text(event_type, content)
        words = frozenset(words_of(text)) if text is not None else words
    return Readied(mark, _FIELDS[KEY_OF_TYPE[event_type]], words)


def marks(tx: Tx, after: int, upto: int) -> set[Mark]:
    """What `ready` would find of the events, their words left out."""
    rows = tx.all(f"SELECT event_num, room_num, line, verdict, redacted_by {_IN_RANGE}", (after, upto))
    return {Mark(*row) for row in rows}


def marks_of(tx: Tx, numbers: Iterable[int]) -> set[Mark]:
    """The same of some events, those that are not searched left out."""
    found: set[Mark] = set()
    for listed, part in parts(numbers):
        rows = tx.all(
            "SELECT event_num, room_num, line, verdict, redacted_by FROM events "
            f"WHERE event_num IN ({listed}) AND type IN ({_TYPES})",
            part,
        )
        found.update(Mark(*row) for row in rows)
    return found


def insert(tx: Tx, readied: Iterable[Readied]) -> int:
    """Store the words of events; how many rows that is. Those that are there already stay."""
    rows = [
        (word, item.mark.room_num, item.mark.line, item.mark.number, item.field)
        for item in readied
        for word in item.words
    ]
    # Neighbours in the tree are written one after the other.
    rows.sort()
    tx.many(
        "INSERT INTO search_words (word, room_num, line, event_num, field) VALUES (?, ?, ?, ?, ?) "
        "ON CONFLICT (word, room_num, line) DO NOTHING",
        rows,
    )
    return len(rows)


def remove(tx: Tx, number: int, event_type: str, content: Any) -> None:
    """Take an event out of the index; `content` is what it was put in with."""
    text = searched_text(event_type, content)
    row = tx.one("SELECT room_num, line FROM events WHERE event_num = ?", (number,)) if text else None
    if text is None or row is None or row[1] is None:
        return
    tx.many(
        "DELETE FROM search_words WHERE word = ? AND room_num = ? AND line = ?",
        [(word, row[0], row[1]) for word in sorted(words_of(text))],
    )


def look_again(tx: Tx, numbers: Iterable[int]) -> None:
    """Have events looked at (again) that the index has passed."""
    tx.many(
        "INSERT INTO search_again (event_num) VALUES (?) ON CONFLICT (event_num) DO NOTHING",
        [(number,) for number in numbers],
    )


def looked_at(tx: Tx, numbers: Iterable[int]) -> None:
    """That was done."""
    tx.many("DELETE FROM search_again WHERE event_num = ?", [(number,) for number in numbers])


# -- asking


def rarest_first(tx: Tx, words: Iterable[str], rooms: Collection[int]) -> list[str]:
    """The words to ask for, at most MAX_ASKED_WORDS: those first that few events of these rooms have.

    Empty if one of the words is nowhere in them.
    """
    counted = []
    # The longest are the rarest as a rule.
    for word in sorted(words, key=len, reverse=True)[:MAX_ASKED_WORDS]:
        count = 0
        for listed, part in parts(rooms):
            row = tx.one(
                "SELECT count(*) FROM (SELECT 1 FROM search_words "
                f"WHERE word = ? AND room_num IN ({listed}) LIMIT ?) AS few",
                (word, *part, MAX_COUNTED - count),
            )
            count += row[0] if row else 0
            if count >= MAX_COUNTED:
                break
        if not count:
            return []
        counted.append((count, word))
    return [word for _, word in sorted(counted, key=lambda pair: pair[0])]


def newest_lines(tx: Tx, word: str, rooms: Collection[int], upto: int) -> dict[int, int]:
    """The line of the newest event with a word, not above `upto`, in each of the rooms that have one."""
    found: dict[int, int] = {}
    for listed, part in parts(rooms):
        rows = tx.all(
            "SELECT room_num, (SELECT max(line) FROM search_words AS w WHERE w.word = ? "
            "AND w.room_num = rooms.room_num AND w.line <= ?) FROM rooms "
            f"WHERE room_num IN ({listed})",
            (word, upto, *part),
        )
        found.update((room_num, line) for room_num, line in rows if line is not None)
    return found


def postings(
    tx: Tx, words: Sequence[str], keys: Collection[str], room_num: int, upto: int, limit: int
) -> list[Posting]:
    """The events of a room that have the first word, not above line `upto`, newest first.

    `matches` tells of each whether it has the other words, and is of the `keys`.
    """
    first, *others = words
    tests = [_ALSO_HAS] * len(others)
    fields = sorted(_FIELDS[key] for key in keys)
    tests.append(f"w.field IN ({', '.join('?' * len(fields))})")
    rows = tx.all(
        f"SELECT w.line, w.event_num, CASE WHEN {' AND '.join(tests)} THEN 1 ELSE 0 END "
        "FROM search_words AS w WHERE w.word = ? AND w.room_num = ? AND w.line <= ? "
        "ORDER BY w.line DESC LIMIT ?",
        (*others, *fields, first, room_num, upto, limit),
    )
    return [Posting(line, event_num, bool(matches)) for line, event_num, matches in rows]
