"""client-server §Push Notifications: the predefined rules, conditions, order, actions."""

from __future__ import annotations

import math
from typing import Any

import pytest

from comity.protocol.event import Event
from comity.protocol.push_rules import (
    KINDS,
    MAX_INDEXED_TYPES,
    SILENCE,
    EventView,
    Outcome,
    RoomContext,
    compile_rules,
    default_rules,
    evaluate,
    view_of,
)
from comity.protocol.room_versions import V12

ALICE = "@alice:example.org"
ROOM = RoomContext(member_count=10, sender_power_level=0)


def message(body: object = "hello", **content: Any) -> dict[str, Any]:
    return {
        "type": "m.room.message",
        "sender": "@bob:example.org",
        "room_id": "!room:example.org",
        "content": {"msgtype": "m.text", "body": body, **content},
    }


def judge(
    ruleset: dict[str, Any],
    event: dict[str, Any],
    room: RoomContext = ROOM,
    display_name: str | None = None,
) -> Outcome:
    return evaluate(compile_rules(ruleset), EventView(event), room, display_name)


def holds(
    condition: object, event: dict[str, Any], room: RoomContext = ROOM, display_name: str | None = None
) -> bool:
    rule = {"rule_id": "r", "enabled": True, "conditions": [condition], "actions": ["notify"]}
    outcome = judge({"override": [rule]}, event, room, display_name)
    return outcome.rule_id == "r"


class TestPredefinedRules:
    """client-server §Predefined Rules: what each does, and in which order they stand."""

    def test_their_names_and_order(self) -> None:
        rules = default_rules(ALICE)
        assert tuple(rules) == KINDS
        assert [rule["rule_id"] for rule in rules["override"]] == [
            ".m.rule.master",
            ".m.rule.suppress_notices",
            ".m.rule.invite_for_me",
            ".m.rule.member_event",
            ".m.rule.is_user_mention",
            ".m.rule.is_room_mention",
            ".m.rule.tombstone",
            ".m.rule.reaction",
            ".m.rule.room.server_acl",
            ".m.rule.suppress_edits",
        ]
        assert [rule["rule_id"] for rule in rules["underride"]] == [
            ".m.rule.call",
            ".m.rule.encrypted_room_one_to_one",
            ".m.rule.room_one_to_one",
            ".m.rule.message",
            ".m.rule.encrypted",
        ]
        assert rules["content"] == rules["room"] == rules["sender"] == []
        for rule in rules["override"] + rules["underride"]:
            assert rule["default"] is True
            assert rule["enabled"] is (rule["rule_id"] != ".m.rule.master")
            assert set(rule) == {"rule_id", "default", "enabled", "conditions", "actions"}

    def test_one_in_full(self) -> None:
        rules = default_rules(ALICE)
        assert rules["override"][4] == {
            "rule_id": ".m.rule.is_user_mention",
            "default": True,
            "enabled": True,
            "conditions": [
                {
                    "kind": "event_property_contains",
                    "key": "content.m\\.mentions.user_ids",
                    "value": ALICE,
                }
            ],
            "actions": ["notify", {"set_tweak": "sound", "value": "default"}, {"set_tweak": "highlight"}],
        }

    def test_each_user_gets_their_own(self) -> None:
        first = default_rules(ALICE)
        first["override"][2]["conditions"][2]["pattern"] = "changed"
        first["underride"][1]["conditions"][0]["is"] = "changed"
        first["override"][2]["actions"][1]["value"] = "changed"
        again = default_rules(ALICE)
        assert again == default_rules(ALICE)
        assert "changed" not in str(again)

    @pytest.mark.parametrize(
        ("event", "members", "level", "expected"),
        [
            (message(), 10, 0, (".m.rule.message", True, False, None)),
            (message(), 2, 0, (".m.rule.room_one_to_one", True, False, "default")),
            (message(msgtype="m.notice"), 2, 0, (".m.rule.suppress_notices", False, False, None)),
            ({**message(), "type": "m.room.encrypted"}, 3, 0, (".m.rule.encrypted", True, False, None)),
            (
                {**message(), "type": "m.room.encrypted"},
                2,
                0,
                (".m.rule.encrypted_room_one_to_one", True, False, "default"),
            ),
            ({**message(), "type": "m.call.invite"}, 9, 0, (".m.rule.call", True, False, "ring")),
            ({**message(), "type": "m.reaction"}, 2, 0, (".m.rule.reaction", False, False, None)),
            ({**message(), "type": "org.example"}, 2, 0, ("", False, False, None)),
            (
                message(**{"m.mentions": {"user_ids": ["@x:y", ALICE]}}),
                10,
                0,
                (".m.rule.is_user_mention", True, True, "default"),
            ),
            (
                message(**{"m.mentions": {"user_ids": ["@x:y"]}}),
                10,
                0,
                (".m.rule.message", True, False, None),
            ),
            (
                message(**{"m.mentions": {"room": True}}),
                10,
                50,
                (".m.rule.is_room_mention", True, True, None),
            ),
            (
                message(**{"m.mentions": {"room": True}}),
                10,
                49,
                (".m.rule.message", True, False, None),
            ),
            (
                message(**{"m.relates_to": {"rel_type": "m.replace"}}),
                2,
                0,
                (".m.rule.suppress_edits", False, False, None),
            ),
            (
                {**message(), "type": "m.room.tombstone", "state_key": ""},
                10,
                0,
                (".m.rule.tombstone", True, True, None),
            ),
            ({**message(), "type": "m.room.tombstone"}, 10, 0, ("", False, False, None)),
            (
                {**message(), "type": "m.room.server_acl", "state_key": ""},
                2,
                0,
                (".m.rule.room.server_acl", False, False, None),
            ),
            (
                {**message(membership="invite"), "type": "m.room.member", "state_key": ALICE},
                2,
                0,
                (".m.rule.invite_for_me", True, False, "default"),
            ),
            (
                {**message(membership="invite"), "type": "m.room.member", "state_key": "@x:y"},
                2,
                0,
                (".m.rule.member_event", False, False, None),
            ),
        ],
    )
    def test_what_they_make_of_events(
        self, event: dict[str, Any], members: int, level: float, expected: tuple[str, bool, bool, str | None]
    ) -> None:
        outcome = judge(default_rules(ALICE), event, RoomContext(members, level))
        assert (outcome.rule_id, outcome.notify, outcome.highlight, outcome.sound) == expected


