"""Power levels: their defaults, the lenient values of old, and the rule on changing them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest

from comity.protocol.auth.power_levels import PowerLevels, read_level
from comity.protocol.auth.rules import required_power
from comity.protocol.event import Event
from comity.protocol.room_versions import ROOM_VERSIONS
from tests.rules.rooms import (
    ALICE,
    ALL_VERSIONS,
    BOB,
    CAROL,
    DAVE,
    Room,
    a_room,
    assert_allowed,
    assert_denied,
    versions,
)

every_version = pytest.mark.parametrize("version", ALL_VERSIONS)
lenient_versions = pytest.mark.parametrize("version", versions(power_levels_are_integers=False))
strict_versions = pytest.mark.parametrize("version", versions(power_levels_are_integers=True))


def levels_of(version: str, content: dict[str, Any] | None) -> PowerLevels:
    room = Room(version, content={"additional_creators": [BOB]})
    event = None
    if content is not None:
        # As if from another server: what we write ourselves never holds floats.
        source = {**room.write(ALICE, "m.room.power_levels", {}, "").source, "content": content}
        event = Event(ROOM_VERSIONS[version], source, event_id="$levels:a.example")
    return PowerLevels(ROOM_VERSIONS[version], room.create, event)


# Reading


@every_version
def test_without_a_power_levels_event(version: str) -> None:
    levels = levels_of(version, None)
    infinite = ROOM_VERSIONS[version].creators_have_infinite_power
    assert levels.user(ALICE) == (math.inf if infinite else 100)
    assert levels.user(BOB) == (math.inf if infinite else 0)
    assert levels.user(CAROL) == 0
    assert (levels.invite, levels.kick, levels.ban, levels.redact) == (0, 50, 50, 50)
    assert levels.required("any", is_state=True) == 50
    assert levels.required("any", is_state=False) == 0
    assert levels.notification("room") == 50


def test_without_a_create_event_nobody_is_creator() -> None:
    levels = PowerLevels(ROOM_VERSIONS["12"], None, None)
    assert levels.user(ALICE) == 0


@every_version
def test_with_an_empty_power_levels_event(version: str) -> None:
    levels = levels_of(version, {})
    infinite = ROOM_VERSIONS[version].creators_have_infinite_power
    assert levels.user(ALICE) == (math.inf if infinite else 0)
    assert (levels.invite, levels.kick, levels.ban, levels.redact) == (0, 50, 50, 50)
    assert levels.required("any", is_state=True) == 50
    assert levels.required("any", is_state=False) == 0


@every_version
def test_what_is_written_counts(version: str) -> None:
    content = {
        "users": {CAROL: 7, ALICE: 3},
        "users_default": -1,
        "events": {"a": 8, "b": 0},
        "events_default": 9,
        "state_default": 10,
        "invite": 11,
        "kick": 12,
        "ban": 13,
        "redact": 14,
        "notifications": {"room": 15},
    }
    levels = levels_of(version, content)
    assert levels.user(CAROL) == 7
    assert levels.user(DAVE) == -1
    assert levels.user(ALICE) == (math.inf if ROOM_VERSIONS[version].creators_have_infinite_power else 3)
    assert [levels.required(name, is_state=state) for name in "abc" for state in (True, False)] == [
        *(8, 8, 0, 0, 10, 9)
    ]
    assert (levels.invite, levels.kick, levels.ban, levels.redact) == (11, 12, 13, 14)
    assert levels.notification("room") == 15
    assert levels.notification("other") == 50
    assert required_power(levels, "a", None) == 8
    assert required_power(levels, "c", None) == 9
    assert required_power(levels, "c", "") == 10
    assert required_power(levels, "m.room.third_party_invite", "token") == 11


@every_version
@pytest.mark.parametrize("unreadable", [None, [], {}, "much", True])
def test_what_is_no_level_counts_as_absent(version: str, unreadable: object) -> None:
    levels = levels_of(
        version,
        {"users": {CAROL: unreadable}, "users_default": 5, "ban": unreadable, "events": {"a": unreadable}},
    )
    assert levels.user(CAROL) == 5
    assert levels.ban == 50
    assert levels.required("a", is_state=True) == 50
    levels = levels_of(version, {"users": unreadable, "events": unreadable, "notifications": unreadable})
    assert levels.user(CAROL) == 0
    assert levels.required("a", is_state=False) == 0
    assert levels.notification("room") == 50


LENIENT = [
    ("100", 100),
    ("000100", 100),
    ("+100", 100),
    ("-100", -100),
    (" 100 ", 100),
    (" 00100 ", 100),
    (" +100 ", 100),
    (" -100 ", -100),
    ("\t\n0\r ", 0),
    ("-0", 0),
    ("0" * 60_000 + "7", 7),
    ("9" * 309, int("9" * 309)),
    (50.57, 50),
    (5.114698e4, 51146),
    (-0.9, 0),
    (-1.9, -1),
    (1e300, int(1e300)),
]
UNREADABLE = [
    "", " ", "+", "--1", "+ 1", "1 0", "1_0", "1.0", "1e3", "0x10", "ten", "٣", "9" * 310, "0" * 60_000 + "x",
    " " * 60_000 + "x", math.inf, -math.inf, math.nan, None, True, False, [], [1], {},
]  # fmt: skip


@lenient_versions
@pytest.mark.parametrize(("value", "level"), LENIENT)
def test_lenient_levels(version: str, value: object, level: int) -> None:
    assert read_level(ROOM_VERSIONS[version], value) == level


@every_version
@pytest.mark.parametrize("value", UNREADABLE)
def test_unreadable_levels(version: str, value: object) -> None:
    assert read_level(ROOM_VERSIONS[version], value) is None


@strict_versions
def test_strict_levels(version: str) -> None:
    assert read_level(ROOM_VERSIONS[version], 100) == 100
    for value, _ in LENIENT:
        assert read_level(ROOM_VERSIONS[version], value) is None


# The rule: what must hold of the event alone


def propose(room: Room, content: dict[str, Any], sender: str = ALICE) -> Event:
    return room.write(sender, "m.room.power_levels", content, "")


@every_version
@pytest.mark.parametrize(
    "users",
    [[], "x", 5, None, {"bob": 5}, {"@bob": 5}, {BOB: None}, {BOB: "x"}, {BOB: {}}, {BOB: True},
     {"@bob:no server": 5}],
)  # fmt: skip
def test_users_must_be_users_and_levels(version: str, users: object) -> None:
    room = Room(version)
    room.join(ALICE)
    assert_denied(room, propose(room, {"users": users}), "1:10.1 6:9.1 10:9.3 12:10.3")
    assert_allowed(room, propose(room, {"users": {BOB: 5}}))
    assert_allowed(room, propose(room, {"users": {}}))
    assert_allowed(room, propose(room, {}))


@every_version
@pytest.mark.parametrize(
    "name", ["users_default", "events_default", "state_default", "ban", "redact", "kick", "invite"]
)
@pytest.mark.parametrize("value", ["50", None, [], True])
def test_single_levels_are_integers_from_version_10(version: str, name: str, value: object) -> None:
    room = Room(version)
    room.join(ALICE)
    event = propose(room, {name: value})
    if ROOM_VERSIONS[version].power_levels_are_integers:
        assert_denied(room, event, "10:9.1 12:10.1")
    else:
        assert_allowed(room, event)


@every_version
@pytest.mark.parametrize("name", ["events", "notifications"])
@pytest.mark.parametrize("value", [{"a": "50"}, {"a": None}, [], None, 5])
def test_groups_are_objects_of_integers_from_version_10(version: str, name: str, value: object) -> None:
    room = Room(version)
    room.join(ALICE)
    event = propose(room, {name: value})
    if ROOM_VERSIONS[version].power_levels_are_integers:
        assert_denied(room, event, "10:9.2 12:10.2")
    else:
        assert_allowed(room, event)


@lenient_versions
def test_strings_are_levels_up_to_version_9(version: str) -> None:
    room = a_room(version, BOB, powers={BOB: 50}, events={"m.room.power_levels": 50})
    held: dict[str, Any] = {"users": {ALICE: "100", BOB: " +50"}, "events": {"m.room.power_levels": "050"}}
    # Written otherwise, but not altered.
    assert_allowed(room, propose(room, held, BOB))
    room.power_levels(ALICE, held)
    assert_allowed(room, propose(room, {**held, "ban": "50"}, BOB))
    denied = "1:10.3.2 6:9.3.2"
    assert_denied(room, propose(room, {**held, "ban": "51"}, BOB), denied)
    # A value that is no level cannot be shown to be within anybody's power.
    assert_denied(room, propose(room, {**held, "ban": "x"}), denied)
    # What is no object has no entries, and the rules ask of the entries alone.
    assert_allowed(room, propose(room, {**held, "events": "x"}))


@pytest.mark.parametrize("version", versions(creators_have_infinite_power=True))
@pytest.mark.parametrize("creator", [ALICE, BOB])
def test_creators_cannot_be_listed(version: str, creator: str) -> None:
    room = Room(version, content={"additional_creators": [BOB]})
    room.join(ALICE)
    assert_denied(room, propose(room, {"users": {creator: 100, CAROL: 5}}), "12:10.4")
    assert_allowed(room, propose(room, {"users": {CAROL: 100}}))


# The rule: alterations


@every_version
@pytest.mark.parametrize(
    "name", ["users_default", "events_default", "state_default", "ban", "redact", "kick", "invite"]
)
def test_altering_single_levels(version: str, name: str) -> None:
    held: dict[str, Any] = {name: 50, "events": {"m.room.power_levels": 0}}
    room = a_room(version, BOB, powers={BOB: 50}, **held)
    held = dict(room.state["m.room.power_levels", ""].content)
    removed = {key: value for key, value in held.items() if key != name}
    above_new, above_current = "1:10.3.2 6:9.3.2 10:9.5.2 12:10.6.2", "1:10.3.1 6:9.3.1 10:9.5.1 12:10.6.1"
    for content in (held, removed, {**held, name: 0}, {**held, name: 49}, {**held, "other": 90}):
        assert_allowed(room, propose(room, content, BOB))
    assert_denied(room, propose(room, {**held, name: 51}, BOB), above_new)
    assert_allowed(room, propose(room, {**held, name: 51}))
    # Adding one: there is no current value to be above.
    room.power_levels(ALICE, removed)
    assert_allowed(room, propose(room, {**removed, name: 50}, BOB))
    assert_denied(room, propose(room, {**removed, name: 51}, BOB), above_new)
    # One above the sender can be kept, but neither changed nor removed.
    high = {**held, name: 51}
    room.power_levels(ALICE, high)
    assert_allowed(room, propose(room, high, BOB))
    assert_denied(room, propose(room, {**high, name: 50}, BOB), above_current)
    removed = {key: value for key, value in high.items() if key != name}
    assert_denied(room, propose(room, removed, BOB), above_current)


@every_version
@pytest.mark.parametrize("group", ["events", "notifications"])
def test_altering_entries(version: str, group: str) -> None:
    if group == "notifications" and not ROOM_VERSIONS[version].limits_notification_levels:
        room = a_room(version, BOB, powers={BOB: 50}, notifications={"room": 90})
        held = dict(room.state["m.room.power_levels", ""].content)
        assert_allowed(room, propose(room, {**held, "notifications": {"room": 99}}, BOB))
        return
    entries = {"low": 50, "high": 51}
    levels: dict[str, Any] = {group: entries}
    room = a_room(version, BOB, powers={BOB: 50}, **levels)
    held = dict(room.state["m.room.power_levels", ""].content)
    above_new = "1:10.5.1 6:9.5.1 10:9.7.1 12:10.8.1"
    above_current = "1:10.4.1 6:9.4.1 10:9.6.1 12:10.7.1"
    for changed in (entries, {"high": 51}, {"high": 51, "low": 3}, {**entries, "new": 50}):
        assert_allowed(room, propose(room, {**held, group: changed}, BOB))
    for changed in ({**entries, "new": 51}, {**entries, "low": 51}):
        assert_denied(room, propose(room, {**held, group: changed}, BOB), above_new)
    for changed in ({"low": 50}, {**entries, "high": 50}, {**entries, "high": 99}, {}):
        assert_denied(room, propose(room, {**held, group: changed}, BOB), above_current)
        assert_allowed(room, propose(room, {**held, group: changed}))


@every_version
def test_altering_users(version: str) -> None:
    users = {BOB: 50, CAROL: 50, DAVE: 49}
    if not ROOM_VERSIONS[version].creators_have_infinite_power:
        users[ALICE] = 100
    room = a_room(version, BOB, powers=users)
    above_new = "1:10.7.1 6:9.7.1 10:9.9.1 12:10.10.1"
    above_current = "1:10.6.1 6:9.6.1 10:9.8.1 12:10.9.1"

    def proposed(changes: Mapping[str, int | None]) -> Event:
        changed = {user: level for user, level in {**users, **changes}.items() if level is not None}
        return propose(room, {"users": changed}, BOB)

    new = "@new:b.example"
    allowed: list[dict[str, int | None]] = [
        {},
        {DAVE: 50},
        {DAVE: None},
        {DAVE: 0},
        {BOB: 49},
        {BOB: None},
        {new: 50},
    ]
    for changes in allowed:
        assert_allowed(room, proposed(changes))
    for user in (DAVE, BOB, new):
        assert_denied(room, proposed({user: 51}), above_new)
    for level in (49, 51, None):
        assert_denied(room, proposed({CAROL: level}), above_current)


@every_version
def test_the_power_levels_in_force_are_those_at_the_empty_state_key(version: str) -> None:
    room = a_room(version, BOB, powers={BOB: 50})
    event = room.write(BOB, "m.room.power_levels", {"ban": 90}, "elsewhere")
    assert_denied(room, event, "1:10.3.2 6:9.3.2 10:9.5.2 12:10.6.2")
