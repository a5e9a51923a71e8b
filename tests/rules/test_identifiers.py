"""appendices §Identifier Grammar."""

from __future__ import annotations

import pytest

from comity.protocol import identifiers

SERVER_NAMES = [
    ("matrix.org", ("matrix.org", None)),
    ("matrix.org:8888", ("matrix.org", 8888)),
    ("1.2.3.4", ("1.2.3.4", None)),
    ("1.2.3.4:1234", ("1.2.3.4", 1234)),
    ("[1234:5678::abcd]", ("[1234:5678::abcd]", None)),
    ("[1234:5678::abcd]:5678", ("[1234:5678::abcd]", 5678)),
    ("[::ffff:1.2.3.4]", ("[::ffff:1.2.3.4]", None)),
    ("localhost", ("localhost", None)),
    ("MATRIX.org", ("MATRIX.org", None)),
    ("a-b.1.example", ("a-b.1.example", None)),
    ("1.2.3", ("1.2.3", None)),
]


@pytest.mark.parametrize(("text", "parts"), SERVER_NAMES)
def test_server_names(text: str, parts: tuple[str, int | None]) -> None:
    assert identifiers.parse_server_name(text) == parts
    assert identifiers.is_server_name(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":80",
        "example.org:",
        "example.org:0",
        "example.org:65536",
        "example.org:123456",
        "example.org:80:80",
        "example.org:8x",
        "example.org:٣",
        "exa mple.org",
        "exämple.org",
        "example.org/",
        "example.org\n",
        "under_score.org",
        "256.1.1.1",
        "1.2.3.999",
        "[::1",
        "::1",
        "[1.2.3.4]",
        "[::g]",
        "[::1%eth0]",
        "[:::]",
        "user@example.org",
        "a" * 256,
    ],
)
def test_what_is_not_a_server_name(text: str) -> None:
    assert not identifiers.is_server_name(text)
    with pytest.raises(ValueError, match="server name"):
        identifiers.parse_server_name(text)


@pytest.mark.parametrize("value", [None, 1, b"a", ["a"], {}])
def test_other_things_are_no_identifiers(value: object) -> None:
    assert not identifiers.is_server_name(value)
    assert not identifiers.is_user_id(value)
    assert not identifiers.is_room_id(value)
    assert not identifiers.is_event_id(value)
    assert identifiers.split_user_id(value) is None
    assert identifiers.split_alias(value) is None


def test_ip_literals() -> None:
    assert identifiers.ip_literal("[::1]") == "::1"
    assert identifiers.ip_literal("1.2.3.4") == "1.2.3.4"
    assert identifiers.ip_literal("example.org") is None


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("@alice:example.org", ("alice", "example.org")),
        ("@alice:example.org:8448", ("alice", "example.org:8448")),
        ("@alice:[::1]:8448", ("alice", "[::1]:8448")),
        # Historical user ids: any character but ":" and NUL, even none.
        ("@:example.org", ("", "example.org")),
        ("@Älice & Bob\t:example.org", ("Älice & Bob\t", "example.org")),
        ("@" + "a" * 242 + ":example.org", ("a" * 242, "example.org")),
    ],
)
def test_user_ids(text: str, parts: tuple[str, str]) -> None:
    assert identifiers.split_user_id(text) == parts
    assert identifiers.is_user_id(text)
    assert identifiers.server_of(text) == parts[1]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "@",
        "alice:example.org",
        "@alice",
        "@alice:",
        "@al\x00ice:example.org",
        "@al\ud800ice:example.org",
        "@alice:exa_mple.org",
        "@" + "a" * 243 + ":example.org",
        "@" + "é" * 122 + ":example.org",  # 256 bytes, though 134 characters
        "#alice:example.org",
    ],
)
def test_what_is_not_a_user_id(text: str) -> None:
    assert not identifiers.is_user_id(text)


@pytest.mark.parametrize(
    ("text", "compliant"),
    [
        ("@alice:example.org", True),
        ("@Al!ce~:example.org", True),
        ("@:example.org", False),
        ("@al ice:example.org", False),
        ("@al\x7fice:example.org", False),
        ("@älice:example.org", False),
        ("@alice:exa_mple.org", False),
        (None, False),
    ],
)
def test_compliant_user_ids(text: object, compliant: bool) -> None:
    assert identifiers.is_compliant_user_id(text) is compliant


def test_localparts_of_new_accounts_are_strict() -> None:
    assert identifiers.is_new_localpart("alice._=-/+09")
    for text in ("", "Alice", "älice", "a:b", "a b", "a*", "alice\n"):
        assert not identifiers.is_new_localpart(text)


def test_room_ids_of_all_versions() -> None:
    assert identifiers.is_room_id("!abc:example.org")
    assert identifiers.is_room_id("!x y:example.org:1")
    reference = "!" + "aA0-_" * 8 + "abc"
    assert identifiers.is_room_id(reference)
    assert identifiers.is_domainless_room_id(reference)
    assert not identifiers.is_domainless_room_id("!abc:example.org")
    for text in ("!", "!abc", "#abc:example.org", reference + "a", reference[:-1], "!" + "a" * 255 + ":b"):
        assert not identifiers.is_room_id(text)


def test_event_ids_of_all_versions() -> None:
    for text in ("$abc:example.org", "$acR1l0raoZnm60CBwAVgqbZqoO/mYU81xysh1u7XcJk", "$" + "a" * 254):
        assert identifiers.is_event_id(text)
    for text in ("$", "abc", "!abc", "$" + "a" * 255, "$a\x00"):
        assert not identifiers.is_event_id(text)


def test_aliases() -> None:
    assert identifiers.split_alias("#room ä:example.org") == ("room ä", "example.org")
    for text in ("#:example.org", "#room", "#a:b:c", "@a:b", "#" + "a" * 253 + ":b"):
        assert identifiers.split_alias(text) is None


def test_namespaced_and_opaque_identifiers() -> None:
    for text in ("m.login", "a", "com.example_x-1", "a" * 255):
        assert identifiers.is_namespaced(text)
    for text in ("", "1a", "A", ".a", "a b", "a" * 256, "aB"):
        assert not identifiers.is_namespaced(text)
    for text in ("aB0-._~", "a" * 255):
        assert identifiers.is_opaque(text)
    for text in ("", "a/b", "ä", "a" * 256, "a\n"):
        assert not identifiers.is_opaque(text)
