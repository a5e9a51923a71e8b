"""Requests to other servers: find, sign, send, classify the answer.

Owns the `Authorization` of our requests, the order in which a server's addresses are tried, the
bounds on how much is asked of one server at once, and what an answer that is no success means.
What is asked and what comes back is `calls`' affair.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, urlencode

import orjson

from comity.federation.availability import Availability
from comity.federation.discoverer import Discoverer
from comity.federation.errors import FailureKind
from comity.federation.errors import FederationError as FederationError
from comity.federation.server_lists import ServerLists
from comity.ports import Answer, Clock, Endpoint, Transport, TransportError
from comity.protocol import canonical_json, identifiers
from comity.protocol.signing import SigningKey

#: Seconds for a request that names no time of its own, discovery included.
DEFAULT_SECONDS = 30.0
#: Bytes of an answer to a request that names no limit of its own.
DEFAULT_MAX_BYTES = 1024 * 1024
#: Requests to one server at once; fewer than the transport has connections for it, so that none
#: waits there unseen.
MAX_CONCURRENT_PER_SERVER = 12
#: Requests that may wait for one server; past it they fail at once.
MAX_WAITING_PER_SERVER = 256
#: An error's body is a short object; a longer one is some proxy's page and is not read.
MAX_ERROR_BYTES = 64 * 1024
#: Characters of an error's text that are kept for the log.
MAX_ERROR_TEXT = 300
#: Characters of an error code; the longest specified is under 50.
MAX_CODE = 100
#: Answers of a proxy whose server is down behind it: the server could not be reached.
GATEWAY_STATUSES = frozenset({502, 503, 504})
#: Statuses after which the same request may succeed later, beside all of 5xx.
_TEMPORARY_STATUSES = frozenset({408, 425, 429})
#: The longest pause that is read out of an answer: a day.
_MAX_RETRY_AFTER_MS = 24 * 3600 * 1000


def path(prefix: str, *segments: str) -> str:
    """`prefix` and percent-encoded segments: `path("/_matrix/federation/v1/event", "$id")`."""
    return "/".join([prefix, *(quote(segment, safe="") for segment in segments)])


class _Gate:
    """The places for requests to one server, and how many hold or want one."""

    __slots__ = ("places", "users")

    def __init__(self) -> None:
        self.places = asyncio.Semaphore(MAX_CONCURRENT_PER_SERVER)
        self.users = 0


class FederationClient:
    """Signed requests to other servers."""

    def __init__(
        self,
        discoverer: Discoverer,
        transport: Transport,
        clock: Clock,
        server_name: str,
        key: SigningKey,
        availability: Availability,
        lists: ServerLists | None = None,
    ) -> None:
        """`server_name` and `key` are ours; `lists` say whom we talk to (None: everybody)."""
        self._lists = lists or ServerLists()
        self._discoverer = discoverer
        self._transport = transport
        self._clock = clock
        self._server_name = server_name
        self._key = key
        self._availability = availability
        self._gates: dict[str, _Gate] = {}

    async def request(
        self,
        server: str,
        method: str,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        content: dict[str, Any] | None = None,
        content_bytes: bytes | None = None,
        signed: bool = True,
        timeout: float = DEFAULT_SECONDS,
        max_bytes: int = DEFAULT_MAX_BYTES,
        even_if_backing_off: bool = False,
    ) -> bytes:
        """The body of a successful (2xx) answer. Raises FederationError for everything else. See `ask`."""
        answer = await self.ask(
            server, method, path, query=query, content=content, content_bytes=content_bytes, signed=signed,
            timeout=timeout, max_bytes=max_bytes, even_if_backing_off=even_if_backing_off,
        )  # fmt: skip
        return answer.body

    async def ask(
        self,
        server: str,
        method: str,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        content: dict[str, Any] | None = None,
        content_bytes: bytes | None = None,
        signed: bool = True,
        timeout: float = DEFAULT_SECONDS,
        max_bytes: int = DEFAULT_MAX_BYTES,
        even_if_backing_off: bool = False,
    ) -> Answer:
        """The whole of a successful (2xx) answer. Raises FederationError for everything else.

        `path` is percent-encoded (`path()` does that). The body is `content`, or `content_bytes`,
        which must be canonical JSON already: the signature covers exactly those bytes. `timeout`
        is in seconds, waiting and discovery included. A server that is known to be down is not
        asked unless `even_if_backing_off`.
        """
        if server == self._server_name:
            raise FederationError(server, "this is our own server name")
        if not identifiers.is_server_name(server):
            raise FederationError(server[: identifiers.MAX_IDENTIFIER_BYTES], "this is not a server name")
        self._lists.check_asked(server)
        if not even_if_backing_off and not self._availability.may_try(server):
            raise FederationError(server, "the server did not answer lately", temporary=True)
        target = f"{path}?{urlencode(query, quote_via=quote, safe='')}" if query else path
        body = canonical_json.encode(content) if content is not None else content_bytes
        deadline = self._clock.monotonic() + timeout
        await self._enter(server, timeout)
        try:
            answer = await self._ask(server, method, target, body, signed, deadline, max_bytes)
        finally:
            self._leave(server)
        if answer.status in GATEWAY_STATUSES:
            self._availability.failed(server)
        else:
            self._availability.succeeded(server)
        if 200 <= answer.status < 300:
            return answer
        raise refusal(server, answer)

    async def _enter(self, server: str, seconds: float) -> None:
        """Take a place for one request to the server, waited for at most `seconds`; `_leave` must follow."""
        gate = self._gates.get(server)
        if gate is None:
            gate = self._gates[server] = _Gate()
        if gate.users >= MAX_CONCURRENT_PER_SERVER + MAX_WAITING_PER_SERVER:
            raise FederationError(server, "too many requests wait for the server", temporary=True)
        gate.users += 1
        try:
            if gate.places.locked():
                async with asyncio.timeout(seconds):
                    await gate.places.acquire()
            else:
                await gate.places.acquire()  # at once: a timer would only be set and cancelled
        except TimeoutError:
            self._forget(server, gate)
            raise FederationError(
                server, f"other requests held the server up for {seconds:g} s", temporary=True
            ) from None
        except BaseException:
            self._forget(server, gate)
            raise

    def _leave(self, server: str) -> None:
        """Give the place back."""
        gate = self._gates[server]
        gate.places.release()
        self._forget(server, gate)

    def _forget(self, server: str, gate: _Gate) -> None:
        gate.users -= 1
        if gate.users == 0:
            self._gates.pop(server, None)

    async def _find(self, server: str, seconds: float) -> tuple[Endpoint, ...]:
        """The server's places. A discovery that takes too long goes on; the next request profits."""
        remembered = self._discoverer.remembered(server)
        if remembered is not None:
            return remembered
        try:
            async with asyncio.timeout(seconds):
                return await self._discoverer.endpoints(server)
        except TimeoutError:
            raise FederationError(
                server,
                f"it was not found out within {seconds:g} s where the server is",
                temporary=True,
                kind="discovery",
            ) from None

    async def _ask(
        self,
        server: str,
        method: str,
        target: str,
        body: bytes | None,
        signed: bool,
        deadline: float,
        max_bytes: int,
    ) -> Answer:
        """Try the server's places in order until one answers.

        The next is tried only when the request surely was not received, or may be repeated
        without harm.
        """
        try:
            endpoints = await self._find(server, max(0.0, deadline - self._clock.monotonic()))
        except FederationError:
            self._availability.failed(server)
            raise
        headers: dict[str, str] = {}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if signed:
            headers["Authorization"] = self._authorization(server, method, target, body)
        failure: TransportError | None = None
        reached = False
        for endpoint in endpoints:
            seconds = deadline - self._clock.monotonic()
            if seconds <= 0:
                break
            try:
                answer = await self._transport.request(
                    method,
                    endpoint,
                    target,
                    headers=headers,
                    body=body,
                    timeout=seconds,
                    max_bytes=max_bytes,
                )
                self._discoverer.connected(endpoint)
                return answer
            except TransportError as error:
                if not error.reached:
                    self._discoverer.not_connected(endpoint)
                failure = error
                reached = reached or error.reached
                if error.reached and method != "GET":
                    break
        self._availability.failed(server)
        if not reached:
            self._discoverer.doubt(server)
        text = str(failure) if failure is not None else "the time was over before it could be asked"
        kind: FailureKind = "tls" if failure is not None and failure.tls else "connection"
        raise FederationError(server, text, reached=reached, temporary=True, kind=kind)

    def _authorization(self, destination: str, method: str, target: str, body: bytes | None) -> str:
        """The X-Matrix header (server-server §Request Authentication); the body is not parsed for it."""
        signature = self._key.sign(signed_bytes(method, target, self._server_name, destination, body))
        return (
            f'X-Matrix origin="{self._server_name}",destination="{destination}",'
            f'key="{self._key.key_id}",sig="{signature}"'
        )


