"""The HTTP server over real sockets: what reaches `handle`, and what comes back."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from comity.net.http_request import BodyBudget, Refused
from comity.net.http_server import HttpServer, parse_bind
from comity.ports import Request, Response, request_id
from tests.net.serving import CLIENT, Recorder, Serve, Wire, get, put


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
