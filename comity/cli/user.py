"""`comity user`: the accounts of this server."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from comity.cli.administering import administer
from comity.cli.options import config_option
from comity.store.accounts import User
from comity.users.administration import Administration


@click.group("user")
def command() -> None:
    """Make accounts and see which there are. The server may be running."""


@command.command("add")
@click.argument("name")
@click.option("--password", help="Others may see it here; without, it is asked for.")
@click.option("--admin", is_flag=True, help="Make it an administrator of this server.")
@config_option
def add(name: str, password: str | None, admin: bool, path: Path | None) -> None:
    """Make an account. NAME is what comes between @ and the colon."""
    chosen = password if password is not None else _ask_for_password()

    async def work(administration: Administration) -> str:
        return await administration.add_user(name, chosen, admin=admin)

    user_id = administer(path, work)
    click.echo(f"{user_id} is there{', an administrator' if admin else ''}.")


def _ask_for_password() -> str:
    """Asked for twice at a terminal; from a script, the first line of the standard input."""
    if sys.stdin.isatty():
        return str(click.prompt("Password", hide_input=True, confirmation_prompt=True))
    return sys.stdin.readline().rstrip("\n")


@command.command("list")
@config_option
def list_all(path: Path | None) -> None:
    """Every account, one a line."""

    async def work(administration: Administration) -> list[User]:
        return await administration.users()

    for user in administer(path, work):
        marks = [mark for mark, holds in (("admin", user.admin), ("deactivated", user.deactivated)) if holds]
        click.echo("  ".join([user.user_id, *marks]))
