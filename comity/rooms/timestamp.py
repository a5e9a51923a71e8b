"""The event closest to a time: in what is here, and by other servers' help where history is missing.

client-server §Getting events for a room (timestamp_to_event), server-server §Retrieving events.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from comity.federation.calls import Calls
from comity.federation.errors import FederationError
from comity.ports import Clock
from comity.protocol.errors import not_found
from comity.rooms.batch import Batch
from comity.rooms.decisions import Decisions
from comity.rooms.fetch import Fetcher
from comity.rooms.graft import Cutting, Grafter
from comity.rooms.read.access import access
from comity.rooms.read.visible import RoomView, Visibility
from comity.rooms.room import Room, Rooms
from comity.rooms.serve import Server
from comity.store import rooms as stored_rooms
from comity.store import times
from comity.store.database import Database, Tx
from comity.store.events import StoredEvent, live_line
from comity.store.rooms import Gap

_log = logging.getLogger(__name__)
#: Events that are looked at for one that may be seen; in how many reads of the store.
MAX_SEEN, MAX_AT_ONCE = 500, 50
#: A user's stays in a room that are looked into where none of those is theirs to see, the last ones.
MAX_STAYS = 20
#: Servers that are asked, and the seconds after which no other is.
MAX_SERVERS = 3
PATIENCE_SECONDS = 20.0
#: Lines that are left for the history between the event before which it was missing and one that is
#: placed in its midst: more events than are ever fetched there.
ROOM_ABOVE = 1 << 22
#: A line after all others.
_LAST_LINE = 2**62


class Timestamps:
    """Finds events by their time."""

    def __init__(
        self,
        *,
        database: Database,
        rooms: Rooms,
        server: Server,
        decisions: Decisions,
        grafter: Grafter,
        fetcher: Fetcher,
        calls: Calls,
        clock: Clock,
        position: Callable[[], int],
        history_came: Callable[[str], None],
        visibility: Visibility,
    ) -> None:
        """`position` is where the log ends for readers; `history_came` is told what room has more of it."""
        self._database = database
        self._rooms = rooms
        self._server = server
        self._decisions = decisions
        self._grafter = grafter
        self._fetcher = fetcher
        self._calls = calls
        self._clock = clock
        self._position = position
        self._history_came = history_came
        self._visibility = visibility

    # -- for other servers

    async def for_server(self, room_id: str, origin: str, at_ms: int, *, forwards: bool) -> dict[str, Any]:
        """The answer to GET timestamp_to_event. Raises 404 M_NOT_FOUND, 403 M_FORBIDDEN."""
        room = await self._server.room_for(room_id, origin)
        found = await self._database.read(
            lambda tx: self._closest(
                tx, room.number, at_ms, forwards, _LAST_LINE,
                lambda stored: self._server.may_see(tx, room, origin, stored),
            )
        )  # fmt: skip
        return _told(found, at_ms, forwards)

    def _closest(
        self,
        tx: Tx,
        room_num: int,
        at_ms: int,
        forwards: bool,
        upto: int,
        may_see: Callable[[StoredEvent], bool],
    ) -> StoredEvent | None:
        for skip in range(0, MAX_SEEN, MAX_AT_ONCE):
            numbers = times.closest(
                tx, room_num, at_ms, forwards=forwards, upto=upto, limit=MAX_AT_ONCE, skip=skip
            )
            loaded = self._rooms.events.load(tx, numbers)
            for number in numbers:
                stored = loaded.get(number)
                if stored is not None and may_see(stored):
                    return stored
            if len(numbers) < MAX_AT_ONCE:
                return None
        return None

    # -- for users

    async def for_user(self, user_id: str, room_id: str, at_ms: int, *, forwards: bool) -> dict[str, Any]:
        """The event closest to a time that the user may see. Raises 403 M_FORBIDDEN, 404 M_NOT_FOUND."""
        found, gap = await self._database.read(lambda tx: self._look(tx, user_id, room_id, at_ms, forwards))
        room = await self._rooms.get(room_id)
        if gap is not None and room is not None and room.resident:
            closer = await self._from_elsewhere(room, gap, found, at_ms, forwards)
            if closer:
                found, _ = await self._database.read(
                    lambda tx: self._look(tx, user_id, room_id, at_ms, forwards)
                )
        return _told(found, at_ms, forwards)

    def _look(
        self, tx: Tx, user_id: str, room_id: str, at_ms: int, forwards: bool
    ) -> tuple[StoredEvent | None, Gap | None]:
        """What is here, and the gap in which something closer may be missing."""
        allowed = access(tx, self._rooms.states, self._rooms.events, user_id, room_id, self._position())
        number = allowed.room.room_num
        view = self._visibility.view(tx, user_id, number)
        sides = [
            self._closest(tx, number, at_ms, way, allowed.line, view.may_see)
            or self._in_stays(tx, view, at_ms, way, allowed.line)
            for way in (False, True)
        ]
        before, after = (stored.line if stored is not None else None for stored in sides)
        lines = [line for line in (before, after) if line is not None]
        upto = allowed.line if after is None else max(lines)
        lowest = min(lines) if before is not None else 0
        gaps = stored_rooms.gaps(tx, number, after=lowest, upto=upto)
        return sides[1 if forwards else 0], (gaps[0] if gaps and allowed.joined else None)

    def _in_stays(self, tx: Tx, view: RoomView, at_ms: int, forwards: bool, upto: int) -> StoredEvent | None:
        """The closest event of the times when the user was in the room, which they may see.

        Between it and the time may lie more that they may not see than is looked at one by one.
        """
        history = stored_rooms.local_history(tx, view.user_id, view.room_num)
        found: list[StoredEvent] = []
        ends = [min(upto, live_line(entry.position)) for entry in history[1:]]
        for entry, last in list(zip(history, [*ends, upto], strict=False))[-MAX_STAYS:]:
            if entry.membership != "join" or entry.forgotten:
                continue
            numbers = times.closest(
                tx, view.room_num, at_ms, forwards=forwards, after=live_line(entry.position) - 1, upto=last,
                limit=MAX_AT_ONCE,
            )  # fmt: skip
            loaded = self._rooms.events.load(tx, numbers)
            found += view.visible(loaded[number] for number in numbers if number in loaded)[:1]
        return min(found, key=lambda stored: abs(stored.event.origin_server_ts - at_ms), default=None)

    async def _from_elsewhere(
        self, room: Room, gap: Gap, found: StoredEvent | None, at_ms: int, forwards: bool
    ) -> bool:
        """Ask the room's servers for a closer event and bring it in; False if there is none."""
        until = self._clock.monotonic() + PATIENCE_SECONDS
        servers = await self._database.read(lambda tx: times.longest_there(tx, room.number, MAX_SERVERS))
        for server in servers:
            if self._clock.monotonic() > until:
                break
            try:
                event_id, ts = await self._calls.timestamp_to_event(
                    server, room.room_id, at_ms, forwards=forwards
                )
                if (ts < at_ms) if forwards else (ts > at_ms):
                    raise FederationError(
                        server, "the event is not on the side of the time that was asked for"
                    )
                if found is not None and abs(found.event.origin_server_ts - at_ms) <= abs(ts - at_ms):
                    return False
                return await self._bring_in(server, room, gap, event_id)
            except FederationError as error:
                _log.info("no event of %s by its time from %s: %s", room.room_id, server, error)
        return False

    async def _bring_in(self, server: str, room: Room, gap: Gap, event_id: str) -> bool:
        """Give an event its place in the midst of missing history, which is then two gaps."""
        events = await self._fetcher.events(server, room.version, room.room_id, [event_id])
        if not events:
            raise FederationError(server, "the event that it named could not be had")
        cutting = await self._grafter.prepare(server, room, events)
        decided = await self._decisions.make(
            lambda: self._rooms.get(room.room_id),
            lambda tx, batch: self._decide(tx, batch, gap, cutting),
        )
        self._history_came(room.room_id)
        return bool(decided)

    def _decide(self, tx: Tx, batch: Batch, gap: Gap, cutting: Cutting) -> bool:
        below = self._rooms.events.timeline(
            tx, batch.room.number, after=0, upto=gap.next_line - 1, limit=1, backwards=True
        )
        lowest = (below[0].line or 0) if below else 0
        # In the midst of the lines that are free: history will come on both sides.
        line = gap.next_line - min(ROOM_ABOVE, (gap.next_line - lowest) // 2)
        if not lowest < line < gap.next_line:
            return False
        decided = self._grafter.decide(
            tx, batch, cutting, lines={event.event_id: line for event in cutting.events}
        )
        for item in decided:
            batch.room.missing.update(item.gap)
        batch.apply_awaited(tx, decided)
        return bool(decided)


def _told(found: StoredEvent | None, at_ms: int, forwards: bool) -> dict[str, Any]:
    if found is None:
        raise not_found(f"There is no event {'at or after' if forwards else 'at or before'} {at_ms}")
    return {"event_id": found.event.event_id, "origin_server_ts": found.event.origin_server_ts}
