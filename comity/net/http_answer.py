"""From the parts of an HTTP answer to `ports.Answer`: one answer gathered whole, within its bounds.

Owns the parser of one answer (httptools, which is llhttp), the bounds of its head and body, and the undoing
of compression. Never looks at what an answer means, and knows no connection: bytes are handed to it.
"""

from __future__ import annotations

import zlib

import httptools

from comity.ports import Answer

#: Bytes of one header field, and the fields of one answer.
MAX_HEADER_BYTES = 8 * 1024
MAX_HEADERS = 100

#: Bytes of an answer that are no body: status line, header, trailers. The parser keeps the field that it
#: is at, so that one without an end must not be fed to it for ever …
MAX_HEAD_BYTES = 128 * 1024

#: … and for each byte of the body so many more, for what stands around chunks of one byte.
CHUNK_OVERHEAD = 8

#: Answers on the way to the answer (RFC 9110 §15.2), such as 103 Early Hints.
MAX_INTERIM_ANSWERS = 10

#: Bytes of one reading that are made into plain text at once: a compressed answer is over its limit
#: before it takes much memory.
_INFLATED_AT_ONCE = 256 * 1024

#: What is told of a compressed body by `Content-Encoding`; nothing else is read, for nothing is asked for.
_COMPRESSED = frozenset({"gzip", "x-gzip", "deflate"})

#: Answers that have no body, whatever their header says (RFC 9112 §6.3).
_BODILESS = frozenset({204, 304})


class NoHttp(Exception):
    """What came is no valid HTTP answer; the text says why."""


class TooLarge(Exception):
    """The body is over the limit."""


class IncomingAnswer:
    """One answer on its way in. Its methods named `on_…` are the parser's to call."""

    __slots__ = (
        "_chunks",
        "_failure",
        "_headers",
        "_inflate",
        "_interim",
        "_max_bytes",
        "_parser",
        "_size",
        "_to_head",
        "_wire_size",
        "has_head",
        "keep_alive",
        "received",
        "status",
        "whole",
    )

    def __init__(self, method: str, max_bytes: int) -> None:
        """The answer to a request with `method`; of its body, plain text, `max_bytes` are read."""
        self._to_head = method == "HEAD"
        self._max_bytes = max_bytes
        self._parser = httptools.HttpResponseParser(self)
        self._headers: list[tuple[bytes, bytes]] = []
        self._chunks: list[bytes] = []
        #: Bytes of the body: as plain text, and as they came.
        self._size = self._wire_size = 0
        self._interim = 0
        self._inflate: zlib._Decompress | None = None
        self._failure: Exception | None = None
        #: Bytes that came for it, of any kind.
        self.received = 0
        self.status = 0
        self.has_head = False
        self.whole = False
        #: Whether its connection may be used again; known once it is whole.
        self.keep_alive = False

    # -- while it comes

    def feed(self, data: bytes) -> None:
        """More of the connection's bytes; sets `whole`. Raises NoHttp, TooLarge."""
        self.received += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            raise NoHttp("it wants to speak another protocol") from None
        except httptools.HttpParserError as error:
            self.keep_alive = False
            if not self.whole:  # else it is what came behind the answer
                raise self._failure or NoHttp(str(error)) from None
        if self.received - self._wire_size > MAX_HEAD_BYTES + CHUNK_OVERHEAD * self._wire_size:
            raise NoHttp("too much of it is no body")

    def end(self) -> bool:
        """The connection ended; whether the answer is whole by that (RFC 9112 §6.3, the last rule)."""
        if not self.whole and self.has_head and self._lasts_to_the_end():
            self._finish()
            self.keep_alive = False
        return self.whole

    def answer(self, peer_certificate: bytes | None) -> Answer:
        """The whole answer."""
        headers: dict[str, str] = {}
        for raw_name, raw_value in self._headers:
            name, value = (
                raw_name.decode("latin-1").lower(),
                raw_value.decode("utf-8", "replace").strip(" \t"),
            )
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        chunks = self._chunks
        body = (chunks[0] if len(chunks) == 1 else b"".join(chunks)) if chunks else b""
        return Answer(self.status, headers, body, peer_certificate)

    # -- the parser's

    def on_message_begin(self) -> None:
        if self.whole:
            self._fail(NoHttp("more than one answer came"))

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.has_head:
            return  # a trailer: nothing that we know of is told so late
        if len(name) + len(value) > MAX_HEADER_BYTES or len(self._headers) >= MAX_HEADERS:
            self._fail(NoHttp("a header field is too long, or there are too many"))
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        status = self.status = self._parser.get_status_code()
        if status < 200:
            self._interim += 1
            if status < 100 or status == 101 or self._interim > MAX_INTERIM_ANSWERS:
                self._fail(NoHttp("it wants to speak another protocol, or never answers"))
            return
        self.has_head = True
        if self._to_head or status in _BODILESS:
            # The parser would wait for what the header announces.
            self.whole = True
            self.keep_alive = not self._to_head and self._field(b"content-length") in (None, b"0")
            return
        declared = self._field(b"content-length")
        coding = self._field(b"transfer-encoding")
        if coding is not None and (coding.lower() != b"chunked" or declared is not None):
            self._fail(NoHttp("it is not told where its body ends"))
        if declared is not None and int(declared) > self._max_bytes:
            self._fail(TooLarge())
        encoding = (self._field(b"content-encoding") or b"identity").decode("latin-1").lower()
        if encoding in _COMPRESSED:
            self._inflate = zlib.decompressobj(zlib.MAX_WBITS | 32)  # gzip or zlib, as it begins
        elif encoding != "identity":
            self._fail(NoHttp("it is encoded in a way that was not asked for"))

    def on_body(self, chunk: bytes) -> None:
        self._wire_size += len(chunk)
        if self.whole:
            return  # of an answer that has none
        if self._inflate is None:
            self._add(chunk)
            return
        try:
            while not self._inflate.eof:
                plain = self._inflate.decompress(chunk, _INFLATED_AT_ONCE)
                chunk = self._inflate.unconsumed_tail
                self._add(plain)
                if not chunk and len(plain) < _INFLATED_AT_ONCE:
                    break
        except zlib.error:
            self._fail(NoHttp("its body is not compressed as it says"))

    def on_message_complete(self) -> None:
        if not self.has_head:  # an answer on the way
            self._headers.clear()
        elif not self.whole:
            self.keep_alive = self._parser.should_keep_alive()
            self._finish()

    # -- within

    def _add(self, plain: bytes) -> None:
        self._size += len(plain)
        if self._size > self._max_bytes:
            self._fail(TooLarge())
        if plain:
            self._chunks.append(plain)

    def _finish(self) -> None:
        if self._inflate is not None and self._wire_size and not self._inflate.eof:
            self._fail(NoHttp("its compressed body breaks off"))
        self.whole = True

    def _field(self, wanted: bytes) -> bytes | None:
        """The value of a header field that stands there once; else all of them."""
        found = [value.strip(b" \t") for name, value in self._headers if name.lower() == wanted]
        return b",".join(found) if found else None

    def _lasts_to_the_end(self) -> bool:
        return self._field(b"content-length") is None and self._field(b"transfer-encoding") is None

    def _fail(self, failure: Exception) -> None:
        """End the parsing; the parser wraps what is raised within it."""
        self._failure = self._failure or failure
        raise failure
