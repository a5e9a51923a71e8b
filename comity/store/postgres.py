"""The PostgreSQL driver: a pool of reading connections and one that writes.

Functions run in greenlets on the loop's thread (`ports.Pausing`): they wait for the server while
the loop goes on. The writing connection holds the lease: an advisory lock of the server's, which
ends with the connection, so that two processes never write one database; every group of writes
leaves its number there, so that after a lost connection it is known whether it was committed.
"""

from __future__ import annotations

import asyncio
import collections
import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from comity.ports import Pausing
from comity.store.database import (
    EarlierWriteError,
    EngineError,
    ExhaustedError,
    GroupTx,
    Row,
    StatementError,
    StoreUnavailableError,
    TransactionLostError,
    Tx,
)
from comity.store.postgres_connection import ANSWER_SECONDS, Connection, ConnectionLostError, connect
from comity.store.postgres_lease import Lease, LeaseLostError
from comity.store.postgres_pool import Pool
from comity.store.postgres_settings import check, place_of, settings_of

_log = logging.getLogger(__name__)
T = TypeVar("T")
#: Seconds between two attempts to reach a server that does not answer.
RETRY_SECONDS = 0.5
#: Seconds that a statement of a command or a migration may take.
PATIENT_SECONDS = 6 * 3600.0
#: Seconds that one attempt to connect may take.
CONNECT_SECONDS = 5.0
_BEGIN_READ = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_WORDS = (("/* CLUSTERED */", ""),)


class _PostgresTx:
    """Statements on one connection."""

    def __init__(self, connection: Connection, as_of: int) -> None:
        self._connection = connection
        self.as_of = as_of
        self.all = connection.rows
        self.changed = connection.changed

    def one(self, sql: str, parameters: Sequence[Any] = ()) -> Row | None:
        rows = self._connection.rows(sql, parameters)
        return rows[0] if rows else None

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> None:
        self._connection.send(sql, parameters)

    def many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        for row in rows:
            self._connection.send(sql, row)


class _WriterTx(_PostgresTx):
    """The open transaction of the writer."""

    def savepoint(self, function: Callable[[], T], *, at_once: bool = True) -> T:
        connection = self._connection
        try:
            connection.send("SAVEPOINT one")
            try:
                result = function()
                connection.send("RELEASE SAVEPOINT one")
                if at_once:
                    connection.wait()
                else:
                    # Whatever comes next, be it the end of the group: this was not its fault.
                    connection.begin_part()
            except (ConnectionLostError, ExhaustedError, EarlierWriteError):
                raise
            except BaseException:
                self._undo()
                raise
        except (ConnectionLostError, ExhaustedError) as error:
            raise TransactionLostError(f"The server cannot go on: {error}") from error
        return result

    def _undo(self) -> None:
        connection = self._connection
        try:
            connection.wait()
        except StatementError:
            pass  # its own error is on its way already
        connection.send("ROLLBACK TO SAVEPOINT one")
        connection.send("RELEASE SAVEPOINT one")
        connection.wait()

    def script(self, sql: str) -> None:
        for words, own in _WORDS:
            sql = sql.replace(words, own)
        for statement in sql.split(";\n"):
            if statement.strip():
                self._connection.send(statement)
                self._connection.wait()


