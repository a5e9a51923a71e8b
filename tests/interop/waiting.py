"""Waiting for something that another process does: always bounded, never a bare sleep.

Owns `eventually`; never decides what is true.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

#: How long the other side may take when nothing is wrong. Generous: two servers share two cores.
PATIENCE = 20.0
#: The first pause between two looks, and the longest.
FIRST_PAUSE, LONGEST_PAUSE = 0.03, 0.4


async def eventually(look: Callable[[], Awaitable[T]], what: str, within: float = PATIENCE) -> T:
    """Call `look` until it returns something true, and return that.

    An `AssertionError` inside `look` means "not yet"; the last one is told when `within`
    seconds have passed. Any other exception is raised at once.
    """
    deadline = time.monotonic() + within
    pause = FIRST_PAUSE
    while True:
        seen: object
        try:
            answer = await look()
            if answer:
                return answer
            seen = answer
        except AssertionError as not_yet:
            seen = not_yet
        if time.monotonic() >= deadline:
            raise AssertionError(f"{what}: not within {within:g} s; last seen: {seen}")
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, LONGEST_PAUSE)
