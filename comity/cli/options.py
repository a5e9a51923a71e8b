"""What several commands take: which configuration, and what to say when it cannot be used."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from comity.config import Config, ConfigError, load

#: Where the configuration is looked for if none is named, in this order.
USUAL_PLACES = (Path("comity.toml"), Path("/etc/comity/comity.toml"))
#: The exit code for what the operator must put right first, as for a wrong option.
EXIT_USAGE = 2

Command = TypeVar("Command", bound=Callable[..., Any])


def config_option(command: Command) -> Command:
    """`--config FILE`, handed to the command as `path`."""
    return click.option(
        "--config",
        "path",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help=f"The configuration (default: {', then '.join(map(str, USUAL_PLACES))}).",
    )(command)


def load_or_exit(path: Path | None) -> Config:
    """The configuration. If it cannot be used, say everything that is wrong with it and exit with 2."""
    if path is None:
        path = next((place for place in USUAL_PLACES if place.exists()), None)
    if path is None:
        places = " nor ".join(map(str, USUAL_PLACES))
        exit_with([f"there is neither {places}; `comity init` writes one, --config FILE names another"])
    try:
        return load(path)
    except ConfigError as error:
        exit_with([f"{path} cannot be used:", *(f"  {problem}" for problem in error.problems)])


def exit_with(lines: list[str], code: int = EXIT_USAGE) -> NoReturn:
    """Say it on the standard error stream, and end."""
    for number, line in enumerate(lines):
        click.echo(line if number else f"comity: {line}", err=True)
    sys.exit(code)
