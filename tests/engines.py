"""Both engines for every test that has a database: which one the present test is run on.

A test asks for the database of a folder of its own; on PostgreSQL that is a database of the run's
server, handed on empty from test to test. The server is that of COMITY_TEST_POSTGRESQL, or one that
the run starts for itself where the programs are installed.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import re
import shutil
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar, TypeVar

import psycopg
import pytest

from comity.net.pausing import GreenletPausing
from comity.ports import Offload
from comity.store.database import Driver
from comity.store.engines import open_engine
from comity.store.sqlite import SqliteDriver
from tests.postgres_server import THROWAWAY, PostgresServer, programs

T = TypeVar("T")
SQLITE, POSTGRESQL = "sqlite", "postgresql"
ENGINES = (SQLITE, POSTGRESQL)
#: Whoever has a server gives the URL of a database on it whose user may create others.
GIVEN = "COMITY_TEST_POSTGRESQL"
#: A folder that all processes of one run share; set by the first of them (tests/conftest.py).
RUN_FOLDER = "COMITY_TEST_RUN"
HOW_TO_HAVE_IT = (
    "PostgreSQL is not here: install it (Debian: apt-get install postgresql), or name a server whose "
    f"user may create databases in {GIVEN}"
)


class _Databases:
    """The databases on the run's server that this process uses."""

    def __init__(self) -> None:
        self._server: str | None = None
        self._free: list[str] = []
        #: folder -> database name, of the present test.
        self._of_folder: dict[Path, str] = {}
        self._count = 0

    def url_of(self, folder: Path) -> str:
        """The URL of a folder's database, which the present test finds empty."""
        name = self._of_folder.get(folder)
        if name is None:
            name = self._of_folder[folder] = self._free.pop() if self._free else self._make()
        return self.url(name)

    def lasting(self) -> str:
        """The URL of an empty database that is nobody else's for the rest of the run."""
        return self.url(self._make())

    def url(self, name: str) -> str:
        """The URL of a database."""
        return re.sub(r"/[^/]*$", f"/{name}", self.server())

    def server(self) -> str:
        """The URL of a database on the run's server; skips the test where there is none."""
        if self._server is None:
            self._server = os.environ.get(GIVEN) or _shared_server()
        if self._server is None:
            pytest.skip(HOW_TO_HAVE_IT)
        return self._server

    def _make(self, template: str = "template0") -> str:
        self._count += 1
        worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
        name = f"comity_test_{worker}_{os.getpid()}_{self._count}"
        with psycopg.connect(self.server(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} ENCODING 'UTF8' LOCALE 'C' TEMPLATE {template}")
        return name

    def copy(self, folder: Path, copied: Path) -> None:
        """Give a folder a copy of another one's database, which nobody uses now."""
        self._of_folder[copied] = self._make(self._of_folder[folder])

    def recycle(self) -> None:
        """The present test is over: empty its databases."""
        for name in self._of_folder.values():
            with psycopg.connect(self.url(name), autocommit=True) as connection:
                connection.execute(_EMPTY)
            self._free.append(name)
        self._of_folder.clear()


_EMPTY = """DO $$
DECLARE
    name text;
BEGIN
    PERFORM pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid();
    FOR name IN SELECT relname FROM pg_class
            WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace LOOP
        IF name IN ('t', 'pair', 'p', 'c', 'move_progress') THEN
            EXECUTE format('DROP TABLE IF EXISTS %I CASCADE', name);
        ELSIF name <> 'schema_versions' THEN
            EXECUTE format('DELETE FROM %I', name);
        END IF;
    END LOOP;
    IF to_regclass('log_position') IS NOT NULL THEN
        INSERT INTO log_position (id, last) VALUES (1, 0);
    END IF;
END $$"""


def _shared_server() -> str | None:
    """The server that all processes of this run share, started by whoever needs it first."""
    if programs() is None:
        return None
    folder = Path(os.environ[RUN_FOLDER])
    told = folder / "postgresql"
    with (folder / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not told.exists():
            server = PostgresServer(settings=THROWAWAY)
            server.start()
            told.write_text(f"{server.folder}\n{server.url('postgres')}\n")
    return told.read_text().split()[1]


def stop_shared_server(folder: Path) -> None:
    """End the run's own server, if it was started."""
    told = folder / "postgresql"
    if told.exists():
        PostgresServer.at(Path(told.read_text().split()[0])).stop()


class Pauses(GreenletPausing):
    """The real thing; knows whether any of them is waiting, and lets a test hold commits.

    `commits` is the Offload in which SQLite's commits wait for the disk: a test that holds or counts
    those does so on PostgreSQL too, where commits wait without a thread.
    """

    _all: ClassVar[weakref.WeakSet[Pauses]] = weakref.WeakSet()

    def __init__(self, commits: Offload | None = None) -> None:
        super().__init__()
        self._commits = commits
        self._all.add(self)

    @classmethod
    def any_waits(cls) -> bool:
        """Whether a function waits for a database server anywhere in this process."""
        return any(each.is_waiting for each in cls._all)

    async def run(self, function: Callable[[], T]) -> T:
        if self._commits is not None and getattr(function, "__name__", "") == "_commit":
            await self._commits.run(_nothing)
        return await super().run(function)


def _nothing() -> None:
    """What is held."""


async def quiet(turns: int = 200) -> None:
    """Let every task run until all of them wait for something else than a database."""
    idle = 0
    while idle < turns:
        await asyncio.sleep(0)
        idle = 0 if Pauses.any_waits() else idle + 1


DATABASES = _Databases()
_current = SQLITE


def current() -> str:
    """The engine that the present test is run on."""
    return _current


@contextlib.contextmanager
def running_on(engine: str) -> Iterator[None]:
    """Run a test on an engine."""
    global _current
    before, _current = _current, engine
    try:
        if engine == POSTGRESQL:
            DATABASES.server()
        yield
    finally:
        _current = before
        DATABASES.recycle()


def url_of(folder: Path, name: str = "comity.db") -> str:
    """The `database.url` of a test's folder, on the present engine."""
    return DATABASES.url_of(folder / name) if _current == POSTGRESQL else f"sqlite:{name}"


def copy_folder(folder: Path, copied: Path, name: str = "comity.db") -> None:
    """Copy a test's folder and its database, which nobody uses now."""
    shutil.copytree(folder, copied)
    if _current == POSTGRESQL:
        DATABASES.copy(folder / name, copied / name)


def refuse_events(driver: Driver) -> None:
    """The database refuses the next events that are written, and goes on refusing until `mend`."""
    driver.write_now(lambda tx: tx.script(_REFUSE[_current]))


def mend(driver: Driver) -> None:
    """The database works again."""
    on = " ON events" if _current == POSTGRESQL else ""
    driver.write_now(lambda tx: tx.script(f"DROP TRIGGER refuse{on}"))


_REFUSE = {
    SQLITE: "CREATE TRIGGER refuse BEFORE INSERT ON events BEGIN SELECT RAISE(ABORT, 'refused'); END",
    POSTGRESQL: "CREATE OR REPLACE FUNCTION refuse_it() RETURNS trigger LANGUAGE plpgsql "
    "AS 'BEGIN RAISE EXCEPTION ''refused''; END';\n"
    "CREATE TRIGGER refuse BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION refuse_it()",
}


def refuse_at_commit(driver: Driver) -> None:
    """Rows in table `c` break a deferred constraint, which is found at their COMMIT and not before."""
    if isinstance(driver, SqliteDriver):
        driver._writer.execute("PRAGMA foreign_keys=1")
    driver.write_now(
        lambda tx: tx.script(
            "CREATE TABLE IF NOT EXISTS p (id BIGINT PRIMARY KEY);\n"
            "CREATE TABLE IF NOT EXISTS c (id BIGINT REFERENCES p (id) DEFERRABLE INITIALLY DEFERRED)"
        )
    )


def a_driver_of(
    folder: Path, offload: Offload | None = None, *, name: str = "comity.db", exclusive: bool = True
) -> Driver:
    """The database of a test's folder on the present engine, as it is."""
    return open_engine(
        url_of(folder, name), folder, Pauses(offload), offload=offload, connections=4, exclusive=exclusive
    )


@pytest.fixture(autouse=True, params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    """For a conftest.py to import: every test below it runs on both engines.

    Those that are about one engine are marked `engine("sqlite")` or `engine("postgresql")`.
    """
    wanted: str = request.param
    with running_on(wanted):
        yield wanted
