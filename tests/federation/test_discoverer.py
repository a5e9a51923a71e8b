"""Discovery through the doors: each step is asked once, and its result is remembered as long as it says."""

from __future__ import annotations

import asyncio

import pytest

from comity.federation.discoverer import Discoverer
from comity.federation.errors import FederationError
from comity.ports import Answer, Endpoint, SrvRecord
from tests.federation.doors import FixedEntropy, ManualClock, ScriptedTransport, TableResolver

WELL_KNOWN = "https://example.org/.well-known/matrix/server"


@pytest.fixture
def network() -> ScriptedTransport:
    return ScriptedTransport()


@pytest.fixture
def names() -> TableResolver:
    return TableResolver()


@pytest.fixture
def discoverer(network: ScriptedTransport, names: TableResolver, clock: ManualClock) -> Discoverer:
    return Discoverer(network, names, clock, FixedEntropy())


def well_known(server: str, max_age: int) -> Answer:
    return Answer(200, {"cache-control": f"max-age={max_age}"}, b'{"m.server":"%s"}' % server.encode())


async def test_explicit_ports_and_literals_need_no_look_up(
    discoverer: Discoverer, network: ScriptedTransport, names: TableResolver
) -> None:
    assert await discoverer.endpoints("localhost:1234") == (
        Endpoint("localhost", 1234, "localhost", "localhost:1234"),
    )
    assert await discoverer.endpoints("[::1]") == (Endpoint("::1", 8448, "::1", "[::1]"),)
    assert network.fetched == [] and names.asked == []


async def test_delegation_by_well_known_then_srv(
    discoverer: Discoverer, network: ScriptedTransport, names: TableResolver
) -> None:
    network.documents[WELL_KNOWN] = well_known("matrix.example.net", 3600)
    names.records["_matrix-fed._tcp.matrix.example.net"] = [
        SrvRecord(1, 1, 443, "one.example.net"),
        SrvRecord(2, 1, 8448, "two.example.net"),
    ]
    assert await discoverer.endpoints("example.org") == (
        Endpoint("one.example.net", 443, "matrix.example.net", "matrix.example.net"),
        Endpoint("two.example.net", 8448, "matrix.example.net", "matrix.example.net"),
    )


async def test_no_well_known_and_no_srv_is_port_8448(discoverer: Discoverer, names: TableResolver) -> None:
    assert await discoverer.endpoints("example.org") == (
        Endpoint("example.org", 8448, "example.org", "example.org"),
    )
    assert names.asked == ["_matrix-fed._tcp.example.org", "_matrix._tcp.example.org"]


async def test_a_result_is_remembered_as_long_as_it_says(
    discoverer: Discoverer, network: ScriptedTransport, clock: ManualClock
) -> None:
    network.documents[WELL_KNOWN] = well_known("a.example.net:1", 7200)
    await discoverer.endpoints("example.org")
    clock.advance(7200 * 0.9)
    await discoverer.endpoints("example.org")
    assert len(network.fetched) == 1
    network.documents[WELL_KNOWN] = well_known("b.example.net:2", 7200)
    clock.advance(7200 * 0.1)
    (found,) = await discoverer.endpoints("example.org")
    assert (found.host, found.port) == ("b.example.net", 2)
    assert len(network.fetched) == 2


async def test_errors_are_believed_longer_each_time(
    discoverer: Discoverer, network: ScriptedTransport, clock: ManualClock
) -> None:
    await discoverer.endpoints("example.org")
    clock.advance(301)
    await discoverer.endpoints("example.org")
    clock.advance(301)
    await discoverer.endpoints("example.org")
    assert len(network.fetched) == 2


async def test_one_server_is_looked_up_once_at_a_time(
    discoverer: Discoverer, network: ScriptedTransport
) -> None:
    network.documents[WELL_KNOWN] = well_known("a.example.net:1", 7200)
    network.open.clear()
    first = asyncio.create_task(discoverer.endpoints("example.org"))
    others = [asyncio.create_task(discoverer.endpoints("example.org")) for _ in range(5)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    # Whoever gives up does not take the look-up away from the others.
    first.cancel()
    network.open.set()
    found = await asyncio.gather(*others)
    assert {endpoints[0].port for endpoints in found} == {1}
    assert len(network.fetched) == 1


async def test_a_server_that_is_nowhere(discoverer: Discoverer, names: TableResolver) -> None:
    names.records["_matrix-fed._tcp.example.org"] = [SrvRecord(1, 1, 443, ".")]
    with pytest.raises(FederationError) as caught:
        await discoverer.endpoints("example.org")
    assert caught.value.temporary and not caught.value.reached
    with pytest.raises(FederationError):
        await discoverer.endpoints("not a name")


async def test_a_result_that_leads_nowhere_is_looked_up_anew_after_a_while(
    discoverer: Discoverer, network: ScriptedTransport, clock: ManualClock
) -> None:
    network.documents[WELL_KNOWN] = well_known("a.example.net:1", 86400)
    await discoverer.endpoints("example.org")
    discoverer.doubt("example.org")
    await discoverer.endpoints("example.org")
    assert len(network.fetched) == 1
    clock.advance(301)
    discoverer.doubt("example.org")
    await discoverer.endpoints("example.org")
    assert len(network.fetched) == 2
