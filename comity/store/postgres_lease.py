"""The lease on a PostgreSQL database: one process alone writes to it.

An advisory lock of the server's, held by the writing connection, so that it ends however the
process ends. In its row stand how often it changed hands (`fence`) and the number of the last
group that was committed under it (`written`): so whoever lost the connection in the middle of a
commit can see what became of it, and whether somebody else has been here since.
"""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Callable

from comity.ports import Pausing
from comity.store.database import EngineError
from comity.store.postgres_connection import Connection, ConnectionLostError

_log = logging.getLogger(__name__)
#: The advisory lock's key: "comity" as a number.
KEY = int.from_bytes(b"comity", "big")
#: Seconds that a lease is waited for: the server may not have noticed yet that its holder is gone.
PATIENCE_SECONDS = 10.0
#: Seconds between two attempts to take it.
RETRY_SECONDS = 0.2
_TABLE = (
    "CREATE TABLE IF NOT EXISTS writer_lease (id BIGINT PRIMARY KEY, fence BIGINT NOT NULL, "
    "written BIGINT NOT NULL, holder TEXT NOT NULL)"
)


class LeaseLostError(Exception):
    """Somebody else has held the lease meanwhile."""


class Lease:
    """This process's hold on the database."""

    def __init__(self, connect: Callable[[], Connection], pausing: Pausing) -> None:
        self._connect = connect
        self._pausing = pausing
        self._fence = 0
        self._written = 0
        self._marked = 0
        self._process_id = 0

    def take_first(self, connection: Connection) -> None:
        """Take the lease at the start. Raises EngineError when another process holds it."""
        until = self._pausing.monotonic() + PATIENCE_SECONDS
        told = False
        while not self._try(connection):
            if self._pausing.monotonic() >= until:
                raise EngineError(
                    f"another comity is running on this database ({_holder(connection)}); stop that one first"
                )
            if not told:
                _log.info("waiting for the lease on the database, which %s holds", _holder(connection))
                told = True
            self._pausing.pause(RETRY_SECONDS)
        connection.send("SET client_min_messages = warning")
        connection.send(_TABLE)
        connection.wait()
        row = connection.rows(
            "INSERT INTO writer_lease (id, fence, written, holder) VALUES (1, 1, 0, ?) "
            "ON CONFLICT (id) DO UPDATE SET fence = writer_lease.fence + 1, holder = excluded.holder "
            "RETURNING fence, written",
            (f"{platform.node()}, process {os.getpid()}",),
        )[0]
        self._fence, self._written = row
        self._marked = self._written
        self._process_id = connection.process_id

    def take_again(self) -> Connection:
        """A new writing connection that holds the lease.

        Raises ConnectionLostError when there is none to be had yet, LeaseLostError.
        """
        connection = self._connect()
        try:
            until = self._pausing.monotonic() + PATIENCE_SECONDS
            while not self._take_unchanged(connection):
                # Our own connection of before, whose end the server has not noticed; or somebody else's.
                connection.rows("SELECT pg_terminate_backend(?::int)", (self._process_id,))
                if self._pausing.monotonic() >= until:
                    raise ConnectionLostError(f"the lease is held by {_holder(connection)}")
                self._pausing.pause(RETRY_SECONDS)
        except BaseException:
            connection.close()
            raise
        self._process_id = connection.process_id
        return connection

    def _take_unchanged(self, connection: Connection) -> bool:
        """Whether the lease is ours again; who has had it is known by the row, also while they have it."""
        is_ours = self._try(connection)
        found = connection.rows("SELECT fence, written FROM writer_lease WHERE id = 1")
        if found not in ([(self._fence, self._written)], [(self._fence, self._marked)]):
            raise LeaseLostError("Another comity has taken the database over")
        return is_ours

    def mark(self, connection: Connection) -> None:
        """Number the open transaction, so that it is known afterwards whether it was committed."""
        self._marked = self._written + 1
        connection.send(
            "UPDATE writer_lease SET written = ? WHERE id = 1 AND fence = ?", (self._marked, self._fence)
        )

    def committed(self) -> None:
        """The numbered transaction is on disk."""
        self._written = self._marked

    def was_committed(self, connection: Connection) -> bool:
        """Whether it is."""
        return bool(connection.rows("SELECT written FROM writer_lease WHERE id = 1")[0][0] == self._marked)

    @staticmethod
    def _try(connection: Connection) -> bool:
        return bool(connection.rows("SELECT pg_try_advisory_lock(?)", (KEY,))[0][0])


def _holder(connection: Connection) -> str:
    """Who holds the lease, as far as the server tells."""
    rows = connection.rows(
        "SELECT a.application_name, host(a.client_addr), a.pid::bigint FROM pg_locks AS l "
        "JOIN pg_stat_activity AS a ON a.pid = l.pid WHERE l.locktype = 'advisory' AND l.granted "
        "AND (l.classid::bigint << 32) | l.objid::bigint = ?",
        (KEY,),
    )
    if not rows:
        return "somebody who has just gone"
    name, address, process_id = rows[0]
    return f"{name or 'a program'} at {address or 'the same machine'}, PostgreSQL's process {process_id}"
