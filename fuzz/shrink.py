"""Make an input that fails small: leave out what is not needed for the same failure."""

from __future__ import annotations

import time
from collections.abc import Callable

#: Inputs longer than this are first cut in coarse pieces only.
_COARSE = 4_096


def shrink(data: bytes, still_fails: Callable[[bytes], bool], seconds: float) -> bytes:
    """The shortest input that was found in that time by taking pieces out of `data`."""
    ends = time.monotonic() + seconds
    size = max(1, len(data) // 2)
    while size and time.monotonic() < ends:
        place, changed = 0, False
        while place < len(data) and time.monotonic() < ends:
            smaller = data[:place] + data[place + size :]
            if still_fails(smaller):
                data, changed = smaller, True
            else:
                place += size
        if not changed or len(data) > _COARSE:
            size //= 2
    return data
