"""`comity database move`: a server's database carried to the other engine by the operator's command.

The engine of a test is that of the server; it is moved to the other one.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest
from click.testing import CliRunner, Result

from comity.app import build
from comity.cli import main
from comity.cli.serving import alone
from comity.config import loads
from comity.ports import Ports
from comity.store import move as moving
from comity.store import postgres_lease
from comity.store.database import Driver, GroupTx
from comity.store.engines import open_engine
from comity.store.migrations import MOVE_PROGRESS, available, migrate
from tests.api.support_rooms import CONFIGURATION, SERVER, Network, NoResolver, Place, bodies, place
from tests.api.support_users import InlineOffload, SeededEntropy, TurnedClock
from tests.engines import DATABASES, POSTGRESQL, Pauses, current, engine, url_of

# Every test here runs on both engines.
__all__ = ["engine"]

SECRET = "open-sesame"
NEWEST = available()[-1][0]


def with_password(url: str) -> str:
    """A URL with a password in it; the tests' own server asks for none."""
    parts = urlsplit(url)
    if parts.scheme == "sqlite" or parts.password is not None:
        return url
    return urlunsplit(parts._replace(netloc=parts.netloc.replace("@", f":{SECRET}@")))


def other_url(folder: Path) -> str:
    """The URL of an empty database on the other engine."""
    if current() == POSTGRESQL:
        return "sqlite:other.db"
    return with_password(DATABASES.url_of(folder / "other.db"))


def run(folder: Path, url: str, *arguments: str) -> Result:
    """Run a command of a server whose database is at a URL."""
    config = folder / "comity.toml"
    config.write_text(CONFIGURATION.format(name=SERVER, url=url, federation="false"))
    # In a thread: some commands have a loop of their own.
    with ThreadPoolExecutor(1) as thread:
        line = ["database", *arguments, "--config", str(config)]
        result = thread.submit(CliRunner().invoke, main, line).result()
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    for part in map(str, (url, *arguments)):
        password = urlsplit(part).password if "://" in part else None
        assert password is None or password not in result.output
    return result


def refused(folder: Path, url: str, *arguments: str) -> str:
    """What a command says that does not do what was asked for."""
    result = run(folder, url, *arguments)
    assert result.exit_code == 1, result.output
    assert "Everything has arrived" not in result.output
    return result.output


@contextlib.asynccontextmanager
async def serving(folder: Path, url: str) -> AsyncIterator[Place]:
    """A server on the database at a URL."""
    ports = Ports(TurnedClock(), SeededEntropy(2), Network(), NoResolver(), InlineOffload(), Pauses())
    app = build(loads(CONFIGURATION.format(name=SERVER, url=url, federation="false"), folder), ports)
    await app.start()
    try:
        yield Place(app, TurnedClock())
    finally:
        await app.stop()


@contextlib.contextmanager
def opened(folder: Path, url: str, *, exclusive: bool = False) -> Iterator[Driver]:
    driver = open_engine(url, folder, Pauses(), connections=2, exclusive=exclusive)
    try:
        yield driver
    finally:
        driver.close_now()


def digest(folder: Path, url: str) -> str:
    result = run(folder, url, "digest")
    assert result.exit_code == 0, result.output
    return result.stdout


async def a_server(folder: Path) -> str:
    """Let a server run in a folder; the id of its room."""
    async with place(folder) as served:
        alice = await served.client("alice")
        room_id = await alice.create()
        await alice.say_all(room_id, "one", "\0two\ufdd0")
    return room_id


def empty(folder: Path, url: str) -> None:
    """A server's database in which nothing has happened."""
    with opened(folder, url) as driver:
        migrate(driver)


async def test_there_and_back_and_nobody_notices(tmp_path: Path) -> None:
    first, second = url_of(tmp_path), other_url(tmp_path)
    async with place(tmp_path) as served:
        alice, bob = await served.clients("alice", "bob")
        room_id = await alice.create()
        await bob.join(room_id)
        await alice.say(room_id, "before")
        since = await bob.token_now()
        await alice.say(room_id, "while bob was away")
    before = digest(tmp_path, first)
    result = run(tmp_path, first, "move", "--to", second)
    assert result.exit_code == 0, result.output
    assert digest(tmp_path, second) == before
    async with serving(tmp_path, second) as served:
        here = served.again(bob)
        synced = await here.sync(since)
        assert bodies(synced["rooms"]["join"][room_id]["timeline"]["events"]) == ["while bob was away"]
        await here.say(room_id, "from the other engine")
        await served.again(alice).redact(room_id, await here.say(room_id, "not this"))
    # The first database is still what it was; a third one takes everything back.
    assert digest(tmp_path, first) == before
    third = url_of(tmp_path, "third.db")
    after = digest(tmp_path, second)
    assert run(tmp_path, second, "move", "--to", third).exit_code == 0
    assert digest(tmp_path, third) == after != before
    async with serving(tmp_path, third) as served:
        here = served.again(bob)
        events = (await here.sync(since))["rooms"]["join"][room_id]["timeline"]["events"]
        assert bodies(events) == ["while bob was away", "from the other engine"]
        assert (await served.again(alice).sync(synced["next_batch"]))["rooms"]["join"][room_id]
        await here.say(room_id, "home again")


