"""Events: the specification's vectors, formats and limits of all room versions, ids, hashes."""

from __future__ import annotations

from typing import Any

import pytest

from comity.protocol import canonical_json
from comity.protocol.errors import EventFormatError
from comity.protocol.event import (
    MAX_EVENT_BYTES,
    Event,
    content_hash,
    decode_base64,
    encode_base64,
    parse,
    redact,
    reference_hash,
)
from comity.protocol.room_versions import ROOM_VERSIONS, V1, V2, V3, V4, V5, V6, V10, V11, V12, RoomVersion
from comity.protocol.signing import SigningKey, sign_event

VERSIONS = list(ROOM_VERSIONS.values())
KEY = SigningKey("1", decode_base64("YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1"))
HASH_ID = "$Rqnc-F-dvnEYJTyHq_iKxU2bZ1CI92-kuZq3a5lr5Zg"


def name(version: RoomVersion) -> str:
    """What a test's report calls a version."""
    return "v" + version.identifier


def unsigned_pdu(version: RoomVersion, **changed: Any) -> dict[str, Any]:
    """A message of that version's format without hashes and signatures; None takes a property away."""
    reference: Any = ["$before:domain", {"sha256": "x"}] if version.references_carry_hashes else HASH_ID
    source: dict[str, Any] = {
        "room_id": "!x:domain",
        "sender": "@a:domain",
        "origin_server_ts": 1_000_000,
        "type": "m.room.message",
        "content": {"body": "Here is the message content"},
        "prev_events": [reference],
        "auth_events": [reference],
        "depth": 3,
    }
    if version.references_carry_hashes:
        source["event_id"] = "$0:domain"
    source.update(changed)
    return {part: value for part, value in source.items() if value is not None}


def pdu(version: RoomVersion, **changed: Any) -> dict[str, Any]:
    """The same with hashes and a signature."""
    source = unsigned_pdu(version, **changed)
    return dict(sign_event(version, source, "domain", KEY).source)


class TestVectors:
    """appendices §Event Signing."""

    def test_minimal_event(self) -> None:
        source = {
            "room_id": "!x:domain",
            "sender": "@a:domain",
            "origin": "domain",
            "origin_server_ts": 1000000,
            "signatures": {},
            "hashes": {},
            "type": "X",
            "content": {},
            "prev_events": [],
            "auth_events": [],
            "depth": 3,
            "unsigned": {"age_ts": 1000000},
        }
        event = sign_event(V10, source, "domain", KEY)
        assert event.source["hashes"] == {"sha256": "5jM4wQpv6lnBo7CLIghJuHdW+s2CMBJPUOGOC89ncos"}
        assert event.source["signatures"] == {
            "domain": {
                "ed25519:1": "KxwGjPSDEtvnFgU00fwFz+l6d2pJM6XBIaMEn81SXPTRl16AqLAYqfIReFGZlHi5KLjAWbOoM"
                "szkwsQma+lYAg"
            }
        }
        assert event.content_hash_matches()

    def test_event_with_redactable_content(self) -> None:
        source = {
            "content": {"body": "Here is the message content"},
            "event_id": "$0:domain",
            "origin": "domain",
            "origin_server_ts": 1000000,
            "type": "m.room.message",
            "room_id": "!r:domain",
            "sender": "@u:domain",
            "signatures": {},
            "unsigned": {"age_ts": 1000000},
        }
        digest = content_hash(V1, source)
        assert digest == "onLKD1bGljeBWQhWZ1kaP9SorVmRQNdN5aM2JYU2n/g"
        signed = redact(V1, {**source, "hashes": {"sha256": digest}})
        del signed["signatures"]
        assert KEY.sign(canonical_json.encode(signed)) == (
            "Wm+VzmOUOz08Ds+0NTWb1d4CZrVsJSikkeRxh6aCcUwu6pNC78FunoD7KNWzqFn241eYHYMGCA5McEiVPdhzBA"
        )


