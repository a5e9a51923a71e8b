"""`comity email`: send one letter, to see whether the mail server of the configuration takes it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from comity.cli.options import config_option, exit_with, load_or_exit
from comity.config import Config
from comity.net.smtp import SmtpMail
from comity.ports import MailError
from comity.users import letters


@click.command("email")
@click.argument("address")
@config_option
def command(address: str, path: Path | None) -> None:
    """Send a letter to ADDRESS as the server would, and say what the mail server makes of it."""
    config = load_or_exit(path)
    if config.email.smtp_url is None or config.email.sender is None:
        exit_with(["[email] is not set: smtp_url and from say where letters go, and whom they come from"])
    try:
        asyncio.run(_send(config, address))
    except OSError as error:
        exit_with([f"outbound.trusted_ca cannot be used: {error.strerror or error}"])
    except MailError as error:
        exit_with([f"The letter was not taken: {error}"], code=1)
    click.echo(f"{config.email.smtp_url.host} has taken the letter. Look whether it arrives.")


async def _send(config: Config, address: str) -> None:
    """Raises OSError, MailError."""
    assert config.email.smtp_url is not None
    assert config.email.sender is not None
    mail = SmtpMail(config.email.smtp_url, config.email.sender, config.outbound.trusted_ca)
    await mail.open()
    try:
        await mail.send(letters.trial(address, config.server_name))
    finally:
        await mail.close()
