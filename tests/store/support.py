"""A store in a folder of the test's own: the real driver, the real writer, threads where they belong."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TypeVar

from comity.ports import Offload
from comity.store.database import Database, Driver, Tx, WriteTx, last_position
from comity.store.migrations import migrate
from tests.engines import a_driver_of

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


def open_driver(directory: Path, offload: Offload | None = None) -> Driver:
    """The database of a folder on the present engine, in this program's schema."""
    driver = a_driver_of(directory, offload)
    migrate(driver)
    return driver


@contextlib.contextmanager
def a_driver(directory: Path) -> Iterator[Driver]:
    """A driver that is closed afterwards."""
    driver = open_driver(directory)
    try:
        yield driver
    finally:
        driver.close_now()


def write(driver: Driver, function: Callable[[Tx], T]) -> T:
    """One transaction, committed."""
    return driver.write_now(function)


@contextlib.asynccontextmanager
async def a_database(
    directory: Path, offload: Inline | Held | None = None
) -> AsyncIterator[tuple[Database, Driver]]:
    """A database that is closed afterwards, with a table `t (n)` to write into."""
    driver = open_driver(directory, offload or Inline())
    driver.write_now(lambda tx: tx.script("CREATE TABLE IF NOT EXISTS t (n BIGINT PRIMARY KEY, body TEXT)"))
    database = Database(driver, driver.read_now(last_position))
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
