"""The SQLite driver: WAL mode, `synchronous=FULL`, one writing and one reading connection.

A commit is on the disk when it returns. The driver knows connections and pragmas; what the
tables mean is the affair of the other modules.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from comity.store.database import Row, TransactionLostError, Tx

T = TypeVar("T")
#: Memory for pages, per connection, in KiB.
PAGE_CACHE_KIB = 65_536
#: Milliseconds to wait for another process (a command of the operator's) to end its write.
BUSY_TIMEOUT_MS = 15_000
#: WAL pages after which a checkpoint is made (4 KiB each).
CHECKPOINT_PAGES = 4_000
#: Prepared statements kept per connection; the store has fewer texts than this.
STATEMENT_CACHE = 512

_WORDS = (
    ("BIGINT PRIMARY KEY", "INTEGER PRIMARY KEY"),
    ("BYTEA", "BLOB"),
    ("/* CLUSTERED */", "WITHOUT ROWID"),
)
_PRAGMAS = (f"busy_timeout={BUSY_TIMEOUT_MS}", f"cache_size=-{PAGE_CACHE_KIB}", "foreign_keys=0")


def to_sqlite(sql: str) -> str:
    """Schema text in SQLite's words: its row ids are 64-bit integers, its bytes are BLOBs.

    A table that is marked as clustered lies in the order of its key, with no tree beside it.
    """
    for words, own in _WORDS:
        sql = sql.replace(words, own)
    return sql


VERSION = sqlite3.sqlite_version


def table_sizes(tx: Tx) -> dict[str, tuple[int, int]]:
    """Table -> (rows, bytes with its indexes). Bytes are 0 where this SQLite cannot tell."""
    tables = [row[0] for row in tx.all("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")]
    sizes = dict.fromkeys(tables, 0)
    try:
        for table, size in tx.all(
            "SELECT s.tbl_name, sum(d.pgsize) FROM dbstat AS d JOIN sqlite_schema AS s ON s.name = d.name "
            "GROUP BY s.tbl_name"
        ):
            sizes[table] = int(size)
    except sqlite3.OperationalError:
        # It was built without that table.
        pass
    counts = {table: tx.one(f"SELECT count(*) FROM {table}") for table in tables}
    return {table: (int(count[0]) if count else 0, sizes[table]) for table, count in counts.items()}


def copy(source: Path, target: Path) -> None:
    """Write a whole copy of a database, as of one moment, into an empty file. Others may go on writing.

    Raises sqlite3.Error; the copy is checked before this returns.
    """
    with contextlib.closing(sqlite3.connect(source, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
        connection.execute("VACUUM INTO ?", (str(target),))
    with contextlib.closing(sqlite3.connect(target, isolation_level=None)) as connection:
        answer = connection.execute("PRAGMA quick_check").fetchone()[0]
    if answer != "ok":
        raise sqlite3.DatabaseError(f"The copy is not sound: {answer}")


class _SqliteTx:
    """Statements on one connection."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def all(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        return self._connection.execute(sql, parameters).fetchall()

    def one(self, sql: str, parameters: Sequence[Any] = ()) -> Row | None:
        row: Row | None = self._connection.execute(sql, parameters).fetchone()
        return row

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        return self._connection.execute(sql, parameters).rowcount

    def many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        self._connection.executemany(sql, rows)


class _SnapshotTx(_SqliteTx):
    """A read that opens its snapshot with its first statement, so that one that needs none is free."""

    opened = False

    def _open(self) -> None:
        if not self.opened:
            self.opened = True
            self._connection.execute("BEGIN")

    def all(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        self._open()
        return super().all(sql, parameters)

    def one(self, sql: str, parameters: Sequence[Any] = ()) -> Row | None:
        self._open()
        return super().one(sql, parameters)

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        raise sqlite3.ProgrammingError("A read transaction does not write")


class SqliteDriver:
    """One SQLite file."""

    def __init__(self, path: Path) -> None:
        """Open or create the file. Raises sqlite3.Error."""
        self._writer = self._connect(
            path, "journal_mode=WAL", "synchronous=FULL", f"wal_autocheckpoint={CHECKPOINT_PAGES}"
        )
        try:
            self._reader = self._connect(path, "query_only=1")
        except BaseException:
            self._writer.close()
            raise
        self._writer_tx = _SqliteTx(self._writer)
        self._lookup_tx = _SqliteTx(self._reader)
        self._current: _SnapshotTx | None = None

    @staticmethod
    def _connect(path: Path, *pragmas: str) -> sqlite3.Connection:
        connection = sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, cached_statements=STATEMENT_CACHE
        )
        try:
            for pragma in (*_PRAGMAS, *pragmas):
                connection.execute("PRAGMA " + pragma).fetchall()
        except BaseException:
            # A file that is no database is noticed here.
            connection.close()
            raise
        return connection

    def read(self, function: Callable[[Tx], T]) -> T:
        if self._current is not None:
            # A read inside a read shares its snapshot.
            return function(self._current)
        tx = self._current = _SnapshotTx(self._reader)
        try:
            return function(tx)
        finally:
            self._current = None
            if tx.opened:
                self._reader.execute("COMMIT")

    def look_up(self, function: Callable[[Tx], T]) -> T:
        return function(self._current or self._lookup_tx)

    def begin(self) -> Tx:
        self._writer.execute("BEGIN IMMEDIATE")
        return self._writer_tx

    def savepoint(self, function: Callable[[], T]) -> T:
        self._writer.execute("SAVEPOINT one")
        try:
            result = function()
            self._writer.execute("RELEASE one")
        except BaseException as error:
            if not self._writer.in_transaction:
                # A full disk or an I/O error: SQLite has rolled everything back, all savepoints with it.
                raise TransactionLostError(f"The whole transaction was rolled back: {error}") from error
            self._writer.execute("ROLLBACK TO one")
            self._writer.execute("RELEASE one")
            raise
        return result

    def commit(self) -> None:
        self._writer.execute("COMMIT")

    def rollback(self) -> None:
        if self._writer.in_transaction:
            self._writer.execute("ROLLBACK")

    def script(self, sql: str) -> None:
        """Run the statements of a migration inside the writer's open transaction."""
        for statement in to_sqlite(sql).split(";\n"):
            if statement.strip():
                self._writer.execute(statement)

    def close(self) -> None:
        self._reader.close()
        self._writer.close()
