"""The redaction algorithm of every room version (client-server §Redactions, rooms/)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comity.protocol.event import event_id_of, redact, reference_hash
from comity.protocol.room_versions import ROOM_VERSIONS, RoomVersion

VERSIONS = list(ROOM_VERSIONS.values())
ALL = {str(number) for number in range(1, 13)}


def since(number: int) -> set[str]:
    return {str(later) for later in range(number, 13)}


#: In which versions each top-level property survives; "other" stands for any that is not named.
TOP_LEVEL = {
    "event_id": ALL,
    "type": ALL,
    "room_id": ALL,
    "sender": ALL,
    "state_key": ALL,
    "content": ALL,
    "hashes": ALL,
    "signatures": ALL,
    "depth": ALL,
    "prev_events": ALL,
    "auth_events": ALL,
    "origin_server_ts": ALL,
    "prev_state": ALL - since(11),
    "origin": ALL - since(11),
    "membership": ALL - since(11),
    "redacts": set(),
    "unsigned": set(),
    "age_ts": set(),
    "other": set(),
}

#: In which versions each property of a content survives.
CONTENT: dict[tuple[str, str], set[str]] = {
    ("m.room.member", "membership"): ALL,
    ("m.room.member", "join_authorised_via_users_server"): since(9),
    ("m.room.member", "displayname"): set(),
    ("m.room.create", "creator"): ALL,
    ("m.room.create", "room_version"): since(11),
    ("m.room.create", "m.federate"): since(11),
    ("m.room.create", "additional_creators"): since(11),
    ("m.room.join_rules", "join_rule"): ALL,
    ("m.room.join_rules", "allow"): since(8),
    ("m.room.power_levels", "ban"): ALL,
    ("m.room.power_levels", "events"): ALL,
    ("m.room.power_levels", "events_default"): ALL,
    ("m.room.power_levels", "kick"): ALL,
    ("m.room.power_levels", "redact"): ALL,
    ("m.room.power_levels", "state_default"): ALL,
    ("m.room.power_levels", "users"): ALL,
    ("m.room.power_levels", "users_default"): ALL,
    ("m.room.power_levels", "invite"): since(11),
    ("m.room.power_levels", "notifications"): set(),
    ("m.room.aliases", "aliases"): ALL - since(6),
    ("m.room.history_visibility", "history_visibility"): ALL,
    ("m.room.history_visibility", "other"): set(),
    ("m.room.redaction", "redacts"): since(11),
    ("m.room.redaction", "reason"): set(),
    ("m.room.message", "body"): set(),
    ("m.room.name", "name"): set(),
    ("m.room.canonical_alias", "alias"): set(),
    ("m.room.third_party_invite", "public_key"): set(),
    ("m.room.encryption", "algorithm"): set(),
}


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.identifier)
def test_top_level_properties(version: RoomVersion) -> None:
    source = {name: {} if name == "content" else name for name in TOP_LEVEL}
    kept = {name for name, versions in TOP_LEVEL.items() if version.identifier in versions}
    assert set(redact(version, source)) == kept


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.identifier)
@pytest.mark.parametrize("event_type", sorted({event_type for event_type, _ in CONTENT}))
def test_content(version: RoomVersion, event_type: str) -> None:
    names = {name: versions for (kind, name), versions in CONTENT.items() if kind == event_type}
    source = {"type": event_type, "content": dict.fromkeys([*names, "unnamed"], "value")}
    kept = {name for name, versions in names.items() if version.identifier in versions}
    if event_type == "m.room.create" and version.identifier in since(11):
        kept.add("unnamed")
    assert redact(version, source)["content"] == dict.fromkeys(kept, "value")


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.identifier)
def test_third_party_invites(version: RoomVersion) -> None:
    invite = {"signed": {"mxid": "@a:b", "token": "t"}, "display_name": "Alice"}
    source = {"type": "m.room.member", "content": {"membership": "invite", "third_party_invite": invite}}
    kept: dict[str, Any] = {"membership": "invite"}
    if version.identifier in since(11):
        kept["third_party_invite"] = {"signed": {"mxid": "@a:b", "token": "t"}}
    assert redact(version, source)["content"] == kept
    kept = {"membership": "invite"}
    if version.identifier in since(11):
        kept["third_party_invite"] = {}
    source["content"] = {"membership": "invite", "third_party_invite": {"display_name": "Alice"}}
    assert redact(version, source)["content"] == kept
    odd_invites: list[object] = ["text", None, []]
    for odd in odd_invites:
        source = {"type": "m.room.member", "content": {"membership": "invite", "third_party_invite": odd}}
        assert redact(version, source)["content"] == {"membership": "invite"}


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.identifier)
def test_the_source_is_left_alone(version: RoomVersion) -> None:
    content = {"membership": "join", "displayname": "A"}
    source = {"type": "m.room.member", "content": content, "other": 1}
    redacted = redact(version, source)
    redacted["content"]["membership"] = "leave"
    assert source == {
        "type": "m.room.member",
        "content": {"membership": "join", "displayname": "A"},
        "other": 1,
    }


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.identifier)
@pytest.mark.parametrize("content", [None, [], "text", 5])
def test_a_content_of_the_wrong_shape_leaves_nothing(version: RoomVersion, content: object) -> None:
    assert redact(version, {"type": "m.room.create", "content": content})["content"] == {}
    assert redact(version, {"type": ["m.room.create"], "content": {"creator": "@a:b"}})["content"] == {}


names = st.sampled_from([*TOP_LEVEL, *{name for _, name in CONTENT}, "third_party_invite"])
values = st.sampled_from(["a", 1, None, [], ["b"], {}, {"signed": {"token": "t"}, "x": 1}])
sources = st.fixed_dictionaries(
    {
        "type": st.sampled_from(sorted({event_type for event_type, _ in CONTENT})),
        "content": st.dictionaries(names, values, max_size=6),
    },
    optional={
        "hashes": st.just({"sha256": "x"}),
        "redacts": st.just("$a"),
        "unsigned": values,
        "depth": st.just(3),
    },
)


@given(st.sampled_from(VERSIONS), sources)
def test_redaction_is_idempotent_and_keeps_the_reference_hash(
    version: RoomVersion, source: dict[str, Any]
) -> None:
    redacted = redact(version, source)
    assert redact(version, redacted) == redacted
    assert reference_hash(version, redacted) == reference_hash(version, source)


@given(
    st.sampled_from([version for version in VERSIONS if not version.references_carry_hashes]), sources, values
)
def test_the_event_id_does_not_know_what_nobody_signs(
    version: RoomVersion, source: dict[str, Any], value: object
) -> None:
    expected = event_id_of(version, source)
    assert event_id_of(version, {**source, "unsigned": value}) == expected
    assert event_id_of(version, {**source, "signatures": {"a.example": {"ed25519:1": value}}}) == expected
    assert event_id_of(version, redact(version, source)) == expected
    assert event_id_of(version, {**source, "type": "x.other"}) != expected
