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

from comity.ports import Offload
from comity.store.database import EngineError, GroupTx, Row, TransactionLostError, Tx

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

    def __init__(self, connection: sqlite3.Connection, as_of: int) -> None:
        self._connection = connection
        self.as_of = as_of

    def all(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        return self._connection.execute(sql, parameters).fetchall()

    def one(self, sql: str, parameters: Sequence[Any] = ()) -> Row | None:
        row: Row | None = self._connection.execute(sql, parameters).fetchone()
        return row

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> None:
        self._connection.execute(sql, parameters)

    def changed(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        return self._connection.execute(sql, parameters).rowcount

    def many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        self._connection.executemany(sql, rows)


class _WriterTx(_SqliteTx):
    """The open transaction of the writer."""

    def savepoint(self, function: Callable[[], T], *, at_once: bool = True) -> T:
        connection = self._connection
        connection.execute("SAVEPOINT one")
        try:
            result = function()
            connection.execute("RELEASE one")
        except BaseException as error:
            if not connection.in_transaction:
                # A full disk or an I/O error: SQLite has rolled everything back, all savepoints with it.
                raise TransactionLostError(f"The whole transaction was rolled back: {error}") from error
            connection.execute("ROLLBACK TO one")
            connection.execute("RELEASE one")
            raise
        return result

    def script(self, sql: str) -> None:
        for statement in to_sqlite(sql).split(";\n"):
            if statement.strip():
                self._connection.execute(statement)


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

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> None:
        raise sqlite3.ProgrammingError("A read transaction does not write")


class SqliteDriver:
    """One SQLite file. Its reads run at one go: no other runs between two statements of one."""

    def __init__(self, path: Path, offload: Offload | None = None) -> None:
        """Open or create the file. Commits wait for the disk in `offload`; without it, on the spot.

        Raises EngineError.
        """
        self.path = path
        self.commits = 0
        self.on_snapshot_closed: Callable[[], None] = _nothing
        #: Never called: the lock on the folder of a running server is the operating system's.
        self.on_taken_over: Callable[[str], None] = lambda _: None
        self._offload = offload
        try:
            self._writer = self._connect(
                path, "journal_mode=WAL", "synchronous=FULL", f"wal_autocheckpoint={CHECKPOINT_PAGES}"
            )
        except sqlite3.Error as error:
            raise EngineError(f"The database {path} cannot be used: {error}") from error
        try:
            self._reader = self._connect(path, "query_only=1")
        except BaseException:
            self._writer.close()
            raise
        self._lookup_tx = _SqliteTx(self._reader, 0)
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

    # -- reading

    def read_now(self, function: Callable[[Tx], T]) -> T:
        if self._current is not None:
            # A read inside a read shares its snapshot.
            return function(self._current)
        tx = self._current = _SnapshotTx(self._reader, self.commits)
        try:
            return function(tx)
        finally:
            self._current = None
            if tx.opened:
                self._reader.execute("COMMIT")

    async def read(self, function: Callable[[Tx], T]) -> T:
        return self.read_now(function)

    async def look_up(self, function: Callable[[Tx], T]) -> T:
        self._lookup_tx.as_of = self.commits
        return function(self._lookup_tx)

    def oldest_snapshot(self) -> int:
        return self.commits

    def check_available(self) -> None:
        """A file is always there."""

    # -- writing

    def write_now(self, function: Callable[[GroupTx], T]) -> T:
        tx = self._begin()
        try:
            result = function(tx)
            self._commit()
        except BaseException:
            self._roll_back()
            raise
        return result

    async def transact(self, function: Callable[[GroupTx], T]) -> T:
        return function(self._begin())

    async def commit(self) -> None:
        if self._offload is None:
            self._commit()
        else:
            await self._offload.run(self._commit)

    async def rollback(self) -> None:
        self._roll_back()

    def _begin(self) -> _WriterTx:
        self._writer.execute("BEGIN IMMEDIATE")
        return _WriterTx(self._writer, self.commits)

    def _commit(self) -> None:
        self._writer.execute("COMMIT")
        self.commits += 1

    def _roll_back(self) -> None:
        if self._writer.in_transaction:
            self._writer.execute("ROLLBACK")

    # -- for commands

    def describe(self) -> str:
        return f"SQLite {sqlite3.sqlite_version}, {self.path}"

    def columns(self, tx: Tx, table: str) -> tuple[list[str], list[str]]:
        rows = tx.all("SELECT name, pk FROM pragma_table_info(?) ORDER BY cid", (table,))
        key = sorted((place, name) for name, place in rows if place)
        return [name for name, _ in rows], [name for _, name in key]

    def table_sizes(self, tx: Tx) -> dict[str, tuple[int, int]]:
        tables = [
            row[0] for row in tx.all("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")
        ]
        sizes = dict.fromkeys(tables, 0)
        try:
            for table, size in tx.all(
                "SELECT s.tbl_name, sum(d.pgsize) FROM dbstat AS d "
                "JOIN sqlite_schema AS s ON s.name = d.name GROUP BY s.tbl_name"
            ):
                sizes[table] = int(size)
        except sqlite3.OperationalError:
            # It was built without that table.
            pass
        counts = {table: tx.one(f"SELECT count(*) FROM {table}") for table in tables}
        return {table: (int(count[0]) if count else 0, sizes[table]) for table, count in counts.items()}

    async def close(self) -> None:
        self.close_now()

    def close_now(self) -> None:
        """Close both connections."""
        self._reader.close()
        self._writer.close()


def _nothing() -> None:
    """Nobody asked to be told."""
