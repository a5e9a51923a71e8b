"""Connections that are cut off, servers that are gone, commits whose answer is lost: what is told is true."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from comity.store import database as store_database
from comity.store import postgres as store_postgres
from comity.store.database import (
    StoreFailedError,
    StoreUnavailableError,
    Tx,
    WriteTx,
    last_position,
)
from comity.store.postgres import PostgresDriver
from tests.engines import Pauses, url_of
from tests.postgres_server import THROWAWAY, PostgresServer, programs
from tests.store.support import Held, a_database, insert, rows
from tests.store.trouble import Aside, a_database_at, a_proxy, aside, postgres, turns, until

pytestmark = pytest.mark.engine("postgresql")
LONG = 60.0


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is gone is looked for often."""
    monkeypatch.setattr(store_postgres, "RETRY_SECONDS", 0.02)


@pytest.fixture
def operator(tmp_path: Path) -> Iterator[Aside]:
    with aside(url_of(tmp_path)) as made:
        yield made


async def outcome(future: asyncio.Future[Any]) -> object:
    """What became of a write, within a bound: a future that never ends is a fault of its own."""
    try:
        async with asyncio.timeout(20):
            return await asyncio.shield(future)
    except TimeoutError:
        raise AssertionError("a write got no answer") from None
    except Exception as error:  # noqa: BLE001 - the answer, whatever it is
        return error


def is_available(driver: PostgresDriver) -> bool:
    """Whether the driver takes reads and writes."""
    try:
        driver.check_available()
    except StoreUnavailableError:
        return False
    return True


async def until_it_is_well(driver: PostgresDriver, operator: Aside) -> None:
    """Wait until the driver has its writing connection again, and the lease by it."""
    await until(lambda: not driver._writer.is_broken and is_available(driver))
    assert operator.lease_holders() == [driver._writer.process_id]


# -- cut off


@pytest.mark.parametrize("how", ["read", "look_up"])
async def test_a_reader_that_is_cut_off_is_told(tmp_path: Path, operator: Aside, how: str) -> None:
    async with a_database(tmp_path) as (database, any_driver):
        driver, turn, process = postgres(any_driver), Pauses().turn(), list[int]()
        await database.write(insert(1))

        def reading(tx: Tx) -> object:
            process.extend(tx.all("SELECT pg_backend_pid()::bigint")[0])
            turn.wait(LONG)
            return tx.all("SELECT n FROM t")

        task = asyncio.get_running_loop().create_task(getattr(database, how)(reading))
        await until(lambda: process)
        operator.cut_off(process[0])
        await turns()
        turn.come()
        with pytest.raises(StoreUnavailableError):
            await task
        assert driver.oldest_snapshot() == database.commits
        await until(lambda: is_available(driver))
        assert await database.read(lambda tx: tx.all("SELECT n FROM t")) == [(1,)]
        await database.write(insert(2))
        assert rows(database) == [1, 2]


async def test_idle_readers_that_are_cut_off_are_not_missed(tmp_path: Path, operator: Aside) -> None:
    async with a_database(tmp_path) as (database, any_driver):
        driver = postgres(any_driver)
        await database.write(insert(1))
        await asyncio.gather(*(database.read(lambda tx: tx.all("SELECT n FROM t")) for _ in range(8)))
        for process in operator.processes():
            if process != driver._writer.process_id:
                operator.cut_off(process)
        await turns()
        driver.check_available()
        found = await asyncio.gather(*(database.read(lambda tx: tx.all("SELECT n FROM t")) for _ in range(8)))
        assert found == [[(1,)]] * 8


async def test_a_writer_that_is_cut_off_while_idle_is_there_again(tmp_path: Path, operator: Aside) -> None:
    async with a_database(tmp_path) as (database, any_driver):
        driver = postgres(any_driver)
        await database.write(insert(1))
        for number in range(2, 5):
            before = driver._writer.process_id
            operator.cut_off(before)
            # Nobody has to write for it.
            await until(lambda: driver._writer.process_id != before)  # noqa: B023
            await until_it_is_well(driver, operator)
            assert isinstance(await outcome(database.submit(insert(number))), int)
        assert rows(database) == [1, 2, 3, 4]


