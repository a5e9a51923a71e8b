"""aiohttp's HTTP protocol with our bounds, and our words for what is no HTTP.

Owns what happens before a request is a request: the size of its head, the number of
connections, the answer to garbage. Never sees a request that could be parsed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.http import HttpProcessingError

from comity.net.http_response import STALL_SECONDS, WholeResponse, error_response

logger = logging.getLogger(__name__)

Serve = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

#: Bytes of the request line. A sync filter may stand in the query, and a backfill names
#: dozens of events there.
MAX_LINE_BYTES = 32 * 1024

#: Bytes of one header field; X-Matrix and bearer tokens take a few hundred.
MAX_HEADER_BYTES = 8 * 1024

#: Header fields of one request.
MAX_HEADERS = 100

#: Seconds we read and drop what a client still sends after its answer (a body that was too
#: large), so that it sees the answer and not a reset connection.
LINGER_SECONDS = 5.0


class ConnectionCount:
    """The open connections of all listeners together."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.open = 0
        self.full = False  # so that a flood is logged once and not once a connection


class BoundedServer(web.Server):
    """aiohttp's server for one listener, with a bound on connections, which it lacks."""

    def __init__(self, count: ConnectionCount, serve: Serve, keepalive_seconds: float) -> None:
        super().__init__(serve, handler_cancellation=True)
        self._event_loop = asyncio.get_running_loop()
        self._count = count
        self._keepalive_seconds = keepalive_seconds

    def __call__(self) -> web.RequestHandler:
        """The protocol of a new connection."""
        return _Protocol(
            self,
            loop=self._event_loop,
            keepalive_timeout=self._keepalive_seconds,
            max_line_size=MAX_LINE_BYTES,
            max_field_size=MAX_HEADER_BYTES,
            max_headers=MAX_HEADERS,
            lingering_time=LINGER_SECONDS,
            auto_decompress=False,
            access_log=None,  # type: ignore[arg-type]
            logger=logger,
        )

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        count = self._count
        count.open += 1
        if count.open > count.limit:
            if not count.full:
                count.full = True
                logger.warning("%d connections are open, the limit; new ones are refused", count.limit)
            transport.abort()

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        count = self._count
        count.open -= 1
        if count.full and count.open < count.limit * 0.9:
            count.full = False


class _Protocol(web.RequestHandler):
    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what is no HTTP, in our form and without the library's name.

        One quiet line in the log, for any stranger can send garbage, at any rate. Of our own
        errors none comes here: `HttpServer.serve` is the wall.
        """
        if isinstance(exc, HttpProcessingError):
            logger.debug("what a client sent is no HTTP request: %s", type(exc).__name__)
        else:
            logger.error("a connection failed", exc_info=exc)
        text = "That is not a valid HTTP request" if status < 500 else "Internal server error"
        answer = error_response(status, text)
        assert isinstance(answer.body, bytes)
        response = WholeResponse(answer.status, answer.body, answer.headers, STALL_SECONDS)
        response.force_close()
        return response