def test_unpadded_base64() -> None:
    for data, text in [(b"", ""), (b"f", "Zg"), (b"fo", "Zm8"), (b"foo", "Zm9v"), (b"foob", "Zm9vYg")]:
        assert encode_base64(data) == text
        assert decode_base64(text) == data
        assert decode_base64(text + "=" * (-len(text) % 4)) == data
    assert decode_base64("-_8") == decode_base64("+/8=")
    for text in ("a", "Zm9v!", "Zm 9v", "é", "Zg\n"):
        with pytest.raises(ValueError, match="Base64"):
            decode_base64(text)


@pytest.mark.parametrize("version", VERSIONS, ids=name)
def test_a_message_of_every_version(version: RoomVersion) -> None:
    source = pdu(version)
    event = parse(version, {**source, "unsigned": {"age": 5}})
    assert event.room_id == "!x:domain"
    assert event.sender == "@a:domain"
    assert (event.type, event.state_key, event.is_state, event.depth) == ("m.room.message", None, False, 3)
    assert event.prev_event_ids == event.auth_event_ids
    assert event.prev_event_ids == ("$before:domain" if version.references_carry_hashes else HASH_ID,)
    assert event.content_hash_matches()
    assert canonical_json.parse(event.encoded) == source
    assert "unsigned" not in event.source
    with pytest.raises(ValueError, match="not a state event"):
        _ = event.key


@pytest.mark.parametrize("version", VERSIONS, ids=name)
def test_event_ids(version: RoomVersion) -> None:
    event = parse(version, pdu(version))
    digest = encode_base64(reference_hash(version, event.source))
    if version in (V1, V2):
        assert event.event_id == "$0:domain"
    elif version is V3:
        assert event.event_id == "$" + digest
    else:
        assert event.event_id == "$" + digest.replace("+", "-").replace("/", "_")
        assert len(event.event_id) == 44


def test_standard_and_url_safe_ids_differ_only_in_two_characters() -> None:
    seen: set[str] = set()
    for number in range(20):
        third, fourth = (parse(version, pdu(version, depth=number)) for version in (V3, V4))
        assert third.event_id.replace("+", "-").replace("/", "_") == fourth.event_id
        seen.update(third.event_id)
    assert {"+", "/"} <= seen


@pytest.mark.parametrize("version", VERSIONS, ids=name)
def test_the_id_covers_neither_signatures_nor_redacted_content(version: RoomVersion) -> None:
    event = parse(version, pdu(version))
    more = event.with_signatures({"other": {"ed25519:k": "sig"}, "domain": {"ed25519:2": "sig"}})
    assert more.event_id == event.event_id == parse(version, more.source).event_id
    assert set(more.source["signatures"]["domain"]) == {"ed25519:1", "ed25519:2"}
    assert set(event.source["signatures"]) == {"domain"}
    redacted = event.redacted()
    assert redacted.content == {}
    assert redacted.event_id == event.event_id == parse(version, redacted.source).event_id
    assert not redacted.content_hash_matches()


@pytest.mark.parametrize("version", VERSIONS, ids=name)
def test_a_changed_content_does_not_match_its_hash(version: RoomVersion) -> None:
    source = pdu(version)
    assert not parse(version, {**source, "content": {"body": "Something else"}}).content_hash_matches()
    assert not parse(version, {**source, "extra": 1}).content_hash_matches()
    assert parse(version, {**source, "unsigned": {"a": 1}}).content_hash_matches()
    padded = {"sha256": source["hashes"]["sha256"] + "="}
    assert parse(version, {**source, "hashes": padded}).content_hash_matches()
    assert not parse(version, {**source, "hashes": {"sha256": "not Base64!"}}).content_hash_matches()