EVENT = {
    **message(
        "An Example event.", topic="Lunch plans", **{"m.federate": True, "m.list": ["a", 1, True, None]}
    ),
    "state_key": "",
}


@pytest.mark.parametrize(
    ("condition", "result"),
    [
        ({"kind": "event_match", "key": "content.topic", "pattern": "lunc?*"}, True),
        ({"kind": "event_match", "key": "content.topic", "pattern": "lunch"}, False),
        ({"kind": "event_match", "key": "content.topic", "pattern": "LUNCH PLANS"}, True),
        ({"kind": "event_match", "key": "content.body", "pattern": "ex*ple"}, True),
        ({"kind": "event_match", "key": "content.body", "pattern": "EXAMPLE"}, True),
        ({"kind": "event_match", "key": "content.body", "pattern": "exam"}, False),
        ({"kind": "event_match", "key": "content.other", "pattern": "*"}, False),
        ({"kind": "event_match", "key": r"content.m\.federate", "pattern": "*"}, False),
        ({"kind": "event_match", "key": "content.body.x", "pattern": "*"}, False),
        ({"kind": "event_match", "key": "content", "pattern": "*"}, False),
        ({"kind": "event_match", "key": "state_key", "pattern": ""}, True),
        ({"kind": "event_match", "key": "room_id", "pattern": "!room:example.org"}, True),
        ({"kind": "event_match", "key": "type"}, False),
        ({"kind": "event_match", "pattern": "*"}, False),
        ({"kind": "event_match", "key": "type", "pattern": 5}, False),
        ({"kind": "event_property_is", "key": r"content.m\.federate", "value": True}, True),
        ({"kind": "event_property_is", "key": r"content.m\.federate", "value": "true"}, False),
        ({"kind": "event_property_is", "key": r"content.m\.federate", "value": 1}, False),
        ({"kind": "event_property_is", "key": "content.topic", "value": "Lunch plans"}, True),
        ({"kind": "event_property_is", "key": "content.topic", "value": "lunch plans"}, False),
        ({"kind": "event_property_is", "key": "content.other", "value": None}, False),
        ({"kind": "event_property_is", "key": r"content.m\.list", "value": ["a", 1, True, None]}, False),
        ({"kind": "event_property_is", "key": "type"}, False),
        ({"kind": "event_property_contains", "key": r"content.m\.list", "value": "a"}, True),
        ({"kind": "event_property_contains", "key": r"content.m\.list", "value": 1}, True),
        ({"kind": "event_property_contains", "key": r"content.m\.list", "value": None}, True),
        ({"kind": "event_property_contains", "key": r"content.m\.list", "value": "A"}, False),
        ({"kind": "event_property_contains", "key": r"content.m\.list", "value": False}, False),
        ({"kind": "event_property_contains", "key": r"content.m\.list", "value": []}, False),
        ({"kind": "event_property_contains", "key": "content.topic", "value": "L"}, False),
        ({"kind": "event_property_contains", "key": "content.other", "value": "a"}, False),
        ({"kind": "org.example.unknown"}, False),
        ({"kind": 5}, False),
        ({}, False),
        ("event_match", False),
        (None, False),
    ],
)
def test_conditions(condition: object, result: bool) -> None:
    assert holds(condition, EVENT) == result


