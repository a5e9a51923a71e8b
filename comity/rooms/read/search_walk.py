"""Looking for what a search term finds in a user's rooms, newest first, a bounded part at a time.

What the index has is looked at event by event: only what says it still, and what the user may see, is
found or counted. Nothing here writes for clients (`comity.rooms.read.search`).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field

from comity.protocol.filters import RoomEventFilter
from comity.protocol.words import Term, searched_text
from comity.rooms.read.access import end_of_last_stay, ignored_users
from comity.rooms.read.visible import RoomView, Visibility
from comity.store import heads, search
from comity.store import rooms as stored_rooms
from comity.store.database import Tx
from comity.store.events import Events, StoredEvent, live_line, position_of
from comity.store.state import States

#: Events that one search looks at, and so the most that it counts: about 100 ms of work. What is older is
#: looked at when the client goes on.
MAX_EXAMINED = 1_000
#: Rows of the index that one search looks at, the most where words are common and seldom together.
MAX_POSTINGS = 20_000
#: Events that one read looks at, so that others get their turn.
AT_ONCE = 50
#: Rows of the index read at a time in one room.
POSTINGS_AT_ONCE = 32

DAY_MS = 24 * 3600 * 1000
#: Half of what being new adds to a rank is gone after so many days.
HALF_LIFE_DAYS = 30
_ENCRYPTION = ("m.room.encryption", "")
#: What stands in the queue of a walk: rows of the index that are to be read, or an event.
_ROWS, _EVENT = 0, 1


@dataclass(frozen=True, slots=True)
class Aim:
    """What is looked for, by whom. `room_id` and `sender` narrow it to a group of results."""

    user_id: str
    term: Term
    keys: frozenset[str]
    wanted: RoomEventFilter
    room_id: str | None = None
    sender: str | None = None


@dataclass(frozen=True, slots=True)
class Hit:
    """An event that was found. `line` and `ceiling` are lines: its own, and the last that the user sees."""

    number: int
    room_num: int
    line: int
    ceiling: int
    event_id: str
    room_id: str
    sender: str
    rank: float


@dataclass(slots=True)
class Walk:
    """How far a look has come: everything above `stop` was looked at (None: all there is)."""

    aim: Aim
    ceiling: int
    floor: int
    now_ms: int
    #: Hits after which it may stop; 0 for none.
    enough: int = 0
    hits: list[Hit] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    #: Room number -> the last line that the user may see there.
    rooms: dict[int, int] = field(default_factory=dict)
    ignored: frozenset[str] = frozenset()
    examined: int = 0
    probed: int = 0
    #: (-line, _ROWS or _EVENT, room number, event number): what is newest comes first.
    queue: list[tuple[int, int, int, int]] = field(default_factory=list)
    encrypted: dict[int, bool] = field(default_factory=dict)

    @property
    def is_done(self) -> bool:
        """Whether it has come to an end, or to a bound."""
        return (
            not self.queue
            or -self.queue[0][0] <= self.floor
            or self.examined >= MAX_EXAMINED
            or self.probed >= MAX_POSTINGS
            or 0 < self.enough <= len(self.hits)
        )

    @property
    def stop(self) -> int | None:
        """The line from which to go on, downwards; None if there is nothing more."""
        if self.floor:
            return max(self.floor, -self.queue[0][0]) if self.queue else self.floor
        return -self.queue[0][0] if self.queue else None


def rank(occurrences: list[int], age_ms: int) -> float:
    """How well an event matches, between 0.25 and 1.

    Each part of the term counts n/(n+1) for n occurrences; of the mean, half is kept whatever the age of
    the event, and the other half is halved every HALF_LIFE_DAYS.
    """
    matching = sum(count / (count + 1) for count in occurrences) / len(occurrences)
    age_days = max(0, age_ms) / DAY_MS
    return float(round(matching * (1 + 0.5 ** (age_days / HALF_LIFE_DAYS)) / 2, 6))


class Walker:
    """Takes the steps of walks, each inside one read."""

    def __init__(self, states: States, events: Events, visibility: Visibility) -> None:
        self._states = states
        self._events = events
        self._visibility = visibility

    def begin(self, tx: Tx, walk: Walk, now: int) -> None:
        """Find the rooms to look in, and where in them, as of position `now`."""
        walk.rooms = self._rooms(tx, walk.aim, now)
        walk.ignored = ignored_users(tx, walk.aim.user_id)
        walk.words = search.rarest_first(tx, walk.aim.term.words, walk.rooms)
        if not walk.words:
            return
        newest = search.newest_lines(tx, walk.words[0], walk.rooms, walk.ceiling)
        walk.queue = [
            (-min(line, walk.rooms[room_num]), _ROWS, room_num, 0) for room_num, line in newest.items()
        ]
        heapq.heapify(walk.queue)

    def _rooms(self, tx: Tx, aim: Aim, now: int) -> dict[int, int]:
        """The rooms that the user is or was in, and wants: number -> the last line that they may see.

        Predecessors of upgraded rooms are among them like any room that somebody was in.
        """
        only = self._numbers(tx, aim.wanted.rooms) if aim.wanted.rooms is not None else None
        if aim.room_id is not None:
            one = self._numbers(tx, (aim.room_id,))
            only = one if only is None else only & one
        without = self._numbers(tx, aim.wanted.not_rooms)
        found = {}
        for entry in stored_rooms.local_rooms(tx, aim.user_id, now):
            room_num = entry.room_num
            if entry.forgotten or room_num in without or (only is not None and room_num not in only):
                continue
            if entry.membership == "join":
                found[room_num] = live_line(now)
                continue
            history = stored_rooms.local_history(tx, aim.user_id, room_num)
            left = end_of_last_stay([one for one in history if one.position <= now and not one.forgotten])
            if left is not None:
                found[room_num] = live_line(left)
        return found

    @staticmethod
    def _numbers(tx: Tx, room_ids: Iterable[str]) -> set[int]:
        rooms = (stored_rooms.by_id(tx, room_id) for room_id in room_ids)
        return {room.room_num for room in rooms if room is not None}

    def go_on(self, tx: Tx, walk: Walk) -> None:
        """Look at the next few events."""
        picked: list[int] = []
        while len(picked) < AT_ONCE and not walk.is_done and walk.examined + len(picked) < MAX_EXAMINED:
            above, kind, room_num, number = heapq.heappop(walk.queue)
            if kind == _EVENT:
                picked.append(number)
            elif not self._is_encrypted(tx, walk, room_num):
                self._read_rows(tx, walk, room_num, -above)
        walk.examined += len(picked)
        views: dict[int, RoomView] = {}
        for stored in self._events.load(tx, picked).values():
            view = views.get(stored.room_num)
            if view is None:
                view = self._visibility.view(tx, walk.aim.user_id, stored.room_num)
                views[stored.room_num] = view
            hit = self._hit(walk, view, stored)
            if hit is not None:
                walk.hits.append(hit)

    @staticmethod
    def _read_rows(tx: Tx, walk: Walk, room_num: int, upto: int) -> None:
        rows = search.postings(tx, walk.words, walk.aim.keys, room_num, upto, POSTINGS_AT_ONCE)
        walk.probed += len(rows)
        for posting in rows:
            if posting.matches:
                heapq.heappush(walk.queue, (-posting.line, _EVENT, room_num, posting.event_num))
        if len(rows) == POSTINGS_AT_ONCE:
            heapq.heappush(walk.queue, (-(rows[-1].line - 1), _ROWS, room_num, 0))

    def _is_encrypted(self, tx: Tx, walk: Walk, room_num: int) -> bool:
        """Whether a room is encrypted, as far as the user sees it: those are not searched."""
        known = walk.encrypted.get(room_num)
        if known is None:
            slot = self._states.slot(tx, room_num, _ENCRYPTION)
            # Most rooms never had such a thing.
            root = heads.at(tx, room_num, position_of(walk.rooms[room_num])) if slot is not None else b""
            known = bool(slot is not None and root and self._states.get(tx, root, slot))
            walk.encrypted[room_num] = known
        return known

    @staticmethod
    def _hit(walk: Walk, view: RoomView, stored: StoredEvent) -> Hit | None:
        """An event as it is now, if it says what is looked for and the user may see it."""
        aim, event, line = walk.aim, stored.event, stored.line
        ceiling = walk.rooms[stored.room_num]
        if line is None or line > ceiling or event.sender in walk.ignored:
            return None
        if aim.sender is not None and event.sender != aim.sender:
            return None
        if not aim.wanted.matches(event.type, event.sender, event.room_id, event.content):
            return None
        text = searched_text(event.type, event.content)
        occurrences = aim.term.occurrences(text) if text is not None else None
        if occurrences is None or not view.may_see(stored) or view.is_erased(stored):
            return None
        return Hit(
            stored.number, stored.room_num, line, ceiling, event.event_id, event.room_id, event.sender,
            rank(occurrences, walk.now_ms - event.origin_server_ts),
        )  # fmt: skip
