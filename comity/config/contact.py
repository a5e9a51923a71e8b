"""The keys of how people are reached by e-mail, and of what they accept before they are let in.

As `comity.config.tree`, of which this is a part: declarations, and how their values are read.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parseaddr
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from comity.config import values
from comity.config.values import Unfit, key
from comity.protocol.identifiers import is_opaque

#: How a connection to a mail server is kept private.
Security = Literal["none", "starttls", "tls"]
#: URL scheme -> that, and the port where none is written.
_SCHEMES: Mapping[str, tuple[Security, int]] = {
    "smtp": ("none", 25),
    "smtp+starttls": ("starttls", 587),
    "smtps": ("tls", 465),
}
_LANGUAGE = re.compile(r"[A-Za-z]{2,8}([-_][A-Za-z0-9]{1,8}){0,4}", re.ASCII)
#: Policies, and languages of one: each client that registers is told all of them.
MAX_POLICIES, MAX_LANGUAGES = 20, 200


@dataclass(frozen=True, slots=True)
class MailServer:
    """Where letters are handed over. `user` and `password` are None where it asks for neither."""

    security: Security
    host: str
    port: int
    user: str | None
    password: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Policy:
    """A document that new users accept: language -> (name, URL) (client-server §Terms of service)."""

    identifier: str
    version: str
    documents: Mapping[str, tuple[str, str]]

    def told(self) -> dict[str, object]:
        """The Policy Definition of `m.login.terms`."""
        translations = {
            language: {"name": name, "url": url} for language, (name, url) in self.documents.items()
        }
        return {"version": self.version, **translations}


def mail_server(value: Any, directory: Path) -> MailServer:
    """The URL of a mail server."""
    expected = (
        '"smtps://user:password@mail.example.org" (TLS), "smtp+starttls://…" (TLS once connected) or '
        '"smtp://localhost" (no TLS), with :port where it is not 465, 587 or 25'
    )
    try:
        parts = urlsplit(value) if isinstance(value, str) and value.isprintable() else None
        if parts is None or parts.scheme not in _SCHEMES or not parts.hostname or parts.port == 0:
            raise Unfit(value, expected)
    except ValueError:
        raise Unfit(value, expected) from None
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise Unfit(value, expected)
    security, port = _SCHEMES[parts.scheme]
    user = None if parts.username is None else unquote(parts.username)
    password = None if parts.password is None else unquote(parts.password)
    if (user is None) != (password is None):
        raise Unfit(value, "a user with a password, or neither; what is special in a URL as %40 and the like")
    if security == "none" and password is not None and not _is_this_machine(parts.hostname):
        raise Unfit(value, "smtps:// or smtp+starttls://, so that nobody reads the password on the way")
    return MailServer(security, parts.hostname, parts.port or port, user, password)


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def sender(value: Any, directory: Path) -> str:
    """The `From` of letters: an e-mail address, with a name before it or without."""
    expected = 'an e-mail address such as "noreply@example.org" or "Example <noreply@example.org>"'
    if not isinstance(value, str) or not value.isprintable():
        raise Unfit(value, expected)
    address = parseaddr(value)[1]
    if not values.EMAIL_ADDRESS.fullmatch(address) or not address.isascii():
        raise Unfit(value, expected)
    return value


def policy(value: Any, directory: Path) -> Policy:
    """One of `terms.policies`."""
    expected = (
        'policies of an id, a version and, for each language, a name and a url: { id = "privacy_policy", '
        'version = "1.2", en = { name = "Privacy Policy", url = "https://example.org/privacy-1.2.html" } }'
    )
    if not isinstance(value, dict):
        raise Unfit(value, expected)
    identifier, version = value.get("id"), value.get("version")
    for told in (identifier, version):
        if not isinstance(told, str) or not is_opaque(told):
            raise Unfit(told, "an id and a version of A-Z a-z 0-9 . _ ~ - for each policy, in quotes")
    documents: dict[str, tuple[str, str]] = {}
    for language, document in value.items():
        if language in ("id", "version"):
            continue
        if not _LANGUAGE.fullmatch(language):
            raise Unfit(language, 'languages such as "en" or "pt-BR" beside id and version')
        if not isinstance(document, dict) or document.keys() != {"name", "url"}:
            raise Unfit(document, expected)
        documents[language] = (
            values.text(document["name"], directory),
            values.page_url(document["url"], directory),
        )
    if not 0 < len(documents) <= MAX_LANGUAGES:
        raise Unfit(value, f"policies in one to {MAX_LANGUAGES} languages")
    return Policy(str(identifier), str(version), documents)


def _distinct(policies: list[Policy]) -> tuple[Policy, ...]:
    names = [policy.identifier for policy in policies]
    if len(set(names)) < len(names) or len(names) > MAX_POLICIES:
        raise Unfit(names, f"at most {MAX_POLICIES} policies, each with an id of its own")
    return tuple(policies)


@dataclass(frozen=True, slots=True, kw_only=True)
class Email:
    """E-mail, by which people confirm their addresses and reset their passwords."""

    smtp_url: MailServer | None = key(
        mail_server,
        None,
        'The mail server to hand letters to: "smtps://user:password@host" (TLS), "smtp+starttls://…" (TLS '
        'once connected) or "smtp://…" (no TLS). Without it, no e-mail is sent, and nobody adds an address.',
        secret=True,
        example="smtps://comity:password@mail.example.org",
    )
    sender: str | None = key(
        sender,
        None,
        "Whom letters come from.",
        example="Example <noreply@example.org>",
        written="from",
    )
    allow_addresses: tuple[str, ...] = key(
        values.list_of(values.text),
        [],
        "The only addresses that people may use, if any are named; * and ? stand for any characters: "
        '"*@example.org".',
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What people accept before they get an account."""

    policies: tuple[Policy, ...] = key(
        values.list_of(policy, _distinct),
        [],
        "The documents, each a table of an id, a version and, for each language, a table of name and url: "
        "docs/running.md shows one.",
    )
