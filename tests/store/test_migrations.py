"""Every schema that a released program has written is brought to this program's, with all that it holds."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from comity.store import migrations
from comity.store.auth_chains import FILL_AT_ONCE
from comity.store.database import Driver, GroupTx, Row, StatementError, Tx, last_position
from comity.store.migrations import MOVE_PROGRESS, SchemaError, available, current_version, migrate
from tests.engines import a_driver_of
from tests.rooms.support import ALICE, a_place
from tests.store import whole
from tests.store.whole import Content

NEWEST = available()[-1][0]
OLDER = range(1, NEWEST)
#: What a column that came later holds for the rows from before. NULL, where it is not named here.
LATER: dict[tuple[str, str], object] = {
    ("gaps", "rounds"): 0,
    ("gaps", "retry_at"): 0,
    ("memberships", "left_at"): 0,
}
#: Tables that a migration fills from what is there, or of which it fills a column.
FILLED = ("auth_citations", "events", "relations", "threads", "notifications", "mentions", "room_activity")
REFUSED = (sqlite3.Error, StatementError)


@pytest.fixture
async def made(tmp_path: Path) -> tuple[list[str], Content]:
    """The rooms of a server, and all that its database holds."""
    rooms, _ = await whole.make(tmp_path / "server")
    driver = a_driver_of(tmp_path / "server")
    try:
        return rooms, whole.content(driver)
    finally:
        driver.close_now()


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Driver]:
    """The database of a folder without a single table; nothing that a test makes is left in it."""
    folder = tmp_path / "old"
    folder.mkdir()
    driver = a_driver_of(folder, exclusive=False)
    driver.write_now(lambda tx: drop_all(driver, tx))
    try:
        yield driver
    finally:
        driver.write_now(lambda tx: drop_all(driver, tx))
        driver.close_now()


def drop_all(driver: Driver, tx: GroupTx) -> None:
    for table in driver.table_sizes(tx):
        tx.script(f"DROP TABLE {table}")


def create(driver: Driver, version: int) -> None:
    """Make a database as the program of that schema version made it."""

    def run(tx: GroupTx) -> None:
        tx.script("CREATE TABLE schema_versions (version BIGINT PRIMARY KEY)")
        for number, sql in available()[:version]:
            tx.script(sql)
            tx.run("INSERT INTO schema_versions (version) VALUES (?)", (number,))

    driver.write_now(run)


def put(driver: Driver, content: Content) -> Content:
    """Store what the database's schema has a place for; that."""
    held: Content = {}

    def run(tx: Tx) -> None:
        tx.run("DELETE FROM log_position")
        for table, (columns, rows) in content.items():
            own = tuple(driver.columns(tx, table)[0])
            if own:
                held[table] = own, [tuple(row[columns.index(name)] for name in own) for row in rows]
                marks = ", ".join("?" * len(own))
                tx.many(f"INSERT INTO {table} ({', '.join(own)}) VALUES ({marks})", held[table][1])

    driver.write_now(run)
    return held


def without(table: tuple[tuple[str, ...], list[Row]], names: tuple[str, ...]) -> list[dict[str, object]]:
    """The rows of a table, but for some columns."""
    columns, rows = table
    return [
        {name: value for name, value in zip(columns, row, strict=True) if name not in names} for row in rows
    ]


def brought(old: Content, new: Content) -> Content:
    """What an older database holds, as it should stand in the newest schema."""

    def row_of(table: str, names: tuple[str, ...], row: Row) -> Row:
        known = dict(zip(names, row, strict=True))
        return tuple(known.get(name, LATER.get((table, name))) for name in new[table][0])

    return {
        table: (new[table][0], sorted((row_of(table, names, row) for row in rows), key=repr))
        for table, (names, rows) in old.items()
    }


def version_of(driver: Driver) -> int:
    return driver.read_now(current_version)


def everything(driver: Driver) -> tuple[list[tuple[str, list[str]]], Content]:
    """Every table, its columns, and what it holds."""

    def shapes(tx: Tx) -> list[tuple[str, list[str]]]:
        return [(table, driver.columns(tx, table)[0]) for table in sorted(driver.table_sizes(tx))]

    return driver.read_now(shapes), whole.content(driver)


def test_migrations_are_numbered_without_a_gap() -> None:
    assert [number for number, _ in available()] == list(range(1, NEWEST + 1))


def test_no_table_of_the_newest_schema_goes_untested(made: tuple[list[str], Content]) -> None:
    assert [table for table, (_, rows) in made[1].items() if not rows] == []


