"""A whole database carried to another engine: table by table, in the order of the keys.

Every chunk is one transaction of the target's, together with how far it has come, so that a move
that was cut off goes on where it was. At the end both databases are read again and compared, by
the number of rows and a digest that does not depend on their order: so is a change of the source
noticed that was made after the rows had been sent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import orjson

from comity.store.database import Driver, GroupTx, Row, Tx
from comity.store.migrations import MOVE_PROGRESS

#: Rows that are read and written at a time, and those in one statement.
CHUNK_ROWS = 2_000
STATEMENT_ROWS = 100
#: Bytes of one digest.
DIGEST_BYTES = 16
#: How far a move has come, in the target until it is finished.
PROGRESS = MOVE_PROGRESS
#: Tables of a database that are not part of what it holds.
_OWN = frozenset({"schema_versions", "writer_lease", PROGRESS})
#: What SQLite calls its own: an operator's ANALYZE leaves such tables.
_OF_SQLITE = "sqlite_"
_SCRIPT = (
    f"CREATE TABLE IF NOT EXISTS {PROGRESS} (name TEXT NOT NULL PRIMARY KEY, last BYTEA, "
    "rows BIGINT NOT NULL, digest BYTEA NOT NULL, done BIGINT NOT NULL)"
)


class MoveError(Exception):
    """The move cannot be made, or what arrived is not what was sent; the text says which."""


@dataclass(frozen=True, slots=True)
class Table:
    """One table, its columns and those of its key."""

    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...]


@dataclass(slots=True)
class Content:
    """What a table holds: the number of rows, and the sum of their digests."""

    rows: int = 0
    digest: int = 0

    def add(self, row: Row) -> None:
        """One more row."""
        packed = orjson.dumps([_packed(item) for item in row])
        digest = hashlib.blake2b(packed, digest_size=DIGEST_BYTES).digest()
        self.rows += 1
        self.digest = (self.digest + int.from_bytes(digest, "big")) % (1 << 8 * DIGEST_BYTES)

    def packed(self) -> bytes:
        """The digest as bytes."""
        return self.digest.to_bytes(DIGEST_BYTES, "big")


def _packed(item: Any) -> Any:
    return [item.hex()] if isinstance(item, bytes) else item


def _unpacked(item: Any) -> Any:
    return bytes.fromhex(item[0]) if isinstance(item, list) else item


def tables(driver: Driver) -> list[Table]:
    """The tables of what a database holds. Raises MoveError for one without a key."""

    def read(tx: Tx) -> list[Table]:
        found = []
        for name in sorted(driver.table_sizes(tx)):
            if name in _OWN or name.startswith(_OF_SQLITE):
                continue
            columns, key = driver.columns(tx, name)
            if not key:
                raise MoveError(f"The table {name} has no primary key")
            found.append(Table(name, tuple(columns), tuple(key)))
        return found

    return driver.read_now(read)


def is_unfinished(driver: Driver) -> bool:
    """Whether a move into this database was begun and not finished."""
    return bool(driver.read_now(lambda tx: driver.columns(tx, PROGRESS)[0]))


def read(driver: Driver, table: Table, after: Row | None = None) -> Iterator[list[Row]]:
    """The rows of a table in the order of its key, a chunk at a time, behind the key `after`."""
    listed, key = ", ".join(table.columns), ", ".join(table.key)
    places = [table.columns.index(name) for name in table.key]
    while True:
        behind = "" if after is None else f"WHERE ({key}) > ({', '.join('?' * len(table.key))}) "
        sql = f"SELECT {listed} FROM {table.name} {behind}ORDER BY {key} LIMIT ?"
        parameters = (*(after or ()), CHUNK_ROWS)
        rows = driver.read_now(lambda tx: tx.all(sql, parameters))  # noqa: B023
        if rows:
            yield [_as_stored(row) for row in rows]
            after = tuple(rows[-1][place] for place in places)
        if len(rows) < CHUNK_ROWS:
            return


def _as_stored(row: Row) -> Row:
    return tuple(bytes(item) if isinstance(item, memoryview | bytearray) else item for item in row)


def content(driver: Driver, table: Table) -> Iterator[Content]:
    """What a table holds, as it is counted: the last one given is all of it."""
    counted = Content()
    yield counted
    for rows in read(driver, table):
        for row in rows:
            counted.add(row)
        yield counted


class Move:
    """One move from a database to another, begun or taken up."""

    def __init__(self, source: Driver, target: Driver) -> None:
        """Both are of this program's schema. Raises MoveError when the target holds anything else."""
        self._source = source
        self._target = target
        if is_unfinished(source):
            raise MoveError("The source itself holds a part of a move that was not finished")
        self.tables = tables(source)
        self.sizes = self._sizes(source)
        self._check_tables({table.name: table for table in tables(target)})
        self.is_taken_up = is_unfinished(target)
        if self.is_taken_up:
            self._check_taken_up()
        else:
            self._begin()

    def _check_tables(self, there: dict[str, Table]) -> None:
        for table in self.tables:
            if there.pop(table.name, None) != table:
                raise MoveError(f"The table {table.name} of the target is missing or has other columns")
        if there:
            raise MoveError(f"The target has tables that are not comity's: {', '.join(there)}")

    def _sizes(self, driver: Driver) -> dict[str, int]:
        def count(tx: Tx) -> dict[str, int]:
            rows = {table.name: tx.one(f"SELECT count(*) FROM {table.name}") for table in self.tables}
            return {name: int(row[0]) if row else 0 for name, row in rows.items()}

        return driver.read_now(count)

    def _identity(self) -> bytes:
        """What a source that has changed since would not have."""
        row = self._source.read_now(lambda tx: tx.one("SELECT last FROM log_position WHERE id = 1"))
        return orjson.dumps([row[0] if row else 0, self.sizes], option=orjson.OPT_SORT_KEYS)

    def _begin(self) -> None:
        held = {name: rows for name, rows in self._sizes(self._target).items() if rows}
        # What a new database begins with.
        held.pop("log_position", None)
        if held:
            raise MoveError(
                "The target is not empty: it holds "
                + ", ".join(f"{rows:,} {name}" for name, rows in held.items())
            )

        def begin(tx: GroupTx) -> None:
            tx.script(_SCRIPT)
            tx.run("DELETE FROM log_position")
            tx.run(
                f"INSERT INTO {PROGRESS} (name, last, rows, digest, done) VALUES ('', ?, 0, ?, 0)",
                (self._identity(), b""),
            )

        self._target.write_now(begin)

    def _check_taken_up(self) -> None:
        row = self._target.read_now(lambda tx: tx.one(f"SELECT last FROM {PROGRESS} WHERE name = ''"))
        if row is None or bytes(row[0]) != self._identity():
            raise MoveError(
                "The target holds a part of an earlier move, and the source has changed since: "
                "run it with --anew, which empties the target first"
            )

    def _progress(self, table: Table) -> tuple[Row | None, Content, bool]:
        row = self._target.read_now(
            lambda tx: tx.one(
                f"SELECT last, rows, digest, done FROM {PROGRESS} WHERE name = ?", (table.name,)
            )
        )
        if row is None:
            return None, Content(), False
        last = tuple(_unpacked(item) for item in orjson.loads(bytes(row[0]))) if row[0] is not None else None
        return last, Content(int(row[1]), int.from_bytes(bytes(row[2]), "big")), bool(row[3])

    def copy(self, table: Table) -> Iterator[int]:
        """Carry a table over; gives the number of rows that have come so far, again and again."""
        last, sent, done = self._progress(table)
        yield sent.rows
        if done:
            return
        places = [table.columns.index(name) for name in table.key]
        for rows in read(self._source, table, last):
            for row in rows:
                sent.add(row)
            last = tuple(rows[-1][place] for place in places)
            self._target.write_now(lambda tx: self._store(tx, table, rows, last, sent, done=False))  # noqa: B023
            yield sent.rows
        self._target.write_now(lambda tx: self._store(tx, table, (), last, sent, done=True))

    @staticmethod
    def _store(
        tx: GroupTx, table: Table, rows: Sequence[Row], last: Row | None, sent: Content, *, done: bool
    ) -> None:
        marks = f"({', '.join('?' * len(table.columns))})"
        into = f"INSERT INTO {table.name} ({', '.join(table.columns)}) VALUES "
        alike: dict[tuple[type, ...], list[Row]] = {}
        for row in rows:
            alike.setdefault(tuple(map(type, row)), []).append(row)
        # PostgreSQL prepares a statement for the types of its parameters: those of whole statements are
        # few this way, where rows with and without NULLs that alternate would make each one another.
        for part in alike.values():
            whole = len(part) - len(part) % STATEMENT_ROWS
            for start in range(0, whole, STATEMENT_ROWS):
                some = part[start : start + STATEMENT_ROWS]
                tx.run(into + ", ".join([marks] * STATEMENT_ROWS), [item for row in some for item in row])
            tx.many(into + marks, part[whole:])
        key = None if last is None else orjson.dumps([_packed(item) for item in last])
        tx.run(
            f"INSERT INTO {PROGRESS} (name, last, rows, digest, done) VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT (name) DO UPDATE SET last = excluded.last, rows = excluded.rows, "
            "digest = excluded.digest, done = excluded.done",
            (table.name, key, sent.rows, sent.packed(), int(done)),
        )

    def verify(self, table: Table) -> Iterator[int]:
        """Read a table on both sides again; gives the rows seen so far. Raises MoveError."""
        _, sent, _ = self._progress(table)
        held, arrived = Content(), Content()
        for of_source, of_target in zip_longest(content(self._source, table), content(self._target, table)):
            held, arrived = of_source or held, of_target or arrived
            yield arrived.rows
        if arrived != sent:
            raise MoveError(
                f"The table {table.name} did not arrive as it was sent: {sent.rows:,} rows sent, "
                f"{arrived.rows:,} arrived, digests {sent.packed().hex()} and {arrived.packed().hex()}"
            )
        if held != sent:
            raise MoveError(
                f"The table {table.name} of the source has changed since it was sent: {sent.rows:,} rows "
                f"sent, {held.rows:,} there now. Run it with --anew, which empties the target first"
            )

    def finish(self) -> None:
        """Everything has arrived: the target may be used."""
        self._target.write_now(lambda tx: tx.script(f"DROP TABLE {PROGRESS}"))


def discard(target: Driver) -> None:
    """Empty a database that holds a part of a move."""
    if not is_unfinished(target):
        return
    # It had no tables but these when the move began, and they were empty.
    listed = tables(target)

    def empty(tx: GroupTx) -> None:
        for table in listed:
            tx.run(f"DELETE FROM {table.name}")
        tx.run("INSERT INTO log_position (id, last) VALUES (1, 0)")
        tx.script(f"DROP TABLE {PROGRESS}")

    target.write_now(empty)
