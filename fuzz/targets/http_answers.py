"""Target: bytes of an HTTP answer, from another server or whoever stands at its address."""

from __future__ import annotations

from comity.net.http_answer import MAX_HEADERS, IncomingAnswer, NoHttp, TooLarge
from fuzz.target import Target, require

MAX_BODY = 1_000


def check_http_answers(data: bytes) -> str:
    """The bytes, at once and in pieces, as an answer to GET; then to HEAD."""
    whole = _read(data, len(data) or 1)
    for piece in (1, 2 + len(data) // 2):
        require(_read(data, piece) == whole, "how bytes are cut into packets does not matter")
    _read(data, len(data) or 1, "HEAD")
    return whole[0]


def _read(data: bytes, piece: int, method: str = "GET") -> tuple[str, int, object, bytes]:
    incoming = IncomingAnswer(method, MAX_BODY)
    try:
        for start in range(0, len(data), piece):
            incoming.feed(data[start : start + piece])
            if incoming.whole and not incoming.keep_alive:
                break  # nothing more of this connection is looked at
        if not incoming.end():
            return "not whole", 0, None, b""
    except NoHttp:
        return "no answer", 0, None, b""
    except TooLarge:
        return "too large", 0, None, b""
    answer = incoming.answer(None)
    require(200 <= answer.status <= 999, "a status is that of an answer")
    require(len(answer.body) <= MAX_BODY, "a body is within its limit")
    require(method != "HEAD" or not answer.body, "an answer to HEAD has no body")
    require(len(answer.headers) <= MAX_HEADERS, "headers are within their limit")
    require(all(name == name.lower() for name in answer.headers), "headers are found by their names")
    return f"{answer.status // 100}xx", answer.status, dict(answer.headers), answer.body


TARGETS = (
    Target(
        "http_answers",
        check_http_answers,
        separator=b"\r\n",
        heads=(b"HTTP/1.1 200 OK", b"HTTP/1.0 404 Not Found", b"HTTP/1.1 204 No Content", b"HTTP/1.1 103 E",
               b"HTTP/1.1 101 Switching Protocols"),
        words=(
            "\r\n", "\r\n\r\n", "Content-Length: 3\r\n", "Transfer-Encoding: chunked\r\n",
            "3\r\nabc\r\n0\r\n\r\n", "0\r\nA: b\r\n\r\n", "Connection: close\r\n", "Connection: upgrade\r\n",
            "Upgrade: h2\r\n", "Content-Encoding: gzip\r\n", "Content-Encoding: deflate\r\n",
            "HTTP/1.1 200 OK\r\n", "HTTP/1.1 100 Continue\r\n\r\n",
        ),
    ),
)  # fmt: skip
