"""Reads while groups are committed: what a snapshot shows, who is told when, what is kept in memory of it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from comity.store import accounts
from comity.store.database import Database, StatementError, Tx, WriteTx
from comity.users.sessions import Session, Sessions, hash_of
from tests.engines import Pauses
from tests.slow_reads import SlowReads
from tests.store.support import Held, a_database, insert, rows
from tests.store.trouble import turns, until

LONG = 60.0
ALICE = "@alice:example.org"


class Stopped:
    """Reads that have opened their snapshot and stand still until the test lets them go on (PostgreSQL)."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._pausing = Pauses()

    async def begin(self, opens: bool = True) -> tuple[Callable[[], None], asyncio.Task[list[int]]]:
        """Begin one; what lets it go on, and what it finds behind that."""
        turn, began = self._pausing.turn(), asyncio.Event()

        def function(tx: Tx) -> list[int]:
            if opens:
                tx.all("SELECT n FROM t")
            began.set()
            turn.wait(LONG)
            return [row[0] for row in tx.all("SELECT n FROM t ORDER BY n")]

        task = asyncio.get_running_loop().create_task(self._database.read(function))
        await began.wait()
        return turn.come, task


def telling(told: list[int], number: int) -> Callable[[WriteTx], int]:
    """A write that wants to know when everybody sees it."""

    def function(tx: WriteTx) -> int:
        tx.when_seen(lambda: told.append(number))
        return insert(number)(tx)

    return function


# -- what a snapshot shows


async def test_a_snapshot_shows_at_least_what_it_is_as_of(tmp_path: Path) -> None:
    async with a_database(tmp_path) as (database, _):
        before, last = database.commits, 60
        looked: list[tuple[str, int, int, int]] = []

        def look(tx: Tx) -> None:
            first, second = (tx.one("SELECT count(*), count(*) FROM t") for _ in range(2))
            assert first is not None
            assert second is not None
            looked.append(("read", tx.as_of, first[0], second[0]))

        def look_once(tx: Tx) -> None:
            row = tx.one("SELECT count(*) FROM t")
            assert row is not None
            looked.append(("look up", tx.as_of, row[0], row[0]))

        async def reader() -> None:
            while database.commits < before + last:
                await database.read(look)
                await database.look_up(look_once)
                await asyncio.sleep(0)

        async def writer() -> None:
            for number in range(last):
                await database.write(insert(number))

        await asyncio.gather(writer(), *(reader() for _ in range(8)))
        await database.read(look)
        await database.look_up(look_once)
        assert database.commits == before + last, "each write is a group of its own here"
        for kind, as_of, first, second in looked:
            assert first == second, "a read is one snapshot"
            assert as_of - before <= first, f"a {kind} was said to show what it does not show"
        assert looked[-1][1:] == (before + last, last, last)
        assert looked[-2][1:] == (before + last, last, last)


@pytest.mark.engine("postgresql")
async def test_a_paused_read_goes_on_in_its_snapshot(tmp_path: Path) -> None:
    async with a_database(tmp_path) as (database, _):
        stopped = Stopped(database)
        await database.write(insert(1))
        go_on, reading = await stopped.begin()
        await database.write(insert(2))
        await database.write(lambda tx: tx.run("DELETE FROM t WHERE n = 1"))
        later, reading_later = await stopped.begin()
        assert rows(database) == [2]
        go_on()
        later()
        assert await reading == [1]
        assert await reading_later == [2]


@pytest.mark.engine("postgresql")
async def test_a_read_that_has_not_asked_yet_may_show_more(tmp_path: Path) -> None:
    async with a_database(tmp_path) as (database, driver):
        go_on, reading = await Stopped(database).begin(opens=False)
        as_of = database.commits
        await database.write(insert(1))
        assert driver.oldest_snapshot() == as_of
        go_on()
        assert await reading == [1]


async def test_a_write_sees_what_is_on_disk(tmp_path: Path) -> None:
    async with a_database(tmp_path) as (database, _):
        for number in range(3):
            commits = database.commits
            as_of = await database.write(lambda tx: (insert(number)(tx), tx.as_of)[1])  # noqa: B023
            assert as_of == commits
            assert database.commits == commits + 1


