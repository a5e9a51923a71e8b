"""Requests of ours: what is signed is what is sent, and every answer gets its proper name."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from comity.federation.availability import Availability
from comity.federation.client import (
    MAX_CONCURRENT_PER_SERVER,
    FederationClient,
    FederationError,
    path,
    signed_bytes,
)
from comity.federation.discoverer import Discoverer
from comity.ports import Answer, SrvRecord, TransportError
from comity.protocol import canonical_json
from comity.protocol.signing import SigningKey, request_object
from tests.federation.conftest import OWN_NAME, Side
from tests.federation.doors import FixedEntropy, ManualClock, ScriptedTransport, TableResolver
from tests.federation.peer_server import PeerServer, Received


def test_path_encodes_every_segment() -> None:
    assert path("/_matrix/x", "!a/b:c", "$ü?") == "/_matrix/x/%21a%2Fb%3Ac/%24%C3%BC%3F"


@pytest.mark.parametrize("content", [None, {}, {"zebra": [1, {"é": None}], "a": '\u2028"'}])
def test_the_signed_bytes_are_the_canonical_json_of_the_request(content: dict[str, Any] | None) -> None:
    body = None if content is None else canonical_json.encode(content)
    expected = canonical_json.encode(request_object("PUT", "/x?y=%20", "a.example", "b.example:1", content))
    assert signed_bytes("PUT", "/x?y=%20", "a.example", "b.example:1", body) == expected


async def test_requests_are_signed_over_what_is_sent(
    side: Side, peer: PeerServer, own_key: SigningKey
) -> None:
    peer.on("PUT", "/a/%21b%3Ac", 200, {"ok": True})
    body = await side.client.request(
        peer.name,
        "PUT",
        path("/a", "!b:c"),
        query=[("v", "$one/ü"), ("v", "$two +")],
        content={"b": "ü", "a": [1, True, None]},
    )
    assert json.loads(body) == {"ok": True}
    (request,) = peer.received
    assert request.target == "/a/%21b%3Ac?v=%24one%2F%C3%BC&v=%24two%20%2B"
    assert request.is_signed_by(own_key.public, peer.name)
    assert request.x_matrix["origin"] == OWN_NAME
    assert request.x_matrix["key"] == "ed25519:own"
    assert request.headers["host"] == peer.name
    assert request.headers["content-type"] == "application/json"


async def test_a_spliced_body_is_signed_as_it_stands(
    side: Side, peer: PeerServer, own_key: SigningKey
) -> None:
    peer.on("PUT", "/a", 200, {})
    await side.client.request(peer.name, "PUT", "/a", content_bytes=b'{"a":"\xc3\xbc","b":[{"c":1}]}')
    assert peer.received[0].is_signed_by(own_key.public, peer.name)
    assert peer.received[0].body == b'{"a":"\xc3\xbc","b":[{"c":1}]}'


async def test_a_request_without_body_signs_no_content(
    side: Side, peer: PeerServer, own_key: SigningKey
) -> None:
    peer.on("GET", "/a", 200, {})
    await side.client.request(peer.name, "GET", "/a")
    assert peer.received[0].is_signed_by(own_key.public, peer.name)
    await side.client.request(peer.name, "GET", "/a", signed=False)
    assert "authorization" not in peer.received[1].headers


async def test_an_error_is_told_with_its_code(side: Side, peer: PeerServer) -> None:
    peer.on("GET", "/a", 403, {"errcode": "M_FORBIDDEN", "error": "No", "room_version": "3"})
    with pytest.raises(FederationError) as caught:
        await side.client.request(peer.name, "GET", "/a")
    error = caught.value
    assert (error.server, error.status, error.code) == (peer.name, 403, "M_FORBIDDEN")
    assert error.body["room_version"] == "3"
    assert error.reached and not error.temporary
    assert "No" in error.text


@pytest.mark.parametrize(
    ("status", "answer", "temporary"),
    [
        (404, b"<html>not here</html>", False),
        (400, b"[1]", False),
        (400, b'{"errcode": 5}', False),
        (302, b"", False),
        (500, b'{"a":' * 400 + b"1" + b"}" * 400, True),
        (429, b'{"errcode":"M_LIMIT_EXCEEDED","retry_after_ms":1500}', True),
        (200 + 403, b"x" * 100_000, True),
    ],
)
async def test_errors_that_are_no_errors_of_ours(
    side: Side, peer: PeerServer, status: int, answer: bytes, temporary: bool
) -> None:
    peer.on("GET", "/a", status, answer)
    with pytest.raises(FederationError) as caught:
        await side.client.request(peer.name, "GET", "/a")
    assert caught.value.status == status
    assert caught.value.code == ("M_LIMIT_EXCEEDED" if status == 429 else None)
    assert caught.value.temporary is temporary
    assert caught.value.retry_after_ms == (1500 if status == 429 else 0)


async def test_an_answer_over_its_limit_is_an_error(side: Side, peer: PeerServer) -> None:
    peer.on("GET", "/a", 200, b"x" * 2000)
    with pytest.raises(FederationError) as caught:
        await side.client.request(peer.name, "GET", "/a", max_bytes=1000)
    assert caught.value.reached


async def test_we_never_ask_ourselves_nor_what_is_no_server(side: Side) -> None:
    for name in (OWN_NAME, "no server!", ""):
        with pytest.raises(FederationError) as caught:
            await side.client.request(name, "GET", "/a", even_if_backing_off=True)
        assert not caught.value.reached and not caught.value.temporary


async def test_a_server_that_is_down_is_left_alone_for_a_while(
    side: Side, peer: PeerServer, clock: ManualClock
) -> None:
    back: list[str] = []
    side.availability.on_back.append(back.append)
    peer.on("GET", "/a", 200, {})
    await peer.down()
    with pytest.raises(FederationError) as caught:
        await side.client.request(peer.name, "GET", "/a")
    assert caught.value.temporary and not caught.value.reached
    await peer.up()
    with pytest.raises(FederationError) as caught:
        await side.client.request(peer.name, "GET", "/a")
    assert caught.value.text == "the server did not answer lately"
    assert peer.received == [] and back == []
    await side.client.request(peer.name, "GET", "/a", even_if_backing_off=True)
    assert back == [peer.name]
    assert side.availability.may_try(peer.name)


async def test_a_server_that_talks_to_us_may_be_tried(
    side: Side, peer: PeerServer, clock: ManualClock
) -> None:
    name = peer.name
    side.availability.failed(name)
    assert not side.availability.may_try(name)
    assert side.availability.heard(name)
    assert side.availability.may_try(name)
    side.availability.failed(name)
    assert not side.availability.heard(name)
    clock.advance(10)
    assert side.availability.heard(name)


async def test_a_gateway_without_its_server_counts_as_down(side: Side, peer: PeerServer) -> None:
    peer.on("GET", "/a", 502, b"")
    with pytest.raises(FederationError) as caught:
        await side.client.request(peer.name, "GET", "/a")
    assert caught.value.temporary
    assert not side.availability.may_try(peer.name)


async def test_requests_to_one_server_have_a_limit(side: Side, peer: PeerServer) -> None:
    gate, most, now = asyncio.Event(), 0, 0

    async def slow(_: Received) -> tuple[int, Any]:
        nonlocal most, now
        now += 1
        most = max(most, now)
        if now == MAX_CONCURRENT_PER_SERVER:
            gate.set()
        await gate.wait()
        now -= 1
        return 200, {}

    peer.handlers["GET", "/a"] = slow
    requests = [side.client.request(peer.name, "GET", "/a") for _ in range(3 * MAX_CONCURRENT_PER_SERVER)]
    await asyncio.gather(*requests)
    assert most == MAX_CONCURRENT_PER_SERVER


def two_places(error: TransportError, clock: ManualClock) -> tuple[FederationClient, ScriptedTransport]:
    """A client whose server has two places, of which the first fails."""
    network, entropy = ScriptedTransport(), FixedEntropy()
    records = [SrvRecord(1, 1, 1, "one.example"), SrvRecord(2, 1, 2, "two.example")]
    discoverer = Discoverer(network, TableResolver({"_matrix-fed._tcp.b.example": records}), clock, entropy)
    network.answers = {("one.example", 1): error, ("two.example", 2): Answer(200, {}, b"{}")}
    key = SigningKey("own", b"\0" * 32)
    availability = Availability(clock, entropy)
    return FederationClient(discoverer, network, clock, OWN_NAME, key, availability), network


@pytest.mark.parametrize(
    ("method", "reached", "second_tried"),
    [("GET", False, True), ("PUT", False, True), ("GET", True, True), ("PUT", True, False)],
)
async def test_the_next_place_is_tried_only_where_that_is_safe(
    clock: ManualClock, method: str, reached: bool, second_tried: bool
) -> None:
    client, network = two_places(TransportError("gone", reached=reached), clock)
    if second_tried:
        assert await client.request("b.example", method, "/a") == b"{}"
        assert network.asked == [("one.example", 1), ("two.example", 2)]
    else:
        with pytest.raises(FederationError) as caught:
            await client.request("b.example", method, "/a")
        assert caught.value.reached
        assert network.asked == [("one.example", 1)]


async def test_time_for_finding_a_server_counts(clock: ManualClock) -> None:
    client, network = two_places(TransportError("gone"), clock)
    network.open.clear()
    with pytest.raises(FederationError) as caught:
        await client.request("b.example", "GET", "/a", timeout=0.05)
    assert not caught.value.reached and caught.value.temporary
    network.open.set()
