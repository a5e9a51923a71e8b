"""Peers for the client's tests: TLS servers whose every byte the test decides."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

from comity.net.http_client import HttpsTransport
from comity.net.http_server import server_ssl_context
from comity.ports import Endpoint
from tests.net.authority import Authority, Issued

#: Seconds for an exchange that is expected to end sooner.
AMPLE = 10.0


@dataclass
class Connection:
    """One accepted connection of a Peer."""

    number: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def request(self) -> bytes:
        """The next request: its head, and its body if it has a length. Raises IncompleteReadError."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length: "):
                return head + await self.reader.readexactly(int(line[16:]))
        return head

    async def answer(self, body: bytes = b"{}", status: str = "200 OK", *headers: str) -> None:
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
        await self.send("\r\n".join(lines).encode() + body)

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()


Script = Callable[[Connection], Awaitable[None]]


@dataclass
class Peer:
    """A server on loopback that plays a script on each connection."""

    host: str
    port: int
    connections: list[Connection] = field(default_factory=list)
    #: The server names that clients sent (SNI); None for none.
    server_names: list[str | None] = field(default_factory=list)

    def endpoint(self, tls_name: str = "peer.test", *, host: str | None = None) -> Endpoint:
        return Endpoint(host or self.host, self.port, tls_name, f"{tls_name}:443")

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"https://{host}:{self.port}"


class StartPeer(Protocol):
    def __call__(
        self, script: Script, issued: Issued | None, host: str = ...
    ) -> AbstractAsyncContextManager[Peer]: ...


@asynccontextmanager
async def running_peer(script: Script, issued: Issued | None, host: str = "127.0.0.1") -> AsyncIterator[Peer]:
    """A Peer with the certificate `issued`, or without TLS."""
    peer = Peer(host, 0)
    tasks: set[asyncio.Task[None]] = set()

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        connection = Connection(len(peer.connections), reader, writer)
        peer.connections.append(connection)
        try:
            await script(connection)
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError, asyncio.CancelledError):
            pass  # the client left, or the test is over
        finally:
            tasks.discard(task)
            writer.transport.abort()

    context = None
    if issued is not None:
        context = server_ssl_context(issued.certificate, issued.private_key)

        def remember(_: ssl.SSLObject, name: str | None, __: ssl.SSLContext) -> None:
            peer.server_names.append(name)

        context.sni_callback = remember
    server = await asyncio.start_server(accepted, host, 0, ssl=context)
    peer.port = server.sockets[0].getsockname()[1]
    try:
        yield peer
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


@asynccontextmanager
async def transport(
    authority: Authority | None,
    *,
    allow: tuple[str, ...] = ("127.0.0.0/8", "::1/128"),
    verify: bool = True,
    client_certificate: Issued | None = None,
) -> AsyncIterator[HttpsTransport]:
    """An open HttpsTransport that trusts `authority`."""
    opened = HttpsTransport(
        trusted_ca=[] if authority is None else [authority.ca],
        verify_certificates=verify,
        allow_ranges=allow,
        user_agent="comity-test",
        client_certificate=(
            None
            if client_certificate is None
            else (client_certificate.certificate, client_certificate.private_key)
        ),
    )
    await opened.open()
    try:
        yield opened
    finally:
        await opened.close()


async def answer_all(connection: Connection) -> None:
    """A script: answer each request with `{}`."""
    while True:
        await connection.request()
        await connection.answer()
