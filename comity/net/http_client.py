"""HTTPS to other servers, and HTTP to places named by URLs: `ports.Transport`, `ports.Outbound`.

Owns what a request is and how its head is written, the time it may take, which redirects are followed
and what is asked twice. Never decides where a server is (discovery does), never signs, and never
interprets an answer. Connections are `client_pool`'s, what goes over one `client_connection`'s.
"""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from yarl import URL

from comity.net.addresses import AddressGuard
from comity.net.client_connection import BrokenOff, Connection, Disconnected, HandshakeFailed
from comity.net.client_pool import (
    AddressNotAllowed,
    ConnectFailed,
    ConnectTimedOut,
    NameNotFound,
    Place,
    Pool,
)
from comity.net.http_answer import IncomingAnswer, NoHttp, TooLarge
from comity.net.lookup import Lookup, SystemLookup
from comity.net.tls_context import client_ssl_context
from comity.net.transport_errors import explain
from comity.net.urls import is_host, read_url, redirected, where_is
from comity.ports import NO_HEADERS, Answer, Endpoint, TransportError

logger = logging.getLogger(__name__)

#: Seconds for TCP and TLS to one address, before the next address of the name is tried.
CONNECT_SECONDS = 15.0

#: And of the time that a request has, this share at most: so that something is left for the
#: server's next place where the first does not answer at all.
CONNECT_SHARE = 0.5

#: Redirects followed by `get_url`; server discovery and media need one or two.
MAX_REDIRECTS = 5

#: What may be repeated without harm when the connection broke (RFC 9110 §9.2.2).
_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})

_REDIRECTS = frozenset({301, 302, 303, 307, 308})

#: What may be asked again at another place because an answer says so.
_REDIRECTED_METHODS = frozenset({"GET", "HEAD"})

#: Headers that are for the place named alone, and not for where it sends us on to.
_PRIVATE_HEADERS = frozenset({"authorization", "cookie", "proxy-authorization"})

#: Headers that say how a request stands on the wire: that is said here, and by nobody else.
_OWN_HEADERS = frozenset(
    {"host", "content-length", "transfer-encoding", "connection", "expect", "upgrade", "te", "trailer"}
)

#: Methods whose requests have a body as a rule: of these it is said when there is none (RFC 9110 §8.6).
_WITH_BODY = frozenset({"POST", "PUT", "PATCH", "DELETE"})

#: Printable ASCII without space and `#`: what may stand in a request line unquoted.
_TARGET = re.compile(r"/[!-\"$-~]*")

#: A head: tokens (RFC 9110 §5.6.2) where they belong, and no control character but the tab in a value.
_HEAD = re.compile(
    r"[!#$%&'*+.^_`|~0-9A-Za-z-]+ /[!-\"$-~]* HTTP/1\.1\r\n"
    r"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+: [^\x00-\x08\x0a-\x1f\x7f]*\r\n)+\r\n"
)


