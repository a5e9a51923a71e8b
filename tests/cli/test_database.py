"""`comity database`: on a server's own database, beside a running server or without one."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from comity.cli import main
from comity.cli.files import CannotRun, ensure_signing_key
from comity.config import loads
from comity.net.system import SystemEntropy
from comity.store.growth import GROWTH
from comity.store.migrations import available
from tests.engines import POSTGRESQL, a_driver_of, engine, url_of
from tests.rooms.support import CONFIGURATION, SERVER, a_place
from tests.rooms.test_forks import a_shared_room

# Every test here runs on both engines.
__all__ = ["engine"]


async def run(folder: Path, *arguments: str) -> Result:
    """Run a command; in a thread, for it has a loop of its own."""
    config = folder / "comity.toml"
    config.write_text(CONFIGURATION.format(name=SERVER, url=url_of(folder)))
    line = ["database", *arguments, "--config", str(config)]
    return await asyncio.to_thread(CliRunner().invoke, main, line)


def change(folder: Path, sql: str) -> None:
    """What no server does."""
    driver = a_driver_of(folder, exclusive=False)
    try:
        driver.write_now(lambda tx: tx.run(sql))
    finally:
        driver.close_now()


async def test_status(tmp_path: Path, engine: str) -> None:
    async with a_place(tmp_path) as place:
        await a_shared_room(place, "11")
        described = place.database.driver.describe()
        result = await run(tmp_path, "status")
        counts = {
            table: place.count(table) for table in place.database.read_now(place.database.driver.table_sizes)
        }
    assert result.exit_code == 0, result.output
    version = "PostgreSQL 1" if engine == POSTGRESQL else f"SQLite {sqlite3.sqlite_version}, {tmp_path}"
    assert described.startswith(version)
    assert f"{described}, schema version {available()[-1][0]}\n" in result.output
    assert ("wait to be moved into it" in result.output) == (engine != POSTGRESQL)
    lines = [line.split(maxsplit=4) for line in result.output.splitlines()]
    told = {line[3]: line for line in lines if len(line) == 5 and line[3] in counts}
    assert {table: int(line[0].replace(",", "")) for table, line in told.items()} == counts
    assert told["events"][4] == GROWTH["events"]


async def test_a_sound_database_and_a_broken_one(tmp_path: Path) -> None:
    async with a_place(tmp_path) as place:
        await a_shared_room(place, "11")
        running = await run(tmp_path, "check")
        assert running.exit_code == 0, running.output
    assert "The database is sound." in running.output
    change(tmp_path, "DELETE FROM forward_extremities")
    broken = await run(tmp_path, "check")
    assert broken.exit_code == 1
    assert "has no forward extremity" in broken.output
    assert "1 of the database's invariants" in broken.output


@pytest.mark.engine("sqlite")
async def test_a_backup_while_the_server_runs(tmp_path: Path) -> None:
    target = tmp_path / "copy.db"
    async with a_place(tmp_path) as place:
        room_id, _ = await a_shared_room(place, "11")
        result = await run(tmp_path, "backup", str(target))
        await place.say(room_id, "later")
        later = place.count("events")
    assert result.exit_code == 0, result.output
    assert target.stat().st_mode & 0o777 == 0o600
    with contextlib.closing(sqlite3.connect(target)) as connection:
        assert connection.execute("SELECT count(*) FROM events").fetchone()[0] == later - 1
    again = await run(tmp_path, "backup", str(target))
    assert again.exit_code == 1
    assert "never replaces" in again.output
    assert [file.name for file in tmp_path.iterdir() if "unfinished" in file.name] == []


@pytest.mark.engine("sqlite")
async def test_a_backup_is_a_server(tmp_path: Path) -> None:
    """What is restored goes on where the copy was made."""
    copied = tmp_path / "again"
    copied.mkdir()
    async with a_place(tmp_path / "first") as place:
        room_id, _ = await a_shared_room(place, "12")
        said = await place.say(room_id, "hello")
        assert (await run(tmp_path / "first", "backup", str(copied / "comity.db"))).exit_code == 0
    (copied / "signing.key").write_bytes((tmp_path / "first" / "signing.key").read_bytes())
    async with a_place(copied) as place:
        assert said in place.timeline(room_id)
        await place.say(room_id, "again")


@pytest.mark.engine("postgresql")
async def test_a_backup_is_the_affair_of_the_engine(tmp_path: Path) -> None:
    target = tmp_path / "copy.db"
    async with a_place(tmp_path):
        result = await run(tmp_path, "backup", str(target))
    assert result.exit_code == 1
    assert f"pg_dump --format=custom --file={target}" in result.output
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith("copy")] == []


@pytest.mark.engine("sqlite")
async def test_where_there_is_no_database_none_is_made(tmp_path: Path) -> None:
    for arguments in (("status",), ("check",), ("backup", str(tmp_path / "copy.db"))):
        result = await run(tmp_path, *arguments)
        assert result.exit_code == 1
        assert "the server has never run" in result.output
    assert [file.name for file in tmp_path.iterdir()] == ["comity.toml"]


async def test_a_database_without_its_signing_key_is_left_alone(tmp_path: Path) -> None:
    """Also where the database is no file beside the key: a new key would make another server of it."""
    async with a_place(tmp_path) as place:
        await place.create()
    (tmp_path / "signing.key").unlink()
    config = loads(CONFIGURATION.format(name=SERVER, url=url_of(tmp_path)), tmp_path)
    with pytest.raises(CannotRun, match="is gone, but the database is there"):
        ensure_signing_key(config, SystemEntropy())
    assert not (tmp_path / "signing.key").exists()
