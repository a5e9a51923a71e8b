"""What clients read of rooms: events in the client format, state, members, history.

`Reader` is the door; the modules beside it hold one step each, which `comity.sync` shares.
"""

from __future__ import annotations

from comity.rooms.read.paging import FillGap, Walk
from comity.rooms.read.reader import Reader

__all__ = ["FillGap", "Reader", "Walk"]
