"""`comity database move`: everything that the database holds, carried to another engine."""

from __future__ import annotations

import re
import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from comity.cli.administering import use_database
from comity.cli.configuration_text import toml
from comity.cli.files import CannotRun
from comity.cli.options import config_option, exit_with, load_or_exit
from comity.cli.serving import alone
from comity.config import Config
from comity.config.values import Unfit, database_url
from comity.net.pausing import GreenletPausing
from comity.net.system import SystemClock, ThreadOffload
from comity.store.database import (
    Database,
    Driver,
    EarlierWriteError,
    EngineError,
    StatementError,
    StoreFailedError,
    TransactionLostError,
)
from comity.store.engines import file_of, open_engine
from comity.store.migrations import SchemaError, available, current_version, migrate
from comity.store.move import Content, Move, MoveError, Table, content, discard, is_unfinished, tables

_CLOCK = SystemClock()
#: Seconds between two lines of progress where there is no terminal.
PROGRESS_SECONDS = 5.0
BAR = 24
#: What one of the engines may say in the middle: its disk is full, it has gone, it cannot hold a value.
_CUT_OFF = (StoreFailedError, StatementError, EarlierWriteError, TransactionLostError, sqlite3.Error)


class Progress:
    """How far a long work is, its rate and the time that is left, in the terminal or the log."""

    def __init__(self, what: str, total: int) -> None:
        """`total` is a number of rows."""
        self._what = what
        self._total = total
        self._began = self._told = _CLOCK.monotonic()
        self._first: int | None = None
        self._live = sys.stderr.isatty()

    def show(self, rows: int, of_what: str) -> None:
        """Tell that so many rows are done."""
        now = _CLOCK.monotonic()
        if self._first is None:
            self._first = rows
        if now - self._told >= (0.1 if self._live else PROGRESS_SECONDS):
            self._told = now
            self._tell(rows, of_what, now)

    def _tell(self, rows: int, of_what: str, now: float) -> None:
        rate = (rows - (self._first or 0)) / max(now - self._began, 1e-3)
        left = (self._total - rows) / rate if rate else 0.0
        part = rows / max(self._total, 1)
        bar = "#" * round(part * BAR)
        line = (
            f"{self._what} [{bar:-<{BAR}}] {part:4.0%}  {rows:,} of {self._total:,} rows, "
            f"{rate:,.0f} rows/s, {_minutes(left)} left  {of_what}"
        )
        click.echo(f"\r\x1b[K{line}" if self._live else line, nl=not self._live, err=True)

    def end(self) -> float:
        """It is done; the seconds it took."""
        if self._live:
            click.echo("\r\x1b[K", nl=False, err=True)
        return _CLOCK.monotonic() - self._began


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


@click.command("move")
@click.option("--to", "target", required=True, metavar="URL", help="Where to: as database.url.")
@click.option("--anew", is_flag=True, help="Empty a target that holds a part of an earlier move.")
@config_option
def command(target: str, anew: bool, path: Path | None) -> None:
    """Carry everything into another, empty database. The server must not run.

    The source is only read. A move that was cut off goes on where it was when it is run again.
    """
    config = load_or_exit(path)
    try:
        url = database_url(target, config.data_dir)
        with alone(config.data_dir):
            _move(config, url, anew=anew)
    except Unfit as error:
        exit_with([f"--to must be {error.expected}"], code=1)
    except (CannotRun, EngineError, SchemaError, MoveError) as error:
        exit_with([str(error)], code=1)
    except _CUT_OFF as error:
        exit_with(
            [f"the move was cut off: {error}", "Run it again when that is mended: it goes on where it was."],
            code=1,
        )


def _move(config: Config, url: str, *, anew: bool) -> None:
    if _place(url, config) == _place(config.database.url, config):
        raise MoveError("The database is there already")
    _must_be_there(config)
    pausing = GreenletPausing()
    source = open_engine(config.database.url, config.data_dir, pausing)
    try:
        version, newest = _version(source), available()[-1][0]
        if not version:
            raise CannotRun(f"{source.describe()} holds nothing of comity's: there is nothing to move")
        if version != newest:
            raise SchemaError(
                f"The database has schema version {version}, this program's is {newest}: "
                "run `comity database status` with it once, which brings the database there"
            )
        target = open_engine(url, config.data_dir, pausing)
        try:
            if 0 < _version(target) < newest and not is_unfinished(target):
                # Somebody's, from before: not even its schema is touched.
                raise MoveError(f"The target is not empty: it has schema version {_version(target)}")
            migrate(target, into_move=True)
            if anew:
                discard(target)
            _carry(source, target)
        finally:
            target.close_now()
    finally:
        source.close_now()
    click.echo(
        "Everything has arrived. Now write this into the configuration and start the server:\n"
        f"  [database]\n  url = {toml(_shown(url))}\n"
        "The old database is as it was; remove it when you are content."
    )


def _place(url: str, config: Config) -> Path | str:
    """The file of a database, whatever way to it is written; else the URL."""
    file = file_of(url, config.data_dir)
    return url if file is None else file.resolve()


def _version(driver: Driver) -> int:
    """The schema version; 0 where there is no schema at all."""
    return driver.read_now(lambda tx: current_version(tx) if driver.columns(tx, "schema_versions")[0] else 0)


def _must_be_there(config: Config) -> None:
    file = file_of(config.database.url, config.data_dir)
    if file is not None and not file.exists():
        raise CannotRun(f"there is no database {file} yet: there is nothing to move")


def _carry(source: Driver, target: Driver) -> None:
    move = Move(source, target)
    click.echo(f"from  {source.describe()}\nto    {target.describe()}")
    if move.is_taken_up:
        click.echo("going on with a move that was cut off")
    total = sum(move.sizes.values())
    copied = _over_tables("copying", move, total, move.copy)
    click.echo(f"copied {total:,} rows of {len(move.tables)} tables in {copied:.1f} s")
    verified = _over_tables("reading again", move, total, move.verify)
    click.echo(f"verified by number and digest in {verified:.1f} s")
    move.finish()


def _over_tables(what: str, move: Move, total: int, work: Callable[[Table], Iterator[int]]) -> float:
    progress = Progress(what, total)
    done = 0
    for table in move.tables:
        rows = 0
        for rows in work(table):
            progress.show(done + rows, table.name)
        done += rows
    return progress.end()


def _shown(url: str) -> str:
    """A URL without its passwords."""
    url = re.sub("(?<=password=)[^&]*", "…", url)
    scheme, separator, rest = url.partition("://")
    user, at, place = rest.rpartition("@")
    name, colon, _ = user.partition(":")
    return f"{scheme}{separator}{name}{':…' if colon else ''}{at}{place}" if separator else url


@click.command("digest")
@config_option
def digest(path: Path | None) -> None:
    """For each table a digest of its rows, which is the same on every engine, and their number."""

    async def work(_: Config, database: Database, __: ThreadOffload) -> None:
        listed = tables(database.driver)
        total = sum(rows for rows, _ in database.read_now(database.driver.table_sizes).values())
        progress, done = Progress("reading", total), 0
        told = []
        for table in listed:
            counted = Content()
            for counted in content(database.driver, table):
                progress.show(done + counted.rows, table.name)
            done += counted.rows
            told.append(f"{counted.packed().hex()}  {counted.rows:>12,}  {table.name}")
        progress.end()
        click.echo("\n".join(told))

    use_database(path, work)
