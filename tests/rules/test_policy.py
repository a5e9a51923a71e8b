"""Policy servers: what names one, and whose signature counts."""

from __future__ import annotations

from typing import Any

import pytest

from comity.protocol.policy import KEY_ID, PolicyServer, is_exempt, is_recommended, policy_server
from comity.protocol.signing import SigningKey
from tests.rules.rooms import ALICE, Room

KEY = SigningKey("policy_server", b"p" * 32)
GOOD: dict[str, Any] = {"via": "p.example", "public_keys": {"ed25519": KEY.public}}


@pytest.mark.parametrize(
    "content",
    [
        None, {}, {**GOOD, "via": 3}, {**GOOD, "via": "no name!"}, {"via": "p.example"},
        {**GOOD, "public_keys": []}, {**GOOD, "public_keys": {}}, {**GOOD, "public_keys": {"ed25519": 1}},
        {**GOOD, "public_keys": {"ed25519": "?"}}, {**GOOD, "public_keys": {"ed25519": "AAAA"}},
    ],
)  # fmt: skip
def test_what_names_no_policy_server(content: dict[str, Any] | None) -> None:
    assert policy_server(content) is None


def test_a_signature_by_the_key_in_the_room() -> None:
    server = policy_server(GOOD)
    assert server is not None and server.name == "p.example"
    event = Room("12").write(ALICE, "m.room.message", {"body": "hello"})
    assert not is_recommended(event, server)
    signed = event.with_signatures({"p.example": {KEY_ID: KEY.sign(event.signed)}})
    assert is_recommended(signed, server)
    assert not is_recommended(signed, PolicyServer("q.example", server.public_key))
    assert not is_recommended(signed, PolicyServer("p.example", b"x" * 32))
    for key_id, signature in ((KEY_ID, "junk"), ("ed25519:1", KEY.sign(event.signed))):
        assert not is_recommended(event.with_signatures({"p.example": {key_id: signature}}), server)


def test_the_policy_itself_needs_no_recommendation() -> None:
    assert is_exempt("m.room.policy", "")
    assert not is_exempt("m.room.policy", "x")
    assert not is_exempt("m.room.policy", None)
    assert not is_exempt("m.room.name", "")


def test_a_derived_key_is_its_own() -> None:
    key = SigningKey("1", b"s" * 32)
    derived = key.derived("policy_server")
    assert derived.key_id == KEY_ID
    assert derived.public == SigningKey("2", b"s" * 32).derived("policy_server").public
    assert derived.public not in (key.public, key.derived("other").public)
