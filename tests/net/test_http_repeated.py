"""Requests that repeat the headers of the one before: taken unparsed, and never taken for another."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from comity.net.http_protocol import MAX_KNOWN_BYTES, Connection
from comity.net.http_request import Origin
from comity.net.http_server import HttpServer
from tests.net.serving import CLIENT, Recorder, Serve, Sink, Wire, get, put

HEADS = (
    b"Host: a\r\nAuthorization: Bearer one\r\n\r\n",
    b"Host: a\r\nAuthorization: Bearer two\r\n\r\n",
    b"Host: a\r\nB: c\r\n\r\n",
    b"B: c\r\n\r\n",
    b"\r\n",
    b"Content-Length: 0\r\n\r\n",
    b"Content-Length: 4\r\n\r\nbody",
    b"Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
)
LINES = (
    b"GET / HTTP/1.1\r\n", b"GET /a?b=c HTTP/1.1\r\n", b"PUT /d HTTP/1.1\r\n", b'GET /e"%22 HTTP/1.1\r\n',
)  # fmt: skip


async def heard(packets: list[bytes]) -> list[tuple[str, str, str, list[tuple[str, str]], bytes]]:
    """The requests that a server hears in packets that come one after the other."""
    handle = Recorder()
    server = HttpServer(handle, max_body_bytes=1_000)
    connection = Connection(server.terms(Origin(CLIENT, asks_certificate=False, nameless="unknown")))
    connection.connection_made(Sink())
    for packet in packets:
        connection.data_received(packet)
        while (task := connection.task) is not None:
            await asyncio.wait([task])
    connection.connection_lost(None)
    return [(r.method, r.path, r.query, list(r.headers.items()), r.body) for r in handle.requests]


@pytest.mark.parametrize("seed", range(40))
async def test_however_requests_come_in_packets_they_are_the_same(seed: int) -> None:
    chance = Random(seed)
    requests = [chance.choice(LINES) + chance.choice(HEADS[: chance.choice((2, 8))]) for _ in range(30)]
    stream = b"".join(requests)
    cuts = sorted(chance.sample(range(1, len(stream)), chance.choice((0, 5, 60))))
    in_pieces = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    by_bytes = await heard([stream[index : index + 1] for index in range(len(stream))])
    assert len(by_bytes) == len(requests)
    assert await heard(requests) == by_bytes
    assert await heard(in_pieces) == by_bytes


async def test_the_same_headers_are_parsed_once(serve: Serve) -> None:
    handle = Recorder()
    served = await serve(handle)
    async with await Wire.to(served.address) as wire:
        for target in ("/1", "/2?a=b", "/3"):
            assert (await wire.ask(get(target, "Authorization: Bearer one"))).status == 200
        assert (await wire.ask(get("/4", "Authorization: Bearer two"))).status == 200
        assert (await wire.ask(put(b"body"))).status == 200
        assert (await wire.ask(get("/6", "Authorization: Bearer two"))).status == 200
    first, second, third, fourth, fifth, sixth = handle.requests
    assert first.headers is second.headers is third.headers
    assert [r.headers.get("authorization") for r in (third, fourth, fifth, sixth)] == [
        "Bearer one", "Bearer two", None, "Bearer two",
    ]  # fmt: skip
    assert [(r.path, r.query) for r in (first, second, third)] == [("/1", ""), ("/2", "a=b"), ("/3", "")]


async def test_what_came_in_pieces_is_not_remembered() -> None:
    packets = [
        b"GET /1 HTTP/1.1\r\nAuthorization: Bearer one\r\nB",
        b": c\r\nD: e\r\n\r\n",
        b"GET /2 HTTP/1.1\r\nD: e\r\n\r\n",
        b"GET /3 HTTP/1.1\r\n\r\n",
    ]
    assert [dict(headers) for _, _, _, headers, _ in await heard(packets)] == [
        {"authorization": "Bearer one", "b": "c", "d": "e"}, {"d": "e"}, {},
    ]  # fmt: skip


@pytest.mark.parametrize("line", [b"GET /\x00 HTTP/1.1", b"GET / b HTTP/1.1", b"GET / HTTP/1.2"])
async def test_what_is_no_request_is_none_behind_one(serve: Serve, line: bytes) -> None:
    served = await serve(Recorder())
    async with await Wire.to(served.address) as wire:
        assert (await wire.ask(get())).status == 200
        assert (await wire.ask(get().replace(b"GET / HTTP/1.1", line))).status == 400
        assert await wire.ended() == b""


async def test_many_headers_are_not_remembered(serve: Serve) -> None:
    handle = Recorder()
    served = await serve(handle)
    async with await Wire.to(served.address) as wire:
        for _ in range(2):
            assert (await wire.ask(get("/", "A: " + "a" * MAX_KNOWN_BYTES))).status == 200
    first, second = handle.requests
    assert first.headers is not second.headers and first.headers == second.headers
