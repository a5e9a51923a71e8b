"""A load client that costs little: HTTP/1.1 over kept TCP connections, requests prepared as bytes.

Owns connections and timing. It knows just enough HTTP for the answers of an API server:
a status line, a Content-Length or chunks, no redirects, no cookies.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

#: An answer that takes longer is a failure of the run.
ANSWER_WITHIN = 120.0


@dataclass
class Timing:
    """What a run of requests took."""

    seconds: float
    latencies: list[float]

    @property
    def count(self) -> int:
        return len(self.latencies)

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.count / self.seconds

    def percentile(self, share: float) -> float:
        """The latency, in seconds, that this share of the requests stayed within."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Connection(asyncio.Protocol):
    """One kept connection; one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by class

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or ConnectionError("the server hung up"))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        complete = _complete(self._buffer)
        if complete is not None and self._answer is not None:
            self._buffer = b""
            self._answer.set_result(complete)

    async def request(self, raw: bytes) -> tuple[int, bytes]:
        """Send a whole request; (status, body)."""
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(raw)
        return await self._answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


def _complete(buffer: bytes) -> tuple[int, bytes] | None:
    """The status and body, if all of the answer is there."""
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = buffer[:end].lower()
    status = int(head[9:12])
    at = head.find(b"\r\ncontent-length:")
    if at >= 0:
        length = int(head[at + 17 :].split(b"\r\n", 1)[0])
        body = buffer[end + 4 :]
        return (status, body) if len(body) >= length else None
    if b"transfer-encoding: chunked" in head:
        return (status, _unchunked(buffer[end + 4 :])) if buffer.endswith(b"0\r\n\r\n") else None
    return status, b""


def _unchunked(chunks: bytes) -> bytes:
    body = b""
    while chunks:
        size, _, chunks = chunks.partition(b"\r\n")
        length = int(size, 16)
        body, chunks = body + chunks[:length], chunks[length + 2 :]
    return body


def request_bytes(method: str, path: str, port: int, headers: dict[str, str], body: bytes = b"") -> bytes:
    """A request, ready to be written."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: localhost:{port}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


async def connect(port: int) -> Connection:
    _, protocol = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", port)
    return protocol


async def run(
    port: int, requests: Iterator[bytes], concurrency: int, good: Callable[[int, bytes], bool]
) -> Timing:
    """Send every request over `concurrency` connections; every answer must be `good`."""
    connections = [await connect(port) for _ in range(concurrency)]
    latencies: list[float] = []

    async def work(connection: Connection) -> None:
        for raw in requests:
            before = time.perf_counter()
            async with asyncio.timeout(ANSWER_WITHIN):
                status, body = await connection.request(raw)
            latencies.append(time.perf_counter() - before)
            if not good(status, body):
                raise RuntimeError(f"{status} {body[:300]!r} to {raw[:200]!r}")

    started = time.perf_counter()
    try:
        await asyncio.gather(*(work(connection) for connection in connections))
    finally:
        for connection in connections:
            connection.close()
    return Timing(time.perf_counter() - started, latencies)


async def run_for(
    port: int,
    make: Callable[[int], bytes],
    concurrency: int,
    seconds: float,
    good: Callable[[int, bytes], bool],
) -> Timing:
    """The same for as long as `seconds`; `make` gives the n-th request."""

    def requests() -> Iterator[bytes]:
        deadline = time.perf_counter() + seconds
        number = 0
        while time.perf_counter() < deadline:
            yield make(number)
            number += 1

    return await run(port, requests(), concurrency, good)


def median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
