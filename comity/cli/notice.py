"""`comity notice`: say something to a user in the server's name."""

from __future__ import annotations

from pathlib import Path

import click

from comity.cli.administering import use_database
from comity.cli.files import CannotRun
from comity.cli.options import config_option
from comity.config import Config
from comity.net.system import SystemClock, SystemEntropy, ThreadOffload
from comity.store.database import Database
from comity.users.administration import Administration
from comity.users.server_notices import LOOK_SECONDS


@click.command("notice")
@click.argument("user")
@click.argument("text")
@config_option
def command(user: str, text: str, path: Path | None) -> None:
    """Send USER the message TEXT in the server's name.

    It comes in a room of its own, to which they are invited. USER is what comes between @ and the
    colon, or a whole user id. The server may be running; if it is not, it sends the message when it is.
    """

    async def work(config: Config, database: Database, offload: ThreadOffload) -> str:
        if config.server_notices.localpart is None:
            raise CannotRun("server_notices.localpart is not set: whom the server speaks as")
        administration = Administration(database, offload, SystemClock(), SystemEntropy(), config.server_name)
        return await administration.add_notice(user, text)

    user_id = use_database(path, work)
    click.echo(f"The server will tell {user_id} within {LOOK_SECONDS:.0f} seconds of running.")
