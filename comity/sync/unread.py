"""How many unread notifications a user has in a room, by their push rules.

client-server §Receiving notifications, §Threaded read receipts. Counted over the events after
the user's receipts, once: what was counted is remembered, and only newer events are looked at.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any, NamedTuple, TypeVar

import orjson

from comity.bus import Bus
from comity.protocol.auth.power_levels import PowerLevels
from comity.protocol.event import Event, StateKey
from comity.protocol.notices import Difference, difference, notice_of
from comity.protocol.push_rules import (
    CompiledRules,
    RoomContext,
    compile_rules,
    default_rules,
    evaluate,
    view_of,
)
from comity.protocol.relations import relation_of
from comity.rooms.read import Reader
from comity.rooms.read.tail import Tail
from comity.rooms.read.visible import RoomView
from comity.store import notices, personal, relations
from comity.store import rooms as stored_rooms
from comity.store.cache import Bounded
from comity.store.database import Tx
from comity.store.events import StoredEvent, is_live, live_line
from comity.store.notices import Mention, Notification
from comity.store.rooms import LocalMembership
from comity.sync.asked import Asked
from comity.sync.summary import Summaries

#: Events after a receipt that are looked at: a count beyond it interests nobody.
MAX_COUNTED = 1_000
#: Counts kept: users times rooms, about 400 bytes each.
MAX_KEPT = 50_000
#: Users whose rules are kept compiled: about 20 KiB each.
MAX_RULESETS = 2_000
PUSH_RULES = "m.push_rules"
_KINDS = frozenset({"m.read", personal.PRIVATE_RECEIPT})


class Count(NamedTuple):
    """Unread notifications, of one thread or all."""

    notifications: int = 0
    highlights: int = 0

    def told(self) -> dict[str, int]:
        """As clients get it."""
        return {"notification_count": self.notifications, "highlight_count": self.highlights}


NO_COUNT = Count()


@dataclass(slots=True)
class Unread:
    """Counts by thread, "main" being the room's own timeline, up to `line`."""

    line: int
    #: The position of the room's newest receipt when the receipts were read.
    receipts: int
    #: What the counts stand on beside the events: other rules mean counting anew.
    basis: tuple[str | None, frozenset[str], int, int, int]
    #: Lines up to which the user has read: "" regardless of threads.
    read: Mapping[str, int]
    threads: dict[str, Count] = field(default_factory=dict)

    def spoke(self, thread: str) -> None:
        """The user sent an event that notifies others: all before it in the thread is read.

        client-server §Push Notifications, Server behaviour: a receipt is also updated by sending an event.
        """
        self.threads.pop(thread, None)

    def copy(self) -> Unread:
        """The same, to be counted on."""
        return Unread(self.line, self.receipts, self.basis, self.read, dict(self.threads))

    def add(self, thread: str, line: int, *, highlight: bool) -> None:
        """Count an event that notifies, unless the user has read it."""
        if line > self.read[""] and line > self.read.get(thread, 0):
            notifications, highlights = self.threads.get(thread, NO_COUNT)
            # Made at every delivery: by its name it takes twice as long.
            self.threads[thread] = tuple.__new__(Count, (notifications + 1, highlights + highlight))

    def total(self) -> Count:
        """Over all threads."""
        counts = self.threads.values()
        if len(counts) <= 1:
            return next(iter(counts), NO_COUNT)
        return Count(sum(c.notifications for c in counts), sum(c.highlights for c in counts))


@dataclass(frozen=True, slots=True)
class Rules:
    """A user's push rules, as of a position, and the JSON they were made of."""

    position: int
    text: str | None
    compiled: CompiledRules
    difference: Difference
    #: As they are written: the value of `global`.
    ruleset: Mapping[str, Any]


