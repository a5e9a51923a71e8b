"""One HTTP/1.1 connection: bytes in, one request after the other, bytes out.

Owns the parser (httptools, which is llhttp), the queue of requests that a client sends ahead, and
what may be waited for: a head, a body, the client's taking an answer. What is no HTTP gets an answer
in our words. It never looks at what a request asks: `serve` does.
"""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import cast

import httptools

from comity.net.http_request import NO_HTTP, BodyBudget, BodyLimits, Incoming, Origin, Refused
from comity.ports import Headers, Response, Waiting

logger = logging.getLogger(__name__)

#: Bytes that a head may take in all, those of its request line included.
MAX_HEAD_BYTES = 128 * 1024

#: Requests that a client may send ahead while one is answered; browsers and proxies send none.
MAX_SENT_AHEAD = 100

#: Seconds we read and drop what a client still sends after its answer (a body that was too
#: large), so that it sees the answer and not a reset connection.
LINGER_SECONDS = 5.0

#: Bytes of headers that are remembered of a connection, beside what they came to.
MAX_KNOWN_BYTES = 4 * 1024

#: The request line of what may be a repetition of the last request but for its target; what has other
#: characters in its target is the parser's.
_LINE = re.compile(rb"GET (/[\w\-.~:/?@!$&'()*+,;=%]{0,4000}) HTTP/1\.1\r\n", re.ASCII)
_HEAD_END = b"\r\n\r\n"

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class ConnectionCount:
    """The open connections of all listeners together."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.open = 0
        self.full = False  # so that a flood is logged once and not once a connection

    def came(self) -> bool:
        """One more; whether there is room for it."""
        self.open += 1
        if self.open <= self.limit:
            return True
        if not self.full:
            self.full = True
            logger.warning("%d connections are open, the limit; new ones are refused", self.limit)
        return False

    def went(self) -> None:
        """One less."""
        self.open -= 1
        if self.full and self.open < self.limit * 0.9:
            self.full = False


#: What gives the answer to a request in the end.
Answering = Callable[[], Awaitable[Response]]
#: Answers a request, or tells why there is none; whether the connection may go on. What gives the answer is
#: known where the request waited without a task before.
Serve = Callable[["Connection", "Incoming | Refused", Answering | None], Awaitable[bool]]
#: Answers a GET with that target and these headers, or lets it wait, without a task; False: neither.
Take = Callable[["Connection", bytes, Headers], bool]


@dataclass(frozen=True, slots=True)
class Terms:
    """What the connections of one listener have in common."""

    serve: Serve
    take: Take
    #: Sends the answer to a request that waited without a task.
    settle: Callable[[Connection, Response], None]
    #: Told when one who waited without a task is gone.
    gone: Callable[[], None]
    origin: Origin
    count: ConnectionCount
    budget: BodyBudget
    limits: BodyLimits
    #: Seconds a connection may be idle, and in which the head of its next request must have come.
    keepalive_seconds: float
    #: Every connection that is open, and those of all listeners whose request waits without a task.
    connections: set[Connection]
    parked: set[Connection]


class Connection(asyncio.Protocol):
    """One connection. Its methods named `on_…` are the parser's to call."""

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        #: None once nothing more is read from this connection.
        self._parser: httptools.HttpRequestParser | None = None
        self._incoming: Incoming | None = None
        #: Bytes of the present head, and when it was whole.
        self._head_bytes, self._body_began = 0, 0.0
        #: Bytes that came just now and belong to bodies, and to heads that are whole.
        self._spent = 0
        self._refusal: Refused | None = None
        #: The last request that became whole.
        self._whole: Incoming | None = None
        #: The raw headers of an earlier request, and what they are: most clients send the same with each.
        self._known: tuple[bytes, Headers] | None = None
        #: Requests that are whole and wait for those before them.
        self._waiting: deque[Incoming | Refused] = deque()
        self._task: asyncio.Task[None] | None = None
        #: The request that waits for its answer without a task, and its target and headers.
        self._parked: tuple[Waiting, bytes, Headers] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._is_full = self._is_paused = False
        self._idle_until = 0.0
        self._idle_timer: asyncio.TimerHandle | None = None
        self._body_timer: asyncio.TimerHandle | None = None
        #: Done once the connection has ended.
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self.remote = terms.origin.nameless
        self.certificate: bytes | None = None

    # -- the transport's

    def connection_made(self, base: asyncio.BaseTransport) -> None:
        # uvloop's are none by their class.
        transport = self._transport = cast("asyncio.Transport", base)
        if not self.terms.count.came():
            transport.abort()
            return
        self.terms.connections.add(self)
        self._parser = httptools.HttpRequestParser(self)
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple) and peer:
            self.remote = str(peer[0])
        if self.terms.origin.asks_certificate:
            tls = transport.get_extra_info("ssl_object")
            if isinstance(tls, (ssl.SSLObject, ssl.SSLSocket)):
                self.certificate = tls.getpeercert(binary_form=True)
        self._await_head()
        self._idle_timer = self._loop.call_later(self.terms.keepalive_seconds, self._look_for_idleness)

    def connection_lost(self, error: BaseException | None) -> None:
        self.terms.count.went()
        self.terms.connections.discard(self)
        self.ended.set_result(None)
        self._transport = self._parser = None
        self._drop_incoming()
        for item in self._waiting:
            if isinstance(item, Incoming):
                item.close()
        self._waiting.clear()
        for timer in (self._idle_timer, self._body_timer):
            if timer is not None:
                timer.cancel()
        if self._task is not None:
            # Wherever it waits, be it for the client: long-polls must not outlive who asked.
            self._task.cancel()
        self._cancel_parked()

    def eof_received(self) -> bool:
        """The client sends no more: it is gone, and so is what it waited for."""
        return False

    def pause_writing(self) -> None:
        self._is_full = True

    def resume_writing(self) -> None:
        self._is_full = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def data_received(self, data: bytes) -> None:
        parser = self._parser
        if parser is None:
            return  # whatever comes now is dropped
        if self._known is not None and self._repeats(data, *self._known):
            return
        self._spent = 0
        is_begun = self._incoming is not None
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # Nothing is spoken here but HTTP: the request is answered as it is, and is the last one.
            self._parser = None
        except httptools.HttpParserError:
            self._stop_reading()
        else:
            if self._incoming is not None:
                self._watch_incoming(self._incoming, len(data))
            elif self._whole is not None and not is_begun:
                self._remember(data, self._whole)

    def _repeats(self, data: bytes, raw: bytes, headers: Headers) -> bool:
        """Take a request that is the last one again but for its target: its headers need not be parsed."""
        if self._incoming is not None or len(self._waiting) >= MAX_SENT_AHEAD or not data.endswith(raw):
            return False
        line = _LINE.fullmatch(data, 0, len(data) - len(raw))
        if line is None:
            return False
        if self._is_free and self.terms.take(self, line[1], headers):
            return True
        self._enqueue(Incoming(self.terms.budget, self.terms.limits).known(line[1], headers))
        return True

    def _remember(self, data: bytes, incoming: Incoming) -> None:
        """Remember the headers of a request that came by itself in `data`, if its like may come again."""
        line = _LINE.match(data)
        if (
            line is not None
            and incoming.is_simple
            and len(data) - line.end() <= MAX_KNOWN_BYTES
            and data.find(_HEAD_END) == len(data) - len(_HEAD_END)
        ):
            self._known = (data[line.end() :], incoming.headers)

    # -- the parser's

    def on_message_begin(self) -> None:
        self._head_bytes = 0
        if len(self._waiting) >= MAX_SENT_AHEAD:
            self._refuse(Refused(400, f"More than {MAX_SENT_AHEAD} requests were sent ahead"))
        self._incoming = Incoming(self.terms.budget, self.terms.limits)

    def on_url(self, part: bytes) -> None:
        try:
            self._being_read().add_target(part)
        except Refused as refusal:
            self._refuse(refusal)

    def on_header(self, name: bytes, value: bytes) -> None:
        try:
            self._being_read().add_header(name, value)
        except Refused as refusal:
            self._refuse(refusal)

    def on_headers_complete(self) -> None:
        parser, incoming = self._parser, self._being_read()
        assert parser is not None
        self._spent += incoming.head_size
        try:
            incoming.end_head(
                parser.get_method(),
                old=parser.get_http_version() == "1.0",
                keep_alive=parser.should_keep_alive() and not parser.should_upgrade(),
            )
        except Refused as refusal:
            self._refuse(refusal)
        if incoming.body_too_large:
            self._refuse(None)
        if incoming.asks_first and not self._is_busy and not self._waiting and self._transport is not None:
            self._transport.write(_CONTINUE)

    def on_body(self, chunk: bytes) -> None:
        incoming = self._being_read()
        self._spent += len(chunk)
        try:
            incoming.add_body(chunk)
        except Refused as refusal:
            self._refuse(refusal)
        if incoming.body_too_large:
            self._refuse(None)

    def on_message_complete(self) -> None:
        incoming, self._incoming = self._being_read(), None
        self._end_body_timer()
        self._whole = incoming
        if self._is_free and incoming.is_simple and self.terms.take(self, incoming.target, incoming.headers):
            return
        self._enqueue(incoming)

    def _being_read(self) -> Incoming:
        if self._incoming is None:
            raise Refused(400, NO_HTTP)
        return self._incoming

    def _refuse(self, refusal: Refused | None) -> None:
        """Stop the parser; None: with the request as it is, whose body is not read."""
        self._refusal = refusal
        raise refusal or Refused(413, "The body of the request is too large")

    # -- reading

    def _stop_reading(self) -> None:
        """The parser has stopped: at what is no HTTP, at what is refused, or at a body over its limit."""
        self._parser = None
        incoming, self._incoming = self._incoming, None
        self._end_body_timer()
        if incoming is not None and incoming.body_too_large and self._refusal is None:
            self._enqueue(incoming)
            return
        if incoming is not None:
            incoming.close()
        has_head = incoming is not None and incoming.has_head
        broken = Refused(400, "The body of the request is broken" if has_head else NO_HTTP)
        self._enqueue(self._refusal or broken)

    def _watch_incoming(self, incoming: Incoming, received: int) -> None:
        """A request that is not whole yet must come in time, and its head within bounds."""
        if incoming.has_head:
            if self._body_timer is None:
                self._body_began = self._loop.time()
                self._body_timer = self._loop.call_later(incoming.allowed_seconds(), self._look_for_slowness)
            return
        self._head_bytes += received - self._spent
        if self._head_bytes > MAX_HEAD_BYTES:
            self._stop_reading()

    def _look_for_slowness(self) -> None:
        self._body_timer = None
        incoming = self._incoming
        if incoming is None or self._parser is None:
            return
        left = incoming.allowed_seconds() - (self._loop.time() - self._body_began)
        if left > 0:
            self._body_timer = self._loop.call_later(left, self._look_for_slowness)
            return
        self._refusal = Refused(408, "The body of the request arrived too slowly")
        self._stop_reading()

    def _end_body_timer(self) -> None:
        if self._body_timer is not None:
            self._body_timer.cancel()
            self._body_timer = None

    def _drop_incoming(self) -> None:
        incoming, self._incoming = self._incoming, None
        if incoming is not None:
            incoming.close()

    def _await_head(self) -> None:
        self._idle_until = self._loop.time() + self.terms.keepalive_seconds

    def _look_for_idleness(self) -> None:
        transport = self._transport
        if transport is None:
            return
        left = self.terms.keepalive_seconds
        if not self._is_busy and not (self._incoming is not None and self._incoming.has_head):
            left = self._idle_until - self._loop.time()
            if left <= 0:
                transport.close()
                return
        self._idle_timer = self._loop.call_later(left, self._look_for_idleness)

    # -- serving

    def _enqueue(self, item: Incoming | Refused) -> None:
        self._waiting.append(item)
        if not self._is_busy:
            self._next()
        elif self._transport is not None and not self._is_paused:
            # It sends ahead: what it sent so far is answered first.
            self._is_paused = True
            self._transport.pause_reading()

    @property
    def _is_busy(self) -> bool:
        """Whether a request is being answered, or waits for its answer."""
        return self._task is not None or self._parked is not None

    @property
    def _is_free(self) -> bool:
        """Whether a request may be served without a task: a client that does not take its answers is waited
        for in one."""
        return self._task is None and self._parked is None and not (self._waiting or self._is_full)

    def _next(self) -> None:
        self._task = self._loop.create_task(self._run(self._waiting.popleft()))

    async def _run(self, item: Incoming | Refused, answering: Answering | None = None) -> None:
        may_go_on = False
        try:
            may_go_on = await self.terms.serve(self, item, answering)
        finally:
            if isinstance(item, Incoming):
                item.close()
            self._task = None
            self.answered(may_go_on=may_go_on)

    def answered(self, *, may_go_on: bool) -> None:
        """An answer is sent: on to what comes next, if the connection may go on."""
        transport = self._transport
        if transport is None:
            return
        if not may_go_on:
            self._end(transport)
        elif self._waiting:
            self._next()
        elif self._parser is None:
            self._end(transport)
        else:
            self._await_head()
            if self._is_paused:
                self._is_paused = False
                transport.resume_reading()

    def _end(self, transport: asyncio.Transport) -> None:
        """Close the connection; one on which the client may still be sending, a little later."""
        is_cut_short, self._parser = self._parser is None, None
        if not is_cut_short or transport.is_closing():
            transport.close()
            return
        if self._is_paused:
            transport.resume_reading()
        if transport.can_write_eof():
            transport.write_eof()
        self._loop.call_later(LINGER_SECONDS, transport.close)

    # -- what waits without a task

    def park(self, waiting: Waiting, target: bytes, headers: Headers) -> None:
        """The request with that target and these headers waits: `settle` or `pursue` is called for it."""
        self._parked = waiting, target, headers
        self.terms.parked.add(self)

    def settle(self, response: Response) -> None:
        """Its answer."""
        self.terms.settle(self, response)

    def pursue(self, answering: Answering) -> None:
        """It needs a task after all."""
        parked = self.unpark()
        if parked is None:
            return
        _, target, headers = parked
        item = Incoming(self.terms.budget, self.terms.limits).known(target, headers)
        self._task = self._loop.create_task(self._run(item, answering))

    def unpark(self) -> tuple[Waiting, bytes, Headers] | None:
        """What waited, which waits no more."""
        parked, self._parked = self._parked, None
        self.terms.parked.discard(self)
        return parked

    def _cancel_parked(self) -> None:
        parked = self.unpark()
        if parked is not None:
            parked[0].cancel()
            self.terms.gone()

    # -- for who serves

    @property
    def task(self) -> asyncio.Task[None] | None:
        """What answers the present request."""
        return self._task

    @property
    def is_full(self) -> bool:
        """Whether the client has not taken what was sent."""
        return self._is_full

    @property
    def is_lost(self) -> bool:
        """Whether the client is gone."""
        return self._transport is None or self._transport.is_closing()

    def write(self, data: bytes) -> None:
        """Send bytes; nothing if the client is gone."""
        if self._transport is not None:
            self._transport.write(data)

    async def drain(self, seconds: float) -> None:
        """Wait until the client has taken most of what was sent. Raises TimeoutError, ConnectionError."""
        if self.is_lost:
            raise ConnectionResetError("the client closed the connection")
        if self._is_full:
            self._drained = self._loop.create_future()
            async with asyncio.timeout(seconds):
                await self._drained

    def abort(self) -> None:
        """Cut the connection off."""
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """End the connection, and what is under way on it, at once."""
        if self._task is not None:
            self._task.cancel()
        self._cancel_parked()
        if self._transport is not None:
            self._transport.close()
