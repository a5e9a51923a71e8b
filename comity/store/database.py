"""The database: many readers, one writer that commits in groups, positions.

Writers hand in synchronous functions; all that wait run inside one transaction, a savepoint
each, and are committed together; the next group runs while nobody waits for the disk but
those in it (DESIGN §4.2). A write's future resolves when its group is on disk, never before.

The functions are the same for both engines. On SQLite each runs at one go on the event loop; on
PostgreSQL it pauses at its statements, and others go on meanwhile (docs/decisions/0014). So what a
function keeps in memory of what it read must not be older than what is there (`Tx.as_of`).
"""

from __future__ import annotations

import asyncio
import collections
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from comity.protocol.errors import MatrixError

_log = logging.getLogger(__name__)
T = TypeVar("T")
#: One transaction holds at most this many writes, so that no answer waits for a crowd.
MAX_GROUP = 256
#: Turns of the loop in which more writes may come before a group is begun, as long as each brings some.
MAX_GATHERING = 32
#: And those that may bring none, where the last group was a crowd.
CROWD_PATIENCE = 6
#: Writes that may wait for the writer; past it the server is overloaded and says so.
MAX_QUEUED_WRITES = 20_000
#: Writes that go along with others, and seconds until they are written by themselves if none come.
MAX_ALONG, ALONG_SECONDS = 1_000, 1.0
#: Seconds that the end of the process waits for what is queued.
CLOSE_SECONDS = 20.0
#: What clients are told to wait when the store cannot take what they send.
RETRY_AFTER_MS = 2_000
Row = tuple[Any, ...]


