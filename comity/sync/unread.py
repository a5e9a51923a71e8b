"""How many unread notifications a user has in a room, by their push rules.

client-server §Receiving notifications, §Threaded read receipts. Counted over the events after
the user's receipts, once: what was counted is remembered, and only newer events are looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from comity.bus import Bus
from comity.protocol.auth.power_levels import PowerLevels
from comity.protocol.event import Event, StateKey
from comity.protocol.push_rules import (
    CompiledRules,
    RoomContext,
    compile_rules,
    default_rules,
    evaluate,
    view_of,
)
from comity.rooms.read import Reader
from comity.rooms.read.tail import Tail
from comity.rooms.read.visible import RoomView
from comity.store import personal
from comity.store import rooms as stored_rooms
from comity.store.cache import Bounded
from comity.store.database import Tx
from comity.store.events import StoredEvent, live_line
from comity.sync.summary import Summaries

#: Events after a receipt that are looked at: a count beyond it interests nobody.
MAX_COUNTED = 1_000
#: Counts kept: users times rooms, about 400 bytes each.
MAX_KEPT = 50_000
#: Users whose rules are kept compiled: about 20 KiB each.
MAX_RULESETS = 2_000
#: How far relations are followed to find a thread (the specification's advice).
MAX_HOPS = 3
MAIN = "main"
PUSH_RULES = "m.push_rules"
_KINDS = frozenset({"m.read", personal.PRIVATE_RECEIPT})


@dataclass(slots=True)
class Count:
    """Unread notifications, of one thread or all."""

    notifications: int = 0
    highlights: int = 0

    def told(self) -> dict[str, int]:
        """As clients get it."""
        return {"notification_count": self.notifications, "highlight_count": self.highlights}


@dataclass(slots=True)
class Unread:
    """Counts by thread, "main" being the room's own timeline, up to `line`."""

    line: int
    #: The position of the room's newest receipt when the receipts were read.
    receipts: int
    rules: CompiledRules
    #: Lines up to which the user has read: "" regardless of threads.
    read: Mapping[str, int]
    threads: dict[str, Count] = field(default_factory=dict)

    def total(self) -> Count:
        """Over all threads."""
        counts = self.threads.values()
        return Count(sum(c.notifications for c in counts), sum(c.highlights for c in counts))