def signed_bytes(method: str, target: str, origin: str, destination: str, body: bytes | None) -> bytes:
    """The canonical JSON that a request's signature covers; `body` is canonical JSON, or None.

    The names are in order, so the body is set in between as it is.
    """
    rest = canonical_json.encode(
        {"destination": destination, "method": method, "origin": origin, "uri": target}
    )
    return rest if body is None else b'{"content":' + body + b"," + rest[1:]


def refusal(server: str, answer: Answer) -> FederationError:
    """The error that an HTTP answer other than 2xx tells."""
    body: dict[str, Any] = {}
    if len(answer.body) <= MAX_ERROR_BYTES:
        try:
            value = orjson.loads(answer.body)
            canonical_json.check_nesting(value)
            body = value if isinstance(value, dict) else {}
        except ValueError:
            pass  # some proxy's page
    code, told = body.get("errcode"), body.get("error")
    known_code = code if isinstance(code, str) and 0 < len(code) <= MAX_CODE else None
    text = f"{answer.status} {known_code or 'without an error code'}"
    if isinstance(told, str):
        text += f": {told[:MAX_ERROR_TEXT]}"
    return FederationError(
        server,
        text,
        status=answer.status,
        code=known_code,
        body=body,
        reached=True,
        temporary=answer.status >= 500 or answer.status in _TEMPORARY_STATUSES,
        retry_after_ms=_retry_after_ms(answer, body),
    )


def _retry_after_ms(answer: Answer, body: dict[str, Any]) -> int:
    """client-server §Rate limiting: the header in seconds, or `retry_after_ms` (deprecated)."""
    header = answer.headers.get("retry-after", "").strip()
    if header.isascii() and header.isdecimal():
        return min(int(header[:9]) * 1000, _MAX_RETRY_AFTER_MS)
    told = body.get("retry_after_ms")
    return min(max(told, 0), _MAX_RETRY_AFTER_MS) if type(told) is int else 0