@pytest.mark.parametrize("waits", [False, True])
async def test_a_group_that_is_cut_off_is_not_stored(tmp_path: Path, operator: Aside, waits: bool) -> None:
    async with a_database(tmp_path) as (database, any_driver):
        driver, told = postgres(any_driver), list[int]()

        def cut(tx: WriteTx) -> int:
            insert(2)(tx)
            operator.cut_off(driver._writer.process_id)
            return tx.changed("UPDATE t SET body = ''") if waits else 0

        def watched(tx: WriteTx) -> int:
            tx.after_commit(lambda: told.append(1))
            tx.when_seen(lambda: told.append(2))
            return insert(1)(tx)

        futures = [database.submit(each) for each in (watched, cut, insert(3))]
        for future in futures:
            assert isinstance(await outcome(future), StoreFailedError)
        assert told == []
        # The lease is not free for others until somebody writes.
        await until_it_is_well(driver, operator)
        assert operator.rows() == []
        position = await outcome(database.submit(insert(4)))
        assert isinstance(position, int)
        assert operator.rows() == [4]
        assert database.read_now(last_position) == position


async def test_a_group_that_is_cut_off_when_it_is_run_again_is_answered(
    tmp_path: Path, operator: Aside
) -> None:
    """One that fails late has the group run again; whoever was in it is told whatever happens then."""
    async with a_database(tmp_path) as (database, any_driver):
        driver, runs = postgres(any_driver), list[int]()
        await database.write(insert(3))

        def cut(tx: WriteTx) -> int:
            runs.append(1)
            if len(runs) == 2:
                operator.cut_off(driver._writer.process_id)
            return insert(1)(tx)

        futures = [database.submit(each) for each in (insert(0), cut, insert(3), insert(4))]
        for future in futures:
            assert isinstance(await outcome(future), StoreFailedError)
        assert len(runs) == 2
        await until_it_is_well(driver, operator)
        assert operator.rows() == [3]


# -- the moment of the commit


async def test_a_commit_whose_answer_is_lost_is_told_to_have_been_made(
    tmp_path: Path, operator: Aside
) -> None:
    with a_proxy(url_of(tmp_path)) as proxy:
        async with a_database_at(proxy.url) as (database, driver):
            told: list[str] = []

            def watched(tx: WriteTx) -> int:
                tx.after_commit(lambda: told.append("committed"))
                tx.when_seen(lambda: told.append("seen"))
                return insert(1)(tx)

            commits = database.commits
            stored: list[list[int]] = []
            proxy.on_cut = lambda: stored.append(operator.rows())
            proxy.next_commit = "no answer"
            futures = [database.submit(watched), database.submit(insert(2))]
            positions = [await outcome(future) for future in futures]
            assert stored == [[1, 2]], "it was on disk before the connection was cut"
            assert positions == [1, 2]
            assert told == ["committed", "seen"]
            assert database.commits == commits + 1
            assert operator.rows() == [1, 2]
            await until_it_is_well(driver, operator)
            # The count goes on: the next one is known by its own number.
            proxy.next_commit = "no answer"
            assert await outcome(database.submit(insert(3))) == 3
            proxy.next_commit = "not sent"
            assert isinstance(await outcome(database.submit(insert(4))), StoreFailedError)
            await until_it_is_well(driver, operator)
            assert await outcome(database.submit(insert(5))) == 5
            assert operator.rows() == [1, 2, 3, 5]
            assert database.read_now(last_position) == 5


async def test_a_commit_that_did_not_arrive_is_told_to_have_failed(tmp_path: Path, operator: Aside) -> None:
    with a_proxy(url_of(tmp_path)) as proxy:
        async with a_database_at(proxy.url) as (database, driver):
            told: list[str] = []

            def watched(tx: WriteTx) -> int:
                tx.after_commit(lambda: told.append("committed"))
                tx.when_seen(lambda: told.append("seen"))
                return insert(1)(tx)

            commits = database.commits
            proxy.next_commit = "not sent"
            futures = [database.submit(watched), database.submit(insert(2))]
            for future in futures:
                assert isinstance(await outcome(future), StoreFailedError)
            assert told == []
            assert database.commits == commits
            await until_it_is_well(driver, operator)
            assert operator.rows() == []
            assert isinstance(await outcome(database.submit(insert(1))), int)
            assert operator.rows() == [1]


