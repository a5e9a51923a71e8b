"""The command line: one file a command, no logic of its own.

Commands are imported when they are called, so that `comity --help` is instant and one command
does not pay for what another needs.
"""

from __future__ import annotations

import importlib

import click

from comity import __version__

#: Every command, with the module that holds it as an attribute `command`.
COMMANDS = {
    "serve": "comity.cli.serve",
    "init": "comity.cli.init",
    "user": "comity.cli.user",
    "token": "comity.cli.token",
    "reports": "comity.cli.reports",
    "notice": "comity.cli.notice",
    "email": "comity.cli.email",
    "key": "comity.cli.key",
    "database": "comity.cli.database",
    "check": "comity.cli.check",
    "trace": "comity.cli.trace",
    "explain": "comity.cli.explain",
    "demo": "comity.cli.demo",
}


class _Commands(click.Group):
    """A group whose commands are found in COMMANDS, in that order."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module = COMMANDS.get(cmd_name)
        if module is None:
            return None
        command = importlib.import_module(module).command
        assert isinstance(command, click.Command)
        return command


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="comity", message="%(prog)s %(version)s")
def main() -> None:
    """comity, a Matrix homeserver."""
