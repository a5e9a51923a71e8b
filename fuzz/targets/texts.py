"""Targets whose input is a text: identifiers, X-Matrix headers, Base64, tokens, globs, addresses."""

from __future__ import annotations

from comity.api.address import client_address
from comity.ports import Request
from comity.protocol import identifiers
from comity.protocol.errors import MatrixError
from comity.protocol.event import decode_base64, encode_base64
from comity.protocol.matching import ABSENT, MAX_GLOB_CHARACTERS, Glob, parse_path, value_at
from comity.protocol.signing import MAX_AUTHORIZATION_LENGTH, parse_authorization
from comity.rooms.read.tokens import SyncToken, line_token, parse_line, position_below
from comity.store.events import is_live
from fuzz.target import Target, require

#: Pattern times text up to which a glob is compared with the slow and simple way.
MAX_COMPARED = 4_000


def text_of(data: bytes) -> str:
    """The text that a stranger's bytes become: JSON strings may hold lone surrogates too."""
    return data.decode("utf-8", "surrogatepass") if _is_loose(data) else data.decode("utf-8", "replace")


def _is_loose(data: bytes) -> bool:
    try:
        data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return False
    return True


def check_identifiers(data: bytes) -> str:
    """Every reader of identifiers on one text."""
    text = text_of(data)
    label = []
    for sigil, split in (("@", identifiers.split_user_id), ("#", identifiers.split_alias)):
        parts = split(text)
        if parts is not None:
            label.append(sigil)
            localpart, server = parts
            require(text == f"{sigil}{localpart}:{server}", "an identifier is its parts")
            require(identifiers.is_server_name(server), "an identifier's server is a server name")
            require(identifiers.server_of(text) == server, "server_of and the split agree")
            require(len(text.encode()) <= identifiers.MAX_IDENTIFIER_BYTES, "an identifier is short")
    require(identifiers.is_user_id(text) is ("@" in label), "is_user_id and split_user_id agree")
    if identifiers.is_event_id(text) or identifiers.is_room_id(text):
        label.append(text[0])
        require(len(text.encode()) <= identifiers.MAX_IDENTIFIER_BYTES, "an identifier is short")
    if identifiers.is_domainless_room_id(text):
        require(identifiers.is_room_id(text), "a room id without a server name is a room id")
    if identifiers.is_server_name(text):
        label.append("server")
        host, port = identifiers.parse_server_name(text)
        require(text.isascii() and len(text) <= identifiers.MAX_IDENTIFIER_BYTES, "a server name is short")
        rest = text.removeprefix(host)
        require(rest == "" if port is None else int(rest.removeprefix(":")) == port, "a name is its parts")
        require(port is None or 0 < port < 65536, "a port is a port")
        literal = identifiers.ip_literal(host)
        require(literal is None or literal in host, "an IP literal is part of the host")
    for question in (identifiers.is_new_localpart, identifiers.is_namespaced, identifiers.is_opaque):
        if question(text):
            label.append(question.__name__)
            require(text.isascii() and text.isprintable(), f"{question.__name__} takes plain characters only")
    return " ".join(label)


def check_authorization(data: bytes) -> str:
    """An X-Matrix header."""
    text = data.decode("utf-8", "replace")
    try:
        found = parse_authorization(text)
    except MatrixError as error:
        require(error.status == 401, "a header that cannot be read is 401")
        return error.text[:40]
    require(len(text) <= MAX_AUTHORIZATION_LENGTH, "a header has a bound")
    require(identifiers.is_server_name(found.origin), "the origin is a server name")
    require(found.key_id and found.signature, "nothing that is needed is empty")
    parts = [("origin", found.origin), ("key", found.key_id), ("sig", found.signature)]
    if found.destination is not None:
        parts.append(("destination", found.destination))
    quoted = (f'{name}="{_quote(value)}"' for name, value in parts)
    again = "X-Matrix " + ",".join(quoted)
    if len(again) <= MAX_AUTHORIZATION_LENGTH and "\n" not in again:
        require(parse_authorization(again) == found, "a header that is written again reads the same")
    return "read" + " destination" * (found.destination is not None)


