"""Identifiers: server names, user, room, event and alias ids (appendices §Identifier Grammar).

Parsing is exact about limits and lenient about the historical forms that the specification
says must be accepted. Nothing here knows whether an identifier exists.
"""

from __future__ import annotations

import functools
import ipaddress
import re

#: No identifier is longer than this, in bytes of UTF-8, sigil and server name included.
MAX_IDENTIFIER_BYTES = 255
#: Server names whose parse is remembered: the same few come with every event.
MAX_REMEMBERED_NAMES = 10_000
#: Room ids of which it is remembered whether they are some.
MAX_REMEMBERED_ROOM_IDS = 1_000
#: User ids of which it is remembered whether they are some.
MAX_REMEMBERED_USER_IDS = 10_000

_SERVER_NAME = re.compile(
    r"(?P<host>\[[0-9A-Fa-f:.]{2,45}\]|[0-9A-Za-z.-]{1,255})(?::(?P<port>[0-9]{1,5}))?", re.ASCII
)
_DOTTED_QUAD = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}", re.ASCII)
_USER_LOCALPART = re.compile(r"[a-z0-9._=/+-]+", re.ASCII)
_PRINTABLE = re.compile(r"[!-~]+", re.ASCII)
_NAMESPACED = re.compile(r"[a-z][a-z0-9._-]{0,254}", re.ASCII)
_OPAQUE = re.compile(r"[0-9A-Za-z._~-]{1,255}", re.ASCII)
_NOT_SCALAR = re.compile("[\x00\ud800-\udfff]")
_REFERENCE_HASH = re.compile(r"[0-9A-Za-z_-]{43}", re.ASCII)


@functools.lru_cache(maxsize=MAX_REMEMBERED_NAMES)
def parse_server_name(text: str) -> tuple[str, int | None]:
    """Split a server name into host and port (None if absent). IPv6 hosts keep their brackets.

    Raises ValueError with a sentence if `text` is outside the grammar.
    """
    match = _SERVER_NAME.fullmatch(text)
    if match is None:
        raise ValueError("A server name is a host name or IP literal with an optional :port")
    host = match["host"]
    port = match["port"]
    try:
        if host.startswith("["):
            ipaddress.IPv6Address(host[1:-1])
        elif _DOTTED_QUAD.fullmatch(host):
            ipaddress.IPv4Address(host)
    except ValueError as error:
        raise ValueError(f"The server name's IP literal is not valid: {error}") from None
    if port is not None and not 0 < int(port) < 65536:
        raise ValueError("The server name's port is not between 1 and 65535")
    return host, None if port is None else int(port)


def is_server_name(text: object) -> bool:
    """Whether `text` is a valid server name."""
    if not isinstance(text, str) or len(text) > MAX_IDENTIFIER_BYTES:
        return False
    try:
        parse_server_name(text)
    except ValueError:
        return False
    return True


def ip_literal(host: str) -> str | None:
    """The bare IP address if `host` (of a server name) is an IP literal, else None."""
    if host.startswith("["):
        return host[1:-1]
    return host if _DOTTED_QUAD.fullmatch(host) else None


def _is_short(text: str) -> bool:
    if text.isascii():
        return len(text) <= MAX_IDENTIFIER_BYTES
    return len(text.encode("utf-8", "surrogatepass")) <= MAX_IDENTIFIER_BYTES


def _is_scalar(text: str) -> bool:
    """Whether every character may be encoded as UTF-8 and none is NUL."""
    return "\x00" not in text if text.isascii() else _NOT_SCALAR.search(text) is None


def _split(text: object, sigil: str) -> tuple[str, str] | None:
    if not isinstance(text, str) or not text.startswith(sigil) or not _is_short(text):
        return None
    localpart, colon, server = text[1:].partition(":")
    if not colon or not _is_scalar(localpart) or not is_server_name(server):
        return None
    return localpart, server


def split_user_id(text: object) -> tuple[str, str] | None:
    """(localpart, server name) of a user id, historical ones included; None if it is not one."""
    return _user_id_parts(text) if isinstance(text, str) and len(text) <= MAX_IDENTIFIER_BYTES else None


def is_user_id(text: object) -> bool:
    """Whether `text` is a user id that events may carry (historical forms included)."""
    return isinstance(text, str) and len(text) <= MAX_IDENTIFIER_BYTES and _user_id_parts(text) is not None


def is_compliant_user_id(text: object) -> bool:
    """Whether `text` is a user id that may be named outside events.

    appendices §Historical User IDs: its localpart is not empty, and of U+0021 to U+007E alone.
    """
    parts = split_user_id(text)
    return parts is not None and _PRINTABLE.fullmatch(parts[0]) is not None


# A room's power levels name the same users again and again.
@functools.lru_cache(maxsize=MAX_REMEMBERED_USER_IDS)
def _user_id_parts(text: str) -> tuple[str, str] | None:
    return _split(text, "@")


def is_new_localpart(text: str) -> bool:
    """Whether `text` may be the localpart of a new account (the strict grammar)."""
    return _USER_LOCALPART.fullmatch(text) is not None


def split_alias(text: object) -> tuple[str, str] | None:
    """(localpart, server name) of a room alias; None if it is not one."""
    parts = _split(text, "#")
    return parts if parts and parts[0] else None


def is_room_id(text: object) -> bool:
    """Whether `text` is a room id of any room version: `!opaque:server` or `!reference-hash`."""
    return isinstance(text, str) and len(text) <= MAX_IDENTIFIER_BYTES and _is_room_id(text)


# All events of a room name it.
@functools.lru_cache(maxsize=MAX_REMEMBERED_ROOM_IDS)
def _is_room_id(text: str) -> bool:
    if not text.startswith("!") or not _is_short(text):
        return False
    return _split(text, "!") is not None or _REFERENCE_HASH.fullmatch(text[1:]) is not None


def is_domainless_room_id(text: str) -> bool:
    """Whether `text` is a room id of room version 12 and later (a create event's hash)."""
    return text.startswith("!") and _REFERENCE_HASH.fullmatch(text[1:]) is not None


def is_event_id(text: object) -> bool:
    """Whether `text` may be an event id in some room version."""
    if not isinstance(text, str) or not 1 < len(text) <= MAX_IDENTIFIER_BYTES or text[0] != "$":
        return False
    if text.isascii():
        return "\x00" not in text
    return _is_short(text) and _is_scalar(text)


def server_of(identifier: str) -> str:
    """The server name in a user id, alias, or an event or room id that has one; else ''."""
    return identifier.partition(":")[2]


def is_namespaced(text: str) -> bool:
    """Whether `text` follows the Common Namespaced Identifier Grammar."""
    return _NAMESPACED.fullmatch(text) is not None


def is_opaque(text: str) -> bool:
    """Whether `text` is an opaque identifier (appendices §Opaque Identifiers)."""
    return _OPAQUE.fullmatch(text) is not None
