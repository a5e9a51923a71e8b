"""What a client that knows nothing yet is told of a room: made once for all members (DESIGN §4.1, §4.5).

The newest stretch of a room's timeline and the state beside it are the same for everybody who is in the
room, but for ages, `unsigned.membership`, and transaction ids of the reader's own events. So they are kept
with places for the first two, for as long as nothing happens in the room, and given to nobody who has one
of the third. A room whose past its members do not see alike has no opening, and is read for each.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from comity.protocol.filters import Filter
from comity.protocol.visibility import SHARED, WORLD_READABLE, history_at
from comity.rooms.read import Reader
from comity.rooms.read.format import Reading
from comity.rooms.read.tail import Tail
from comity.rooms.read.template import Template, template
from comity.rooms.read.tokens import line_token
from comity.rooms.read.visible import RoomView
from comity.store import personal
from comity.store.cache import Weighed
from comity.store.database import Tx
from comity.store.erasures import NEVER
from comity.store.events import StoredEvent, live_line
from comity.store.state import EMPTY
from comity.sync.asked import Asked, Stretch
from comity.sync.delta import MEMBER, Delta, Deltas
from comity.sync.timeline import stretch

#: Megabytes that all openings may take, where nobody says otherwise.
DEFAULT_MEGABYTES = 32
#: Bytes of the largest that is kept: of a room with so much state, each is made anew.
MAX_OPENING_BYTES = 1024 * 1024
#: What an opening takes beside its events.
_OVERHEAD = 2_000
_IN_SIGHT = frozenset({SHARED, WORLD_READABLE})


@dataclass(frozen=True, slots=True)
class Change:
    """A member event of the timeline: whose membership was what before, and is what from its line on."""

    line: int
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Receipts:
    """The content of all of a room's receipts that are for everybody, as of the newest.

    `private` are the users who have others beside.
    """

    newest: int
    content: orjson.Fragment | None
    private: frozenset[str]


@dataclass(slots=True)
class Opening:
    """A room's opening for who asks with the filter `wanted`.

    `mark` and `erasures` are of the room's tail and of the erasures that it was made from. `senders` has the
    timeline's events, `changes` its member events (both by user), `slots` the state that it tells or sets,
    `members` the memberships that a client has with it (user id, event number).
    """

    wanted: Filter
    mark: object
    erasures: int
    timeline: Template
    state: Template
    limited: bool
    before: str
    senders: Mapping[str, Sequence[StoredEvent]]
    changes: Mapping[str, Sequence[Change]]
    slots: frozenset[int]
    members: Sequence[tuple[str, int]]
    is_named: bool
    #: Whether it is also for members who came within the timeline; None: nobody has asked.
    is_for_new_members: bool | None = None
    receipts: Receipts | None = None

    @property
    def size(self) -> int:
        """About how many bytes it takes."""
        return self.timeline.size + self.state.size + _OVERHEAD


class Openings:
    """Makes and keeps them."""

    def __init__(self, reader: Reader, deltas: Deltas, megabytes: int = DEFAULT_MEGABYTES) -> None:
        """`megabytes` is what all of them may take."""
        self._reader = reader
        self._deltas = deltas
        #: By room, filter (which the opening holds on to) and place of the state.
        self._kept: Weighed[tuple[int, int, bool], Opening] = Weighed(megabytes * 1024 * 1024)

    def get(
        self, tx: Tx, asked: Asked, view: RoomView, room_id: str, tail: Tail, current: bytes
    ) -> Opening | None:
        """The room's opening for who asks, who is joined and ignores nobody; None: it has to be read."""
        if tail.mark is None:
            return None
        key = (view.room_num, id(asked.wanted), asked.request.use_state_after)
        erasures = self._reader.erasures.changes
        opening = self._kept.get(key)
        if (
            opening is None
            or opening.wanted is not asked.wanted
            or opening.mark is not tail.mark
            or opening.erasures != erasures
        ):
            opening = self._make(tx, asked, view, room_id, tail, current, erasures)
            if opening is None:
                self._kept.drop(key)
                return None
            if tx.as_of == self._reader.database.commits and opening.size <= MAX_OPENING_BYTES:
                self._kept.put(key, opening, opening.size)
        user_id = asked.user_id
        if user_id in opening.changes:
            if opening.is_for_new_members is None:
                eyes = _AnyMember(tx, self._reader, view)
                told = itertools.chain.from_iterable(opening.senders.values())
                opening.is_for_new_members = all(eyes.in_sight(stored) for stored in told)
            if not opening.is_for_new_members:
                return None
        own = opening.senders.get(user_id)
        if own and self._reader.sent_from(tx, user_id, asked.request.device_id, own):
            return None
        return opening

    def lists(self, opening: Opening, asked: Asked, others: Sequence[orjson.Fragment]) -> dict[str, Any]:
        """`timeline`, and `state` or `state_after`, for who asks; `others` is further state."""
        now_ms = self._reader.clock.now_ms()
        changes = opening.changes.get(asked.user_id)
        membership = None if changes is None else _membership(changes)
        state = opening.state.fill(now_ms, membership)
        if others:
            state = b"%b%b%b" % (state[:-1], b"," if opening.state.times else b"", orjson.dumps(others)[1:])
        return {
            "timeline": {
                "events": orjson.Fragment(opening.timeline.fill(now_ms, membership)),
                "limited": opening.limited,
                "prev_batch": opening.before,
            },
            "state_after" if asked.request.use_state_after else "state": {"events": orjson.Fragment(state)},
        }

    def receipts(
        self, tx: Tx, asked: Asked, opening: Opening, room_num: int, newest: int
    ) -> orjson.Fragment | None:
        """The content of the room's receipts that the user may see; None if there are none."""
        known = opening.receipts
        if known is None or known.newest != newest:
            content, private = personal.public_receipts(tx, room_num, asked.now)
            fragment = None if content is None else orjson.Fragment(content)
            known = opening.receipts = Receipts(newest, fragment, private)
        if asked.user_id not in known.private:
            return known.content
        own = personal.receipts_since(tx, room_num, 0, asked.now, asked.user_id)
        return None if own is None else orjson.Fragment(own)

    def others(
        self, tx: Tx, opening: Opening, room_id: str, view: RoomView, current: bytes, users: Iterable[str]
    ) -> tuple[list[orjson.Fragment], list[tuple[str, int]]]:
        """The member events of users that are not told with the opening; and (user, event number) of each."""
        reader, found = self._reader, list[tuple[str, int]]()
        for user_id in dict.fromkeys(users):
            slot = reader.states.slot(tx, view.room_num, (MEMBER, user_id))
            if slot is None or slot in opening.slots:
                continue
            number = reader.states.get(tx, current, slot)
            if number:
                found.append((user_id, number))
        loaded = reader.events.load(tx, [number for _, number in found]).values()
        wanted = opening.wanted.room.state
        told = [e for e in loaded if wanted.matches(MEMBER, e.event.sender, room_id, e.event.content)]
        reading = Reading(
            now_ms=reader.clock.now_ms(), with_room_id=False, in_context=False, may_see=view.may_see
        )
        return reader.format.events(tx, told, reading), found

    # -- making one

    def _make(
        self, tx: Tx, asked: Asked, view: RoomView, room_id: str, tail: Tail, current: bytes, erasures: int
    ) -> Opening | None:
        reader, wanted = self._reader, asked.wanted
        if wanted.event_fields is not None or wanted.event_format != "client":
            return None
        if not view.keeps_all:
            return None
        shown = stretch(tx, reader, asked, view, room_id, tail, after=0, upto=live_line(asked.now))
        if shown.hidden or not _is_linear(shown.events, current) or _tells_children(shown):
            return None
        at_end = asked.request.use_state_after
        lazy = wanted.room.state.lazy_load_members
        delta = self._deltas.between(
            tx, view.room_num, EMPTY, current, shown, at_end=at_end,
            only_members=frozenset(e.event.sender for e in shown.events) if lazy else None,
        )  # fmt: skip
        if lazy:
            self._add_senders(tx, view.room_num, delta, shown, at_end=at_end)
        eyes = _AnyMember(tx, reader, view)
        whole, brief = eyes.reading(), eyes.reading().brief()
        in_timeline = {stored.number for stored in shown.events}
        is_open = wanted.room.state.is_open
        state = [
            stored
            for stored in self._deltas.load(tx, delta)
            if is_open
            or wanted.room.state.matches(
                stored.event.type, stored.event.sender, room_id, stored.event.content
            )
        ]
        timeline = template(tx, reader.format, shown.events, lambda _: whole)
        told = template(tx, reader.format, state, lambda e: whole if e.number in in_timeline else brief)
        for user_id in {stored.event.sender for stored in (*shown.events, *state)}:
            eyes.look_for_erasure(user_id)
        if eyes.see_less:
            return None
        return Opening(
            wanted, tail.mark, erasures, timeline, told, shown.limited, line_token(shown.before),
            _by_sender(shown.events), self._changes(tx, shown.events),
            frozenset((*delta.entries, *delta.in_timeline)),
            self._members(tx, view.room_num, delta, () if at_end else shown.events) if lazy else (),
            self._deltas.is_named(tx, view.room_num, current),
        )  # fmt: skip

    def _add_senders(self, tx: Tx, room_num: int, delta: Delta, shown: Stretch, *, at_end: bool) -> None:
        """client-server §Lazy-loading room members: those of the timeline's senders."""
        in_timeline = set() if at_end else {stored.number for stored in shown.events}
        senders = {stored.event.sender for stored in shown.events}
        for slot, _, number in self._deltas.members_at(tx, room_num, delta, shown, senders, at_end=at_end):
            if number not in in_timeline:
                delta.entries.setdefault(slot, number)

    def _members(
        self, tx: Tx, room_num: int, delta: Delta, timeline: Iterable[StoredEvent]
    ) -> list[tuple[str, int]]:
        found = []
        for slot, number in delta.entries.items():
            event_type, user_id = self._reader.states.key(tx, room_num, slot)
            if event_type == MEMBER:
                found.append((user_id, number))
        found += [
            (stored.event.state_key or "", stored.number)
            for stored in timeline
            if stored.event.type == MEMBER and stored.event.is_state
        ]
        return found

    def _changes(self, tx: Tx, events: Iterable[StoredEvent]) -> dict[str, list[Change]]:
        found: dict[str, list[Change]] = {}
        for stored in events:
            user_id = stored.event.state_key
            if stored.event.type == MEMBER and user_id is not None:
                replaced = self._reader.format.replaced(tx, stored)
                before = replaced.event.membership if replaced is not None else None
                change = Change(stored.line or 0, before or "leave", stored.event.membership or "leave")
                found.setdefault(user_id, []).append(change)
        return found


