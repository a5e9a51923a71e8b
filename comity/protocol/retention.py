"""How long a room's messages are kept: what its policy asks for, within what the operator allows.

Pure: the content of `m.room.retention` (MSC1763) and the operator's bounds in, milliseconds out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from comity.protocol.canonical_json import MAX_INTEGER

#: The state event that says it.
TYPE = "m.room.retention"


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the operator sets, in milliseconds; None: nothing. `default` is for rooms that say nothing."""

    default: int | None = None
    least: int | None = None
    most: int | None = None


def lifetime(content: Mapping[str, Any] | None, bounds: Bounds) -> int | None:
    """How long events of a room are kept, in milliseconds from their `origin_server_ts`; None: for ever.

    `content` is that of the room's `m.room.retention`, None if it has none. A lifetime that is no
    whole number of milliseconds counts as absent. `max_lifetime` is at least `min_lifetime`; then the
    bounds hold, for what the room asks for and for the default alike.
    """
    content = content or {}
    asked = _milliseconds(content.get("max_lifetime"))
    kept = bounds.default if asked is None else asked
    least = _milliseconds(content.get("min_lifetime"))
    if kept is not None and least is not None:
        kept = max(kept, least)
    if kept is not None and bounds.least is not None:
        kept = max(kept, bounds.least)
    if bounds.most is not None:
        kept = bounds.most if kept is None else min(kept, bounds.most)
    return kept


def _milliseconds(value: object) -> int | None:
    return value if isinstance(value, int) and type(value) is int and 0 <= value <= MAX_INTEGER else None