@dataclass(slots=True)
class _Exchange:
    """One request, and how far it came: whether its head was written."""

    method: str
    place: Place
    host_header: str
    target: str
    headers: Mapping[str, str]
    body: bytes | None
    max_bytes: int
    connect_seconds: float
    #: Where a URL is asked, that one.
    url: URL | None = None
    reached: bool = False

    @property
    def where(self) -> str:
        return where_is(self.place.host, self.place.port)

    @property
    def tls_name(self) -> str:
        return self.place.tls_name or self.place.host

    def go_on_to(self, url: URL) -> None:
        """Follow a redirect; what is secret between us and one place is not for another."""
        if self.url is None or url.origin() != self.url.origin():
            self.headers = {
                name: value for name, value in self.headers.items() if name.lower() not in _PRIVATE_HEADERS
            }
        self.url, self.place = url, _place_of(url)
        self.host_header, self.target = url.host_port_subcomponent or "", url.raw_path_qs

    def failed(self, text: str, *, tls: bool = False) -> TransportError:
        return TransportError(text, reached=self.reached, tls=tls)

    def head(self, user_agent: str) -> bytes:
        """The request line and the header. Raises ValueError for what must not stand in them."""
        fields = [("Host", self.host_header)]
        # Identity: what others compress costs us time, and may be small only on the wire.
        # A server that compresses all the same is read, within `max_bytes` of plain text.
        ours = {
            "accept": ("Accept", "*/*"),
            "accept-encoding": ("Accept-Encoding", "identity"),
            "user-agent": ("User-Agent", user_agent),
        }
        for name, value in self.headers.items():
            lower = name.lower()
            if lower not in _OWN_HEADERS:
                ours.pop(lower, None)
                fields.append((name, value))
        fields += ours.values()
        if self.body is not None or self.method in _WITH_BODY:
            fields.append(("Content-Length", str(len(self.body or b""))))
        text = f"{self.method} {self.target} HTTP/1.1\r\n"
        text += "".join([f"{name}: {value}\r\n" for name, value in fields]) + "\r\n"
        if (
            not _TARGET.fullmatch(f"/{self.host_header}")
            or not _HEAD.fullmatch(text)
            or text.count("\n") != len(fields) + 2
        ):
            raise ValueError("a request line or a header that must not be sent")
        return text.encode()


