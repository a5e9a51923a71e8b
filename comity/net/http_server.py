"""The HTTP server: several listeners on one event loop, all handing to one `handle`.

Owns sockets, TLS, connection limits and the shutdown; `http_protocol` reads, and
`http_response` writes. Never looks at paths: a request goes to `handle` as it came, with
the name of what its listener serves.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path

from comity.net.http_protocol import Answering, Connection, ConnectionCount, Terms
from comity.net.http_request import BODY_GRACE_SECONDS, BodyBudget, BodyLimits, Incoming, Origin, Refused
from comity.net.http_response import (
    STALL_SECONDS,
    error_response,
    internal_error,
    send,
    send_at_once,
)
from comity.net.tls_context import trust_the_system
from comity.ports import AtOnce, Headers, Request, Response, request_id

logger = logging.getLogger(__name__)

Handle = Callable[[Request], Awaitable[Response]]
#: What a listener speaks TLS with.
TlsContext = ssl.SSLContext

#: Seconds a connection may be idle, and in which the head of its next request must have come.
#: More than the 60 s that common reverse proxies keep theirs, so that they close first.
KEEPALIVE_SECONDS = 75.0

#: Open connections over all listeners; every waiting /sync is one. Past that, new ones are cut.
MAX_CONNECTIONS = 20_000

#: Connections the kernel may hold that we have not accepted yet.
BACKLOG = 1024

#: Seconds that requests cancelled at shutdown are given to end.
CANCEL_SECONDS = 2.0

#: How a `bind` that names a Unix socket begins.
_UNIX = "unix:"

#: How the log shows a request whose client went away before the answer.
_CLIENT_GONE = 499


class HttpServer:
    """Listeners that turn HTTP into `ports.Request` and `ports.Response`.

    When a client goes away its `handle` call is cancelled, wherever it waits: so long-polls
    do not leak, and so a `handle` that must finish what it began has to shield it.
    """

    def __init__(
        self,
        handle: Handle,
        *,
        max_body_bytes: int,
        at_once: AtOnce = lambda _request, _waiter: None,
        keepalive_seconds: float = KEEPALIVE_SECONDS,
        max_connections: int = MAX_CONNECTIONS,
        body_grace_seconds: float = BODY_GRACE_SECONDS,
        stall_seconds: float = STALL_SECONDS,
    ) -> None:
        """`max_body_bytes` is the limit past which a body is not read; `at_once` is asked before `handle`
        by plain GETs. The rest are bounds explained at the constants that are their defaults."""
        self._handle = handle
        self._at_once = at_once
        self._limits = BodyLimits(max_body_bytes, body_grace_seconds)
        self._stall_seconds = stall_seconds
        self._budget = BodyBudget()
        self._count = ConnectionCount(max_connections)
        self._keepalive_seconds = keepalive_seconds
        self._listeners: list[_Listener] = []
        self._in_flight: set[asyncio.Task[object]] = set()
        #: Connections with a request that waits for its answer without a task.
        self._parked: set[Connection] = set()
        self._idle = asyncio.Event()
        self._closing = False
        self._request_ids = _request_ids()
        #: Where requests are logged, a task knows how long each took.
        self._logs_requests = logger.isEnabledFor(logging.DEBUG)

    async def listen(self, bind: str, serves: frozenset[str], ssl_context: ssl.SSLContext | None) -> str:
        """Accept connections on `bind`, and return the address with the port that was given.

        `bind` is "127.0.0.1:8008", "[::1]:8008", "localhost:0" or "unix:/run/comity.sock".
        `serves` is handed on in every Request. Raises ValueError on a malformed `bind`,
        OSError when the address cannot be had.
        """
        nameless = "unix" if bind.startswith(_UNIX) else "unknown"
        listener = _Listener(self.terms(Origin(serves, _asks_for_certificate(ssl_context), nameless)))
        try:
            address = await listener.open(bind, ssl_context)
        except BaseException:
            await listener.close()
            raise
        self._listeners.append(listener)
        logger.info(
            "listening on %s (%s) for %s",
            address,
            "plain HTTP" if ssl_context is None else "HTTPS",
            ", ".join(sorted(serves)) or "nothing",
        )
        return address

    async def close(self, grace_seconds: float) -> None:
        """Stop accepting, let the requests in flight finish, then close every connection.

        What has not finished after `grace_seconds` is cancelled.
        """
        self._closing = True
        for listener in self._listeners:
            await listener.stop_accepting()
        try:
            async with asyncio.timeout(grace_seconds):
                while self._in_flight or self._parked:
                    self._idle.clear()
                    await self._idle.wait()
        except TimeoutError:
            left = len(self._in_flight) + len(self._parked)
            logger.warning("%d requests did not finish in time and are cut off", left)
        leftover = list(self._in_flight)
        for task in leftover:
            task.cancel()
        if leftover:
            await asyncio.wait(leftover, timeout=CANCEL_SECONDS)
        for listener in self._listeners:
            await listener.close()
        self._listeners.clear()

    def terms(self, origin: Origin) -> Terms:
        """What connections of a listener are made with."""
        return Terms(
            self._serve, self._take, self._settle, self._look_for_idleness, origin, self._count, self._budget,
            self._limits, self._keepalive_seconds, set(), self._parked,
        )  # fmt: skip

    def _take(self, connection: Connection, target: bytes, headers: Headers) -> bool:
        """Answer a GET, or let it wait, without a task; False if that cannot be."""
        if self._closing or self._logs_requests:
            return False
        path, _, query = target.decode("ascii").partition("?")
        remote, serves = connection.remote, connection.terms.origin.serves
        request = Request("GET", path, query, headers, b"", remote, serves, connection.certificate)
        outcome = self._at_once(request, connection)
        if outcome is None:
            return False
        if not isinstance(outcome, Response):
            connection.park(outcome, target, headers)
        elif send_at_once(connection, outcome):
            connection.answered(may_go_on=True)
        else:
            return False
        return True

    def _settle(self, connection: Connection, response: Response) -> None:
        """Send the answer to a request that waited without a task."""
        if not self._closing and send_at_once(connection, response):
            connection.unpark()
            connection.answered(may_go_on=True)
        else:
            connection.pursue(lambda: _known(response))

    async def _serve(
        self, connection: Connection, item: Incoming | Refused, answering: Answering | None
    ) -> bool:
        """Answer one request, to the last byte; whether the connection may go on."""
        request_id.set(
            next(self._request_ids)
        )  # each request runs in a task, and so in a context, of its own
        task = connection.task
        assert task is not None
        self._in_flight.add(task)
        began = time.monotonic() if logger.isEnabledFor(logging.DEBUG) else None
        status = _CLIENT_GONE
        message = None if isinstance(item, Refused) else item
        try:
            response, closing = await self._answer(connection, item, answering)
            status = response.status
            try:
                return await send(
                    connection, message, response,
                    closing=closing or self._closing, stall_seconds=self._stall_seconds,
                )  # fmt: skip
            except ValueError:
                logger.exception("an answer could not be sent")
                status = 500
                return await send(
                    connection, message, internal_error(), closing=True, stall_seconds=self._stall_seconds
                )
        finally:
            self._in_flight.discard(task)
            self._look_for_idleness()
            if began is not None:
                _log_access(message, status, time.monotonic() - began)

    def _look_for_idleness(self) -> None:
        if self._closing and not self._in_flight and not self._parked:
            self._idle.set()

    async def _answer(
        self, connection: Connection, item: Incoming | Refused, answering: Answering | None
    ) -> tuple[Response, bool]:
        """The answer, and whether the connection must end with it."""
        try:
            if isinstance(item, Refused):
                raise item
            if answering is not None:
                return await answering(), False
            request = item.request(connection.terms.origin, connection.remote, connection.certificate)
            return await self._handle(request), request.body_too_large
        except Refused as refusal:
            return error_response(refusal.status, refusal.text, refusal.headers), True
        except Exception:  # the last wall: whatever it was, the client gets an answer
            logger.exception("a request failed: %s", _told(item))
            return internal_error(), False


class _Listener:
    """One bound address and the connections to it."""

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._server: asyncio.Server | None = None
        self._socket_file: _SocketFile | None = None

    async def open(self, bind: str, ssl_context: ssl.SSLContext | None) -> str:
        loop = asyncio.get_running_loop()
        if bind.startswith(_UNIX):
            path = bind.removeprefix(_UNIX)
            if not path:
                raise ValueError("a unix: listener needs the path of its socket")
            self._server = await loop.create_unix_server(
                lambda: Connection(self._terms), path, ssl=ssl_context, backlog=BACKLOG
            )
            self._socket_file = _SocketFile(Path(path))
            return bind
        host, port = parse_bind(bind)
        self._server = await loop.create_server(
            lambda: Connection(self._terms), host, port, ssl=ssl_context, backlog=BACKLOG
        )
        address, port = self._server.sockets[0].getsockname()[:2]
        return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"

    async def stop_accepting(self) -> None:
        if self._socket_file is not None:
            self._socket_file.remove()  # while the socket lives, its inode cannot be another's
            self._socket_file = None
        if self._server is not None:
            self._server.close()
            self._server = None

    async def close(self) -> None:
        await self.stop_accepting()
        connections = list(self._terms.connections)
        for connection in connections:
            connection.close()
        if connections:
            # A peer that does not take its goodbye is not waited for.
            await asyncio.wait([connection.ended for connection in connections], timeout=CANCEL_SECONDS)
        for connection in connections:
            connection.abort()


class _SocketFile:
    """The file of a Unix socket, to be removed unless another process has put its own there."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode = path.stat().st_ino

    def remove(self) -> None:
        try:
            if self._path.stat().st_ino == self._inode:
                self._path.unlink()
        except FileNotFoundError:
            pass  # someone was faster


