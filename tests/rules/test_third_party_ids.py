"""One way to write each address (appendices §3PID Types)."""

from __future__ import annotations

import pytest

from comity.protocol.third_party_ids import canonical, canonical_email, is_secret


@pytest.mark.parametrize(
    ("written", "address"),
    [
        ("bob@Example.com", "bob@example.com"),
        # The specification's example.
        ("Strauß@Example.com", "strauss@example.com"),
        ("BOB.Smith+tag@EXAMPLE.com", "bob.smith+tag@example.com"),
        ("bob@Bücher.example", "bob@bücher.example"),
        ("bob@localhost", "bob@localhost"),
        ("b'ob/{}~@a-b.example", "b'ob/{}~@a-b.example"),
    ],
)
def test_what_is_the_same_address(written: str, address: str) -> None:
    assert canonical_email(written) == address == canonical_email(address)
    assert canonical("email", written) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "bob",
        "@example.com",
        "bob@",
        "bob@@example.com",
        "bob@a@b",
        "bob smith@example.com",
        "bob@exa mple.com",
        "<bob@example.com>",
        "Bob <bob@example.com>",
        "mailto:bob@example.com",
        '"bob"@example.com',
        "bob@[127.0.0.1]",
        "bob@example..com",
        "bob@.example.com",
        "bob@-a.example",
        "bob@a-.example",
        "bob@example.com\n",
        "b\x00b@a.b",
        "bob@example.com, eve@example.com",
        "bob\u200b@example.com",
        f"{'a' * 65}@example.com",
        f"bob@{'a' * 64}.example",
        f"bob@{'a.' * 130}example",
        f"{'ß' * 40}@example.com",
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="e-mail address"):
        canonical_email(text)


def test_other_media() -> None:
    assert canonical("msisdn", "447700900001") == "447700900001"
    for medium, address in (("msisdn", "+447700900001"), ("msisdn", "1" * 16), ("fax", "1"), ("", "")):
        with pytest.raises(ValueError, match="neither"):
            canonical(medium, address)


def test_secrets() -> None:
    assert is_secret("monkeys_are.GREAT=-1") and is_secret("a" * 255)
    assert not any(is_secret(text) for text in ("", "a" * 256, "a b", "ä", "a\n", None, 5))
