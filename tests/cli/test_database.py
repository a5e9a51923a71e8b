"""`comity database`: on a server's own file, beside a running server or without one."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from pathlib import Path

from click.testing import CliRunner, Result

from comity.cli import main
from comity.config import loads
from tests.rooms.support import CONFIGURATION, SERVER, a_place
from tests.rooms.test_forks import a_shared_room


async def run(folder: Path, *arguments: str) -> Result:
    """Run a command; in a thread, for it has a loop of its own."""
    config = folder / "comity.toml"
    config.write_text(CONFIGURATION.format(name=SERVER, url="sqlite:comity.db"))
    line = ["database", *arguments, "--config", str(config)]
    return await asyncio.to_thread(CliRunner().invoke, main, line)


def change(folder: Path, sql: str) -> None:
    file = loads(CONFIGURATION.format(name=SERVER, url="sqlite:comity.db"), folder).database_file
    with contextlib.closing(sqlite3.connect(file)) as connection, connection:
        connection.execute(sql)


async def test_status(tmp_path: Path) -> None:
    async with a_place(tmp_path) as place:
        await a_shared_room(place, "11")
        result = await run(tmp_path, "status")
        events = place.count("events")
    assert result.exit_code == 0, result.output
    assert f"SQLite {sqlite3.sqlite_version}" in result.output
    assert "schema version 4" in result.output
    [line] = [line for line in result.output.splitlines() if line.split()[3:4] == ["events"]]
    assert line.split()[0] == str(events)
    assert line.endswith("with every event")


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


async def test_a_backup_is_a_server(tmp_path: Path) -> None:
    """What is restored goes on where the copy was made."""
    copied = tmp_path / "again"
    copied.mkdir()
    async with a_place(tmp_path / "first") as place:
        room_id, _ = await a_shared_room(place, "12")
        said = await place.say(room_id, "hello")
        file = loads(CONFIGURATION.format(name=SERVER, url="sqlite:comity.db"), copied).database_file
        assert (await run(tmp_path / "first", "backup", str(file))).exit_code == 0
    (copied / "signing.key").write_bytes((tmp_path / "first" / "signing.key").read_bytes())
    async with a_place(copied) as place:
        assert said in place.timeline(room_id)
        await place.say(room_id, "again")


async def test_where_there_is_no_database_none_is_made(tmp_path: Path) -> None:
    for arguments in (("status",), ("check",), ("backup", str(tmp_path / "copy.db"))):
        result = await run(tmp_path, *arguments)
        assert result.exit_code == 1
        assert "the server has never run" in result.output
    assert [file.name for file in tmp_path.iterdir()] == ["comity.toml"]