def parse_bind(bind: str) -> tuple[str, int]:
    """The host and the port of "host:port" or "[IPv6]:port". Raises ValueError."""
    host, separator, port_text = bind.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{bind!r}: an IPv6 address stands in brackets, as in [::1]:8008")
    is_port = port_text.isascii() and port_text.isdigit() and int(port_text) <= 65535
    if not separator or not host or not is_port:
        raise ValueError(f"{bind!r} is not host:port, [IPv6]:port or unix:/path")
    return host, int(port_text)


def server_ssl_context(
    certificate_path: Path,
    private_key_path: Path,
    request_client_certificate: bool = False,
    client_authorities: Sequence[Path] = (),
) -> ssl.SSLContext:
    """TLS for a listener, from PEM files (the certificate with its chain).

    With `request_client_certificate` a client may present a certificate (server-server
    §Client TLS Certificates) and need not; one it presents must be signed by the system's
    authorities or one of `client_authorities`, or be one of those itself, or the handshake
    fails. Calling `load_cert_chain` on the context renews the certificate for new connections.
    Raises OSError (ssl.SSLError is one) when a file cannot be read or does not fit.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(certificate_path, private_key_path)
    if request_client_certificate:
        context.verify_mode = ssl.CERT_OPTIONAL
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        trust_the_system(context)
        for authority in client_authorities:
            context.load_verify_locations(authority)
    return context


async def _known(response: Response) -> Response:
    """An answer that is there, to be sent in a task."""
    return response


def _asks_for_certificate(context: ssl.SSLContext | None) -> bool:
    return context is not None and context.verify_mode != ssl.CERT_NONE


def _told(item: Incoming | Refused | None) -> str:
    """The method, and the path without the query, where tokens may be."""
    return f"{item.method} {item.path}" if isinstance(item, Incoming) else "what is no request"


def _log_access(message: Incoming | None, status: int, seconds: float) -> None:
    logger.debug("%s %d %.1f ms", _told(message), status, seconds * 1000)


def _request_ids() -> Iterator[str]:
    """Identifiers for the logs: short, and different in each run of the process."""
    run = secrets.token_hex(3)
    return map(f"{run}-{{:x}}".format, itertools.count(1))
