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


class _Claim:
    """Somebody who waits until another gives a connection back."""

    def __init__(self, turn: Turn) -> None:
        self.turn = turn
        #: Whether it may have one, and the one, if it need not be made.
        self.granted = False
        self.connection: Connection | None = None


class Pool:
    """Lends connections, to those who come first."""

    def __init__(self, connect: Callable[[], Connection], pausing: Pausing, limit: int) -> None:
        """At most `limit` connections, made when they are needed."""
        self._connect = connect
        self._pausing = pausing
        self._limit = limit
        self._idle: list[Connection] = []
        #: How many are idle, lent, or being made.
        self._count = 0
        self._waiting: collections.deque[_Claim] = collections.deque()
        self._trouble: str | None = None

    def take(self) -> Connection:
        """A connection for the caller alone, who gives it back.

        Raises ConnectionLostError when there is none to be had, StoreOverloadedError.
        """
        if self._trouble is not None:
            raise ConnectionLostError(self._trouble)
        if self._idle:
            connection: Connection | None = self._idle.pop()
        elif self._count < self._limit:
            self._count += 1
            connection = None
        else:
            connection = self._wait()
        try:
            if self._trouble is not None:
                raise ConnectionLostError(self._trouble)
            return self._connect() if connection is None or connection.is_broken else connection
        except BaseException:
            self._pass_on(connection)
            raise

    def _wait(self) -> Connection | None:
        """Another's connection; None if one may be made in its place."""
        if len(self._waiting) >= MAX_WAITING:
            raise StoreOverloadedError("Too many reads are waiting for a connection")
        claim = _Claim(self._pausing.turn())
        self._waiting.append(claim)
        try:
            claim.turn.wait(WAIT_SECONDS)
        except TimeoutError:
            if claim.granted:
                # It came in the same moment: whoever is next must not miss it.
                self._pass_on(claim.connection)
            elif claim in self._waiting:
                self._waiting.remove(claim)
            raise StoreOverloadedError("No connection became free in time") from None
        if not claim.granted:
            raise ConnectionLostError(self._trouble or "The server did not answer")
        return claim.connection

    def give_back(self, connection: Connection) -> None:
        """The caller needs it no more."""
        if not connection.is_idle:
            connection.close()
        self._pass_on(connection)

    def _pass_on(self, connection: Connection | None) -> None:
        """What somebody had is the next one's: nobody who comes later gets in between."""
        if connection is not None and self._trouble is not None:
            connection.close()
        if connection is not None and connection.is_broken:
            connection = None
        if self._waiting:
            claim = self._waiting.popleft()
            claim.granted, claim.connection = True, connection
            claim.turn.come()
        elif connection is not None:
            self._idle.append(connection)
        else:
            self._count -= 1

    def fail(self, why: str) -> None:
        """The server does not answer: lend nothing until `recover`."""
        self._trouble = why
        idle, self._idle = self._idle, []
        self._count -= len(idle)
        for connection in idle:
            connection.close()
        waiting, self._waiting = self._waiting, collections.deque()
        for claim in waiting:
            claim.turn.come()

    def recover(self) -> None:
        """The server answers again."""
        self._trouble = None

    def close(self) -> None:
        """Close what nobody uses, and lend no more."""
        self.fail("The database is closed")
