"""Forward-only migrations: numbered SQL files, each run once, in order, in one transaction."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from importlib import resources

from comity.store import auth_chains, views
from comity.store.database import Driver, GroupTx, Tx

_log = logging.getLogger(__name__)
#: What SQL alone cannot do, done right after the migration of that number.
FILLING: Mapping[int, Callable[[Tx], None]] = {4: auth_chains.fill, 6: views.fill}
#: In the target of a move until that is finished (`comity.store.move`).
MOVE_PROGRESS = "move_progress"
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


def migrate(driver: Driver, *, into_move: bool = False) -> int:
    """Bring the database to this program's schema; the version it then has.

    Raises SchemaError when the database is newer than the program, or a part of a move
    (unless that is what it is opened for: `into_move`).
    """
    return driver.write_now(lambda tx: _migrate(driver, tx, into_move=into_move))


def _migrate(driver: Driver, tx: GroupTx, *, into_move: bool) -> int:
    steps = available()
    newest = steps[-1][0]
    tx.script("CREATE TABLE IF NOT EXISTS schema_versions (version BIGINT PRIMARY KEY)")
    version = current_version(tx)
    if driver.columns(tx, MOVE_PROGRESS)[0] and not into_move:
        raise SchemaError(
            "The database holds a part of a move that was not finished: run `comity database move` again"
        )
    if version > newest:
        raise SchemaError(
            f"The database has schema version {version}; this program knows versions up to {newest}. "
            "Run the newer program, or restore a backup from before the upgrade."
        )
    for number, sql in steps:
        if number > version:
            if version:
                _log.info("bringing the database to schema version %d; a large one takes a while", number)
            tx.script(sql)
            if number in FILLING:
                FILLING[number](tx)
            tx.run("INSERT INTO schema_versions (version) VALUES (?)", (number,))
    return newest
