"""From `ports.Response` to bytes on the wire.

Owns the head of every answer and the two ways a body goes out: at once, or streamed in
chunks. Compresses nothing (answers hold secrets beside what strangers chose, and that is
what CRIME and BREACH feed on) and never decides what an answer says.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import AsyncIterator, Mapping
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus

from comity.net.http_protocol import Connection
from comity.net.http_request import Incoming
from comity.ports import Response

logger = logging.getLogger(__name__)

#: What we call ourselves; strangers need not know a version.
SERVER_NAME = "comity"

#: Seconds a client may take to accept more bytes of an answer before it is cut off. A
#: client that stops reading would hold the answer in memory for ever.
STALL_SECONDS = 60.0

#: Bytes a second at which a large answer that is sent at once must be taken, beside that.
SEND_MINIMUM_RATE = 8 * 1024

#: Answers up to this size fit the socket's buffers: nothing to wait for.
_UNWATCHED_BYTES = 32 * 1024

#: Kinds of heads that are remembered, some 300 bytes each.
MAX_HEADS = 500

#: Headers that are this module's to write; an answer's own are left out.
_OUR_HEADERS = frozenset(
    form for name in ("connection", "content-length", "date", "server") for form in (name, name.title())
)

_OK = 200
_STATUS_LINES = {status.value: f"{status.value} {status.phrase}" for status in HTTPStatus}


async def send(
    to: Connection,
    message: Incoming | None,
    response: Response,
    *,
    closing: bool,
    stall_seconds: float = STALL_SECONDS,
) -> bool:
    """Send the answer to `message` (None: to what could not be read); whether the connection may go on.

    `closing` ends the connection. A stream that fails midway cuts it off, for the client must not take
    half an answer for a whole one. Raises ValueError, with nothing sent, on a header that HTTP does not
    allow.
    """
    persists = message is not None and message.keep_alive and not closing
    old = message is not None and message.old
    head_only = _is_bodyless(response.status) or (message is not None and message.method == "HEAD")
    if not isinstance(response.body, bytes):
        return await _send_stream(
            to,
            response,
            response.body,
            persists=persists,
            old=old,
            head_only=head_only,
            stall_seconds=stall_seconds,
        )
    body = response.body
    length = None if _is_bodyless(response.status) else len(body)
    head = _head(response.status, response.headers, length=length, persists=persists, old=old)
    if head_only:
        body = b""
    to.write(head + body)
    if len(body) > _UNWATCHED_BYTES or to.is_full:
        try:
            await to.drain(stall_seconds + len(body) / SEND_MINIMUM_RATE)
        except TimeoutError:
            to.abort()
            return False
        except ConnectionError:
            return False
    return persists


def send_at_once(to: Connection, response: Response) -> bool:
    """Send a small answer to a GET of HTTP/1.1 on a connection that goes on: there is nothing to wait for.

    False, with nothing sent, where that is not what it is.
    """
    body = response.body
    if not isinstance(body, bytes) or len(body) > _UNWATCHED_BYTES or response.status != _OK:
        return False
    to.write(b"%bContent-Length: %d\r\n\r\n%b" % (_opening.text(response.headers), len(body), body))
    return True


class _ClientGone(Exception):
    """The client closed its connection, or takes nothing more."""


async def _send_stream(
    to: Connection,
    response: Response,
    body: AsyncIterator[bytes],
    *,
    persists: bool,
    old: bool,
    head_only: bool,
    stall_seconds: float,
) -> bool:
    try:
        headers = {name.title(): value for name, value in response.headers.items()}
        declared = headers.get("Content-Length")
        length = int(declared) if declared is not None and declared.isdigit() else None
        is_chunked = length is None and not old and not head_only
        # Without a length and without chunks, the end of the connection is the end of the answer.
        persists = persists and (length is not None or is_chunked or head_only)
        if is_chunked:
            headers["Transfer-Encoding"] = "chunked"
        to.write(_head(response.status, headers, length=length, persists=persists, old=old))
        if head_only:
            return persists
        return await _copy(to, body, length, stall_seconds, is_chunked=is_chunked) and persists
    finally:
        close = getattr(body, "aclose", None)
        if close is not None:
            await close()


async def _copy(
    to: Connection,
    body: AsyncIterator[bytes],
    declared: int | None,
    stall_seconds: float,
    *,
    is_chunked: bool,
) -> bool:
    """Write all of `body` after a head that is sent; on trouble, cut the connection off: then False."""
    sent = 0
    try:
        async for chunk in body:
            if chunk:
                await _write(
                    to, b"%x\r\n%b\r\n" % (len(chunk), chunk) if is_chunked else chunk, stall_seconds
                )
                sent += len(chunk)
        if is_chunked:
            await _write(to, b"0\r\n\r\n", stall_seconds)
    except _ClientGone as gone:
        logger.debug("a streamed answer was not taken: %s", gone)
    except Exception:
        logger.exception("a streamed answer failed midway")
    else:
        if declared is None or sent == declared:
            return True
        logger.error("a streamed answer had %d bytes where %d were announced", sent, declared)
    to.abort()
    return False


async def _write(to: Connection, data: bytes, stall_seconds: float) -> None:
    try:
        to.write(data)
        await to.drain(stall_seconds)
    except ConnectionError as error:
        raise _ClientGone("the client closed the connection") from error
    except TimeoutError as error:
        raise _ClientGone("the client stopped reading") from error


def _is_bodyless(status: int) -> bool:
    return status in (204, 304) or status < 200


class _DateHeader:
    """The value of `Date`, made anew once a second."""

    def __init__(self) -> None:
        self._second = -1
        self._text = b""

    def text(self) -> bytes:
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._text = formatdate(second, usegmt=True).encode()
        return self._text


_date = _DateHeader()


class _Opening:
    """The head of a good answer up to its length, made anew once a second and for other headers.

    For headers that are never changed: most answers that are sent at once have the same object.
    """

    def __init__(self) -> None:
        self._second = -1
        self._headers: Mapping[str, str] | None = None
        self._text = b""

    def text(self, headers: Mapping[str, str]) -> bytes:
        """Raises ValueError on a name or value with a line break."""
        second = int(time.time())
        if second != self._second or headers is not self._headers:
            fixed = _fixed(_OK, tuple(headers.items()), persists=True, old=False)
            self._text = b"%bDate: %b\r\n" % (fixed, _date.text())
            self._second, self._headers = second, headers
        return self._text


_opening = _Opening()


def _head(status: int, headers: Mapping[str, str], *, length: int | None, persists: bool, old: bool) -> bytes:
    """The status line and the headers. Raises ValueError on a name or value with a line break."""
    size = b"" if length is None else b"Content-Length: %d\r\n" % length
    fixed = _fixed(status, tuple(headers.items()), persists=persists, old=old)
    return b"%bDate: %b\r\n%b\r\n" % (fixed, _date.text(), size)


@lru_cache(MAX_HEADS)
def _fixed(status: int, headers: tuple[tuple[str, str], ...], *, persists: bool, old: bool) -> bytes:
    """What answers of one kind have in common of their heads: most are of a few kinds."""
    lines = [
        f"HTTP/1.{0 if old else 1} {_STATUS_LINES.get(status) or f'{status} Unknown'}",
        f"Server: {SERVER_NAME}",
    ]
    lines.extend([f"{name}: {value}" for name, value in headers if name not in _OUR_HEADERS])
    if not persists:
        lines.append("Connection: close")
    elif old:
        lines.append("Connection: keep-alive")
    head = "\r\n".join(lines)
    breaks = len(lines) - 1
    if head.count("\n") != breaks or head.count("\r") != breaks or "\0" in head:
        raise ValueError("a header of an answer has a line break or a null character")
    return f"{head}\r\n".encode()


def error_response(status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
    """An error of this layer, in Matrix's form (client-server §Standard error response)."""
    body = json.dumps({"errcode": "M_UNKNOWN", "error": text}).encode()
    # A browser shows a page only answers that allow it to (client-server §Web Browser Clients).
    ours = {"content-type": "application/json", "access-control-allow-origin": "*"}
    return Response(status, body, {**(headers or {}), **ours})


def internal_error() -> Response:
    return error_response(500, "Internal server error")
