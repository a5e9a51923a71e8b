"""Targets that are other servers' documents: discovery, keys, access control lists."""

from __future__ import annotations

from typing import Any

from comity.protocol import canonical_json
from comity.protocol.discovery import (
    MAX_CACHE_MS,
    MAX_TARGETS,
    Discovery,
    Found,
    LookUpSrv,
    LookUpWellKnown,
    SrvAnswer,
    SrvPlace,
    Unreachable,
    WellKnownAnswer,
)
from comity.protocol.identifiers import parse_server_name
from comity.protocol.server_acl import is_allowed
from comity.protocol.signing import (
    MAX_KEYS_IN_DOCUMENT,
    SigningKey,
    parse_key_document,
    sign_json,
    verify_json,
)
from fuzz.target import Target, require
from fuzz.targets.texts import MAX_COMPARED, slow_match

KEY = SigningKey("1", b"\x01" * 32)
#: Questions that a discovery may ask before it ends.
MAX_QUESTIONS = 4


def object_of(data: bytes) -> dict[str, Any]:
    """The JSON object in the bytes, or an empty one."""
    try:
        return canonical_json.parse_object(data)
    except canonical_json.CanonicalJsonError:
        return {}


def text_in(value: object, default: str = "") -> str:
    """The value if it is a string."""
    return value if isinstance(value, str) else default


def number_in(value: object, default: int = 0) -> int:
    """The value if it is an integer of 64 bits."""
    return value if type(value) is int and abs(value) < 2**63 else default


def check_discovery(data: bytes) -> str:
    """`{"name", "well_known": {"status", "headers", "body"}, "srv": [[[host, port], …] or null, …]}`."""
    given = object_of(data)
    discovery = Discovery(text_in(given.get("name")), errors_before=number_in(given.get("errors")))
    answers = given.get("srv")
    waiting = list(answers) if isinstance(answers, list) else []
    label = ""
    for _ in range(MAX_QUESTIONS):
        step = discovery.next()
        label += type(step).__name__ + " "
        match step:
            case LookUpWellKnown():
                require(step.url.isascii() and " " not in step.url, "a URL is plain")
                discovery.feed(_well_known(given.get("well_known")))
            case LookUpSrv():
                require(step.name.isascii() and len(step.name) < 300, "a name to look up is plain")
                discovery.feed(_srv(waiting.pop(0) if waiting else []))
            case Found() | Unreachable():
                break
    end = discovery.next()
    require(isinstance(end, Found | Unreachable), "a discovery ends")
    assert isinstance(end, Found | Unreachable)
    require(0 < end.cache_ms <= MAX_CACHE_MS, "what was found is kept for a bounded time")
    if isinstance(end, Found):
        require(0 < len(end.targets) <= MAX_TARGETS, "some places to connect to, and not many")
        for target in end.targets:
            require(0 < target.port < 65536 and target.host and target.tls_name, "a place is whole")
            whole = target.host + target.tls_name + target.host_header
            require(whole.isascii() and whole.isprintable() and " " not in whole, "a place is plain")
            require("/" not in whole and "@" not in whole, "a place is no more than a place")
            parse_server_name(target.host_header)
    return label


def _well_known(value: object) -> WellKnownAnswer:
    answer = value if isinstance(value, dict) else {}
    status = answer.get("status", 200)
    headers = answer.get("headers")
    return WellKnownAnswer(
        status if type(status) is int else None,
        {k.lower(): v for k, v in headers.items() if isinstance(v, str)} if isinstance(headers, dict) else {},
        text_in(answer.get("body")).encode("utf-8", "surrogatepass"),
        number_in(answer.get("received"), 1_700_000_000_000),
    )


def _srv(value: object) -> SrvAnswer:
    if not isinstance(value, list):
        return SrvAnswer(failed=True)
    records = [entry for entry in value if isinstance(entry, list) and len(entry) == 2]
    return SrvAnswer(tuple(SrvPlace(text_in(host), number_in(port)) for host, port in records))


def check_key_document(data: bytes) -> str:
    """A server's keys as they come, and as they come when they are signed properly."""
    document = object_of(data)
    server = text_in(document.get("server_name"), "a.example")
    label = _parse_keys(document, server)
    verify_json(document, server, {KEY.key_id: bytes(32)})
    # Nothing gets past the signature by chance: sign it, so that all behind it is reached.
    current = document.get("verify_keys")
    signed = {
        "valid_until_ts": 1_700_000_000_000,
        "old_verify_keys": {},
        **document,
        "server_name": server,
        "verify_keys": {**(current if isinstance(current, dict) else {}), KEY.key_id: {"key": KEY.public}},
    }
    try:
        return label + ", signed: " + _parse_keys(sign_json(signed, server, KEY), server)
    except canonical_json.CanonicalJsonError:
        return label + ", cannot be signed"


def _parse_keys(document: dict[str, Any], server: str) -> str:
    try:
        keys = parse_key_document(document, server)
    except ValueError as error:
        return str(error)[:60]
    require(0 < len(keys) <= MAX_KEYS_IN_DOCUMENT, "a document has some keys, and not many")
    require(len({key.key_id for key in keys}) == len(keys), "a key id stands for one key")
    for key in keys:
        require(len(key.public) == 32 and key.key_id.startswith("ed25519:"), "a key is an Ed25519 key")
    return f"{len(keys)} keys"


def check_server_acl(data: bytes) -> str:
    """`{"server", "content"}`: may that server take part?"""
    given = object_of(data)
    server, content = text_in(given.get("server"), "a.example"), given.get("content")
    allowed = is_allowed(content if isinstance(content, dict) else None, server)
    if not isinstance(content, dict):
        return "no list"
    try:
        host = parse_server_name(server)[0].lower()
    except ValueError:
        require(not allowed, "what is no server name may not take part")
        return "no server name"
    deny = content.get("deny")
    patterns = [entry for entry in deny if isinstance(entry, str)] if isinstance(deny, list) else []
    for pattern in patterns[:20]:
        if 0 < len(pattern) * len(host) <= MAX_COMPARED and slow_match(
            pattern.lower(), host, only_star=False
        ):
            require(not allowed, "a server that is denied may not take part")
    return f"allowed: {allowed}"


TARGETS = (
    Target(
        "discovery",
        check_discovery,
        json=True,
        words=("name", "well_known", "status", "headers", "body", "srv", "errors", "received",
               "cache-control", "max-age=60", "no-store", "expires", "date", "age",
               '{"m.server":"b.example:1"}', "b.example.", "Thu, 01 Jan 1970 00:00:00 GMT",
               "[::1]:80", "1.2.3.4"),
        max_bytes=65_536,
    ),
    Target(
        "key_document",
        check_key_document,
        json=True,
        words=("server_name", "valid_until_ts", "verify_keys", "old_verify_keys", "expired_ts", "key",
               "signatures", "ed25519:1", "ed25519:old", KEY.public, "a.example"),
    ),
    Target(
        "server_acl",
        check_server_acl,
        json=True,
        words=("server", "content", "allow", "deny", "allow_ip_literals", "*", "*.example", "?.example",
               "*?*?*"),
        max_bytes=65_536,
    ),
)  # fmt: skip
