"""Target: bytes on a connection, through the HTTP server and into `ports.Request`, without a socket."""

from __future__ import annotations

import asyncio
import atexit
import re
from typing import Any

from comity.net.http_protocol import Connection
from comity.net.http_request import Origin
from comity.net.http_server import HttpServer
from comity.ports import Request, Response
from fuzz.target import Broken, Target, require
from fuzz.world import FAULTS

MAX_BODY = 4_096
#: Rounds of the event loop in which nothing is written: then all is done that can be done.
QUIET_ROUNDS = 12


class Line(asyncio.Transport):
    """The other end of a connection: keeps what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.closed = self.ended = False

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("192.0.2.9", 1) if name == "peername" else default

    def pause_reading(self) -> None:
        """Nothing is read."""

    def resume_reading(self) -> None:
        """Nothing is read."""

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True


_seen: list[Request] = []


async def _handle(request: Request) -> Response:
    _seen.append(request)
    return Response(200, b"{}", {"Content-Type": "application/json"})


_loop = asyncio.new_event_loop()
atexit.register(_loop.close)


def check_wire(data: bytes) -> str:
    """The bytes, at once and in two pieces; requests must come out the same."""
    whole = _loop.run_until_complete(_received([data]))
    half = len(data) // 2
    parts = _loop.run_until_complete(_received([data[:half], data[half:]]))
    if not _is_refused(whole[0]) and not _is_refused(parts[0]):
        # Garbage behind a request takes the request with it if it comes in the same packet.
        require(parts[1] == whole[1], "how bytes are cut into packets does not matter")
    return f"{len(whole[1])} {whole[0][9:12]!r}"


async def _settled(line: Line) -> None:
    quiet = 0
    while quiet < QUIET_ROUNDS:
        before = len(line.written)
        await asyncio.sleep(0)
        quiet = quiet + 1 if len(line.written) == before else 0


def _is_refused(answers: bytes) -> bool:
    return re.search(rb"HTTP/1\.[01] 4", answers) is not None


async def _received(pieces: list[bytes]) -> tuple[bytes, list[tuple[str, str, str, bytes]]]:
    """What was answered, and the requests that came through."""
    _seen.clear()
    FAULTS.seen.clear()
    server = HttpServer(_handle, max_body_bytes=MAX_BODY)
    origin = Origin(frozenset({"client"}), asks_certificate=False, nameless="unknown")
    connection, line = Connection(server.terms(origin)), Line()
    connection.connection_made(line)
    for piece in pieces:
        if not line.closed:
            connection.data_received(piece)
        await _settled(line)
    connection.connection_lost(None)
    for _ in range(3):
        await asyncio.sleep(0)
    for text, error in FAULTS.seen:
        raise Broken(f"an error is logged: {text}") from error
    for request in _seen:
        require(len(request.body) <= MAX_BODY, "a body is within its limit")
        require(request.path.isascii() and request.query.isascii(), "a path is plain")
        for name, value in request.headers.items():
            require(name == name.lower() and value.encode() is not None, "headers can be read")
    require(not line.written or line.written.startswith(b"HTTP/1."), "an answer is HTTP")
    require(b" 500 " not in bytes(line.written[:13]), "the answer is not 500")
    return bytes(line.written), [(r.method, r.path, r.query, r.body) for r in _seen]


TARGETS = (
    Target(
        "wire",
        check_wire,
        separator=b"\r\n",
        heads=(b"GET / HTTP/1.1", b"PUT /a?b HTTP/1.1", b"POST http://a.example/b HTTP/1.0",
               b"OPTIONS * HTTP/1.1"),
        words=(
            "\r\n", "\r\n\r\n", "Host: a\r\n", "Content-Length: 3\r\n", "Transfer-Encoding: chunked\r\n",
            "Expect: 100-continue\r\n", "Connection: keep-alive\r\n", "Connection: upgrade\r\n",
            "Content-Encoding: gzip\r\n", "3\r\nabc\r\n0\r\n\r\n", "GET / HTTP/1.1\r\n", " HTTP/1.1", "%ff",
            "Cookie: a=b\r\n", "Upgrade: websocket\r\n", "\x00", "http://",
        ),
    ),
)  # fmt: skip