async def test_it_says_what_to_do_next(tmp_path: Path) -> None:
    await a_server(tmp_path)
    first, second = url_of(tmp_path), other_url(tmp_path)
    result = run(tmp_path, first, "move", "--to", second)
    assert result.exit_code == 0
    assert SECRET not in result.output
    with opened(tmp_path, first) as source, opened(tmp_path, second) as target:
        assert f"from  {source.describe()}\nto    {target.describe()}\n" in result.stdout
    assert re.search(r"copied [\d,]+ rows of \d+ tables in", result.stdout)
    shown = second.replace(f":{SECRET}@", ":…@")
    assert f'  [database]\n  url = "{shown}"\n' in result.stdout
    assert result.stdout.endswith("The old database is as it was; remove it when you are content.\n")
    assert "cut off" not in result.stdout


async def test_a_digest_tells_of_every_table(tmp_path: Path) -> None:
    await a_server(tmp_path)
    lines = [line.split() for line in digest(tmp_path, url_of(tmp_path)).splitlines()]
    with opened(tmp_path, url_of(tmp_path)) as driver:
        names = driver.read_now(driver.table_sizes).keys() - {"schema_versions", "writer_lease"}
    assert {line[2] for line in lines} == names
    assert all(re.fullmatch("[0-9a-f]{32}", line[0]) for line in lines)
    assert {line[2]: line[1] for line in lines}["users"] == "1"


async def test_a_move_that_was_cut_off_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The target cannot take what comes; when it can, the same command ends what was begun."""
    await a_server(tmp_path)
    first, second = url_of(tmp_path), other_url(tmp_path)
    monkeypatch.setattr(moving, "CHUNK_ROWS", 3)
    empty(tmp_path, second)
    with opened(tmp_path, second) as target:
        target.write_now(lambda tx: tx.script("ALTER TABLE events RENAME COLUMN sender TO renamed"))
        assert "events of the target" in refused(tmp_path, first, "move", "--to", second)
        target.write_now(lambda tx: tx.script("ALTER TABLE events RENAME COLUMN renamed TO sender"))
        target.write_now(lambda tx: tx.script("CREATE UNIQUE INDEX narrow ON events (room_num)"))
        said = refused(tmp_path, first, "move", "--to", second)
        target.write_now(lambda tx: tx.script("DROP INDEX narrow"))
    assert "comity: the move was cut off: " in said
    assert "Run it again when that is mended: it goes on where it was." in said
    # Nobody takes it for a whole one, and it is not moved on.
    assert "part of a move that was not finished" in refused(tmp_path, second, "status")
    assert "source itself holds a part" in refused(tmp_path, second, "move", "--to", third(tmp_path))
    result = run(tmp_path, first, "move", "--to", second)
    assert result.exit_code == 0, result.output
    assert "going on with a move that was cut off" in result.stdout
    assert digest(tmp_path, first) == digest(tmp_path, second)


def third(folder: Path) -> str:
    return url_of(folder, "third.db")


async def test_a_source_that_has_changed_since(tmp_path: Path) -> None:
    await a_server(tmp_path)
    first, second = url_of(tmp_path), other_url(tmp_path)
    empty(tmp_path, second)
    with opened(tmp_path, first) as source, opened(tmp_path, second) as target:
        begun = moving.Move(source, target)
        list(begun.copy(begun.tables[0]))
    async with place(tmp_path, seed=2) as served:
        await served.client("bob")
    said = refused(tmp_path, first, "move", "--to", second)
    assert "the source has changed since: run it with --anew" in said
    result = run(tmp_path, first, "move", "--anew", "--to", second)
    assert result.exit_code == 0, result.output
    assert "going on" not in result.stdout
    assert digest(tmp_path, first) == digest(tmp_path, second)


async def test_anew_empties_nothing_but_a_part_of_a_move(tmp_path: Path) -> None:
    await a_server(tmp_path)
    first, second = url_of(tmp_path), other_url(tmp_path)
    assert run(tmp_path, first, "move", "--to", second).exit_code == 0
    before = digest(tmp_path, second)
    for arguments in ((), ("--anew",)):
        assert "not empty: it holds" in refused(tmp_path, first, "move", *arguments, "--to", second)
    assert digest(tmp_path, second) == before


async def test_not_while_a_server_runs(tmp_path: Path) -> None:
    await a_server(tmp_path)
    with alone(tmp_path):
        said = refused(tmp_path, url_of(tmp_path), "move", "--to", other_url(tmp_path))
    assert f"another comity is running on {tmp_path}; stop that one first" in said
    assert not (tmp_path / "other.db").exists()


@pytest.mark.parametrize(
    "leased",
    [
        pytest.param("source", marks=pytest.mark.engine("postgresql")),
        pytest.param("target", marks=pytest.mark.engine("sqlite")),
    ],
)
def test_not_while_a_server_elsewhere_uses_either(
    tmp_path: Path, leased: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database server's lease holds against the whole world, where a folder's lock does not."""
    monkeypatch.setattr(postgres_lease, "PATIENCE_SECONDS", 0.1)
    first, second = url_of(tmp_path), other_url(tmp_path)
    empty(tmp_path, first)
    with opened(tmp_path, first if leased == "source" else second, exclusive=True):
        said = refused(tmp_path, first, "move", "--to", second)
    assert "another comity is running on this database" in said
    with opened(tmp_path, second) as target:
        assert MOVE_PROGRESS not in target.read_now(target.table_sizes)