def test_null_is_a_value() -> None:
    event = message(null=None)
    assert holds({"kind": "event_property_is", "key": "content.null", "value": None}, event)
    assert not holds({"kind": "event_match", "key": "content.null", "pattern": "*"}, event)


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("2", {2}),
        ("==2", {2}),
        ("<2", {0, 1}),
        ("<=2", {0, 1, 2}),
        (">2", {3, 4}),
        (">=2", {2, 3, 4}),
        ("=2", set()),
        ("", set()),
        ("2.0", set()),
        ("-1", set()),
        ("two", set()),
        ("> 2", set()),
        ("٢", set()),
        (2, set()),
        (None, set()),
    ],
)
def test_member_counts(text: object, counts: set[int]) -> None:
    condition = {"kind": "room_member_count", "is": text}
    assert {count for count in range(5) if holds(condition, EVENT, RoomContext(count, 0))} == counts


@pytest.mark.parametrize(
    ("levels", "level", "result"),
    [
        ({}, 50, True),
        ({}, 49, False),
        ({"room": 0}, 0, True),
        ({"room": 75}, 74, False),
        ({"room": 75}, 75, True),
        ({"room": 2**53 - 1}, math.inf, True),
        ({"room": "0"}, 49, False),
        ({"room": True}, 49, False),
        ({"other": 0}, 49, False),
    ],
)
def test_notification_permission(levels: dict[str, Any], level: float, result: bool) -> None:
    condition = {"kind": "sender_notification_permission", "key": "room"}
    assert holds(condition, EVENT, RoomContext(2, level, levels)) == result
    assert not holds({"kind": "sender_notification_permission"}, EVENT, RoomContext(2, level, levels))


@pytest.mark.parametrize(
    ("name", "body", "result"),
    [
        ("Alice", "hello ALICE!", True),
        ("Alice", "Malice", False),
        ("Ali*e", "hello alice", False),
        ("Ali*e", "hello ali*e", True),
        ("alice b.", "is Alice B. here?", True),
        ("Élise", "salut élise", True),
        ("", "hello", False),
        (None, "hello", False),
        ("Alice", None, False),
    ],
)
def test_display_names(name: str | None, body: object, result: bool) -> None:
    assert holds({"kind": "contains_display_name"}, message(body), display_name=name) == result


