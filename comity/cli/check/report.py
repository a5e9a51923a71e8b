"""What `comity check` finds: steps with a mark, a time and words; shown as they come."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import click

from comity.cli.telling import plain
from comity.ports import Clock

Mark = Literal["ok", "warning", "failed", "skipped"]
#: How each mark is shown: its sign and its colour.
_SIGNS: dict[Mark, tuple[str, str | None]] = {
    "ok": ("✓", "green"),
    "warning": ("!", "yellow"),
    "failed": ("✗", "red"),
    "skipped": ("–", None),
}
#: Columns of a line; most terminals have at least these.
WIDTH = 100
#: Columns of a step's title, and of its time with the space before it.
TITLE, TIME = 24, 9
#: What stands before a step's words: margin, sign, title, time.
MARGIN = 2 + 2 + TITLE + TIME + 2


@dataclass(slots=True)
class Step:
    """One thing that was looked at. `problem` says in a sentence what is wrong and what to do."""

    section: str
    title: str
    mark: Mark = "ok"
    ms: int = 0
    summary: str = ""
    problem: str = ""
    details: list[str] = field(default_factory=list)

    def warn(self, summary: str, problem: str) -> None:
        """It is as it should not be, and yet others may get along with it."""
        self.mark, self.summary, self.problem = "warning", summary, problem

    def fail(self, summary: str, problem: str) -> None:
        """It does not work."""
        self.mark, self.summary, self.problem = "failed", summary, problem

    def skip(self, summary: str) -> None:
        """It was not looked at, and why."""
        self.mark, self.summary = "skipped", summary


class Report:
    """Collects steps, and shows each as soon as there is something to show."""

    def __init__(self, clock: Clock, *, shown: bool, live: bool) -> None:
        """`shown` writes to the standard output; `live` rewrites lines, which a terminal alone can."""
        self._clock = clock
        self._shown = shown
        self._live = live
        self._section = ""
        self.steps: list[Step] = []

    @contextmanager
    def step(self, section: str, title: str) -> Iterator[Step]:
        """A step that begins now and is over with the block."""
        step = Step(section, plain(title))
        if self._shown and section != self._section:
            click.echo()
            click.secho(f"  {section}", bold=True)
        self._section = section
        if self._shown and self._live:
            click.echo(f"  … {step.title}", nl=False)
        began = self._clock.monotonic()
        try:
            yield step
        finally:
            step.ms = round((self._clock.monotonic() - began) * 1000)
            self.steps.append(step)
            if self._shown:
                if self._live:
                    # Back to the line's beginning, and away with what stands there.
                    click.echo("\r\x1b[K", nl=False)
                click.echo("\n".join(lines(step)))

    @property
    def failed(self) -> bool:
        """Whether something does not work."""
        return any(step.mark == "failed" for step in self.steps)

    def conclude(self) -> None:
        """Say what it comes to."""
        if not self._shown:
            return
        failures = sum(step.mark == "failed" for step in self.steps)
        warnings = sum(step.mark == "warning" for step in self.steps)
        click.echo()
        told = f"{warnings} warning{'' if warnings == 1 else 's'}"
        if failures:
            text = f"  {failures} step{'' if failures == 1 else 's'} failed"
            click.secho(text + (f", {told}." if warnings else "."), fg="red", bold=True)
        elif warnings:
            click.secho(f"  It works, with {told}.", fg="yellow", bold=True)
        else:
            click.secho("  All is well.", fg="green", bold=True)


def lines(step: Step) -> Iterator[str]:
    """A step for the terminal."""
    sign, color = _SIGNS[step.mark]
    styled = click.style(sign, fg=color, bold=True if color else None)
    time = "" if step.mark == "skipped" else f"{step.ms:,} ms"
    head = f"  {styled} {step.title:<{TITLE}}"
    if len(step.title) > TITLE:
        yield head
        head = " " * (MARGIN - TIME - 2)
    words = list(_wrapped(step.summary))
    yield f"{head}{time:>{TIME}}  {words[0] if words else ''}".rstrip()
    for line in words[1:]:
        yield " " * MARGIN + line
    for detail in step.details:
        for line in _wrapped(detail):
            yield " " * MARGIN + click.style(line, dim=True)
    for number, line in enumerate(_wrapped(step.problem, less=2)):
        yield " " * MARGIN + click.style(f"{'  ' if number else '→ '}{line}", fg=color)


def _wrapped(text: str, less: int = 0) -> list[str]:
    return textwrap.wrap(plain(text), WIDTH - MARGIN - less, break_long_words=False, break_on_hyphens=False)
