"""What stands between comity and its PostgreSQL server, and cuts them off at the moment that a test wants."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import psycopg

from comity.store.database import Database, last_position
from comity.store.migrations import migrate
from comity.store.postgres import PostgresDriver
from comity.store.postgres_connection import Connection, connect
from comity.store.postgres_settings import settings_of
from tests.engines import Pauses, url_of

#: Seconds after which what a test waits for has not come.
PATIENCE = 20.0
_STARTUP = 196_608


async def until(condition: Callable[[], object]) -> None:
    """Let others run until something has come true."""
    async with asyncio.timeout(PATIENCE):
        while True:
            if condition():
                return
            await asyncio.sleep(0)


async def turns(count: int = 50) -> None:
    """Let everybody run who can."""
    for _ in range(count):
        await asyncio.sleep(0)


def a_connection(folder: Path) -> Connection:
    """A connection of comity's own to the database of a test's folder."""
    return connect(settings_of(url_of(folder)), Pauses(), PATIENCE)


def postgres(driver: object) -> PostgresDriver:
    """A driver that is PostgreSQL's."""
    assert isinstance(driver, PostgresDriver)
    return driver


class Aside:
    """An operator's connection to the same database, which does what the test says."""

    def __init__(self, url: str) -> None:
        self._connection = psycopg.connect(url, autocommit=True, application_name="aside")

    def all(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        """The rows of a query, with psycopg's own parameters."""
        cursor = self._connection.execute(cast("Any", sql), parameters or None)
        return cursor.fetchall() if cursor.description else []

    def cut_off(self, process: int) -> None:
        """End a server's process, and wait until it is gone."""
        self.all("SELECT pg_terminate_backend(%s, 20000)", process)

    def processes(self) -> list[int]:
        """The server's processes behind comity's connections to this database."""
        found = self.all(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() "
            "AND application_name = 'comity' ORDER BY pid"
        )
        return [row[0] for row in found]

    def lease_holders(self) -> list[int]:
        """The server's processes that hold the writer's lease on this database."""
        found = self.all(
            "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND mode = 'ExclusiveLock' "
            "AND (classid::bigint << 32) | objid::bigint = %s AND database = "
            "(SELECT oid FROM pg_database WHERE datname = current_database())",
            int.from_bytes(b"comity", "big"),
        )
        return [row[0] for row in found]

    def rows(self) -> list[int]:
        """What is stored in the table `t` of `support.a_database`."""
        return [row[0] for row in self.all("SELECT n FROM t ORDER BY n")]


@contextlib.contextmanager
def aside(url: str) -> Iterator[Aside]:
    """Such a connection, closed afterwards."""
    operator = Aside(url)
    try:
        yield operator
    finally:
        operator._connection.close()


class _Link:
    """One connection through the proxy, as far as it was read."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client, self.server = client, server
        self._unread = b""
        self._started = False
        #: Names of prepared statements that are COMMIT.
        self._commits: set[bytes] = set()
        self.swallowed = b""

    def commits(self, sent: bytes) -> bool:
        """Read on in what the client sends: whether a COMMIT is in it."""
        self._unread += sent
        found = False
        while len(self._unread) >= 8:
            begin = 1 if self._started else 0
            (length,) = struct.unpack_from(">i", self._unread, begin)
            if len(self._unread) < begin + length:
                break
            kind, body = self._unread[:begin], self._unread[begin + 4 : begin + length]
            self._unread = self._unread[begin + length :]
            if not self._started:
                self._started = struct.unpack_from(">i", body)[0] == _STARTUP
            elif kind == b"P":
                name, sql, _ = body.split(b"\0", 2)
                if sql == b"COMMIT":
                    self._commits.add(name)
            elif kind == b"B":
                found = found or body.split(b"\0", 2)[1] in self._commits
        return found

    def close(self) -> None:
        """Cut both sides off."""
        for end in (self.client, self.server):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class Proxy:
    """Passes everything on between comity and the server, until it is told otherwise.

    It has threads of its own: comity's connections are opened while the whole process waits.
    """

    def __init__(self, url: str) -> None:
        """`url` is the database's; `self.url` leads there through this."""
        parts = urlsplit(url)
        assert parts.hostname, "a server that is reached by TCP"
        self._server = (parts.hostname, parts.port or 5432)
        self._listener = socket.create_server(("127.0.0.1", 0))
        here = f"127.0.0.1:{self._listener.getsockname()[1]}"
        who = "".join(parts.netloc.rpartition("@")[:2])
        self.url = parts._replace(netloc=who + here, query="sslmode=disable&gssencmode=disable").geturl()
        self._links: list[_Link] = []
        self._threads: list[threading.Thread] = []
        #: Whether whoever connects is turned away, and how many were.
        self.refuses = False
        self.refused = 0
        #: Whoever connects while this is not set waits for it.
        self.gate = threading.Event()
        self.gate.set()
        #: What becomes of the next COMMIT: "" (passed on), "not sent", or "no answer".
        self.next_commit = ""
        #: Called when that has happened and nobody has been told yet.
        self.on_cut: Callable[[], object] = lambda: None
        #: Called when somebody is turned away.
        self.on_refused: Callable[[], object] = lambda: None
        self._begin(self._accept)

    def _begin(self, function: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=function, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.refuses:
                self.refused += 1
                self.on_refused()
                client.close()
                continue
            self.gate.wait(PATIENCE)
            try:
                link = _Link(client, socket.create_connection(self._server))
            except OSError:
                client.close()
                continue
            self._links.append(link)
            self._begin(self._to_server, link)
            self._begin(self._to_client, link)

    def _to_server(self, link: _Link) -> None:
        try:
            while sent := link.client.recv(65_536):
                if link.commits(sent) and self.next_commit:
                    if self.next_commit == "not sent":
                        self._cut(link)
                        break
                    link.swallowed = b"\0"
                link.server.sendall(sent)
        except OSError:
            pass  # one of them is gone
        link.close()

    def _to_client(self, link: _Link) -> None:
        try:
            while answer := link.server.recv(65_536):
                if link.swallowed:
                    link.swallowed += answer
                    if b"COMMIT\0" in link.swallowed:
                        self._cut(link)
                        break
                else:
                    link.client.sendall(answer)
        except OSError:
            pass  # one of them is gone
        link.close()

    def _cut(self, link: _Link) -> None:
        self.next_commit = ""
        self.on_cut()
        link.close()

    def cut(self) -> None:
        """Cut everybody off."""
        for link in list(self._links):
            link.close()

    def refuse(self) -> None:
        """Cut everybody off and turn away who connects."""
        self.refuses = True
        self.cut()

    def close(self) -> None:
        """End it all."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.gate.set()
        self.cut()
        for thread in self._threads:
            thread.join(PATIENCE)
        for link in self._links:
            link.client.close()
            link.server.close()


@contextlib.contextmanager
def a_proxy(url: str) -> Iterator[Proxy]:
    """A proxy that is closed afterwards."""
    proxy = Proxy(url)
    try:
        yield proxy
    finally:
        proxy.close()


@contextlib.asynccontextmanager
async def a_database_at(
    url: str, pausing: Pauses | None = None
) -> AsyncIterator[tuple[Database, PostgresDriver]]:
    """As `support.a_database`, for a database that is reached by a URL."""
    driver = PostgresDriver(url, pausing or Pauses(), connections=2, exclusive=True)
    try:
        migrate(driver)
        table = "CREATE TABLE IF NOT EXISTS t (n BIGINT PRIMARY KEY, body TEXT)"
        driver.write_now(lambda tx: tx.script(table))
        database = Database(driver, driver.read_now(last_position))
    except BaseException:
        driver.close_now()
        raise
    try:
        yield database, driver
    finally:
        await database.close()
