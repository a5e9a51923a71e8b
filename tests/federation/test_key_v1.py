"""Servers that know /_matrix/key/v1 of 2014 alone: their keys count if the connection bears them out."""

from __future__ import annotations

import json
import ssl
from typing import Any

import pytest

from comity.federation.key_fetcher import V1_VALIDITY_MS
from comity.federation.keyring import Keyring
from comity.net.system import ThreadOffload
from comity.protocol.errors import MatrixError
from comity.protocol.signing import SigningKey, parse_key_document_v1
from comity.store.database import Database
from tests.engines import engine
from tests.federation.conftest import OWN_NAME, Side
from tests.federation.doors import ManualClock
from tests.federation.peer_server import Key, PeerServer, canonical, padded, unpadded
from tests.federation.test_keyring import a_request, an_event, refusal
from tests.interop.authority import Authority

__all__ = ["engine"]

V1, V2 = "/_matrix/key/v1", "/_matrix/key/v2/server"


@pytest.fixture
def certificate(authority: Authority) -> bytes:
    """The DER of the certificate that every peer presents."""
    return ssl.PEM_cert_to_DER_cert(authority.certificate.read_text())


async def test_the_certificate_of_the_connection_is_told(
    side: Side, peer: PeerServer, certificate: bytes
) -> None:
    peer.on("GET", "/a", 200, {})
    peer.on("GET", "/b", 200, b"x" * 100_000)
    for path in ("/a", "/a", "/b"):  # the second time on a kept connection
        assert (await side.client.ask(peer.name, "GET", path)).peer_certificate == certificate


async def test_keys_of_2014_verify_events_and_requests(
    keyring: Keyring, peer: PeerServer, clock: ManualClock, certificate: bytes
) -> None:
    peer.knows_2014_alone(certificate)
    assert await keyring.verify_events([an_event(peer, clock.now_ms())]) == [frozenset({peer.name})]
    await keyring.verify_request(peer.name, *a_request(peer))
    assert [request.path for request in peer.received] == [V2, V1]


async def test_they_are_good_for_a_bounded_time(
    keyring: Keyring, peer: PeerServer, clock: ManualClock, certificate: bytes
) -> None:
    peer.knows_2014_alone(certificate)
    await keyring.verify_request(peer.name, *a_request(peer))
    clock.advance(V1_VALIDITY_MS / 1000)
    await keyring.verify_request(peer.name, *a_request(peer))
    assert len(peer.requests(V1)) == 1
    clock.advance(1)
    await keyring.verify_request(peer.name, *a_request(peer))
    assert len(peer.requests(V1)) == 2


async def test_another_certificate_than_that_of_the_connection(
    keyring: Keyring, peer: PeerServer, clock: ManualClock, certificate: bytes
) -> None:
    peer.knows_2014_alone(certificate[:-1] + bytes([certificate[-1] ^ 1]))
    assert await keyring.verify_events([an_event(peer, clock.now_ms())]) == [frozenset()]
    assert "could not be found" in await refusal(keyring, *a_request(peer))


async def test_a_signature_that_does_not_hold(
    keyring: Keyring, peer: PeerServer, clock: ManualClock, certificate: bytes
) -> None:
    peer.knows_2014_alone(certificate, key=Key(peer.key.key_id, "somebody else"))
    assert await keyring.verify_events([an_event(peer, clock.now_ms())]) == [frozenset()]


@pytest.mark.parametrize("status", [500, 403])
async def test_a_server_of_today_in_trouble_is_not_asked_as_one_of_2014(
    keyring: Keyring, peer: PeerServer, clock: ManualClock, certificate: bytes, status: int
) -> None:
    peer.knows_2014_alone(certificate)
    peer.on("GET", V2, status, {"errcode": "M_UNKNOWN", "error": "Later"})
    assert await keyring.verify_events([an_event(peer, clock.now_ms())]) == [frozenset()]
    assert peer.requests(V1) == []


def test_documents_that_are_none() -> None:
    key = Key("ed25519:auto", "auto")
    good = {
        "server_name": "a.test", "tls_certificate": unpadded(b"der"), "verify_keys": {key.key_id: key.public}
    }  # fmt: skip
    signed = key.sign_json("a.test", good)
    assert parse_key_document_v1(signed, "a.test", b"der") == {key.key_id: padded(key.public)}
    changes: list[dict[str, Any]] = [
        {"server_name": "b.test"},
        {"tls_certificate": None},
        {"tls_certificate": "!"},
        {"tls_certificate": unpadded(b"other")},
        {"verify_keys": None},
        {"verify_keys": {}},
        {"verify_keys": {key.key_id: "AAAA"}},
        {"verify_keys": {key.key_id: {"key": key.public}}},
        {"verify_keys": {f"ed25519:{number}": key.public for number in range(100)}},
        {"more": 1.5},
    ]
    for changed in changes:
        with pytest.raises(ValueError, match=r"^[A-Z]"):
            parse_key_document_v1(key.sign_json("a.test", {**good, **changed}), "a.test", b"der")
    broken: list[object] = [None, [], {}, {**signed, "signatures": {}}, {**signed, "more": 1}]
    for document in broken:
        with pytest.raises(ValueError, match=r"^[A-Z]"):
            parse_key_document_v1(document, "a.test", b"der")


async def test_our_own_document_of_2014(
    side: Side, database: Database, clock: ManualClock, offload: ThreadOffload, own_key: SigningKey
) -> None:
    keyring = Keyring(
        database, side.keys, clock, offload, OWN_NAME, [own_key], [], certificate=b"der"
    )  # fmt: skip
    document = json.loads(keyring.key_document_v1())
    assert document["tls_certificate"] == unpadded(b"der")
    assert document["verify_keys"] == {own_key.key_id: own_key.public}
    assert canonical(document) == keyring.key_document_v1()
    assert set(parse_key_document_v1(document, OWN_NAME, b"der")) == {own_key.key_id}


async def test_where_our_certificate_is_not_known(keyring: Keyring) -> None:
    with pytest.raises(MatrixError) as caught:
        keyring.key_document_v1()
    assert (caught.value.status, caught.value.code) == (404, "M_NOT_FOUND")
