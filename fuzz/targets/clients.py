"""Targets that are what clients store or send to be interpreted later: filters and push rules."""

from __future__ import annotations

from typing import Any

from comity.protocol import filters
from comity.protocol.errors import MatrixError
from comity.protocol.push_rules import (
    CompiledRules,
    EventView,
    RoomContext,
    compile_rules,
    default_rules,
    evaluate,
)
from fuzz.target import Target, require
from fuzz.targets.servers import object_of, text_in

EVENT: dict[str, Any] = {
    "type": "m.room.message",
    "sender": "@bob:b.example",
    "room_id": "!room:a.example",
    "event_id": "$1",
    "origin_server_ts": 1,
    "content": {
        "body": "Hello alice, see * and \u0130stanbul",
        "msgtype": "m.text",
        "m.mentions": {"user_ids": ["@alice:a.example"], "room": True},
        "m.relates_to": {"rel_type": "m.replace"},
    },
    "unsigned": {"a.b": {"c\\": [1]}},
}


def check_filter(data: bytes) -> str:
    """A filter in a URL, as /sync and as /messages take it."""
    try:
        value = filters.parse_text(data)
    except MatrixError as error:
        require(error.status == 400, "no filter is 400")
        return error.text[:40]
    label = ""
    try:
        whole = filters.parse_filter(value)
        label += "whole "
        kept = filters.select_fields(EVENT, whole.event_fields or ())
        require(_is_part(kept, EVENT), "the fields that are kept are the event's")
        for part in (whole.room.timeline, whole.room.state, whole.room.ephemeral, whole.room.account_data):
            _ask(part)
        whole.room.wants_room("!room:a.example")
        whole.presence.matches("m.presence", "@bob:b.example")
        whole.account_data.matches("m.direct", None)
    except MatrixError as error:
        require(error.status == 400, "no filter is 400")
        label += error.text[:40]
    try:
        _ask(filters.parse_room_event_filter(value))
        label += " room"
    except MatrixError as error:
        require(error.status == 400, "no filter is 400")
    return label


def _ask(wanted: filters.RoomEventFilter) -> None:
    require(0 < wanted.limit <= filters.MAX_LIMIT, "a limit is within its bounds")
    matches = wanted.matches("m.room.message", "@bob:b.example", "!room:a.example", EVENT["content"])
    require(matches or not wanted.is_open, "an open filter lets everything through")


def _is_part(part: Any, whole: Any) -> bool:
    if isinstance(part, dict) and isinstance(whole, dict):
        return all(name in whole and _is_part(value, whole[name]) for name, value in part.items())
    return bool(part == whole)


def check_push_rules(data: bytes) -> str:
    """`{"rules": a ruleset, "event", "display_name", "levels"}`: what the rules make of the event."""
    given = object_of(data)
    ruleset, event, levels = given.get("rules"), given.get("event"), given.get("levels")
    rules = compile_rules(ruleset if isinstance(ruleset, dict) else {})
    source = {**EVENT, **(event if isinstance(event, dict) else {})}
    room = RoomContext(2, 50, levels if isinstance(levels, dict) else {})
    name = text_in(given.get("display_name"), "alice")
    label = _evaluate(rules, source, room, name)
    return label + " " + _evaluate(_DEFAULTS, source, room, name)


_DEFAULTS = compile_rules(default_rules("@alice:a.example"))


def _evaluate(rules: CompiledRules, source: dict[str, Any], room: RoomContext, name: str) -> str:
    outcome = evaluate(rules, EventView(source), room, name)
    require(outcome.notify or not (outcome.highlight or outcome.sound or outcome.tweaks), "silence is silent")
    return f"{outcome.kind} {outcome.notify} {outcome.highlight} {sorted(outcome.tweaks)[:3]}"


_CONDITION_WORDS = (
    "kind", "event_match", "event_property_is", "event_property_contains", "contains_display_name",
    "room_member_count", "sender_notification_permission", "key", "pattern", "is", "value", "content.body",
    "type", r"content.m\.mentions.user_ids", "==2", ">=1", "<3", "room",
)  # fmt: skip

TARGETS = (
    Target(
        "filters",
        check_filter,
        json=True,
        words=("event_fields", "event_format", "presence", "account_data", "room", "timeline", "state",
               "ephemeral", "limit", "types", "not_types", "senders", "not_senders", "rooms", "not_rooms",
               "contains_url", "lazy_load_members", "content.body", r"content.m\.mentions", "type", "m.*",
               "@bob:b.example", "!room:a.example", "federation", "include_leave", "related_by_senders"),
        max_bytes=70_000,
    ),
    Target(
        "push_rules",
        check_push_rules,
        json=True,
        words=("rules", "event", "display_name", "levels", "override", "content", "room", "sender",
               "underride", "rule_id", ".m.rule.master", "enabled", "conditions", "actions", "notify",
               "set_tweak", "sound", "highlight", *_CONDITION_WORDS),
        max_bytes=65_536,
    ),
)  # fmt: skip