class UnreadCounts:
    """Counts unread notifications.

    For whoever has the predefined rules in a room, from the notices that are kept with its events,
    one for all members; for others by holding each event against their rules.
    """

    def __init__(self, reader: Reader, summaries: Summaries, bus: Bus) -> None:
        self._states = reader.states
        self._events = reader.events
        self._tails = reader.tails
        self._summaries = summaries
        self._bus = bus
        self._kept: Bounded[tuple[str, int], Unread] = Bounded(MAX_KEPT)
        self._rules: Bounded[str, Rules] = Bounded(MAX_RULESETS)

    def rules_of(self, tx: Tx, user_id: str, now: int) -> Rules:
        """A user's push rules as they are at position `now`."""
        known = self._rules.get(user_id)
        if known is not None and not self._bus.changed((user_id,), known.position):
            return known
        text = personal.account_data(tx, user_id, "", PUSH_RULES)
        if known is not None and known.text == text:
            rules = replace(known, position=now)
        else:
            stored: Any = orjson.loads(text) if text is not None else None
            ruleset = stored.get("global") if isinstance(stored, dict) else None
            if not isinstance(ruleset, dict):
                ruleset = default_rules(user_id)
            rules = Rules(now, text, compile_rules(ruleset), difference(user_id, ruleset), ruleset)
        self._rules.put(user_id, rules)
        return rules

    def count(
        self,
        tx: Tx,
        view: RoomView,
        tail: Tail,
        state: bytes,
        asked: Asked,
        room_id: str,
        own: LocalMembership,
    ) -> Unread:
        """The counts of a joined user (`view`'s) at position `asked.now`; `own` is their membership."""
        key, now = (view.user_id, view.room_num), asked.now
        rules = self.rules_of(tx, view.user_id, now)
        # The rules, whom they ignore, what was redacted, history and a new stay may change what counted.
        basis = (rules.text, asked.ignored, tail.redaction, tail.past, own.position)
        kept = self._kept.get(key)
        if kept is None or kept.basis != basis or kept.receipts != tail.receipts:
            read = self.read_up_to(tx, view)
            if kept is None or kept.basis != basis or kept.read != read:
                kept = Unread(min(read.values()), tail.receipts, basis, read)
            else:
                kept = replace(kept, receipts=tail.receipts)
            self._kept.put(key, kept)
        if kept.line < live_line(now):
            # Counted on a copy: another device's sync may be counting too.
            kept = kept.copy()
            if rules.difference.matters_in(room_id):
                self._evaluate(tx, view, kept, state, tail, asked, rules.compiled)
            else:
                self._add_notices(tx, view, kept, tail, asked)
            kept.line = live_line(now)
            held = self._kept.get(key)
            if held is None or held.basis != basis or held.line <= kept.line:
                self._kept.put(key, kept)
        return kept

    def from_memory(self, asked: Asked, room_id: str, own: LocalMembership, tail: Tail) -> Unread | None:
        """The same as `count`, where that needs no look into the database; else None."""
        user_id, key = asked.user_id, (asked.user_id, own.room_num)
        rules, kept = self._rules.peek(user_id), self._kept.peek(key)
        if (
            rules is None
            or kept is None
            or kept.receipts != tail.receipts
            or kept.basis != (rules.text, asked.ignored, tail.redaction, tail.past, own.position)
            or self._bus.touched(user_id) > rules.position
        ):
            return None
        upto, line, differs = live_line(asked.now), kept.line, rules.difference
        if line >= upto:
            return kept
        if line < tail.floor or differs.anywhere or room_id in differs.rooms:
            return None
        # Counted in place, for nobody comes between: so nothing is counted unless all can be.
        if tail.mentions and _named(tail, user_id, line):
            return None
        notified = _above(tail.notifications, line)
        for item in notified:
            if item.aside:
                return None
        for item in notified:
            if item.sender == user_id:
                kept.spoke(item.thread)
            elif item.sender not in asked.ignored:
                kept.add(item.thread, item.line, highlight=item.weight == 2)
        kept.line = upto
        return kept

    # -- by the predefined rules

    def _add_notices(self, tx: Tx, view: RoomView, kept: Unread, tail: Tail, asked: Asked) -> None:
        """Count what notifies all members, and this one by name, since `kept.line`."""
        room_num, upto = view.room_num, live_line(asked.now)
        if kept.line >= tail.floor:
            # Those who follow the room find it in memory.
            notified, named = _since(tail, view.user_id, kept.line)
        else:
            notified = notices.notifications(tx, room_num, kept.line, upto, MAX_COUNTED)
            named = notices.mentions_of(tx, view.user_id, room_num, kept.line, upto, MAX_COUNTED)
        rows = {item.line: item for item in notified}
        mentions = {item.line: item for item in named}
        for line in sorted(rows.keys() | mentions.keys()):
            item, mention = rows.get(line), mentions.get(line)
            if item is not None and item.sender == view.user_id:
                kept.spoke(item.thread)
                continue
            if item is None or item.aside:
                stored = self._seen_at(tx, view, line)
                if stored is None or stored.event.sender in asked.ignored:
                    continue
            elif item.sender in asked.ignored:
                continue
            thread = item.thread if item is not None else mentions[line].thread
            kept.add(thread, line, highlight=mention is not None or rows[line].weight == 2)

    def _seen_at(self, tx: Tx, view: RoomView, line: int) -> StoredEvent | None:
        """The event at a line, if the user may see it."""
        listed = self._events.timeline(tx, view.room_num, after=line - 1, upto=line, limit=1, backwards=True)
        return listed[0] if listed and view.may_see(listed[0]) else None

    # -- by rules of one's own

    def _evaluate(
        self,
        tx: Tx,
        view: RoomView,
        kept: Unread,
        state: bytes,
        tail: Tail,
        asked: Asked,
        rules: CompiledRules,
    ) -> None:
        """Hold the events since `kept.line` against the user's rules."""
        listed = self._tails.newest(tx, tail, kept.line, MAX_COUNTED)
        if listed is None:
            listed = self._events.timeline(
                tx,
                view.room_num,
                after=kept.line,
                upto=live_line(asked.now),
                limit=MAX_COUNTED,
                backwards=True,
            )
        name = self.display_name(tx, view, state)
        contexts: dict[str, RoomContext] = {}
        for stored in reversed(listed):
            event = stored.event
            # History that came later was never news.
            if not is_live(stored.line or 1) or stored.redacted_by is not None or not view.may_see(stored):
                continue
            if event.sender in asked.ignored:
                continue
            context = contexts.get(event.sender)
            if context is None:
                context = contexts[event.sender] = self.context(tx, view.room_num, state, event)
            if event.sender == view.user_id:
                if notice_of(event, lambda context=context: context).weight:  # type: ignore[misc]
                    kept.spoke(relations.thread_of(tx, relation_of(event)))
                continue
            outcome = evaluate(rules, view_of(event), context, name)
            if outcome.notify:
                thread = relations.thread_of(tx, relation_of(event))
                kept.add(thread, stored.line or 0, highlight=outcome.highlight)

    def read_up_to(self, tx: Tx, view: RoomView) -> dict[str, int]:
        """The lines up to which the user has read, by thread; the furthest of their receipts counts."""
        read = {"": live_line(self.joined_at(tx, view))}
        for receipt in personal.receipts_of(tx, view.room_num, view.user_id):
            place = personal.event_place(tx, receipt.event_id) if receipt.receipt_type in _KINDS else None
            if place is not None and place[0] == view.room_num:
                read[receipt.thread_id] = max(read.get(receipt.thread_id, 0), place[1])
        least = read[""]
        return {thread: max(line, least) for thread, line in read.items()}

    @staticmethod
    def joined_at(tx: Tx, view: RoomView) -> int:
        """The position at which the user's present stay began: what was before it is no news."""
        began = 0
        for entry in stored_rooms.local_history(tx, view.user_id, view.room_num):
            if entry.membership != "join":
                began = 0
            elif not began:
                began = entry.position
        return began

    def _entry(self, tx: Tx, room_num: int, state: bytes, key: StateKey) -> StoredEvent | None:
        slot = self._states.slot(tx, room_num, key)
        number = 0 if slot is None else self._states.get(tx, state, slot)
        return self._events.get(tx, number) if number else None

    def display_name(self, tx: Tx, view: RoomView, state: bytes) -> str | None:
        """What the user is called in the room."""
        member = self._entry(tx, view.room_num, state, ("m.room.member", view.user_id))
        name = member.event.content.get("displayname") if member is not None else None
        return name if isinstance(name, str) else None

    def context(self, tx: Tx, room_num: int, state: bytes, event: Event) -> RoomContext:
        """What push rules ask about the room, for an event of its sender."""
        create = self._entry(tx, room_num, state, ("m.room.create", ""))
        levels = self._entry(tx, room_num, state, ("m.room.power_levels", ""))
        power = PowerLevels(
            event.version, create.event if create else None, levels.event if levels else None
        ).user(event.sender)
        notifications = levels.event.content.get("notifications") if levels is not None else None
        return RoomContext(
            member_count=self._summaries.counts(tx, room_num, state).joined,
            sender_power_level=power,
            notification_levels=notifications if isinstance(notifications, dict) else {},
        )


_line_of = attrgetter("line")
T = TypeVar("T", Notification, Mention)


def _since(tail: Tail, user_id: str, after: int) -> tuple[list[Notification], list[Mention]]:
    """What a tail that reaches down to `after` has above it: for all members, and for the user by name."""
    return _above(tail.notifications, after), _named(tail, user_id, after)


def _named(tail: Tail, user_id: str, after: int) -> list[Mention]:
    """What names the user above it."""
    return [item for item in _above(tail.mentions, after) if item.user_id == user_id]


def _above(listed: list[T], after: int) -> list[T]:
    """Those of a list in the order of their lines that are above a line: mostly the last, if any."""
    if not listed or listed[-1].line <= after:
        return []
    if len(listed) == 1 or listed[-2].line <= after:
        return listed[-1:]
    return listed[bisect_right(listed, after, key=_line_of) :]
