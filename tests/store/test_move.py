"""A database carried to the other engine: all of it arrives, however often it was cut off, or it is told.

The engine of a test is that of the source; the target is on the other one.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from comity.store import move as moving
from comity.store.database import Driver, GroupTx, StatementError, Tx
from comity.store.engines import open_engine
from comity.store.migrations import SchemaError, migrate
from comity.store.move import Move, MoveError, Table, content, discard, is_unfinished, tables
from tests.engines import DATABASES, POSTGRESQL, Pauses, a_driver_of, current
from tests.store import whole

LEAST, MOST = -(1 << 63), (1 << 63) - 1
#: What one engine writes in another way, and the neighbours of that in the order of texts.
TEXTS = (
    "", "\0", "\0\0", "a\0b", "0", "\ufdd0", "\ufdd00", "\ufdd01", "\ufdd0\0", "\0\ufdd0", "\ufdd1",
    "\ufdd1\0", "\ufdcf", "\ufdef", "\uffff", "\ud7ff", "\ue000", "\U00010000", "\U0001f98a", "\U0010ffff",
    "\u200b", "é", "e\u0301", "\n", " ", "'", '"', "?", "$1", "\\", "%", "Z", "a", "ß" * 200,
)  # fmt: skip
BYTES = (b"", b"\0", b"\0\0", b"\xff", b"\\x00", "\ufdd0".encode(), bytes(range(256)))
NUMBERS = (LEAST, LEAST + 1, -(1 << 53) - 1, -1, 0, 1, (1 << 53) + 1, MOST - 1, MOST)


def fill_with_extremes(tx: Tx) -> None:
    """Rows that an engine could take for others, in keys and beside them."""
    tx.many(
        "INSERT INTO profiles (user_id, field, value) VALUES (?, ?, ?)",
        [(f"@{text}:x", text, text) for text in TEXTS],
    )
    tx.many(
        "INSERT INTO state_pages (name, body) VALUES (?, ?)",
        [(data, bytes(reversed(data))) for data in BYTES],
    )
    tx.many(
        "INSERT INTO outbound (room_num, position, event_num, except_server) VALUES (?, ?, ?, ?)",
        [(one, other, -(one + 1), "") for one in NUMBERS for other in NUMBERS],
    )
    # Rows with NULLs and rows without, by turns.
    tx.many(
        "INSERT INTO devices (user_id, device_id, display_name, created_at, last_seen_at, last_seen_ip) "
        "VALUES ('@a:x', ?, ?, 0, ?, ?)",
        [
            (str(number), "\0" if number % 2 else None, number % 3 or None, "" if number % 5 else None)
            for number in range(30)
        ],
    )
    tx.many(
        "INSERT INTO state_resolutions (room_num, position, result, inputs) VALUES (?, 1, ?, ?)",
        [(room, data, data + b"\0") for room, data in itertools.product((LEAST, 0, MOST), BYTES)],
    )


@contextlib.contextmanager
def the_source(folder: Path) -> Iterator[Driver]:
    """The database that is moved."""
    driver = a_driver_of(folder)
    try:
        migrate(driver)
        yield driver
    finally:
        driver.close_now()


def target_url(folder: Path) -> str:
    return "sqlite:target.db" if current() == POSTGRESQL else DATABASES.url_of(folder / "target.db")


@contextlib.contextmanager
def the_target(folder: Path) -> Iterator[Driver]:
    """The database on the other engine."""
    driver = open_engine(target_url(folder), folder, Pauses(), connections=2)
    try:
        migrate(driver, into_move=True)
        yield driver
    finally:
        driver.close_now()


@contextlib.contextmanager
def both(folder: Path) -> Iterator[tuple[Driver, Driver]]:
    with the_source(folder) as source, the_target(folder) as target:
        yield source, target


def copy(move: Move) -> Iterator[Table]:
    """Carry everything over; a step is a chunk, or less."""
    for table in move.tables:
        for _ in move.copy(table):
            yield table


def verify(move: Move) -> None:
    for table in move.tables:
        counts = list(move.verify(table))
        assert counts[-1] == move.sizes[table.name]


def carry(source: Driver, target: Driver) -> Move:
    """One move from its beginning to its end."""
    move = Move(source, target)
    for _ in copy(move):
        pass
    verify(move)
    move.finish()
    return move


def digests(driver: Driver) -> dict[str, tuple[int, int]]:
    def of(table: Table) -> tuple[int, int]:
        [*_, counted] = content(driver, table)
        return counted.rows, counted.digest

    return {table.name: of(table) for table in tables(driver)}


def assert_same(source: Driver, target: Driver) -> None:
    assert whole.content(target) == whole.content(source)
    assert digests(target) == digests(source)
    assert not is_unfinished(target)


async def test_a_servers_database(tmp_path: Path) -> None:
    await whole.make(tmp_path)
    with both(tmp_path) as (source, target):
        carry(source, target)
        assert_same(source, target)
        assert whole.breaches(target) == []
        migrate(target)


async def test_there_and_back(tmp_path: Path) -> None:
    await whole.make(tmp_path)
    with both(tmp_path) as (source, target):
        carry(source, target)
        again = a_driver_of(tmp_path, name="again.db")
        try:
            migrate(again)
            carry(target, again)
            assert_same(source, again)
        finally:
            again.close_now()


@pytest.mark.parametrize("rows", [1, 2, 7, 2_000])
def test_what_an_engine_could_take_for_something_else(
    tmp_path: Path, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moving, "CHUNK_ROWS", rows)
    monkeypatch.setattr(moving, "STATEMENT_ROWS", min(rows, 3))
    with both(tmp_path) as (source, target):
        source.write_now(fill_with_extremes)
        assert carry(source, target).sizes["profiles"] == len(TEXTS)
        assert_same(source, target)
        texts = target.read_now(lambda tx: tx.all("SELECT user_id, field, value FROM profiles"))
        assert sorted(texts) == sorted((f"@{text}:x", text, text) for text in TEXTS)


def test_rows_enough_for_many_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more, one less and exactly as many as a chunk and as a statement hold."""
    chance = random.Random(1)
    monkeypatch.setattr(moving, "CHUNK_ROWS", 250)
    for table, count in (("users", 249), ("filters", 250), ("aliases", 251), ("profiles", 500)):
        assert moving.STATEMENT_ROWS == 100
        rows = [(f"{number}", chance.choice([None, "x", "\0"])) for number in range(count)]
        with the_source(tmp_path) as source:
            source.write_now(lambda tx: tx.many(_INSERT[table], rows))  # noqa: B023
    with both(tmp_path) as (source, target):
        carry(source, target)
        assert_same(source, target)