def _quote(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"')


def check_base64(data: bytes) -> str:
    """Base64 of either alphabet, padded or not."""
    text = text_of(data)
    try:
        decoded = decode_base64(text)
    except ValueError:
        return "none"
    require(decode_base64(encode_base64(decoded)) == decoded, "what was decoded can be written and read")
    require(len(decoded) <= len(text), "Base64 is longer than what it encodes")
    return "read"


def check_tokens(data: bytes) -> str:
    """Tokens of /sync and of timelines."""
    text = text_of(data)
    label = "none"
    try:
        token = SyncToken.parse(text)
        label = "sync"
        require(SyncToken.parse(str(token)) == token, "a token that is written again reads the same")
        require(token.messages >= 0, "positions are not negative")
    except MatrixError as error:
        require(error.status == 400, "no token is 400")
    try:
        line = parse_line(text)
        label += " line"
        # What SQLite can hold: a larger number would end the query with an OverflowError.
        require(0 <= line < 2**63, "a line fits into 64 bits")
        require(0 <= position_below(line) < 2**63, "a position fits into 64 bits")
        is_live(line)
        require(parse_line(line_token(line)) == line or line >= 10**18, "a line reads the same")
    except MatrixError as error:
        require(error.status == 400, "no token is 400")
    return label


def slow_match(pattern: str, text: str, *, only_star: bool) -> bool:
    """Whether a glob matches, the simple way: which beginnings of the text each of its beginnings matches."""
    matched = {0}
    for character in pattern:
        if character == "*":
            matched = set(range(min(matched), len(text) + 1)) if matched else matched
        else:
            is_any = character == "?" and not only_star
            matched = {
                place + 1 for place in matched if place < len(text) and (is_any or text[place] == character)
            }
    return len(text) in matched


def check_globs(data: bytes) -> str:
    """A pattern against a text: a pattern in the first line, the text in the rest."""
    first, _, rest = data.partition(b"\n")
    pattern, text = text_of(first), text_of(rest)
    label = []
    small = len(pattern) < 300 and len(text) < 300 and len(pattern) * len(text) <= MAX_COMPARED
    for only_star in (False, True):
        found = Glob(pattern, only_star=only_star).matches(text)
        label.append(str(found))
        if small:
            require(found == slow_match(pattern, text, only_star=only_star), "a glob matches as it is read")
        require(not found or len(pattern) <= MAX_GLOB_CHARACTERS, "a long pattern matches nothing")
    literal = Glob(pattern, literal=True)
    require(literal.matches(text) is (pattern == text and len(pattern) <= MAX_GLOB_CHARACTERS), "literally")
    words = literal.matches_words(text)
    require(not words or pattern in text, "a word that matches is in the text")
    label += [str(words), str(Glob(pattern).matches_words(text))]
    path = parse_path(pattern)
    require(len(path) <= pattern.count(".") + 1, "a path has a name more than dots")
    require(value_at({"a": {"b": 1}}, path) in (ABSENT, {"b": 1}, 1), "a path leads to what is there")
    return " ".join(label)


def check_address(data: bytes) -> str:
    """The header in which a proxy says who asks."""
    text = data.decode("utf-8", "replace")
    request = Request("GET", "/", "", {"x-forwarded-for": text}, b"", "127.0.0.1", frozenset())
    label = "named" if client_address(request) != "127.0.0.1" else "none"
    foreign = Request("GET", "/", "", {"x-forwarded-for": "10.0.0.1"}, b"", text, frozenset())
    client_address(foreign)
    return label


TARGETS = (
    Target(
        "identifiers",
        check_identifiers,
        words=("@", "#", "!", "$", ":", "a.example", "[::1]", "[::ffff:1.2.3.4]", "1.2.3.4", ":8448", "]"),
        max_bytes=2_048,
    ),
    Target(
        "authorization",
        check_authorization,
        words=("X-Matrix ", "origin=", "destination=", "key=", "sig=", '"', '\\"', ",", "a.example"),
        max_bytes=8_192,
    ),
    Target(
        "base64", check_base64, words=("=", "==", "-", "_", "+", "/", "AAAA"), max_bytes=8_192, weight=0.4
    ),
    Target("tokens", check_tokens, words=("s", "t", "_", "9" * 12, "9" * 18), max_bytes=512, weight=0.4),
    # A text of an eighth of what an event can hold, in an eighth of what it may take.
    Target("globs", check_globs, words=("*", "?", "*?", "\\.", "\n", "a"), max_bytes=8_192, seconds=0.25),
    Target(
        "address",
        check_address,
        words=("127.0.0.1", "::1", ",", "%eth0", "unix"),
        max_bytes=2_048,
        weight=0.4,
    ),
)
