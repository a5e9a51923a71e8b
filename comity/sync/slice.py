"""One room's part of a sync, for a user who is in the room.

Everything is read from one snapshot, bounded by the positions of `Asked`: the timeline's newest
stretch, the state that the client lacks beside it, what is ephemeral, counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson

from comity.protocol.filters import RoomEventFilter
from comity.rooms.read import Reader
from comity.rooms.read.format import encode
from comity.rooms.read.tail import Tail
from comity.rooms.read.tokens import line_token
from comity.rooms.read.visible import RoomView
from comity.store import personal
from comity.store import rooms as stored_rooms
from comity.store.database import Tx
from comity.store.events import live_line
from comity.store.relations import MAIN
from comity.store.rooms import LocalMembership
from comity.store.state import EMPTY
from comity.sync.asked import Asked, Stretch
from comity.sync.delta import MEMBER, Delta, Deltas
from comity.sync.lazy import SentMembers
from comity.sync.openings import Opening, Openings
from comity.sync.shared import SharedParts
from comity.sync.summary import Summaries
from comity.sync.timeline import stretch
from comity.sync.unread import Count, Unread, UnreadCounts
from comity.users.ephemeral import Ephemeral

#: (type, JSON text) of a user's account data.
AccountData = Sequence[tuple[str, str]]
#: The counts of who does not want them by thread, behind what their part of a room has beside.
_WRITTEN = b',"unread_notifications":{"notification_count":%d,"highlight_count":%d}}'


def account_data_events(wanted: RoomEventFilter, room_id: str, listed: AccountData) -> list[dict[str, Any]]:
    """Account data of a room as clients get it, as far as the filter lets it through."""
    events = []
    for event_type, text in listed:
        content = {} if wanted.contains_url is None else orjson.loads(text)
        if wanted.matches(event_type, None, room_id, content):
            events.append({"type": event_type, "content": orjson.Fragment(text)})
    return events


def event_lists(
    tx: Tx,
    reader: Reader,
    asked: Asked,
    view: RoomView,
    room_id: str,
    shown: Stretch,
    delta: Delta,
    deltas: Deltas,
) -> dict[str, Any]:
    """`timeline`, and `state` or `state_after`, of a room that the user is or was in."""
    wanted = asked.wanted.room.state
    is_open = wanted.is_open
    state = [
        stored
        for stored in deltas.load(tx, delta)
        if is_open or wanted.matches(stored.event.type, stored.event.sender, room_id, stored.event.content)
    ]
    reading = reader.reading(
        tx, asked.user_id, asked.request.device_id, shown.events, view, with_room_id=False,
        # client-server §Aggregations of child events: else the client has the children itself.
        with_bundles=shown.limited,
    )  # fmt: skip
    reading.shape(asked.wanted)
    return {
        "timeline": {
            "events": reader.format.events(tx, shown.events, reading),
            "limited": shown.limited,
            "prev_batch": line_token(shown.before),
        },
        "state_after" if asked.request.use_state_after else "state": {
            "events": reader.format.state(tx, state, reading, shown.events)
        },
    }


class JoinedRooms:
    """Cuts the parts of rooms that the user is in."""

    def __init__(
        self,
        reader: Reader,
        deltas: Deltas,
        summaries: Summaries,
        unread: UnreadCounts,
        ephemeral: Ephemeral,
        openings: Openings,
    ) -> None:
        self._reader = reader
        self._deltas = deltas
        self._summaries = summaries
        self._unread = unread
        self._ephemeral = ephemeral
        self._sent = SentMembers()
        self._shared = SharedParts(reader)
        self._openings = openings

    def part(
        self, tx: Tx, asked: Asked, room_id: str, entry: LocalMembership, account_data: AccountData
    ) -> dict[str, Any] | None:
        """The room's part, or None if there is no news. `account_data`: what changed of it here."""
        reader, room_num = self._reader, entry.room_num
        tail = reader.tails.get(tx, room_num, room_id, asked.now)
        view = reader.visibility.view(tx, asked.user_id, room_num, is_joined=True)
        current = reader.tails.head(tx, room_num, tail, asked.now)
        if asked.is_initial and not asked.ignored:
            opening = self._openings.get(tx, asked, view, room_id, tail, current)
            if opening is not None:
                return self._opened(tx, asked, room_id, entry, account_data, opening, tail, view, current)
        is_new, was_in = self._stay(tx, asked, entry)
        after = 0 if is_new else asked.after
        is_whole = is_new or asked.request.full_state
        is_steady = self._shared.is_steady(asked, entry)
        shared = self._shared.get(room_num, asked) if is_steady else None
        if shared is not None:
            shown, base = shared.shown, shared.delta
        else:
            shown = stretch(
                tx, reader, asked, view, room_id, tail, after=live_line(after), upto=live_line(asked.now)
            )
            if is_new and (shown.hidden or was_in):
                # Nothing that the client may have of an earlier stay continues here.
                shown = Stretch(shown.events, True, shown.before, True)
            known = EMPTY if is_whole else reader.tails.head(tx, room_num, tail, after)
            # What a client that is told everything anew holds already.
            held = reader.tails.head(tx, room_num, tail, asked.after) if is_whole and was_in else EMPTY
            base = self._delta(tx, asked, room_num, known, current, shown, held)
        delta, summary = self._with_members(tx, asked, room_num, base, shown)
        if is_new and not asked.is_initial:
            account_data = personal.room_account_data(tx, asked.user_id, room_id, asked.now)
        told = account_data_events(asked.wanted.room.account_data, room_id, account_data)
        ephemeral, own_receipt = self._ephemeral_events(tx, asked, room_num, room_id, tail, after)
        # A hole in what is known here may be all that is new of the timeline: it is to be paged through.
        is_news = bool(shown.events or shown.limited or delta.entries or summary)
        if not (is_whole or is_news or told or ephemeral or own_receipt):
            return None
        self._add_typing(asked, room_id, after, ephemeral)
        if shared is not None and delta.entries == base.entries:
            part: dict[str, Any] = dict(shared.lists)
        else:
            part = event_lists(tx, reader, asked, view, room_id, shown, delta, self._deltas)
            if is_steady and delta.entries == base.entries:
                self._shared.keep(
                    tx,
                    room_num,
                    room_id,
                    asked,
                    tail,
                    shown,
                    base,
                    part,
                    self._members(tx, asked, room_num, base, shown),
                )
        part["summary"] = summary
        part["ephemeral"] = {"events": ephemeral}
        part["account_data"] = {"events": told}
        self._add_unread(tx, asked, view, entry, room_id, tail, current, part)
        return part

    def _opened(
        self,
        tx: Tx,
        asked: Asked,
        room_id: str,
        entry: LocalMembership,
        account_data: AccountData,
        opening: Opening,
        tail: Tail,
        view: RoomView,
        current: bytes,
    ) -> dict[str, Any]:
        """The part of who knows nothing yet, by the room's opening and what is theirs."""
        user_id, room_num = asked.user_id, entry.room_num
        summary, heroes = self._summaries.summary(tx, room_num, current, user_id, is_named=opening.is_named)
        others: list[orjson.Fragment] = []
        if asked.wanted.room.state.lazy_load_members:
            device = (user_id, asked.request.device_id)
            users = (user_id, *heroes)
            others, told = self._openings.others(tx, opening, room_id, view, current, users)
            self._sent.forget(device, room_num)
            for member, number in (*opening.members, *told):
                self._sent.note(device, room_num, member, number, asked.now)
        part = self._openings.lists(opening, asked, others)
        part["summary"] = summary
        receipts = self._openings.receipts(tx, asked, opening, room_num, tail.receipts)
        part["ephemeral"] = {"events": self._ephemeral_of(asked, room_id, 0, receipts)}
        wanted = asked.wanted.room.account_data
        part["account_data"] = {"events": account_data_events(wanted, room_id, account_data)}
        counts = self._unread.from_memory(asked, room_id, entry, tail)
        if counts is None:
            counts = self._unread.count(tx, view, tail, current, asked, room_id, entry)
        _tell_unread(asked, counts, part)
        return part

    def from_memory(self, asked: Asked, room_id: str, entry: LocalMembership) -> bytes | None:
        """The same as `part` for who gets nothing but what others got a moment ago, and their own counts:
        as JSON, behind the room's id.

        None if that is not so, or if memory alone cannot tell. For a user who is in the room, knows something
        and does not want everything again, without news of typing.
        """
        # SharedParts.is_steady, of whom the caller knows the rest.
        if entry.position > asked.after or asked.ignored:
            return None
        room_num, wanted = entry.room_num, asked.wanted.room
        shared = self._shared.get(room_num, asked)
        if shared is None or not shared.whole:
            return None
        if wanted.state.lazy_load_members:
            device = (asked.user_id, asked.request.device_id)
            if wanted.state.include_redundant_members or not self._sent.has_all(
                device, room_num, shared.members, asked.after
            ):
                return None
        counts = self._unread.from_memory(asked, room_id, entry, shared.tail)
        if counts is None:
            return None
        if wanted.timeline.unread_thread_notifications:
            part: dict[str, Any] = {}
            _tell_unread(asked, counts, part)
            return b"%b,%b" % (shared.whole, orjson.dumps(part)[1:])
        return shared.whole + _WRITTEN % counts.total()

    def _members(
        self, tx: Tx, asked: Asked, room_num: int, delta: Delta, shown: Stretch
    ) -> tuple[tuple[str, int], ...]:
        """Whose memberships a client that loads them lazily needs beside a part of many, and which."""
        if not asked.wanted.room.state.lazy_load_members:
            return ()
        senders = {stored.event.sender for stored in shown.events}
        found = self._deltas.members_at(
            tx, room_num, delta, shown, senders, at_end=asked.request.use_state_after
        )
        return tuple((user_id, number) for _, user_id, number in found)

    def _stay(self, tx: Tx, asked: Asked, entry: LocalMembership) -> tuple[bool, bool]:
        """(whether the client knows nothing of the user's present stay in the room, whether it believes
        the user to be in it)."""
        if asked.is_initial:
            return True, False
        if entry.position <= asked.after:
            return False, True
        history = stored_rooms.local_history(tx, asked.user_id, entry.room_num)
        before = [item for item in history if item.position <= asked.after]
        since = [item for item in history if asked.after < item.position <= asked.now]
        was_in = bool(before) and before[-1].membership == "join"
        return not was_in or any(item.membership != "join" for item in since), was_in

    # -- state

    def _delta(
        self,
        tx: Tx,
        asked: Asked,
        room_num: int,
        known: bytes,
        current: bytes,
        shown: Stretch,
        held: bytes,
    ) -> Delta:
        """The state to tell; of members, if they are loaded lazily, those who matter at the start.

        `held` is a state that the client may have members of, though it is told all anew: those who
        changed since matter too.
        """
        lazy = asked.wanted.room.state.lazy_load_members
        needed = None
        if lazy and known == EMPTY:
            needed = frozenset(
                {
                    asked.user_id,
                    *(stored.event.sender for stored in shown.events),
                    *self._changed_members(tx, room_num, held, current),
                }
            )
        return self._deltas.between(
            tx,
            room_num,
            known,
            current,
            shown,
            at_end=asked.request.use_state_after,
            only_members=needed,
        )

    def _changed_members(self, tx: Tx, room_num: int, held: bytes, current: bytes) -> Iterable[str]:
        """The users whose membership events differ between two states; nobody's if `held` is empty."""
        states = self._reader.states
        if held != EMPTY:
            for slot, _, _ in states.difference(tx, held, current):
                event_type, user_id = states.key(tx, room_num, slot)
                if event_type == MEMBER:
                    yield user_id

    def _with_members(
        self, tx: Tx, asked: Asked, room_num: int, base: Delta, shown: Stretch
    ) -> tuple[Delta, dict[str, Any]]:
        """The state with members loaded lazily, if so wished; and the summary if it changed."""
        lazy = asked.wanted.room.state.lazy_load_members
        if not lazy and not base.renames:
            return base, {}
        delta = Delta(base.known, base.current, dict(base.entries), base.renames)
        needed = {stored.event.sender for stored in shown.events}
        if delta.known == EMPTY:
            needed.add(asked.user_id)
        summary: dict[str, Any] = {}
        if delta.renames:
            current = delta.current
            is_named = self._deltas.is_named(tx, room_num, current)
            summary, heroes = self._summaries.summary(tx, room_num, current, asked.user_id, is_named=is_named)
            needed.update(heroes)
        if lazy:
            self._add_members(tx, asked, room_num, delta, shown, needed)
        return delta, summary

    def _add_members(
        self, tx: Tx, asked: Asked, room_num: int, delta: Delta, shown: Stretch, needed: Iterable[str]
    ) -> None:
        """client-server §Lazy-loading room members: those who are needed and not yet known."""
        device = (asked.user_id, asked.request.device_id)
        at_end = asked.request.use_state_after
        if delta.known == EMPTY:
            self._sent.forget(device, room_num)
        self._sent.rewind(device, room_num, asked.after)
        in_timeline = set() if at_end else {stored.number for stored in shown.events}
        redundant_too = asked.wanted.room.state.include_redundant_members
        for slot, user_id, number in self._deltas.members_at(
            tx, room_num, delta, shown, needed, at_end=at_end
        ):
            if slot in delta.entries or number in in_timeline:
                continue
            if redundant_too or not self._sent.has(device, room_num, user_id, number, asked.after):
                delta.entries[slot] = number
        for slot, number in delta.entries.items():
            event_type, user_id = self._reader.states.key(tx, room_num, slot)
            if event_type == MEMBER:
                self._sent.note(device, room_num, user_id, number, asked.now)
        for stored in () if at_end else shown.events:
            if stored.event.type == MEMBER and stored.event.state_key is not None:
                self._sent.note(device, room_num, stored.event.state_key, stored.number, asked.now)

    # -- what is not of the graph

    def _ephemeral_events(
        self, tx: Tx, asked: Asked, room_num: int, room_id: str, tail: Tail, after: int
    ) -> tuple[list[dict[str, Any]], bool]:
        """Typing and receipts since `after`; and whether the user's own receipt moved."""
        receipts = None
        if tail.receipts > after:
            receipts = personal.receipts_since(tx, room_num, after, asked.now, asked.user_id)
        fragment = None if receipts is None else orjson.Fragment(receipts)
        is_own = receipts is not None and encode(asked.user_id) in receipts
        return self._ephemeral_of(asked, room_id, after, fragment), is_own

    def _ephemeral_of(
        self, asked: Asked, room_id: str, after: int, receipts: orjson.Fragment | None
    ) -> list[dict[str, Any]]:
        wanted = asked.wanted.room.ephemeral
        events: list[dict[str, Any]] = []
        serial, typing = self._ephemeral.typing(room_id)
        told = asked.request.since.typing if asked.request.since is not None and after else 0
        if serial > told and (typing or told):
            users = [user_id for user_id in typing if user_id not in asked.ignored]
            content: Mapping[str, Any] = {"user_ids": users}
            if wanted.matches("m.typing", None, room_id, content):
                events.append({"type": "m.typing", "content": content})
        if receipts is not None and wanted.matches("m.receipt", None, room_id, {}):
            events.append({"type": "m.receipt", "content": receipts})
        return events

    def _add_typing(self, asked: Asked, room_id: str, after: int, ephemeral: list[dict[str, Any]]) -> None:
        """Who types, for a client that was told by a server that was restarted since: it may believe that
        somebody does still. It is told with what is news, for all rooms would be too many."""
        since = asked.request.since
        if since is None or not after or not self._ephemeral.has_forgotten(since.typing):
            return
        if all(event["type"] != "m.typing" for event in ephemeral):
            users = [
                user_id for user_id in self._ephemeral.typing(room_id)[1] if user_id not in asked.ignored
            ]
            content: Mapping[str, Any] = {"user_ids": users}
            if asked.wanted.room.ephemeral.matches("m.typing", None, room_id, content):
                ephemeral.append({"type": "m.typing", "content": content})

    def _add_unread(
        self,
        tx: Tx,
        asked: Asked,
        view: RoomView,
        entry: LocalMembership,
        room_id: str,
        tail: Tail,
        current: bytes,
        part: dict[str, Any],
    ) -> None:
        """client-server §Receiving notifications; by thread if the filter asks for it."""
        _tell_unread(asked, self._unread.count(tx, view, tail, current, asked, room_id, entry), part)


def _tell_unread(asked: Asked, counts: Unread, part: dict[str, Any]) -> None:
    if not asked.wanted.room.timeline.unread_thread_notifications:
        part["unread_notifications"] = counts.total().told()
        return
    part["unread_notifications"] = counts.threads.get(MAIN, Count()).told()
    part["unread_thread_notifications"] = {
        thread: count.told() for thread, count in counts.threads.items() if thread != MAIN
    }
