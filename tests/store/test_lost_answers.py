"""PostgreSQL's answer to a COMMIT is lost, or the COMMIT itself; somebody else takes the database over."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from comity.store import postgres_lease
from comity.store.database import (
    Database,
    EngineError,
    StoreFailedError,
    StoreUnavailableError,
    last_position,
)
from comity.store.migrations import migrate
from comity.store.postgres import PostgresDriver
from tests.engines import Pauses, quiet, url_of
from tests.store.proxy import Mode, Proxy
from tests.store.support import insert, rows

pytestmark = pytest.mark.engine("postgresql")


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Proxy]:
    port = urlsplit(url_of(tmp_path)).port
    assert port is not None
    with Proxy(port).running() as running:
        yield running


def a_driver(url: str) -> PostgresDriver:
    driver = PostgresDriver(url, Pauses(), connections=2, exclusive=True)
    migrate(driver)
    driver.write_now(lambda tx: tx.script("CREATE TABLE IF NOT EXISTS t (n BIGINT PRIMARY KEY, body TEXT)"))
    return driver


def through(proxy: Proxy, folder: Path) -> str:
    """The URL of the test's database, through the proxy."""
    parts = urlsplit(url_of(folder))
    return f"postgresql://{parts.username}@127.0.0.1:{proxy.port}{parts.path}"


async def eventually_stored(database: Database, number: int) -> None:
    """Write something, as often as it takes."""
    async with asyncio.timeout(20):
        while True:
            try:
                await database.write(insert(number))
                return
            except StoreFailedError:
                await quiet()


async def test_a_commit_whose_answer_is_lost_was_made(tmp_path: Path, proxy: Proxy) -> None:
    driver = a_driver(through(proxy, tmp_path))
    database = Database(driver, driver.read_now(last_position))
    first = await database.write(insert(1))
    proxy.set(Mode.SWALLOW_ANSWER)
    async with asyncio.timeout(20):
        # It is told once that is known; never that it failed, for it did not.
        assert await database.write(insert(2)) == first + 1
    await eventually_stored(database, 3)
    assert rows(database) == [1, 2, 3]
    assert database.read_now(last_position) == database.last_committed
    await database.close()


async def test_a_commit_that_never_arrives_was_not_made(tmp_path: Path, proxy: Proxy) -> None:
    driver = a_driver(through(proxy, tmp_path))
    database = Database(driver, driver.read_now(last_position))
    await database.write(insert(1))
    proxy.set(Mode.LOSE)
    with pytest.raises(StoreFailedError):
        async with asyncio.timeout(20):
            await database.write(insert(2))
    await eventually_stored(database, 3)
    assert rows(database) == [1, 3]
    await database.close()


async def test_what_waited_meanwhile_is_told_the_truth(tmp_path: Path, proxy: Proxy) -> None:
    """Of many writes at once, each is there exactly if its writer was told so."""
    driver = a_driver(through(proxy, tmp_path))
    database = Database(driver, driver.read_now(last_position))
    told: set[int] = set()

    async def say(number: int) -> None:
        try:
            await database.write(insert(number))
        except StoreFailedError:
            return
        told.add(number)

    for start, mode in enumerate((Mode.PASS, Mode.SWALLOW_ANSWER, Mode.LOSE, Mode.PASS)):
        proxy.set(mode)
        async with asyncio.timeout(20):
            await asyncio.gather(*(say(100 * start + n) for n in range(20)))
        await eventually_stored(database, 100 * start + 50)
    written = [number for number in rows(database) if number % 100 < 50]
    assert written == sorted(told)
    assert {number // 100 for number in told} >= {0, 1, 3}
    await database.close()


async def test_somebody_else_takes_the_database_over(tmp_path: Path, proxy: Proxy) -> None:
    driver = a_driver(through(proxy, tmp_path))
    database = Database(driver, driver.read_now(last_position))
    taken_over: list[str] = []
    driver.on_taken_over = taken_over.append
    await database.write(insert(1))
    with pytest.raises(EngineError, match="another comity is running on this database"):
        # Its patience is longer than this test's; what it would say is asked for directly.
        _refused(url_of(tmp_path))
    proxy.set(Mode.CLOSED)
    other = PostgresDriver(url_of(tmp_path), Pauses(), connections=2, exclusive=True)
    other.write_now(lambda tx: tx.run("INSERT INTO t (n) VALUES (2)"))
    other.close_now()
    proxy.set(Mode.PASS)
    async with asyncio.timeout(20):
        while not taken_over:
            await quiet()
    assert "taken the database over" in taken_over[0]
    with pytest.raises(StoreUnavailableError):
        database.submit(insert(3))
    async with asyncio.timeout(20):
        await database.close()


def _refused(url: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(postgres_lease, "PATIENCE_SECONDS", 0.5)
        PostgresDriver(url, Pauses(), connections=2, exclusive=True).close_now()
