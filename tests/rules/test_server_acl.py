"""Server access control lists (client-server §Server Access Control Lists)."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from comity.protocol.server_acl import is_allowed


def acl(allow: Any = ("*",), deny: Any = (), **more: Any) -> dict[str, Any]:
    return {
        "allow": list(allow) if isinstance(allow, tuple) else allow,
        "deny": list(deny) if isinstance(deny, tuple) else deny,
        **more,
    }


def test_without_an_acl_everybody_may() -> None:
    assert is_allowed(None, "evil.example")


@pytest.mark.parametrize(
    ("content", "server", "expected"),
    [
        ({}, "a.example", False),
        (acl(allow=()), "a.example", False),
        (acl(), "a.example", True),
        (acl(deny=("a.example",)), "a.example", False),
        (acl(allow=("a.example",)), "b.example", False),
        # The port does not count, on neither side.
        (acl(deny=("a.example",)), "a.example:8448", False),
        (acl(deny=("a.example:8448",)), "a.example:8448", True),
        # Globs, whole names only.
        (acl(deny=("*.evil.example",)), "a.b.evil.example", False),
        (acl(deny=("*.evil.example",)), "evil.example", True),
        (acl(deny=("*evil.example",)), "notevil.example", False),
        (acl(deny=("evil",)), "evil.example", True),
        (acl(deny=("?.example",)), "a.example", False),
        (acl(deny=("?.example",)), "aa.example", True),
        (acl(deny=("a?example",)), "a.example", False),
        (acl(deny=("a.*.c",)), "a.b.c", False),
        (acl(deny=("a.*.c",)), "a..c", False),
        (acl(deny=("a*b*a",)), "aba", False),
        (acl(deny=("a*a",)), "a", True),
        # A dot is a dot, and nothing else is special.
        (acl(deny=("a.example",)), "axexample", True),
        (acl(deny=("[ab].example",)), "a.example", True),
        (acl(deny=("(a|b).example",)), "a.example", True),
        (acl(deny=("a\\.example",)), "a.example", True),
        # Case does not count.
        (acl(deny=("EVIL.example",)), "evil.EXAMPLE", False),
        (acl(allow=("*.Example",)), "A.eXAMPLE", True),
        # deny goes before allow.
        (acl(allow=("a.example",), deny=("*",)), "a.example", False),
        # IP literals.
        (acl(), "1.2.3.4", True),
        (acl(allow_ip_literals=True), "1.2.3.4:8448", True),
        (acl(allow_ip_literals=False), "1.2.3.4", False),
        (acl(allow_ip_literals=False), "1.2.3.4:8448", False),
        (acl(allow_ip_literals=False), "[2001:db8::1]", False),
        (acl(allow_ip_literals=False), "[2001:db8::1]:8448", False),
        (acl(allow_ip_literals=False), "1.2.3.4.example", True),
        (acl(allow_ip_literals=False), "1.example", True),
        # Not a boolean: as if it were absent.
        (acl(allow_ip_literals="false"), "1.2.3.4", True),
        (acl(allow_ip_literals=0), "1.2.3.4", True),
        (acl(deny=("1.2.3.*",)), "1.2.3.4", False),
        # What is not a server name is nobody.
        (acl(), "not a name", False),
        (acl(), "", False),
        (acl(), "a.example:99999", False),
        # Entries of other types are passed over; lists that are none are empty.
        (acl(deny=(1, None, {}, ["a.example"])), "a.example", True),
        (acl(allow=(1, "*")), "a.example", True),
        (acl(allow="*"), "a.example", False),
        (acl(deny="a.example"), "a.example", True),
        (acl(allow={"*": 1}), "a.example", False),
    ],
)
def test_who_may(content: dict[str, Any], server: str, expected: bool) -> None:
    assert is_allowed(content, server) is expected


@pytest.mark.parametrize("pattern", ["*?" * 60 + "!", "*a" * 60 + "!", "*" * 5000 + "!", "?*" * 60 + "!"])
def test_no_pattern_takes_long(pattern: str) -> None:
    """An ACL is a stranger's: in a process of its own, so that a pattern that hangs can be ended."""
    program = (
        "from comity.protocol.server_acl import is_allowed\n"
        f"print(is_allowed({acl(deny=(pattern,))!r}, 'a' * 63 + '.' + 'a' * 63 + '.example'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=True
    )
    assert done.stdout.strip() == "True"
