"""Servers for the tests, and a client that speaks raw HTTP to them."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, Self

from comity.net.http_server import HttpServer
from comity.ports import Request, Response, request_id

#: Seconds after which a test that waits has failed. Only a broken test ever waits so long.
PATIENCE = 10.0

CLIENT = frozenset({"client"})


@dataclass(frozen=True)
class Served:
    server: HttpServer
    address: str

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])


class Serve(Protocol):
    async def __call__(
        self,
        handle: Callable[[Request], Awaitable[Response]],
        *,
        bind: str = ...,
        tls: ssl.SSLContext | None = ...,
        max_body_bytes: int = ...,
        **limits: float,
    ) -> Served: ...


class Serving:
    """The servers of one test."""

    def __init__(self) -> None:
        self._servers: list[HttpServer] = []

    async def start(
        self,
        handle: Callable[[Request], Awaitable[Response]],
        *,
        bind: str = "127.0.0.1:0",
        tls: ssl.SSLContext | None = None,
        max_body_bytes: int = 10_000,
        **limits: float,
    ) -> Served:
        server = HttpServer(handle, max_body_bytes=max_body_bytes, **limits)  # type: ignore[arg-type]
        self._servers.append(server)
        return Served(server, await server.listen(bind, CLIENT, tls))

    async def close(self) -> None:
        for server in self._servers:
            await server.close(grace_seconds=0)


class Recorder:
    """A handle that keeps what it was given and answers with a little JSON."""

    def __init__(self, response: Response | None = None) -> None:
        self.requests: list[Request] = []
        self.request_ids: list[str] = []
        self.response = response or Response(200, b"{}", {"content-type": "application/json"})

    async def __call__(self, request: Request) -> Response:
        self.requests.append(request)
        self.request_ids.append(request_id.get())
        return self.response

    @property
    def only(self) -> Request:
        (request,) = self.requests
        return request


class Sink(asyncio.Transport):
    """The other end of a connection in memory: takes everything."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent.append(bytes(data))

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class Reply:
    """An HTTP answer as it came; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class Wire:
    """One connection to a server, and raw HTTP over it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def to(cls, address: str, tls: ssl.SSLContext | None = None, name: str | None = None) -> Wire:
        if address.startswith("unix:"):
            return cls(*await asyncio.open_unix_connection(address.removeprefix("unix:")))
        host, _, port = address.rpartition(":")
        return cls(*await asyncio.open_connection(host.strip("[]"), int(port), ssl=tls, server_hostname=name))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except (ConnectionError, ssl.SSLError):
            pass  # the other side was faster

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def reply(self, *, to_head: bool = False) -> Reply:
        """The next answer, read by the rules of RFC 9112 §6."""
        async with asyncio.timeout(PATIENCE):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            status_line, *lines = head.strip().split("\r\n")
            headers = {}
            for line in lines:
                name, _, value = line.partition(": ")
                headers[name.lower()] = value
            status = int(status_line.split(" ")[1])
            if to_head or status in (100, 204, 304):
                body = b""
            elif headers.get("transfer-encoding") == "chunked":
                body = await self._chunks()
            else:
                body = await self.reader.readexactly(int(headers["content-length"]))
            return Reply(status, headers, body)

    async def ask(self, data: bytes, *, to_head: bool = False) -> Reply:
        self.send(data)
        return await self.reply(to_head=to_head)

    async def ended(self) -> bytes:
        """What still comes until the server closes the connection."""
        async with asyncio.timeout(PATIENCE):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""

    async def _chunks(self) -> bytes:
        body = b""
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            body += await self.reader.readexactly(size)
            await self.reader.readexactly(2)
        await self.reader.readexactly(2)
        return body


def get(path: str = "/", *headers: str) -> bytes:
    """A GET request."""
    return "".join(f"{line}\r\n" for line in (f"GET {path} HTTP/1.1", "Host: here", *headers, "")).encode()


def put(body: bytes, *headers: str) -> bytes:
    """A PUT request with a body, its length declared unless `headers` name another coding."""
    if not any(header.startswith("Transfer-Encoding") for header in headers):
        headers = (*headers, f"Content-Length: {len(body)}")
    return get("/", *headers).replace(b"GET", b"PUT", 1) + body


async def within_patience(event: asyncio.Event) -> None:
    async with asyncio.timeout(PATIENCE):
        await event.wait()
