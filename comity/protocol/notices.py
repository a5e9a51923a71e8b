"""Notices: what an event means to everybody who has the predefined push rules, worked out once.

client-server §Predefined Rules. They look at a user in one way only: whether `m.mentions` names
them. So an event has one outcome for those whom it names and one for all others, whatever the
number of members (DESIGN §4.8).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from comity.protocol.event import Event
from comity.protocol.push_rules import (
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
_SILENT_TYPES = frozenset(("m.reaction", "m.room.member", "m.room.redaction"))
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
def _rules(user_id: str) -> CompiledRules:
    return compile_rules(default_rules(user_id))


def notice_of(event: Event, context: Callable[[], RoomContext]) -> Notice:
    """The Notice of an event. `context` gives the room as it is; asked only if it matters."""
    if event.type in _SILENT_TYPES:
        return SILENT
    mentions = event.content.get("m.mentions")
    mentions = mentions if isinstance(mentions, dict) else {}
    room = context() if mentions.get("room") is True else RoomContext(0, 0)
    view = view_of(event)
    outcome = evaluate(_rules(_NOBODY), view, room)
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
