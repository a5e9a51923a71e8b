"""Fixtures of the interop suite: a CA, two servers, users; logs shown when a test fails.

`COMITY_INTEROP_PAIR` names the software on each side, "here,there" (default
"comity,synapse"). `synapse,synapse` proves the tests themselves.
"""

from __future__ import annotations

import os
import random
import string
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path

import aiohttp
import pytest

from tests.engines import DATABASES, ENGINES, POSTGRESQL, SQLITE
from tests.interop.authority import Authority, create_authority
from tests.interop.client import Client, MakeUser, register
from tests.interop.front import Fronts, fronted
from tests.interop.peer import Peer
from tests.interop.peer_service import serve_peer
from tests.interop.servers import Homeserver, Pair, make_server, missing

PAIR = os.environ.get("COMITY_INTEROP_PAIR", "comity,synapse").split(",")
#: The room versions that the issue names: the newest two, the most used, the first of each format.
ROOM_VERSIONS = ("12", "11", "10", "6", "1")

_running: list[Homeserver] = []
_log_marks: dict[Path, int] = {}


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return create_authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session", params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """The engine of the server under test."""
    wanted: str = request.param
    if PAIR[0] != "comity" and wanted != SQLITE:
        pytest.skip("only comity is tried on both engines")
    return wanted


def running(
    software: str, directory: Path, authority: Authority, engine: str = SQLITE, *, behind_front: bool = False
) -> Iterator[Homeserver]:
    """A started server; stopped afterwards, and it must stop cleanly."""
    reason = missing(software)
    if reason is not None:
        pytest.skip(reason)
    database = DATABASES.lasting() if engine == POSTGRESQL else ""
    server = make_server(software, directory, authority, database=database, behind_front=behind_front)
    server.process.start()
    _running.append(server)
    try:
        yield server
    finally:
        _running.remove(server)
        server.process.stop()


@pytest.fixture(scope="session")
def here(tmp_path_factory: pytest.TempPathFactory, authority: Authority, engine: str) -> Iterator[Homeserver]:
    """The server under test."""
    yield from running(PAIR[0], tmp_path_factory.mktemp("here"), authority, engine)


@pytest.fixture(scope="session")
def there(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Homeserver]:
    """The server of another make."""
    yield from running(PAIR[1], tmp_path_factory.mktemp("there"), authority)


@pytest.fixture(params=["here", "there"], ids=["hosted-here", "hosted-there"])
def pair(request: pytest.FixtureRequest, here: Homeserver, there: Homeserver) -> Pair:
    """Both directions: the room lives on one server, the guest comes from the other."""
    return Pair(here, there) if request.param == "here" else Pair(there, here)


@pytest.fixture(scope="session")
def here_fronted(
    tmp_path_factory: pytest.TempPathFactory, authority: Authority, engine: str
) -> Iterator[Homeserver]:
    """Another server of the make under test, which is reached through a front alone."""
    yield from running(PAIR[0], tmp_path_factory.mktemp("here"), authority, engine, behind_front=True)


@pytest.fixture(scope="session")
def there_fronted(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Homeserver]:
    """The same of another make."""
    yield from running(PAIR[1], tmp_path_factory.mktemp("there"), authority, behind_front=True)


@pytest.fixture(params=["here", "there"], ids=["hosted-here", "hosted-there"])
def fronted_pair(request: pytest.FixtureRequest, here_fronted: Homeserver, there_fronted: Homeserver) -> Pair:
    """Both directions between servers behind fronts."""
    servers = (here_fronted, there_fronted)
    return Pair(*servers if request.param == "here" else reversed(servers))


@pytest.fixture
async def fronts(fronted_pair: Pair) -> AsyncIterator[Fronts]:
    """The fronts of that pair, which hide nothing yet."""
    host, guest = fronted_pair.host, fronted_pair.guest
    async with fronted(host) as one, fronted(guest) as other:
        yield {host.name: one, guest.name: other}


@pytest.fixture(params=ROOM_VERSIONS, ids=[f"v{version}" for version in ROOM_VERSIONS])
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def http(authority: Authority) -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(ssl=authority.client_context(), limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        yield session


@pytest.fixture
def user(http: aiohttp.ClientSession) -> MakeUser:
    """Makes a fresh user whose name starts as asked, on the server asked."""

    async def make(server: Homeserver, name: str) -> Client:
        suffix = "".join(random.choices(string.ascii_lowercase + string.digits, k=8))
        return await register(http, server, f"{name}-{suffix}")

    return make


@pytest.fixture
async def alice(pair: Pair, user: MakeUser) -> Client:
    """A user where the room lives."""
    return await user(pair.host, "alice")


@pytest.fixture
async def bob(pair: Pair, user: MakeUser) -> Client:
    """A user on the other server."""
    return await user(pair.guest, "bob")


@pytest.fixture
async def peer(authority: Authority) -> AsyncIterator[Peer]:
    """A federation peer in this process; at the end it must have nothing to complain of."""
    async with serve_peer(authority) as serving:
        yield serving
        assert not serving.complaints


def pytest_runtest_setup(item: pytest.Item) -> None:
    for server in _running:
        _log_marks[server.process.log] = server.process.log_size()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        for server in _running:
            since = _log_marks.get(server.process.log, 0)
            title = f"log of {server.process.title} during this test"
            report.sections.append((title, server.process.tail(since)))
    return report
