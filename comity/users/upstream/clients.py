"""Addresses of apps that are let in by a login token: which may be, which are trusted. Pure.

client-server §Client login via SSO. Owns the shape of `redirectUrl`; gives no token out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import quote, unquote_plus, urlencode, urlsplit

from comity.protocol.errors import invalid_param

#: The query parameter in which an app is given its login token.
TOKEN = "loginToken"  # noqa: S105 - a name
#: Characters of an address: apps carry a state in it, of some hundreds.
MAX_REDIRECT_CHARACTERS = 4_000
#: What a browser would run, or read from its own machine, instead of going there.
_REFUSED_SCHEMES = frozenset(
    {"javascript", "data", "vbscript", "file", "blob", "filesystem", "about", "view-source", "intent"}
)
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
#: A host as browsers write it, with its port: nothing that could end it in a policy, or be misread.
_NETLOC = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
#: What stands in a URL as it is; the rest is percent-encoded.
_URL_CHARACTERS = "!#$%&'()*+,-./:;=?@[]_~"


def checked_redirect(url: str) -> str:
    """An address that a browser may be sent to with a login token. Raises 400 M_INVALID_PARAM."""
    if len(url) > MAX_REDIRECT_CHARACTERS or not url.isprintable() or "\\" in url:
        raise invalid_param("redirectUrl is too long, or no URL")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise invalid_param("redirectUrl is no URL") from None
    if not _SCHEME.fullmatch(parts.scheme) or parts.scheme in _REFUSED_SCHEMES:
        raise invalid_param("redirectUrl is no URL of an app")
    # Nor a user name: "https://good.example@evil.example/" is meant to be misread.
    if parts.scheme in ("http", "https") and (not _NETLOC.fullmatch(parts.netloc) or port == 0):
        raise invalid_param("redirectUrl names no host")
    return quote(url, safe=_URL_CHARACTERS)


def where(url: str) -> str:
    """What people are shown of an address that was checked: the host, or the app's scheme."""
    parts = urlsplit(url)
    return parts.netloc if parts.scheme in ("http", "https") else f"{parts.scheme}:"


def form_target(url: str) -> str:
    """The source (of a Content-Security-Policy) that covers an address that was checked."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}" if parts.scheme in ("http", "https") else f"{parts.scheme}:"


def is_trusted(url: str, trusted: Sequence[str]) -> bool:
    """Whether an address that was checked is one of `trusted`, or below one of them."""
    return any(_is_below(url, base) for base in trusted)


def _is_below(url: str, base: str) -> bool:
    found, wanted = urlsplit(url), urlsplit(base)
    if (found.scheme, found.hostname, found.port) != (wanted.scheme, wanted.hostname, wanted.port):
        return False
    # Browsers resolve these before they go there.
    if any(part in ("..", ".", "%2e%2e", ".%2e", "%2e.", "%2e") for part in found.path.lower().split("/")):
        return False
    above, path = wanted.path.rstrip("/"), found.path or "/"
    return path.rstrip("/") == above or path.startswith(above + "/")


def with_token(url: str, token: str) -> str:
    """An address that was checked, with the login token as its only `loginToken`."""
    # By hand: taken apart and put together again, "app:///x" would become "app:/x".
    front, mark, fragment = url.partition("#")
    address, _, query = front.partition("?")
    kept = [pair for pair in query.split("&") if pair and unquote_plus(pair.partition("=")[0]) != TOKEN]
    return f"{address}?{'&'.join([*kept, urlencode({TOKEN: token})])}{mark}{fragment}"
