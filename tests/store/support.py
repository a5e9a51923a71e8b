"""A store in a folder of the test's own: the real driver, the real writer, threads where they belong."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TypeVar

from comity.store.database import Database, Tx, WriteTx, last_position
from comity.store.migrations import migrate
from comity.store.sqlite import SqliteDriver

T = TypeVar("T")


class Inline:
    """`ports.Offload` on the spot."""

    async def run(self, function: Callable[..., T], *arguments: object) -> T:
        return function(*arguments)


class Held:
    """`ports.Offload` that waits until the test lets go."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.begun = asyncio.Event()
        self.done = 0
        self._one = False

    def let_one_go(self) -> None:
        """Open the gate for one call, and close it behind that."""
        self._one = True
        self.gate.set()

    async def run(self, function: Callable[..., T], *arguments: object) -> T:
        self.begun.set()
        await self.gate.wait()
        if self._one:
            self._one = False
            self.gate.clear()
        result = function(*arguments)
        self.done += 1
        return result


class Counted(Inline):
    """`ports.Offload` on the spot that counts: each call is one commit."""

    def __init__(self) -> None:
        self.commits = 0

    async def run(self, function: Callable[..., T], *arguments: object) -> T:
        self.commits += 1
        return await super().run(function, *arguments)


def open_driver(directory: Path) -> SqliteDriver:
    """The database of a folder, in this program's schema."""
    driver = SqliteDriver(directory / "comity.db")
    migrate(driver)
    return driver


@contextlib.contextmanager
def a_driver(directory: Path) -> Iterator[SqliteDriver]:
    """A driver that is closed afterwards."""
    driver = open_driver(directory)
    try:
        yield driver
    finally:
        driver.close()


def write(driver: SqliteDriver, function: Callable[[Tx], T]) -> T:
    """One transaction, committed."""
    tx = driver.begin()
    try:
        result = function(tx)
    except BaseException:
        driver.rollback()
        raise
    driver.commit()
    return result


@contextlib.asynccontextmanager
async def a_database(
    directory: Path, offload: Inline | Held | None = None
) -> AsyncIterator[tuple[Database, SqliteDriver]]:
    """A database that is closed afterwards, with a table `t (n)` to write into."""
    driver = open_driver(directory)
    write(driver, lambda tx: tx.run("CREATE TABLE IF NOT EXISTS t (n BIGINT PRIMARY KEY, body TEXT)"))
    database = Database(driver, offload or Inline(), driver.read(last_position))
    try:
        yield database, driver
    finally:
        await database.close()


def insert(number: int, body: str = "") -> Callable[[WriteTx], int]:
    """A write of one row; it returns the position that it was given."""

    def function(tx: WriteTx) -> int:
        tx.run("INSERT INTO t (n, body) VALUES (?, ?)", (number, body))
        return tx.next_position()

    return function


def rows(database: Database) -> list[int]:
    """The rows that are on disk."""
    return [row[0] for row in database.read_now(lambda tx: tx.all("SELECT n FROM t ORDER BY n"))]
