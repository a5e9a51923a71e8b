"""A whole federation side of comity over real TLS, with a clock that the test turns."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from comity.federation.availability import Availability
from comity.federation.calls import Calls
from comity.federation.client import FederationClient
from comity.federation.directory_calls import DirectoryCalls
from comity.federation.discoverer import Discoverer
from comity.federation.key_calls import KeyCalls
from comity.federation.keyring import Keyring
from comity.federation.user_calls import UserCalls
from comity.net.http_client import HttpsTransport
from comity.net.system import ThreadOffload
from comity.protocol.signing import SigningKey
from comity.store.database import Database, last_position
from comity.store.migrations import migrate
from tests.engines import a_driver_of
from tests.federation.doors import FixedEntropy, ManualClock, TableResolver
from tests.federation.peer_server import PeerServer
from tests.interop.authority import Authority, create_authority

OWN_NAME = "own.example"


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return create_authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def own_key() -> SigningKey:
    return SigningKey("own", hashlib.sha256(b"own").digest())


@pytest.fixture
async def transport(authority: Authority) -> AsyncIterator[HttpsTransport]:
    made = HttpsTransport(
        trusted_ca=[authority.ca],
        verify_certificates=True,
        allow_ranges=["127.0.0.0/8", "::1/128"],
        user_agent="comity-test",
    )
    await made.open()
    yield made
    await made.close()


@pytest.fixture
async def offload() -> AsyncIterator[ThreadOffload]:
    made = ThreadOffload(2)
    yield made
    await made.close()


@pytest.fixture
def database_file(tmp_path: Path) -> Path:
    return tmp_path / "comity.db"


def open_database(path: Path, offload: ThreadOffload) -> Database:
    """The database of that file, brought to the newest schema."""
    driver = a_driver_of(path.parent, offload, name=path.name)
    migrate(driver)
    return Database(driver, driver.read_now(last_position))


@pytest.fixture
async def database(database_file: Path, offload: ThreadOffload) -> AsyncIterator[Database]:
    made = open_database(database_file, offload)
    yield made
    await made.close()


PeerFactory = Callable[[], Awaitable[PeerServer]]


@pytest.fixture
async def a_peer(authority: Authority, clock: ManualClock) -> AsyncIterator[PeerFactory]:
    peers: list[PeerServer] = []

    async def make() -> PeerServer:
        peer = PeerServer(valid_until=clock.now_ms() + 24 * 3_600_000)
        peers.append(peer)
        return await peer.start(authority.server_context())

    yield make
    for peer in peers:
        await peer.down()


@pytest.fixture
async def peer(a_peer: PeerFactory) -> PeerServer:
    return await a_peer()


@dataclass
class Side:
    """Our side of federation."""

    availability: Availability
    client: FederationClient
    calls: Calls
    keys: KeyCalls
    users: UserCalls
    directory: DirectoryCalls


@pytest.fixture
def side(transport: HttpsTransport, clock: ManualClock, own_key: SigningKey) -> Side:
    entropy = FixedEntropy()
    availability = Availability(clock, entropy)
    discoverer = Discoverer(transport, TableResolver(), clock, entropy)
    client = FederationClient(discoverer, transport, clock, OWN_NAME, own_key, availability)
    return Side(
        availability, client, Calls(client), KeyCalls(client), UserCalls(client), DirectoryCalls(client)
    )


@pytest.fixture
def keyring(
    side: Side, database: Database, clock: ManualClock, offload: ThreadOffload, own_key: SigningKey
) -> Keyring:
    return Keyring(database, side.keys, clock, offload, OWN_NAME, [own_key], [])