WRONG: list[dict[str, Any]] = [
    {"type": 5},
    {"type": None},
    {"type": "x" * 256},
    {"type": "é" * 128},
    {"sender": None},
    {"sender": "alice"},
    {"sender": 5},
    {"sender": "@" + "a" * 250 + ":domain"},
    {"room_id": "x"},
    {"room_id": 5},
    {"room_id": None},
    {"room_id": "!" + "a" * 255 + ":domain"},
    {"content": None},
    {"content": []},
    {"content": "text"},
    {"depth": None},
    {"depth": -1},
    {"depth": "3"},
    {"depth": True},
    {"depth": 2**63},
    {"origin_server_ts": None},
    {"origin_server_ts": "1"},
    {"origin_server_ts": True},
    {"prev_events": None},
    {"prev_events": {}},
    {"prev_events": [5]},
    {"prev_events": [[]]},
    {"prev_events": [["$a:b" * 100, {}]]},
    {"auth_events": None},
    {"auth_events": "text"},
    {"hashes": None},
    {"hashes": {}},
    {"hashes": {"sha256": 5}},
    {"hashes": "text"},
    {"signatures": None},
    {"signatures": []},
    {"signatures": {"domain": "text"}},
    {"signatures": {"domain": {"ed25519:1": 5}}},
    {"state_key": 5},
    {"state_key": ["a"]},
    {"state_key": "é" * 128},
]


@pytest.mark.parametrize("version", [V1, V3, V6, V12], ids=name)
@pytest.mark.parametrize("changed", WRONG, ids=str)
def test_wrong_shapes_are_refused(version: RoomVersion, changed: dict[str, Any]) -> None:
    source = {**pdu(version), **changed}
    with pytest.raises(EventFormatError):
        parse(version, {part: value for part, value in source.items() if value is not None})


@pytest.mark.parametrize("version", VERSIONS, ids=name)
def test_null_is_not_a_missing_state_key(version: RoomVersion) -> None:
    with pytest.raises(EventFormatError, match="state_key"):
        parse(version, {**pdu(version), "state_key": None})


@pytest.mark.parametrize("value", [None, [], "text", 5, True])
def test_an_event_is_an_object(value: object) -> None:
    with pytest.raises(EventFormatError):
        parse(V11, value)


@pytest.mark.parametrize("version", VERSIONS, ids=name)
def test_references_are_counted(version: RoomVersion) -> None:
    source = pdu(version)
    one = source["prev_events"][0]
    parse(version, {**source, "prev_events": [one] * 20, "auth_events": [one] * 10})
    for changed in ({"prev_events": [one] * 21}, {"auth_events": [one] * 11}):
        with pytest.raises(EventFormatError, match="at most"):
            parse(version, {**source, **changed})


@pytest.mark.parametrize("version", VERSIONS, ids=name)
def test_references_are_of_the_versions_form(version: RoomVersion) -> None:
    other = V6 if version.references_carry_hashes else V1
    with pytest.raises(EventFormatError, match="prev_events"):
        parse(version, {**pdu(version), "prev_events": pdu(other)["prev_events"]})


@pytest.mark.parametrize("version", [V1, V2], ids=name)
@pytest.mark.parametrize("event_id", [None, 5, "0:domain", "$0", "$0:", "$" + "a" * 250 + ":domain"])
def test_assigned_ids_are_checked(version: RoomVersion, event_id: object) -> None:
    with pytest.raises(EventFormatError, match="event_id"):
        parse(version, {**pdu(version), "event_id": event_id})


@pytest.mark.parametrize("version", VERSIONS, ids=name)
def test_lengths_are_in_bytes(version: RoomVersion) -> None:
    parse(version, pdu(version, type="é" * 127 + "x", state_key="é" * 127 + "x"))


