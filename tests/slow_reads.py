"""Reads that a test makes as slow as they may be on PostgreSQL, on either engine.

A read that is held has seen the database as it was when it began, and works with that when the test
lets it go on; everything else goes its way meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar, cast

from comity.store.database import Database, Driver, GroupTx, Row, StoreFailedError, StoreUnavailableError, Tx

T = TypeVar("T")
#: Turns of the loop after which a read that a test waits for has not come.
MAX_TURNS = 100_000


class SlowReads:
    """An engine that stands before a database's own."""

    def __init__(self, database: Database) -> None:
        self._driver = database.driver
        database._driver = cast("Driver", self)
        self._to_hold = 0
        self._to_fail = 0
        self._held: list[asyncio.Event] = []
        #: Whether no transaction can be opened, and how often one was not.
        self.refuses_groups = False
        self.refused_groups = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._driver, name)

    def hold_next(self, count: int = 1) -> None:
        """Hold the next reads."""
        self._to_hold = count

    def fail_next(self, count: int = 1) -> None:
        """Have the next reads find that the engine does not answer."""
        self._to_fail = count

    @property
    def has_failed(self) -> bool:
        """Whether those that should fail have failed."""
        return self._to_fail == 0

    async def until_held(self, count: int = 1) -> None:
        """Wait until so many are held."""
        for _ in range(MAX_TURNS):
            if len(self._held) >= count:
                return
            await asyncio.sleep(0)
        raise AssertionError("nothing is read")

    def let_go(self) -> None:
        """Let those go on that are held."""
        for gate in self._held:
            gate.set()
        self._held.clear()

    async def transact(self, function: Callable[[GroupTx], T]) -> T:
        if self.refuses_groups:
            self.refused_groups += 1
            raise StoreFailedError("the test says so")
        return await self._driver.transact(function)

    async def read(self, function: Callable[[Tx], T]) -> T:
        return await self._standing_before(self._driver.read, function)

    async def look_up(self, function: Callable[[Tx], T]) -> T:
        return await self._standing_before(self._driver.look_up, function)

    async def _standing_before(
        self, plain: Callable[[Callable[[Tx], T]], Awaitable[T]], function: Callable[[Tx], T]
    ) -> T:
        if self._to_fail:
            self._to_fail -= 1
            raise StoreUnavailableError("the test says so")
        if not self._to_hold:
            return await plain(function)
        self._to_hold -= 1
        seen, as_of = _Seen(), self._driver.commits
        self._driver.read_now(lambda tx: seen.take(tx, function))
        gate = asyncio.Event()
        self._held.append(gate)
        await gate.wait()
        return function(seen.shown(as_of))


class _Seen:
    """What the statements of a read gave, to be given again."""

    def __init__(self) -> None:
        #: Of what the function keeps in memory now, nothing is new enough.
        self.as_of = -1
        self._tx: Tx | None = None
        self._given: list[Any] = []

    def take(self, tx: Tx, function: Callable[[Tx], object]) -> None:
        """Run it once for what it reads."""
        self._tx = tx
        with contextlib.suppress(Exception):
            function(self)
        self._tx = None

    def shown(self, as_of: int) -> Tx:
        """The transaction that gives it again."""
        self.as_of = as_of
        return self

    def all(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        if self._tx is not None:
            self._given.append(self._tx.all(sql, parameters))
            return list(self._given[-1])
        found: list[Row] = self._given.pop(0)
        return found

    def one(self, sql: str, parameters: Sequence[Any] = ()) -> Row | None:
        rows = self.all(sql, parameters)
        return rows[0] if rows else None

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> None:
        raise AssertionError("a read does not write")

    def changed(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        raise AssertionError("a read does not write")

    def many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        raise AssertionError("a read does not write")