@pytest.mark.parametrize("version", OLDER)
async def test_an_older_database_keeps_everything(
    tmp_path: Path, made: tuple[list[str], Content], bare: Driver, version: int
) -> None:
    rooms, content = made
    create(bare, version)
    old = put(bare, content)
    assert version_of(bare) == version
    assert migrate(bare) == NEWEST
    assert version_of(bare) == NEWEST
    new = whole.content(bare)
    whole_tables = {table: rows for table, rows in old.items() if table not in FILLED}
    assert {table: new[table] for table in whole_tables} == brought(whole_tables, new)
    for table in FILLED:
        # What the room's state was at each time was not kept at first: no event is known to be beside none.
        left_out = ("aside",) if version == 1 else ()
        assert without(new[table], left_out) == without(content[table], left_out)
    assert {table: rows for table, (_, rows) in new.items() if table not in (*old, *FILLED) and rows} == {}
    assert new.keys() == content.keys()
    assert whole.breaches(bare) == []
    # A second time there is nothing to do.
    assert migrate(bare) == NEWEST
    assert whole.content(bare) == new
    await goes_on(tmp_path / "old", rooms, last=bare.read_now(last_position))
    assert whole.breaches(bare) == []


async def goes_on(folder: Path, rooms: list[str], last: int) -> None:
    """A server runs on the database as if nothing had happened."""
    async with a_place(folder) as place:
        for room_id in rooms:
            said = await place.say(room_id, "here we are again")
            await place.send(room_id, ALICE, "m.room.topic", {"topic": "again"}, "")
            assert said in place.timeline(room_id)
            place.assert_head_is_stored(room_id)
        assert place.database.last_position > last


@pytest.mark.parametrize("count", [FILL_AT_ONCE, FILL_AT_ONCE + 1])
def test_more_events_than_are_read_at_a_time(bare: Driver, count: int) -> None:
    """The migration to schema 4 fills a table from every event."""
    create(bare, 3)
    event = (
        "INSERT INTO events (event_num, event_id, room_num, type, sender, depth, origin_server_ts, "
        "auth, json) VALUES (?, ?, 1, 'x', '', 1, 1, ?, ?)"
    )
    rows = [(number, f"${number}", (number - 1).to_bytes(6, "little"), b"") for number in range(2, count + 2)]
    bare.write_now(lambda tx: tx.many(event, rows))
    migrate(bare)
    cited = bare.read_now(lambda tx: tx.all("SELECT cited, citing FROM auth_citations ORDER BY cited"))
    assert cited == [(number - 1, number) for number in range(2, count + 2)]


def test_an_empty_database_is_given_the_newest_schema(bare: Driver) -> None:
    assert migrate(bare) == NEWEST
    _, content = everything(bare)
    assert {table: rows for table, (_, rows) in content.items() if rows} == {"log_position": [(1, 0)]}
    versions = bare.read_now(lambda tx: tx.all("SELECT version FROM schema_versions ORDER BY version"))
    assert versions == [(number,) for number in range(1, NEWEST + 1)]


def test_a_newer_database_is_refused_and_left_alone(bare: Driver) -> None:
    migrate(bare)
    bare.write_now(lambda tx: tx.run("INSERT INTO schema_versions (version) VALUES (?)", (NEWEST + 3,)))
    before = everything(bare)
    with pytest.raises(SchemaError) as refused:
        migrate(bare)
    assert f"schema version {NEWEST + 3};" in str(refused.value)
    assert f"up to {NEWEST}." in str(refused.value)
    assert everything(bare) == before
    assert version_of(bare) == NEWEST + 3


@pytest.mark.parametrize("version", OLDER)
def test_a_migration_that_fails_leaves_everything_as_it_was(
    made: tuple[list[str], Content], bare: Driver, version: int
) -> None:
    """The last table that is made is there already, and is something else."""
    create(bare, version)
    put(bare, made[1])
    statements = "".join(sql for number, sql in available() if number > version)
    last = re.findall(r"CREATE TABLE (\w+)", statements)[-1]
    bare.write_now(lambda tx: tx.script(f"CREATE TABLE {last} (own BIGINT PRIMARY KEY)"))
    before = everything(bare)
    with pytest.raises(REFUSED, match="already exists"):
        migrate(bare)
    assert everything(bare) == before
    assert version_of(bare) == version
    bare.write_now(lambda tx: tx.script(f"DROP TABLE {last}"))
    assert migrate(bare) == NEWEST


def test_a_filling_that_fails_leaves_everything_as_it_was(
    made: tuple[list[str], Content], bare: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(bare, 3)
    put(bare, made[1])
    before = everything(bare)

    def fill(tx: Tx) -> None:
        tx.run("INSERT INTO auth_citations (cited, citing) VALUES (1, 2)")
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(migrations, "FILLING", {4: fill})
        with pytest.raises(RuntimeError, match="killed"):
            migrate(bare)
    assert everything(bare) == before
    assert version_of(bare) == 3
    assert migrate(bare) == NEWEST


def test_a_part_of_a_move_is_refused(bare: Driver) -> None:
    migrate(bare)
    bare.write_now(lambda tx: tx.script(f"CREATE TABLE {MOVE_PROGRESS} (name TEXT NOT NULL PRIMARY KEY)"))
    before = everything(bare)
    with pytest.raises(SchemaError, match="part of a move that was not finished: run `comity database move`"):
        migrate(bare)
    assert everything(bare) == before
    assert migrate(bare, into_move=True) == NEWEST
    assert everything(bare) == before
