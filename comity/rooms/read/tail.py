"""The newest part of each busy room's timeline, in memory, for all who follow it.

A room's followers are woken by the same event; the first of them reads it from the store, the
others find it here (DESIGN §4.5). A tail holds numbers, not events, so that what was redacted
meanwhile is read anew.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field

from comity.bus import Bus
from comity.store import heads, notices
from comity.store import rooms as stored_rooms
from comity.store.cache import Bounded, Followed
from comity.store.database import Tx
from comity.store.events import Events, StoredEvent, live_line
from comity.store.notices import Mention, Notification

#: Events that a tail begins with: more than most timelines that clients ask for.
FIRST_EVENTS = 32
#: And those after which it starts anew.
MAX_EVENTS = 512
REDACTION = "m.room.redaction"
#: Rooms with a tail in memory: at most about 16 KiB each.
MAX_TAILS = 5_000


@dataclass(slots=True)
class Tail:
    """Every timeline event of a room with `floor < line`, up to `position`, oldest first."""

    floor: int
    position: int
    lines: list[int] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    #: The current states since the first of these positions.
    head_positions: list[int] = field(default_factory=list)
    head_states: list[bytes] = field(default_factory=list)
    #: The lines just above which history is missing, newest first; those above `floor`.
    gap_lines: list[int] = field(default_factory=list)
    #: The position of the newest receipt.
    receipts: int = 0
    #: What notifies since `floor`, oldest first: for all members, and for those who are named.
    notifications: list[Notification] = field(default_factory=list)
    mentions: list[Mention] = field(default_factory=list)
    #: The line of the newest redaction: what was counted before it may count no more.
    redaction: int = 0
    #: Changes whenever the room's past does, so that what was counted of it may be true no more.
    past: int = 0
    #: The same as long as timeline, state and gaps are; None: this is a part of a tail.
    mark: object | None = field(default_factory=object)


class Tails:
    """The tails of the rooms that are followed now."""

    def __init__(self, events: Events, bus: Bus) -> None:
        self._events = events
        self._bus = bus
        self._tails: Followed[str, Tail] = Followed(MAX_TAILS)
        #: The commit with which each room's past changed last.
        self._pasts: Bounded[str, int] = Bounded(MAX_TAILS)

    def drop(self, room_id: str, commits: int) -> None:
        """The room's past has changed, by a commit: forget what is remembered of it."""
        self._tails.change(room_id, commits)
        self._pasts.put(room_id, commits)

    def get(self, tx: Tx, room_num: int, room_id: str, now: int) -> Tail:
        """The room's tail as of position `now`, up to which the snapshot shows everything."""
        tail = self._tails.get(room_id)
        if tail is None or len(tail.lines) > MAX_EVENTS:
            tail = self._load(tx, room_num, room_id, now)
            self._keep(tx, room_id, tail)
        elif tail.position < now:
            if self._bus.changed((room_id,), tail.position):
                known, tail = tail, self._extended(tx, room_num, room_id, tail, now)
                # If it was dropped meanwhile, what it began with is not true any more.
                if self._tails.get(room_id) is known:
                    self._keep(tx, room_id, tail)
            else:
                tail.position = now
        elif tail.position > now:
            tail = _cut(tail, now)
        return tail

    def _keep(self, tx: Tx, room_id: str, tail: Tail) -> None:
        """Remember a tail, unless somebody else has read further meanwhile."""
        held = self._tails.get(room_id)
        if held is None or held.position <= tail.position:
            self._tails.keep(room_id, tail, tx.as_of)

    def _load(self, tx: Tx, room_num: int, room_id: str, now: int) -> Tail:
        listed = self._events.timeline(
            tx, room_num, after=0, upto=live_line(now), limit=FIRST_EVENTS, backwards=True
        )
        # A snapshot from before the change is a past of its own.
        tail = Tail(floor=0, position=now, past=min(self._pasts.get(room_id) or 0, tx.as_of))
        if len(listed) == FIRST_EVENTS:
            tail.floor = (listed[-1].line or 1) - 1
        for stored in reversed(listed):
            tail.lines.append(stored.line or 0)
            tail.numbers.append(stored.number)
            if stored.event.type == REDACTION:
                tail.redaction = stored.line or 0
        tail.head_positions.append(now)
        tail.head_states.append(heads.at(tx, room_num, now))
        self._add_notices(tx, room_num, tail, tail.floor, now)
        self._refresh(tx, room_num, tail, now)
        return tail

    @staticmethod
    def _add_notices(tx: Tx, room_num: int, tail: Tail, after: int, now: int) -> None:
        upto = live_line(now)
        tail.notifications += notices.notifications(tx, room_num, after, upto, MAX_EVENTS)
        tail.mentions += notices.mentions(tx, room_num, after, upto)

    def _extended(self, tx: Tx, room_num: int, room_id: str, known: Tail, now: int) -> Tail:
        """The tail with what came since: a new one, for others read the old one still."""
        after, upto = live_line(known.position), live_line(now)
        listed = self._events.timeline(tx, room_num, after=after, upto=upto, limit=MAX_EVENTS, backwards=True)
        tail = Tail(
            known.floor, now, known.lines[:], known.numbers[:], known.head_positions[:], known.head_states[:],
            notifications=known.notifications[:], mentions=known.mentions[:], redaction=known.redaction,
            past=known.past,
        )  # fmt: skip
        if len(listed) == MAX_EVENTS:
            tail.floor = (listed[-1].line or 1) - 1
            tail.lines, tail.numbers, tail.notifications, tail.mentions = [], [], [], []
        for stored in reversed(listed):
            tail.lines.append(stored.line or 0)
            tail.numbers.append(stored.number)
            if stored.event.type == REDACTION:
                tail.redaction = stored.line or 0
        for position, state in heads.between(tx, room_num, known.position, now):
            tail.head_positions.append(position)
            tail.head_states.append(state)
        if tail.redaction != known.redaction:
            tail.notifications, tail.mentions = [], []
            self._add_notices(tx, room_num, tail, tail.floor, now)
        elif listed:
            self._add_notices(tx, room_num, tail, max(after, tail.floor), now)
        self._refresh(tx, room_num, tail, now)
        if not set(known.gap_lines) <= set(tail.gap_lines):
            # History has come into a gap: it lies among what was known.
            return self._load(tx, room_num, room_id, now)
        if not listed and tail.head_positions == known.head_positions and tail.gap_lines == known.gap_lines:
            tail.mark = known.mark
        return tail

    @staticmethod
    def _refresh(tx: Tx, room_num: int, tail: Tail, now: int) -> None:
        gaps = stored_rooms.gaps(tx, room_num, after=tail.floor, upto=live_line(now) + 1)
        tail.gap_lines = [gap.next_line - 1 for gap in gaps]
        row = tx.one(
            "SELECT max(position) FROM receipts WHERE room_num = ? AND position <= ?", (room_num, now)
        )
        tail.receipts = int(row[0] or 0) if row else 0

    def head(self, tx: Tx, room_num: int, tail: Tail, position: int) -> bytes:
        """The name of the room's current state at a position not after the tail's."""
        index = bisect_right(tail.head_positions, position)
        return tail.head_states[index - 1] if index else heads.at(tx, room_num, position)

    def newest(self, tx: Tx, tail: Tail, after: int, limit: int) -> list[StoredEvent] | None:
        """Up to `limit` newest events with `after < line`, newest first.

        None if the tail is too short to say, or if history is missing there: what has been
        fetched of it meanwhile is in the store alone.
        """
        if (after < tail.floor and len(tail.lines) < limit) or any(line > after for line in tail.gap_lines):
            return None
        start = max(bisect_right(tail.lines, after), len(tail.lines) - limit)
        numbers = tail.numbers[start:]
        loaded = self._events.load(tx, numbers)
        return [loaded[number] for number in reversed(numbers) if number in loaded]


def _cut(tail: Tail, now: int) -> Tail:
    """What a tail that goes further was at position `now`."""
    lines = bisect_right(tail.lines, live_line(now))
    positions = bisect_right(tail.head_positions, now)
    return Tail(
        tail.floor,
        now,
        tail.lines[:lines],
        tail.numbers[:lines],
        tail.head_positions[:positions],
        tail.head_states[:positions],
        tail.gap_lines,
        tail.receipts,
        [item for item in tail.notifications if item.line <= live_line(now)],
        [item for item in tail.mentions if item.line <= live_line(now)],
        tail.redaction,
        tail.past,
        None,
    )
