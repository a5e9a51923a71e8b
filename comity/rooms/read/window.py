"""A stretch of a room's timeline, cut where history is missing.

Reads pages of the timeline in either direction, lets a caller's test choose among the events,
and stops at a gap: history that other servers may have (`comity.rooms.backfill` fetches it).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from comity.store import rooms as stored_rooms
from comity.store.database import Tx
from comity.store.events import Events, StoredEvent
from comity.store.rooms import Gap

#: Events that one read looks at, however few of them are wanted.
MAX_SCANNED = 1_000
#: Events read at a time, at least: the first page of a filter that wants little.
MIN_PAGE = 20

Keep = Callable[[StoredEvent], bool]


@dataclass(slots=True)
class Window:
    """What a scan found, in the order of the scan, and where it stopped.

    `stop` is the place (a line, as tokens have it) from which to go on in the same direction.
    `exhausted`: the scan came to the end of the range. `gap`: it came to a gap first.
    """

    events: list[StoredEvent]
    stop: int
    exhausted: bool
    gap: Gap | None = None


def newest_gap(tx: Tx, room_num: int, after: int, upto: int, passed: Collection[int]) -> Gap | None:
    """The newest gap whose missing history belongs at `after < line <= upto`, but for those passed."""
    for gap in stored_rooms.gaps(tx, room_num, after=after, upto=upto + 1):
        if gap.next_line - 1 > after and gap.line not in passed:
            return gap
    return None


def scan_back(
    tx: Tx,
    events: Events,
    room_num: int,
    *,
    after: int,
    upto: int,
    limit: int,
    keep: Keep,
    passed: Collection[int] = (),
) -> Window:
    """Up to `limit` wanted events with `after < line <= upto`, newest first.

    `passed` holds the lines of gaps that are to be read across.
    """
    gap = newest_gap(tx, room_num, after, upto, passed)
    floor = after if gap is None else gap.next_line - 1
    found: list[StoredEvent] = []
    scanned = 0
    while scanned < MAX_SCANNED:
        page = max(limit - len(found) + 1, MIN_PAGE)
        listed = events.timeline(tx, room_num, after=floor, upto=upto, limit=page, backwards=True)
        for stored in listed:
            if keep(stored):
                if len(found) == limit:
                    return Window(found, upto, exhausted=False)
                found.append(stored)
            upto = (stored.line or 1) - 1
        if len(listed) < page:
            return Window(found, floor, exhausted=gap is None, gap=gap)
        scanned += len(listed)
    return Window(found, upto, exhausted=False)


def scan_forward(
    tx: Tx,
    events: Events,
    room_num: int,
    *,
    after: int,
    upto: int,
    limit: int,
    keep: Keep,
    passed: Collection[int] = (),
) -> Window:
    """Up to `limit` wanted events with `after < line <= upto`, oldest first."""
    gaps = [
        gap
        for gap in stored_rooms.gaps(tx, room_num, after=after, upto=upto + 1)
        if gap.next_line - 1 > after and gap.line not in passed
    ]
    gap = gaps[-1] if gaps else None
    ceiling = upto if gap is None else gap.next_line - 1
    found: list[StoredEvent] = []
    scanned = 0
    while scanned < MAX_SCANNED:
        page = max(limit - len(found) + 1, MIN_PAGE)
        listed = events.timeline(tx, room_num, after=after, upto=ceiling, limit=page, backwards=False)
        for stored in listed:
            if keep(stored):
                if len(found) == limit:
                    return Window(found, after, exhausted=False)
                found.append(stored)
            after = stored.line or after
        if len(listed) < page:
            return Window(found, after, exhausted=gap is None, gap=gap)
        scanned += len(listed)
    return Window(found, after, exhausted=False)