@pytest.mark.parametrize("version", VERSIONS, ids=name)
@pytest.mark.parametrize("number", [1.5, 1e10, 2**53, -(2**53), 2**63])
def test_numbers_outside_canonical_json(version: RoomVersion, number: float) -> None:
    source = pdu(
        V5 if version.event_ids is not V1.event_ids else V1, content={"n": number, "l": [{"n": number}]}
    )
    if version.enforces_canonical_json:
        with pytest.raises(EventFormatError):
            parse(version, source)
    else:
        event = parse(version, source)
        assert event.content_hash_matches()
        assert parse(version, canonical_json.parse(event.encoded)).event_id == event.event_id


@pytest.mark.parametrize("version", VERSIONS, ids=name)
def test_depth_is_limited_by_version(version: RoomVersion) -> None:
    most = 2**53 - 1 if version.enforces_canonical_json else 2**63 - 1
    assert parse(version, pdu(version, depth=most)).depth == most
    with pytest.raises(EventFormatError):
        parse(version, pdu(version, depth=most + 1))


@pytest.mark.parametrize("version", VERSIONS, ids=name)
def test_the_size_is_limited_signatures_included(version: RoomVersion) -> None:
    spare = MAX_EVENT_BYTES - len(parse(version, pdu(version, content={"body": ""})).encoded)
    assert len(parse(version, pdu(version, content={"body": "x" * spare})).encoded) == MAX_EVENT_BYTES
    exact = pdu(version, content={"body": "x" * spare})
    parse(version, {**exact, "unsigned": {"text": "x" * 1000}})
    with pytest.raises(EventFormatError, match="larger"):
        parse(version, pdu(version, content={"body": "x" * (spare + 1)}))
    with pytest.raises(EventFormatError, match="larger"):
        parse(version, {**exact, "signatures": {**exact["signatures"], "other": {"ed25519:1": "x"}}})


@pytest.mark.parametrize("version", VERSIONS, ids=name)
def test_deep_nesting_is_refused_without_recursion(version: RoomVersion) -> None:
    value = canonical_json.parse("[" * 1000 + "]" * 1000)
    with pytest.raises(EventFormatError, match="nested"):
        parse(version, {**pdu(version), "content": {"a": value}})
    # Nobody signs `unsigned`, and nobody reads it here.
    parse(version, {**pdu(version), "unsigned": {"a": value}})


class TestCreateEvents:
    """rooms/v12: the room id is the create event's hash."""

    def test_the_room_is_named_after_the_event(self) -> None:
        source = pdu(V12, type="m.room.create", state_key="", room_id=None, prev_events=[], auth_events=[])
        event = parse(V12, source)
        assert event.room_id == "!" + event.event_id[1:]
        assert event.redacted().room_id == event.room_id
        assert event.key == ("m.room.create", "")

    def test_it_carries_no_room_id(self) -> None:
        source = pdu(V12, type="m.room.create", state_key="", prev_events=[], auth_events=[])
        with pytest.raises(EventFormatError, match="room_id"):
            parse(V12, source)

    def test_before_it_must(self) -> None:
        source = {**pdu(V11, type="m.room.create", state_key="", prev_events=[], auth_events=[])}
        assert parse(V11, source).room_id == "!x:domain"
        del source["room_id"]
        with pytest.raises(EventFormatError, match="room_id"):
            parse(V11, source)


@pytest.mark.parametrize("version", VERSIONS, ids=name)
def test_where_a_redaction_says_what_it_redacts(version: RoomVersion) -> None:
    event = Event(
        version, pdu(version, type="m.room.redaction", redacts="$top", content={"redacts": "$content"})
    )
    assert event.redacts == ("$content" if version.redacts_in_content else "$top")
    odd = Event(version, pdu(version, type="m.room.redaction", redacts=5, content={"redacts": ["$a"]}))
    assert odd.redacts is None


def test_membership_is_a_string_or_nothing() -> None:
    assert Event(V11, pdu(V11, content={"membership": "join"})).membership == "join"
    assert Event(V11, pdu(V11, content={"membership": 5})).membership is None
