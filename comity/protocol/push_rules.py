"""Push rules: the predefined set, and what a set of rules makes of one event.

client-server §Push Notifications (v1.19). A ruleset is compiled once and evaluated often: one
`EventView` and one `RoomContext` serve every receiver of an event. Which events a user is asked
about (never their own), counting and sending are decided elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from comity.protocol.event import Event
from comity.protocol.matching import ABSENT, Glob, parse_path, value_at

#: In the order in which they are checked.
KINDS = ("override", "content", "room", "sender", "underride")
MASTER = ".m.rule.master"
#: m.room.power_levels: the level to notify a whole room, if `notifications` does not say.
DEFAULT_NOTIFICATION_LEVEL = 50
#: Rules are sorted in advance by the event types they ask for, for no more types than this; the
#: predefined ones ask for seven, and each type costs a list.
MAX_INDEXED_TYPES = 32

_TYPE = ("type",)
_BODY = ("content", "body")
_SOUND = {"set_tweak": "sound", "value": "default"}
_HIGHLIGHT = {"set_tweak": "highlight"}


def _match(key: str, pattern: str) -> dict[str, Any]:
    return {"kind": "event_match", "key": key, "pattern": pattern}


def _rule(
    name: str, conditions: list[dict[str, Any]], *actions: object, enabled: bool = True
) -> dict[str, Any]:
    return {
        "rule_id": ".m.rule." + name,
        "default": True,
        "enabled": enabled,
        "conditions": conditions,
        "actions": [dict(action) if isinstance(action, dict) else action for action in actions],
    }


def default_rules(user_id: str) -> dict[str, list[dict[str, Any]]]:
    """The predefined rules of a user: a fresh `Ruleset` (the value of `global`), by kind.

    client-server §Predefined Rules. A user's own rules stand before these within their kind,
    but after `.m.rule.master`.
    """
    mention = {"kind": "event_property_contains", "key": r"content.m\.mentions.user_ids", "value": user_id}
    room_mention = {"kind": "event_property_is", "key": r"content.m\.mentions.room", "value": True}
    replacement = {
        "kind": "event_property_is",
        "key": r"content.m\.relates_to.rel_type",
        "value": "m.replace",
    }
    may_notify = {"kind": "sender_notification_permission", "key": "room"}
    two_members = {"kind": "room_member_count", "is": "2"}
    invited = [
        _match("type", "m.room.member"),
        _match("content.membership", "invite"),
        _match("state_key", user_id),
    ]
    ring = {"set_tweak": "sound", "value": "ring"}
    return {
        "override": [
            _rule("master", [], enabled=False),
            _rule("suppress_notices", [_match("content.msgtype", "m.notice")]),
            _rule("invite_for_me", invited, "notify", _SOUND),
            _rule("member_event", [_match("type", "m.room.member")]),
            _rule("is_user_mention", [mention], "notify", _SOUND, _HIGHLIGHT),
            _rule("is_room_mention", [room_mention, may_notify], "notify", _HIGHLIGHT),
            _rule(
                "tombstone",
                [_match("type", "m.room.tombstone"), _match("state_key", "")],
                "notify",
                _HIGHLIGHT,
            ),
            _rule("reaction", [_match("type", "m.reaction")]),
            _rule("room.server_acl", [_match("type", "m.room.server_acl"), _match("state_key", "")]),
            _rule("suppress_edits", [replacement]),
        ],
        "content": [],
        "room": [],
        "sender": [],
        "underride": [
            _rule("call", [_match("type", "m.call.invite")], "notify", ring),
            _rule(
                "encrypted_room_one_to_one",
                [two_members, _match("type", "m.room.encrypted")],
                "notify",
                _SOUND,
            ),
            _rule("room_one_to_one", [dict(two_members), _match("type", "m.room.message")], "notify", _SOUND),
            _rule("message", [_match("type", "m.room.message")], "notify"),
            _rule("encrypted", [_match("type", "m.room.encrypted")], "notify"),
        ],
    }


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the first matching rule says. `highlight` and `tweaks` mean nothing without `notify`.

    `tweaks` holds every tweak as it goes to the push gateway (`sound`, `highlight` if true, …);
    `kind` and `rule_id` name the rule, '' if none matched.
    """

    notify: bool = False
    highlight: bool = False
    sound: str | None = None
    tweaks: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    kind: str = ""
    rule_id: str = ""


