"""The kinds of value that a configuration key may take, and how a key is declared.

A reader takes one TOML value and the directory that relative paths stand from, and returns the
value of the tree or raises Unfit. It never touches the disk.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from comity.protocol.identifiers import is_namespaced, is_new_localpart, is_user_id, parse_server_name
from comity.protocol.pacing import Rate

#: The default of a key that has none: it must be written.
REQUIRED = object()

#: The shape of an e-mail address; whether anybody reads what is sent there, it does not say.
EMAIL_ADDRESS = re.compile(r"[^@\s\x00-\x1f]+@[^@\s\x00-\x1f]+")
#: ASCII without spaces.
_PRINTABLE = re.compile(r"[!-~]+")
#: What a section is called that the operator names.
_SECTION_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_HOST_AND_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z.-]+):([0-9]{1,5})", re.ASCII)


class Unfit(Exception):
    """A `value` is not what its key takes; `expected` says what that is."""

    def __init__(self, value: Any, expected: str) -> None:
        super().__init__(expected)
        self.value = value
        self.expected = expected


#: What reads one kind of value.
Reader = Callable[[Any, Path], Any]


def flag(value: Any, directory: Path) -> bool:
    """true or false."""
    if not isinstance(value, bool):
        raise Unfit(value, "true or false, without quotes")
    return value


def text(value: Any, directory: Path) -> str:
    """Text that is not empty."""
    if not isinstance(value, str) or not value.strip():
        raise Unfit(value, "text in quotes, not empty; to go without, leave the key out")
    return value


def localpart(value: Any, directory: Path) -> str:
    """What comes between @ and the colon in the user id of a new account."""
    if not isinstance(value, str) or not is_new_localpart(value):
        raise Unfit(value, "what comes between @ and the colon: a-z, 0-9 and . _ = - / +")
    return value


def path(value: Any, directory: Path) -> Path:
    """A path, made absolute."""
    if not isinstance(value, str) or not value or "\x00" in value:
        raise Unfit(value, "a path in quotes; a relative one stands from the configuration file")
    return directory / Path(value).expanduser()


def server_name(value: Any, directory: Path) -> str:
    """A server name (appendices §Server Name)."""
    expected = 'a server name: a host name or IP literal with an optional :port, such as "example.org"'
    if not isinstance(value, str):
        raise Unfit(value, expected)
    try:
        parse_server_name(value)
    except ValueError:
        raise Unfit(value, expected) from None
    return value


def bind(value: Any, directory: Path) -> str:
    """`host:port`, `[IPv6]:port`, or `unix:` and a path, which is made absolute."""
    expected = 'an address and port such as "127.0.0.1:8008" or "[::1]:8008", or "unix:" and a path'
    if not isinstance(value, str):
        raise Unfit(value, expected)
    if value.startswith("unix:"):
        return "unix:" + str(path(value.removeprefix("unix:"), directory))
    match = _HOST_AND_PORT.fullmatch(value)
    if match is None or int(match[2]) > 65535:
        raise Unfit(value, expected)
    if match[1].startswith("["):
        try:
            ipaddress.IPv6Address(match[1][1:-1])
        except ValueError:
            raise Unfit(value, expected) from None
    return value


def network(value: Any, directory: Path) -> str:
    """An IP network in CIDR notation; a bare address is a network of one."""
    try:
        if not isinstance(value, str):
            raise ValueError
        return str(ipaddress.ip_network(value))
    except ValueError:
        raise Unfit(
            value, 'networks such as "10.0.0.0/8" or "fd00::/8", with no bit set after the prefix'
        ) from None


def database_url(value: Any, directory: Path) -> str:
    """The URL of a database that comity can use."""
    if not isinstance(value, str) or not re.fullmatch(r"(sqlite:|postgres(ql)?://)[^\x00]+", value):
        raise Unfit(
            value,
            '"sqlite:" and a file name, which stands inside data_dir, or a PostgreSQL URL such as '
            '"postgresql://comity@localhost/comity"',
        )
    return value


def web_url(value: Any, directory: Path) -> str:
    """An http or https URL, without a slash at its end."""
    expected = 'a URL such as "https://matrix.example.org", without query or fragment'
    try:
        parts = urlsplit(value) if isinstance(value, str) else None
        if parts is None or parts.scheme not in ("https", "http") or not parts.hostname or parts.port == 0:
            raise Unfit(value, expected)
    except ValueError:
        raise Unfit(value, expected) from None
    if parts.query or parts.fragment or parts.username is not None:
        raise Unfit(value, expected)
    return str(value).rstrip("/")


def page_url(value: Any, directory: Path) -> str:
    """An http or https URL of a page, as it is written."""
    try:
        parts = urlsplit(value) if isinstance(value, str) and value.isprintable() else None
    except ValueError:
        parts = None
    if parts is None or parts.scheme not in ("https", "http") or not parts.hostname:
        raise Unfit(value, 'the URL of a page such as "https://example.org/help"')
    return str(value)


#: Hosts that a request to does not leave the machine: plain HTTP to them can be read by nobody else.
_LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})


def issuer(value: Any, directory: Path) -> str:
    """The issuer of an OpenID provider, as it is written (OpenID Connect Discovery §3)."""
    expected = 'an https URL without query or fragment, such as "https://accounts.example.com"'
    try:
        parts = urlsplit(value) if isinstance(value, str) and _PRINTABLE.fullmatch(value) else None
        if parts is None or not parts.hostname or parts.port == 0 or parts.username is not None:
            raise Unfit(value, expected)
    except ValueError:
        raise Unfit(value, expected) from None
    if parts.scheme != "https" and (parts.scheme != "http" or parts.hostname not in _LOOPBACK_HOSTS):
        raise Unfit(value, expected)
    if "?" in value or "#" in value:
        raise Unfit(value, expected)
    return str(value)


def brand(value: Any, directory: Path) -> str:
    """The brand of an identity provider (client-server §Client login via SSO)."""
    if not isinstance(value, str) or not re.fullmatch(r"[a-z][a-z0-9_.-]{0,254}", value):
        raise Unfit(value, 'a brand such as "google": a-z, then a-z, 0-9 and . _ -')
    return value


def mxc(value: Any, directory: Path) -> str:
    """The URI of some media (client-server §Matrix Content (mxc://) URIs)."""
    if not isinstance(value, str) or not re.fullmatch(r"mxc://[^/\s?#]+/[A-Za-z0-9_-]+", value):
        raise Unfit(value, 'an address such as "mxc://example.org/abc123"')
    return value


def scope(value: Any, directory: Path) -> str:
    """One scope of OAuth 2.0 (RFC 6749 §3.3)."""
    if not isinstance(value, str) or not re.fullmatch(r"[!#-\[\]-~]+", value):
        raise Unfit(value, 'scopes such as "profile", each by itself and without spaces')
    return value


@dataclass(frozen=True, slots=True)
class Contact:
    """A way to reach those who run the server: a user id, an e-mail address, or both."""

    role: str
    matrix_id: str | None
    email_address: str | None


def contact(value: Any, directory: Path) -> Contact:
    """One of `contacts` (client-server §GET /.well-known/matrix/support)."""
    if not isinstance(value, dict) or not value.keys() <= {"role", "matrix_id", "email_address"}:
        raise Unfit(value, "contacts of a role, a matrix_id and an email_address, each in text: { role = … }")
    role, matrix_id, email_address = value.get("role"), value.get("matrix_id"), value.get("email_address")
    if not isinstance(role, str) or not is_namespaced(role):
        raise Unfit(
            value if role is None else role,
            'a role for each contact: "m.role.admin", "m.role.security" or one of your own',
        )
    if matrix_id is None and email_address is None:
        raise Unfit(value, "a matrix_id or an email_address for each contact")
    if matrix_id is not None and not is_user_id(matrix_id):
        raise Unfit(matrix_id, 'a user id as matrix_id, such as "@admin:example.org"')
    if email_address is not None and not (
        isinstance(email_address, str) and EMAIL_ADDRESS.fullmatch(email_address)
    ):
        raise Unfit(email_address, 'an e-mail address as email_address, such as "admin@example.org"')
    return Contact(role, matrix_id, email_address)


def one_of(*choices: str) -> Reader:
    """A reader of one of a few words."""

    def read(value: Any, directory: Path) -> str:
        if not isinstance(value, str) or value not in choices:
            raise Unfit(value, "one of " + ", ".join(f'"{choice}"' for choice in choices))
        return value

    return read


def whole_number(least: int, most: int) -> Reader:
    """A reader of whole numbers between two bounds, both included."""

    def read(value: Any, directory: Path) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise Unfit(value, f"a whole number from {least} to {most}, without quotes")
        return value

    return read


#: Bounds of a rate: once in three years is never, and more than this is no limit.
LEAST_RATE, MOST_RATE = 1e-8, 1e6


def rate(default: Mapping[str, float]) -> Reader:
    """A reader of a table of `per_second` and `burst`; one that is left out is as in `default`."""
    expected = (
        "a table of per_second (above 0) and burst (at least 1), "
        "such as { per_second = 0.5, burst = 10 }, without quotes"
    )

    def read(value: Any, directory: Path) -> Rate:
        if not isinstance(value, dict) or not value.keys() <= {"per_second", "burst"}:
            raise Unfit(value, expected)
        told = {**default, **value}
        for member, least in (("per_second", LEAST_RATE), ("burst", 1)):
            number = told[member]
            if not isinstance(number, int | float) or isinstance(number, bool):
                raise Unfit(number, expected)
            if not least <= number <= MOST_RATE:
                raise Unfit(number, expected)
        return Rate(float(told["per_second"]), float(told["burst"]))

    return read


def list_of(read_item: Reader, collect: Callable[[list[Any]], Any] = tuple, least: int = 0) -> Reader:
    """A reader of lists of at least `least` items, gathered by `collect`."""

    def read(value: Any, directory: Path) -> Any:
        if not isinstance(value, list) or len(value) < least:
            raise Unfit(value, "a list in square brackets" + (", not empty" if least else ""))
        return collect([read_item(item, directory) for item in value])

    return read


def key(
    read: Reader,
    default: Any,
    meaning: str,
    *,
    secret: bool = False,
    example: Any = None,
    written: str | None = None,
) -> Any:
    """A key of the file. `default` is as it would be written; None means "absent".

    `written` is its name in the file, where Python has no field of that name.
    """
    data = {"read": read, "default": default, "meaning": meaning, "secret": secret, "example": example}
    return field(metadata={**data, "written": written}, repr=not secret)


def section(kind: type[Any], *, many: bool = False, optional: bool = False, named: bool = False) -> Any:
    """A table of the file; `many` makes it an array of tables, `optional` None where it is absent, `named`
    a mapping of tables that the operator names."""
    return field(metadata={"section": kind, "many": many, "optional": optional, "named": named})


def is_section_name(name: str) -> bool:
    """Whether a section may be called so by the operator."""
    return _SECTION_NAME.fullmatch(name) is not None
