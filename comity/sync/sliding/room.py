"""One room's part of a sliding sync (MSC4186): what a client wants of it and was not told yet.

A slice of the same positions as /sync's: the timeline's newest stretch, the state that changed
between two heads, counts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from comity.protocol.event import StateKey
from comity.protocol.filters import NO_FILTER, EventFilter, Filter, RoomEventFilter, RoomFilter
from comity.rooms.read import Reader
from comity.rooms.read.tail import Tail
from comity.rooms.read.tokens import SyncToken, line_token
from comity.rooms.read.visible import RoomView
from comity.store import rooms as stored_rooms
from comity.store.database import Tx
from comity.store.events import live_line
from comity.store.state import EMPTY
from comity.sync.asked import Asked, Stretch, SyncRequest
from comity.sync.delta import MEMBER, Deltas
from comity.sync.departures import OtherRooms
from comity.sync.sliding.connections import MAX_MEMBERS, Told
from comity.sync.sliding.room_lists import PRESENT, Entry
from comity.sync.sliding.wish import MAX_TIMELINE, Required, RoomWish
from comity.sync.summary import Summaries
from comity.sync.timeline import stretch
from comity.sync.unread import UnreadCounts

_NAMING = ("m.room.name", "m.room.avatar", MEMBER)


@dataclass(slots=True)
class _Changed:
    """The state of a room that is to be told: by event number, and what is of no event any more.

    `naming` are the types of _NAMING that changed, wanted or not; `has_gap`: more members than are told.
    """

    numbers: dict[int, None] = field(default_factory=dict)
    gone: list[dict[str, str]] = field(default_factory=list)
    naming: set[str] = field(default_factory=set)
    has_gap: bool = False

    def add(self, event_type: str, state_key: str, number: int) -> None:
        """Tell an entry; `number` is 0 if there is none any more."""
        if number:
            self.numbers[number] = None
        else:
            self.gone.append({"type": event_type, "state_key": state_key})

    def __bool__(self) -> bool:
        return bool(self.numbers or self.gone or self.naming)


class SlidingRooms:
    """Cuts the parts of rooms."""

    def __init__(
        self, reader: Reader, deltas: Deltas, summaries: Summaries, unread: UnreadCounts, others: OtherRooms
    ) -> None:
        self._reader = reader
        self._deltas = deltas
        self._summaries = summaries
        self._unread = unread
        self._others = others

    def part(
        self, tx: Tx, asked: Asked, entry: Entry, wish: RoomWish, told: Told | None, *, is_dm: bool
    ) -> tuple[dict[str, Any] | None, list[str], Told]:
        """(the room's part, or None if there is no news; the ids of its events; what the client knows then).

        `asked` is the request as a whole: its `after` is the connection's, not the room's.
        """
        if not entry.is_present:
            return self._removed(tx, asked, entry, wish), [], Told(asked.now, entry.own.membership)
        if entry.own.membership != "join":
            part, now_told = self._from_outside(tx, asked, entry, told)
            return part, [], now_told
        is_new = told is None or self._came_anew(tx, asked, entry, told)
        after = 0 if told is None or is_new else told.position
        here = _since(asked, after, wish.timeline_limit)
        reader, room_num = self._reader, entry.own.room_num
        tail = reader.tails.get(tx, room_num, entry.room_id, asked.now)
        view = reader.visibility.view(tx, asked.user_id, room_num, is_joined=True)
        is_longer = told is not None and not is_new and wish.timeline_limit > told.timeline_limit
        shown = self._timeline(tx, here, view, entry, tail, 0 if is_longer else after)
        current = reader.tails.head(tx, room_num, tail, asked.now)
        known = EMPTY if is_new else reader.tails.head(tx, room_num, tail, after)
        before = Told(0, "join") if told is None or is_new else told
        changed, members = self._state(tx, room_num, known, current, wish.required, before, shown)
        total = self._unread.count(tx, view, tail, current, here, entry.room_id, entry.own).total()
        counts = (total.notifications, total.highlights)
        now_told = Told(asked.now, "join", wish.required, wish.timeline_limit, members, counts, is_dm)
        # A hole in what is known here may be all that is new of the timeline: it is to be paged through.
        # Whoever wants none of it is told of what happens by the room's place in the list alone.
        is_further = shown.limited if wish.timeline_limit else entry.bump > before.position
        is_other = counts != before.counts or is_dm is not before.is_dm
        is_news = bool(shown.events or is_further or changed or is_other)
        if not (is_new or is_longer or is_news):
            return None, [], now_told
        reading = reader.reading(tx, asked.user_id, asked.request.device_id, shown.events, view,
                                 with_room_id=False, with_bundles=shown.limited or is_new)  # fmt: skip
        loaded = reader.events.load(tx, sorted(changed.numbers))
        part = {
            "bump_stamp": entry.bump,
            "membership": "join",
            "notification_count": counts[0],
            "highlight_count": counts[1],
            "required_state": [
                *reader.format.state(tx, list(loaded.values()), reading, shown.events), *changed.gone
            ],
            "timeline": reader.format.events(tx, shown.events, reading),
            # Clients take a longer stretch for what comes after what they have, unless it says so.
            "limited": shown.limited or is_longer or changed.has_gap,
            "num_live": 0 if asked.is_initial else sum(
                (stored.line or 0) > live_line(asked.after) for stored in shown.events
            ),
        }  # fmt: skip
        if shown.events or part["limited"] or is_new:
            part["prev_batch"] = line_token(shown.before)
        if is_new:
            part["initial"] = True
        if is_new or is_dm is not before.is_dm:
            part["is_dm"] = is_dm
        if is_longer:
            part["unstable_expanded_timeline"] = part["expanded_timeline"] = True
        if is_new or changed.naming:
            part.update(self._names(tx, room_num, current, asked.user_id, changed.naming))
        return part, [stored.event.event_id for stored in shown.events], now_told

    def _came_anew(self, tx: Tx, asked: Asked, entry: Entry, told: Told) -> bool:
        """Whether the user's present stay began after what the client was told."""
        if told.membership != "join":
            return True
        if entry.own.position <= told.position:
            return False
        history = stored_rooms.local_history(tx, asked.user_id, entry.own.room_num)
        return any(
            told.position < item.position <= asked.now and item.membership != "join" for item in history
        )

    def _timeline(
        self, tx: Tx, asked: Asked, view: RoomView, entry: Entry, tail: Tail, after: int
    ) -> Stretch:
        if asked.wanted.room.timeline.events.limit == 0:
            # Nothing of the timeline is wanted: only where it is.
            line = tail.lines[-1] if tail.lines else 0
            return Stretch([], line > live_line(after), line)
        shown = stretch(
            tx, self._reader, asked, view, entry.room_id, tail,
            after=live_line(after), upto=live_line(asked.now),
        )  # fmt: skip
        if after == 0 and shown.hidden:
            return Stretch(shown.events, True, shown.before, True)
        return shown

    # -- state

    def _state(
        self,
        tx: Tx,
        room_num: int,
        known: bytes,
        current: bytes,
        wanted: Required,
        told: Told,
        shown: Stretch,
    ) -> tuple[_Changed, frozenset[str]]:
        """(the state to tell, the members told as they matter)."""
        states = self._reader.states
        shown_here = _members_shown(shown) if wanted.lazy else frozenset()
        members = {*told.members, *shown_here} if wanted.lazy else set()
        # Apps keep the list of members while they have all of the timeline, in which what state resolution
        # changed is not; after a gap they fetch that list anew.
        is_gapless = wanted.lazy and not shown.limited
        others: list[tuple[str, int]] = []
        changed = _Changed()
        numbers = changed.numbers
        if known == EMPTY:
            numbers.update(dict.fromkeys(self._pick(tx, room_num, current, wanted)))
        else:
            for slot, _, number in states.difference(tx, known, current):
                event_type, state_key = states.key(tx, room_num, slot)
                if event_type in _NAMING:
                    changed.naming.add(event_type)
                is_member = event_type == MEMBER
                if wanted.wants(event_type, state_key) or (is_member and state_key in members):
                    changed.add(event_type, state_key, number)
                elif is_member and is_gapless:
                    others.append((state_key, number))
            # As many as when a room is whole at last that was joined in a moment: they are fetched, too.
            changed.has_gap = len(others) > MAX_MEMBERS
            for user_id, number in () if changed.has_gap else others:
                members.add(user_id)
                changed.add(MEMBER, user_id, number)
            if not told.required.covers(wanted):
                numbers.update(dict.fromkeys(self._pick(tx, room_num, current, wanted)))
        for user_id in sorted(shown_here - told.members):
            number = self._number(tx, room_num, current, (MEMBER, user_id))
            if number:
                numbers[number] = None
        return changed, shown_here if len(members) > MAX_MEMBERS else frozenset(members)

    def _number(self, tx: Tx, room_num: int, state: bytes, key: StateKey) -> int:
        slot = self._reader.states.slot(tx, room_num, key)
        return 0 if slot is None else self._reader.states.get(tx, state, slot)

    def _pick(self, tx: Tx, room_num: int, state: bytes, wanted: Required) -> Iterable[int]:
        """The numbers of the wanted entries of a state."""
        states = self._reader.states
        if wanted.is_exact:
            found = (self._number(tx, room_num, state, key) for key in sorted(wanted.exact))
            return [number for number in found if number]
        return [
            number
            for slot, number in states.items(tx, state)
            if number and wanted.wants(*states.key(tx, room_num, slot))
        ]

    def _names(
        self, tx: Tx, room_num: int, state: bytes, user_id: str, renamed: Collection[str]
    ) -> dict[str, Any]:
        """What a client calls the room and shows of it; and how many are in it.

        What is left out is as it was: what is gone of what was `renamed`, since the client was told, is null.
        """
        told: dict[str, Any] = {}
        for key, inside, name in (("m.room.name", "name", "name"), ("m.room.avatar", "url", "avatar")):
            number = self._number(tx, room_num, state, (key, ""))
            stored = self._reader.events.get(tx, number) if number else None
            value = stored.event.content.get(inside) if stored is not None else None
            if isinstance(value, str) and value:
                told[name] = value
            elif key in renamed:
                told[name] = None
        is_named = told.get("name") is not None
        summary, heroes = self._summaries.summary(tx, room_num, state, user_id, is_named=is_named)
        told["joined_count"] = summary["m.joined_member_count"]
        told["invited_count"] = summary["m.invited_member_count"]
        if heroes or (renamed and not is_named):
            told["heroes"] = [self._hero(tx, room_num, state, hero) for hero in heroes]
        return told

    def _hero(self, tx: Tx, room_num: int, state: bytes, user_id: str) -> dict[str, str]:
        number = self._number(tx, room_num, state, (MEMBER, user_id))
        stored = self._reader.events.get(tx, number) if number else None
        content = stored.event.content if stored is not None else {}
        profile = {name: content.get(name) for name in ("displayname", "avatar_url")}
        return {
            "user_id": user_id,
            **{name: value for name, value in profile.items() if isinstance(value, str)},
        }

    # -- from outside

    def _from_outside(
        self, tx: Tx, asked: Asked, entry: Entry, told: Told | None
    ) -> tuple[dict[str, Any] | None, Told]:
        """An invite or a knock: stripped state, once."""
        membership = entry.own.membership
        now_told = Told(asked.now, membership)
        if told is not None and told.membership == membership and entry.own.position <= told.position:
            return None, now_told
        invited = membership == "invite"
        found = (self._others.invited if invited else self._others.knocked)(tx, asked, entry.own)
        if found is None:
            return None, now_told
        stripped = next(iter(found.values()))["events"]
        part: dict[str, Any] = {
            "initial": True,
            "bump_stamp": entry.bump,
            "membership": membership,
            "stripped_state": stripped,
            "required_state": [],
            "timeline": [],
        }
        # COMPAT: earlier drafts have a name for each; apps look for that of invites alone, and take a room
        # without it for one that they are in.
        part["invite_state"] = stripped
        if not invited:
            part["knock_state"] = stripped
        return part, now_told

    def _removed(self, tx: Tx, asked: Asked, entry: Entry, wish: RoomWish) -> dict[str, Any] | None:
        """A room that the user was removed from, to who was not told of it before: as it was then."""
        told = Told(0, "leave", wish.required, wish.timeline_limit)
        part = self.departure(tx, asked, entry.room_id, entry.own, told)
        if part is not None:
            part["initial"] = True
            part["num_live"] = int(not asked.is_initial and entry.own.position > asked.after)
        return part

    def end_of(
        self, tx: Tx, asked: Asked, own: stored_rooms.LocalMembership, told: Told
    ) -> stored_rooms.LocalMembership | None:
        """What took a user out of a room that their client was told of; None if nothing did.

        That is also what came before an invite that they are not told of.
        """
        if own.membership not in PRESENT:
            return own
        is_new_invite = own.membership == "invite" and own.position > told.position
        if is_new_invite and self._others.invited(tx, asked, own) is None:
            return self._others.end_before(tx, asked.user_id, own, told.position)
        return None

    def departure(
        self, tx: Tx, asked: Asked, room_id: str, own: stored_rooms.LocalMembership, told: Told
    ) -> dict[str, Any] | None:
        """A room that the user is not in any more: what came up to then, their own membership in the end."""
        here = _since(asked, told.position, told.timeline_limit or 1)

        def is_wanted(event_type: str, state_key: str) -> bool:
            is_told = event_type == MEMBER and state_key in told.members
            return is_told or told.required.wants(event_type, state_key)

        left = self._others.left(tx, here, room_id, own, (), is_wanted)
        if left is None:
            return None
        timeline = left["timeline"]
        return {
            "membership": own.membership,
            "bump_stamp": own.position,
            "required_state": left["state_after"]["events"],
            "timeline": timeline["events"],
            "limited": timeline["limited"],
            "prev_batch": timeline["prev_batch"],
            "num_live": len(timeline["events"]),
        }


def _members_shown(shown: Stretch) -> frozenset[str]:
    """Whose membership matters to a timeline: those who sent it, and whose membership it tells."""
    events = [stored.event for stored in shown.events]
    changed = (event.state_key for event in events if event.type == MEMBER and event.state_key is not None)
    return frozenset((*(event.sender for event in events), *changed))


def _since(asked: Asked, after: int, limit: int) -> Asked:
    """The request as one room needs it: since what was told of it, with its own limit."""
    since = SyncToken(after) if after else None
    request = SyncRequest(
        asked.user_id, asked.request.device_id, since, _limited(limit), use_state_after=True
    )
    return Asked(request, asked.now, asked.typing_serial, asked.ignored, asked.blocks_invites)


@lru_cache(MAX_TIMELINE + 1)
def _limited(limit: int) -> Filter:
    return replace(NO_FILTER, room=RoomFilter(timeline=RoomEventFilter(events=EventFilter(limit=limit))))