class Tx(Protocol):
    """One open transaction. Statements use `?` for parameters."""

    #: How many groups were on disk when its snapshot was opened; it may show some more.
    as_of: int

    def all(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Every row of a query."""

    def one(self, sql: str, parameters: Sequence[Any] = ()) -> Row | None:
        """The first row of a query, if any."""

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> None:
        """Execute a statement. What is wrong with it may be told by a later one."""

    def changed(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Execute a statement; the number of rows it changed."""

    def many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """Execute a statement once for each row of parameters. Errors as with `run`."""


class WriteTx(Tx, Protocol):
    """The writer's transaction.

    A function that writes may be run again in a transaction that is begun anew: what it changes beside
    the database comes to the same then, or is left to `after_commit`.
    """

    def next_position(self) -> int:
        """The next position of the log: greater than every one before it."""

    def after_commit(self, callback: Callable[[], None]) -> None:
        """Call back, in order, when the group is on disk (and not if it fails)."""

    def when_seen(self, callback: Callable[[], None]) -> None:
        """Call back when the group is on disk and every snapshot that is open shows it."""

    def at_end(self, key: object, function: Callable[[Tx], None]) -> None:
        """Run once before the group is committed; of several under one key, the last alone.

        For what every write of a group would overwrite: only its end is stored.
        """


class GroupTx(Tx, Protocol):
    """The open transaction of a group of writes."""

    def savepoint(self, function: Callable[[], T], *, at_once: bool = True) -> T:
        """Run inside a savepoint; roll back to it on an exception, also one of a statement's.

        Without `at_once`, statements that return nothing may be found to have failed only later:
        then whatever is done next raises EarlierWriteError. Raises TransactionLostError when the engine
        gave more up than the savepoint.
        """

    def script(self, sql: str) -> None:
        """Run the statements of a migration."""


class Driver(Protocol):
    """What an engine must do for the Database."""

    #: The groups that are on disk, counted from the opening on.
    commits: int
    #: Called with what happened when somebody else has taken the database over: end the process.
    on_taken_over: Callable[[str], None]
    #: Called when a snapshot that was open for a while is closed.
    on_snapshot_closed: Callable[[], None]

    async def read(self, function: Callable[[Tx], T]) -> T:
        """Run in one read snapshot. Others run while it waits for the engine."""

    async def look_up(self, function: Callable[[Tx], T]) -> T:
        """Run a read of one statement, which needs no snapshot."""

    def read_now(self, function: Callable[[Tx], T]) -> T:
        """Run in one read snapshot, and let the whole process wait if need be."""

    def write_now(self, function: Callable[[GroupTx], T]) -> T:
        """Run in a transaction and commit it, and let the whole process wait if need be."""

    async def transact(self, function: Callable[[GroupTx], T]) -> T:
        """Open the writer's transaction and run in it; it stays open."""

    async def commit(self) -> None:
        """Make the transaction durable. When this raises, nothing of it is or will be stored."""

    async def rollback(self) -> None:
        """Give the transaction up, if one is open."""

    def oldest_snapshot(self) -> int:
        """The smallest `Tx.as_of` of the reads that are open; `commits` if none is."""

    def check_available(self) -> None:
        """Raise StoreUnavailableError while the engine is known not to answer."""

    async def close(self) -> None:
        """Close every connection."""

    def close_now(self) -> None:
        """Close every connection, and let the whole process wait if need be."""

    def describe(self) -> str:
        """The engine, its version and the place of the database, for the operator."""

    def columns(self, tx: Tx, table: str) -> tuple[list[str], list[str]]:
        """(a table's columns in their order, those of its primary key); empty if there is no such table."""

    def table_sizes(self, tx: Tx) -> dict[str, tuple[int, int]]:
        """Table -> (rows, bytes with its indexes); 0 bytes where the engine cannot tell."""


class EngineError(Exception):
    """The engine cannot be used at all; the text says why and what to do."""


class StatementError(Exception):
    """A statement that the engine refuses."""

    def __init__(self, state: str, text: str) -> None:
        """`state` is the SQLSTATE; `text` is the engine's, for the log."""
        super().__init__(f"{text} ({state})")
        self.state = state


class ExhaustedError(StatementError):
    """A statement that failed for no fault of its own: a full disk, no memory left, a deadlock."""


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

    def __init__(self, detail: str, text: str = "It could not be stored: try again soon") -> None:
        """`detail` is for the log."""
        retry = {"retry_after_ms": RETRY_AFTER_MS}
        super().__init__(503, "M_UNKNOWN", text, extra=retry, detail=detail)


class StoreUnavailableError(StoreFailedError):
    """The engine does not answer; it will be used again as soon as it does."""

    def __init__(self, detail: str) -> None:
        """`detail` is for the log."""
        super().__init__(detail, text="The database does not answer: try again soon")


class EarlierWriteError(Exception):
    """A statement of the group failed, and the engine tells it only now: whose it was is not known."""


class TransactionLostError(Exception):
    """The engine rolled the open transaction back by itself: the whole group has failed."""


#: A function that writes, and who waits for it.
_Write = tuple[Callable[["WriteTx"], Any], "asyncio.Future[Any]"]


class _WriteTx:
    """The writer's transaction as one write sees it."""

    def __init__(self, tx: Tx, database: Database) -> None:
        self.all = tx.all
        self.one = tx.one
        self.run = tx.run
        self.changed = tx.changed
        self.many = tx.many
        self.as_of = tx.as_of
        self._database = database
        self.callbacks: list[Callable[[], None]] = []
        self.settlings: list[Callable[[], None]] = []
        self.endings: dict[object, Callable[[Tx], None]] = {}

    def next_position(self) -> int:
        self._database.last_position += 1
        return self._database.last_position

    def after_commit(self, callback: Callable[[], None]) -> None:
        self.callbacks.append(callback)

    def when_seen(self, callback: Callable[[], None]) -> None:
        self.settlings.append(callback)

    def at_end(self, key: object, function: Callable[[Tx], None]) -> None:
        self.endings[key] = function


class Database:
    """Reads and grouped writes over one driver."""

    def __init__(self, driver: Driver, last_position: int) -> None:
        """`last_position` is the greatest position ever given."""
        self._driver = driver
        #: The last position given, and the last that is on disk.
        self.last_position = last_position
        self.last_committed = last_position
        self._queue: collections.deque[_Write] = collections.deque()
        #: (the group's number, what to call when every open snapshot shows it)
        self._unseen: collections.deque[tuple[int, Callable[[], None]]] = collections.deque()
        driver.on_snapshot_closed = self._tell_seen
        self._along: list[Callable[[WriteTx], object]] = []
        self._along_timer: asyncio.TimerHandle | None = None
        self._writer: asyncio.Task[None] | None = None
        #: How many writes the last group had.
        self._last_group = 0
        self._closed = False

    @property
    def driver(self) -> Driver:
        """The engine, for commands."""
        return self._driver

    @property
    def commits(self) -> int:
        """How many groups are on disk: what `Tx.as_of` is compared with."""
        return self._driver.commits

    async def read(self, function: Callable[[Tx], T]) -> T:
        """Run a short read in one snapshot. It must not touch the network.

        Raises StoreUnavailableError.
        """
        return await self._driver.read(function)

    async def look_up(self, function: Callable[[Tx], T]) -> T:
        """Run a read of a single statement: cheaper than `read`, and no snapshot over several."""
        return await self._driver.look_up(function)

    def read_now(self, function: Callable[[Tx], T]) -> T:
        """Run a read on the spot, while the whole process waits: for commands, never for a server."""
        return self._driver.read_now(function)

    async def check(self) -> None:
        """Ask the engine whether it answers. Raises StoreUnavailableError."""
        self._driver.check_available()
        await self.look_up(lambda tx: tx.one("SELECT 1"))

    def submit(self, function: Callable[[WriteTx], T]) -> asyncio.Future[T]:
        """Queue a write. The future resolves to its result once it is on disk.

        Raises StoreOverloadedError at once when the queue is full, StoreUnavailableError when the
        engine is known not to answer. The future raises what the function raised (its own changes
        are undone), or StoreFailedError.
        """
        if self._closed:
            raise StoreFailedError("The database is closed")
        self._driver.check_available()
        if len(self._queue) >= MAX_QUEUED_WRITES:
            raise StoreOverloadedError("Too many writes are waiting")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._queue.append((function, future))
        if self._along:
            self._take_along()
        if self._writer is None:
            self._writer = loop.create_task(self._write_groups())
        return future

    def submit_along(self, function: Callable[[WriteTx], object]) -> None:
        """Have a write done along with the next one, or soon: nobody waits for it, and nobody misses it."""
        if self._closed:
            return
        self._along.append(function)
        if len(self._along) >= MAX_ALONG or self._writer is not None:
            self._take_along()
        elif self._along_timer is None:
            loop = asyncio.get_running_loop()
            self._along_timer = loop.call_later(ALONG_SECONDS, self._take_along)

    def _take_along(self) -> None:
        if self._along_timer is not None:
            self._along_timer.cancel()
            self._along_timer = None
        functions, self._along = self._along, []
        for function in functions:
            try:
                self.submit(function)
            except (StoreFailedError, StoreOverloadedError):
                return

    async def write(self, function: Callable[[WriteTx], T]) -> T:
        """Queue a write and wait until it is on disk. The wait may be cancelled; the write not."""
        return await asyncio.shield(self.submit(function))

    async def close(self) -> None:
        """Finish what is queued, then close the engine. One that does not answer is not waited for long."""
        self._take_along()
        self._closed = True
        writer = self._writer
        if writer is not None:
            await asyncio.wait({writer}, timeout=CLOSE_SECONDS)
        await self._driver.close()
        if writer is not None:
            await writer

    async def _write_groups(self) -> None:
        try:
            while self._queue:
                await self._gather()
                await self._write_group()
        finally:
            self._writer = None

    async def _gather(self) -> None:
        """Let those be decided that are just about to be: a commit costs the same for one and for many."""
        # Where they came in crowds, more are under way; somebody who is alone is not kept waiting.
        patience = CROWD_PATIENCE if self._last_group > 1 else 1
        for _ in range(MAX_GATHERING):
            before = len(self._queue)
            await asyncio.sleep(0)
            if len(self._queue) == before:
                patience -= 1
            if not patience or before >= MAX_GROUP:
                return

    async def _write_group(self) -> None:
        group = _Group(self)
        try:
            try:
                await self._driver.transact(group.run)
                await self._driver.commit()
            except EarlierWriteError:
                # Seldom: once more from the beginning, and each is waited for.
                await self._driver.rollback()
                group = _Group(self, group.writes)
                await self._driver.transact(group.run)
                await self._driver.commit()
        except Exception as error:  # noqa: BLE001 - nothing of the group is on disk
            await self._give_up([future for _, future in group.writes], error)
            return
        self.last_committed = group.last_position
        self._last_group = len(group.writes)
        for done in group.done:
            for callback in done.callbacks:
                try:
                    callback()
                except Exception:  # noqa: BLE001 - what is stored is stored: the others get their answer
                    _log.exception("a follower of a commit failed")
            self._unseen.extend((self._driver.commits, settling) for settling in done.settlings)
            if not done.future.done():
                done.future.set_result(done.result)
        self._tell_seen()
        for future, refusal in group.refused:
            _fail(future, refusal)

    def _tell_seen(self) -> None:
        if not self._unseen:
            return
        oldest = self._driver.oldest_snapshot()
        while self._unseen and self._unseen[0][0] <= oldest:
            try:
                self._unseen.popleft()[1]()
            except Exception:  # noqa: BLE001 - as above
                _log.exception("a follower of a commit failed")

    async def _give_up(self, taken: list[asyncio.Future[Any]], error: Exception) -> None:
        """Nothing of a group is on disk: tell everybody who was in it."""
        if not taken:
            # Not even a transaction could be opened: those who would have been in it cannot wait on.
            taken.extend(self._queue.popleft()[1] for _ in range(min(MAX_GROUP, len(self._queue))))
        for future in taken:
            _fail(future, StoreFailedError(f"The write was not stored: {error}"))
        try:
            await self._driver.rollback()
        except Exception:  # noqa: BLE001 - the next group's begin will tell
            _log.exception("a group that failed could not be rolled back")

    def take(self) -> _Write | None:
        """The next write that waits."""
        return self._queue.popleft() if self._queue else None


@dataclass(slots=True)
class _Done:
    """One write of a group that went well."""

    future: asyncio.Future[Any]
    result: Any
    callbacks: list[Callable[[], None]]
    settlings: list[Callable[[], None]]


class _Group:
    """One group of writes, while it is written."""

    def __init__(self, database: Database, writes: Sequence[_Write] = ()) -> None:
        """With `writes`, the group is those again, each one waited for."""
        self._database = database
        self._again = list(writes)
        #: Every write of the group, in order.
        self.writes: list[_Write] = []
        self.done: list[_Done] = []
        #: Told when the group has ended: until then the disk does not say what came before them.
        self.refused: list[tuple[asyncio.Future[Any], Exception]] = []
        self.last_position = 0

    def _waiting(self) -> Iterator[_Write]:
        while len(self.writes) < MAX_GROUP and (waiting := self._database.take()) is not None:
            yield waiting

    def run(self, tx: GroupTx) -> None:
        """Run what waits, in order; then what the whole group ends with."""
        database = self._database
        endings: dict[object, Callable[[Tx], None]] = {}
        for function, future in self._again or self._waiting():
            self.writes.append((function, future))
            own = _WriteTx(tx, database)
            try:
                result = tx.savepoint(lambda: function(own), at_once=bool(self._again))  # noqa: B023
            except (TransactionLostError, EarlierWriteError):
                raise
            except Exception as error:  # noqa: BLE001 - the writer's own exception goes back to it
                self.refused.append((future, error))
            else:
                self.done.append(_Done(future, result, own.callbacks, own.settlings))
                endings.update(own.endings)
        for ending in endings.values():
            ending(tx)
        self.last_position = database.last_position
        # A group that failed may have used positions up; they are not given again.
        if self.last_position != database.last_committed:
            tx.run("UPDATE log_position SET last = ? WHERE id = 1", (self.last_position,))


def last_position(tx: Tx) -> int:
    """The greatest position ever given in this database."""
    row = tx.one("SELECT last FROM log_position WHERE id = 1")
    return int(row[0]) if row else 0


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
        # Whoever submitted it may have gone; the exception is still theirs alone.
        future.exception()
