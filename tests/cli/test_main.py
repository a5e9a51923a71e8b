"""The command line as a whole."""

from __future__ import annotations

import importlib

import click
from click.testing import CliRunner

from comity import __version__
from comity.cli import COMMANDS, main


def test_every_command_is_there_and_explains_itself() -> None:
    for name, module in COMMANDS.items():
        assert isinstance(importlib.import_module(module).command, click.Command)
        result = CliRunner().invoke(main, [name, "--help"])
        assert result.exit_code == 0, result.output
        assert name in CliRunner().invoke(main, ["--help"]).output


def test_the_version() -> None:
    result = CliRunner().invoke(main, ["--version"])
    assert result.output == f"comity {__version__}\n"


def test_a_command_that_is_not_there() -> None:
    result = CliRunner().invoke(main, ["sevre"])
    assert result.exit_code == 2
    assert "No such command 'sevre'" in result.output
