"""PostgreSQL itself: what is stored comes back, statements, errors, the pool of connections."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from comity.net import pausing as net_pausing
from comity.store import postgres_connection, postgres_pool
from comity.store.database import (
    GroupTx,
    StatementError,
    StoreOverloadedError,
    Tx,
    WriteTx,
)
from comity.store.postgres import PostgresDriver
from comity.store.postgres_connection import Connection, to_postgres
from tests.engines import Pauses, a_driver_of, url_of
from tests.store.support import a_database, insert, rows
from tests.store.trouble import Aside, a_connection, aside, turns, until

pytestmark = pytest.mark.engine("postgresql")
LONG = 60.0


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    made = a_connection(tmp_path)
    made.send("CREATE TABLE c (n BIGINT PRIMARY KEY, body TEXT UNIQUE, data BYTEA, real DOUBLE PRECISION)")
    made.wait()
    yield made
    made.close()


# -- parameters


@pytest.mark.parametrize(
    ("column", "value"),
    [
        *(("n", value) for value in (0, 1, -1, 2**63 - 1, -(2**63), 2**31, True, False)),
        *(
            ("body", value)
            for value in (None, "", "ä", "𝄞", "\U0010ffff", "\ufdd0", "\ufffe", "$1 ? %s \\", "'")
        ),
        *(("data", value) for value in (None, b"", b"\0", bytes(range(256)), b"\\x00")),
        *(("real", value) for value in (None, 0.0, -0.0, 0.1, 5e-324, 1.7976931348623157e308, float("inf"))),
    ],
)
def test_what_is_stored_comes_back(connection: Connection, column: str, value: object) -> None:
    row = {"n": 7, column: value}
    names, marks = ", ".join(row), ", ".join("?" * len(row))
    connection.send(f"INSERT INTO c ({names}) VALUES ({marks})", tuple(row.values()))
    found = connection.rows(f"SELECT {column} FROM c WHERE n = ?", (row["n"],))
    assert found == [(value,)]
    assert type(found[0][0]) is (int if isinstance(value, bool) else type(value))
    # It is found by what it is as well.
    same = connection.rows(f"SELECT n FROM c WHERE {column} IS NOT DISTINCT FROM ?", (value,))
    assert same == [(row["n"],)]


def test_no_text_is_taken_for_another(connection: Connection) -> None:
    """A NUL, which PostgreSQL does not have, and the character that stands for it, in every company."""
    texts = [
        "".join(parts) for length in range(5) for parts in itertools.product("\0\ufdd001", repeat=length)
    ]
    for number, text in enumerate(texts):
        # The column is unique: two that became one would be refused.
        connection.send("INSERT INTO c (n, body) VALUES (?, ?)", (number, text))
    assert connection.rows("SELECT body FROM c ORDER BY n") == [(text,) for text in texts]


class Kind(str):
    """A text of its own kind."""

    __slots__ = ()


class Level(int):
    """A number of its own kind."""


def test_kinds_of_their_own_are_stored_as_what_they_are(connection: Connection) -> None:
    connection.send("INSERT INTO c (n, body) VALUES (?, ?)", (Level(5), Kind("five\0")))
    assert connection.rows("SELECT n, body FROM c") == [(5, "five\0")]


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, 10**30, object(), [1], {"a": 1}])
async def test_what_cannot_be_stored_is_refused_alone(tmp_path: Path, value: Any) -> None:
    async with a_database(tmp_path) as (database, _):

        def bold(tx: WriteTx) -> int:
            insert(2)(tx)
            return tx.changed("INSERT INTO t (n) VALUES (?)", (value,))

        futures = [database.submit(insert(1)), database.submit(bold), database.submit(insert(3))]
        results = await asyncio.gather(*futures, return_exceptions=True)
        assert isinstance(results[1], StatementError)
        assert results[1].state.startswith("22")
        assert rows(database) == [1, 3]


def test_marks_become_numbers() -> None:
    assert to_postgres("SELECT 1") == "SELECT 1"
    marks = ", ".join("?" * 12)
    numbers = ", ".join(f"${n}" for n in range(1, 13))
    assert (
        to_postgres(f"INSERT INTO t VALUES ({marks}) RETURNING n")
        == f"INSERT INTO t VALUES ({numbers}) RETURNING n"
    )


def test_marks_are_filled_in_order(connection: Connection) -> None:
    numbers = tuple(range(12))
    assert connection.rows(f"SELECT {', '.join('?' * 12)}", numbers) == [numbers]
    assert connection.rows("SELECT ?, ?", (1, "a")) == [(1, "a")]
    # The same text with other types is another statement.
    assert connection.rows("SELECT ?, ?", ("b", 2)) == [("b", 2)]


# -- statements


def prepared(connection: Connection) -> list[str]:
    """The statements that the server has prepared for a connection, but this one."""
    found = connection.rows("SELECT statement FROM pg_prepared_statements")
    return [row[0] for row in found if "pg_prepared" not in row[0]]


def test_a_statement_is_prepared_once(connection: Connection) -> None:
    connection.send("DEALLOCATE ALL")
    for number in range(20):
        connection.send("INSERT INTO c (n, body) VALUES (?, ?)", (number, str(number)))
        assert connection.rows("SELECT count(*) FROM c") == [(number + 1,)]
    found = prepared(connection)
    assert sorted(found) == sorted(set(found))
    assert len([sql for sql in found if sql.startswith("INSERT")]) == 1


def test_no_more_statements_are_kept_than_may_be(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_connection, "MAX_PREPARED", 5)
    for number in range(23):
        assert connection.rows(f"SELECT ? + {number}", (number,)) == [(2 * number,)]
        assert len(prepared(connection)) <= 5
    # In the middle of a pipeline too.
    connection.send("BEGIN")
    for number in range(23):
        connection.send(f"INSERT INTO c (n, body) VALUES (?, '{number}')", (number,))
    connection.send("COMMIT")
    assert connection.rows("SELECT count(*) FROM c") == [(23,)]


@pytest.mark.parametrize("limit", range(2, 9))
async def test_what_fails_is_undone_whatever_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    """Nothing can be forgotten in a transaction that has failed, and its end must not need it."""
    monkeypatch.setattr(postgres_connection, "MAX_PREPARED", limit)
    async with a_database(tmp_path) as (database, _):
        await database.write(insert(1))
        numbers = [2, 1, 3, 1, 4]
        futures = [database.submit(insert(n)) for n in numbers]
        results = await asyncio.gather(*futures, return_exceptions=True)
        states = [result.state if isinstance(result, StatementError) else "" for result in results]
        assert states == ["", "23505", "", "23505", ""]
        assert rows(database) == [1, 2, 3, 4]


async def test_many_rows_are_more_than_one_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_connection, "MAX_UNANSWERED", 7)
    async with a_database(tmp_path) as (database, _):
        numbers = range(100)

        def store(tx: WriteTx) -> None:
            tx.many("INSERT INTO t (n, body) VALUES (?, ?)", [(n, str(n)) for n in numbers])

        def breaking(tx: WriteTx) -> None:
            tx.many("INSERT INTO t (n) VALUES (?)", [(n,) for n in range(200, 230)])
            tx.many("INSERT INTO t (n) VALUES (?)", [(n,) for n in (150, 50, 151)])
            tx.many("INSERT INTO t (n) VALUES (?)", [(n,) for n in range(300, 330)])

        await database.write(store)
        results = await asyncio.gather(
            database.submit(insert(1000)), database.submit(breaking), database.submit(insert(1001)),
            return_exceptions=True,
        )  # fmt: skip
        assert [type(result) for result in results] == [int, StatementError, int]
        assert rows(database) == [*numbers, 1000, 1001]


def test_large_rows_go_both_ways(connection: Connection) -> None:
    """More than the sockets hold: neither side may wait for the other to read first."""
    megabyte = b"x" * 1_000_000
    for number in range(8):
        connection.send("INSERT INTO c (n, data) VALUES (?, ?) RETURNING data", (number, megabyte))
    connection.wait()
    found = connection.rows("SELECT data FROM c")
    assert found == [(megabyte,)] * 8


# -- errors


async def test_the_first_error_is_told_and_undone_alone(tmp_path: Path) -> None:
    async with a_database(tmp_path) as (database, _):
        await database.write(insert(5))

        def failing(tx: WriteTx) -> int:
            tx.run("INSERT INTO t (n) VALUES (6)")
            tx.run("INSERT INTO t (n) VALUES (5)")
            tx.run("INSERT INTO nowhere (n) VALUES (1)")
            return tx.changed("UPDATE t SET n = 1 / 0")

        futures = [database.submit(insert(1)), database.submit(failing), database.submit(insert(2))]
        results = await asyncio.gather(*futures, return_exceptions=True)
        assert isinstance(results[1], StatementError)
        assert results[1].state == "23505"
        assert rows(database) == [1, 2, 5]


@pytest.mark.parametrize("asks", [False, True])
async def test_an_error_tells_nothing_of_what_is_stored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, asks: bool
) -> None:
    caplog.set_level(logging.DEBUG)
    async with a_database(tmp_path) as (database, driver):
        driver.write_now(lambda tx: tx.script("CREATE UNIQUE INDEX by_body ON t (body)"))
        await database.write(insert(1, "a secret of somebody's"))

        def repeating(tx: WriteTx) -> int:
            insert(2, "a secret of somebody's")(tx)
            return tx.changed("UPDATE t SET n = n") if asks else 0

        with pytest.raises(StatementError, match="by_body") as caught:
            await database.write(repeating)
        assert caught.value.state == "23505"
        assert "secret" not in str(caught.value)
        assert "secret" not in caplog.text


@pytest.mark.parametrize("how", ["run", "all"])
@pytest.mark.parametrize("exclusive", [False, True])
def test_an_error_that_is_passed_over_does_not_make_a_commit_of_it(
    tmp_path: Path, how: str, exclusive: bool
) -> None:
    """COMMIT of a transaction that has failed is ROLLBACK, and PostgreSQL calls it no error."""
    with contextlib.ExitStack() as stack:
        driver = a_driver_of(tmp_path, exclusive=exclusive)
        stack.callback(driver.close_now)
        driver.write_now(lambda tx: tx.script("CREATE TABLE t (n BIGINT PRIMARY KEY)"))

        def careless(tx: GroupTx) -> None:
            tx.run("INSERT INTO t (n) VALUES (1)")
            with contextlib.suppress(StatementError):
                getattr(tx, how)("INSERT INTO t (n) VALUES (1)")
                tx.all("SELECT 1")

        with pytest.raises(StatementError):
            driver.write_now(careless)
        assert driver.read_now(lambda tx: tx.all("SELECT n FROM t")) == []
        driver.write_now(lambda tx: tx.run("INSERT INTO t (n) VALUES (2)"))
        assert driver.read_now(lambda tx: tx.all("SELECT n FROM t")) == [(2,)]


async def test_a_failed_read_leaves_its_connection_whole(tmp_path: Path) -> None:
    async with a_database(tmp_path) as (database, _):
        await database.write(insert(1))

        def failing(tx: Tx) -> None:
            tx.all("SELECT n FROM t")
            tx.all("SELECT nothing FROM nowhere")

        for read in (database.read, database.look_up):
            for _ in range(6):
                with pytest.raises(StatementError, match="nowhere"):
                    await read(failing)
        found = await asyncio.gather(*(database.read(lambda tx: tx.all("SELECT n FROM t")) for _ in range(8)))
        assert found == [[(1,)]] * 8


# -- the pool


@contextlib.contextmanager
def a_driver_with(folder: Path, connections: int) -> Iterator[tuple[PostgresDriver, Aside]]:
    """A driver with so many connections that read, and somebody who watches it."""
    driver = PostgresDriver(url_of(folder), Pauses(), connections=connections, exclusive=True)
    with aside(url_of(folder)) as operator:
        try:
            yield driver, operator
        finally:
            driver.close_now()


class Gates:
    """Functions that stand still in the middle until the test lets them go on."""

    def __init__(self) -> None:
        self._pausing = Pauses()
        self.began: list[int] = []
        self._turns = [self._pausing.turn() for _ in range(50)]

    def through(self, number: int) -> Callable[[Tx], int]:
        """A read that has its connection, and keeps it until `open`."""

        def function(tx: Tx) -> int:
            tx.one("SELECT 1")
            self.began.append(number)
            self._turns[number].wait(LONG)
            return number

        return function

    def still(self, number: int) -> Callable[[Tx], int]:
        """The same, without a word to the server."""

        def function(tx: Tx) -> int:
            self.began.append(number)
            self._turns[number].wait(LONG)
            return number

        return function

    def open(self, number: int) -> None:
        """Let one go on."""
        self._turns[number].come()


async def test_connections_are_bounded_and_lent_in_order(tmp_path: Path) -> None:
    gates = Gates()
    loop = asyncio.get_running_loop()
    with a_driver_with(tmp_path, 2) as (driver, operator):
        reads = [loop.create_task(driver.read(gates.through(number))) for number in range(8)]
        await until(lambda: len(gates.began) == 2)
        await turns()
        # These two are connected at the same time.
        assert sorted(gates.began) == [0, 1]
        for number in range(8):
            assert len(operator.processes()) == 3, "two that read, one that writes"
            gates.open(number)
            assert await reads[number] == number
            await until(lambda: len(gates.began) == min(8, number + 3))  # noqa: B023
            await turns()
            assert gates.began[2:] == list(range(2, min(8, number + 3)))
        assert len(operator.processes()) == 3


async def test_nobody_who_comes_later_is_served_before(tmp_path: Path) -> None:
    """Not even somebody who comes in the very moment in which a connection becomes free."""
    gates = Gates()
    loop = asyncio.get_running_loop()
    with a_driver_with(tmp_path, 1) as (driver, _):
        first = loop.create_task(driver.look_up(gates.still(0)))
        await until(lambda: gates.began == [0])
        waiting = [loop.create_task(driver.look_up(gates.still(number))) for number in (1, 2)]
        await turns()
        gates.open(0)
        late = loop.create_task(driver.look_up(gates.still(3)))
        for number in (1, 2, 3):
            await until(lambda: len(gates.began) > number)  # noqa: B023
            gates.open(number)
        assert await asyncio.gather(first, *waiting, late) == [0, 1, 2, 3]
        assert gates.began == [0, 1, 2, 3]


async def test_who_waits_too_long_for_a_connection_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(net_pausing, "SWEEP_SECONDS", 0.001)
    gates = Gates()
    loop = asyncio.get_running_loop()
    with a_driver_with(tmp_path, 2) as (driver, _):
        holding = [loop.create_task(driver.read(gates.through(number))) for number in (0, 1)]
        await until(lambda: len(gates.began) == 2)
        with monkeypatch.context() as patch:
            patch.setattr(postgres_pool, "WAIT_SECONDS", 0.0)
            for read in (driver.read, driver.look_up):
                with pytest.raises(StoreOverloadedError):
                    await read(lambda tx: tx.one("SELECT 1"))
            patch.setattr(postgres_pool, "MAX_WAITING", 0)
            with pytest.raises(StoreOverloadedError):
                await driver.read(lambda tx: tx.one("SELECT 1"))
        for number in (0, 1):
            gates.open(number)
        await asyncio.gather(*holding)
        # Both are there again.
        again = [loop.create_task(driver.read(gates.through(number))) for number in (2, 3)]
        await until(lambda: len(gates.began) == 4)
        for number in (2, 3):
            gates.open(number)
        assert await asyncio.gather(*again) == [2, 3]


async def test_a_read_that_needs_no_statement_takes_no_connection(tmp_path: Path) -> None:
    gates = Gates()
    with a_driver_with(tmp_path, 1) as (driver, operator):
        assert await driver.read(lambda tx: tx.as_of) == 0
        assert len(operator.processes()) == 1
        holding = asyncio.get_running_loop().create_task(driver.read(gates.through(0)))
        await until(lambda: gates.began == [0])
        assert await driver.read(lambda tx: "from memory") == "from memory"
        gates.open(0)
        await holding


async def test_a_cancelled_reader_gives_its_connection_back(tmp_path: Path) -> None:
    gates = Gates()
    loop = asyncio.get_running_loop()
    with a_driver_with(tmp_path, 1) as (driver, _):
        holding = loop.create_task(driver.read(gates.through(0)))
        await until(lambda: gates.began == [0])
        waiting = loop.create_task(driver.read(gates.through(1)))
        await turns()
        holding.cancel()
        waiting.cancel()
        gates.open(0)
        gates.open(1)
        assert [
            type(result) for result in await asyncio.gather(holding, waiting, return_exceptions=True)
        ] == [asyncio.CancelledError] * 2
        assert driver.oldest_snapshot() == driver.commits
        assert await driver.read(lambda tx: tx.one("SELECT 1")) == (1,)
