"""Walking a room's history: /messages and /context.

Pages go as far as a request may cost; where history is missing, other servers are asked
through `fill_gap`, and what they cannot give is read across.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from comity.protocol.errors import not_found
from comity.protocol.filters import RoomEventFilter
from comity.rooms.read.access import Access, access, ignored_users
from comity.rooms.read.format import ClientFormat, Reading
from comity.rooms.read.tokens import line_token, parse_line
from comity.rooms.read.visible import RoomView, Visibility
from comity.rooms.read.window import Keep, Window, scan_back, scan_forward
from comity.store import relations
from comity.store.database import Database, Tx
from comity.store.events import Events, StoredEvent
from comity.store.state import States

#: Gaps that one request tries to have filled: each is a question to other servers.
MAX_FILLS = 5
#: Events asked for when a gap is filled, at least: asking for fewer is not cheaper.
MIN_FILL = 20
#: Relations to one event that are looked at for one that the reader may see, the newest first.
MAX_RELATED = 50
#: Reads of one request before it answers with what it has.
MAX_ROUNDS = 10

#: (room id, line of the gap, how many events) -> whether anything more could be had.
FillGap = Callable[[str, int, int], Awaitable[bool]]
#: (tx, user id, device id, events, the room's view) -> how these events are read.
MakeReading = Callable[[Tx, str, str, Sequence[StoredEvent], RoomView], Reading]


@dataclass(frozen=True, slots=True)
class Walk:
    """What /messages was asked. `start` and `end` are tokens of either kind."""

    user_id: str
    device_id: str
    room_id: str
    backwards: bool
    start: str | None
    end: str | None
    limit: int
    wanted: RoomEventFilter


@dataclass(slots=True)
class _Progress:
    """Where a walk has come to. `cursor` and `bound` are lines, as is `edge`: the bound if none is asked for.

    `lasts`: what happens in the room from now on is the reader's to see as well.
    """

    cursor: int
    bound: int
    edge: int
    lasts: bool
    found: list[StoredEvent] = field(default_factory=list)
    passed: set[int] = field(default_factory=set)
    exhausted: bool = False


def wanted_events(
    tx: Tx, events: Events, view: RoomView, user_id: str, room_id: str, wanted: RoomEventFilter
) -> Keep:
    """The test for events that a user may see and asked for, nobody's whom they ignore."""
    ignored = ignored_users(tx, user_id)
    is_open = wanted.is_open
    wants_related = wanted.related_by_rel_types is not None or wanted.related_by_senders is not None

    def is_related(target: StoredEvent) -> bool:
        """COMPAT: related_by_rel_types and related_by_senders, which v1.19 does not define (MSC3440).

        One relation has to match both, and be one that the user may see.
        """
        numbers = relations.related_by(
            tx, target.room_num, target.event.event_id, wanted.related_by_rel_types,
            wanted.related_by_senders, MAX_RELATED,
        )  # fmt: skip
        return any(
            child.event.sender not in ignored and view.may_see(child)
            for child in events.load(tx, numbers).values()
        )

    def keep(stored: StoredEvent) -> bool:
        event = stored.event
        if ignored and event.sender in ignored and event.state_key is None:
            return False
        if not view.may_see(stored):
            return False
        if not is_open and not wanted.matches(event.type, event.sender, room_id, event.content):
            return False
        return not wants_related or (stored.related and is_related(stored))

    return keep


def members_of(
    tx: Tx, states: States, events: Events, room_num: int, root: bytes, users: Iterable[str]
) -> list[StoredEvent]:
    """The membership events of some users in a state, in the order of their user ids."""
    numbers = []
    for user_id in sorted(users):
        slot = states.slot(tx, room_num, ("m.room.member", user_id))
        number = 0 if slot is None else states.get(tx, root, slot)
        if number:
            numbers.append(number)
    loaded = events.load(tx, numbers)
    return [loaded[number] for number in numbers if number in loaded]


