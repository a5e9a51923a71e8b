"""Discovery from end to end: real DNS, real TLS, every branch of server-server §Resolving server names."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from comity.federation.discoverer import DEAD_PLACE_SECONDS
from comity.federation.errors import FederationError
from tests.federation.doors import ManualClock
from tests.federation.world import VERSION, WELL_KNOWN, World, a_world, hang_up
from tests.net.authority import Authority
from tests.net.peers import running_peer

NAME = "example.test"


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("world"))


@pytest.fixture
async def world(issuer: Authority, clock: ManualClock) -> AsyncIterator[World]:
    async with a_world(issuer, clock) as made:
        yield made


async def refusal(world: World, server: str) -> FederationError:
    with pytest.raises(FederationError) as caught:
        await world.ask(server)
    return caught.value


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
async def test_step_1_an_ip_literal_with_its_port(world: World, address: str) -> None:
    host = await world.host(address, answers={VERSION: ("200 OK", (), b"{}")}, address=address)
    server = f"[{address}]:{host.port}" if ":" in address else f"{address}:{host.port}"
    assert await world.ask(server) == b"{}"
    assert host.asked == [(VERSION, server)]
    assert world.name_server.questions == []


async def test_step_2_a_name_with_its_port(world: World) -> None:
    host = await world.matrix(NAME, (NAME, 1234))
    await world.ask(f"{NAME}:1234")
    assert host.asked == [(VERSION, f"{NAME}:1234")]
    assert host.peer is not None and host.peer.server_names == [NAME]
    assert world.name_server.questions == []


async def test_step_3_1_delegated_to_an_ip_literal(world: World) -> None:
    host = await world.matrix("127.0.0.1")
    web = await world.delegates(NAME, f"127.0.0.1:{host.port}")
    await world.ask(NAME)
    assert host.asked == [(VERSION, f"127.0.0.1:{host.port}")]
    assert web.asked == [(WELL_KNOWN, NAME)]
    assert world.name_server.questions == []


async def test_step_3_2_delegated_to_a_name_with_its_port(world: World) -> None:
    host = await world.matrix("matrix.test", ("matrix.test", 443))
    await world.delegates(NAME, "matrix.test:443")
    await world.ask(NAME)
    assert host.asked == [(VERSION, "matrix.test:443")]
    assert world.name_server.questions == []


@pytest.mark.parametrize("service", ["_matrix-fed", "_matrix"])
async def test_steps_3_3_and_3_4_delegated_and_srv(world: World, service: str) -> None:
    # The certificate is for the name that was delegated to, not for the target of the record.
    host = await world.matrix("matrix.test", ("srv.test", 9000))
    await world.delegates(NAME, "matrix.test")
    world.zone[f"{service}._tcp.matrix.test"] = ["1 1 9000 srv.test."]
    await world.ask(NAME)
    assert host.asked == [(VERSION, "matrix.test")]
    assert host.peer is not None and host.peer.server_names == ["matrix.test"]


async def test_step_3_5_delegated_and_no_srv(world: World) -> None:
    host = await world.matrix("matrix.test", ("matrix.test", 8448))
    await world.delegates(NAME, "matrix.test")
    await world.ask(NAME)
    assert host.asked == [(VERSION, "matrix.test")]
    assert world.name_server.questions == ["_matrix-fed._tcp.matrix.test", "_matrix._tcp.matrix.test"]


@pytest.mark.parametrize("service", ["_matrix-fed", "_matrix"])
async def test_steps_4_and_5_srv(world: World, service: str) -> None:
    host = await world.matrix(NAME, ("srv.test", 9000))
    world.zone[f"{service}._tcp.{NAME}"] = ["1 1 9000 srv.test."]
    await world.ask(NAME)
    assert host.asked == [(VERSION, NAME)]
    assert host.peer is not None and host.peer.server_names == [NAME]


async def test_step_6_the_name_itself(world: World) -> None:
    host = await world.matrix(NAME, (NAME, 8448))
    await world.ask(NAME)
    assert host.asked == [(VERSION, NAME)]


async def test_a_service_that_is_not_offered(world: World) -> None:
    await world.matrix(NAME, (NAME, 8448))
    world.zone[f"_matrix-fed._tcp.{NAME}"] = ["0 0 0 ."]
    error = await refusal(world, NAME)
    assert (error.kind, error.reached) == ("discovery", False)


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary Redirect", "308 Permanent"])
async def test_a_document_behind_redirects(world: World, status: str) -> None:
    host = await world.matrix("matrix.test", ("matrix.test", 443))
    await world.delegates("other.test", "matrix.test:443")
    redirect = (status, (f"Location: https://other.test{WELL_KNOWN}",), b"")
    await world.host(NAME, (NAME, 443), answers={WELL_KNOWN: redirect})
    await world.ask(NAME)
    assert host.asked == [(VERSION, "matrix.test:443")]


@pytest.mark.parametrize(
    "location",
    ["https://inner.test/x", "https://10.0.0.1/x", "https://[fd00::1]/x", "https://[::ffff:10.0.0.1]/x",
     "http://other.test/x", f"https://{NAME}{WELL_KNOWN}"],
)  # fmt: skip
async def test_redirects_that_are_not_followed_lead_on(world: World, location: str) -> None:
    # Inward, out of TLS, and in a circle: the document is not there, and the next step is made.
    world.names.table["inner.test", 443] = ("10.0.0.1", 443)
    redirect = ("302 Found", (f"Location: {location}",), b"")
    web = await world.host(NAME, (NAME, 443), answers={WELL_KNOWN: redirect})
    host = await world.matrix(NAME, (NAME, 8448))
    await world.ask(NAME)
    assert host.asked == [(VERSION, NAME)]
    assert len(web.asked) == (6 if location.endswith(WELL_KNOWN) else 1)


@pytest.mark.parametrize("address", ["10.0.0.1", "169.254.169.254", "192.168.1.1", "fd00::1"])
async def test_private_addresses_are_not_connected_to(world: World, address: str) -> None:
    world.names.table[NAME, 8448] = (address, 8448)
    error = await refusal(world, NAME)
    assert "not in the allowed ranges" in error.text and not error.reached


async def test_a_delegation_inward_is_not_followed(world: World) -> None:
    await world.delegates(NAME, "10.0.0.1:443")
    assert "not in the allowed ranges" in (await refusal(world, NAME)).text


async def test_a_name_that_answers_differently_the_second_time_gains_nothing(world: World) -> None:
    # The very address that is connected to is looked at, and not one that was looked up before.
    await world.matrix(NAME, (NAME, 1234))
    await world.ask(f"{NAME}:1234")
    world.names.table[NAME, 4321] = ("10.0.0.1", 443)
    assert "not in the allowed ranges" in (await refusal(world, f"{NAME}:4321")).text


async def test_certificates_that_do_not_hold(world: World, tmp_path: Path) -> None:
    stranger = Authority(tmp_path)
    for number, (issued, reason) in enumerate(
        [
            (world.authority.issue([NAME], expired=True), "expired"),
            (world.authority.issue(["other.test"]), "is not valid for"),
            (world.authority.issue([], common_name=NAME), "is not valid for"),
            (stranger.issue([NAME]), "not trusted"),
        ]
    ):
        host = await world.matrix(NAME, (NAME, 1000 + number), issued=issued)
        error = await refusal(world, f"{NAME}:{1000 + number}")
        assert error.kind == "tls" and reason in error.text and not error.reached
        assert host.asked == []


async def test_a_certificate_for_the_srv_target_alone_does_not_hold(world: World) -> None:
    host = await world.matrix("srv.test", ("srv.test", 9000))
    world.zone[f"_matrix-fed._tcp.{NAME}"] = ["1 1 9000 srv.test."]
    assert (await refusal(world, NAME)).kind == "tls"
    assert host.asked == []


async def test_a_document_with_a_certificate_that_does_not_hold_is_none(world: World) -> None:
    document = ("200 OK", (), json.dumps({"m.server": "matrix.test:443"}).encode())
    wrong = world.authority.issue(["other.test"])
    web = await world.host(NAME, (NAME, 443), answers={WELL_KNOWN: document}, issued=wrong)
    host = await world.matrix(NAME, (NAME, 8448))
    await world.ask(NAME)
    assert (web.asked, host.asked) == ([], [(VERSION, NAME)])


async def test_a_dead_first_target_holds_up_one_request_and_is_tried_again_later(world: World) -> None:
    second = await world.matrix(NAME, ("second.test", 9000))
    world.zone[f"_matrix-fed._tcp.{NAME}"] = ["1 1 9000 first.test.", "2 1 9000 second.test."]
    async with running_peer(hang_up, None) as dead:
        world.names.table["first.test", 9000] = ("127.0.0.1", dead.port)
        for _ in range(5):
            await world.ask(NAME)
        assert len(dead.connections) == 1 and len(second.asked) == 5
        world.clock.advance(DEAD_PLACE_SECONDS)
        await world.ask(NAME)
        assert len(dead.connections) == 2 and len(second.asked) == 6


async def test_when_all_are_dead_all_are_tried(world: World) -> None:
    world.zone[f"_matrix-fed._tcp.{NAME}"] = ["1 1 9000 first.test.", "2 1 9000 second.test."]
    async with running_peer(hang_up, None) as first, running_peer(hang_up, None) as second:
        world.names.table["first.test", 9000] = ("127.0.0.1", first.port)
        world.names.table["second.test", 9000] = ("127.0.0.1", second.port)
        for count in (1, 2):
            error = await refusal(world, NAME)
            assert not error.reached
            assert (len(first.connections), len(second.connections)) == (count, count)


async def test_a_target_that_never_answers_leaves_time_for_the_next(world: World) -> None:
    second = await world.matrix(NAME, ("second.test", 9000))
    world.zone[f"_matrix-fed._tcp.{NAME}"] = ["1 1 9000 first.test.", "2 1 9000 second.test."]

    async def silent(connection: object) -> None:
        await connection.reader.read()  # type: ignore[attr-defined]

    async with running_peer(silent, None) as first:
        world.names.table["first.test", 9000] = ("127.0.0.1", first.port)
        await world.client.request(NAME, "GET", VERSION, signed=False, timeout=1)
    assert len(second.asked) == 1


@pytest.mark.parametrize("weights", [(60, 30, 10), (1, 1, 0)])
async def test_weights_are_shares_of_the_requests(world: World, weights: tuple[int, ...]) -> None:
    world.zone[f"_matrix-fed._tcp.{NAME}"] = [
        f"5 {weight} {9000 + index} a{index}.test." for index, weight in enumerate(weights)
    ] + ["9 100 1 last.test."]
    draws, total = 10_000, sum(weights)
    first: Counter[int] = Counter()
    for _ in range(draws):
        endpoints = await world.discoverer.endpoints(NAME)
        assert len(endpoints) == 4 and endpoints[-1].host == "last.test"
        first[endpoints[0].port - 9000] += 1
    for index, weight in enumerate(weights):
        assert abs(first[index] / draws - weight / total) < 0.05 * (weight / total) + 0.01
    assert world.name_server.questions == [f"_matrix-fed._tcp.{NAME}"]


async def test_requests_go_to_both_targets_although_connections_are_kept(world: World) -> None:
    hosts = [await world.matrix(NAME, (f"a{index}.test", 9000)) for index in range(2)]
    world.zone[f"_matrix-fed._tcp.{NAME}"] = ["1 1 9000 a0.test.", "1 1 9000 a1.test."]
    for _ in range(40):
        await world.ask(NAME)
    assert min(len(host.asked) for host in hosts) > 8
    assert all(host.peer is not None and len(host.peer.connections) == 1 for host in hosts)
