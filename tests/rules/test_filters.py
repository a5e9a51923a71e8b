"""client-server §Filtering."""

from __future__ import annotations

import json
from typing import Any

import pytest

from comity.protocol.errors import MatrixError
from comity.protocol.filters import (
    DEFAULT_LIMIT,
    MAX_ENTRIES,
    MAX_ENTRY_CHARACTERS,
    MAX_FILTER_BYTES,
    MAX_LIMIT,
    NO_FILTER,
    NO_ROOM_EVENT_FILTER,
    parse_filter,
    parse_room_event_filter,
    parse_text,
    select_fields,
)
from comity.protocol.matching import parse_path

ROOM = "!726s6s6q:example.com"
SPAM = "@spam:example.com"


def test_the_specifications_example() -> None:
    parsed = parse_filter(
        {
            "room": {
                "state": {"types": ["m.room.*"], "not_rooms": [ROOM]},
                "timeline": {
                    "limit": 10,
                    "types": ["m.room.message"],
                    "not_rooms": [ROOM],
                    "not_senders": [SPAM],
                },
                "ephemeral": {"types": ["m.receipt", "m.typing"], "not_rooms": [ROOM], "not_senders": [SPAM]},
            },
            "presence": {"types": ["m.presence"], "not_senders": ["@alice:example.com"]},
            "event_format": "client",
            "event_fields": ["type", "content", "sender"],
        }
    )
    room = parsed.room
    assert room.state.matches("m.room.name", "@a:b", "!x:y", {})
    assert not room.state.matches("m.room.name", "@a:b", ROOM, {})
    assert not room.state.matches("org.example", "@a:b", "!x:y", {})
    assert room.timeline.limit == 10
    assert room.timeline.matches("m.room.message", "@a:b", "!x:y", {})
    assert not room.timeline.matches("m.room.message", SPAM, "!x:y", {})
    assert room.ephemeral.matches("m.typing", None, "!x:y", {})
    assert not room.ephemeral.matches("m.other", None, "!x:y", {})
    assert parsed.presence.matches("m.presence", "@bob:example.com")
    assert not parsed.presence.matches("m.presence", "@alice:example.com")
    assert parsed.account_data.is_open
    assert parsed.event_fields == (("type",), ("content",), ("sender",))
    assert parsed.event_format == "client"


def test_no_filter_lets_everything_through() -> None:
    assert parse_filter({}) == NO_FILTER
    assert parse_room_event_filter({}) == NO_ROOM_EVENT_FILTER
    assert parse_filter({"org.example.new": 5, "room": {"new": [], "timeline": {"new": {}}}}) == NO_FILTER
    assert parse_filter({"room": None, "presence": None, "event_fields": None}) == NO_FILTER
    assert NO_FILTER.room.timeline.is_open
    assert NO_FILTER.room.timeline.limit == DEFAULT_LIMIT
    assert not NO_FILTER.room.include_leave
    assert NO_FILTER.room.wants_room(ROOM)
    assert NO_ROOM_EVENT_FILTER.matches("any", None, ROOM, {})


@pytest.mark.parametrize(
    ("source", "matching", "others"),
    [
        ({"types": []}, [], ["m.room.message", ""]),
        ({"types": ["m.*"]}, ["m.room.message", "m."], ["org.m.x", "m"]),
        ({"types": ["m.*.name", "a"]}, ["m.room.name", "a"], ["m.name", "m.room.names"]),
        ({"types": ["a?"]}, ["a?"], ["ab"]),
        ({"types": ["*"], "not_types": ["m.*"]}, ["org.x"], ["m.x"]),
        ({"not_types": []}, ["a"], []),
        ({"types": ["a"], "not_types": ["a"]}, [], ["a"]),
    ],
)
def test_types(source: dict[str, Any], matching: list[str], others: list[str]) -> None:
    parsed = parse_room_event_filter(source)
    assert all(parsed.matches(event_type, "@a:b", ROOM, {}) for event_type in matching)
    assert not any(parsed.matches(event_type, "@a:b", ROOM, {}) for event_type in others)


def test_senders() -> None:
    parsed = parse_room_event_filter({"senders": ["@a:b", "@c:d"], "not_senders": ["@c:d"]})
    assert parsed.matches("t", "@a:b", ROOM, {})
    assert not parsed.matches("t", "@c:d", ROOM, {})
    assert not parsed.matches("t", "@e:f", ROOM, {})
    assert not parsed.matches("t", None, ROOM, {})
    assert not parse_room_event_filter({"senders": []}).matches("t", "@a:b", ROOM, {})
    assert not parsed.is_open


def test_rooms() -> None:
    source = {"rooms": [ROOM, "!b:c"], "not_rooms": ["!b:c"]}
    for wants in (parse_room_event_filter(source).wants_room, parse_filter({"room": source}).room.wants_room):
        assert [wants(room_id) for room_id in (ROOM, "!b:c", "!d:e")] == [True, False, False]
    assert not parse_room_event_filter({"rooms": []}).wants_room(ROOM)
    assert parse_room_event_filter({"rooms": ["!" + "a" * 43]}).wants_room("!" + "a" * 43)