class UnreadCounts:
    """Counts unread notifications."""

    def __init__(self, reader: Reader, summaries: Summaries, bus: Bus) -> None:
        self._states = reader.states
        self._events = reader.events
        self._tails = reader.tails
        self._summaries = summaries
        self._bus = bus
        self._kept: Bounded[tuple[str, int], Unread] = Bounded(MAX_KEPT)
        #: user id -> (position, the JSON they were made of, rules)
        self._rules: Bounded[str, tuple[int, str | None, CompiledRules]] = Bounded(MAX_RULESETS)

    def _rules_of(self, tx: Tx, user_id: str, now: int) -> CompiledRules:
        known = self._rules.get(user_id)
        if known is not None and not self._bus.changed((user_id,), known[0]):
            return known[2]
        text = personal.account_data(tx, user_id, "", PUSH_RULES)
        if known is not None and known[1] == text:
            rules = known[2]
        else:
            stored: Any = orjson.loads(text) if text is not None else None
            ruleset = stored.get("global") if isinstance(stored, dict) else None
            rules = compile_rules(ruleset if isinstance(ruleset, dict) else default_rules(user_id))
        self._rules.put(user_id, (now, text, rules))
        return rules

    def count(self, tx: Tx, view: RoomView, tail: Tail, state: bytes, now: int) -> Unread:
        """The counts of a joined user (`view`'s) at position `now`."""
        key = (view.user_id, view.room_num)
        rules = self._rules_of(tx, view.user_id, now)
        kept = self._kept.get(key)
        if kept is None or kept.rules is not rules or kept.receipts != tail.receipts:
            read = self._read_up_to(tx, view)
            if kept is None or kept.rules is not rules or kept.read != read:
                kept = Unread(min(read.values()), tail.receipts, rules, read)
            else:
                kept = replace(kept, receipts=tail.receipts)
            self._kept.put(key, kept)
        if kept.line < live_line(now):
            # Counted on a copy: another device's sync may be counting too.
            threads = {thread: replace(count) for thread, count in kept.threads.items()}
            kept = replace(kept, threads=threads)
            # Those who follow the room find its newest events in memory.
            listed = self._tails.newest(tx, tail, kept.line, MAX_COUNTED)
            if listed is None:
                listed = self._events.timeline(
                    tx,
                    view.room_num,
                    after=kept.line,
                    upto=live_line(now),
                    limit=MAX_COUNTED,
                    backwards=True,
                )
            self._extend(tx, view, kept, state, listed)
            kept.line = live_line(now)
            held = self._kept.get(key)
            if held is None or held.line <= kept.line:
                self._kept.put(key, kept)
        return kept

    def _read_up_to(self, tx: Tx, view: RoomView) -> dict[str, int]:
        """The lines up to which the user has read, by thread; the furthest of their receipts counts."""
        read = {"": live_line(self._joined_at(tx, view))}
        for receipt in personal.receipts_of(tx, view.room_num, view.user_id):
            place = personal.event_place(tx, receipt.event_id) if receipt.receipt_type in _KINDS else None
            if place is not None and place[0] == view.room_num:
                read[receipt.thread_id] = max(read.get(receipt.thread_id, 0), place[1])
        least = read[""]
        return {thread: max(line, least) for thread, line in read.items()}

    @staticmethod
    def _joined_at(tx: Tx, view: RoomView) -> int:
        """The position at which the user's present stay began: what was before it is no news."""
        began = 0
        for entry in stored_rooms.local_history(tx, view.user_id, view.room_num):
            if entry.membership != "join":
                began = 0
            elif not began:
                began = entry.position
        return began

    def _extend(self, tx: Tx, view: RoomView, kept: Unread, state: bytes, listed: list[StoredEvent]) -> None:
        """Count the events that came since."""
        name = self._display_name(tx, view, state)
        contexts: dict[str, RoomContext] = {}
        for stored in listed:
            event = stored.event
            if event.sender == view.user_id or not view.may_see(stored):
                continue
            thread = self._thread_of(tx, event)
            if (stored.line or 0) <= max(kept.read[""], kept.read.get(thread, 0)):
                continue
            context = contexts.get(event.sender)
            if context is None:
                context = contexts[event.sender] = self._context(tx, view.room_num, state, event)
            outcome = evaluate(kept.rules, view_of(event), context, name)
            if outcome.notify:
                count = kept.threads.setdefault(thread, Count())
                count.notifications += 1
                count.highlights += outcome.highlight

    def _entry(self, tx: Tx, room_num: int, state: bytes, key: StateKey) -> StoredEvent | None:
        slot = self._states.slot(tx, room_num, key)
        number = 0 if slot is None else self._states.get(tx, state, slot)
        return self._events.get(tx, number) if number else None

    def _display_name(self, tx: Tx, view: RoomView, state: bytes) -> str | None:
        member = self._entry(tx, view.room_num, state, ("m.room.member", view.user_id))
        name = member.event.content.get("displayname") if member is not None else None
        return name if isinstance(name, str) else None

    def _context(self, tx: Tx, room_num: int, state: bytes, event: Event) -> RoomContext:
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

    def _thread_of(self, tx: Tx, event: Event) -> str:
        """The root of the thread that an event belongs to, or "main"."""
        for _ in range(MAX_HOPS):
            relation = event.content.get("m.relates_to")
            target = relation.get("event_id") if isinstance(relation, dict) else None
            if not isinstance(target, str) or not isinstance(relation, dict):
                return MAIN
            if relation.get("rel_type") == "m.thread":
                return target
            stored = self._events.by_id(tx, target)
            if stored is None or stored.event.room_id != event.room_id:
                return MAIN
            event = stored.event
        return MAIN