#: No rule matched, or it does nothing.
SILENCE = Outcome()


class EventView:
    """An event as rules see it: values by path, each found once for all receivers."""

    __slots__ = ("_lowered", "_source", "_values", "room_id", "sender")

    def __init__(self, source: Mapping[str, Any]) -> None:
        """From an event of the client format (`type`, `sender`, `room_id`, `content`, …)."""
        self._source = source
        self.room_id = source.get("room_id")
        self.sender = source.get("sender")
        self._values: dict[tuple[str, ...], Any] = {}
        self._lowered: dict[tuple[str, ...], str | None] = {}

    def value(self, path: tuple[str, ...]) -> Any:
        """The value at a property path, or ABSENT."""
        try:
            return self._values[path]
        except KeyError:
            value = self._values[path] = value_at(self._source, path)
            return value

    def lowered(self, path: tuple[str, ...]) -> str | None:
        """The string at a property path in lower case, or None if there is no string."""
        try:
            return self._lowered[path]
        except KeyError:
            value = self.value(path)
            text = self._lowered[path] = value.lower() if isinstance(value, str) else None
            return text


def view_of(event: Event) -> EventView:
    """The EventView of an event of a room (the federation format lacks ids that rules may ask for)."""
    return EventView({**event.source, "event_id": event.event_id, "room_id": event.room_id})


@dataclass(frozen=True, slots=True)
class RoomContext:
    """What rules ask about the room, as it is now.

    `member_count` is the joined members; `sender_power_level` the power level of the event's
    sender (infinite for a creator from room version 12); `notification_levels` is `notifications`
    of the room's `m.room.power_levels`.
    """

    member_count: int
    sender_power_level: float
    notification_levels: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


#: A compiled condition: (event, room, the receiver's display name in the room) -> whether it holds.
Condition = Callable[[EventView, RoomContext, str | None], bool]


@dataclass(frozen=True, slots=True)
class _Rule:
    conditions: tuple[Condition, ...]
    outcome: Outcome
    #: The one event type (in lower case) that the rule can match, or None for any.
    event_type: str | None = None


@dataclass(frozen=True, slots=True)
class _Ordered:
    """Rules in order, and which of them an event's type leaves to be tried."""

    by_type: Mapping[str, tuple[_Rule, ...]]
    otherwise: tuple[_Rule, ...]

    def outcome(self, event: EventView, room: RoomContext, display_name: str | None) -> Outcome | None:
        """The outcome of the first rule that matches, if one does."""
        for rule in self.by_type.get(event.lowered(_TYPE) or "", self.otherwise):
            for condition in rule.conditions:
                if not condition(event, room, display_name):
                    break
            else:
                return rule.outcome
        return None


def _ordered(rules: list[tuple[str, _Rule]]) -> _Ordered:
    listed = tuple(rule for _, rule in rules)
    types = {rule.event_type for rule in listed if rule.event_type is not None}
    if len(types) > MAX_INDEXED_TYPES:
        return _Ordered({}, listed)
    return _Ordered(
        {name: tuple(rule for rule in listed if rule.event_type in (None, name)) for name in types},
        tuple(rule for rule in listed if rule.event_type is None),
    )


@dataclass(frozen=True, slots=True)
class CompiledRules:
    """A ruleset made ready by `compile_rules`; only enabled rules that can match are in it."""

    override: _Ordered
    content: _Ordered
    room: Mapping[str, _Rule]
    sender: Mapping[str, _Rule]
    underride: _Ordered


