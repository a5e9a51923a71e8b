"""The HTTP server over real sockets: what reaches `handle`, and what comes back."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from comity.net.http_request import BodyBudget, Refused
from comity.net.http_server import HttpServer, parse_bind, server_ssl_context
from comity.ports import Request, Response, request_id
from tests.net.authority import Authority
from tests.net.serving import CLIENT, PATIENCE, Serve, Wire, get, put, within_patience


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


async def test_a_request_arrives_as_it_was_sent(serve: Serve) -> None:
    handle = Recorder()
    served = await serve(handle)
    async with await Wire.to(served.address) as wire:
        reply = await wire.ask(
            b"POST /_matrix/%21a%2Fb//../c;d?x=%20+1&x=2&e= HTTP/1.1\r\nHost: here\r\n"
            b"X-Thing: one\r\nx-thing: two\r\nContent-Length: 5\r\n\r\nhello"
        )
    request = handle.only
    assert (request.method, request.path, request.query) == (
        "POST",
        "/_matrix/%21a%2Fb//../c;d",
        "x=%20+1&x=2&e=",
    )
    assert request.headers["host"] == "here"
    assert request.headers["x-thing"] == "one, two"
    assert request.body == b"hello"
    assert request.remote == "127.0.0.1"
    assert request.serves == CLIENT
    assert request.peer_certificate is None
    assert not request.body_too_large
    assert reply.status == 200
    assert reply.body == b"{}"
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["server"] == "comity"
    assert reply.headers["date"].endswith(" GMT")


async def test_the_absolute_form_of_a_target_is_cut_to_its_path(serve: Serve) -> None:
    handle = Recorder()
    served = await serve(handle)
    async with await Wire.to(served.address) as wire:
        await wire.ask(get("http://elsewhere.test:80/a/b?c=d"))
    assert (handle.only.path, handle.only.query) == ("/a/b", "c=d")


async def test_a_path_that_is_not_encoded_is_refused(serve: Serve) -> None:
    handle = Recorder()
    served = await serve(handle)
    async with await Wire.to(served.address) as wire:
        reply = await wire.ask("GET /ä HTTP/1.1\r\nHost: here\r\n\r\n".encode())
    assert reply.status == 400
    assert json.loads(reply.body)["errcode"] == "M_UNKNOWN"
    assert handle.requests == []


async def test_a_header_that_is_not_utf_8_can_be_encoded_again(serve: Serve) -> None:
    handle = Recorder()
    served = await serve(handle)
    async with await Wire.to(served.address) as wire:
        await wire.ask(b"GET / HTTP/1.1\r\nHost: here\r\nX-Thing: \xff\xc3\xa4\r\n\r\n")
    assert handle.only.headers["x-thing"] == "\ufffdä"
    handle.only.headers["x-thing"].encode()


async def test_each_request_has_an_identifier_of_its_own(serve: Serve) -> None:
    handle = Recorder()
    served = await serve(handle)
    async with await Wire.to(served.address) as wire:
        await wire.ask(get())
        await wire.ask(get())
    assert len(set(handle.request_ids)) == 2
    assert all(handle.request_ids)
    assert request_id.get() == ""


async def test_listeners_say_what_they_serve(tmp_path: Path) -> None:
    handle = Recorder()
    server = HttpServer(handle, max_body_bytes=100)
    path = tmp_path / "comity.sock"
    first = await server.listen("127.0.0.1:0", frozenset({"federation"}), None)
    second = await server.listen("[::1]:0", frozenset({"client", "admin"}), None)
    third = await server.listen(f"unix:{path}", frozenset(), None)
    assert second.startswith("[::1]:")
    assert third == f"unix:{path}"
    for address in (first, second, third):
        assert not address.endswith(":0")
        async with await Wire.to(address) as wire:
            assert (await wire.ask(get())).status == 200
    assert [request.serves for request in handle.requests] == [{"federation"}, {"client", "admin"}, set()]
    assert [request.remote for request in handle.requests] == ["127.0.0.1", "::1", "unix"]
    await server.close(0)
    assert not path.exists()


async def test_a_socket_that_a_successor_put_in_place_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "comity.sock"
    old, new = HttpServer(Recorder(), max_body_bytes=1), HttpServer(Recorder(), max_body_bytes=1)
    await old.listen(f"unix:{path}", CLIENT, None)
    await new.listen(f"unix:{path}", CLIENT, None)
    await old.close(0)
    async with await Wire.to(f"unix:{path}") as wire:
        assert (await wire.ask(get())).status == 200
    await new.close(0)


async def test_an_address_in_use_is_an_error_and_leaves_nothing_behind(serve: Serve) -> None:
    served = await serve(Recorder())
    server = HttpServer(Recorder(), max_body_bytes=1)
    with pytest.raises(OSError, match="address already in use"):
        await server.listen(served.address, CLIENT, None)
    await server.close(0)


@pytest.mark.parametrize(
    ("bind", "expected"),
    [
        ("127.0.0.1:8008", ("127.0.0.1", 8008)),
        ("[::1]:0", ("::1", 0)),
        ("localhost:65535", ("localhost", 65535)),
    ],
)
def test_addresses_to_listen_on(bind: str, expected: tuple[str, int]) -> None:
    assert parse_bind(bind) == expected


@pytest.mark.parametrize(
    "bind", ["", "8008", ":8008", "localhost", "::1:8008", "a:65536", "a:-1", "a:²", "a:"]
)
def test_what_is_no_address_to_listen_on(bind: str) -> None:
    with pytest.raises(ValueError, match=r"host:port|brackets"):
        parse_bind(bind)


# Bodies


async def test_a_body_over_the_limit_is_not_read(serve: Serve) -> None:
    handle = Recorder(Response(413, b"too large"))
    served = await serve(handle, max_body_bytes=10)
    async with await Wire.to(served.address) as wire:
        wire.send(put(b"", "Content-Length: 11").replace(b"Content-Length: 0\r\n", b""))  # and no body at all
        reply = await wire.reply()
        assert reply.headers["connection"] == "close"
    assert reply.status == 413
    assert handle.only.body_too_large
    assert handle.only.body == b""


async def test_a_body_of_unknown_length_is_cut_at_the_limit(serve: Serve) -> None:
    handle = Recorder(Response(413, b"too large"))
    served = await serve(handle, max_body_bytes=10)
    async with await Wire.to(served.address) as wire:
        wire.send(put(b"", "Transfer-Encoding: chunked"))
        wire.send(b"6\r\n123456\r\n6\r\n123456\r\n")  # and no end
        assert (await wire.reply()).status == 413
    assert handle.only.body_too_large
    assert handle.only.body == b""


async def test_a_body_just_at_the_limit_is_read(serve: Serve) -> None:
    handle = Recorder()
    served = await serve(handle, max_body_bytes=300_000)
    body = bytes(range(250)) * 1200
    async with await Wire.to(served.address) as wire:
        await wire.ask(put(body))
        wire.send(put(b"", "Transfer-Encoding: chunked"))
        await wire.ask(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
    assert [request.body == body for request in handle.requests] == [True, True]
    assert not any(request.body_too_large for request in handle.requests)


async def test_a_body_that_dribbles_is_given_up(serve: Serve) -> None:
    handle = Recorder()
    served = await serve(handle, body_grace_seconds=0.05)
    async with await Wire.to(served.address) as wire:
        wire.send(put(b"", "Content-Length: 100").replace(b"Content-Length: 0\r\n", b"") + b"a")
        reply = await wire.reply()
    assert reply.status == 408
    assert handle.requests == []


async def test_a_compressed_body_is_refused(serve: Serve) -> None:
    handle = Recorder()
    served = await serve(handle)
    async with await Wire.to(served.address) as wire:
        reply = await wire.ask(put(b"anything", "Content-Encoding: gzip"))
    assert reply.status == 415
    assert reply.headers["accept-encoding"] == "identity"
    assert handle.requests == []


async def test_a_client_that_asks_first_is_told_to_go_on(serve: Serve) -> None:
    handle = Recorder()
    served = await serve(handle)
    async with await Wire.to(served.address) as wire:
        wire.send(
            put(b"", "Content-Length: 5", "Expect: 100-continue").replace(b"Content-Length: 0\r\n", b"")
        )
        assert (await wire.reply()).status == 100
        assert (await wire.ask(b"hello")).status == 200
    assert handle.only.body == b"hello"


async def test_a_broken_body_is_refused(serve: Serve) -> None:
    handle = Recorder()
    served = await serve(handle)
    async with await Wire.to(served.address) as wire:
        reply = await wire.ask(put(b"", "Transfer-Encoding: chunked") + b"no length\r\n")
    assert reply.status == 400
    assert handle.requests == []


def test_the_memory_for_bodies_is_bounded() -> None:
    budget = BodyBudget(10)
    budget.take(6)
    with pytest.raises(Refused) as refused:
        budget.take(5)
    assert refused.value.status == 503
    budget.give_back(6)
    budget.take(10)


# Answers


async def test_a_failing_handle_says_nothing_of_its_failure(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    async def handle(request: Request) -> Response:
        raise LookupError("a secret of the house")

    served = await serve(handle)
    async with await Wire.to(served.address) as wire:
        reply = await wire.ask(get("/path?access_token=abc"))
        assert (await wire.ask(get())).status == 500  # and the connection lives on
    assert reply.status == 500
    assert json.loads(reply.body) == {"errcode": "M_UNKNOWN", "error": "Internal server error"}
    assert reply.headers["content-type"] == "application/json"
    assert "a secret of the house" in caplog.text
    assert "Traceback" in caplog.text
    assert "access_token" not in caplog.text


async def test_a_header_cannot_be_smuggled_into_an_answer(serve: Serve) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"never"

    for response in (
        Response(200, b"{}", {"x-thing": "a\r\nSet-Cookie: b"}),
        Response(200, body(), {"x-thing": "a\r\nSet-Cookie: b"}),
    ):
        served = await serve(Recorder(response))
        async with await Wire.to(served.address) as wire:
            reply = await wire.ask(get())
        assert reply.status == 500
        assert "set-cookie" not in reply.headers


async def test_what_is_sent_around_a_body(serve: Serve) -> None:
    served = await serve(
        Recorder(Response(200, b"12345", {"Content-Length": "3", "connection": "upgrade", "X-Other": "kept"}))
    )
    async with await Wire.to(served.address) as wire:
        reply = await wire.ask(get())
        assert reply.headers["content-length"] == "5"
        assert "connection" not in reply.headers
        assert reply.headers["x-other"] == "kept"
        wire.send(get().replace(b"GET", b"HEAD", 1))
        reply = await wire.reply(to_head=True)
        assert reply.headers["content-length"] == "5"
        assert (await wire.ask(get())).body == b"12345"  # no body followed the HEAD


async def test_no_content_has_no_body(serve: Serve) -> None:
    served = await serve(Recorder(Response(204)))
    async with await Wire.to(served.address) as wire:
        reply = await wire.ask(get())
        assert "content-length" not in reply.headers
        assert (await wire.ask(get())).status == 204


async def test_requests_in_a_row_over_one_connection(serve: Serve) -> None:
    handle = Recorder()
    served = await serve(handle)
    async with await Wire.to(served.address) as wire:
        wire.send(get("/1") + get("/2") + put(b"body") + get("/4"))
        for _ in range(4):
            assert (await wire.reply()).status == 200
    assert [request.path for request in handle.requests] == ["/1", "/2", "/", "/4"]


@pytest.mark.parametrize(
    ("data", "connection"),
    [
        (get("/", "Connection: close"), "close"),
        (b"GET / HTTP/1.0\r\n\r\n", "close"),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "keep-alive"),
    ],
)
async def test_a_connection_ends_when_the_client_wants_it(serve: Serve, data: bytes, connection: str) -> None:
    served = await serve(Recorder())
    async with await Wire.to(served.address) as wire:
        reply = await wire.ask(data)
        assert reply.headers["connection"] == connection
        if connection == "close":
            assert await wire.ended() == b""
        else:
            assert (await wire.ask(data)).status == 200


async def test_a_large_answer_arrives_whole(serve: Serve) -> None:
    body = bytes(range(256)) * 20_000
    served = await serve(Recorder(Response(200, body)))
    async with await Wire.to(served.address) as wire:
        assert (await wire.ask(get())).body == body


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
