"""Connections to PostgreSQL that read: a bounded number, lent to one function at a time."""

from __future__ import annotations

import collections
from collections.abc import Callable

from comity.ports import Pausing, Turn
from comity.store.database import StoreOverloadedError
from comity.store.postgres_connection import Connection, ConnectionLostError

#: Functions that wait for a connection; past it the server is overloaded and says so.
MAX_WAITING = 10_000
#: Seconds that one of them waits at most.
WAIT_SECONDS = 30.0


class Pool:
    """Lends connections."""

    def __init__(self, connect: Callable[[], Connection], pausing: Pausing, limit: int) -> None:
        """At most `limit` connections, made when they are needed."""
        self._connect = connect
        self._pausing = pausing
        self._limit = limit
        self._idle: list[Connection] = []
        self._count = 0
        self._waiting: collections.deque[Turn] = collections.deque()
        self._trouble: str | None = None

    def take(self) -> Connection:
        """A connection for the caller alone, who gives it back.

        Raises ConnectionLostError when there is none to be had, StoreOverloadedError.
        """
        while True:
            if self._trouble is not None:
                raise ConnectionLostError(self._trouble)
            while self._idle:
                connection = self._idle.pop()
                if not connection.is_broken:
                    return connection
                self._count -= 1
            if self._count < self._limit:
                self._count += 1
                try:
                    return self._connect()
                except BaseException:
                    self._count -= 1
                    self._wake()
                    raise
            self._wait()

    def _wait(self) -> None:
        if len(self._waiting) >= MAX_WAITING:
            raise StoreOverloadedError("Too many reads are waiting for a connection")
        turn = self._pausing.turn()
        self._waiting.append(turn)
        try:
            turn.wait(WAIT_SECONDS)
        except TimeoutError:
            if turn in self._waiting:
                self._waiting.remove(turn)
            else:
                # It came in the same moment: whoever is next must not miss it.
                self._wake()
            raise StoreOverloadedError("No connection became free in time") from None

    def give_back(self, connection: Connection) -> None:
        """The caller needs it no more."""
        if connection.is_broken or connection.in_transaction or self._trouble is not None:
            connection.close()
            self._count -= 1
        else:
            self._idle.append(connection)
        self._wake()

    def _wake(self) -> None:
        if self._waiting:
            self._waiting.popleft().come()

    def fail(self, why: str) -> None:
        """The server does not answer: lend nothing until `recover`."""
        self._trouble = why
        idle, self._idle = self._idle, []
        self._count -= len(idle)
        for connection in idle:
            connection.close()
        waiting, self._waiting = self._waiting, collections.deque()
        for turn in waiting:
            turn.come()

    def recover(self) -> None:
        """The server answers again."""
        self._trouble = None

    def close(self) -> None:
        """Close what nobody uses, and lend no more."""
        self.fail("The database is closed")
