"""The HTTP server's connections: streams, clients that go away, bounds, TLS, the shutdown."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
from collections.abc import AsyncIterator

import pytest

from comity.net.http_protocol import MAX_SENT_AHEAD
from comity.net.http_server import server_ssl_context
from comity.ports import Request, Response
from tests.net.authority import Authority
from tests.net.serving import PATIENCE, Recorder, Serve, Wire, get, put, within_patience

# Streams


class Stream:
    """A body that tells when it was closed."""

    def __init__(self, *chunks: bytes | Exception) -> None:
        self.chunks = chunks
        self.closed = asyncio.Event()

    async def body(self) -> AsyncIterator[bytes]:
        try:
            for chunk in self.chunks:
                if isinstance(chunk, Exception):
                    raise chunk
                yield chunk
        finally:
            self.closed.set()


async def test_a_stream_is_sent_in_chunks(serve: Serve) -> None:
    stream = Stream(b"one", b"", b"two")
    served = await serve(Recorder(Response(200, stream.body(), {"content-type": "text/plain"})))
    async with await Wire.to(served.address) as wire:
        reply = await wire.ask(get())
    assert reply.body == b"onetwo"
    assert reply.headers["transfer-encoding"] == "chunked"
    assert reply.headers["content-type"] == "text/plain"
    assert stream.closed.is_set()


async def test_a_stream_of_known_length(serve: Serve) -> None:
    served = await serve(Recorder(Response(200, Stream(b"one", b"two").body(), {"content-length": "6"})))
    async with await Wire.to(served.address) as wire:
        reply = await wire.ask(get())
    assert reply.body == b"onetwo"
    assert "transfer-encoding" not in reply.headers


async def test_a_stream_is_not_begun_for_a_head(serve: Serve) -> None:
    stream = Stream(LookupError("never"))
    served = await serve(Recorder(Response(200, stream.body(), {"content-length": "6"})))
    async with await Wire.to(served.address) as wire:
        wire.send(get("/", "Connection: close").replace(b"GET", b"HEAD", 1))
        assert (await wire.reply(to_head=True)).headers["content-length"] == "6"
        assert await wire.ended() == b""


@pytest.mark.parametrize(
    ("stream", "length"),
    [
        (Stream(b"half", LookupError("the disk is gone")), None),
        (Stream(b"half"), "8"),
    ],
)
async def test_half_a_stream_is_not_taken_for_a_whole_one(
    serve: Serve, caplog: pytest.LogCaptureFixture, stream: Stream, length: str | None
) -> None:
    headers = {} if length is None else {"content-length": length}
    served = await serve(Recorder(Response(200, stream.body(), headers)))
    async with await Wire.to(served.address) as wire:
        wire.send(get())
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await wire.reply()
    assert "a streamed answer" in caplog.text


async def test_a_client_that_stops_reading_is_cut_off(serve: Serve) -> None:
    closed = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        try:
            while True:
                yield bytes(100_000)
        finally:
            closed.set()

    served = await serve(Recorder(Response(200, endless())), stall_seconds=0.05)
    async with await Wire.to(served.address) as wire:
        wire.send(get())
        await within_patience(closed)


# Clients that go away, and the end


async def test_a_client_that_goes_away_cancels_its_request(serve: Serve) -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def handle(request: Request) -> Response:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        raise AssertionError

    served = await serve(handle)
    async with await Wire.to(served.address) as wire:
        wire.send(get())
        await within_patience(begun)
    await within_patience(cancelled)


async def test_a_client_that_goes_away_closes_its_stream(serve: Serve) -> None:
    closed = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        try:
            yield b"first"
            await asyncio.Event().wait()
        finally:
            closed.set()

    served = await serve(Recorder(Response(200, body())))
    async with await Wire.to(served.address) as wire:
        wire.send(get())
        await wire.reader.readuntil(b"first")
    await within_patience(closed)


async def test_closing_lets_requests_finish(serve: Serve) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def handle(request: Request) -> Response:
        begun.set()
        await go_on.wait()
        return Response(200, b"done")

    served = await serve(handle)
    async with await Wire.to(served.address) as busy, await Wire.to(served.address) as idle:
        busy.send(get())
        await within_patience(begun)
        closing = asyncio.create_task(served.server.close(PATIENCE))
        await asyncio.sleep(0)
        go_on.set()
        reply = await busy.reply()
        assert reply.body == b"done"
        assert reply.headers["connection"] == "close"
        await closing
        assert await idle.ended() == b""
    with pytest.raises(ConnectionRefusedError):
        await Wire.to(served.address)


async def test_closing_cancels_what_does_not_finish(serve: Serve) -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def handle(request: Request) -> Response:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    served = await serve(handle)
    async with await Wire.to(served.address) as wire:
        wire.send(get())
        await within_patience(begun)
        await served.server.close(0.01)
        assert cancelled.is_set()
        assert await wire.ended() == b""


# Bounds of connections and heads


async def test_an_idle_connection_is_closed(serve: Serve) -> None:
    served = await serve(Recorder(), keepalive_seconds=0.05)
    async with await Wire.to(served.address) as silent, await Wire.to(served.address) as slow:
        slow.send(b"GET / HTTP/1.1\r\nX-Thing: never fini")
        assert await silent.ended() == b""
        assert await slow.ended() == b""


async def test_connections_are_bounded(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    served = await serve(Recorder(), max_connections=2)
    async with await Wire.to(served.address) as first, await Wire.to(served.address) as second:
        assert (await first.ask(get())).status == 200
        assert (await second.ask(get())).status == 200
        for _ in range(2):
            async with await Wire.to(served.address) as third:
                assert await third.ended() == b""
        assert (await first.ask(get())).status == 200
    assert caplog.text.count("the limit") == 1


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00 TLS to a plain port\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: here\r\nno colon\r\n\r\n",
        get("/" + "a" * 40_000),
        get("/", "X-Thing: " + "a" * 10_000),
        get("/", *(f"X-Thing-{number}: a" for number in range(200))),
        b"GET / HTTP/1.1\r\nX-Thing: " + b"a" * 200_000,
        get("/", "Content-Length: 3", "Content-Length: 4") + b"abcd",
        get("/", "Content-Length: 3", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
        get("/", "Content-Length: +3") + b"abc",
        get("/", "Transfer-Encoding: gzip") + b"abc",
    ],
)
async def test_what_is_no_request_is_refused_quietly(
    serve: Serve, caplog: pytest.LogCaptureFixture, data: bytes
) -> None:
    handle = Recorder()
    served = await serve(handle)
    async with await Wire.to(served.address) as wire:
        wire.send(data)
        reply = await wire.reply()
        assert reply.status == 400
        assert reply.headers["server"] == "comity"
        assert json.loads(reply.body)["errcode"] == "M_UNKNOWN"
        assert await wire.ended() == b""
    assert handle.requests == []
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (get("/?filter=" + "a" * 40_000), "path and query"),
        (get("/", "X-Thing: " + "a" * 10_000), "headers"),
        (get("/", *(f"X-Thing-{number}: a" for number in range(200))), "headers"),
    ],
)
async def test_what_is_too_long_is_told_so(serve: Serve, data: bytes, words: str) -> None:
    served = await serve(Recorder())
    async with await Wire.to(served.address) as wire:
        wire.send(data)
        assert words in json.loads((await wire.reply()).body)["error"]


async def test_whoever_wants_to_speak_something_else_is_answered_in_http(serve: Serve) -> None:
    handle = Recorder()
    served = await serve(handle)
    async with await Wire.to(served.address) as wire:
        wire.send(get("/", "Connection: Upgrade", "Upgrade: websocket") + b"\x81\x00")
        reply = await wire.reply()
        assert reply.status == 200
        assert reply.headers["connection"] == "close"
        assert await wire.ended() == b""
    assert len(handle.requests) == 1


async def test_what_is_sent_ahead_waits_for_what_was_sent_before(serve: Serve) -> None:
    """And it is not read on and on meanwhile."""
    go_on = asyncio.Event()
    begun: list[str] = []
    first = asyncio.Event()

    async def handle(request: Request) -> Response:
        begun.append(request.path)
        first.set()
        await go_on.wait()
        return Response(200, request.path.encode())

    served = await serve(handle, max_body_bytes=1_000_000)
    async with await Wire.to(served.address) as wire:
        wire.send(
            b"".join(put(bytes(500_000)).replace(b"PUT /", b"PUT /%d" % number) for number in range(20))
        )
        await within_patience(first)
        assert begun == ["/0"]
        go_on.set()
        assert [(await wire.reply()).body for _ in range(20)] == [b"/%d" % number for number in range(20)]


async def test_a_head_that_comes_behind_a_large_body_is_no_large_head(serve: Serve) -> None:
    served = await serve(Recorder(), max_body_bytes=1_000_000)
    async with await Wire.to(served.address) as wire:
        for _ in range(5):
            wire.send(put(bytes(250_000)) + get("/next")[:20])
            assert (await wire.reply()).status == 200
            assert (await wire.ask(get("/next")[20:])).status == 200


async def test_requests_sent_ahead_are_bounded(serve: Serve) -> None:
    handle = Recorder()
    served = await serve(handle)
    async with await Wire.to(served.address) as wire:
        wire.send(get() * 1_000)
        replies = [await wire.reply()]
        while replies[-1].status == 200:
            replies.append(await wire.reply())
        assert replies[-1].status == 400
        assert b"sent ahead" in replies[-1].body
        assert await wire.ended() == b""
    assert MAX_SENT_AHEAD <= len(handle.requests) < 1_000


async def test_a_broken_request_is_refused_after_those_before_it_are_answered(serve: Serve) -> None:
    served = await serve(Recorder())
    async with await Wire.to(served.address) as wire:
        wire.send(get("/1") + get("/2") + b"no request\r\n\r\n")
        assert [(await wire.reply()).status for _ in range(3)] == [200, 200, 400]
        assert await wire.ended() == b""


async def test_the_access_log_shows_no_query(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    served = await serve(Recorder())
    async with await Wire.to(served.address) as wire:
        await wire.ask(get("/_matrix/client/v3/sync?access_token=abc"))
    assert "GET /_matrix/client/v3/sync 200 " in caplog.text
    assert "abc" not in caplog.text


# TLS


async def test_tls_and_the_certificate_of_the_client(serve: Serve, authority: Authority) -> None:
    handle = Recorder()
    ours, theirs = authority.issue(["here.test"]), authority.issue(["there.test"])
    context = server_ssl_context(
        ours.certificate, ours.private_key, request_client_certificate=True, client_authorities=[authority.ca]
    )
    served = await serve(handle, tls=context)
    known = ssl.create_default_context(cafile=str(authority.ca))
    known.load_cert_chain(theirs.certificate, theirs.private_key)
    for client in (known, ssl.create_default_context(cafile=str(authority.ca))):
        async with await Wire.to(served.address, client, "here.test") as wire:
            assert (await wire.ask(get())).status == 200
            assert (await wire.ask(get())).status == 200
    certificates = [request.peer_certificate for request in handle.requests]
    assert certificates == [theirs.der, theirs.der, None, None]


async def test_a_client_certificate_of_a_stranger_fails_the_handshake(
    serve: Serve, authority: Authority, stranger: Authority
) -> None:
    handle = Recorder()
    ours, theirs = authority.issue(["here.test"]), stranger.issue(["there.test"])
    context = server_ssl_context(
        ours.certificate, ours.private_key, request_client_certificate=True, client_authorities=[authority.ca]
    )
    served = await serve(handle, tls=context)
    client = ssl.create_default_context(cafile=str(authority.ca))
    client.load_cert_chain(theirs.certificate, theirs.private_key)
    with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
        async with await Wire.to(served.address, client, "here.test") as wire:
            await wire.ask(get())
    assert handle.requests == []


async def test_a_client_that_speaks_an_old_tls_is_refused(serve: Serve, authority: Authority) -> None:
    ours = authority.issue(["here.test"])
    served = await serve(Recorder(), tls=server_ssl_context(ours.certificate, ours.private_key))
    client = ssl.create_default_context(cafile=str(authority.ca))
    client.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        client.minimum_version = client.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await Wire.to(served.address, client, "here.test")
