"""The connections that we make: to which address, how many, and how long they are kept.

Owns the places for exchanges, the addresses of names, the race of a name's addresses, and the connections
at rest. Here the rule stands that the very address that is connected to must be allowed (`addresses`).
It never asks anything over a connection.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from typing import NamedTuple

from comity.net.addresses import AddressGuard, is_literal
from comity.net.client_connection import Connection, HandshakeFailed
from comity.net.handshakes import Handshakes
from comity.net.lookup import Lookup

#: Exchanges at once, connecting ones included; the others wait within their time.
MAX_CONNECTIONS = 512

#: Exchanges at once with one endpoint, so that a slow server cannot take all places.
MAX_CONNECTIONS_PER_ENDPOINT = 16

#: Seconds an idle connection is kept: a new one costs ten times the processor of a whole exchange
#: on a kept one, and a message a minute in a room must not cost new ones to all of its servers. Most
#: servers keep theirs longer (75 s); who asks repeats what may be repeated when not.
KEEPALIVE_SECONDS = 60.0

#: Connections that are open when no further one is kept: 39 KiB each, most of it TLS, 150 MiB in all.
#: One to each server of the largest rooms; past it, connections are closed after the exchange.
MAX_KEPT_CONNECTIONS = 4_000

#: Seconds before a second address (IPv4 beside IPv6) is tried along with the first (RFC 8305).
HAPPY_EYEBALLS_SECONDS = 0.25

#: Seconds for which a name's addresses are remembered. The guard looks at the address that
#: is connected to, so remembering changes nothing for it.
ADDRESS_CACHE_SECONDS = 30.0

#: Names whose addresses are remembered.
MAX_CACHED_NAMES = 10_000


class AddressNotAllowed(OSError):
    """The address is not one this server connects to."""

    def __init__(self, address: str) -> None:
        super().__init__(f"the address {address} is private or reserved, and not in the allowed ranges")


class NameNotFound(Exception):
    """The name has no address; `args[0]` is the OSError of the look-up."""


class ConnectFailed(Exception):
    """No TCP connection could be made; `args[0]` is the OSError."""


class ConnectTimedOut(Exception):
    """No connection could be made in time."""


#: An IP literal and a port.
Address = tuple[str, int]


class Place(NamedTuple):
    """What a connection is good for: no name is served by another's. `tls_name` is None for plain HTTP."""

    host: str
    port: int
    tls_name: str | None


class _Gate:
    """The places for exchanges with one endpoint, and how many hold or want one."""

    __slots__ = ("places", "users")

    def __init__(self) -> None:
        self.places = asyncio.Semaphore(MAX_CONNECTIONS_PER_ENDPOINT)
        self.users = 0


