"""GET /events: new events one by one, of all rooms of a user or of one that they look into.

client-server §Room Previews (with `room_id`); without, it is deprecated. Its tokens are lines, which
/sync does not take: what goes to devices is in no answer here, and must not count as given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from comity.bus import Bus
from comity.protocol.errors import forbidden
from comity.protocol.filters import NO_ROOM_EVENT_FILTER
from comity.rooms.read import Reader
from comity.rooms.read.access import access, end_of_last_stay, ignored_users
from comity.rooms.read.paging import wanted_events
from comity.rooms.read.tokens import line_token, parse_line, position_below
from comity.rooms.read.visible import RoomView
from comity.rooms.read.window import Window, scan_forward
from comity.store import rooms as stored_rooms
from comity.store.database import Database, Tx
from comity.store.events import StoredEvent, live_line
from comity.store.rooms import LocalMembership
from comity.sync.v3 import MAX_TIMEOUT

#: Events in one answer; its `end` leads to the rest.
MAX_EVENTS = 100


@dataclass(frozen=True, slots=True)
class Following:
    """Who listens, and from where; `timeout` is in seconds."""

    user_id: str
    device_id: str
    start: str | None
    timeout: float


@dataclass(slots=True)
class _Found:
    """Events in order, up to the line `end`; `keys` of the bus tell when there may be more."""

    end: int
    keys: list[str]
    #: Each with the line that it is told at, and the room as the user sees it.
    events: list[tuple[int, StoredEvent, RoomView]] = field(default_factory=list)

    def add(self, window: Window, view: RoomView) -> None:
        """Take in what a scan has found; where it was cut short, so is all."""
        self.events += [(stored.line or 0, stored, view) for stored in window.events]
        if not window.exhausted:
            self.end = min(self.end, window.stop)
        if len(self.events) > 2 * MAX_EVENTS:
            self.cut()

    def cut(self) -> None:
        """Leave no more events than an answer has."""
        self.events = sorted((item for item in self.events if item[0] <= self.end), key=lambda item: item[0])
        if len(self.events) > MAX_EVENTS:
            self.events = self.events[:MAX_EVENTS]
            self.end = self.events[-1][0]


#: (tx, after this line, up to this position) -> what there is.
_Look = Callable[[Tx, int, int], _Found]


class EventStream:
    """Answers GET /events."""

    def __init__(self, *, database: Database, bus: Bus, reader: Reader) -> None:
        self._database = database
        self._bus = bus
        self._reader = reader

    async def peek(self, following: Following, room_id: str) -> dict[str, Any]:
        """New events of one room. Raises 403 M_FORBIDDEN, 400 M_INVALID_PARAM."""
        user_id = following.user_id
        return await self._wait(following, lambda tx, after, now: self._in(tx, user_id, room_id, after, now))

    async def follow(self, following: Following) -> dict[str, Any]:
        """New events of all rooms that the user is in. Raises 400 M_INVALID_PARAM."""
        user_id = following.user_id
        return await self._wait(following, lambda tx, after, now: self._all(tx, user_id, after, now))

    async def _wait(self, following: Following, look: _Look) -> dict[str, Any]:
        clock, newest = self._reader.clock, live_line(self._bus.position)
        deadline = clock.monotonic() + min(following.timeout, MAX_TIMEOUT)
        start = following.start or line_token(newest)
        after = min(parse_line(start), newest)
        while True:
            now = self._bus.position

            def read(tx: Tx) -> tuple[_Found, list[object]]:
                found = look(tx, after, now)  # noqa: B023
                found.cut()
                return found, [self._written(tx, following, *item[1:]) for item in found.events]

            found, chunk = await self._database.read(read)
            remaining = deadline - clock.monotonic()
            is_all = found.end == live_line(now)
            if chunk or not is_all or not await self._bus.wait(found.keys, now, remaining):
                return {"start": start, "end": line_token(found.end), "chunk": chunk}
            after = found.end

    def _written(self, tx: Tx, following: Following, stored: StoredEvent, view: RoomView) -> object:
        reading = self._reader.reading(tx, following.user_id, following.device_id, [stored], view)
        return self._reader.format.event(tx, stored, reading)

    def _scan(self, tx: Tx, view: RoomView, room_id: str, after: int, upto: int) -> Window:
        gaps = stored_rooms.gaps(tx, view.room_num, after=after, upto=upto + 1)
        return scan_forward(
            tx, self._reader.events, view.room_num, after=after, upto=upto, limit=MAX_EVENTS,
            keep=wanted_events(tx, self._reader.events, view, view.user_id, room_id, NO_ROOM_EVENT_FILTER),
            # What is missing is not waited for: it is found by paging back.
            passed={gap.line for gap in gaps},
        )  # fmt: skip

    # -- one room

    def _in(self, tx: Tx, user_id: str, room_id: str, after: int, now: int) -> _Found:
        allowed = access(tx, self._reader.states, self._reader.events, user_id, room_id, now)
        if not allowed.present and allowed.line <= after:
            raise forbidden("You are not in the room any more, and it is not for everybody to read")
        found = _Found(live_line(now), [user_id, room_id])
        view = self._reader.visibility.view(tx, user_id, allowed.room.room_num)
        found.add(self._scan(tx, view, room_id, after, allowed.line), view)
        return found

    # -- all rooms

    def _all(self, tx: Tx, user_id: str, after: int, now: int) -> _Found:
        position = position_below(after)
        found = _Found(live_line(now), [user_id])
        for entry in stored_rooms.local_rooms(tx, user_id, now):
            room = stored_rooms.by_number(tx, entry.room_num)
            if room is None or entry.forgotten:
                continue
            if entry.membership == "join":
                found.keys.append(room.room_id)
                if entry.position > position or self._bus.changed((room.room_id,), position):
                    view = self._reader.visibility.view(tx, user_id, entry.room_num)
                    first = self._first(tx, user_id, entry, after)
                    found.add(self._scan(tx, view, room.room_id, first, found.end), view)
            elif entry.position > position:
                self._add_other(tx, found, user_id, room.room_id, entry, after)
        return found

    def _first(self, tx: Tx, user_id: str, entry: LocalMembership, after: int) -> int:
        """The line above which a room that the user is in is told: not what was before they came."""
        if entry.position <= position_below(after):
            return after
        history = stored_rooms.local_history(tx, user_id, entry.room_num)
        before = [item for item in history if item.position <= position_below(after)]
        if before and before[-1].membership == "join":
            return after
        joins = [item.position for item in history[len(before) :] if item.membership == "join"]
        return max(after, live_line(joins[0]) - 1)

    def _add_other(
        self, tx: Tx, found: _Found, user_id: str, room_id: str, entry: LocalMembership, after: int
    ) -> None:
        """A room that the user is not in now: what was before they left, and what came of them since."""
        view = self._reader.visibility.view(tx, user_id, entry.room_num)
        history = stored_rooms.local_history(tx, user_id, entry.room_num)
        left = end_of_last_stay([item for item in history if item.position <= entry.position])
        if left is not None and live_line(left) > after:
            found.add(self._scan(tx, view, room_id, after, live_line(left)), view)
        own = self._reader.events.get(tx, entry.event_num) if entry.event_num else None
        if own is None or entry.position == left:
            return
        if entry.membership != "invite" or own.event.sender not in ignored_users(tx, user_id):
            found.events.append((live_line(entry.position), own, view))
