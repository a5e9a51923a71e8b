"""How often something is timed, and what is made of it."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

#: A measurement ends after so many runs, or after its seconds, but not before this many.
LEAST, MOST = 3, 200


@dataclass
class Samples:
    """Seconds of every run, over all rounds, by what was run."""

    seconds: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, taken: list[float]) -> None:
        """Note the runs of a round."""
        self.seconds.setdefault(name, []).extend(taken)

    def median(self, name: str) -> float | None:
        """The median of all runs; None if it was never run."""
        taken = self.seconds.get(name)
        return statistics.median(taken) if taken else None


def repeat(once: Callable[[], float], budget: float, least: int = LEAST) -> list[float]:
    """The seconds that `once` reports, run after run, for about `budget` seconds."""
    gc.collect()
    taken: list[float] = []
    until = time.perf_counter() + budget
    while len(taken) < least or (time.perf_counter() < until and len(taken) < MOST):
        taken.append(once())
    return taken


def milliseconds(seconds: float | None) -> str:
    """For a table: three digits that count."""
    if seconds is None:
        return "—"
    value = 1_000 * seconds
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def ratio(theirs: float | None, ours: float | None) -> str:
    """How many times longer theirs takes."""
    if theirs is None or not ours:
        return "—"
    value = theirs / ours
    return f"{value:,.0f}x" if value >= 10 else f"{value:.1f}x"


def table(heads: list[str], rows: list[list[str]], texts: int) -> str:
    """A table in Markdown; the first `texts` columns are words, the others figures."""
    lines = ["| " + " | ".join(heads) + " |"]
    lines.append("|" + "|".join("---" if number < texts else "---:" for number in range(len(heads))) + "|")
    lines.extend("| " + " | ".join(row) + " |" for row in rows)
    return "\n".join(lines)
