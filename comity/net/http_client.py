"""HTTPS to other servers, and HTTP to places named by URLs: `ports.Transport`, `ports.Outbound` on aiohttp.

Owns connections, TLS, the pool and its bounds, and the rule that the very address that is
connected to must be allowed (`addresses`). Never decides where a server is (discovery
does), never signs, and never interprets an answer.
"""

from __future__ import annotations

import asyncio
import io
import logging
import re
import socket
import ssl
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from weakref import WeakSet

import aiohttp
from aiohttp import ClientHandlerType, ClientRequest, ClientResponse
from aiohttp.abc import AbstractResolver
from aiohttp.connector import Connection
from yarl import URL

from comity.net.addresses import AddressGuard
from comity.net.lookup import SystemLookup
from comity.net.transport_errors import AddressNotAllowed, explain
from comity.net.urls import is_host, read_url, redirected, where_is
from comity.ports import NO_HEADERS, Answer, Endpoint, TransportError

logger = logging.getLogger(__name__)

#: Exchanges at once, connecting ones included; the others wait within their time.
MAX_CONNECTIONS = 512

#: Exchanges at once with one endpoint, so that a slow server cannot take all places.
MAX_CONNECTIONS_PER_ENDPOINT = 16

#: Connections at once for second attempts, which take no connection from the pool.
MAX_FRESH_CONNECTIONS = 64

#: Seconds an idle connection is kept: a new one costs three times the processor of a whole exchange
#: on a kept one, and a message a minute in a room must not cost new ones to all of its servers. Most
#: servers keep theirs longer (75 s); see `_attempt` for what happens when not.
KEEPALIVE_SECONDS = 60.0

#: Connections that are open when no further one is kept: 46 KiB each, most of it TLS, 180 MiB in all.
#: One to each server of the largest rooms; past it, connections are closed after the exchange.
MAX_KEPT_CONNECTIONS = 4_000

#: Seconds for TCP and TLS to one address, before the next address of the name is tried.
CONNECT_SECONDS = 15.0

#: And of the time that a request has, this share at most: so that something is left for the
#: server's next place where the first does not answer at all.
CONNECT_SHARE = 0.5

#: Seconds before a second address (IPv4 beside IPv6) is tried along with the first (RFC 8305).
HAPPY_EYEBALLS_SECONDS = 0.25

#: Seconds for which a name's addresses are remembered. The guard looks at the address that
#: is connected to, so remembering changes nothing for it.
ADDRESS_CACHE_SECONDS = 30

#: Names whose addresses are remembered.
MAX_CACHED_NAMES = 10_000

#: Bytes of an answer's status line and of one header field, and the fields of one answer.
MAX_LINE_BYTES = 8 * 1024
MAX_HEADER_BYTES = 8 * 1024
MAX_HEADERS = 100

#: Redirects followed by `get_url`; server discovery and media need one or two.
MAX_REDIRECTS = 5

#: From this size a body is handed over in pieces, so that the loop can do other things.
_WHOLE_BODY_BYTES = 512 * 1024

#: What may be repeated without harm when the connection broke (RFC 9110 §9.2.2).
_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})

_REDIRECTS = frozenset({301, 302, 303, 307, 308})

#: What may be asked again at another place because an answer says so.
_REDIRECTED_METHODS = frozenset({"GET", "HEAD"})

#: Headers that are for the place named alone, and not for where it sends us on to.
_PRIVATE_HEADERS = frozenset({"authorization", "cookie", "proxy-authorization"})

#: Printable ASCII without space and `#`: what may stand in a request line unquoted.
_TARGET = re.compile(r"/[!-\"$-~]*")


@dataclass(slots=True)
class _Exchange:
    """One request, and how far it came: whether its head was written, and on what connection."""

    method: str
    url: URL
    tls_name: str
    headers: Mapping[str, str]
    body: bytes | None
    max_bytes: int
    connect_seconds: float = CONNECT_SECONDS
    reached: bool = False
    reused: bool = False
    #: Whether its connection is kept after it.
    kept: bool = True
    #: The DER of what the peer proved itself with, once there is a connection.
    peer_certificate: bytes | None = None

    @property
    def where(self) -> str:
        return where_is(self.url.raw_host or "", self.url.port or 443)

    def go_on_to(self, url: URL) -> None:
        """Follow a redirect; what is secret between us and one place is not for another."""
        if url.origin() != self.url.origin():
            self.headers = {
                name: value for name, value in self.headers.items() if name.lower() not in _PRIVATE_HEADERS
            }
        self.url, self.tls_name, self.peer_certificate = url, url.raw_host or "", None

    def failed(self, text: str, *, tls: bool = False) -> TransportError:
        return TransportError(text, reached=self.reached, tls=tls)


