"""What is plainly valid of a mass, and that nothing else passes for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest

from comity.protocol.event import decode_base64, parse
from comity.protocol.room_versions import ROOM_VERSIONS
from comity.rooms.mass_check import Keys, check_all
from comity.store import compression
from tests.rules.rooms import ALICE, ALL_VERSIONS, BOB, Room, key_of

A, B = "a.example", "b.example"
KEY_ID = "ed25519:1"


def keys(*servers: str, until: int | None = None) -> dict[str, dict[str, tuple[bytes, int | None]]]:
    return {server: {KEY_ID: (decode_base64(key_of(server).public), until)} for server in servers}


def checked(room: Room, value: object, known: Keys) -> tuple[str, bytes] | None:
    raw = value if isinstance(value, bytes) else orjson.dumps(value)
    (found,) = check_all(room.version.identifier, str(room.room_id), [raw], known)
    return found


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_what_is_valid_is_told_with_its_id_and_its_bytes(version: str) -> None:
    room = Room(version)
    room.send(ALICE, "m.room.member", {"membership": "join"}, ALICE)
    room.send(ALICE, "m.room.join_rules", {"join_rule": "public"}, "")
    events = [*room.state.values(), room.send(BOB, "m.room.member", {"membership": "join"}, BOB)]
    raws = [orjson.dumps({**event.source, "unsigned": {"age": 5}}) for event in events]
    found = check_all(version, str(room.room_id), raws, keys(A, B))
    for event, told in zip(events, found, strict=True):
        assert told is not None
        event_id, packed = told
        assert event_id == event.event_id
        assert compression.unpack(packed) == event.encoded
        assert parse(ROOM_VERSIONS[version], orjson.loads(compression.unpack(packed))).event_id == event_id


def changed(**fields: Any) -> Callable[[dict[str, Any]], object]:
    return lambda value: {**value, **fields}


@pytest.mark.parametrize(
    "change",
    [
        lambda _: b"rubbish",
        lambda _: b"[]",
        lambda value: {**value, "content": {**value["content"], "displayname": "another"}},
        lambda value: {name: part for name, part in value.items() if name != "signatures"},
        changed(signatures={}),
        changed(signatures={B: {KEY_ID: "A" * 86}}),
        changed(signatures={B: {KEY_ID: "no Base64"}}),
        changed(signatures={A: {KEY_ID: "A" * 86}}),
        changed(signatures={B: {"ed25519:other": "A" * 86}}),
        changed(room_id="!other:a.example"),
        changed(sender="@eve:b.example"),
        changed(depth=2**60),
        changed(hashes={}),
    ],
)  # fmt: skip
def test_what_is_not_plainly_valid_is_not_told(change: Callable[[dict[str, Any]], object]) -> None:
    room = Room("10")
    room.send(ALICE, "m.room.member", {"membership": "join"}, ALICE)
    room.send(ALICE, "m.room.join_rules", {"join_rule": "public"}, "")
    event = room.send(BOB, "m.room.member", {"membership": "join"}, BOB)
    assert checked(room, event.source, keys(B)) is not None
    assert checked(room, change(dict(event.source)), keys(A, B)) is None


def test_a_key_counts_that_is_known_and_was_valid_at_the_time() -> None:
    room = Room("10")
    event = room.create
    assert checked(room, event.source, keys(B)) is None
    assert checked(room, event.source, {A: {}}) is None
    assert checked(room, event.source, {A: {KEY_ID: keys(B)[B][KEY_ID]}}) is None
    at = event.origin_server_ts
    assert checked(room, event.source, keys(A, until=at)) is not None
    assert checked(room, event.source, keys(A, until=at - 1)) is None


def test_who_lets_somebody_into_a_restricted_room_signs_too() -> None:
    room = Room("10")
    room.send(ALICE, "m.room.member", {"membership": "join"}, ALICE)
    content = {"membership": "join", "join_authorised_via_users_server": ALICE}
    event = room.write(BOB, "m.room.member", content, BOB)
    assert checked(room, event.source, keys(A, B)) is None
    signature = key_of(A).sign(event.signed)
    both = event.with_signatures({A: {KEY_ID: signature}})
    assert checked(room, both.source, keys(A, B)) is not None
    assert checked(room, both.source, keys(B)) is None
