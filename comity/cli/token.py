"""`comity token`: the tokens with which people register where registration asks for one."""

from __future__ import annotations

import datetime
from pathlib import Path

import click

from comity.cli.administering import administer
from comity.cli.options import config_option
from comity.net.system import SystemClock
from comity.store.accounts import RegistrationToken
from comity.users.administration import Administration

MS_A_DAY = 24 * 3600 * 1000


@click.group("token")
def command() -> None:
    """Make registration tokens and see which there are. The server may be running."""


@command.command("add")
@click.argument("token", required=False)
@click.option("--uses", type=click.IntRange(min=1), help="How many accounts it makes (default: any number).")
@click.option("--days", type=click.FloatRange(min=0, min_open=True, max=36500),
              help="How long it lasts (default: for ever).")  # fmt: skip
@config_option
def add(token: str | None, uses: int | None, days: float | None, path: Path | None) -> None:
    """Make a token: TOKEN, or one that is made up. It is printed."""
    expires_at = None if days is None else SystemClock().now_ms() + int(days * MS_A_DAY)

    async def work(administration: Administration) -> str:
        return await administration.add_registration_token(token, uses_allowed=uses, expires_at=expires_at)

    click.echo(administer(path, work))


@command.command("list")
@config_option
def list_all(path: Path | None) -> None:
    """Every token, with its uses and its end."""

    async def work(administration: Administration) -> list[RegistrationToken]:
        return await administration.registration_tokens()

    for token in administer(path, work):
        used = f"used {token.used}" + (f" of {token.uses_allowed}" if token.uses_allowed is not None else "")
        click.echo(f"{token.token}  {used}  {_end(token.expires_at)}")


@command.command("delete")
@click.argument("token")
@config_option
def delete(token: str, path: Path | None) -> None:
    """Let nobody register with TOKEN any more. Whoever has, stays."""

    async def work(administration: Administration) -> None:
        await administration.delete_registration_token(token)

    administer(path, work)
    click.echo("The token is good no more.")


def _end(expires_at: int | None) -> str:
    if expires_at is None:
        return "without end"
    moment = datetime.datetime.fromtimestamp(expires_at / 1000, datetime.UTC)
    return f"until {moment:%Y-%m-%d %H:%M} UTC"
