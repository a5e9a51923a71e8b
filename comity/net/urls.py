"""URLs that strangers write, read before anything is asked of them.

Owns which URLs are asked at all, and where a redirect may lead. Never resolves a name and never opens
a socket: whether an address may be connected to is `addresses`' affair, when it is known.
"""

from __future__ import annotations

import re
from functools import lru_cache

from yarl import URL

from comity.ports import TransportError

#: Characters of a URL, and of one that a redirect names; those of signed media URLs take a thousand.
MAX_URL_LENGTH = 4 * 1024

#: Printable ASCII without space: what may stand in a request line unquoted.
_SAFE_URL = re.compile(r"[!-~]*")


def read_url(text: str, *, plain_http: bool = False) -> URL:
    """`text` as an https URL with a host; as written if it may be sent so, else quoted.

    An http one will do with `plain_http`. Raises TransportError.
    """
    if len(text) > MAX_URL_LENGTH:
        raise TransportError("the URL is too long")
    try:
        url = URL(text, encoded=_SAFE_URL.fullmatch(text) is not None)
        port = url.port
    except ValueError as error:
        raise TransportError("that is not a valid URL") from error
    schemes = ("https", "http") if plain_http else ("https",)
    if url.scheme not in schemes or not url.raw_host or not port:
        raise TransportError(
            f"only {' and '.join(schemes)} URLs are fetched, not {url.scheme or 'relative'} ones"
        )
    if not is_host(url.raw_host):
        raise TransportError("the host of that URL is no valid host name")
    if url.raw_user is not None or url.raw_password is not None:
        raise TransportError("a URL with a user name or password in it is not fetched")
    return url


#: Characters of a host whose shape is remembered (no name in the DNS has more), and how many are.
MAX_HOST_CHARACTERS, MAX_HOSTS = 254, 10_000


def redirected(current: URL, location: str, *, plain_http: bool = False) -> URL:
    """Where a redirect leads from `current`; never from https to http. Raises TransportError, ValueError."""
    if len(location) > MAX_URL_LENGTH:
        raise TransportError("the URL is too long")
    target = current.join(URL(location, encoded=_SAFE_URL.fullmatch(location) is not None))
    return read_url(str(target), plain_http=plain_http and current.scheme == "http")


def is_host(text: str) -> bool:
    """Whether `text` is an IP literal or has the shape of a host name, one TLS would take."""
    return _known_host(text) if len(text) <= MAX_HOST_CHARACTERS else _has_shape(text)


@lru_cache(MAX_HOSTS)
def _known_host(text: str) -> bool:
    return _has_shape(text)


def _has_shape(text: str) -> bool:
    if not (text.isascii() and text.isprintable()):
        return False
    return all(0 < len(label) < 64 for label in text.removesuffix(".").split("."))


def where_is(host: str, port: int) -> str:
    """A host and port in one text, as in a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
