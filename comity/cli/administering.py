"""What commands on the database share: it is opened beside a running server, or without one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from comity.cli.files import CannotRun, ensure_signing_key
from comity.cli.options import exit_with, load_or_exit
from comity.config import Config
from comity.net.pausing import GreenletPausing
from comity.net.system import SystemClock, SystemEntropy, ThreadOffload
from comity.protocol.errors import MatrixError
from comity.store.database import Database, EngineError, StoreFailedError
from comity.store.engines import file_of, open_migrated
from comity.store.migrations import SchemaError
from comity.users.administration import Administration
from comity.users.passwords import cost_of

T = TypeVar("T")


def administer(path: Path | None, work: Callable[[Administration], Awaitable[T]]) -> T:
    """Run `work` on the accounts of the server that the configuration names; see `use_database`."""

    entropy = SystemEntropy()

    async def with_accounts(config: Config, database: Database, offload: ThreadOffload) -> T:
        cost = cost_of(config.passwords)
        return await work(Administration(database, offload, SystemClock(), entropy, config.server_name, cost))

    # A database without a signing key would look like a backup restored in part.
    return use_database(path, with_accounts, lambda config: ensure_signing_key(config, entropy))


def _database_is_there(config: Config) -> None:
    file = file_of(config.database.url, config.data_dir)
    if file is not None and not file.exists():
        raise CannotRun(f"there is no database {file} yet: the server has never run")


def use_database(
    path: Path | None,
    work: Callable[[Config, Database, ThreadOffload], Awaitable[T]],
    prepare: Callable[[Config], None] = _database_is_there,
) -> T:
    """Run `work` on the database of the server that the configuration names, after `prepare`.

    Says what is wrong and ends the command if the configuration or the database cannot be used,
    or if what was asked for is refused.
    """
    config = load_or_exit(path)

    async def open_and_work() -> T:
        prepare(config)
        async with _opened(config) as (database, offload):
            return await work(config, database, offload)

    try:
        return asyncio.run(open_and_work())
    except MatrixError as error:
        exit_with([error.text], code=1)
    except (CannotRun, EngineError, SchemaError, StoreFailedError) as error:
        exit_with([str(error)], code=1)


@asynccontextmanager
async def _opened(config: Config) -> AsyncIterator[tuple[Database, ThreadOffload]]:
    offload = ThreadOffload()
    # The server may be running: it alone has the lease.
    driver = open_migrated(
        config.database.url, config.data_dir, GreenletPausing(), offload=offload, exclusive=False
    )
    # No position is given out here, so none has to be known.
    database = Database(driver, last_position=0)
    try:
        yield database, offload
    finally:
        await database.close()
        await offload.close()
