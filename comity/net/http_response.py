"""From `ports.Response` to bytes on the wire.

Owns the head of every answer and the two ways a body goes out: at once, or streamed in
chunks. Compresses nothing (answers hold secrets beside what strangers chose, and that is
what CRIME and BREACH feed on) and never decides what an answer says.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Mapping
from email.utils import formatdate
from http import HTTPStatus

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import HttpVersion10

from comity.ports import Response

logger = logging.getLogger(__name__)

#: What we call ourselves; the library's default tells strangers its version.
SERVER_NAME = "comity"

#: Seconds a client may take to accept more bytes of an answer before it is cut off. A
#: client that stops reading would hold the answer in memory for ever.
STALL_SECONDS = 60.0

#: Bytes a second at which a large answer that is sent at once must be taken, beside that.
SEND_MINIMUM_RATE = 8 * 1024

#: Answers up to this size fit the socket's buffers: nothing to wait for.
_UNWATCHED_BYTES = 32 * 1024

#: Headers that are this module's to write; an answer's own are left out.
_OUR_HEADERS = frozenset(
    form for name in ("connection", "content-length", "date", "server") for form in (name, name.title())
)

_STATUS_LINES = {status.value: f"{status.value} {status.phrase}" for status in HTTPStatus}


class WholeResponse(web.StreamResponse):
    """An answer whose body is at hand, sent in a single write.

    aiohttp's own Response costs as much as everything else it does for a small request;
    this one builds the head itself. `prepare` sends everything, `write_eof` nothing.
    """

    def __init__(self, status: int, body: bytes, headers: Mapping[str, str], stall_seconds: float) -> None:
        super().__init__(status=status)
        self._stall_seconds = stall_seconds
        self._whole_body = body
        self._whole_headers = headers
        self._sent = False
        self._close_after = False
        self._persists = False

    @property
    def keep_alive(self) -> bool | None:
        return self._persists

    def force_close(self) -> None:
        self._close_after = True

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        if self._sent:
            return None
        persists = request.keep_alive and not self._close_after
        body = self._whole_body
        bodyless = _is_bodyless(self.status)
        head = _head(
            self.status,
            self._whole_headers,
            length=None if bodyless else len(body),
            persists=persists,
            old=request.version == HttpVersion10,
        )
        self._sent = True
        transport = request.transport
        if transport is None or transport.is_closing():
            return None  # the client is gone; `keep_alive` stays False and ends the connection
        if bodyless or request.method == "HEAD":
            body = b""
        transport.write(head + body)
        if len(body) > _UNWATCHED_BYTES:
            try:
                async with asyncio.timeout(self._stall_seconds + len(body) / SEND_MINIMUM_RATE):
                    await request.writer.drain()
            except TimeoutError:
                transport.abort()
                return None
            except ConnectionError:
                return None
        self._persists = persists
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing: `prepare` has sent it all."""


async def send(
    request: web.BaseRequest, response: Response, *, closing: bool, stall_seconds: float = STALL_SECONDS
) -> web.StreamResponse:
    """Send `response` and return what aiohttp wants to see; `closing` ends the connection.

    A stream that fails midway cuts the connection, for the client must not take half an
    answer for a whole one. Raises ValueError, with nothing sent, on a header that HTTP
    does not allow.
    """
    if isinstance(response.body, bytes):
        whole = WholeResponse(response.status, response.body, response.headers, stall_seconds)
        if closing:
            whole.force_close()
        await whole.prepare(request)
        return whole
    return await _send_stream(request, response, response.body, closing, stall_seconds)


class _ClientGone(Exception):
    """The client closed its connection, or takes nothing more."""


async def _send_stream(
    request: web.BaseRequest,
    response: Response,
    body: AsyncIterator[bytes],
    closing: bool,
    stall_seconds: float,
) -> web.StreamResponse:
    headers = {name.title(): value for name, value in response.headers.items()}
    stream = web.StreamResponse(status=response.status, headers={"Server": SERVER_NAME, **headers})
    if closing:
        stream.force_close()
    try:
        try:
            await stream.prepare(request)
        except ConnectionError:
            return stream
        if request.method != "HEAD" and not _is_bodyless(response.status):
            await _copy(request, stream, body, stall_seconds)
    finally:
        close = getattr(body, "aclose", None)
        if close is not None:
            await close()
    return stream


async def _copy(
    request: web.BaseRequest, stream: web.StreamResponse, body: AsyncIterator[bytes], stall_seconds: float
) -> None:
    """Write all of `body` after a head that is sent; on trouble, cut the connection off."""
    declared = stream.content_length
    sent = 0
    try:
        async for chunk in body:
            await _write(stream, chunk, stall_seconds)
            sent += len(chunk)
    except _ClientGone as gone:
        logger.debug("a streamed answer was not taken: %s", gone)
        _cut_off(request)
    except Exception:
        logger.exception("a streamed answer failed midway")
        _cut_off(request)
    else:
        if declared is not None and sent != declared:
            logger.error("a streamed answer had %d bytes where %d were announced", sent, declared)
            _cut_off(request)


async def _write(stream: web.StreamResponse, chunk: bytes, stall_seconds: float) -> None:
    try:
        async with asyncio.timeout(stall_seconds):
            await stream.write(chunk)
    except ConnectionError as error:
        raise _ClientGone("the client closed the connection") from error
    except TimeoutError as error:
        raise _ClientGone("the client stopped reading") from error


def _cut_off(request: web.BaseRequest) -> None:
    if request.transport is not None:
        request.transport.abort()


def _is_bodyless(status: int) -> bool:
    return status in (204, 304) or status < 200


class _DateHeader:
    """The value of `Date`, made anew once a second."""

    def __init__(self) -> None:
        self._second = -1
        self._text = ""

    def text(self) -> str:
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._text = formatdate(second, usegmt=True)
        return self._text


_date = _DateHeader()


def _head(status: int, headers: Mapping[str, str], *, length: int | None, persists: bool, old: bool) -> bytes:
    """The status line and the headers. Raises ValueError on a name or value with a line break."""
    lines = [
        f"HTTP/1.{0 if old else 1} {_STATUS_LINES.get(status) or f'{status} Unknown'}",
        f"Date: {_date.text()}",
        f"Server: {SERVER_NAME}",
    ]
    lines.extend([f"{name}: {value}" for name, value in headers.items() if name not in _OUR_HEADERS])
    if length is not None:
        lines.append(f"Content-Length: {length}")
    if not persists:
        lines.append("Connection: close")
    elif old:
        lines.append("Connection: keep-alive")
    head = "\r\n".join(lines)
    breaks = len(lines) - 1
    if head.count("\n") != breaks or head.count("\r") != breaks or "\0" in head:
        raise ValueError("a header of an answer has a line break or a null character")
    return f"{head}\r\n\r\n".encode()


def error_response(status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
    """An error of this layer, in Matrix's form (client-server §Standard error response)."""
    body = json.dumps({"errcode": "M_UNKNOWN", "error": text}).encode()
    # A browser shows a page only answers that allow it to (client-server §Web Browser Clients).
    ours = {"content-type": "application/json", "access-control-allow-origin": "*"}
    return Response(status, body, {**(headers or {}), **ours})


def internal_error() -> Response:
    return error_response(500, "Internal server error")
