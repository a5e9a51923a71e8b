"""Who sends at present, and for how many more there is room.

Owns two groups: those that answer, and those that may not, which mostly hold a place until a time is over
and must not take it from the others. It starts nothing.
"""

from __future__ import annotations

import asyncio

#: Destinations sent to at once: each holds a connection and up to 3 MiB of events.
MAX_SENDING = 300
#: And of those that failed before, have not answered yet, or let us wait.
MAX_UNPROVEN = 150
#: Seconds after which one that was expected to answer counts among those: 5 % of slow servers came to hold
#: three of four places while all the others waited.
SLOW_SECONDS = 1.0


class Places:
    """The tasks that send."""

    def __init__(self) -> None:
        #: Those to servers that answer, and since when (loop time), the oldest first.
        self._proven: dict[asyncio.Task[None], float] = {}
        self._unproven: set[asyncio.Task[None]] = set()

    def has_room(self, *, unproven: bool) -> bool:
        """Whether one more may send."""
        return len(self._unproven) < MAX_UNPROVEN if unproven else len(self._proven) < MAX_SENDING

    def take(self, task: asyncio.Task[None], now: float, *, unproven: bool) -> None:
        """One more sends; `now` is loop time."""
        if unproven:
            self._unproven.add(task)
        else:
            self._proven[task] = now

    def give_back(self, task: asyncio.Task[None]) -> None:
        """It has ended."""
        self._proven.pop(task, None)
        self._unproven.discard(task)

    def set_aside_the_slow(self, now: float) -> float:
        """Count those that let us wait among the others, if there is room; seconds until the next look."""
        for task, since in list(self._proven.items()):
            if now - since < SLOW_SECONDS:
                return since + SLOW_SECONDS - now
            if not self.has_room(unproven=True):
                break
            del self._proven[task]
            self._unproven.add(task)
        return SLOW_SECONDS

    def all(self) -> list[asyncio.Task[None]]:
        """Every task that sends."""
        return [*self._proven, *self._unproven]