@pytest.mark.parametrize("commit", ["no answer", "not sent"])
async def test_the_answer_waits_until_the_server_is_there_again(
    tmp_path: Path, operator: Aside, commit: str
) -> None:
    with a_proxy(url_of(tmp_path)) as proxy:
        async with a_database_at(proxy.url) as (database, driver):
            proxy.on_cut = proxy.refuse
            proxy.next_commit = commit
            future = database.submit(insert(1))
            await until(lambda: proxy.refused > 3)
            assert not future.done()
            for refused in (lambda: database.submit(insert(2)), driver.check_available):
                with pytest.raises(StoreUnavailableError):
                    refused()
            with pytest.raises(StoreUnavailableError):
                await database.read(lambda tx: tx.all("SELECT n FROM t"))
            proxy.refuses = False
            result = await outcome(future)
            assert result == 1 if commit == "no answer" else isinstance(result, StoreFailedError)
            assert operator.rows() == ([1] if commit == "no answer" else [])
            await until_it_is_well(driver, operator)


_HOLD_COMMIT = """CREATE OR REPLACE FUNCTION hold_it() RETURNS trigger LANGUAGE plpgsql
AS 'BEGIN PERFORM pg_advisory_xact_lock(77); RETURN NULL; END';
CREATE CONSTRAINT TRIGGER hold_it AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION hold_it()"""


async def test_a_server_process_that_ends_inside_of_the_commit(tmp_path: Path, operator: Aside) -> None:
    async with a_database(tmp_path) as (database, any_driver):
        driver = postgres(any_driver)
        driver.write_now(lambda tx: tx.script(_HOLD_COMMIT))
        operator.all("SELECT pg_advisory_lock(77)")
        future = database.submit(insert(1))
        process = driver._writer.process_id
        waits = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND pid = %s"
        await until(lambda: operator.all(waits, process))
        operator.cut_off(process)
        assert isinstance(await outcome(future), StoreFailedError)
        operator.all("SELECT pg_advisory_unlock(77)")
        await until_it_is_well(driver, operator)
        assert operator.rows() == []
        assert isinstance(await outcome(database.submit(insert(1))), int)
        assert operator.rows() == [1]


async def test_another_connection_does_not_commit_a_lost_group(tmp_path: Path, operator: Aside) -> None:
    """The connection is lost between the last statement and the COMMIT, and is there again before that."""
    held = Held()
    async with a_database(tmp_path, held) as (database, any_driver):
        driver = postgres(any_driver)
        first = driver._writer.process_id

        def asking(tx: WriteTx) -> int:
            insert(1)(tx)
            return len(tx.all("SELECT n FROM t"))

        future = database.submit(asking)
        await held.begun.wait()
        operator.cut_off(first)
        await until(lambda: driver._writer.process_id != first)
        await until_it_is_well(driver, operator)
        held.gate.set()
        assert isinstance(await outcome(future), StoreFailedError)
        await until_it_is_well(driver, operator)
        assert operator.rows() == []


@pytest.mark.parametrize("commit", ["no answer", "not sent"])
@pytest.mark.parametrize("on_a_loop", [False, True])
def test_a_migration_whose_answer_is_lost(
    tmp_path: Path, operator: Aside, commit: str, on_a_loop: bool
) -> None:
    """The whole process waits for it, be there a loop or not: nobody else can look for the server."""
    with a_proxy(url_of(tmp_path)) as proxy, contextlib.ExitStack() as stack:
        driver = PostgresDriver(proxy.url, Pauses(), connections=1, exclusive=True)
        stack.callback(driver.close_now)
        driver.write_now(lambda tx: tx.script("CREATE TABLE t (n BIGINT PRIMARY KEY)"))

        def turned_away_once() -> None:
            proxy.refuses = True

        def write() -> None:
            driver.write_now(lambda tx: tx.run("INSERT INTO t (n) VALUES (1)"))

        async def write_on_a_loop() -> None:
            write()

        proxy.on_cut = turned_away_once
        proxy.on_refused = lambda: setattr(proxy, "refuses", False)
        proxy.next_commit = commit
        work = (lambda: asyncio.run(write_on_a_loop())) if on_a_loop else write
        if commit == "no answer":
            work()
        else:
            with pytest.raises(Exception, match="connection was lost"):
                work()
        assert proxy.refused == 1
        assert operator.rows() == ([1] if commit == "no answer" else [])
        driver.write_now(lambda tx: tx.run("INSERT INTO t (n) VALUES (2)"))
        assert operator.rows()[-1] == 2


