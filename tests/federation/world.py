"""A small world on loopback: names with addresses and SRV records, hosts with certificates of one authority.

The ports that discovery takes as given (443 for documents, 8448 for servers) belong to others on
the machine that the test runs on; here a name's address says where such a port really is.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from comity.federation.availability import Availability
from comity.federation.client import FederationClient
from comity.federation.discoverer import Discoverer
from comity.net.http_client import HttpsTransport
from comity.protocol.signing import SigningKey
from tests.federation.doors import FixedEntropy, ManualClock
from tests.net.authority import Authority, Issued
from tests.net.name_server import NameServer, name_server
from tests.net.peers import Connection, Peer, running_peer

VERSION = "/_matrix/federation/v1/version"
WELL_KNOWN = "/.well-known/matrix/server"


class Names:
    """Addresses from a table: (host, port) -> the address and port where that is."""

    def __init__(self) -> None:
        self.table: dict[tuple[str, int], tuple[str, int]] = {}

    async def resolve(self, host: str, port: int) -> list[tuple[str, int]]:
        found = self.table.get((host, port))
        if found is None:
            raise OSError(f"{host} has no address")
        return [found]


class SeededEntropy(FixedEntropy):
    """Chance from a seed."""

    def __init__(self) -> None:
        self.random = random.Random(7).random  # type: ignore[method-assign]


@dataclass
class Host:
    """A host: what it answers by path (the status line's end, header lines, body), and what it was asked."""

    name: str
    answers: dict[str, tuple[str, Sequence[str], bytes]] = field(default_factory=dict)
    #: (path, Host header) of each request.
    asked: list[tuple[str, str]] = field(default_factory=list)
    peer: Peer | None = None

    @property
    def port(self) -> int:
        assert self.peer is not None
        return self.peer.port

    async def play(self, connection: Connection) -> None:
        """The script of one connection."""
        while True:
            lines = (await connection.request()).decode().split("\r\n")
            path = lines[0].split(" ")[1]
            named = next(line[6:] for line in lines if line.lower().startswith("host: "))
            self.asked.append((path, named))
            missing = ("404 Not Found", (), b'{"errcode":"M_UNRECOGNIZED","error":"Not here"}')
            status, headers, body = self.answers.get(path, missing)
            await connection.answer(body, status, *headers)


async def hang_up(connection: Connection) -> None:
    """The script of a host that is broken: it ends each connection at once."""
    connection.writer.transport.abort()


@dataclass
class World:
    """Everything, and a federation client that lives in it."""

    authority: Authority
    clock: ManualClock
    names: Names
    name_server: NameServer
    zone: dict[str, Sequence[str]]
    transport: HttpsTransport
    discoverer: Discoverer
    client: FederationClient
    stack: AsyncExitStack

    async def host(
        self,
        name: str,
        *at: tuple[str, int],
        answers: Mapping[str, tuple[str, Sequence[str], bytes]] | None = None,
        issued: Issued | None = None,
        address: str = "127.0.0.1",
    ) -> Host:
        """A host with a certificate for `name` (or the one given), found under the names `at`."""
        host = Host(name, dict(answers or {}))
        certificate = issued or self.authority.issue([name])
        host.peer = await self.stack.enter_async_context(running_peer(host.play, certificate, address))
        for place in at:
            self.names.table[place] = (address, host.port)
        return host

    async def matrix(self, name: str, *at: tuple[str, int], issued: Issued | None = None) -> Host:
        """A host that answers as a homeserver, and says of itself what its name is."""
        answers = {VERSION: ("200 OK", (), b'{"server":{"name":"%s"}}' % name.encode())}
        return await self.host(name, *at, answers=answers, issued=issued)

    async def delegates(self, name: str, to: str) -> Host:
        """The web server of `name`, which says that the homeserver is `to`."""
        document = ("200 OK", ("Cache-Control: max-age=3600",), b'{"m.server":"%s"}' % to.encode())
        return await self.host(name, (name, 443), answers={WELL_KNOWN: document})

    async def ask(self, server: str) -> bytes:
        """Ask a server for its version."""
        return await self.client.request(
            server, "GET", VERSION, signed=False, even_if_backing_off=True, timeout=10
        )


@asynccontextmanager
async def a_world(authority: Authority, clock: ManualClock) -> AsyncIterator[World]:
    zone: dict[str, Sequence[str]] = {}
    names = Names()
    transport = HttpsTransport(
        trusted_ca=[authority.ca],
        verify_certificates=True,
        allow_ranges=["127.0.0.0/8", "::1/128"],
        user_agent="comity-test",
        lookup=names,
    )
    async with AsyncExitStack() as stack:
        resolver, server = await stack.enter_async_context(name_server(zone))
        await transport.open()
        stack.push_async_callback(transport.close)
        entropy = SeededEntropy()
        discoverer = Discoverer(transport, resolver, clock, entropy)
        client = FederationClient(
            discoverer, transport, clock, "own.example", SigningKey("own", b"\0" * 32),
            Availability(clock, entropy),
        )  # fmt: skip
        yield World(authority, clock, names, server, zone, transport, discoverer, client, stack)
