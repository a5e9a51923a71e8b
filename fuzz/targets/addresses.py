"""Targets about addresses outside of Matrix: what people write, and what identity servers answer.

Head of `identity_answers`: the call and the HTTP status (`find 200`). Body: the body of the answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import urlsplit

from comity.federation.errors import FederationError
from comity.federation.identity_servers import MAX_KEYS, MAX_TEXT, IdentityServers, supports_unbinding, told
from comity.ports import NO_HEADERS, Answer
from comity.protocol.errors import MatrixError
from comity.protocol.identifiers import is_user_id
from comity.protocol.signing import SigningKey
from comity.protocol.third_party_ids import MAX_ADDRESS_BYTES, canonical_email
from comity.users.validation import MAX_NEXT_LINK, next_link_of
from fuzz.target import Target, require
from fuzz.targets.texts import text_of

SERVER, TOKEN, USER = "id.example", "token", "@alice:a.example"


def check_email(data: bytes) -> str:
    """An e-mail address, and a page to go on at."""
    text = text_of(data)
    label = "neither"
    try:
        address = canonical_email(text)
    except ValueError as error:
        label = str(error)[:20]
    else:
        label = "address"
        require(address == canonical_email(address), "there is one way to write an address")
        require(address.count("@") == 1 and address.isprintable(), "an address is one, and plain")
        require(not set(address) & set(' ,;<>()"\\'), "nothing of it means something in a header")
        require(len(address.encode()) <= MAX_ADDRESS_BYTES, "an address is short")
    try:
        link = next_link_of(text)
    except MatrixError as error:
        require(error.status == 400, "it is whose text it is")
        return label
    if link is not None:
        parts = urlsplit(link)
        require(parts.scheme in ("http", "https") and parts.hostname, "a link leads to a page")
        require(len(link) <= MAX_NEXT_LINK and not set(link) & set('"<> \\'), "it is short, and plain")
        return f"{label} link"
    return label


class Told:
    """`ports.Outbound` where every request gets the same answer."""

    answer = Answer(200, {}, b"")

    async def request_url(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] = NO_HEADERS,
        body: bytes | None = None,
        timeout: float,
        max_bytes: int,
        max_redirects: int = 0,
        plain_http: bool = False,
    ) -> Answer:
        if url.endswith("/hash_details") and self.answer.status == 299:
            return Answer(200, {}, b'{"algorithms":["sha256"],"lookup_pepper":"pepper"}')
        return self.answer


async def _bind(servers: IdentityServers) -> str:
    medium, address = await servers.bind(SERVER, TOKEN, "1", "secret", USER)
    require(0 < len(medium) <= MAX_TEXT and 0 < len(address) <= MAX_TEXT, "what is kept is short")
    return "bound"


async def _find(servers: IdentityServers) -> str:
    found = await servers.find(SERVER, TOKEN, "email", "bob@example.org")
    require(found is None or is_user_id(found), "who is found is a user")
    return "nobody" if found is None else "somebody"


async def _store(servers: IdentityServers) -> str:
    kept = await servers.store_invite(SERVER, TOKEN, {})
    require(0 < len(kept.token) <= MAX_TEXT and 0 < len(kept.public_keys) <= MAX_KEYS, "an invite is short")
    return f"kept {len(kept.public_keys)}"


async def _unbind(servers: IdentityServers) -> str:
    await servers.unbind(SERVER, USER, "email", "bob@example.org")
    return "unbound"


CALLS: Mapping[str, Callable[[IdentityServers], Awaitable[str]]] = {
    "bind": _bind,
    "find": _find,
    "store": _store,
    "unbind": _unbind,
}
_loop = asyncio.new_event_loop()
_told = Told()
_servers = IdentityServers(_told, "a.example", SigningKey("1", b"\x01" * 32))


def check_identity_answer(data: bytes) -> str:
    """Make the call that the head names, and get the body for an answer."""
    head, _, body = data.partition(b"\n")
    name, _, status = head.decode("ascii", "replace").partition(" ")
    number = int(status) if status.isascii() and status.isdecimal() and len(status) == 3 else 200
    _told.answer = Answer(number, {"retry-after": status}, body)
    call = CALLS.get(name) or CALLS["find"]
    try:
        return _loop.run_until_complete(call(_servers))
    except FederationError as error:
        answer = told(error)
        require(answer.status in range(400, 600) and answer.code, "a user is told an error")
        require(answer.code not in ("M_UNKNOWN_TOKEN", "M_MISSING_TOKEN"), "and none of their session")
        return f"{name} {answer.code} {supports_unbinding(error)} {error.text[:30]}"


TARGETS = (
    Target(
        "emails",
        check_email,
        words=("@", "example.org", "https://", "ß", "..", "\r\n", "<", ">", ","),
        max_bytes=4_096,
        weight=0.5,
    ),
    Target(
        "identity_answers",
        check_identity_answer,
        json=True,
        separator=b"\n",
        heads=tuple(f"{name} {status}".encode() for name in CALLS for status in (200, 299, 400, 401, 501)),
        words=("mappings", "lookup_pepper", "algorithms", "sha256", "medium", "address", "mxid", "token",
               "public_keys", "public_key", "key_validity_url", "display_name", "errcode", "error",
               "M_TERMS_NOT_SIGNED", "M_UNKNOWN_TOKEN"),
        weight=0.5,
    ),
)  # fmt: skip