# -- the server is gone


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server of these tests' own, which they may kill."""
    if programs() is None:
        pytest.skip("PostgreSQL's programs are not here to be started and killed")
    made = PostgresServer(settings=THROWAWAY)
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.mark.xdist_group("a server of its own")
@pytest.mark.parametrize("how", ["kill", "restart"])
async def test_a_server_that_goes_is_used_again_when_it_is_back(server: PostgresServer, how: str) -> None:
    url = server.make_database(f"goes_{how}")
    async with a_database_at(url) as (database, driver):
        await database.write(insert(1))
        if how == "kill":
            server.kill()
            await until(lambda: not is_available(driver))
            for ask in (database.read, database.look_up):
                with pytest.raises(StoreUnavailableError):
                    await ask(lambda tx: tx.one("SELECT 1"))
            with pytest.raises(StoreUnavailableError):
                database.submit(insert(2))
            with pytest.raises(StoreUnavailableError):
                await database.check()
            server.start_again()
        else:
            server.restart()
            await until(lambda: driver._writer.is_broken)
        await until(lambda: is_available(driver))
        await database.check()
        with aside(url) as operator:
            await until_it_is_well(driver, operator)
        assert await database.read(lambda tx: tx.all("SELECT n FROM t")) == [(1,)]
        assert isinstance(await outcome(database.submit(insert(2))), int)
        assert rows(database) == [1, 2]


@pytest.mark.xdist_group("a server of its own")
@pytest.mark.parametrize("size", [1, 20_000_000])
async def test_closing_does_not_wait_for_a_server_that_does_not_answer(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Be it that an answer is waited for, or that the server takes no more of what is sent."""
    monkeypatch.setattr(store_database, "CLOSE_SECONDS", 0.05)
    async with a_database_at(server.make_database(f"does_not_answer_{size}")) as (database, _):
        await database.write(insert(1))
        server.pause()
        try:
            futures = [database.submit(insert(n, "x" * size)) for n in (2, 3)]
            reading = asyncio.get_running_loop().create_task(database.read(lambda tx: tx.one("SELECT 1")))
            await turns()
            async with asyncio.timeout(10):
                await database.close()
            for future in futures:
                assert isinstance(await outcome(future), StoreFailedError)
            reading.cancel()
        finally:
            server.go_on()
        with pytest.raises(asyncio.CancelledError):
            await reading


@pytest.mark.parametrize("is_back", [False, True])
async def test_closing_while_the_server_is_looked_for_leaves_nothing_open(
    tmp_path: Path, operator: Aside, monkeypatch: pytest.MonkeyPatch, is_back: bool
) -> None:
    monkeypatch.setattr(store_database, "CLOSE_SECONDS", 0.05)
    if not is_back:
        monkeypatch.setattr(store_postgres, "CONNECT_SECONDS", 0.05)
    with a_proxy(url_of(tmp_path)) as proxy:
        async with a_database_at(proxy.url) as (database, driver):
            proxy.gate.clear()
            proxy.cut()
            await until(lambda: not is_available(driver))
            closing = asyncio.get_running_loop().create_task(database.close())
            await turns()
            if is_back:
                proxy.gate.set()
            async with asyncio.timeout(10):
                await closing
            with pytest.raises(StoreFailedError):
                database.submit(insert(1))
        if not is_back:
            proxy.gate.set()
        await until(lambda: operator.processes() == [])
        assert operator.lease_holders() == []