class HttpsTransport:
    """`ports.Transport` and `ports.Outbound`: `open` before the first request, `close` after the last."""

    def __init__(
        self,
        *,
        trusted_ca: Sequence[Path],
        verify_certificates: bool,
        allow_ranges: Sequence[str],
        user_agent: str,
        client_certificate: tuple[Path, Path] | None = None,
        lookup: Lookup | None = None,
    ) -> None:
        """`trusted_ca` are PEM files beside the system's authorities; `allow_ranges` CIDR strings.

        `client_certificate` is a certificate with its chain, and its key, both PEM files;
        `lookup` finds addresses in the place of the system's resolver. Raises ValueError on
        a malformed range.
        """
        self._trusted_ca = list(trusted_ca)
        self._verify_certificates = verify_certificates
        self._guard = AddressGuard(allow_ranges)
        self._user_agent = user_agent
        self._client_certificate = client_certificate
        self._lookup = lookup
        self._pool: Pool | None = None

    async def open(self) -> None:
        """Read the certificates and get ready. Raises OSError when a file cannot be used."""
        context = await asyncio.to_thread(
            client_ssl_context, self._trusted_ca, self._client_certificate, verify=self._verify_certificates
        )
        if self._lookup is None:
            self._lookup = SystemLookup()
        if not self._verify_certificates:
            logger.warning("certificates of other servers are not verified: anyone can pose as them")
        self._pool = Pool(context, self._guard, self._lookup)

    async def close(self) -> None:
        """Close all connections; exchanges under way fail."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close()

    async def request(
        self,
        method: str,
        endpoint: Endpoint,
        target: str,
        *,
        headers: Mapping[str, str],
        body: bytes | None = None,
        timeout: float,
        max_bytes: int,
    ) -> Answer:
        """See `ports.Transport.request`."""
        where = where_is(endpoint.host, endpoint.port)
        if not _TARGET.fullmatch(target) or target.endswith("?"):
            raise TransportError(f"the path for {where} is not percent-encoded")
        if not (is_host(endpoint.host) and is_host(endpoint.tls_name)):
            raise TransportError(f"{where} ({endpoint.tls_name}) is no valid host name")
        if not 0 < endpoint.port < 65_536:
            raise TransportError(f"{where} is no address to connect to")
        exchange = _Exchange(
            method, Place(endpoint.host, endpoint.port, endpoint.tls_name), endpoint.host_header, target,
            headers, body, max_bytes, connect_seconds=min(CONNECT_SECONDS, CONNECT_SHARE * timeout),
        )  # fmt: skip
        try:
            async with asyncio.timeout(timeout):
                return await self._attempt(exchange)
        except TimeoutError as error:
            raise _timed_out(exchange, timeout) from error

    async def get_url(self, url: str, *, timeout: float, max_bytes: int) -> Answer:
        """See `ports.Transport.get_url`; the address is checked anew after each redirect."""
        return await self.request_url(
            "GET", url, timeout=timeout, max_bytes=max_bytes, max_redirects=MAX_REDIRECTS
        )

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
        """See `ports.Outbound.request_url`; the address is checked anew after each redirect."""
        current = read_url(url, plain_http=plain_http)
        exchange = _Exchange(
            method, _place_of(current), current.host_port_subcomponent or "", current.raw_path_qs,
            headers, body, max_bytes, connect_seconds=min(CONNECT_SECONDS, timeout), url=current,
        )  # fmt: skip
        follows = max_redirects if method in _REDIRECTED_METHODS else 0
        try:
            async with asyncio.timeout(timeout):
                for _ in range(follows + 1):
                    answer = await self._attempt(exchange)
                    location = answer.headers.get("location")
                    if answer.status not in _REDIRECTS or location is None or not follows:
                        return replace(answer, url=str(exchange.url))
                    exchange.go_on_to(_redirected(exchange, location, plain_http))
        except TimeoutError as error:
            raise _timed_out(exchange, timeout) from error
        raise exchange.failed(f"more than {max_redirects} redirects, the last to {exchange.where}")

    async def _attempt(self, exchange: _Exchange) -> Answer:
        """One exchange, and a second on a fresh connection if a kept one turned out dead.

        A server may close an idle connection in the moment we write to it. Nothing having
        come back, an idempotent request is sent once more; any other is the caller's call.
        """
        pool, place = self._pool, exchange.place
        if pool is None:
            raise exchange.failed("the transport is not open")
        try:
            head = exchange.head(self._user_agent)
            await pool.enter(place)
            try:
                kept = pool.kept(place)
                if kept is not None:
                    try:
                        return await _perform(pool, kept, exchange, head)
                    except Disconnected as broken:
                        if exchange.method not in _IDEMPOTENT:
                            raise
                        logger.debug("a kept connection to %s had ended: %s", exchange.where, broken)
                fresh = await pool.connect(place, exchange.connect_seconds)
                return await _perform(pool, fresh, exchange, head)
            finally:
                pool.leave(place)
        except TooLarge as error:
            text = f"the answer of {exchange.where} is over {exchange.max_bytes} bytes"
            raise exchange.failed(text) from error
        except _FAILURES as error:
            tls = isinstance(error, HandshakeFailed | ssl.SSLError)
            raise exchange.failed(explain(error, exchange.where, exchange.tls_name), tls=tls) from error


#: What may go wrong with an exchange; ValueError is a header that must not be sent.
_FAILURES = (
    NameNotFound, AddressNotAllowed, ConnectFailed, ConnectTimedOut, HandshakeFailed, Disconnected, BrokenOff,
    NoHttp, ssl.SSLError, ValueError,
)  # fmt: skip


async def _perform(pool: Pool, connection: Connection, exchange: _Exchange, head: bytes) -> Answer:
    """One exchange on a connection, which is kept behind it if it may be. Raises what `ask` raises."""
    incoming = IncomingAnswer(exchange.method, exchange.max_bytes)
    if not connection.is_over:
        exchange.reached = True
    await connection.ask(head, exchange.body or b"", incoming)
    pool.keep(exchange.place, connection)
    return incoming.answer(connection.certificate)


def _place_of(url: URL) -> Place:
    host = url.raw_host or ""
    return Place(host, url.port or 443, host if url.scheme == "https" else None)


def _timed_out(exchange: _Exchange, seconds: float) -> TransportError:
    if exchange.reached:
        return exchange.failed(f"no whole answer from {exchange.where} within {seconds:g} s")
    return exchange.failed(f"could not connect to {exchange.where} within {seconds:g} s")


def _redirected(exchange: _Exchange, location: str, plain_http: bool) -> URL:
    """Where a redirect leads. Raises TransportError."""
    try:
        assert exchange.url is not None
        return redirected(exchange.url, location, plain_http=plain_http)
    except (ValueError, TransportError) as error:
        raise exchange.failed(f"{exchange.where} redirects to where we do not follow: {error}") from error
