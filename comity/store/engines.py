"""Which engine a database URL means, and how it is opened: the only place that knows both."""

from __future__ import annotations

from pathlib import Path

from comity.ports import Offload, Pausing
from comity.store.database import Driver
from comity.store.migrations import migrate
from comity.store.postgres import PostgresDriver
from comity.store.sqlite import SqliteDriver

SQLITE = "sqlite:"
#: Connections that read at the same time, where nobody says how many.
CONNECTIONS = 8


def file_of(url: str, data_dir: Path) -> Path | None:
    """The file of an embedded database; None for a database server."""
    return data_dir / url.removeprefix(SQLITE) if url.startswith(SQLITE) else None


def open_engine(
    url: str,
    data_dir: Path,
    pausing: Pausing,
    *,
    offload: Offload | None = None,
    connections: int = CONNECTIONS,
    exclusive: bool = True,
) -> Driver:
    """Open the database as it is. With `exclusive`, no other server may use it. Raises EngineError."""
    file = file_of(url, data_dir)
    if file is not None:
        return SqliteDriver(file, offload)
    return PostgresDriver(url, pausing, connections=connections, exclusive=exclusive)


def holds_a_server(url: str, data_dir: Path, pausing: Pausing) -> bool:
    """Whether a server has run on the database. Raises EngineError."""
    file = file_of(url, data_dir)
    if file is not None:
        return file.exists()
    driver = open_engine(url, data_dir, pausing, connections=1, exclusive=False)
    try:
        return driver.read_now(
            lambda tx: (
                bool(driver.columns(tx, "users")[0])
                and tx.one("SELECT 1 FROM users UNION ALL SELECT 1 FROM rooms LIMIT 1") is not None
            )
        )
    finally:
        driver.close_now()


def open_migrated(
    url: str,
    data_dir: Path,
    pausing: Pausing,
    *,
    offload: Offload | None = None,
    connections: int = CONNECTIONS,
    exclusive: bool = True,
) -> Driver:
    """Open (or create) the database and bring it to this program's schema.

    Raises EngineError, SchemaError; nothing is left open then.
    """
    driver = open_engine(
        url, data_dir, pausing, offload=offload, connections=connections, exclusive=exclusive
    )
    try:
        migrate(driver)
    except BaseException:
        driver.close_now()
        raise
    return driver
