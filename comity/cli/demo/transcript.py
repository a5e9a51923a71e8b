"""The transcript of the demonstration: each step with its time, readable in a terminal and in a file.

Owns the look of the lines and nothing of what they say.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager

import click

from comity.ports import Clock

#: Columns of a line; most terminals have at least these.
WIDTH = 88
#: What stands before the text of a step: the time, the mark, a space.
MARGIN = 11


class StepFailed(Exception):
    """What was to come true did not. The text says what was seen instead."""


class Transcript:
    """Writes steps to the standard output as they come true."""

    def __init__(self, clock: Clock, *, live: bool) -> None:
        """`live` shows the step that is under way; for a terminal, whose lines can be rewritten."""
        self._clock = clock
        self._live = live
        self._started = clock.monotonic()
        self._details: list[str] = []

    def seconds(self) -> float:
        """Seconds since the beginning."""
        return self._clock.monotonic() - self._started

    def title(self, text: str) -> None:
        click.secho(f"\n{text}\n", bold=True)

    @contextmanager
    def step(self, text: str) -> Iterator[None]:
        """A step: told when it has come true, with its details; marked and left if it raises StepFailed."""
        self._details = []
        if self._live:
            self._line(click.style("…", fg="yellow"), text, end="")
        try:
            yield
        except StepFailed as failure:
            self._over()
            self._line(click.style("✗", fg="red", bold=True), click.style(text, fg="red"))
            self._tell_details()
            self.say(click.style(str(failure), fg="red"))
            raise
        except BaseException:
            self._over()
            raise
        self._over()
        self._line(click.style("✓", fg="green", bold=True), text)
        self._tell_details()

    def detail(self, text: str) -> None:
        """A line below the step under way."""
        self._details.append(click.style(text, dim=True))

    def spoken(self, who: str, text: str, milliseconds: float | None = None) -> None:
        """What somebody said, and after how long the other server had it."""
        colour = {"alice": "cyan", "bob": "magenta"}.get(who)
        after = "" if milliseconds is None else click.style(f"  {milliseconds:.0f} ms", dim=True)
        self._details.append(click.style(f"{who:>5}", fg=colour) + f"  {text}{after}")

    def say(self, text: str) -> None:
        """A paragraph below the steps, wrapped."""
        for line in textwrap.wrap(text, WIDTH - MARGIN):
            click.echo(" " * MARGIN + line)

    def plain(self, text: str = "") -> None:
        """A line as it is."""
        click.echo(text)

    def _line(self, mark: str, text: str, end: str = "\n") -> None:
        time = click.style(f"{self.seconds():5.1f} s", dim=True)
        click.echo(f"{time}  {mark} {text}", nl=end == "\n")

    def _over(self) -> None:
        if self._live:
            click.echo("\r\x1b[K", nl=False)

    def _tell_details(self) -> None:
        for line in self._details:
            click.echo(" " * MARGIN + line)