class TestOrder:
    """client-server §Push Rules: the order of kinds and rules."""

    def rule(self, rule_id: str, **more: Any) -> dict[str, Any]:
        return {"rule_id": rule_id, "default": False, "enabled": True, "actions": ["notify"], **more}

    def test_kinds_are_checked_in_order(self) -> None:
        ruleset = {
            "underride": [self.rule("u")],
            "sender": [self.rule("@bob:example.org")],
            "room": [self.rule("!room:example.org")],
            "content": [self.rule("c", pattern="HELLO")],
            "override": [self.rule("o", conditions=[])],
        }
        found = []
        for kind in KINDS:
            outcome = judge(ruleset, message())
            found.append((outcome.kind, outcome.rule_id))
            ruleset[kind][0]["enabled"] = False
        assert [kind for kind, _ in found] == list(KINDS)
        assert judge(ruleset, message()) is SILENCE

    def test_rooms_and_senders_are_exact(self) -> None:
        ruleset = {"room": [self.rule("!Room:example.org")], "sender": [self.rule("@*")]}
        assert judge(ruleset, message()) is SILENCE

    def test_content_rules_match_words(self) -> None:
        ruleset = {"content": [self.rule("tea", pattern="tea"), self.rule("time", pattern="time")]}
        assert judge(ruleset, message("It's time for tea")).rule_id == "tea"
        assert judge(ruleset, message("sometimes")) is SILENCE
        assert judge(ruleset, message(5)) is SILENCE

    def test_the_master_rule_is_first(self) -> None:
        rules = default_rules(ALICE)
        rules["override"].insert(0, self.rule("mine", conditions=[]))
        assert judge(rules, message()).rule_id == "mine"
        rules["override"][1]["enabled"] = True
        outcome = judge(rules, message())
        assert (outcome.rule_id, outcome.notify) == (".m.rule.master", False)

    def test_rules_for_many_types(self) -> None:
        for count in (MAX_INDEXED_TYPES, MAX_INDEXED_TYPES + 1):
            rules = [
                self.rule(
                    f"r{n}", conditions=[{"kind": "event_match", "key": "type", "pattern": f"Type.{n}"}]
                )
                for n in range(count)
            ]
            rules.append(
                self.rule("glob", conditions=[{"kind": "event_match", "key": "type", "pattern": "t*5"}])
            )
            rules.append(self.rule("any", conditions=[]))
            for number in (0, 5, count - 1):
                outcome = judge({"underride": rules}, {**message(), "type": f"type.{number}"})
                assert outcome.rule_id == f"r{number}"
            assert judge({"underride": rules}, {**message(), "type": "type.995"}).rule_id == "glob"
            assert judge({"underride": rules}, {**message(), "type": "other"}).rule_id == "any"

    def test_rules_of_the_wrong_shape_do_nothing(self) -> None:
        ruleset: dict[str, Any] = {
            "override": [None, 5, {}, {"rule_id": 5, "conditions": []}, self.rule("x", conditions="all")],
            "content": [self.rule("no pattern"), self.rule("odd", pattern=5)],
            "room": "text",
            "sender": None,
            "underride": [self.rule("end", actions="notify")],
        }
        outcome = judge(ruleset, message())
        assert (outcome.rule_id, outcome.notify) == ("end", False)
        assert judge({}, message()) is SILENCE


@pytest.mark.parametrize(
    ("actions", "notify", "highlight", "sound", "tweaks"),
    [
        (["notify"], True, False, None, {}),
        ([], False, False, None, {}),
        (["dont_notify"], False, False, None, {}),
        (["coalesce"], False, False, None, {}),
        (["notify", {"set_tweak": "highlight"}], True, True, None, {"highlight": True}),
        (["notify", {"set_tweak": "highlight", "value": True}], True, True, None, {"highlight": True}),
        (["notify", {"set_tweak": "highlight", "value": False}], True, False, None, {}),
        (["notify", {"set_tweak": "sound", "value": "x.wav"}], True, False, "x.wav", {"sound": "x.wav"}),
        (["notify", {"set_tweak": "flash", "value": [1]}], True, False, None, {"flash": [1]}),
        ([{"set_tweak": "highlight"}, {"set_tweak": "sound", "value": "x"}], False, False, None, {}),
        (["notify", {"set_tweak": 5}, None, 5, "new", {"other": 1}], True, False, None, {}),
    ],
)
def test_actions(
    actions: list[Any], notify: bool, highlight: bool, sound: str | None, tweaks: dict[str, Any]
) -> None:
    rule = {"rule_id": "r", "enabled": True, "actions": actions}
    outcome = judge({"override": [rule]}, message())
    assert (outcome.notify, outcome.highlight, outcome.sound) == (notify, highlight, sound)
    assert outcome.tweaks == tweaks


def test_the_view_of_an_event_has_the_ids_that_the_federation_format_lacks() -> None:
    source = {
        "type": "m.room.create",
        "state_key": "",
        "sender": "@a:domain",
        "content": {},
        "depth": 1,
        "origin_server_ts": 1,
        "prev_events": [],
        "auth_events": [],
        "hashes": {"sha256": ""},
        "signatures": {},
    }
    event = Event(V12, source)
    view = view_of(event)
    assert (view.room_id, view.value(("event_id",))) == (event.room_id, event.event_id)
