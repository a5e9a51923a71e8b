"""Server access control lists (client-server §Server ACLs): may this server take part?"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from comity.protocol.identifiers import ip_literal, parse_server_name
from comity.protocol.matching import Glob

#: Entries of an ACL that are read; an event of 64 KiB cannot hold many more.
MAX_ENTRIES = 10_000
#: Compiled globs that are remembered.
MAX_REMEMBERED_GLOBS = 4_096


@functools.lru_cache(maxsize=MAX_REMEMBERED_GLOBS)
def _glob(pattern: str) -> Glob:
    return Glob(pattern.lower())


def _matches(entries: object, host: str) -> bool:
    """appendices §Glob-style matching, without regard to case."""
    if not isinstance(entries, list):
        return False
    text = host.lower()
    return any(isinstance(entry, str) and _glob(entry).matches(text) for entry in entries[:MAX_ENTRIES])


def is_allowed(content: Mapping[str, Any] | None, server: str) -> bool:
    """Whether `server` may take part in a room whose `m.room.server_acl` has that content.

    None stands for a room without such an event: everybody may.
    """
    if content is None:
        return True
    try:
        host, _ = parse_server_name(server)
    except ValueError:
        return False
    if content.get("allow_ip_literals") is False and ip_literal(host) is not None:
        return False
    return not _matches(content.get("deny"), host) and _matches(content.get("allow"), host)