def compile_rules(ruleset: Mapping[str, Any]) -> CompiledRules:
    """Make a ruleset (the value of `global`) ready for `evaluate`.

    Takes what clients have stored: a rule of the wrong shape, and one with a condition that is
    not recognised, never matches. Rules keep their order, but `.m.rule.master` goes first.
    """
    rules: dict[str, list[tuple[str, _Rule]]] = {kind: [] for kind in KINDS}
    for kind in KINDS:
        listed = ruleset.get(kind)
        for rule in listed if isinstance(listed, list) else ():
            if not isinstance(rule, dict) or rule.get("enabled") is False:
                continue
            rule_id = rule.get("rule_id")
            conditions = _conditions(kind, rule)
            if conditions is not None and isinstance(rule_id, str):
                outcome = _outcome(kind, rule_id, rule.get("actions"))
                rules[kind].append((rule_id, _Rule(conditions, outcome, _event_type(kind, rule))))
    rules["override"].sort(key=lambda named: named[0] != MASTER)
    return CompiledRules(
        override=_ordered(rules["override"]),
        content=_ordered(rules["content"]),
        room=dict(reversed(rules["room"])),
        sender=dict(reversed(rules["sender"])),
        underride=_ordered(rules["underride"]),
    )


def evaluate(
    rules: CompiledRules, event: EventView, room: RoomContext, display_name: str | None = None
) -> Outcome:
    """What `rules` make of the event: the outcome of the first rule that matches, or SILENCE.

    `display_name` is the receiver's in the room. The receiver is not the event's sender: that
    is for the caller to see to (client-server §Push Rules: never for one's own events).
    """
    found = rules.override.outcome(event, room, display_name)
    if found is None:
        found = rules.content.outcome(event, room, display_name)
    if found is None and rules.room and isinstance(event.room_id, str) and event.room_id in rules.room:
        found = rules.room[event.room_id].outcome
    if found is None and rules.sender and isinstance(event.sender, str) and event.sender in rules.sender:
        found = rules.sender[event.sender].outcome
    if found is None:
        found = rules.underride.outcome(event, room, display_name)
    return SILENCE if found is None else found


def _outcome(kind: str, rule_id: str, actions: object) -> Outcome:
    """client-server §Actions. Unknown ones, `dont_notify` and `coalesce` are ignored."""
    listed = actions if isinstance(actions, list) else []
    tweaks: dict[str, Any] = {}
    for action in listed:
        if isinstance(action, dict) and isinstance(action.get("set_tweak"), str):
            name = action["set_tweak"]
            tweaks[name] = action.get("value", True if name == "highlight" else None)
    if tweaks.get("highlight") is not True:
        tweaks.pop("highlight", None)
    notify = "notify" in listed
    sound = tweaks.get("sound")
    return Outcome(
        notify=notify,
        highlight=notify and "highlight" in tweaks,
        sound=sound if notify and isinstance(sound, str) else None,
        tweaks=MappingProxyType(tweaks if notify else {}),
        kind=kind,
        rule_id=rule_id,
    )


def _conditions(kind: str, rule: Mapping[str, Any]) -> tuple[Condition, ...] | None:
    """The conditions of a rule, or None if it cannot match."""
    if kind in ("room", "sender"):
        return ()
    if kind == "content":
        pattern = rule.get("pattern")
        return (_words(pattern),) if isinstance(pattern, str) else None
    listed = rule.get("conditions", [])
    if not isinstance(listed, list):
        return None
    conditions = []
    for written in listed:
        kind_of = written.get("kind") if isinstance(written, dict) else None
        make = _MAKERS.get(kind_of) if isinstance(kind_of, str) else None
        condition = make(written) if make is not None else None
        if condition is None:
            return None
        conditions.append(condition)
    return tuple(conditions)


def _event_type(kind: str, rule: Mapping[str, Any]) -> str | None:
    """The event type that a rule's conditions ask for, if they name one without wildcards."""
    if kind in ("override", "underride"):
        for written in rule.get("conditions", []):
            pattern = written.get("pattern")
            if written.get("kind") == "event_match" and parse_path(written["key"]) == _TYPE:
                return None if "*" in pattern or "?" in pattern else str(pattern).lower()
    return None


