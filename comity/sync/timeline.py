"""The newest stretch of a room's timeline that a client has not seen."""

from __future__ import annotations

from comity.protocol.event import StateKey
from comity.protocol.filters import RoomEventFilter
from comity.rooms.read import Reader
from comity.rooms.read.tail import Tail
from comity.rooms.read.visible import RoomView
from comity.rooms.read.window import scan_back
from comity.store.database import Tx
from comity.store.events import StoredEvent
from comity.sync.asked import Asked, Stretch


class _Chooser:
    """Chooses among events, newest first: what may be seen, is wanted, and is not by somebody ignored.

    A client makes the state of the timeline's events, one after the other (client-server §Syncing). So it
    is given no state event above which lies one of the same key that it may not see: `floor` is the line of
    the newest such event, and of it and all below it nothing is kept.
    """

    def __init__(self, asked: Asked, view: RoomView, room_id: str) -> None:
        self._view = view
        self._room_id = room_id
        self._ignored = asked.ignored
        self._wanted: RoomEventFilter = asked.wanted.room.timeline
        self._is_open = self._wanted.is_open
        self._takes_state = not asked.request.use_state_after
        #: The keys of the state events that may not be seen.
        self._unseen: set[StateKey] = set()
        self.hidden = False
        self.floor = 0

    def keep(self, stored: StoredEvent) -> bool:
        event = stored.event
        if self.floor:
            return False
        if not self._view.may_see(stored):
            self.hidden = True
            if event.is_state:
                self._unseen.add(event.key)
            return False
        if self._unseen and self._takes_state and event.is_state and event.key in self._unseen:
            self.floor = stored.line or 1
            return False
        if self._ignored and event.state_key is None and event.sender in self._ignored:
            return False
        return self._is_open or self._wanted.matches(event.type, event.sender, self._room_id, event.content)


def stretch(
    tx: Tx,
    reader: Reader,
    asked: Asked,
    view: RoomView,
    room_id: str,
    tail: Tail | None,
    *,
    after: int,
    upto: int,
) -> Stretch:
    """The newest wanted events with `after < line <= upto`, as many as the filter lets through.

    Events come from the `tail` if there is one, which ends at `upto`, and it goes back far
    enough. The stretch is cut short at a gap: below it, history is missing here too.
    """
    limit = asked.wanted.room.timeline.limit
    chooser = _Chooser(asked, view, room_id)
    # One more than is wanted tells whether there are more.
    recent = None if tail is None else reader.tails.newest(tx, tail, after, limit + 1)
    if recent is not None:
        kept = [stored for stored in recent if chooser.keep(stored)]
        if len(recent) <= limit or len(kept) > limit or chooser.floor:
            return _from_tail(kept, chooser, max(after, chooser.floor), limit)
        chooser = _Chooser(asked, view, room_id)
    window = scan_back(
        tx, reader.events, view.room_num, after=after, upto=upto, limit=limit, keep=chooser.keep
    )
    before = max(window.stop, chooser.floor)
    if window.events:
        # Right below the oldest: what may not be seen there now may be once they are in the room (again).
        before = (window.events[-1].line or 1) - 1
    limited = not window.exhausted or bool(chooser.floor)
    return Stretch(window.events[::-1], limited, before, chooser.hidden)


def _from_tail(kept: list[StoredEvent], chooser: _Chooser, after: int, limit: int) -> Stretch:
    limited = len(kept) > limit or bool(chooser.floor)
    events = kept[:limit][::-1]
    before = (events[0].line or 1) - 1 if events else after
    return Stretch(events, limited, before, chooser.hidden)