class _AnyMember:
    """Reads as any member does; notes if some of it is not for all of them."""

    def __init__(self, tx: Tx, reader: Reader, view: RoomView) -> None:
        self._tx = tx
        self._reader = reader
        self._view = view
        self.see_less = False

    def reading(self) -> Reading:
        return Reading(now_ms=0, with_room_id=False, may_see=self._may_see, is_erased=self._is_erased)

    def _may_see(self, replaced: StoredEvent) -> bool:
        self.see_less = self.see_less or not self.in_sight(replaced)
        self.look_for_erasure(replaced.event.sender)
        return True

    def _is_erased(self, stored: StoredEvent) -> bool:
        self.look_for_erasure(stored.event.sender)
        return False

    def look_for_erasure(self, user_id: str) -> None:
        self.see_less = self.see_less or self._reader.erasures.position(self._tx, user_id) != NEVER

    def in_sight(self, stored: StoredEvent) -> bool:
        """Whether those who came to the room after an event may see it."""
        if stored.state_before is None:
            return False
        policy = self._view.policy_in(stored.state_before)
        history = history_at(stored.event, policy.content if policy is not None else None)
        return history.before in _IN_SIGHT or history.after in _IN_SIGHT


def _is_linear(events: Sequence[StoredEvent], current: bytes) -> bool:
    """Whether each event was written on what the one before it made of the room, the last as it is now."""
    after = [stored.state_after for stored in events]
    before = [stored.state_before for stored in events[1:]]
    return after == [*before, current]


def _tells_children(shown: Stretch) -> bool:
    """Whether children are told with events: who took part in a thread differs."""
    return shown.limited and any(stored.related for stored in shown.events)


def _by_sender(events: Iterable[StoredEvent]) -> dict[str, list[StoredEvent]]:
    found: dict[str, list[StoredEvent]] = {}
    for stored in events:
        found.setdefault(stored.event.sender, []).append(stored)
    return found


def _membership(changes: Sequence[Change]) -> Callable[[int], str]:
    def at(line: int) -> str:
        membership = changes[0].before
        for change in changes:
            if change.line <= line:
                membership = change.after
        return membership

    return at