# -- who is told when everybody sees it


async def test_where_nobody_reads_it_is_told_at_once(tmp_path: Path) -> None:
    async with a_database(tmp_path) as (database, driver):
        told: list[int] = []
        for number in range(3):
            await database.write(telling(told, number))
            assert told == list(range(number + 1))
        assert driver.oldest_snapshot() == database.commits


async def test_it_is_told_behind_the_commit_and_what_follows_it(tmp_path: Path) -> None:
    held = Held()
    async with a_database(tmp_path, held) as (database, _):
        told: list[str] = []

        def function(tx: WriteTx) -> None:
            insert(1)(tx)
            tx.when_seen(lambda: told.append("seen"))
            tx.after_commit(lambda: told.append("committed"))

        future = database.submit(function)
        await held.begun.wait()
        await turns()
        assert told == []
        held.gate.set()
        await future
        assert told == ["committed", "seen"]


async def test_what_failed_is_never_seen(tmp_path: Path) -> None:
    async with a_database(tmp_path) as (database, _):
        told: list[int] = []

        def failing(tx: WriteTx) -> int:
            telling(told, 9)(tx)
            raise StatementError("", "no luck")

        def wrong(tx: WriteTx) -> int:
            return tx.changed("INSERT INTO nowhere (n) VALUES (1)") + telling(told, 8)(tx)

        futures = [database.submit(each) for each in (failing, telling(told, 1), wrong, telling(told, 2))]
        await asyncio.gather(*futures, return_exceptions=True)
        await database.write(telling(told, 3))
        assert told == [1, 2, 3]


@pytest.mark.engine("postgresql")
async def test_it_is_told_when_the_reads_that_were_open_have_ended(tmp_path: Path) -> None:
    async with a_database(tmp_path) as (database, driver):
        stopped, told = Stopped(database), list[int]()
        first, reading_first = await stopped.begin()
        again, reading_again = await stopped.begin()
        await database.write(telling(told, 1))
        second, reading_second = await stopped.begin()
        await database.write(telling(told, 2))
        # Who begins now sees it all, and holds nobody up.
        third, reading_third = await stopped.begin()
        await turns()
        assert told == []
        first()
        assert await reading_first == []
        await turns()
        assert told == [], "another one still does not see it"
        again()
        assert await reading_again == []
        await until(lambda: told == [1])
        second()
        assert await reading_second == [1]
        await until(lambda: told == [1, 2])
        third()
        assert await reading_third == [1, 2]
        assert driver.oldest_snapshot() == database.commits


@pytest.mark.engine("postgresql")
async def test_an_old_read_does_not_hold_up_what_it_sees(tmp_path: Path) -> None:
    """The last to begin may be the first to end."""
    async with a_database(tmp_path) as (database, _):
        stopped, told = Stopped(database), list[int]()
        await database.write(telling(told, 1))
        assert told == [1]
        old, reading_old = await stopped.begin()
        await database.write(telling(told, 2))
        young, reading_young = await stopped.begin()
        young()
        assert await reading_young == [1, 2]
        await turns()
        assert told == [1]
        old()
        assert await reading_old == [1]
        await until(lambda: told == [1, 2])


@pytest.mark.engine("postgresql")
@pytest.mark.parametrize("how", ["raises", "is cancelled"])
async def test_a_read_that_ends_badly_holds_nobody_up(tmp_path: Path, how: str) -> None:
    async with a_database(tmp_path) as (database, _):
        told: list[int] = []
        turn, began = Pauses().turn(), asyncio.Event()

        def function(tx: Tx) -> None:
            tx.one("SELECT 1")
            began.set()
            turn.wait(LONG)
            if how == "raises":
                tx.one("SELECT nothing FROM nowhere")

        reading = asyncio.get_running_loop().create_task(database.read(function))
        await began.wait()
        await database.write(telling(told, 1))
        if how == "is cancelled":
            reading.cancel()
        await turns()
        assert told == []
        turn.come()
        with pytest.raises((StatementError, asyncio.CancelledError)):
            await reading
        await until(lambda: told == [1])