class Pool:
    """Connections, those in use and those at rest."""

    def __init__(self, context: ssl.SSLContext, guard: AddressGuard, lookup: Lookup) -> None:
        self._context = context
        self._guard = guard
        self._lookup = lookup
        self._loop = asyncio.get_running_loop()
        self._places = asyncio.Semaphore(MAX_CONNECTIONS)
        self._gates: dict[Place, _Gate] = {}
        self._handshakes = Handshakes()
        self._open: set[Connection] = set()
        #: Those at rest by what they are good for, and until when each is kept, the first to go first.
        self._resting: dict[Place, list[Connection]] = {}
        self._until: dict[Connection, tuple[float, Place]] = {}
        self._timer: asyncio.TimerHandle | None = None
        #: Names to addresses and until when they are remembered; and those being looked up.
        self._addresses: dict[tuple[str, int], tuple[list[Address], float]] = {}
        self._looking: dict[tuple[str, int], asyncio.Task[list[Address]]] = {}
        self._all_gone: asyncio.Future[None] | None = None

    async def close(self) -> None:
        """End all connections; exchanges under way fail."""
        if self._timer is not None:
            self._timer.cancel()
        for task in self._looking.values():
            task.cancel()
        for connection in list(self._open):
            if connection in self._until:
                connection.close()
            else:
                connection.abort()
        if self._open:
            self._all_gone = self._loop.create_future()
            await self._all_gone
        self._handshakes.close()

    # -- places

    async def enter(self, place: Place) -> None:
        """Wait for the right to hold an exchange; `leave` must follow."""
        gate = self._gates.get(place)
        if gate is None:
            gate = self._gates[place] = _Gate()
        gate.users += 1
        try:
            await gate.places.acquire()
            try:
                await self._places.acquire()
            except BaseException:
                gate.places.release()
                raise
        except BaseException:
            self._forget(place, gate)
            raise

    def leave(self, place: Place) -> None:
        """Give the right back."""
        self._places.release()
        gate = self._gates[place]
        gate.places.release()
        self._forget(place, gate)

    def _forget(self, place: Place, gate: _Gate) -> None:
        gate.users -= 1
        if gate.users == 0:
            del self._gates[place]

    # -- connections at rest

    def kept(self, place: Place) -> Connection | None:
        """A connection at rest, the one used last."""
        while resting := self._resting.get(place):
            connection = resting[-1]
            self._wake(connection)
            if not connection.is_over:
                return connection
        return None

    def keep(self, place: Place, connection: Connection) -> None:
        """A connection has nothing to do: it is kept, or ended."""
        if connection.is_over:
            return
        if len(self._open) > MAX_KEPT_CONNECTIONS:
            connection.close()
            return
        self._resting.setdefault(place, []).append(connection)
        self._until[connection] = self._loop.time() + KEEPALIVE_SECONDS, place
        if self._timer is None:
            self._timer = self._loop.call_later(KEEPALIVE_SECONDS, self._end_the_old)

    def _wake(self, connection: Connection) -> None:
        """It rests no more."""
        found = self._until.pop(connection, None)
        if found is not None:
            resting = self._resting[found[1]]
            resting.remove(connection)
            if not resting:
                del self._resting[found[1]]

    def _end_the_old(self) -> None:
        self._timer = None
        now = self._loop.time()
        for connection, (until, _) in list(self._until.items()):
            if until > now:
                self._timer = self._loop.call_at(until, self._end_the_old)
                return
            self._wake(connection)
            connection.close()

    def _lost(self, connection: Connection) -> None:
        self._wake(connection)
        self._open.discard(connection)
        if not self._open and self._all_gone is not None and not self._all_gone.done():
            self._all_gone.set_result(None)

    # -- new connections

    async def connect(self, place: Place, seconds: float) -> Connection:
        """A new connection, `seconds` being for TCP and TLS to each address of the name.

        Raises NameNotFound, AddressNotAllowed, ConnectFailed, ConnectTimedOut, HandshakeFailed.
        """
        addresses = await self._addresses_of(place.host, place.port)
        while True:
            tried = len(addresses)
            try:
                async with asyncio.timeout(seconds):
                    connection, tried = await self._first(place, addresses)
                    try:
                        await connection.ready
                    except BaseException:
                        connection.abort()
                        raise
                    return connection
            except (OSError, HandshakeFailed, TimeoutError) as error:
                addresses = addresses[tried:]
                if not addresses:
                    raise _explained(error) from error

    async def _first(self, place: Place, addresses: Sequence[Address]) -> tuple[Connection, int]:
        """TCP to the first address that takes it, and how many had been tried by then. Raises OSError."""
        if len(addresses) == 1:
            return await self._to_address(place, addresses[0]), 1
        waiting: set[asyncio.Task[Connection]] = set()
        failure: OSError = OSError("no address")
        tried = 0
        try:
            while waiting or tried < len(addresses):
                if tried < len(addresses):
                    waiting.add(self._loop.create_task(self._to_address(place, addresses[tried])))
                    tried += 1
                pause = HAPPY_EYEBALLS_SECONDS if tried < len(addresses) else None
                done, _ = await asyncio.wait(waiting, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    error = task.exception()
                    if error is None:
                        waiting.discard(task)
                        return task.result(), tried
                    if not isinstance(error, OSError):
                        raise error
                    failure = error
                waiting -= done
            raise failure
        finally:
            for task in waiting:
                task.cancel()
                task.add_done_callback(_drop)

    async def _to_address(self, place: Place, address: Address) -> Connection:
        """TCP to an address: here the guard stands.

        Every connection comes by, whether its address was looked up, remembered, or a
        literal; so a name that answers differently the second time gains nothing. Raises OSError.
        """
        literal, port = address
        if not self._guard.allows(literal):
            raise AddressNotAllowed(literal)
        context = None if place.tls_name is None else self._context
        connection = Connection(context, (place.tls_name or "").rstrip("."), self._handshakes, self._lost)
        self._open.add(connection)
        try:
            await self._loop.create_connection(lambda: connection, literal, port)
        except BaseException:
            connection.abort()
            self._lost(connection)
            raise
        return connection

    async def _addresses_of(self, host: str, port: int) -> list[Address]:
        """A literal itself, or what a name leads to, its families in turn. Raises NameNotFound."""
        if is_literal(host):
            return [(host, port)]
        name = host, port
        remembered = self._addresses.get(name)
        if remembered is not None and self._loop.time() < remembered[1]:
            return remembered[0]
        task = self._looking.get(name)
        if task is None:
            task = self._looking[name] = self._loop.create_task(self._look_up(host, port))
            task.add_done_callback(lambda done: self._looked(name, done))
        # Whoever gives up leaves the look-up to the others who wait for it.
        await asyncio.wait((task,))
        if task.cancelled():
            raise NameNotFound(OSError("the connections are being closed"))
        return task.result()

    def _looked(self, name: tuple[str, int], task: asyncio.Task[list[Address]]) -> None:
        self._looking.pop(name, None)
        if not task.cancelled():
            task.exception()  # nobody need wait for it any more

    async def _look_up(self, host: str, port: int) -> list[Address]:
        try:
            found = _in_turn(await self._lookup.resolve(host, port))
        except OSError as error:
            raise NameNotFound(error) from error
        if not found:
            raise NameNotFound(OSError(f"{host} has no address"))
        self._addresses.pop((host, port), None)
        self._addresses[host, port] = found, self._loop.time() + ADDRESS_CACHE_SECONDS
        if len(self._addresses) > MAX_CACHED_NAMES:
            del self._addresses[next(iter(self._addresses))]
        return found


def _in_turn(addresses: Sequence[Address]) -> list[Address]:
    """The addresses, those of the first one's family and of the other in turn (RFC 8305 §4)."""
    same = [address for address in addresses if (":" in address[0]) == (":" in addresses[0][0])]
    other = [address for address in addresses if (":" in address[0]) != (":" in addresses[0][0])]
    found: list[Address] = []
    for index in range(max(len(same), len(other))):
        found += same[index : index + 1] + other[index : index + 1]
    return found


def _explained(error: OSError | HandshakeFailed) -> Exception:
    match error:
        case HandshakeFailed() | AddressNotAllowed():
            return error
        case TimeoutError() if error.errno is None:  # ours; the system's has a number
            return ConnectTimedOut()
        case _:
            return ConnectFailed(error)


def _drop(task: asyncio.Task[Connection]) -> None:
    """The connection of an address that lost the race."""
    if not task.cancelled() and task.exception() is None:
        task.result().abort()
