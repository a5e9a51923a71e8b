"""From aiohttp's request to `ports.Request`: one request read whole, within its bounds.

Owns the reading of the body (size, speed, encoding) and the raw form of path, query and
headers. Never looks at what a request means, and never answers: what cannot be read
becomes `Refused`, which `http_server` turns into an answer.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass

from aiohttp import web

from comity.ports import Request

#: Seconds a body may take before its speed is looked at …
BODY_GRACE_SECONDS = 30.0

#: … and bytes a second it must have come with on average after that. Together they end a
#: client that dribbles a body to hold a connection and its memory.
BODY_MINIMUM_RATE = 8 * 1024

#: Bytes of all bodies being read or served at once, over all connections: what memory the
#: unauthenticated can make this process hold. Bodies that arrive whole with their headers
#: are not counted; aiohttp's read buffer bounds those.
MAX_BUFFERED_BYTES = 512 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """What a body may be: its size, and the seconds before its speed is looked at."""

    max_bytes: int
    grace_seconds: float = BODY_GRACE_SECONDS


@dataclass(frozen=True, slots=True)
class Origin:
    """What all requests of one listener have in common.

    `nameless` is what `Request.remote` says when the peer has no IP address: "unix" for a
    Unix socket; over TCP it means that the peer has gone already, and must not look the same.
    """

    serves: frozenset[str]
    asks_certificate: bool
    nameless: str


class Refused(Exception):
    """A request that cannot be read: the status, and a sentence the client may see."""

    def __init__(self, status: int, text: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.headers = headers or {}


class BodyBudget:
    """How many bytes of bodies the process holds, bounded by MAX_BUFFERED_BYTES."""

    def __init__(self, limit: int = MAX_BUFFERED_BYTES) -> None:
        self._limit = limit
        self._held = 0

    def take(self, count: int) -> None:
        if self._held + count > self._limit:
            raise Refused(503, "The server is busy with other uploads; try again soon", {"retry-after": "5"})
        self._held += count

    def give_back(self, count: int) -> None:
        self._held -= count


class Incoming:
    """One request on its way in; `close` gives back the memory it was granted."""

    __slots__ = ("_budget", "_granted", "_limits")

    def __init__(self, budget: BodyBudget, limits: BodyLimits) -> None:
        self._budget = budget
        self._limits = limits
        self._granted = 0

    def close(self) -> None:
        if self._granted:
            self._budget.give_back(self._granted)
            self._granted = 0

    async def read(self, message: web.BaseRequest, origin: Origin) -> Request:
        """`message` as a `ports.Request`, its body whole. Raises Refused.

        A body over the limit is left unread and `body_too_large` is set.
        """
        path, query = _split_target(message.raw_path)
        headers = _headers(message)
        body: bytes | None = b""
        if message.body_exists:
            body = await self._body(message, headers)
        return Request(
            method=message.method,
            path=path,
            query=query,
            headers=headers,
            body=body or b"",
            remote=message.remote or origin.nameless,
            serves=origin.serves,
            peer_certificate=_peer_certificate(message) if origin.asks_certificate else None,
            body_too_large=body is None,
        )

    async def _body(self, message: web.BaseRequest, headers: Mapping[str, str]) -> bytes | None:
        """The body; None when it is over the limit."""
        encoding = headers.get("content-encoding", "identity")
        if encoding.lower() not in ("", "identity"):
            # Decompressing for strangers is a way to make much work out of few bytes, and
            # nothing in Matrix asks for it. RFC 9110 §15.5.16 names the header.
            raise Refused(415, "Send the body without Content-Encoding", {"accept-encoding": "identity"})
        declared = headers.get("content-length")
        if declared is not None:
            if not (declared.isascii() and declared.isdigit()):
                raise Refused(400, "The Content-Length of the request is no number")
            if int(declared) > self._limits.max_bytes:
                return None
        content = message.content
        if content.is_eof():  # it came with the headers: no need to wait
            body = content.read_nowait()
            return body if len(body) <= self._limits.max_bytes else None
        if headers.get("expect", "").lower() == "100-continue":
            await message.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            message.writer.output_size = 0
        try:
            return await self._slow_body(message)
        except TimeoutError as error:
            raise Refused(408, "The body of the request arrived too slowly") from error
        except web.RequestPayloadError as error:
            raise Refused(400, "The body of the request is broken") from error

    async def _slow_body(self, message: web.BaseRequest) -> bytes | None:
        """Read a body that arrives bit by bit; None when it passes the limit."""
        chunks: list[bytes] = []
        size = 0
        clock = asyncio.get_running_loop().time
        began = clock()
        grace = self._limits.grace_seconds
        async with asyncio.timeout(grace) as limit:
            while chunk := await message.content.readany():
                size += len(chunk)
                if size > self._limits.max_bytes:
                    return None
                self._budget.take(len(chunk))
                self._granted += len(chunk)
                chunks.append(chunk)
                limit.reschedule(began + grace + size / BODY_MINIMUM_RATE)
        return b"".join(chunks)


def _split_target(target: str) -> tuple[str, str]:
    """The request target as path and query, each as sent (RFC 9112 §3.2)."""
    if not target.isascii():
        raise Refused(400, "The path of the request must be percent-encoded ASCII")
    path, _, query = target.partition("?")
    if not path.startswith("/"):
        scheme, separator, rest = path.partition("://")
        if separator and scheme.lower() in ("http", "https"):  # absolute form, as sent to proxies
            path = "/" + rest.partition("/")[2]
    return path, query


def _headers(message: web.BaseRequest) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in message.headers.items():
        name = name.lower()
        if not value.isascii():
            # Bytes that are not UTF-8 come as lone surrogates, which no encoder takes.
            value = value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        if name in headers:
            value = f"{headers[name]}{'; ' if name == 'cookie' else ', '}{value}"
        headers[name] = value
    return headers


def _peer_certificate(message: web.BaseRequest) -> bytes | None:
    transport = message.transport
    tls = None if transport is None else transport.get_extra_info("ssl_object")
    if not isinstance(tls, (ssl.SSLObject, ssl.SSLSocket)):
        return None
    return tls.getpeercert(binary_form=True)
