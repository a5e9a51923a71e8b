"""`comity user`: the accounts of this server."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from comity.cli.administering import administer
from comity.cli.options import config_option
from comity.cli.telling import moment, plain
from comity.store.accounts import User
from comity.store.errands import DEPARTURE, END, LOGOUT, PROFILE, Errand
from comity.store.upstream import Link
from comity.users.administration import Administration, Described

#: What the server has still to do, in words.
_TO_DO = {
    LOGOUT: "its devices are to be deleted",
    END: "what is kept for it is to be deleted",
    DEPARTURE: "it leaves its rooms",
    PROFILE: "its profile goes into its rooms",
}

#: user id -> (whether suspended, whether locked).
Standings = dict[str, tuple[bool, bool]]


@click.group("user")
def command() -> None:
    """Make accounts, change them and see which there are. The server may be running."""


def _password_options(function: Callable[..., Any]) -> Callable[..., Any]:
    function = click.option("--password", help="Others may see it here; without, it is asked for.")(function)
    return click.option(
        "--hash", "brought", metavar="HASH",
        help="A hash from another server in its place: bcrypt's ($2b$…) or Argon2's.",
    )(function)  # fmt: skip


def _chosen(password: str | None, brought: str | None) -> str | None:
    """The password to set, None if a hash is brought along."""
    if brought is None:
        return password if password is not None else _ask_for_password()
    if password is not None:
        raise click.UsageError("--password and --hash say the same in two ways: give one")
    return None


def _ask_for_password() -> str:
    """Asked for twice at a terminal; from a script, the first line of the standard input."""
    if sys.stdin.isatty():
        return str(click.prompt("Password", hide_input=True, confirmation_prompt=True))
    return sys.stdin.readline().rstrip("\n")


@command.command("add")
@click.argument("name")
@_password_options
@click.option("--admin", is_flag=True, help="Make it an administrator of this server.")
@config_option
def add(name: str, password: str | None, brought: str | None, admin: bool, path: Path | None) -> None:
    """Make an account. NAME is what comes between @ and the colon."""
    chosen = _chosen(password, brought)

    async def work(administration: Administration) -> str:
        return await administration.add_user(name, chosen, admin=admin, brought=brought)

    user_id = administer(path, work)
    click.echo(f"{user_id} is there{', an administrator' if admin else ''}.")


@command.command("password")
@click.argument("name")
@_password_options
@click.option("--log-out", is_flag=True, help="End all of its sessions, too.")
@config_option
def password(name: str, password: str | None, brought: str | None, log_out: bool, path: Path | None) -> None:
    """Give an account another password."""
    chosen = _chosen(password, brought)

    async def work(administration: Administration) -> str:
        return await administration.set_password(name, chosen, brought=brought, log_out=log_out)

    user_id = administer(path, work)
    click.echo(f"{user_id} has another password{' and is logged out' if log_out else ''}.")


@command.command("list")
@config_option
def list_all(path: Path | None) -> None:
    """Every account, one a line."""

    async def work(administration: Administration) -> tuple[list[User], Standings, dict[str, list[Link]]]:
        users, standings = await administration.users(), await administration.standings()
        return users, standings, await administration.links()

    users, standings, links = administer(path, work)
    for user in users:
        marks = _marks(user, *standings.get(user.user_id, (False, False)))
        if user.user_id in links:
            marks.append("linked")
        click.echo("  ".join([user.user_id, *marks]))


def _marks(user: User, suspended: bool, locked: bool) -> list[str]:
    told = {"admin": user.admin, "deactivated": user.deactivated, "suspended": suspended, "locked": locked}
    return [mark for mark, holds in told.items() if holds]


@command.command("show")
@click.argument("name")
@config_option
def show(name: str, path: Path | None) -> None:
    """An account: how it stands, its sessions, and what the server has still to do for it."""
    described = administer(path, lambda administration: administration.describe(name))
    user = described.user
    marks = _marks(user, described.suspended, described.locked)
    click.echo("  ".join([user.user_id, *marks]))
    click.echo(f"made {moment(user.created_at)}{'' if user.password_hash else ', no password lets in'}")
    for link in described.links:
        click.echo(f"linked since {moment(link.linked_at)} to {plain(link.shown)} at {plain(link.issuer)}")
    for errand in described.errands:
        click.echo(_told(errand))
    _show_sessions(described)


@command.command("sessions")
@click.argument("name")
@config_option
def sessions(name: str, path: Path | None) -> None:
    """The sessions of an account: its devices, and from where each was used."""
    _show_sessions(administer(path, lambda administration: administration.describe(name)))


def _show_sessions(described: Described) -> None:
    for device in described.devices:
        seen = "never seen" if device.last_seen_at is None else f"seen {moment(device.last_seen_at)}"
        name = "" if device.display_name is None else f"  {plain(device.display_name)}"
        click.echo(f"{plain(device.device_id)}  {seen}{name}")
        for connection in described.connections:
            if connection.device_id == device.device_id:
                program = plain(connection.user_agent)
                click.echo(
                    f"    {moment(connection.last_seen)}  {plain(connection.address)}  {program}".rstrip()
                )


def _told(errand: Errand) -> str:
    how_far = f", {errand.done} of {errand.total} done" if errand.total else ""
    return f"{_TO_DO[errand.kind]} since {moment(errand.since)}{how_far}"


@command.command("log-out")
@click.argument("name")
@config_option
def log_out(name: str, path: Path | None) -> None:
    """End all sessions of an account. Its apps lose what they had not backed up."""
    user_id = administer(path, lambda administration: administration.log_out(name))
    click.echo(f"{user_id} is logged out.")


@command.command("deactivate")
@click.argument("name")
@click.option(
    "--erase", is_flag=True, help="What they said is not told to whoever comes to their rooms later."
)
@click.option("--yes", is_flag=True, help="Do not ask again.")
@config_option
def deactivate(name: str, erase: bool, yes: bool, path: Path | None) -> None:
    """End an account for good. It leaves its rooms, and nobody gets its name again."""
    if not yes:
        click.confirm(f"End the account {name} for good?", abort=True)

    async def work(administration: Administration) -> str:
        return await administration.deactivate(name, erase=erase)

    user_id = administer(path, work)
    click.echo(f"{user_id} is deactivated. The server takes it out of its rooms within ten minutes.")


@command.command("admin")
@click.argument("name")
@click.option("--undo", is_flag=True, help="Make it one like all others.")
@config_option
def admin(name: str, undo: bool, path: Path | None) -> None:
    """Make an account an administrator of this server."""

    async def work(administration: Administration) -> str:
        return await administration.set_admin(name, admin=not undo)

    click.echo(f"{administer(path, work)} is {'no administrator any more' if undo else 'an administrator'}.")


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


@command.command("unlink")
@click.argument("name")
@click.argument("issuer")
@config_option
def unlink(name: str, issuer: str, path: Path | None) -> None:
    """End a user's links to another provider, by which they sign in. ISSUER is as `show` tells it.

    Apps in which they are logged in go on. Who signs in there again is a newcomer to this server.
    """

    async def work(administration: Administration) -> tuple[str, int]:
        return await administration.unlink(name, issuer)

    user_id, gone = administer(path, work)
    click.echo(f"{user_id} is unlinked." if gone else f"{user_id} has no link to {issuer}.")