# -- what is kept in memory


class Still:
    """`ports.Clock` and `ports.Entropy` that never move."""

    def __init__(self) -> None:
        self._count = 0

    def now_ms(self) -> int:
        return 1_700_000_000_000

    def monotonic(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("nothing sleeps here")

    def bytes(self, count: int) -> bytes:
        self._count += 1
        return hashlib.sha256(str(self._count).encode()).digest()[:count]

    def token(self, length: int) -> str:
        return self.bytes(32).hex()[:length]

    def random(self) -> float:
        return 0.5


async def with_alice(database: Database) -> Sessions:
    """Sessions of a server that has one account."""
    ports = Still()
    await database.write(lambda tx: accounts.insert_user(tx, ALICE, None, admin=False, now_ms=0))
    return Sessions(database, ports, ports)


async def test_a_session_that_was_read_before_it_was_closed_is_not_kept(tmp_path: Path) -> None:
    async with a_database(tmp_path) as (database, _):
        slow, sessions = SlowReads(database), await with_alice(database)
        opened = await sessions.open(ALICE, "PHONE")
        slow.hold_next()
        asking = asyncio.get_running_loop().create_task(sessions.authenticate(opened.access_token, "::1"))
        await slow.until_held()
        await sessions.close(ALICE, ["PHONE"])
        slow.let_go()
        # It came before the end: that it is answered so is right. The next one came behind it.
        assert await asking == Session(ALICE, "PHONE", admin=False)
        assert await sessions.authenticate(opened.access_token, "::1") is None


async def test_what_changed_elsewhere_is_kept_again_behind_it(tmp_path: Path) -> None:
    async with a_database(tmp_path) as (database, _):
        slow, sessions = SlowReads(database), await with_alice(database)
        phone, laptop = [await sessions.open(ALICE, name) for name in ("PHONE", "LAPTOP")]
        await sessions.close(ALICE, ["PHONE"])
        assert await sessions.authenticate(phone.access_token, "::1") is None
        assert await sessions.authenticate(laptop.access_token, "::1") is not None
        # From memory now: no read that could fail.
        slow.fail_next()
        assert await sessions.authenticate(laptop.access_token, "::1") is not None
        assert not slow.has_failed


@pytest.mark.engine("postgresql")
@pytest.mark.parametrize("opens", ["before", "behind"])
async def test_a_snapshot_from_before_the_end_keeps_no_session(tmp_path: Path, opens: str) -> None:
    """With the server's own snapshot, which shows the token until the end of the read."""
    async with a_database(tmp_path) as (database, _):
        sessions = await with_alice(database)
        opened = await sessions.open(ALICE, "PHONE")
        token_hash = hash_of(opened.access_token)
        turn, began = Pauses().turn(), asyncio.Event()

        def reading(tx: Tx) -> bool:
            if opens == "before":
                tx.one("SELECT 1")
            began.set()
            turn.wait(LONG)
            return sessions._load(tx, token_hash) is not None

        task = asyncio.get_running_loop().create_task(database.read(reading))
        await began.wait()
        await sessions.close(ALICE, ["PHONE"])
        turn.come()
        assert await task is (opens == "before")
        assert await sessions.authenticate(opened.access_token, "::1") is None


async def test_sessions_that_end_while_many_ask_are_ended_for_all(tmp_path: Path) -> None:
    """Whoever asks behind the end of a session is refused, however many asked before."""
    async with a_database(tmp_path) as (database, _):
        sessions = await with_alice(database)
        loop = asyncio.get_running_loop()
        for number in range(15):
            opened = await sessions.open(ALICE, f"DEVICE{number}")
            asking = [loop.create_task(sessions.authenticate(opened.access_token, "::1")) for _ in range(6)]
            await turns(number)
            await sessions.close(ALICE, [f"DEVICE{number}"])
            assert await sessions.authenticate(opened.access_token, "::1") is None
            for session in await asyncio.gather(*asking):
                assert session in (None, Session(ALICE, f"DEVICE{number}", admin=False))
            assert await sessions.authenticate(opened.access_token, "::1") is None
