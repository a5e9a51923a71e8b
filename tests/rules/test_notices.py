"""What an event means to all who have the predefined push rules: the same as to each of them alone."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from comity.protocol.event import Event
from comity.protocol.notices import MAX_MENTIONED, difference, notice_of
from comity.protocol.push_rules import RoomContext, compile_rules, default_rules, evaluate, view_of
from comity.protocol.relations import Relation, relation_of, replaces
from comity.protocol.room_versions import ROOM_VERSIONS

SENDER, NAMED, OTHER = "@sender:example.org", "@named:example.org", "@other:example.org"
ROOM = "!room:example.org"


def event(content: dict[str, Any], event_type: str = "m.room.message", **more: Any) -> Event:
    event_id = more.pop("event_id", "$event")
    source = {
        "type": event_type, "sender": SENDER, "room_id": ROOM, "content": content, "depth": 1,
        "origin_server_ts": 1, "prev_events": [], "auth_events": [], **more,
    }  # fmt: skip
    return Event(ROOM_VERSIONS["11"], source, event_id=event_id)


def random_event(chance: Random) -> Event:
    types = [
        "m.room.message", "m.room.encrypted", "m.reaction", "m.call.invite", "m.room.tombstone",
        "m.room.member", "m.room.server_acl", "x.custom",
    ]  # fmt: skip
    content: dict[str, Any] = {"msgtype": chance.choice(["m.text", "m.notice", "m.emote"]), "body": "words"}
    content["m.mentions"] = chance.choice(
        [{}, {"user_ids": [NAMED]}, {"room": True}, {"user_ids": [NAMED, SENDER], "room": True}, "nonsense",
         {"user_ids": "nonsense"}, {"user_ids": [1, NAMED]}]
    )  # fmt: skip
    if chance.random() < 0.3:
        content["m.relates_to"] = {"rel_type": chance.choice(["m.replace", "m.thread"]), "event_id": "$other"}
    more = {"state_key": ""} if chance.random() < 0.3 else {}
    return event(content, chance.choice(types), **more)


@pytest.mark.parametrize("seed", range(20))
def test_it_is_what_each_member_would_find(seed: int) -> None:
    chance = Random(seed)
    for _ in range(100):
        found = random_event(chance)
        room = RoomContext(chance.choice([2, 3]), chance.choice([0, 50, 100]))
        notice = notice_of(found, lambda room=room: room)  # type: ignore[misc]
        for user_id in (NAMED, OTHER):
            alone = evaluate(compile_rules(default_rules(user_id)), view_of(found), room)
            weight = 2 if user_id in notice.mentioned else notice.weight
            assert (weight > 0, weight == 2) == (alone.notify, alone.highlight), found.source


def test_the_room_is_asked_about_only_where_it_matters() -> None:
    def never() -> RoomContext:
        raise AssertionError

    assert notice_of(event({"body": "x"}), never).weight == 1
    many = [f"@user{number}:example.org" for number in range(MAX_MENTIONED + 5)]
    assert (
        len(notice_of(event({"body": "x", "m.mentions": {"user_ids": many}}), never).mentioned)
        == MAX_MENTIONED
    )


def test_where_rules_differ() -> None:
    rules = default_rules(NAMED)
    assert difference(NAMED, rules) == difference(NAMED, default_rules(NAMED))
    assert not difference(NAMED, rules).matters_in(ROOM)
    rules["room"].append({"rule_id": ROOM, "default": False, "enabled": True, "actions": []})
    muted = {"kind": "event_match", "key": "room_id", "pattern": "!muted:example.org"}
    rules["override"].insert(
        1, {"rule_id": "m", "default": False, "enabled": True, "conditions": [muted], "actions": []}
    )
    own = difference(NAMED, rules)
    assert own.matters_in(ROOM)
    assert own.matters_in("!muted:example.org")
    assert not own.matters_in("!third:example.org")
    # One with a pattern for many rooms, or for words, matters anywhere.
    muted["pattern"] = "!*:example.org"
    assert difference(NAMED, rules).matters_in("!third:example.org")
    rules = default_rules(NAMED)
    rules["content"].append(
        {"rule_id": "w", "default": False, "enabled": True, "pattern": "w", "actions": []}
    )
    assert difference(NAMED, rules).matters_in(ROOM)
    rules["content"][0]["enabled"] = False
    assert not difference(NAMED, rules).matters_in(ROOM)
    rules["underride"][-1]["enabled"] = False
    assert difference(NAMED, rules).matters_in(ROOM)


@pytest.mark.parametrize(
    "relates",
    [None, [], {}, {"rel_type": "m.thread"}, {"event_id": "$a"}, {"rel_type": 1, "event_id": "$a"},
     {"rel_type": "", "event_id": "$a"}, {"rel_type": "m.thread", "event_id": "$" + "a" * 300}],
)  # fmt: skip
def test_what_is_no_relation(relates: object) -> None:
    assert relation_of(event({"m.relates_to": relates})) is None


def test_relations_and_valid_replacements() -> None:
    original = event({"body": "frist"}, event_id="$original")
    content: dict[str, Any] = {
        "body": "* first", "m.new_content": {"body": "first"},
        "m.relates_to": {"rel_type": "m.replace", "event_id": "$original"},
    }  # fmt: skip
    edit = event(content, event_id="$edit")
    assert relation_of(edit) == Relation("m.replace", "$original")
    assert replaces(edit, original)
    assert not replaces(event(content, sender=OTHER), original)
    assert not replaces(event(content, "x.other"), original)
    assert not replaces(event(content, state_key=""), original)
    assert not replaces(edit, event({}, event_id="$another"))
    assert not replaces(edit, event(content, event_id="$original"))
    assert not replaces(event({**content, "m.new_content": "x"}), original)
    sealed = {"m.relates_to": content["m.relates_to"], "ciphertext": "x"}
    assert replaces(event(sealed, "m.room.encrypted"), event({}, "m.room.encrypted", event_id="$original"))
