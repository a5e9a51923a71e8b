"""HTTP answers as bytes: what is read, within what bounds, however the bytes are cut into packets."""

from __future__ import annotations

import gzip
import zlib

import pytest

from comity.net.http_answer import MAX_HEAD_BYTES, MAX_HEADERS, IncomingAnswer, NoHttp, TooLarge
from comity.ports import Answer

OK = b"HTTP/1.1 200 OK\r\n"
LIMIT = 100


def read(data: bytes, *, method: str = "GET", ends: bool = False, piece: int = 1 << 30) -> IncomingAnswer:
    incoming = IncomingAnswer(method, LIMIT)
    for start in range(0, len(data), piece):
        incoming.feed(data[start : start + piece])
    if ends:
        incoming.end()
    return incoming


def with_body(body: bytes, *lines: str) -> bytes:
    head = "".join(f"{line}\r\n" for line in (*lines, f"Content-Length: {len(body)}"))
    return OK + head.encode() + b"\r\n" + body


def chunked(*chunks: bytes, trailer: bytes = b"") -> bytes:
    parts = b"".join(b"%x;a=b\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return OK + b"Transfer-Encoding: chunked\r\n\r\n" + parts + b"0\r\n" + trailer + b"\r\n"


INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"


@pytest.mark.parametrize("piece", [1, 7, 1 << 30])
@pytest.mark.parametrize(
    ("data", "status", "body", "keep_alive"),
    [
        (with_body(b"{}"), 200, b"{}", True),
        (with_body(b"{}", "Connection: close"), 200, b"{}", False),
        (with_body(b"{}").replace(b"1.1", b"1.0", 1), 200, b"{}", False),
        (with_body(b"{}", "Connection: keep-alive").replace(b"1.1", b"1.0", 1), 200, b"{}", True),
        # Apache offers this to everybody.
        (with_body(b"{}", "Upgrade: h2", "Connection: Upgrade"), 200, b"{}", True),
        (INTERIM + with_body(b"{}"), 200, b"{}", True),
        (chunked(b"{", b"}", trailer=b"X-Late: 1\r\n"), 200, b"{}", True),
        (chunked(), 200, b"", True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", True),
        (b"HTTP/1.1 304 Not Modified\r\n\r\n", 304, b"", True),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\n", 304, b"", False),
        (
            with_body(gzip.compress(b"hello" * 20, mtime=0), "Content-Encoding: gzip"),
            200,
            b"hello" * 20,
            True,
        ),
        (with_body(zlib.compress(b"hello"), "Content-Encoding: deflate"), 200, b"hello", True),
        (with_body(b"", "Content-Encoding: gzip"), 200, b"", True),
    ],
)
def test_what_is_read(data: bytes, status: int, body: bytes, keep_alive: bool, piece: int) -> None:
    incoming = read(data, piece=piece)
    assert incoming.whole
    answer = incoming.answer(b"der")
    assert (answer.status, answer.body, answer.peer_certificate) == (status, body, b"der")
    assert incoming.keep_alive is keep_alive
    assert "x-late" not in answer.headers and "link" not in answer.headers


def test_headers_of_one_name_are_joined() -> None:
    answer = read(with_body(b"", "X-A: one", "x-a: \t two\t ", "X-B: ä")).answer(None)
    assert answer == Answer(200, {"x-a": "one, two", "x-b": "ä", "content-length": "0"}, b"")


def test_the_answer_to_a_head_has_no_body() -> None:
    incoming = read(OK + b"Content-Length: 5000\r\n\r\n", method="HEAD")
    assert incoming.whole and not incoming.keep_alive
    assert incoming.answer(None).headers["content-length"] == "5000"


@pytest.mark.parametrize("ends", [False, True])
def test_a_body_without_a_length_lasts_to_the_end(ends: bool) -> None:
    incoming = read(OK + b"\r\nabc", ends=ends)
    assert (incoming.whole, incoming.keep_alive) == (ends, False)
    assert incoming.answer(None).body == b"abc"


@pytest.mark.parametrize(
    "data", [with_body(b"abc")[:-1], chunked(b"abc")[:-1], OK, with_body(b"abc")[:-4], b""]
)
def test_the_end_makes_nothing_whole_that_tells_its_length(data: bytes) -> None:
    assert not read(data, ends=True).whole


def test_what_comes_behind_an_answer_ends_the_connection() -> None:
    for more in (with_body(b"{}"), b"junk", b"\x00"):
        incoming = read(with_body(b"{}") + more)
        assert incoming.whole and incoming.answer(None).body == b"{}"
        assert not incoming.keep_alive


@pytest.mark.parametrize(
    "data",
    [
        b"220 mail.test ESMTP\r\n\r\n",
        b"HTTP/1.1 099 What\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 11,
        OK + b"Content-Length: +2\r\n\r\n{}",
        OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
        OK + b"Content-Length: 99999999999999999999999\r\n\r\n",
        OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: gzip\r\n\r\nabc",
        OK + b"Transfer-Encoding: chunked, chunked\r\n\r\nabc",
        OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        OK + b"X: " + b"a" * 9_000 + b"\r\n\r\n",
        OK + b"X: a\r\n" * (MAX_HEADERS + 1) + b"\r\n",
        with_body(b"abc", "Content-Encoding: gzip"),
        with_body(b"abc", "Content-Encoding: br"),
        with_body(gzip.compress(b"hello", mtime=0)[:-3], "Content-Encoding: gzip"),
        # What has no end, though each part of it is allowed.
        OK + b"X: " + b"a" * (MAX_HEAD_BYTES + 10),
        b"HTTP/1.1 200 " + b"a" * (MAX_HEAD_BYTES + 10),
        OK + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"a" * (MAX_HEAD_BYTES + 10),
        OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: " + b"a" * (MAX_HEAD_BYTES + 10),
    ],
)  # fmt: skip
def test_what_is_no_answer(data: bytes) -> None:
    for piece in (1 << 30, 1000):
        with pytest.raises(NoHttp):
            read(data, piece=piece)


@pytest.mark.parametrize(
    "data",
    [
        OK + b"Content-Length: 101\r\n\r\n",
        OK + b"\r\n" + bytes(101),
        chunked(bytes(50), bytes(51)),
        with_body(gzip.compress(bytes(5_000_000), mtime=0), "Content-Encoding: gzip"),
    ],
)
def test_what_is_too_large(data: bytes) -> None:
    for piece in (1 << 30, 10):
        with pytest.raises(TooLarge):
            read(data, piece=piece)


def test_a_body_in_tiny_chunks_is_read() -> None:
    assert read(chunked(*[b"a"] * LIMIT), piece=3).answer(None).body == b"a" * LIMIT


def test_a_compressed_body_that_fills_what_is_inflated_at_once() -> None:
    """What the inflater still holds when its input is used up belongs to the body."""
    plain = bytes(256 * 1024)
    incoming = IncomingAnswer("GET", len(plain))
    incoming.feed(with_body(gzip.compress(plain), "Content-Encoding: gzip"))
    assert incoming.answer(None).body == plain
