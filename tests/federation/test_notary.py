"""As a notary: what others published, signed by us beside, and fetched no oftener than it must be."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from comity.api.router import Router
from comity.api.server.keys import KeysApi
from comity.federation.key_fetcher import FETCHES_FOR_OTHERS
from comity.federation.keyring import Keyring
from comity.federation.notary import MAX_SERVERS_PER_REQUEST, TOLD_UNASKED_MS, Notary
from comity.net.system import ThreadOffload
from comity.ports import Request
from comity.protocol.event import decode_base64
from comity.protocol.signing import SigningKey, parse_key_document, verify_json
from comity.store.database import Database
from tests.engines import engine
from tests.federation.conftest import OWN_NAME, PeerFactory, Side
from tests.federation.doors import ManualClock
from tests.federation.peer_server import Key, PeerServer
from tests.federation.test_keyring import Notary as OtherNotary
from tests.federation.test_keyring import an_event

__all__ = ["engine"]

KEYS = "/_matrix/key/v2/server"
DAY_MS = 24 * 3_600_000


class Asked:
    """The routes of the keys, asked as the listener asks them."""

    def __init__(self, keyring: Keyring, database: Database, clock: ManualClock) -> None:
        self.router = Router()
        notary = Notary(database, keyring, clock, OWN_NAME)
        KeysApi(keyring, notary, clock, "1").routes(self.router)

    async def __call__(
        self, method: str, path: str, query: str = "", body: object = None
    ) -> tuple[int, dict[str, Any]]:
        data = b"" if body is None else orjson.dumps(body)
        request = Request(method, path, query, {}, data, "127.0.0.1", frozenset({"federation"}))
        response = await self.router.handle(request)
        assert isinstance(response.body, bytes)
        return response.status, orjson.loads(response.body)

    async def about(self, server: str, query: str = "") -> list[dict[str, Any]]:
        status, answer = await self("GET", f"/_matrix/key/v2/query/{server}", query)
        assert status == 200
        documents: list[dict[str, Any]] = answer["server_keys"]
        return documents


@pytest.fixture
def asked(keyring: Keyring, database: Database, clock: ManualClock) -> Asked:
    return Asked(keyring, database, clock)


def holds(document: dict[str, Any], peer: PeerServer, own_key: SigningKey) -> bool:
    """Whether both signatures on a document of the peer hold."""
    (published,) = [key for key in parse_key_document(document, peer.name) if not key.expired]
    assert published.key_id == peer.key.key_id
    return verify_json(document, OWN_NAME, {own_key.key_id: decode_base64(own_key.public)})


async def test_a_document_with_both_signatures(asked: Asked, peer: PeerServer, own_key: SigningKey) -> None:
    for _ in range(3):
        (document,) = await asked.about(peer.name)
        assert holds(document, peer, own_key)
        assert set(document["signatures"]) == {peer.name, OWN_NAME}
    assert len(peer.requests(KEYS)) == 1


async def test_several_servers_and_our_own_at_once(
    asked: Asked, a_peer: PeerFactory, own_key: SigningKey
) -> None:
    first, second, dead = await a_peer(), await a_peer(), await a_peer()
    await dead.down()
    wanted: dict[str, Any] = {name: {} for name in (first.name, dead.name, OWN_NAME, second.name, "no name!")}
    status, answer = await asked("POST", "/_matrix/key/v2/query", body={"server_keys": wanted})
    assert status == 200
    told = {document["server_name"]: document for document in answer["server_keys"]}
    assert set(told) == {first.name, second.name, OWN_NAME}
    assert holds(told[first.name], first, own_key) and holds(told[second.name], second, own_key)
    parse_key_document(told[OWN_NAME], OWN_NAME)


async def test_a_document_that_was_fetched_for_ourselves_is_told(
    asked: Asked, keyring: Keyring, peer: PeerServer, clock: ManualClock
) -> None:
    await keyring.verify_events([an_event(peer, clock.now_ms())])
    assert len(await asked.about(peer.name)) == 1
    assert len(peer.requests(KEYS)) == 1


async def test_what_is_told_is_valid_as_long_as_was_asked(
    asked: Asked, peer: PeerServer, clock: ManualClock
) -> None:
    peer.valid_until = clock.now_ms() + DAY_MS // 2
    await asked.about(peer.name)
    later = clock.now_ms() + DAY_MS
    peer.valid_until = later
    # It was asked a moment ago: what is there is told, although it is not enough.
    (document,) = await asked.about(peer.name, f"minimum_valid_until_ts={later}")
    assert document["valid_until_ts"] < later
    clock.advance(61)
    (document,) = await asked.about(peer.name, f"minimum_valid_until_ts={later}")
    assert document["valid_until_ts"] == later
    # Without a time it is the present that counts.
    peer.valid_until = later + 1
    clock.advance(61)
    assert (await asked.about(peer.name))[0]["valid_until_ts"] == later
    assert len(peer.requests(KEYS)) == 2


async def test_a_key_that_is_not_there_yet_is_fetched(
    asked: Asked, peer: PeerServer, clock: ManualClock
) -> None:
    await asked.about(peer.name)
    peer.key = Key("ed25519:next", "next")
    clock.advance(61)
    criteria = {peer.name: {"ed25519:next": {"minimum_valid_until_ts": 0}}}
    _, answer = await asked("POST", "/_matrix/key/v2/query", body={"server_keys": criteria})
    assert list(answer["server_keys"][0]["verify_keys"]) == ["ed25519:next"]


async def test_a_document_is_looked_at_anew_after_a_while(
    asked: Asked, peer: PeerServer, clock: ManualClock
) -> None:
    peer.valid_until = clock.now_ms() + 30 * DAY_MS
    await asked.about(peer.name)
    clock.advance(TOLD_UNASKED_MS / 1000 + 1)
    await asked.about(peer.name)
    assert len(peer.requests(KEYS)) == 2
    # And one whose server is gone is told as it was.
    await peer.down()
    clock.advance(100 * DAY_MS / 1000)
    assert len(await asked.about(peer.name)) == 1


async def test_what_another_notary_told_us_is_told_on(
    side: Side, database: Database, clock: ManualClock, offload: ThreadOffload, a_peer: PeerFactory,
    own_key: SigningKey,
) -> None:  # fmt: skip
    dead, server = await a_peer(), await a_peer()
    await dead.down()
    server.key = Key("ed25519:notary", "notary")
    OtherNotary(server, [dead.key_document()])
    keyring = Keyring(database, side.keys, clock, offload, OWN_NAME, [own_key], [server.name])
    assert await keyring.verify_events([an_event(dead, clock.now_ms())]) == [frozenset({dead.name})]
    (document,) = await Asked(keyring, database, clock).about(dead.name)
    assert holds(document, dead, own_key)


async def test_documents_that_are_too_large_are_not_kept(asked: Asked, peer: PeerServer) -> None:
    document = {**peer.key_document(), "more": "x" * 40_000}
    document.pop("signatures")
    peer.on("GET", KEYS, 200, peer.key.sign_json(peer.name, document))
    assert await asked.about(peer.name) == []


async def test_one_request_names_a_bounded_number_of_servers(asked: Asked, peer: PeerServer) -> None:
    wanted: dict[str, Any] = {OWN_NAME: {}}
    wanted |= {f"not a name {number}": {} for number in range(10)}
    wanted |= {f"127.0.0.1:{number + 1}": {} for number in range(MAX_SERVERS_PER_REQUEST)}
    wanted[peer.name] = {}
    status, answer = await asked("POST", "/_matrix/key/v2/query", body={"server_keys": wanted})
    assert status == 200
    assert [document["server_name"] for document in answer["server_keys"]] == [OWN_NAME]
    assert peer.requests(KEYS) == []


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"server_keys": []},
        {"server_keys": {"a.test": []}},
        {"server_keys": {"a.test": {"ed25519:a": 1}}},
        {"server_keys": {"a.test": {"ed25519:a": {"minimum_valid_until_ts": "1"}}}},
        {"server_keys": {"a.test": {"ed25519:a": {"minimum_valid_until_ts": 1.5}}}},
        {"server_keys": {"a.test": {f"ed25519:{number}": {} for number in range(100)}}},
    ],
)
async def test_queries_that_make_no_sense(asked: Asked, body: dict[str, Any]) -> None:
    status, answer = await asked("POST", "/_matrix/key/v2/query", body=body)
    assert (status, answer["errcode"]) == (400, "M_BAD_JSON")


async def test_no_servers_are_no_documents(asked: Asked) -> None:
    body: dict[str, Any] = {"server_keys": {}}
    assert await asked("POST", "/_matrix/key/v2/query", body=body) == (200, {"server_keys": []})
    assert await asked.about("no%20name%21") == []


async def test_strangers_make_us_ask_no_oftener_than_is_good(
    keyring: Keyring, asked: Asked, peer: PeerServer, clock: ManualClock
) -> None:
    # More servers than may be asked, all of which refuse the connection.
    for start in range(1, int(FETCHES_FOR_OTHERS.burst) + 1, 100):
        await keyring.refresh(f"127.0.0.1:{port}" for port in range(start, start + 100))
    assert await asked.about(peer.name) == []
    assert peer.requests(KEYS) == []
    clock.advance(1)
    assert len(await asked.about(peer.name)) == 1
    # For our own sake they are asked as ever.
    assert await keyring.verify_events([an_event(peer, clock.now_ms())]) == [frozenset({peer.name})]
