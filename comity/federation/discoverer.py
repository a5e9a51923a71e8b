"""Where servers are: drives `protocol.discovery` through the doors and remembers the results.

Owns the cache, its bounds, that one server is looked up once at a time, and that places which
could not be connected to are tried last for a while. The steps, the lifetimes and the drawing
of an order are the protocol's (server-server §Resolving server names).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from comity.federation.errors import FederationError
from comity.ports import Clock, Endpoint, Entropy, Resolver, ResolverError, Transport, TransportError
from comity.protocol.discovery import (
    MAX_WELL_KNOWN_BYTES,
    Discovery,
    Found,
    LookUpWellKnown,
    SrvAnswer,
    SrvPlace,
    Target,
    Unreachable,
    WellKnownAnswer,
    draw,
)
from comity.store.cache import Bounded

#: Results that are remembered, about 1 KiB each: more servers than one homeserver talks to in a day.
MAX_REMEMBERED_SERVERS = 20_000
#: Seconds for one well-known document, redirects included. It stands before the first request
#: to a server, and a host that serves no document often answers with silence.
WELL_KNOWN_SECONDS = 10.0
#: Servers being looked up at once; the others wait. Each holds a socket or two.
MAX_CONCURRENT_DISCOVERIES = 64
#: Servers that may wait for a look-up: past it somebody invents names.
MAX_WAITING_DISCOVERIES = 5_000
#: A result is used up to this share shorter, by chance, so that results that came together
#: (a room with a thousand servers was joined) are not all looked up anew in the same second.
LIFETIME_SPREAD = 0.1
#: A result that led to no connection is looked up anew, but not within this time of its making.
MIN_AGE_TO_DOUBT_SECONDS = 300.0
#: A place that could not be connected to is tried after all others of its server for so long: requests
#: do not wait for it one by one, and it is found again soon after it has come back.
DEAD_PLACE_SECONDS = 120.0
#: Dead places that are remembered.
MAX_DEAD_PLACES = 10_000
#: Places that one request is offered: trying more would only delay the failure.
MAX_OFFERED_PLACES = 8


@dataclass(frozen=True, slots=True)
class _Known:
    """A result: where to connect, or why there is nowhere. Times are of the monotonic clock."""

    targets: tuple[Target, ...]
    reason: str
    made_at: float
    good_until: float
    errors: int


class Discoverer:
    """Server names to endpoints."""

    def __init__(self, transport: Transport, resolver: Resolver, clock: Clock, entropy: Entropy) -> None:
        self._transport = transport
        self._resolver = resolver
        self._clock = clock
        self._entropy = entropy
        self._known: Bounded[str, _Known] = Bounded(MAX_REMEMBERED_SERVERS)
        #: (host, port) -> until when it is tried last, by the monotonic clock.
        self._dead: Bounded[tuple[str, int], float] = Bounded(MAX_DEAD_PLACES)
        self._running: dict[str, asyncio.Task[_Known]] = {}
        self._places = asyncio.Semaphore(MAX_CONCURRENT_DISCOVERIES)

    async def endpoints(self, server: str) -> tuple[Endpoint, ...]:
        """Where to connect for `server`, in this order; never empty. Raises FederationError.

        Of several SRV records the order is drawn anew each time (RFC 2782).
        """
        known = self._known.get(server)
        if known is None or self._clock.monotonic() >= known.good_until:
            known = await self._look_up(server, 0 if known is None else known.errors)
        return self._places_of(server, known)

    def remembered(self, server: str) -> tuple[Endpoint, ...] | None:
        """What `endpoints` would give without looking anything up, or None. Raises FederationError."""
        known = self._known.get(server)
        if known is None or self._clock.monotonic() >= known.good_until:
            return None
        return self._places_of(server, known)

    def _places_of(self, server: str, known: _Known) -> tuple[Endpoint, ...]:
        if not known.targets:
            raise FederationError(server, known.reason, temporary=True, kind="discovery")
        targets: Sequence[Target] = known.targets
        if len(targets) > 1:
            # The sort is stable: among the living, and among the dead, the drawn order stands.
            targets = sorted(draw(targets, self._entropy.random), key=self._is_dead)[:MAX_OFFERED_PLACES]
        return tuple(
            Endpoint(target.host, target.port, target.tls_name, target.host_header) for target in targets
        )

    def not_connected(self, endpoint: Endpoint) -> None:
        """No connection could be made there."""
        until = self._clock.monotonic() + DEAD_PLACE_SECONDS
        self._dead.put((endpoint.host, endpoint.port), until)

    def connected(self, endpoint: Endpoint) -> None:
        """Something answered there."""
        self._dead.drop((endpoint.host, endpoint.port))

    def _is_dead(self, target: Target) -> bool:
        until = self._dead.get((target.host, target.port))
        return until is not None and self._clock.monotonic() < until

    def doubt(self, server: str) -> None:
        """Nothing answered where the server should be: it may have moved, so look again next time."""
        known = self._known.get(server)
        if known is not None and self._clock.monotonic() - known.made_at >= MIN_AGE_TO_DOUBT_SECONDS:
            self._known.drop(server)

    async def _look_up(self, server: str, errors_before: int) -> _Known:
        task = self._running.get(server)
        if task is None:
            if len(self._running) >= MAX_WAITING_DISCOVERIES:
                raise FederationError(
                    server, "too many servers are being looked up", temporary=True, kind="discovery"
                )
            task = asyncio.get_running_loop().create_task(self._discover(server, errors_before))
            self._running[server] = task
            task.add_done_callback(lambda _: self._running.pop(server, None))
        # Whoever gives up leaves the look-up to the others who wait for it.
        return await asyncio.shield(task)

    async def _discover(self, server: str, errors_before: int) -> _Known:
        discovery = Discovery(server, errors_before=errors_before)
        step = discovery.next()
        if not isinstance(step, Found | Unreachable):
            async with self._places:
                while not isinstance(step, Found | Unreachable):
                    if isinstance(step, LookUpWellKnown):
                        discovery.feed(await self._well_known(step.url))
                    else:
                        discovery.feed(await self._srv(step.name))
                    step = discovery.next()
        now = self._clock.monotonic()
        lifetime = step.cache_ms / 1000 * (1 - LIFETIME_SPREAD * self._entropy.random())
        targets, reason = (step.targets, "") if isinstance(step, Found) else ((), step.reason)
        known = _Known(targets, reason, now, now + lifetime, step.errors)
        self._known.put(server, known)
        return known

    async def _well_known(self, url: str) -> WellKnownAnswer:
        try:
            answer = await self._transport.get_url(
                url, timeout=WELL_KNOWN_SECONDS, max_bytes=MAX_WELL_KNOWN_BYTES
            )
        except TransportError:
            return WellKnownAnswer(None)
        return WellKnownAnswer(answer.status, answer.headers, answer.body, self._clock.now_ms())

    async def _srv(self, name: str) -> SrvAnswer:
        try:
            records = await self._resolver.srv(name)
        except ResolverError:
            return SrvAnswer(failed=True)
        return SrvAnswer(
            tuple(SrvPlace(record.target, record.port, record.priority, record.weight) for record in records)
        )
