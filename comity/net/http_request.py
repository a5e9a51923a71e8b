"""From the parts of an HTTP request to `ports.Request`: one request gathered whole, within its bounds.

Owns the bounds of head and body, and the raw form of path, query and headers. Never looks at what a
request means, and never answers: what cannot be read becomes `Refused`, which is turned into an answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from comity.ports import Headers, Request

#: Bytes of the request line. A sync filter may stand in the query, and a backfill names
#: dozens of events there.
MAX_LINE_BYTES = 32 * 1024

#: Bytes of one header field; X-Matrix and bearer tokens take a few hundred.
MAX_HEADER_BYTES = 8 * 1024

#: Header fields of one request.
MAX_HEADERS = 100

#: Seconds a body may take before its speed is looked at …
BODY_GRACE_SECONDS = 30.0

#: … and bytes a second it must have come with on average after that. Together they end a
#: client that dribbles a body to hold a connection and its memory.
BODY_MINIMUM_RATE = 8 * 1024

#: Bytes of all bodies being read or served at once, over all connections: what memory the
#: unauthenticated can make this process hold.
MAX_BUFFERED_BYTES = 512 * 1024 * 1024

NO_HTTP = "That is not a valid HTTP request"


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """What a body may be: its size, and the seconds before its speed is looked at."""

    max_bytes: int
    grace_seconds: float = BODY_GRACE_SECONDS


@dataclass(frozen=True, slots=True)
class Origin:
    """What all requests of one listener have in common.

    `nameless` is what `Request.remote` says when the peer has no IP address: "unix" for a
    Unix socket; over TCP it means that the peer has gone already, and must not look the same.
    """

    serves: frozenset[str]
    asks_certificate: bool
    nameless: str


class Refused(Exception):
    """A request that cannot be read: the status, and a sentence the client may see."""

    def __init__(self, status: int, text: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.headers = headers or {}


class BodyBudget:
    """How many bytes of bodies the process holds, bounded by MAX_BUFFERED_BYTES."""

    def __init__(self, limit: int = MAX_BUFFERED_BYTES) -> None:
        self._limit = limit
        self._held = 0

    def take(self, count: int) -> None:
        """Hold so many bytes more. Raises Refused."""
        if self._held + count > self._limit:
            raise Refused(503, "The server is busy with other uploads; try again soon", {"retry-after": "5"})
        self._held += count

    def give_back(self, count: int) -> None:
        """Hold so many bytes less."""
        self._held -= count


class Incoming:
    """One request on its way in; `close` gives back the memory that its body holds.

    `has_head`: its head is whole. `body_too_large`: its body is over the limit and was not read.
    """

    __slots__ = (
        "_budget",
        "_chunks",
        "_declared",
        "_headers",
        "_limits",
        "_target",
        "body_too_large",
        "has_head",
        "head_size",
        "keep_alive",
        "method",
        "old",
        "size",
    )

    def __init__(self, budget: BodyBudget, limits: BodyLimits) -> None:
        self._budget = budget
        self._limits = limits
        self._target = b""
        self._headers = Headers()
        self._chunks: list[bytes] = []
        self._declared = 0
        #: Bytes of the head so far, but for what stands between its parts; and of the body.
        self.head_size = 0
        self.size = 0
        self.method = ""
        #: Whether it speaks HTTP/1.0, and whether the connection may go on behind it.
        self.old = False
        self.keep_alive = False
        self.has_head = False
        self.body_too_large = False

    def known(self, target: bytes, headers: Headers) -> Incoming:
        """A GET without a body, whole, with headers that were taken before; returned for chaining."""
        self._target, self._headers = target, headers
        self.method, self.keep_alive, self.has_head = "GET", True, True
        return self

    # -- while it comes

    def add_target(self, part: bytes) -> None:
        """More of the request line's target. Raises Refused."""
        self._target += part
        self.head_size += len(part)
        if len(self._target) > MAX_LINE_BYTES:
            raise Refused(400, f"The path and query of a request have at most {MAX_LINE_BYTES} bytes")

    def add_header(self, name: bytes, value: bytes) -> None:
        """One header field. Raises Refused."""
        headers = self._headers
        if len(name) + len(value) > MAX_HEADER_BYTES or self._declared >= MAX_HEADERS:
            raise Refused(
                400, f"A request has at most {MAX_HEADERS} headers, of at most {MAX_HEADER_BYTES} bytes each"
            )
        self._declared += 1
        self.head_size += len(name) + len(value)
        key, text = name.decode("latin-1").lower(), value.decode("utf-8", "replace")
        if key in headers:
            text = f"{headers[key]}{'; ' if key == 'cookie' else ', '}{text}"
        headers[key] = text

    def end_head(self, method: bytes, *, old: bool, keep_alive: bool) -> None:
        """The head is whole. Raises Refused for what a body may not be; sets `body_too_large`."""
        self.method, self.old, self.keep_alive, self.has_head = method.decode("ascii"), old, keep_alive, True
        headers = self._headers
        has_body = "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
        if has_body and headers.get("content-encoding", "identity").lower() not in ("", "identity"):
            # Decompressing for strangers is a way to make much work out of few bytes, and
            # nothing in Matrix asks for it. RFC 9110 §15.5.16 names the header.
            raise Refused(415, "Send the body without Content-Encoding", {"accept-encoding": "identity"})
        declared = headers.get("content-length")
        if declared is not None:
            if not (declared.isascii() and declared.isdigit()):
                raise Refused(400, "The Content-Length of the request is no number")
            self.body_too_large = int(declared) > self._limits.max_bytes

    @property
    def target(self) -> bytes:
        """The request line's target so far, as sent."""
        return self._target

    @property
    def headers(self) -> Headers:
        """The headers so far; not to be changed."""
        return self._headers

    @property
    def is_simple(self) -> bool:
        """Whether it is a GET of HTTP/1.1 for a plain path that has no body and keeps the connection."""
        headers = self._headers
        return (
            self.method == "GET"
            and self._target.startswith(b"/")
            and self._target.isascii()
            and self.keep_alive
            and not self.old
            and headers.get("content-length", "0") == "0"
            and "transfer-encoding" not in headers
            and "expect" not in headers
        )

    @property
    def asks_first(self) -> bool:
        """Whether the client waits to be told to send its body (RFC 9110 §10.1.1)."""
        return self._headers.get("expect", "").lower() == "100-continue" and not self.old

    def add_body(self, chunk: bytes) -> None:
        """More of the body. Raises Refused; sets `body_too_large` and lets the body go."""
        if self.size + len(chunk) > self._limits.max_bytes:
            self.body_too_large = True
            self._chunks.clear()
            self.close()
            return
        self._budget.take(len(chunk))
        self.size += len(chunk)
        self._chunks.append(chunk)

    def allowed_seconds(self) -> float:
        """How long the body may have taken so far."""
        return self._limits.grace_seconds + self.size / BODY_MINIMUM_RATE

    def close(self) -> None:
        """The request is over."""
        self._budget.give_back(self.size)
        self.size = 0

    # -- once it is here

    @property
    def path(self) -> str:
        """The path without the query, where tokens may be; for the log."""
        return self._target.partition(b"?")[0].decode("ascii", "backslashreplace")

    def request(self, origin: Origin, remote: str, certificate: bytes | None) -> Request:
        """The whole request. Raises Refused."""
        path, query = _split_target(self._target)
        chunks = self._chunks
        return Request(
            method=self.method,
            path=path,
            query=query,
            headers=self._headers,
            body=(chunks[0] if len(chunks) == 1 else b"".join(chunks)) if chunks else b"",
            remote=remote,
            serves=origin.serves,
            peer_certificate=certificate,
            body_too_large=self.body_too_large,
        )


def _split_target(target: bytes) -> tuple[str, str]:
    """The request target as path and query, each as sent (RFC 9112 §3.2)."""
    try:
        text = target.decode("ascii")
    except UnicodeDecodeError:
        raise Refused(400, "The path of the request must be percent-encoded ASCII") from None
    path, _, query = text.partition("?")
    if not path.startswith("/"):
        scheme, separator, rest = path.partition("://")
        if separator and scheme.lower() in ("http", "https"):  # absolute form, as sent to proxies
            path = "/" + rest.partition("/")[2]
    return path, query