class _SnapshotTx:
    """A read that takes a connection and opens its snapshot with its first statement."""

    def __init__(self, pool: Pool, as_of: int) -> None:
        self._pool = pool
        self.as_of = as_of
        self.connection: Connection | None = None

    def _open(self) -> Connection:
        if self.connection is None:
            self.connection = self._pool.take()
            self.connection.send(_BEGIN_READ)
        return self.connection

    def all(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        return self._open().rows(sql, parameters)

    def one(self, sql: str, parameters: Sequence[Any] = ()) -> Row | None:
        rows = self._open().rows(sql, parameters)
        return rows[0] if rows else None

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> None:
        raise StatementError("25006", "A read transaction does not write")

    def changed(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        raise StatementError("25006", "A read transaction does not write")

    def many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        raise StatementError("25006", "A read transaction does not write")

    def close(self) -> None:
        """End the snapshot and give the connection back."""
        connection, self.connection = self.connection, None
        if connection is None:
            return
        try:
            connection.send("COMMIT")
            connection.wait()
        except (ConnectionLostError, StatementError):
            pass  # the pool takes back whole connections only
        self._pool.give_back(connection)


class PostgresDriver:
    """One PostgreSQL database."""

    def __init__(self, url: str, pausing: Pausing, *, connections: int, exclusive: bool) -> None:
        """Connect, and check that the database is one that comity can use. The process waits for that.

        `connections` read at the same time. `exclusive` takes the lease: nobody else may have it.
        Raises EngineError.
        """
        self.commits = 0
        self.on_snapshot_closed: Callable[[], None] = _nothing
        #: Called once with what happened when somebody else has taken the database over.
        self.on_taken_over: Callable[[str], None] = _say_taken_over
        self._settings = settings_of(url)
        self.place = place_of(self._settings)
        self._pausing = pausing
        self._lease = Lease(self._connect, pausing) if exclusive else None
        self._pool = Pool(self._connect, pausing, connections)
        #: For `read_now`: it cannot wait until others give theirs back.
        self._aside = Pool(self._connect, pausing, 1)
        self._current: _SnapshotTx | None = None
        self._open: collections.Counter[int] = collections.Counter()
        self._trouble: str | None = None
        self._is_taken_over = False
        self._looking: asyncio.Task[None] | None = None
        #: Whether the whole process waits for what is written.
        self._is_waited_for = False
        self._closed = False
        try:
            self._writer = self._connect()
        except ConnectionLostError as error:
            raise EngineError(f"PostgreSQL does not answer for {self.place}: {error}") from None
        #: The connection of the open group, which is not another one's to commit.
        self._group = self._writer
        try:
            self._writer.on_lost = self._hung_up
            self.version = check(self._writer, self.place)
            if self._lease is not None:
                self._lease.take_first(self._writer)
        except BaseException as error:
            self._writer.close()
            if isinstance(error, ConnectionLostError | StatementError):
                raise EngineError(f"PostgreSQL does not answer for {self.place}: {error}") from None
            raise

    def _connect(self) -> Connection:
        return connect(self._settings, self._pausing, CONNECT_SECONDS)

    # -- reading

    def read_now(self, function: Callable[[Tx], T]) -> T:
        if self._current is not None:
            # A read inside a read shares its snapshot.
            return function(self._current)
        tx = self._current = _SnapshotTx(self._aside, self.commits)
        try:
            return function(tx)
        except ConnectionLostError as error:
            raise self._gone(error) from error
        finally:
            self._current = None
            tx.close()

    async def read(self, function: Callable[[Tx], T]) -> T:
        tx = _SnapshotTx(self._pool, self.commits)
        self._open[tx.as_of] += 1
        try:
            return await self._pausing.run(lambda: self._in_snapshot(function, tx))
        except ConnectionLostError as error:
            raise self._gone(error) from error
        except ExhaustedError as error:
            raise StoreUnavailableError(str(error)) from error
        finally:
            self._open[tx.as_of] -= 1
            if not self._open[tx.as_of]:
                del self._open[tx.as_of]
            self.on_snapshot_closed()

    @staticmethod
    def _in_snapshot(function: Callable[[Tx], T], tx: _SnapshotTx) -> T:
        try:
            return function(tx)
        finally:
            tx.close()

    async def look_up(self, function: Callable[[Tx], T]) -> T:
        def run() -> T:
            connection = self._pool.take()
            try:
                return function(_PostgresTx(connection, self.commits))
            finally:
                self._pool.give_back(connection)

        try:
            return await self._pausing.run(run)
        except ConnectionLostError as error:
            raise self._gone(error) from error
        except ExhaustedError as error:
            raise StoreUnavailableError(str(error)) from error

    def oldest_snapshot(self) -> int:
        return min(self._open) if self._open else self.commits

    # -- writing

    def write_now(self, function: Callable[[GroupTx], T]) -> T:
        try:
            writer = self._writing()
        except ConnectionLostError as error:
            raise EngineError(f"PostgreSQL does not answer for {self.place}: {error}") from error
        # A migration of a large table takes its time, and nobody else is kept from anything.
        writer.answer_seconds = PATIENT_SECONDS
        self._is_waited_for = True
        try:
            result = self._transact(function)
            self._commit()
        except EarlierWriteError as error:
            # There is only one function here.
            self._roll_back()
            raise StatementError("", str(error)) from error
        except BaseException:
            self._roll_back()
            raise
        finally:
            self._is_waited_for = False
            writer.answer_seconds = ANSWER_SECONDS
        return result

    async def transact(self, function: Callable[[GroupTx], T]) -> T:
        return await self._pausing.run(lambda: self._transact(function))

    async def commit(self) -> None:
        await self._pausing.run(self._commit)

    async def rollback(self) -> None:
        await self._pausing.run(self._roll_back)

    def _transact(self, function: Callable[[GroupTx], T]) -> T:
        try:
            writer = self._group = self._writing()
            writer.send("BEGIN")
            result = function(_WriterTx(writer, self.commits))
            if self._lease is not None:
                self._lease.mark(writer)
        except ConnectionLostError as error:
            raise self._gone(error) from error
        except LeaseLostError as error:
            raise self._lost_lease(error) from error
        except BaseException as error:
            self._roll_back()
            if isinstance(error, TransactionLostError) and self._group.is_broken:
                self._gone(error)
            raise
        return result

    def _writing(self) -> Connection:
        """The writing connection. Where there is a loop, it is made anew by who looks for the server."""
        if self._writer.is_broken:
            if self._trouble is not None or self._closed:
                raise ConnectionLostError(self._trouble or "The database is closed")
            self._make_writer()
        return self._writer

    def _make_writer(self) -> None:
        self._writer = self._lease.take_again() if self._lease is not None else self._connect()
        self._writer.on_lost = self._hung_up

    def _hung_up(self) -> None:
        """The writing connection is gone while nobody wrote, and the lease with it."""
        self._gone(ConnectionLostError("the server hung up"))

    def _commit(self) -> None:
        writer, ends = self._group, list[bytes | None]()
        try:
            writer.begin_part()
            writer.send("COMMIT", take=lambda answer: ends.append(answer.command_status))
            writer.wait()
            if ends != [b"COMMIT"]:
                # Of a transaction that has failed it makes a ROLLBACK, and says so nowhere else.
                raise StatementError("25P02", "The transaction had failed")
        except ConnectionLostError as error:
            unavailable = self._gone(error)
            if self._lease is None:
                raise unavailable from error
            if not self._was_committed():
                raise TransactionLostError(f"The connection was lost: {error}") from error
        self.commits += 1
        if self._lease is not None:
            self._lease.committed()

    def _was_committed(self) -> bool:
        """Whether the group that was being committed is on disk; the server is waited for."""
        lease = self._lease
        assert lease is not None
        while not (self._closed or self._is_taken_over):
            if self._trouble is not None:
                self._pausing.pause(RETRY_SECONDS / 10)
                continue
            try:
                return lease.was_committed(self._writing())
            except (ConnectionLostError, StatementError) as error:
                self._gone(error)
                # Where there is no loop nobody else looks for the server.
                self._pausing.pause(RETRY_SECONDS)
            except LeaseLostError as error:
                raise self._lost_lease(error) from error
        return False

    def _roll_back(self) -> None:
        writer = self._group
        if writer.is_broken:
            return
        try:
            writer.wait()
        except (ConnectionLostError, StatementError, EarlierWriteError):
            pass  # why it is rolled back is known
        try:
            if writer.in_transaction:
                writer.send("ROLLBACK")
                writer.wait()
        except (ConnectionLostError, StatementError) as error:
            writer.close()
            _log.warning("a transaction could not be rolled back: %s", error)

    # -- trouble

    def check_available(self) -> None:
        if self._trouble is not None:
            raise StoreUnavailableError(self._trouble)

    def _gone(self, error: Exception) -> StoreUnavailableError:
        """The server does not answer: from now on nobody is kept waiting, until it does again."""
        if self._trouble is None and not self._closed:
            self._trouble = f"PostgreSQL ({self.place}) does not answer: {error}"
            _log.error("%s; requests are answered with 503 until it does", self._trouble)
            self._fail()
            self._look_for_it()
        return StoreUnavailableError(str(error))

    def _fail(self) -> None:
        for pool in (self._pool, self._aside):
            pool.fail(self._trouble or "")

    def _look_for_it(self) -> None:
        try:
            loop = None if self._is_waited_for else asyncio.get_running_loop()
        except RuntimeError:
            loop = None
        if loop is None:
            # Nobody would come to it: the next statement tries again by itself.
            self._answers_again()
        elif self._looking is None:
            self._looking = loop.create_task(self._pausing.run(self._wait_for_it))
            self._looking.add_done_callback(self._found)

    def _wait_for_it(self) -> None:
        began = self._pausing.monotonic()
        while not self._closed:
            try:
                # Before anybody is told that it is well: the lease must not be free for others.
                if self._writer.is_broken:
                    self._make_writer()
                else:
                    self._connect().close()
            except (ConnectionLostError, StatementError):
                self._pausing.pause(RETRY_SECONDS)
                continue
            except LeaseLostError as error:
                self._lost_lease(error)
                return
            _log.warning(
                "PostgreSQL (%s) answers again, after %.1f s", self.place, self._pausing.monotonic() - began
            )
            self._answers_again()
            return

    def _found(self, task: asyncio.Task[None]) -> None:
        self._looking = None
        if not task.cancelled() and task.exception() is not None:
            _log.error("looking for PostgreSQL went wrong", exc_info=task.exception())
        elif self._trouble is not None and not (self._closed or self._is_taken_over):
            # It was lost again in the moment in which it was found.
            self._look_for_it()

    def _answers_again(self) -> None:
        if not (self._is_taken_over or self._closed):
            self._trouble = None
            self._pool.recover()
            self._aside.recover()

    def _lost_lease(self, error: LeaseLostError) -> StoreUnavailableError:
        """Somebody else has written: what this process has in memory is not true any more."""
        if not self._is_taken_over:
            self._is_taken_over = True
            self._trouble = str(error)
            self._fail()
            self.on_taken_over(self._trouble)
        return StoreUnavailableError(str(error))

    async def close(self) -> None:
        self._closed = True
        self.close_now()
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
            # It may have found the server after all.
            self._writer.close()

    def close_now(self) -> None:
        """Close every connection; the lease ends with its own."""
        self._closed = True
        self._pool.close()
        self._aside.close()
        self._writer.close()

    # -- for commands

    def describe(self) -> str:
        return f"PostgreSQL {self.version}, {self.place}"

    def columns(self, tx: Tx, table: str) -> tuple[list[str], list[str]]:
        rows = tx.all(
            "SELECT a.attname::text, coalesce(array_position(i.indkey::int2[], a.attnum), -1)::bigint "
            "FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid "
            "LEFT JOIN pg_index AS i ON i.indrelid = c.oid AND i.indisprimary "
            "WHERE c.relname = ? AND c.relnamespace = current_schema()::regnamespace "
            "AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
            (table,),
        )
        key = sorted((place, name) for name, place in rows if place >= 0)
        return [name for name, _ in rows], [name for _, name in key]

    def table_sizes(self, tx: Tx) -> dict[str, tuple[int, int]]:
        sizes = tx.all(
            "SELECT relname::text, pg_total_relation_size(oid) FROM pg_class "
            "WHERE relkind = 'r' AND relnamespace = current_schema()::regnamespace ORDER BY relname"
        )
        counts = {table: tx.one(f'SELECT count(*) FROM "{table}"') for table, _ in sizes}
        return {table: (int(counts[table][0]), int(size)) for table, size in sizes if counts[table]}  # type: ignore[index]


def _nothing() -> None:
    """Nobody asked to be told."""


def _say_taken_over(why: str) -> None:
    _log.critical("%s; this process must end", why)
