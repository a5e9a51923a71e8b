"""Notices: what an event means to everybody who has the predefined push rules, worked out once.

client-server §Predefined Rules. They look at a user in one way only: whether `m.mentions` names
them. So an event has one outcome for those whom it names and one for all others, whatever the
number of members (DESIGN §4.8).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from comity.protocol.event import Event
from comity.protocol.push_rules import (
    KINDS,
    CompiledRules,
    RoomContext,
    compile_rules,
    default_rules,
    evaluate,
    view_of,
)

#: Users that one event may notify by naming them; nobody reads who else is named.
MAX_MENTIONED = 1_000
#: What cannot be a user: the rules of nobody in particular.
_NOBODY = "@"
#: Events that people would look at a room for (MSC4186 names them): what it is sorted by in lists.
ACTIVITY_TYPES = frozenset(
    (
        "m.room.create",
        "m.room.message",
        "m.room.encrypted",
        "m.sticker",
        "m.call.invite",
        "m.poll.start",
        "org.matrix.msc3381.poll.start",
        "m.beacon_info",
        "org.matrix.msc3672.beacon_info",
    )
)


@dataclass(frozen=True, slots=True)
class Notice:
    """What an event does to members who have the predefined rules; its sender apart.

    `weight`: 0 nothing, 1 it notifies, 2 with a highlight. `mentioned`: user ids for whom it
    notifies with a highlight although it does not for others.
    """

    weight: int
    mentioned: tuple[str, ...] = ()


SILENT = Notice(0)


@cache
def _rules_of_nobody() -> CompiledRules:
    return compile_rules(default_rules(_NOBODY))


def notice_of(event: Event, context: Callable[[], RoomContext]) -> Notice:
    """The Notice of an event. `context` gives the room as it is; asked only if it matters."""
    if event.type == "m.room.member":
        # Of these an invite alone notifies, and whom it notifies is no member.
        return SILENT
    mentions = event.content.get("m.mentions")
    mentions = mentions if isinstance(mentions, dict) else {}
    room = context() if mentions.get("room") is True else RoomContext(0, 0)
    view = view_of(event)
    outcome = evaluate(_rules_of_nobody(), view, room)
    weight = 2 if outcome.highlight else int(outcome.notify)
    named = mentions.get("user_ids")
    if weight == 2 or not isinstance(named, list):
        return Notice(weight) if weight else SILENT
    users = dict.fromkeys(user for user in named[:MAX_MENTIONED] if isinstance(user, str))
    users.pop(event.sender, None)
    if users:
        # One of them stands for all: the rules name nobody else.
        first = next(iter(users))
        if not evaluate(compile_rules(default_rules(first)), view, room).highlight:
            users.clear()
    return Notice(weight, tuple(users))


@dataclass(frozen=True, slots=True)
class Difference:
    """Where a user's rules may differ from the predefined ones in effect: in these rooms, or anywhere."""

    anywhere: bool = False
    rooms: frozenset[str] = frozenset()

    def matters_in(self, room_id: str) -> bool:
        """Whether they may in that room."""
        return self.anywhere or room_id in self.rooms


def difference(user_id: str, ruleset: Mapping[str, Any]) -> Difference:
    """How a user's ruleset (the value of `global`) differs from the predefined one."""
    predefined = default_rules(user_id)
    rooms: set[str] = set()
    for kind in KINDS:
        listed = ruleset.get(kind)
        rules = [rule for rule in listed if isinstance(rule, dict)] if isinstance(listed, list) else []
        if [rule for rule in rules if rule.get("default")] != predefined[kind]:
            return Difference(anywhere=True)
        for rule in rules:
            if rule.get("default") or rule.get("enabled") is False:
                continue
            room_id = _only_room(kind, rule)
            if room_id is None:
                return Difference(anywhere=True)
            rooms.add(room_id)
    return Difference(rooms=frozenset(rooms))


def _only_room(kind: str, rule: Mapping[str, Any]) -> str | None:
    """The one room in which a rule of a user's own can match; None if there are others."""
    if kind == "room":
        room_id = rule.get("rule_id")
        return room_id if isinstance(room_id, str) else None
    conditions = rule.get("conditions")
    for condition in conditions if isinstance(conditions, list) else ():
        if isinstance(condition, dict) and condition.get("kind") == "event_match":
            pattern = condition.get("pattern")
            if (
                condition.get("key") == "room_id"
                and isinstance(pattern, str)
                and not set(pattern) & set("*?")
            ):
                return pattern
    return None
