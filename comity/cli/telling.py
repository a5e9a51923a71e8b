"""Words for a terminal: text of strangers made harmless, and moments and spans that people read."""

from __future__ import annotations

import datetime

_DAY_MS = 86_400_000


def plain(text: str) -> str:
    """Text of strangers, with nothing in it that a terminal would obey."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def moment(at_ms: int) -> str:
    """A time (ms since the epoch), to the second."""
    try:
        at = datetime.datetime.fromtimestamp(at_ms / 1000, datetime.UTC)
    except (OverflowError, ValueError, OSError):
        # Whatever a stranger wrote.
        return f"{at_ms} ms"
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"


def span(length_ms: float) -> str:
    """A length of time in its largest unit: "3 days", "48 hours", "90 seconds"."""
    for unit, size in (("day", _DAY_MS), ("hour", 3_600_000), ("minute", 60_000)):
        # Two of a unit at least: "36 hours" says more than "1 day".
        if abs(length_ms) >= 2 * size:
            return f"{int(length_ms / size)} {unit}s"
    if abs(length_ms) >= 1000:
        seconds = int(length_ms / 1000)
        return f"{seconds} second{'' if seconds == 1 else 's'}"
    return f"{int(length_ms)} ms"