def _words(pattern: str) -> Condition:
    """`content.body` is matched by words, in content rules and in `event_match`."""
    glob = Glob(pattern.lower())

    def holds(event: EventView, room: RoomContext, display_name: str | None) -> bool:
        body = event.lowered(_BODY)
        return body is not None and glob.matches_words(body)

    return holds


def _event_match(written: Mapping[str, Any]) -> Condition | None:
    key, pattern = written.get("key"), written.get("pattern")
    if not isinstance(key, str) or not isinstance(pattern, str):
        return None
    path = parse_path(key)
    if path == _BODY:
        return _words(pattern)
    glob = Glob(pattern.lower())

    def holds(event: EventView, room: RoomContext, display_name: str | None) -> bool:
        text = event.lowered(path)
        return text is not None and glob.matches(text)

    return holds


def _is_simple(value: object) -> bool:
    """A value that is not compound: a string, integer, boolean or null."""
    return value is None or type(value) in (str, int, bool)


def _event_property_is(written: Mapping[str, Any]) -> Condition | None:
    key, wanted = written.get("key"), written.get("value", ABSENT)
    if not isinstance(key, str) or not _is_simple(wanted):
        return None
    path = parse_path(key)

    def holds(event: EventView, room: RoomContext, display_name: str | None) -> bool:
        value = event.value(path)
        return type(value) is type(wanted) and bool(value == wanted)

    return holds


def _event_property_contains(written: Mapping[str, Any]) -> Condition | None:
    key, wanted = written.get("key"), written.get("value", ABSENT)
    if not isinstance(key, str) or not _is_simple(wanted):
        return None
    path = parse_path(key)

    def holds(event: EventView, room: RoomContext, display_name: str | None) -> bool:
        values = event.value(path)
        return isinstance(values, list) and any(
            type(value) is type(wanted) and value == wanted for value in values
        )

    return holds


def _contains_display_name(written: Mapping[str, Any]) -> Condition | None:
    def holds(event: EventView, room: RoomContext, display_name: str | None) -> bool:
        body = event.lowered(_BODY) if display_name else None
        # No wildcards: a name is not a pattern, so each of its characters stands for itself.
        return body is not None and display_name is not None and _contains_words(body, display_name.lower())

    return holds


def _contains_words(body: str, name: str) -> bool:
    return name in body and Glob(name, literal=True).matches_words(body)


_MEMBER_COUNT = re.compile(r"(==|<=|>=|<|>)?([0-9]{1,15})", re.ASCII)
_COMPARISONS: Mapping[str, Callable[[int, int], bool]] = {
    "==": lambda count, limit: count == limit,
    "<": lambda count, limit: count < limit,
    ">": lambda count, limit: count > limit,
    "<=": lambda count, limit: count <= limit,
    ">=": lambda count, limit: count >= limit,
}


def _room_member_count(written: Mapping[str, Any]) -> Condition | None:
    text = written.get("is")
    match = _MEMBER_COUNT.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        return None
    compare, limit = _COMPARISONS[match[1] or "=="], int(match[2])

    def holds(event: EventView, room: RoomContext, display_name: str | None) -> bool:
        return compare(room.member_count, limit)

    return holds


def _sender_notification_permission(written: Mapping[str, Any]) -> Condition | None:
    key = written.get("key")
    if not isinstance(key, str):
        return None

    def holds(event: EventView, room: RoomContext, display_name: str | None) -> bool:
        needed = room.notification_levels.get(key)
        if type(needed) is not int:
            needed = DEFAULT_NOTIFICATION_LEVEL
        return room.sender_power_level >= needed

    return holds


_MAKERS: Mapping[str, Callable[[Mapping[str, Any]], Condition | None]] = {
    "event_match": _event_match,
    "event_property_is": _event_property_is,
    "event_property_contains": _event_property_contains,
    "contains_display_name": _contains_display_name,
    "room_member_count": _room_member_count,
    "sender_notification_permission": _sender_notification_permission,
}