#: The exchange that a task is at, for `_Request`.
_current: ContextVar[_Exchange] = ContextVar("_current")


class _Request(ClientRequest):
    """aiohttp's request, which notes the certificate of the connection that it is sent on, and says
    whether that is kept.

    The answer does not know its connection any more once it has come whole.
    """

    async def send(self, conn: Connection) -> ClientResponse:
        transport = conn.transport
        tls = None if transport is None else transport.get_extra_info("ssl_object")
        if isinstance(tls, ssl.SSLObject | ssl.SSLSocket):
            _current.get().peer_certificate = tls.getpeercert(binary_form=True)
        if conn.protocol is not None and not _current.get().kept:
            conn.protocol.force_close()
        return await super().send(conn)


class _CountedSocket(socket.socket):
    """A socket that is in a set until it is closed, however long somebody holds it."""

    def __init__(self, open_ones: WeakSet[socket.socket], family: int, kind: int, protocol: int) -> None:
        super().__init__(family, kind, protocol)
        self._open_ones = open_ones
        open_ones.add(self)

    def close(self) -> None:
        self._open_ones.discard(self)
        super().close()

    def detach(self) -> int:
        self._open_ones.discard(self)
        return super().detach()


class _Broken(Exception):
    """The connection ended before any answer; `args[0]` is the library's error."""


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
        lookup: AbstractResolver | None = None,
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
        self._pooled: aiohttp.ClientSession | None = None
        self._fresh: aiohttp.ClientSession | None = None
        self._sockets: WeakSet[socket.socket] = WeakSet()

    async def open(self) -> None:
        """Read the certificates and get ready. Raises OSError when a file cannot be used."""
        context = await asyncio.to_thread(
            client_ssl_context, self._trusted_ca, self._client_certificate, verify=self._verify_certificates
        )
        if self._lookup is None:
            self._lookup = SystemLookup()
        if not self._verify_certificates:
            logger.warning("certificates of other servers are not verified: anyone can pose as them")
        self._pooled = self._session(self._connector(context, MAX_CONNECTIONS, pooled=True))
        self._fresh = self._session(self._connector(context, MAX_FRESH_CONNECTIONS, pooled=False))

    async def close(self) -> None:
        """Close all connections; exchanges under way fail."""
        for session in (self._pooled, self._fresh):
            if session is not None:
                await session.close()
        self._pooled = self._fresh = None

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
        try:
            url = URL(f"https://{where}{target}", encoded=True)
        except ValueError as error:
            raise TransportError(f"{where} is no address to connect to") from error
        exchange = _Exchange(
            method, url, endpoint.tls_name, {**headers, "Host": endpoint.host_header}, body, max_bytes,
            connect_seconds=min(CONNECT_SECONDS, CONNECT_SHARE * timeout),
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
            method, current, current.raw_host or "", headers, body, max_bytes,
            connect_seconds=min(CONNECT_SECONDS, timeout),
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
        if self._pooled is None or self._fresh is None:
            raise exchange.failed("the transport is not open")
        exchange.reused = False
        exchange.kept = len(self._sockets) < MAX_KEPT_CONNECTIONS
        try:
            try:
                return await _perform(self._pooled, exchange)
            except _Broken as broken:
                if not exchange.reused or exchange.method not in _IDEMPOTENT:
                    raise
                logger.debug("a kept connection to %s had ended: %s", exchange.where, broken)
            return await _perform(self._fresh, exchange)
        except _Broken as broken:
            raise exchange.failed(explain(broken.args[0], exchange.where, exchange.tls_name)) from broken
        except (aiohttp.ClientError, ssl.SSLError, ConnectionError) as error:
            tls = isinstance(error, aiohttp.ClientSSLError | ssl.SSLError)
            raise exchange.failed(explain(error, exchange.where, exchange.tls_name), tls=tls) from error
        except (ValueError, RuntimeError) as error:
            # A header the library refuses to send, or the transport being closed meanwhile.
            logger.debug("an exchange with %s could not be held", exchange.where, exc_info=True)
            raise exchange.failed(explain(error, exchange.where, exchange.tls_name)) from error

    def _session(self, connector: aiohttp.BaseConnector) -> aiohttp.ClientSession:
        trace: aiohttp.TraceConfig = aiohttp.TraceConfig()
        trace.on_connection_reuseconn.append(_on_reused)
        trace.on_request_headers_sent.append(_on_headers_sent)
        return aiohttp.ClientSession(
            connector=connector,
            request_class=_Request,
            cookie_jar=aiohttp.DummyCookieJar(),
            # Identity: what others compress costs us time, and may be small only on the wire.
            # A server that compresses all the same is read, within `max_bytes` of plain text.
            headers={"User-Agent": self._user_agent, "Accept-Encoding": "identity"},
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
            trust_env=False,
            max_line_size=MAX_LINE_BYTES,
            max_field_size=MAX_HEADER_BYTES,
            max_headers=MAX_HEADERS,
            trace_configs=[trace],
            middlewares=(_no_silent_retry,),
        )

    def _connector(self, context: ssl.SSLContext, limit: int, *, pooled: bool) -> aiohttp.TCPConnector:
        return aiohttp.TCPConnector(
            ssl=context,
            resolver=self._lookup,
            ttl_dns_cache=ADDRESS_CACHE_SECONDS,
            dns_cache_max_size=MAX_CACHED_NAMES,
            socket_factory=self._allowed_socket,
            limit=limit,
            limit_per_host=MAX_CONNECTIONS_PER_ENDPOINT,
            happy_eyeballs_delay=HAPPY_EYEBALLS_SECONDS,
            force_close=not pooled,
            keepalive_timeout=KEEPALIVE_SECONDS if pooled else None,
        )

    def _allowed_socket(self, info: aiohttp.AddrInfoType) -> socket.socket:
        """A socket for the address about to be connected to: here the guard stands.

        Every connection comes by, whether its address was looked up, remembered, or a
        literal; so a name that answers differently the second time gains nothing.
        """
        family, kind, protocol, _, address = info
        if not self._guard.allows(str(address[0])):
            raise AddressNotAllowed(str(address[0]))
        return _CountedSocket(self._sockets, family, kind, protocol)


def client_ssl_context(
    trusted_ca: Sequence[Path], client_certificate: tuple[Path, Path] | None, *, verify: bool = True
) -> ssl.SSLContext:
    """What other servers are held to: TLS 1.2 or newer, and a certificate for their name by the system's
    authorities or one of `trusted_ca`.

    `client_certificate` is shown to those who ask. Raises OSError when a file cannot be used.
    """
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.hostname_checks_common_name = False
    context.set_alpn_protocols(["http/1.1"])
    # What the operator names is trusted, also where it is no authority but a server's certificate.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    for authority in trusted_ca:
        context.load_verify_locations(authority)
    if client_certificate is not None:
        context.load_cert_chain(*client_certificate)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


async def _perform(session: aiohttp.ClientSession, exchange: _Exchange) -> Answer:
    data: bytes | io.BytesIO | None = exchange.body
    if isinstance(data, bytes) and len(data) > _WHOLE_BODY_BYTES:
        data = io.BytesIO(data)
    _current.set(exchange)
    async with session.request(
        exchange.method,
        exchange.url,
        headers=exchange.headers,
        data=data,
        allow_redirects=False,
        # Part of the pool's key (since aiohttp 3.14.1): no name is served by another's connection.
        server_hostname=exchange.tls_name,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=exchange.connect_seconds),
        trace_request_ctx=exchange,
    ) as response:
        body = await _bounded(response, exchange)
        headers: dict[str, str] = {}
        for name, value in response.headers.items():
            name = name.lower()
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        return Answer(response.status, headers, body, exchange.peer_certificate)


