"""The only doors out of comity: clock, chance, network, names, mail, files, threads.

Every other part takes these as constructor arguments (DESIGN §6.5), so that a test or a
simulated federation can stand in the place of the machine. This module owns the shapes
and never touches the machine itself; `comity.net` opens the real doors.
"""

from __future__ import annotations

import contextvars
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol, TypeVar

T = TypeVar("T")

#: The identifier of the HTTP request being served, for the logs; empty outside a request.
request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="")


class Clock(Protocol):
    """Time. The wall clock may jump; the monotonic one may not."""

    def now_ms(self) -> int:
        """Milliseconds since the Unix epoch (an `origin_server_ts`)."""

    def monotonic(self) -> float:
        """Seconds that never go backwards; only differences mean anything."""

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds`."""


class Entropy(Protocol):
    """Chance, fit for secrets."""

    def bytes(self, count: int) -> bytes:
        """`count` unpredictable bytes."""

    def token(self, length: int) -> str:
        """`length` characters of [A-Za-z0-9]."""

    def random(self) -> float:
        """A float in [0, 1), for jitter; never for secrets."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One place to connect to, as server discovery found it (server-server §2.1).

    `host` is a DNS name or a bare IP literal (no brackets), to be resolved by the system's
    resolver; `tls_name` is what the certificate must be valid for (a DNS name, sent as SNI,
    or an IP literal, not sent); `host_header` is the value of `Host`.
    """

    host: str
    port: int
    tls_name: str
    host_header: str


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer to a request of ours. Header names are lower case.

    `peer_certificate` is the DER of the certificate that the connection was made with; `url` is where
    the answer came from in the end, where a URL was asked.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    peer_certificate: bytes | None = None
    url: str = ""


class TransportError(Exception):
    """No HTTP answer: refused, timed out, TLS failed, too large, address not allowed.

    `reached` says whether the request may have been received by the peer, `tls` whether it was the
    certificate or the handshake that failed.
    """

    def __init__(self, text: str, *, reached: bool = False, tls: bool = False) -> None:
        super().__init__(text)
        self.reached = reached
        self.tls = tls


class Transport(Protocol):
    """HTTPS to other servers."""

    async def request(
        self,
        method: str,
        endpoint: Endpoint,
        target: str,
        *,
        headers: Mapping[str, str],
        body: bytes | None = None,
        timeout: float,
        max_bytes: int,
    ) -> Answer:
        """Send one request for `target` (path and query, already percent-encoded).

        `timeout` is in seconds and bounds the whole exchange; an answer over `max_bytes` is
        an error. Redirects are not followed. Raises TransportError.
        """

    async def get_url(self, url: str, *, timeout: float, max_bytes: int) -> Answer:
        """GET an https URL, following a bounded number of redirects to https URLs only.

        Raises TransportError.
        """


#: What a request without headers of its own has.
NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class Outbound(Protocol):
    """HTTP to everything that is not a homeserver: places that people, rooms or the operator name by URL.

    Identity servers, push gateways, application services, pages to preview, sign-in providers. No URL
    reaches a private network unless the operator named it: the very address that is connected to is judged,
    for each connection, whatever the name was resolved to before.
    """

    async def request_url(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] = NO_HEADERS,
        body: bytes | None = None,
        timeout: float,
        max_bytes: int,
        max_redirects: int = 0,
        plain_http: bool = False,
    ) -> Answer:
        """One request to an https URL (with `plain_http`, http too); the answer, whatever its status.

        `timeout` is in seconds and for everything together; an answer over `max_bytes` is an error. Of
        GET and HEAD, `max_redirects` redirects are followed, never from https to http, and what authorizes
        the request stays behind when they lead to another place; an answer after more is an error. A
        redirect that is not to be followed is the answer. Raises TransportError, whose text names host and
        port but neither path nor query.
        """


class NoOutbound:
    """The `Outbound` of a server that asks nobody."""

    async def request_url(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] = NO_HEADERS,
        body: bytes | None = None,
        timeout: float,
        max_bytes: int,
        max_redirects: int = 0,
        plain_http: bool = False,
    ) -> Answer:
        """Raise TransportError."""
        raise TransportError("this server asks nobody by URLs")


#: Where nothing else is said.
NOBODY: Outbound = NoOutbound()


@dataclass(frozen=True, slots=True)
class Letter:
    """An e-mail to one address: as plain text, and the same as HTML."""

    to: str
    subject: str
    text: str
    html: str


class MailError(Exception):
    """The mail server did not take a letter; the text is for the operator and names nobody."""


class Mail(Protocol):
    """Letters to people."""

    async def send(self, letter: Letter) -> None:
        """Hand a letter to the mail server; returns once that has taken it. Raises MailError."""


class NoMail:
    """The `Mail` of a server without a mail server."""

    async def send(self, letter: Letter) -> None:
        """Raise MailError."""
        raise MailError("no mail server is configured")


#: Where nothing else is said.
NO_MAIL: Mail = NoMail()


@dataclass(frozen=True, slots=True)
class SrvRecord:
    """One SRV record, RFC 2782."""

    priority: int
    weight: int
    port: int
    target: str


class ResolverError(Exception):
    """The name servers gave no answer (a timeout or SERVFAIL): not the same as no record."""


class Resolver(Protocol):
    """DNS records beyond addresses (addresses are the transport's own affair)."""

    async def srv(self, name: str) -> list[SrvRecord]:
        """The SRV records of `name`, in no particular order.

        A record whose target is "." says that the service is decidedly not offered (RFC 2782).
        Empty when the name does not exist or has none. Raises ResolverError.
        """


class Offload(Protocol):
    """Threads for arithmetic that frees the interpreter's lock, or waits for a disk."""

    async def run(self, function: Callable[..., T], *arguments: object) -> T:
        """Run `function(*arguments)` beside the event loop and return what it returned."""


class Watch(Protocol):
    """One socket that functions wait for, one at a time."""

    def wait(self, seconds: float, *, writing: bool = False) -> None:
        """Return when there is something to read, or with `writing` when it can be written to as well.

        Raises TimeoutError after `seconds`.
        """

    def close(self) -> None:
        """Watch it no more. The socket is its owner's to close."""


class Turn(Protocol):
    """Something that a function waits for, and that others let come."""

    def wait(self, seconds: float) -> None:
        """Return once it has come. Raises TimeoutError after `seconds`."""

    def come(self) -> None:
        """Let it come; whoever waits goes on a little later."""


class Pausing(Protocol):
    """Synchronous functions that wait for sockets while the event loop goes on with other work.

    What such a function calls may wait by `Watch` and `Turn`; outside of `run` the whole process waits.
    """

    async def run(self, function: Callable[[], T]) -> T:
        """Run the function on the loop's own thread; what it returned.

        A function that has begun is always ended before this returns, also when it is cancelled.
        """

    def watch(self, descriptor: int, unasked: Callable[[], None] | None = None) -> Watch:
        """Watch a socket. `unasked` is called, on a running loop, when there is something to read and
        nobody waits for it; it reads that away."""

    def turn(self) -> Turn:
        """Something to wait for."""

    def addresses(self, host: str) -> list[str]:
        """The IP addresses of a name, by the system's resolver. Raises OSError."""

    def monotonic(self) -> float:
        """Seconds that never go backwards."""

    def pause(self, seconds: float) -> None:
        """Return after so long."""


@dataclass(frozen=True, slots=True)
class Ports:
    """All doors together: what `comity.app.build` is given beside the configuration."""

    clock: Clock
    entropy: Entropy
    transport: Transport
    resolver: Resolver
    offload: Offload
    pausing: Pausing
    outbound: Outbound = NOBODY
    mail: Mail = NO_MAIL
    #: Threads for what takes long, and must keep nobody who needs `offload` waiting; None: those do.
    patient: Offload | None = None
    #: Processes, for functions that take and give what can be pickled, without effects; None: threads do.
    crowd: Offload | None = None


class Headers(dict[str, str]):
    """The headers of a request. A connection whose requests all have the same has one of these for all.

    `note` is for who reads them: what was found out by them, to be found again with the next request.
    """

    __slots__ = ("note",)

    def __init__(self) -> None:
        super().__init__()
        self.note: object = None


@dataclass(slots=True)
class Request:
    """One HTTP request as the server sees it, whole: `App.handle` takes it.

    `path` is as sent (percent-encoded), without the query; `query` is the raw query string
    without `?`. Header names are lower case; a repeated header's values are joined by ", ".
    `serves` names what the listener serves: "client", "federation", …
    `peer_certificate` is the DER of the client's certificate, if one was presented.
    `body_too_large` says that the body passed the listener's limit and was not read.
    """

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes
    remote: str
    serves: frozenset[str]
    peer_certificate: bytes | None = None
    body_too_large: bool = False


@dataclass(slots=True)
class Response:
    """One HTTP answer of ours. An iterator as `body` is streamed in chunks."""

    status: int
    body: bytes | AsyncIterator[bytes] = b""
    headers: dict[str, str] = field(default_factory=dict)


class Waiter(Protocol):
    """Who is to have an answer that `AtOnce` could not give at once: one of the two, once."""

    def settle(self, response: Response) -> None:
        """Here it is."""

    def pursue(self, answering: Callable[[], Awaitable[Response]]) -> None:
        """It takes a task after all, in which this gives it."""


class Waiting(Protocol):
    """A request that is not answered yet, for which no task waits."""

    def cancel(self) -> None:
        """Nobody wants the answer any more: neither of a Waiter's methods is called from now on."""


#: Answers a request where that takes neither a task nor the database: with the answer, or later, as the
#: waiter's. None, with nothing done, for all others. Never raises. The headers of an answer are not changed
#: any more, so that many answers may have the same.
AtOnce = Callable[[Request, Waiter], "Response | Waiting | None"]