def refused_where_it_is(folder: Path, written: str) -> None:
    url = url_of(folder)
    empty(folder, url)
    before = digest(folder, url)
    assert "The database is there already" in refused(folder, url, "move", "--to", written)
    assert digest(folder, url) == before


def test_where_it_is_already(tmp_path: Path) -> None:
    refused_where_it_is(tmp_path, url_of(tmp_path))


@pytest.mark.engine("sqlite")
@pytest.mark.parametrize("written", ["sqlite:./comity.db", "sqlite:folder/../comity.db", "sqlite:link.db"])
def test_where_it_is_already_by_another_way(tmp_path: Path, written: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.db").symlink_to(tmp_path / "comity.db")
    refused_where_it_is(tmp_path, written)


@pytest.mark.parametrize(
    "url", ["", "other.db", "sqlite:", "mysql://u:open-sesame@localhost/c", "postgresql:c"]
)
def test_what_is_no_url_of_a_database(tmp_path: Path, url: str) -> None:
    first = url_of(tmp_path)
    empty(tmp_path, first)
    before = {file.name for file in tmp_path.iterdir()}
    said = refused(tmp_path, first, "move", "--to", url)
    assert said.startswith('comity: --to must be "sqlite:" and a file name')
    assert SECRET not in said
    assert {file.name for file in tmp_path.iterdir()} - before == {"comity.toml"}


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://comity:open-sesame@127.0.0.1:1/comity",
        "postgresql://127.0.0.1:1/comity?user=comity&password=open-sesame",
        "sqlite:no/such/folder/other.db",
    ],
)
def test_where_no_database_answers(tmp_path: Path, url: str) -> None:
    first = url_of(tmp_path)
    empty(tmp_path, first)
    said = refused(tmp_path, first, "move", "--to", url)
    assert "PostgreSQL does not answer for comity on 127.0.0.1:1" in said or "cannot be used" in said
    assert SECRET not in said


def test_where_there_is_nothing_to_move(tmp_path: Path) -> None:
    """The server has never run on it."""
    first, second = url_of(tmp_path), other_url(tmp_path)
    if current() == POSTGRESQL:
        with opened(tmp_path, first) as driver:
            for name in driver.read_now(driver.table_sizes):
                driver.write_now(lambda tx: tx.script(f"DROP TABLE {name}"))  # noqa: B023
    assert "there is nothing to move" in refused(tmp_path, first, "move", "--to", second)
    assert not (tmp_path / "comity.db").exists()
    assert not (tmp_path / "other.db").exists()


@pytest.mark.engine("sqlite")
def test_a_file_that_is_no_database_of_comitys(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "comity.db")) as connection:
        connection.execute("CREATE TABLE of_somebody (else_ INTEGER)")
    said = refused(tmp_path, "sqlite:comity.db", "move", "--to", "sqlite:other.db")
    assert "holds nothing of comity's: there is nothing to move" in said
    assert not (tmp_path / "other.db").exists()


@pytest.mark.parametrize("version", [NEWEST - 1, NEWEST + 1])
def test_a_source_of_another_schema(tmp_path: Path, version: int) -> None:
    first, second = url_of(tmp_path), other_url(tmp_path)
    empty(tmp_path, first)
    set_version(tmp_path, first, version)
    try:
        said = refused(tmp_path, first, "move", "--to", second)
        assert f"schema version {version}, this program's is {NEWEST}" in said
    finally:
        set_version(tmp_path, first, NEWEST)


@pytest.mark.parametrize("version", [NEWEST - 1, NEWEST + 1])
def test_a_target_of_another_schema_is_left_alone(tmp_path: Path, version: int) -> None:
    first, second = url_of(tmp_path), other_url(tmp_path)
    empty(tmp_path, first)
    empty(tmp_path, second)
    set_version(tmp_path, second, version)
    try:
        said = refused(tmp_path, first, "move", "--to", second)
        assert f"schema version {version}" in said
        with opened(tmp_path, second) as target:
            found = target.read_now(lambda tx: tx.one("SELECT max(version) FROM schema_versions"))
        assert found == (version,)
    finally:
        set_version(tmp_path, second, NEWEST)


def set_version(folder: Path, url: str, version: int) -> None:
    """Have a database claim to be of a schema."""

    def put(tx: GroupTx) -> None:
        tx.run("DELETE FROM schema_versions")
        numbers = [(number,) for number in range(1, version + 1)]
        tx.many("INSERT INTO schema_versions (version) VALUES (?)", numbers)

    with opened(folder, url) as driver:
        driver.write_now(put)