_INSERT = {
    "users": "INSERT INTO users (user_id, password_hash, created_at) VALUES (?, ?, 1)",
    "filters": "INSERT INTO filters (user_id, filter_id, definition) VALUES (?, coalesce(?, ''), '{}')",
    "aliases": "INSERT INTO aliases (alias, room_id, creator) VALUES (?, coalesce(?, ''), '')",
    "profiles": "INSERT INTO profiles (user_id, field, value) VALUES ('', ?, coalesce(?, ''))",
}


def test_cut_off_after_every_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each run of it gets no further than its first commit."""
    monkeypatch.setattr(moving, "CHUNK_ROWS", 30)
    runs = 0
    with the_source(tmp_path) as source:
        source.write_now(fill_with_extremes)
        while True:
            with the_target(tmp_path) as target:
                move = Move(source, target)
                assert move.is_taken_up == (runs > 0)
                begun = target.commits
                if all(target.commits == begun for _ in copy(move)) and target.commits == begun:
                    break
                # Nobody takes it for a whole database meanwhile.
                with pytest.raises(SchemaError, match="not finished"):
                    migrate(target)
            runs += 1
        with the_target(tmp_path) as target:
            verify(move := Move(source, target))
            move.finish()
            assert_same(source, target)
    # Every table is done once, and those with rows take their chunks before.
    chunks = sum(-(-rows // 30) for rows in move.sizes.values())
    assert runs == len(move.tables) + chunks


def test_cut_off_in_the_middle_of_a_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk arrives whole, with how far it has come, or not at all."""
    monkeypatch.setattr(moving, "CHUNK_ROWS", 7)
    with both(tmp_path) as (source, target):
        source.write_now(fill_with_extremes)
        # A row that the source will send last.
        squatter = "INSERT INTO profiles (user_id, field, value) VALUES (?, ?, 'squatter')"
        last = source.read_now(
            lambda tx: tx.one("SELECT user_id, field FROM profiles ORDER BY user_id DESC, field DESC LIMIT 1")
        )
        assert last is not None
        move = Move(source, target)
        target.write_now(lambda tx: tx.run(squatter, last))
        with pytest.raises((StatementError, sqlite3.IntegrityError)):
            for _ in copy(move):
                pass
        held = digests(target)["profiles"][0]
        assert held % 7 == 1, "whole chunks, and the squatter"
        target.write_now(lambda tx: tx.run("DELETE FROM profiles WHERE value = 'squatter'"))
    with both(tmp_path) as (source, target):
        assert carry(source, target).is_taken_up
        assert_same(source, target)


