"""The writer: many writes in one commit, each undone alone, all or nothing on disk, positions."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from comity.store import database as store_database
from comity.store.database import (
    MAX_GROUP,
    Database,
    StatementError,
    StoreFailedError,
    StoreOverloadedError,
    Tx,
    WriteTx,
    last_position,
)
from comity.store.sqlite import SqliteDriver
from tests.engines import SQLITE, refuse_at_commit
from tests.store.support import Counted, Held, a_database, a_driver, insert, open_driver, rows, write


class Unlucky(Exception):
    """What a write or a read raises in these tests."""


async def outcome(future: asyncio.Future[int]) -> int | Exception:
    """What became of a write, within a bound: a future that never ends is a fault of its own."""
    try:
        async with asyncio.timeout(5):
            return await asyncio.shield(future)
    except TimeoutError:
        raise AssertionError("a write got no answer") from None
    except Exception as error:  # noqa: BLE001 - the answer, whatever it is
        return error


# -- groups


async def test_many_writes_are_one_commit(tmp_path: Path) -> None:
    offload = Counted()
    async with a_database(tmp_path, offload) as (database, _):
        positions = await asyncio.gather(*(database.submit(insert(n)) for n in range(MAX_GROUP)))
        assert offload.commits == 1
        assert positions == sorted(positions)
        assert len(set(positions)) == MAX_GROUP
        assert rows(database) == list(range(MAX_GROUP))


async def test_what_goes_along_is_written_with_the_next_write(tmp_path: Path) -> None:
    offload = Counted()
    async with a_database(tmp_path, offload) as (database, _):
        database.submit_along(insert(1))
        database.submit_along(_refused)
        await asyncio.sleep(0)
        assert rows(database) == []
        await database.submit(insert(2))
        assert rows(database) == [1, 2]
        assert offload.commits == 1


async def test_what_goes_along_is_written_by_itself_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_database(tmp_path) as (database, _):
        database.submit_along(insert(1))
        await database.close()
    async with a_database(tmp_path) as (database, _):
        assert rows(database) == [1]
        monkeypatch.setattr(store_database, "ALONG_SECONDS", 0.0)
        done = asyncio.Event()

        def store(tx: WriteTx) -> None:
            insert(2)(tx)
            tx.after_commit(done.set)

        database.submit_along(store)
        async with asyncio.timeout(5):
            await done.wait()
        assert rows(database) == [1, 2]


async def test_only_so_many_wait_to_go_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_database, "MAX_ALONG", 2)
    done = asyncio.Event()
    async with a_database(tmp_path) as (database, _):
        database.submit_along(insert(1))
        database.submit_along(lambda tx: tx.after_commit(done.set))
        async with asyncio.timeout(5):
            await done.wait()
        assert rows(database) == [1]


def _refused(tx: WriteTx) -> None:
    insert(9)(tx)
    raise Unlucky


async def test_a_group_is_bounded(tmp_path: Path) -> None:
    offload = Counted()
    async with a_database(tmp_path, offload) as (database, _):
        await asyncio.gather(*(database.submit(insert(n)) for n in range(2 * MAX_GROUP + 1)))
        assert offload.commits == 3


async def test_an_answer_waits_for_the_disk(tmp_path: Path) -> None:
    held = Held()
    async with a_database(tmp_path, held) as (database, _):
        first = database.submit(insert(1))
        await held.begun.wait()
        second = database.submit(insert(2))
        for _ in range(10):
            await asyncio.sleep(0)
        assert not first.done()
        assert rows(database) == []
        held.gate.set()
        await asyncio.gather(first, second)
        assert held.done == 2
        assert rows(database) == [1, 2]


async def test_a_write_that_raises_is_undone_alone(tmp_path: Path, engine: str) -> None:
    offload = Counted()
    async with a_database(tmp_path, offload) as (database, _):
        told: list[int] = []

        def half(tx: WriteTx) -> None:
            tx.run("INSERT INTO t (n) VALUES (100)")
            tx.after_commit(lambda: told.append(100))
            tx.run("INSERT INTO t (n) VALUES (1)")

        def whole(tx: WriteTx) -> None:
            tx.run("INSERT INTO t (n) VALUES (2)")
            tx.after_commit(lambda: told.append(2))

        first, second, third = database.submit(insert(1)), database.submit(half), database.submit(whole)
        results = await asyncio.gather(first, second, third, return_exceptions=True)
        assert isinstance(results[1], sqlite3.IntegrityError | StatementError)
        # PostgreSQL tells at the end that one of them failed; which one, it tells when they are run again.
        assert offload.commits == (1 if engine == SQLITE else 2)
        assert rows(database) == [1, 2]
        assert told == [2]


async def test_callbacks_come_in_order_and_when_it_is_on_disk(tmp_path: Path) -> None:
    async with a_database(tmp_path) as (database, _):
        told: list[tuple[str, int]] = []

        def named(name: str, number: int) -> Callable[[WriteTx], None]:
            def function(tx: WriteTx) -> None:
                insert(number)(tx)
                tx.after_commit(lambda: told.append((name + "1", len(rows(database)))))
                tx.after_commit(lambda: told.append((name + "2", database.last_committed)))

            return function

        await asyncio.gather(database.submit(named("a", 1)), database.submit(named("b", 2)))
        assert told == [("a1", 2), ("a2", 2), ("b1", 2), ("b2", 2)]


async def test_a_callback_that_fails_takes_no_answer_with_it(tmp_path: Path) -> None:
    def fail() -> None:
        raise Unlucky

    def unlucky(tx: WriteTx) -> int:
        tx.after_commit(fail)
        return insert(1)(tx)

    async with a_database(tmp_path) as (database, _):
        first, second = database.submit(unlucky), database.submit(insert(2))
        assert [await outcome(first), await outcome(second)] == [1, 2]
        assert await outcome(database.submit(insert(3))) == 3


async def test_a_cancelled_wait_leaves_the_write(tmp_path: Path) -> None:
    held = Held()
    async with a_database(tmp_path, held) as (database, _):
        task = asyncio.get_running_loop().create_task(database.write(insert(1)))
        await held.begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        held.gate.set()
        await database.write(insert(2))
        assert rows(database) == [1, 2]


async def test_what_fails_late_is_found_among_many(tmp_path: Path) -> None:
    """One write in the middle repeats a row that is there: it alone is refused, positions stay in order."""
    async with a_database(tmp_path) as (database, _):
        await database.write(insert(3))
        results = await asyncio.gather(
            *(database.submit(insert(n)) for n in range(7)), return_exceptions=True
        )
        assert [n for n, result in enumerate(results) if isinstance(result, Exception)] == [3]
        positions = [result for result in results if isinstance(result, int)]
        assert positions == sorted(set(positions))
        assert rows(database) == list(range(7))
        assert database.read_now(last_position) == positions[-1]


# -- groups that fail


def orphan(tx: WriteTx) -> int:
    tx.run("INSERT INTO c (id) VALUES (1)")
    return tx.next_position()


async def test_a_failed_commit_fails_its_whole_group_and_stores_nothing(tmp_path: Path) -> None:
    async with a_database(tmp_path) as (database, driver):
        refuse_at_commit(driver)
        told: list[int] = []

        def watched(tx: WriteTx) -> int:
            tx.after_commit(lambda: told.append(1))
            return insert(1)(tx)

        futures = [database.submit(watched), database.submit(orphan), database.submit(insert(2))]
        for future in futures:
            assert isinstance(await outcome(future), StoreFailedError)
        assert rows(database) == []
        assert told == []
        assert database.last_committed == 0
        # The next group is a new one, and no position is given twice.
        assert await outcome(database.submit(insert(3))) == 4
        assert rows(database) == [3]
        assert database.read_now(last_position) == 4


async def test_a_failed_group_leaves_the_next_alone(tmp_path: Path) -> None:
    held = Held()
    async with a_database(tmp_path, held) as (database, driver):
        refuse_at_commit(driver)
        first = database.submit(orphan)
        await held.begun.wait()
        second = database.submit(insert(1))
        held.gate.set()
        assert isinstance(await outcome(first), StoreFailedError)
        assert await outcome(second) == 2
        assert rows(database) == [1]


@pytest.mark.engine("sqlite")
@pytest.mark.parametrize("place", [0, 1, 2])
async def test_a_full_disk_stores_nothing_of_the_group(tmp_path: Path, place: int) -> None:
    """SQLITE_FULL gives the whole transaction up, the savepoints of other writes with it."""
    async with a_database(tmp_path) as (database, driver):
        assert isinstance(driver, SqliteDriver)
        pages = driver._writer.execute("PRAGMA page_count").fetchone()[0]
        driver._writer.execute(f"PRAGMA max_page_count={pages + 2}")
        numbers = [1, 2]
        numbers.insert(place, 50)
        futures = [database.submit(insert(n, "x" * 1_000_000 if n == 50 else "")) for n in numbers]
        results = dict(zip(numbers, [await outcome(future) for future in futures], strict=True))
        assert isinstance(results[50], Exception)
        told = [number for number, result in sorted(results.items()) if isinstance(result, int)]
        assert rows(database) == told, "what was told to have failed is on disk, or the other way round"
        driver._writer.execute("PRAGMA max_page_count=1000000")
        assert isinstance(await outcome(database.submit(insert(3))), int)
        assert rows(database) == [*told, 3]


@pytest.mark.engine("sqlite")
async def test_an_interrupted_write_stores_nothing_of_the_group(tmp_path: Path) -> None:
    async with a_database(tmp_path) as (database, driver):
        assert isinstance(driver, SqliteDriver)
        steps = [0]

        def stop() -> int:
            steps[0] += 1
            return 1

        def interrupted(tx: WriteTx) -> int:
            driver._writer.set_progress_handler(stop, 1)
            try:
                return tx.changed("INSERT INTO t (n) SELECT n + 1000 FROM t")
            finally:
                driver._writer.set_progress_handler(None, 0)

        assert await outcome(database.submit(insert(1))) == 1
        futures = [database.submit(insert(2)), database.submit(interrupted), database.submit(insert(3))]
        results = [await outcome(future) for future in futures]
        assert steps[0]
        assert isinstance(results[1], Exception)
        told = [1, *(n for n, result in ((2, results[0]), (3, results[2])) if isinstance(result, int))]
        assert rows(database) == told


@pytest.mark.engine("sqlite")
async def test_a_lost_connection_fails_every_write(tmp_path: Path) -> None:
    driver = open_driver(tmp_path)
    assert isinstance(driver, SqliteDriver)
    database = Database(driver, 0)
    driver._writer.close()
    assert isinstance(await outcome(database.submit(lambda tx: 1)), StoreFailedError)
    assert isinstance(await outcome(database.submit(lambda tx: 2)), StoreFailedError)
    async with asyncio.timeout(5):
        await database.close()


@pytest.mark.engine("sqlite")
async def test_a_connection_lost_in_the_commit_fails_its_group(tmp_path: Path) -> None:
    held = Held()
    driver = open_driver(tmp_path, held)
    assert isinstance(driver, SqliteDriver)
    database = Database(driver, 0)
    future = database.submit(lambda tx: tx.changed("UPDATE log_position SET last = 5"))
    await held.begun.wait()
    driver._writer.close()
    held.gate.set()
    assert isinstance(await outcome(future), StoreFailedError)
    async with asyncio.timeout(5):
        await database.close()
    with a_driver(tmp_path) as again:
        assert again.read_now(last_position) == 0


# -- positions, bounds, the end


async def test_positions_go_on_after_a_restart(tmp_path: Path) -> None:
    async with a_database(tmp_path) as (database, _):
        await asyncio.gather(*(database.submit(insert(n)) for n in range(5)))
        assert database.last_committed == database.last_position == 5
    async with a_database(tmp_path) as (database, _):
        assert await database.write(insert(5)) == 6


async def test_a_position_is_not_given_twice_when_its_write_failed(tmp_path: Path) -> None:
    def failing(tx: WriteTx) -> None:
        tx.next_position()
        raise Unlucky

    async with a_database(tmp_path) as (database, _):
        await database.write(insert(1))
        with pytest.raises(Unlucky):
            await database.write(failing)
        assert await database.write(insert(2)) == 3
        assert database.read_now(last_position) == 3


async def test_the_queue_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_database, "MAX_QUEUED_WRITES", 3)
    async with a_database(tmp_path) as (database, _):
        futures = [database.submit(insert(n)) for n in range(3)]
        with pytest.raises(StoreOverloadedError):
            database.submit(insert(9))
        await asyncio.gather(*futures)
        await database.write(insert(3))
        assert rows(database) == [0, 1, 2, 3]


async def test_closing_finishes_what_is_queued(tmp_path: Path) -> None:
    async with a_database(tmp_path) as (database, _):
        futures = [database.submit(insert(n)) for n in range(2 * MAX_GROUP)]
        await database.close()
        assert all(future.done() and future.exception() is None for future in futures)
        with pytest.raises(StoreFailedError):
            database.submit(insert(9999))
    with a_driver(tmp_path) as driver:
        assert driver.read_now(lambda tx: tx.one("SELECT count(*) FROM t")) == (2 * MAX_GROUP,)


# -- reads


async def test_a_read_sees_one_snapshot(tmp_path: Path) -> None:
    async with a_database(tmp_path) as (database, driver):
        await database.write(insert(1))

        def read(tx: Tx) -> tuple[int, int, int]:
            before = len(tx.all("SELECT n FROM t"))
            write(driver, lambda other: other.run("INSERT INTO t (n) VALUES (2)"))
            # A read inside a read shares its snapshot.
            inner = database.read_now(lambda nested: len(nested.all("SELECT n FROM t")))
            return before, inner, len(tx.all("SELECT n FROM t"))

        assert database.read_now(read) == (1, 1, 1)
        assert rows(database) == [1, 2]


async def test_a_read_that_raises_ends_its_snapshot(tmp_path: Path) -> None:
    async with a_database(tmp_path) as (database, _):

        def failing(tx: Tx) -> None:
            tx.all("SELECT n FROM t")
            raise Unlucky

        with pytest.raises(Unlucky):
            database.read_now(failing)
        await database.write(insert(1))
        assert rows(database) == [1]


@pytest.mark.parametrize("how", ["run", "one", "many"])
async def test_a_read_cannot_write(tmp_path: Path, how: str) -> None:
    def breaking(tx: Tx) -> object:
        if how == "many":
            tx.many("INSERT INTO t (n) VALUES (?)", [(1,)])
            return None
        return getattr(tx, how)("INSERT INTO t (n) VALUES (1)")

    async with a_database(tmp_path) as (database, _):
        with pytest.raises((sqlite3.OperationalError, sqlite3.ProgrammingError, StatementError)):
            database.read_now(breaking)
        await database.write(insert(2))
        assert rows(database) == [2]


# -- trouble of the server's own


@pytest.mark.engine("postgresql")
async def test_a_full_disk_of_the_server_fails_the_group_and_is_over(tmp_path: Path) -> None:
    """PostgreSQL says 53100; here a trigger does, as the server would in the middle of a write."""
    async with a_database(tmp_path) as (database, driver):
        driver.write_now(
            lambda tx: tx.script(
                "CREATE OR REPLACE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS "
                "'BEGIN IF NEW.n = 50 THEN RAISE EXCEPTION ''no space'' USING ERRCODE = ''53100''; END IF; "
                "RETURN NEW; END';\n"
                "CREATE TRIGGER full_disk BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION full_disk()"
            )
        )
        futures = [database.submit(insert(n)) for n in (1, 50, 2)]
        for future in futures:
            assert isinstance(await outcome(future), StoreFailedError)
        assert rows(database) == []
        assert isinstance(await outcome(database.submit(insert(3))), int)
        assert rows(database) == [3]
