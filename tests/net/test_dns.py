"""SRV records: their order, and what different silences mean, with a real name server on loopback."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import dns.message
import dns.rcode
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from comity.net.dns import MAX_SRV_RECORDS, DnsResolver, order_srv
from comity.net.system import SystemEntropy
from comity.ports import Resolver, ResolverError, SrvRecord

#: What the name server knows: SRV data by name, an alias, or a failure.
Zone = Mapping[str, Sequence[str] | dns.rcode.Rcode | None]

NAME = "_matrix-fed._tcp.example.test"


class NameServer(asyncio.DatagramProtocol):
    """Answers SRV questions from `zone`; a name that maps to None gets no answer at all."""

    def __init__(self, zone: Zone) -> None:
        self.zone = zone
        self.questions: list[str] = []
        self.transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)  # uvloop's is none by its class

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        query = dns.message.from_wire(data)
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True)
        self.questions.append(name)
        response = dns.message.make_response(query)
        found = self.zone.get(name, dns.rcode.NXDOMAIN)
        if found is None:
            return
        if isinstance(found, dns.rcode.Rcode):
            response.set_rcode(found)
        elif found and found[0].startswith("CNAME "):
            alias = dns.rrset.from_text(question.name, 60, "IN", "CNAME", found[0][6:])
            target = alias[0].target
            behind = self.zone[target.to_text(omit_final_dot=True)]
            assert isinstance(behind, list)
            response.answer += [alias, dns.rrset.from_text_list(target, 60, "IN", "SRV", behind)]
        elif found:
            response.answer.append(dns.rrset.from_text_list(question.name, 60, "IN", "SRV", found))
        assert self.transport is not None
        self.transport.sendto(response.to_wire(), addr)


@asynccontextmanager
async def name_server(zone: Zone, seconds: float = 10) -> AsyncIterator[tuple[DnsResolver, NameServer]]:
    """A name server that knows `zone`, and a resolver that asks it."""
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(
        lambda: NameServer(zone), local_addr=("127.0.0.1", 0)
    )
    port = transport.get_extra_info("sockname")[1]
    try:
        yield (
            DnsResolver(SystemEntropy(), nameservers=["127.0.0.1"], port=port, lookup_seconds=seconds),
            protocol,
        )
    finally:
        transport.close()


async def test_records_by_priority() -> None:
    async with name_server({NAME: ["20 0 443 b.test.", "10 5 8448 A.Test."]}) as (resolver, _):
        port: Resolver = resolver
        assert await port.srv(NAME) == [SrvRecord(10, 5, 8448, "a.test"), SrvRecord(20, 0, 443, "b.test")]


async def test_an_alias_is_followed() -> None:
    zone = {NAME: ["CNAME other.test."], "other.test": ["1 1 8448 a.test."]}
    async with name_server(zone) as (resolver, _):
        assert [record.target for record in await resolver.srv(NAME)] == ["a.test"]


@pytest.mark.parametrize(
    "zone",
    [
        {},
        {NAME: dns.rcode.NXDOMAIN},
        {NAME: []},
        {NAME: ["0 0 0 ."]},
        {NAME: ["0 0 8448 ."]},
        {NAME: ["0 0 0 a.test."]},
        {NAME: ["0 0 8448 a\\000b.test."]},
    ],
)
async def test_there_is_none(zone: Zone) -> None:
    async with name_server(zone) as (resolver, _):
        assert await resolver.srv(NAME) == []


@pytest.mark.parametrize("found", [dns.rcode.SERVFAIL, dns.rcode.REFUSED, None])
async def test_no_answer_is_not_no_record(found: dns.rcode.Rcode | None) -> None:
    async with name_server({NAME: found}, 0.2 if found is None else 10) as (resolver, _):
        with pytest.raises(ResolverError, match=NAME):
            await resolver.srv(NAME)


@pytest.mark.parametrize("name", ["a..b", "a" * 64 + ".test", ".".join(["a" * 60] * 5), "\udcff.test"])
async def test_a_name_that_cannot_exist_has_no_records(name: str) -> None:
    async with name_server({}) as (resolver, server):
        assert await resolver.srv(name) == []
        assert server.questions == []


async def test_answers_are_remembered() -> None:
    async with name_server({NAME: ["1 1 8448 a.test."]}) as (resolver, server):
        for _ in range(3):
            assert len(await resolver.srv(NAME)) == 1
            assert await resolver.srv("none.test") == []
        assert server.questions == [NAME, "none.test"]


async def test_a_machine_without_name_servers(tmp_path: Path) -> None:
    configuration = tmp_path / "resolv.conf"
    resolver = DnsResolver(SystemEntropy(), configuration=configuration)
    with pytest.raises(ResolverError, match="no name server is configured"):
        await resolver.srv(NAME)
    configuration.write_text("# nothing here\n")
    with pytest.raises(ResolverError, match="no name server is configured"):
        await resolver.srv(NAME)


async def test_a_name_server_that_is_not_there() -> None:
    resolver = DnsResolver(SystemEntropy(), nameservers=["127.0.0.1"], port=9, lookup_seconds=0.2)
    with pytest.raises(ResolverError):
        await resolver.srv(NAME)


# The order, RFC 2782


class Scripted:
    """Entropy whose chance is a script."""

    def __init__(self, chances: Iterator[float]) -> None:
        self._chances = chances

    def bytes(self, count: int) -> bytes:
        raise NotImplementedError

    def token(self, length: int) -> str:
        raise NotImplementedError

    def random(self) -> float:
        return next(self._chances)


def always(chance: float) -> Scripted:
    return Scripted(iter(lambda: chance, None))


def records(*weights: int) -> list[SrvRecord]:
    return [SrvRecord(0, weight, 8448, f"{number}.test") for number, weight in enumerate(weights)]


def order(weights: Sequence[int], chances: Sequence[float]) -> list[int]:
    found = order_srv(records(*weights), Scripted(iter(chances)))
    return [int(record.target.split(".")[0]) for record in found]


def test_the_running_sum_decides() -> None:
    # Weights 10, 30, 60: sums 10, 40, 100, and a number from 0 to 100.
    assert order([10, 30, 60], [10.5 / 101, 0, 0]) == [0, 1, 2]
    assert order([10, 30, 60], [11.5 / 101, 0, 0]) == [1, 0, 2]
    assert order([10, 30, 60], [41.5 / 101, 0.99, 0]) == [2, 1, 0]


def test_weight_nothing_has_a_small_chance() -> None:
    assert order([5, 0], [0.0, 0.0]) == [1, 0]
    assert order([5, 0], [0.17, 0.0]) == [0, 1]


def test_without_weights_the_load_is_shared() -> None:
    assert order([0, 0, 0], [0.9, 0.6, 0.0]) == [2, 1, 0]


def test_weights_become_shares() -> None:
    entropy = SystemEntropy()
    first = [order_srv(records(90, 10), entropy)[0].target for _ in range(2000)]
    assert 1600 < first.count("0.test") < 1950


@given(
    st.lists(st.builds(SrvRecord, st.integers(0, 3), st.integers(0, 65535), st.just(1), st.text(max_size=3))),
    st.floats(0, 1, exclude_max=True),
)
def test_every_record_once_and_by_priority(found: list[SrvRecord], chance: float) -> None:
    ordered = order_srv(found, always(chance))
    assert [record.priority for record in ordered] == sorted(record.priority for record in found)[
        :MAX_SRV_RECORDS
    ]
    assert Counter(ordered) <= Counter(found)
    assert len(ordered) == min(len(found), MAX_SRV_RECORDS)