async def _bounded(response: ClientResponse, exchange: _Exchange) -> bytes:
    """The body of `response`, or TransportError as soon as it is over `max_bytes`."""
    too_large = f"the answer of {exchange.where} is over {exchange.max_bytes} bytes"
    if (response.content_length or 0) > exchange.max_bytes:
        raise exchange.failed(too_large)
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > exchange.max_bytes:
            raise exchange.failed(too_large)
        chunks.append(chunk)
    return b"".join(chunks)


async def _no_silent_retry(request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
    """Take a broken connection out of the library's own hands.

    It would retry on whatever connection the pool has next, fresh or not; `_attempt` does
    it by our rule. Errors of connecting are not touched.
    """
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise _Broken(error) from error


async def _on_reused(
    _session: aiohttp.ClientSession, context: SimpleNamespace, _: aiohttp.TraceConnectionReuseconnParams
) -> None:
    context.trace_request_ctx.reused = True


async def _on_headers_sent(
    _session: aiohttp.ClientSession, context: SimpleNamespace, _: aiohttp.TraceRequestHeadersSentParams
) -> None:
    context.trace_request_ctx.reached = True


def _timed_out(exchange: _Exchange, seconds: float) -> TransportError:
    if exchange.reached:
        return exchange.failed(f"no whole answer from {exchange.where} within {seconds:g} s")
    return exchange.failed(f"could not connect to {exchange.where} within {seconds:g} s")


def _redirected(exchange: _Exchange, location: str, plain_http: bool) -> URL:
    """Where a redirect leads. Raises TransportError."""
    try:
        return redirected(exchange.url, location, plain_http=plain_http)
    except (ValueError, TransportError) as error:
        raise exchange.failed(f"{exchange.where} redirects to where we do not follow: {error}") from error