def begin(folder: Path, steps: int) -> None:
    """A move that is cut off."""
    with both(folder) as (source, target):
        source.write_now(fill_with_extremes)
        for _ in itertools.islice(copy(Move(source, target)), steps):
            pass


CHANGES = {
    "a row more": "INSERT INTO users (user_id, created_at) VALUES ('@new:x', 1)",
    "a row less": "DELETE FROM profiles WHERE user_id = '@Z:x'",
    "an event": "UPDATE log_position SET last = last + 1",
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_source_that_has_changed_meanwhile(tmp_path: Path, change: str) -> None:
    begin(tmp_path, 40)
    with both(tmp_path) as (source, target):
        assert source.write_now(lambda tx: tx.changed(CHANGES[change])) == 1
        with pytest.raises(MoveError, match="has changed since: run it with --anew"):
            Move(source, target)
        discard(target)
        assert not is_unfinished(target)
        assert {rows for table, (rows, _) in digests(target).items() if table != "log_position"} == {0}
        assert not carry(source, target).is_taken_up
        assert_same(source, target)


QUIET_CHANGES = {
    "in a table that was sent": "UPDATE devices SET last_seen_at = 99 WHERE device_id = '3'",
    "one for another": "UPDATE devices SET device_id = '3x' WHERE device_id = '3'",
}


@pytest.mark.parametrize("change", QUIET_CHANGES)
def test_a_source_that_has_changed_without_a_position(tmp_path: Path, change: str) -> None:
    """A password, a token, a device's last sight: no number of rows and no position tells of those."""
    begin(tmp_path, 40)
    with both(tmp_path) as (source, target):
        source.write_now(lambda tx: tx.run(QUIET_CHANGES[change]))
        with pytest.raises(
            MoveError, match=r"devices of the source has changed since it was sent: .* with --anew"
        ):
            carry(source, target)
        assert is_unfinished(target)
        discard(target)
        carry(source, target)
        assert_same(source, target)


def test_there_is_nothing_to_discard(tmp_path: Path) -> None:
    with the_target(tmp_path) as target:
        target.write_now(fill_with_extremes)
        before = digests(target)
        discard(target)
        assert digests(target) == before


@pytest.mark.parametrize("table", ["users", "profiles"])
def test_a_target_that_is_not_empty(tmp_path: Path, table: str) -> None:
    with both(tmp_path) as (source, target):
        source.write_now(fill_with_extremes)
        target.write_now(lambda tx: tx.run(_INSERT[table], ("a", "b")))
        before = digests(target)
        with pytest.raises(MoveError, match=f"not empty: it holds 1 {table}"):
            Move(source, target)
        assert digests(target) == before
        assert not is_unfinished(target)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("CREATE TABLE t (n BIGINT PRIMARY KEY)", "tables that are not comity's: t"),
        ("CREATE TABLE t (n BIGINT)", "The table t has no primary key"),
        ("ALTER TABLE users ADD COLUMN own BIGINT", "The table users of the target is missing or has other"),
    ],
)
def test_a_target_with_something_else_in_it(tmp_path: Path, change: str, told: str) -> None:
    with both(tmp_path) as (source, target):
        target.write_now(lambda tx: tx.script(change))
        try:
            with pytest.raises(MoveError, match=told):
                Move(source, target)
            assert not is_unfinished(target)
        finally:
            target.write_now(lambda tx: tx.script(_undone(change)))


