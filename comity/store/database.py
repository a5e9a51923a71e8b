"""The database: many readers, one writer that commits in groups, positions.

Writers hand in synchronous functions; all that wait run inside one transaction, a savepoint
each, and are committed together; the next group runs while nobody waits for the disk but
those in it (DESIGN §4.2). A write's future resolves when its group is on disk, never before.
This is the only module of `store` with anything asynchronous in it.
"""

from __future__ import annotations

import asyncio
import collections
import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from comity.ports import Offload
from comity.protocol.errors import MatrixError

_log = logging.getLogger(__name__)
T = TypeVar("T")
#: One transaction holds at most this many writes, so that no answer waits for a crowd.
MAX_GROUP = 256
#: Writes that may wait for the writer; past it the server is overloaded and says so.
MAX_QUEUED_WRITES = 20_000
#: What clients are told to wait when the store cannot take what they send.
RETRY_AFTER_MS = 2_000
Row = tuple[Any, ...]


class Tx(Protocol):
    """One open transaction. Statements use `?` for parameters."""

    def all(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Every row of a query."""

    def one(self, sql: str, parameters: Sequence[Any] = ()) -> Row | None:
        """The first row of a query, if any."""

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Execute a statement; the number of rows it changed."""

    def many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """Execute a statement once for each row of parameters."""


class WriteTx(Tx, Protocol):
    """The writer's transaction."""

    def next_position(self) -> int:
        """The next position of the log: greater than every one before it."""

    def after_commit(self, callback: Callable[[], None]) -> None:
        """Call back, in order, when the group is on disk (and not if it fails)."""

    def at_end(self, key: object, function: Callable[[Tx], None]) -> None:
        """Run once before the group is committed; of several under one key, the last alone.

        For what every write of a group would overwrite: only its end is stored.
        """


class Driver(Protocol):
    """What an engine must do for the Database."""

    def read(self, function: Callable[[Tx], T]) -> T:
        """Run in one read snapshot."""

    def look_up(self, function: Callable[[Tx], T]) -> T:
        """Run a read of one statement, which needs no snapshot."""

    def begin(self) -> Tx:
        """Open the writer's transaction."""

    def savepoint(self, function: Callable[[], T]) -> T:
        """Run inside a savepoint of the open transaction; roll back to it on an exception.

        Raises TransactionLostError when the engine gave more up than that.
        """

    def commit(self) -> None:
        """Make the transaction durable. May be called from another thread."""

    def rollback(self) -> None:
        """Give the transaction up."""

    def close(self) -> None:
        """Close every connection."""


class StoreOverloadedError(MatrixError):
    """More writes wait than the server can promise to do soon."""

    def __init__(self, detail: str) -> None:
        """`detail` is for the log."""
        retry = {"retry_after_ms": RETRY_AFTER_MS}
        super().__init__(
            503, "M_UNKNOWN", "The server is overloaded: try again soon", extra=retry, detail=detail
        )


class StoreFailedError(MatrixError):
    """A group could not be committed; nothing of it was stored."""

    def __init__(self, detail: str) -> None:
        """`detail` is for the log."""
        retry = {"retry_after_ms": RETRY_AFTER_MS}
        super().__init__(
            503, "M_UNKNOWN", "It could not be stored: try again soon", extra=retry, detail=detail
        )


class TransactionLostError(Exception):
    """The engine rolled the open transaction back by itself: the whole group has failed."""


class _GroupTx:
    """The writer's transaction as one write sees it."""

    def __init__(self, tx: Tx, database: Database) -> None:
        self.all = tx.all
        self.one = tx.one
        self.run = tx.run
        self.many = tx.many
        self._database = database
        self.callbacks: list[Callable[[], None]] = []
        self.endings: dict[object, Callable[[Tx], None]] = {}

    def next_position(self) -> int:
        self._database.last_position += 1
        return self._database.last_position

    def after_commit(self, callback: Callable[[], None]) -> None:
        self.callbacks.append(callback)

    def at_end(self, key: object, function: Callable[[Tx], None]) -> None:
        self.endings[key] = function


class Database:
    """Reads and grouped writes over one driver."""

    def __init__(self, driver: Driver, offload: Offload, last_position: int) -> None:
        """`last_position` is the greatest position ever given."""
        self._driver = driver
        self._offload = offload
        #: The last position given, and the last that is on disk.
        self.last_position = last_position
        self.last_committed = last_position
        self._queue: collections.deque[tuple[Callable[[WriteTx], Any], asyncio.Future[Any]]] = (
            collections.deque()
        )
        self._writer: asyncio.Task[None] | None = None
        self._closed = False

    def read_now(self, function: Callable[[Tx], T]) -> T:
        """Run a short read on the spot, in one snapshot. It must not touch the network."""
        return self._driver.read(function)

    def look_up(self, function: Callable[[Tx], T]) -> T:
        """Run a read of a single statement: cheaper than `read_now`, and no snapshot over several."""
        return self._driver.look_up(function)

    async def read(self, function: Callable[[Tx], T]) -> T:
        """Run a read in one snapshot."""
        return self._driver.read(function)

    def submit(self, function: Callable[[WriteTx], T]) -> asyncio.Future[T]:
        """Queue a write. The future resolves to its result once it is on disk.

        Raises StoreOverloadedError at once when the queue is full. The future raises what the
        function raised (its own changes are undone), or StoreFailedError.
        """
        if self._closed:
            raise StoreFailedError("The database is closed")
        if len(self._queue) >= MAX_QUEUED_WRITES:
            raise StoreOverloadedError("Too many writes are waiting")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._queue.append((function, future))
        if self._writer is None:
            self._writer = loop.create_task(self._write_groups())
        return future

    async def write(self, function: Callable[[WriteTx], T]) -> T:
        """Queue a write and wait until it is on disk. The wait may be cancelled; the write not."""
        return await asyncio.shield(self.submit(function))

    async def close(self) -> None:
        """Finish what is queued, then close the engine."""
        self._closed = True
        if self._writer is not None:
            await self._writer
        self._driver.close()

    async def _write_groups(self) -> None:
        try:
            while self._queue:
                await self._write_group()
                # Answers that the commit let out may bring the next writes of the same clients.
                await asyncio.sleep(0)
        finally:
            self._writer = None

    async def _write_group(self) -> None:
        done: list[tuple[asyncio.Future[Any], Any, list[Callable[[], None]]]] = []
        #: Told when the group has ended: until then the disk does not say what came before them.
        refused: list[tuple[asyncio.Future[Any], Exception]] = []
        taken: list[asyncio.Future[Any]] = []
        endings: dict[object, Callable[[Tx], None]] = {}
        try:
            tx = self._driver.begin()
            while self._queue and len(taken) < MAX_GROUP:
                function, future = self._queue.popleft()
                taken.append(future)
                group_tx = _GroupTx(tx, self)
                try:
                    result = self._driver.savepoint(lambda: function(group_tx))  # noqa: B023
                except TransactionLostError:
                    raise
                except Exception as error:  # noqa: BLE001 - the writer's own exception goes back to it
                    refused.append((future, error))
                else:
                    done.append((future, result, group_tx.callbacks))
                    endings.update(group_tx.endings)
            for ending in endings.values():
                ending(tx)
            if self.last_position != self.last_committed:
                tx.run("UPDATE log_position SET last = ? WHERE id = 1", (self.last_position,))
            await self._offload.run(self._driver.commit)
        except Exception as error:  # noqa: BLE001 - nothing of the group is on disk
            self._give_up(taken, error)
            return
        self.last_committed = self.last_position
        for future, result, callbacks in done:
            for callback in callbacks:
                try:
                    callback()
                except Exception:  # noqa: BLE001 - what is stored is stored: the others get their answer
                    _log.exception("a follower of a commit failed")
            if not future.done():
                future.set_result(result)
        for future, refusal in refused:
            _fail(future, refusal)

    def _give_up(self, taken: list[asyncio.Future[Any]], error: Exception) -> None:
        """Nothing of a group is on disk: tell everybody who was in it."""
        if not taken:
            # Not even a transaction could be opened: those who would have been in it cannot wait on.
            taken.extend(self._queue.popleft()[1] for _ in range(min(MAX_GROUP, len(self._queue))))
        for future in taken:
            _fail(future, StoreFailedError(f"The write was not stored: {error}"))
        try:
            self._driver.rollback()
        except Exception:  # noqa: BLE001 - the next group's begin will tell
            _log.exception("a group that failed could not be rolled back")


def last_position(tx: Tx) -> int:
    """The greatest position ever given in this database."""
    row = tx.one("SELECT last FROM log_position WHERE id = 1")
    return int(row[0]) if row else 0


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
        # Whoever submitted it may have gone; the exception is still theirs alone.
        future.exception()
