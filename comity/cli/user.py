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

    async def work(administration: Administration) -> tuple[list[User], dict[str, tuple[bool, bool]]]:
        return await administration.users(), await administration.standings()

    users, standings = administer(path, work)
    for user in users:
        suspended, locked = standings.get(user.user_id, (False, False))
        told = {
            "admin": user.admin,
            "deactivated": user.deactivated,
            "suspended": suspended,
            "locked": locked,
        }
        click.echo("  ".join([user.user_id, *(mark for mark, holds in told.items() if holds)]))


@command.command("lock")
@click.argument("name")
@click.option("--undo", is_flag=True, help="Let them in again; their apps go on where they were.")
@config_option
def lock(name: str, undo: bool, path: Path | None) -> None:
    """Keep a user out, without ending anything: their apps are told that the account is locked."""

    async def work(administration: Administration) -> str:
        return await administration.set_standing(name, locked=not undo)

    click.echo(f"{administer(path, work)} is {'unlocked' if undo else 'locked'}.")


@command.command("suspend")
@click.argument("name")
@click.option("--undo", is_flag=True, help="Let them write again.")
@config_option
def suspend(name: str, undo: bool, path: Path | None) -> None:
    """Let a user read, and leave, but not write: no messages, joins, invites or new profile."""

    async def work(administration: Administration) -> str:
        return await administration.set_standing(name, suspended=not undo)

    click.echo(f"{administer(path, work)} is {'not suspended any more' if undo else 'suspended'}.")
