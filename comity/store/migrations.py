"""Forward-only migrations: numbered SQL files, each run once, in order, in one transaction."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path

from comity.store import auth_chains
from comity.store.database import Tx
from comity.store.sqlite import SqliteDriver

_log = logging.getLogger(__name__)
#: What SQL alone cannot do, done right after the migration of that number.
FILLING: Mapping[int, Callable[[Tx], None]] = {4: auth_chains.fill}
_NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")


class SchemaError(Exception):
    """The database cannot be used by this program; the text says what to do."""


def available() -> list[tuple[int, str]]:
    """(version, SQL) of every migration, in order."""
    found = []
    for entry in resources.files("comity.store").joinpath("schema").iterdir():
        match = _NAME.fullmatch(entry.name)
        if match:
            found.append((int(match[1]), entry.read_text("utf-8")))
    return sorted(found)


def current_version(tx: Tx) -> int:
    """The schema version of the database; 0 for an empty one."""
    row = tx.one("SELECT max(version) FROM schema_versions")
    return int(row[0] or 0) if row else 0


def open_migrated(path: Path) -> SqliteDriver:
    """Open (or create) the file and bring it to this program's schema.

    Raises SchemaError, sqlite3.Error; nothing is left open then.
    """
    driver = SqliteDriver(path)
    try:
        migrate(driver)
    except BaseException:
        driver.close()
        raise
    return driver


def migrate(driver: SqliteDriver) -> int:
    """Bring the database to this program's schema; the version it then has.

    Raises SchemaError when the database is newer than the program.
    """
    steps = available()
    newest = steps[-1][0]
    tx = driver.begin()
    try:
        driver.script("CREATE TABLE IF NOT EXISTS schema_versions (version BIGINT PRIMARY KEY)")
        version = current_version(tx)
        if version > newest:
            raise SchemaError(
                f"The database has schema version {version}; this program knows versions up to {newest}. "
                "Run the newer program, or restore a backup from before the upgrade."
            )
        for number, sql in steps:
            if number > version:
                if version:
                    _log.info("bringing the database to schema version %d; a large one takes a while", number)
                driver.script(sql)
                if number in FILLING:
                    FILLING[number](tx)
                tx.run("INSERT INTO schema_versions (version) VALUES (?)", (number,))
    except BaseException:
        driver.rollback()
        raise
    driver.commit()
    return newest