def _undone(change: str) -> str:
    return "DROP TABLE t" if "TABLE t " in change else "ALTER TABLE users DROP COLUMN own"


def test_a_part_of_a_move_is_no_source(tmp_path: Path) -> None:
    begin(tmp_path, 5)
    with the_target(tmp_path) as part:
        third = a_driver_of(tmp_path, name="third.db")
        try:
            migrate(third)
            with pytest.raises(MoveError, match="The source itself holds a part of a move"):
                Move(part, third)
        finally:
            third.close_now()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE profiles SET value = 'other' WHERE user_id = '@Z:x'",
        "UPDATE profiles SET field = 'other' WHERE user_id = '@Z:x'",
        "DELETE FROM profiles WHERE user_id = '@Z:x'",
        "INSERT INTO profiles (user_id, field, value) VALUES ('@new:x', '', '')",
        "UPDATE devices SET display_name = '' WHERE device_id = '2'",
    ],
)
def test_what_did_not_arrive_as_it_was_sent(tmp_path: Path, change: str) -> None:
    with both(tmp_path) as (source, target):
        source.write_now(fill_with_extremes)
        move = Move(source, target)
        for _ in copy(move):
            pass
        assert target.write_now(lambda tx: tx.changed(change)) == 1
        with pytest.raises(MoveError, match="did not arrive as it was sent"):
            verify(move)
        assert is_unfinished(target)


def test_a_table_that_was_not_sent_is_missed(tmp_path: Path) -> None:
    with both(tmp_path) as (source, target):
        source.write_now(fill_with_extremes)
        move = Move(source, target)
        for table in move.tables:
            if table.name != "profiles":
                list(move.copy(table))
        with pytest.raises(MoveError, match="profiles"):
            verify(move)


@pytest.mark.engine("sqlite")
async def test_the_source_is_only_read_a_file(tmp_path: Path) -> None:
    await whole.make(tmp_path)
    file = tmp_path / "comity.db"
    before = file.read_bytes()
    with both(tmp_path) as (source, target):
        carry(source, target)
    assert file.read_bytes() == before


async def test_the_source_is_only_read(tmp_path: Path) -> None:
    await whole.make(tmp_path)
    with both(tmp_path) as (source, target):
        before = digests(source), whole.content(source), names(source)
        carry(source, target)
        assert (digests(source), whole.content(source), names(source)) == before


def names(driver: Driver) -> list[str]:
    return sorted(driver.read_now(driver.table_sizes))


@pytest.mark.engine("sqlite")
def test_what_sqlite_keeps_for_itself_is_not_moved(tmp_path: Path) -> None:
    def analyze(tx: GroupTx) -> None:
        fill_with_extremes(tx)
        tx.script("ANALYZE")

    with both(tmp_path) as (source, target):
        source.write_now(analyze)
        assert "sqlite_stat1" in source.read_now(source.table_sizes)
        carry(source, target)
        assert_same(source, target)


@pytest.mark.engine("sqlite")
def test_statements_are_alike_however_the_nulls_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PostgreSQL keeps what it prepares for each combination of types: there are few, and each is small."""
    monkeypatch.setattr(moving, "STATEMENT_ROWS", 10)
    chance = random.Random(1)
    rows = [(f"{number}", chance.choice([None, "x"])) for number in range(1_000)]
    with both(tmp_path) as (source, target):
        source.write_now(lambda tx: tx.many(_INSERT["users"], rows))
        carry(source, target)
        assert_same(source, target)
        kept = target.write_now(
            lambda tx: tx.one(
                "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE 'INSERT INTO users%'"
            )
        )
        assert kept == (4,)