def test_urls() -> None:
    with_url = parse_room_event_filter({"contains_url": True})
    without = parse_room_event_filter({"contains_url": False})
    for content in ({"url": "mxc://a/b"}, {"url": None}):
        assert with_url.matches("t", "@a:b", ROOM, content)
        assert not without.matches("t", "@a:b", ROOM, content)
    assert not with_url.matches("t", "@a:b", ROOM, {"uri": 1})
    assert without.matches("t", "@a:b", ROOM, {})


def test_switches() -> None:
    names = ("lazy_load_members", "include_redundant_members", "unread_thread_notifications")
    for name in names:
        parsed = parse_room_event_filter({name: True})
        assert [getattr(parsed, other) for other in names] == [other == name for other in names]
        assert parsed.is_open
    assert parse_filter({"room": {"include_leave": True}}).room.include_leave
    assert parse_filter({"event_format": "federation"}).event_format == "federation"
    parsed = parse_room_event_filter({"related_by_senders": ["@a:b"], "related_by_rel_types": ["m.thread"]})
    assert parsed.related_by_senders == frozenset({"@a:b"})
    assert parsed.related_by_rel_types == frozenset({"m.thread"})


@pytest.mark.parametrize(
    ("asked", "given"), [(1, 1), (50, 50), (MAX_LIMIT + 1, MAX_LIMIT), (10**15, MAX_LIMIT), (0, 1)]
)
def test_limits_are_cut(asked: int, given: int) -> None:
    assert parse_room_event_filter({"limit": asked}).limit == given


@pytest.mark.parametrize(
    "part",
    [
        {"limit": "10"},
        {"limit": 1.5},
        {"limit": True},
        {"types": "m.room.message"},
        {"types": [5]},
        {"not_types": {}},
        {"senders": [None]},
        {"rooms": ROOM},
        {"contains_url": "true"},
        {"lazy_load_members": 1},
        {"related_by_senders": 5},
        [],
        "text",
        5,
    ],
)
def test_the_wrong_shape(part: object) -> None:
    for parse, value in (
        (parse_room_event_filter, part),
        (parse_filter, {"room": {"timeline": part}}),
        (parse_filter, {"room": {"account_data": part}}),
    ):
        with pytest.raises(MatrixError) as caught:
            parse(value)
        assert (caught.value.status, caught.value.code) == (400, "M_BAD_JSON")


@pytest.mark.parametrize(
    "value",
    [None, [], {"room": []}, {"room": {"include_leave": "no"}}, {"presence": 5}, {"event_fields": ["a", 5]}],
)
def test_the_wrong_shape_of_the_whole(value: object) -> None:
    with pytest.raises(MatrixError) as caught:
        parse_filter(value)
    assert caught.value.code == "M_BAD_JSON"


@pytest.mark.parametrize(
    "part",
    [
        {"limit": -1},
        {"senders": ["alice"]},
        {"not_senders": ["@*:example.org\x00"]},
        {"rooms": ["#alias:example.org"]},
        {"not_rooms": [""]},
        {"types": ["t"] * (MAX_ENTRIES + 1)},
        {"types": ["t" * (MAX_ENTRY_CHARACTERS + 1)]},
    ],
)
def test_values_out_of_bounds(part: dict[str, Any]) -> None:
    for parse, value in ((parse_room_event_filter, part), (parse_filter, {"room": {"state": part}})):
        with pytest.raises(MatrixError) as caught:
            parse(value)
        assert (caught.value.status, caught.value.code) == (400, "M_INVALID_PARAM")
    with pytest.raises(MatrixError):
        parse_filter({"event_format": "other"})


def test_filters_in_urls() -> None:
    assert parse_text('{"room": {}}') == {"room": {}}
    for text in ("{", "[]", "5", '"a"', ""):
        with pytest.raises(MatrixError) as caught:
            parse_text(text)
        assert caught.value.code == "M_BAD_JSON"
    with pytest.raises(MatrixError) as caught:
        parse_text(json.dumps({"x": "y" * MAX_FILTER_BYTES}))
    assert caught.value.code == "M_INVALID_PARAM"


EVENT = {
    "type": "t",
    "sender": "@a:b",
    "content": {"body": "x", "m.relates_to": {"a": 1, "b": 2}, "null": None},
}


@pytest.mark.parametrize(
    ("paths", "kept"),
    [
        ([], {}),
        (["type"], {"type": "t"}),
        (["content.body"], {"content": {"body": "x"}}),
        (["content.null"], {"content": {"null": None}}),
        (["content"], {"content": EVENT["content"]}),
        (["content.body", "content"], {"content": EVENT["content"]}),
        (["content.body", "content.m\\.relates_to.b"], {"content": {"body": "x", "m.relates_to": {"b": 2}}}),
        (
            ["content.m\\.relates_to.b", "content.m\\.relates_to"],
            {"content": {"m.relates_to": {"a": 1, "b": 2}}},
        ),
        (["content.m.relates_to", "other", "type.x", ""], {}),
    ],
)
def test_event_fields(paths: list[str], kept: dict[str, Any]) -> None:
    before = json.dumps(EVENT)
    assert select_fields(EVENT, [parse_path(path) for path in paths]) == kept
    assert json.dumps(EVENT) == before
