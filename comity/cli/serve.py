"""`comity serve`: run the server until it is told to end."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import click
import uvloop

from comity import log
from comity.cli import serving
from comity.cli.files import CannotRun
from comity.cli.options import config_option, exit_with, load_or_exit
from comity.config import Config, ConfigError
from comity.store.database import EngineError
from comity.store.migrations import SchemaError


@click.command("serve")
@config_option
def command(path: Path | None) -> None:
    """Run the server. SIGTERM and Ctrl-C finish the requests under way and end it."""
    config = load_or_exit(path)
    log.configure(config.log.level)
    try:
        uvloop.run(_serve(config))
    except ConfigError as error:
        exit_with(error.problems)
    except (CannotRun, EngineError, SchemaError) as error:
        exit_with([str(error)], code=1)


async def _serve(config: Config) -> None:
    told_to_end = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told_to_end.set)
    await serving.serve(config, told_to_end)
