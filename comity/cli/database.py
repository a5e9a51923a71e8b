"""`comity database`: what the database is and holds, whether it is sound, a copy of it."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable
from pathlib import Path
from typing import TypeVar

import click

from comity.cli.administering import use_database
from comity.cli.files import CannotRun
from comity.cli.moving import command as move
from comity.cli.moving import digest
from comity.cli.options import config_option, exit_with
from comity.config import Config
from comity.net.system import ThreadOffload
from comity.rooms.room import know_all_rooms
from comity.store import sqlite
from comity.store.checks import MAX_TOLD, Invariant, ask, invariants
from comity.store.database import Database, Tx
from comity.store.engines import file_of
from comity.store.events import Events
from comity.store.growth import GROWTH
from comity.store.migrations import current_version
from comity.store.state import States

T = TypeVar("T")
#: Seconds between two lines of progress.
PROGRESS_SECONDS = 0.5


@click.group("database")
def command() -> None:
    """Look after the database. The server may be running."""


command.add_command(move)
command.add_command(digest)


@command.command("status")
@config_option
def status(path: Path | None) -> None:
    """The engine, the schema, and what every table takes."""

    async def work(config: Config, database: Database, _: ThreadOffload) -> None:
        version = database.read_now(current_version)
        click.echo(f"{database.driver.describe()}, schema version {version}")
        file = file_of(config.database.url, config.data_dir)
        if file is not None:
            log = file.with_name(file.name + "-wal")
            click.echo(f"{_size(file)} and {_size(log)} that wait to be moved into it")
        sizes = database.read_now(database.driver.table_sizes)
        click.echo(f"{'rows':>14}  {'size':>10}  {'table and its indexes':<22}  grows")
        for table, (rows, size) in sorted(
            sizes.items(), key=lambda item: (-item[1][1], -item[1][0], item[0])
        ):
            click.echo(f"{rows:>14,}  {_bytes(size):>10}  {table:<22}  {GROWTH.get(table, '')}".rstrip())

    use_database(path, work)


@command.command("check")
@config_option
def check(path: Path | None) -> None:
    """Ask every invariant of the store. Ends with exit code 1 if one is broken."""

    async def work(_: Config, database: Database, __: ThreadOffload) -> int:
        return database.read_now(_check)

    broken = use_database(path, work)
    if broken:
        exit_with([f"{broken} of the database's invariants are broken"], code=1)
    click.echo("The database is sound.")


def _check(tx: Tx) -> int:
    """How many invariants are broken; each is told."""
    events = Events()
    know_all_rooms(tx, events)
    return sum(not _holds(tx, invariant) for invariant in invariants(events, States()))


def _holds(tx: Tx, invariant: Invariant) -> bool:
    size = invariant.size(tx)
    told: list[str] = []
    with click.progressbar(length=size, label=invariant.name, width=20, file=sys.stderr) as bar:
        for sentence in ask(invariant, tx, bar.update):
            told.append(sentence)
            if len(told) == MAX_TOLD:
                break
    mark = click.style("broken", fg="red") if told else click.style("holds ", fg="green")
    click.echo(f"{mark}  {invariant.name} ({size:,} looked at)")
    for sentence in told:
        click.echo(f"          {sentence}")
    return not told


@command.command("backup")
@click.argument("target", metavar="FILE", type=click.Path(path_type=Path))
@config_option
def backup(target: Path, path: Path | None) -> None:
    """Write a whole copy of the database into FILE, which must not be there yet."""
    if target.exists():
        exit_with([f"{target} is there already: a backup never replaces a file"], code=1)

    async def work(config: Config, database: Database, offload: ThreadOffload) -> None:
        if file_of(config.database.url, config.data_dir) is None:
            raise CannotRun(
                f"{database.driver.describe()} has its own ways to be backed up while it runs: "
                f"pg_dump --format=custom --file={target} (docs/running.md)"
            )
        source, unfinished = config.database_file, target.with_name(target.name + ".unfinished")
        unfinished.unlink(missing_ok=True)
        # Private from the first byte on: it holds what people said, and hashes of their passwords.
        os.close(os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        try:
            await _with_progress(offload.run(sqlite.copy, source, unfinished), unfinished, source)
            await offload.run(_keep, unfinished, target)
        finally:
            unfinished.unlink(missing_ok=True)
        click.echo(f"{target} is a copy of {source}, {_size(target)}. Keep signing.key too.")

    use_database(path, work)


def _keep(unfinished: Path, target: Path) -> None:
    """Give a finished copy its name once it is on the disk."""
    with unfinished.open("rb") as file:
        os.fsync(file.fileno())
    unfinished.rename(target)


async def _with_progress(copying: Awaitable[T], target: Path, source: Path) -> T:
    """Wait, and tell how far the copy has come."""
    task = asyncio.ensure_future(copying)
    while not (await asyncio.wait({task}, timeout=PROGRESS_SECONDS))[0]:
        click.echo(f"\r{_size(target)} of at most {_size(source)} ", nl=False, err=True)
    return await task


def _size(file: Path) -> str:
    return _bytes(file.stat().st_size if file.exists() else 0)


def _bytes(size: int) -> str:
    amount, unit = float(size), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if amount < 1024 or unit == "TiB":
            break
        amount /= 1024
    return f"{amount:,.0f} {unit}" if unit == "B" else f"{amount:,.1f} {unit}"