class Paging:
    """Pages through history for clients."""

    def __init__(
        self,
        database: Database,
        states: States,
        events: Events,
        visibility: Visibility,
        client_format: ClientFormat,
        make_reading: MakeReading,
        position: Callable[[], int],
        fill_gap: FillGap,
    ) -> None:
        self._database = database
        self._states = states
        self._events = events
        self._visibility = visibility
        self._format = client_format
        self._make_reading = make_reading
        self._position = position
        self._fill_gap = fill_gap

    async def messages(self, walk: Walk) -> dict[str, Any]:
        """GET /rooms/{roomId}/messages. Raises 403 M_FORBIDDEN, 400 M_INVALID_PARAM."""
        now = self._position()

        def first(tx: Tx) -> dict[str, Any] | tuple[_Progress, int, Window]:
            allowed = access(tx, self._states, self._events, walk.user_id, walk.room_id, now)
            progress, start = self._begin(walk, allowed)
            window = self._step(tx, walk, progress, allowed.room.room_num)
            if window.gap is None:
                # What most pages are: one look.
                return self._page(tx, walk, progress, start, allowed.room.room_num)
            return progress, start, window

        found = await self._database.read(first)
        if isinstance(found, dict):
            return found
        progress, start, window = found
        fills = 0
        for _ in range(MAX_ROUNDS):
            if window.gap is None:
                break
            more = False
            if fills < MAX_FILLS:
                fills += 1
                more = await self._fill_gap(walk.room_id, window.gap.line, max(walk.limit, MIN_FILL))
            if not more:
                progress.passed.add(window.gap.line)
            window = await self._database.read(
                lambda tx: self._step(tx, walk, progress, self._room_num(tx, walk))
            )
        return await self._database.read(
            lambda tx: self._page(tx, walk, self._fresh(tx, progress), start, self._room_num(tx, walk))
        )

    def _begin(self, walk: Walk, allowed: Access) -> tuple[_Progress, int]:
        start = parse_line(walk.start) if walk.start is not None else None
        end = parse_line(walk.end) if walk.end is not None else None
        if walk.backwards:
            first = allowed.line if start is None else start
            bound = 0 if end is None else end
            return _Progress(min(first, allowed.line), bound, 0, allowed.present), first
        last = allowed.line if end is None else min(end, allowed.line)
        return _Progress(start or 0, last, allowed.line, allowed.present), start or 0

    def _step(self, tx: Tx, walk: Walk, progress: _Progress, room_num: int) -> Window:
        view = self._visibility.view(tx, walk.user_id, room_num)
        keep = wanted_events(tx, self._events, view, walk.user_id, walk.room_id, walk.wanted)
        limit = walk.limit - len(progress.found)
        if walk.backwards:
            window = scan_back(
                tx, self._events, room_num, after=progress.bound, upto=progress.cursor, limit=limit,
                keep=keep, passed=progress.passed,
            )  # fmt: skip
        else:
            window = scan_forward(
                tx, self._events, room_num, after=progress.cursor, upto=progress.bound, limit=limit,
                keep=keep, passed=progress.passed,
            )  # fmt: skip
        progress.found.extend(window.events)
        progress.cursor = window.stop
        progress.exhausted = window.exhausted
        if len(progress.found) == walk.limit:
            window.gap = None
        return window

    def _room_num(self, tx: Tx, walk: Walk) -> int:
        now = self._position()
        return access(tx, self._states, self._events, walk.user_id, walk.room_id, now).room.room_num

    def _fresh(self, tx: Tx, progress: _Progress) -> _Progress:
        """A redaction may have come while a gap was filled: read what is true now."""
        fresh = self._events.load(tx, [stored.number for stored in progress.found])
        found = [fresh[stored.number] for stored in progress.found if stored.number in fresh]
        return replace(progress, found=found)

    def _page(self, tx: Tx, walk: Walk, progress: _Progress, start: int, room_num: int) -> dict[str, Any]:
        view, chunk = self._visibility.view(tx, walk.user_id, room_num), progress.found
        reading = self._make_reading(tx, walk.user_id, walk.device_id, chunk, view)
        answer: dict[str, Any] = {
            "start": walk.start if walk.start is not None else line_token(start),
            "chunk": self._format.array(tx, chunk, reading),
        }
        if walk.wanted.lazy_load_members and chunk:
            members = self._senders(tx, chunk, backwards=walk.backwards)
            answer["state"] = self._format.events(tx, members, reading.brief())
        if not progress.exhausted or (chunk and self._goes_on(tx, walk, progress, view)):
            answer["end"] = line_token(progress.cursor)
        return answer

    def _senders(self, tx: Tx, chunk: Sequence[StoredEvent], *, backwards: bool) -> list[StoredEvent]:
        """The members who sent the events of a page, as they were where it begins.

        Going forwards, some come to the room only on the way, by an event that the client may not have asked
        for: they are told as they are at its end.
        """
        first, last = chunk[0], chunk[-1]
        senders = {item.event.sender for item in chunk}
        root = first.state_after if backwards else first.state_before
        found = members_of(tx, self._states, self._events, first.room_num, root or b"", senders)
        missing = senders.difference(str(member.event.state_key) for member in found)
        if missing and not backwards:
            told = {item.number for item in chunk}
            late = members_of(
                tx, self._states, self._events, first.room_num, last.state_after or b"", missing
            )
            found += [member for member in late if member.number not in told]
        return found

    def _goes_on(self, tx: Tx, walk: Walk, progress: _Progress, view: RoomView) -> bool:
        """Whether something may come behind the bound of a walk that has come there."""
        if not walk.backwards and progress.lasts:
            # What comes next may not have happened yet.
            return True
        if progress.bound == progress.edge:
            return False
        # The client has set the bound: whether there is more does not depend on it.
        keep = wanted_events(tx, self._events, view, walk.user_id, walk.room_id, walk.wanted)
        low, high = sorted((progress.bound, progress.edge))
        scan = scan_back if walk.backwards else scan_forward
        beyond = scan(
            tx, self._events, view.room_num, after=low, upto=high, limit=0, keep=keep,
            passed=progress.passed,
        )  # fmt: skip
        return not beyond.exhausted

    # -- context

    async def context(
        self, user_id: str, device_id: str, room_id: str, event_id: str, limit: int, wanted: RoomEventFilter
    ) -> dict[str, Any]:
        """GET /rooms/{roomId}/context/{eventId}. Raises 403 M_FORBIDDEN, 404 M_NOT_FOUND."""
        now = self._position()

        def read(tx: Tx) -> dict[str, Any]:
            allowed = access(tx, self._states, self._events, user_id, room_id, now)
            stored = self._events.by_id(tx, event_id)
            view = self._visibility.view(tx, user_id, allowed.room.room_num)
            if stored is None or stored.room_num != allowed.room.room_num or not view.may_see(stored):
                raise not_found("There is no such event in the room, or you may not see it")
            if stored.line is None:
                raise not_found("The event has no place in the room's history as this server has it")
            return self._around(tx, allowed, view, stored, device_id, limit, wanted)

        return await self._database.read(read)

    def _around(
        self,
        tx: Tx,
        allowed: Access,
        view: RoomView,
        stored: StoredEvent,
        device_id: str,
        limit: int,
        wanted: RoomEventFilter,
    ) -> dict[str, Any]:
        room_num, line, room_id = stored.room_num, stored.line or 0, stored.event.room_id
        keep = wanted_events(tx, self._events, view, view.user_id, room_id, wanted)
        half = limit // 2
        ceiling = max(allowed.line, line)
        before = scan_back(tx, self._events, room_num, after=0, upto=line - 1, limit=half, keep=keep)
        after = scan_forward(
            tx, self._events, room_num, after=line, upto=ceiling, limit=limit - half, keep=keep
        )
        listed = [*reversed(before.events), stored, *after.events]
        reading = self._make_reading(tx, view.user_id, device_id, listed, view)
        state = self._state_for(tx, room_num, listed, lazy=wanted.lazy_load_members)
        chosen = [
            item
            for item in state
            if wanted.matches(item.event.type, item.event.sender, room_id, item.event.content)
        ]
        return {
            "start": line_token(before.stop),
            "end": line_token(after.stop),
            "event": self._format.event(tx, stored, reading),
            "events_before": self._format.events(tx, before.events, reading),
            "events_after": self._format.events(tx, after.events, reading),
            "state": self._format.events(tx, chosen, reading.brief()),
        }

    def _state_for(
        self, tx: Tx, room_num: int, listed: list[StoredEvent], *, lazy: bool
    ) -> list[StoredEvent]:
        """The state at the last of some events; if `lazy`, of the members only those who sent them."""
        root = listed[-1].state_after or b""
        if not lazy:
            every = [number for _, number in self._states.items(tx, root)]
            return list(self._events.load(tx, every).values())
        numbers = [
            number
            for slot, number in self._states.items(tx, root)
            if self._states.key(tx, room_num, slot)[0] != "m.room.member"
        ]
        senders = {item.event.sender for item in listed}
        members = members_of(tx, self._states, self._events, room_num, root, senders)
        return [*self._events.load(tx, numbers).values(), *members]
