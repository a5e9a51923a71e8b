"""SRV records: their order, and what different silences mean, with a real name server on loopback."""

from __future__ import annotations

from pathlib import Path

import dns.rcode
import pytest

from comity.net.dns import MAX_SRV_RECORDS, DnsResolver
from comity.ports import Resolver, ResolverError, SrvRecord
from tests.net.name_server import Zone, name_server

NAME = "_matrix-fed._tcp.example.test"


async def test_records_by_priority() -> None:
    async with name_server({NAME: ["20 0 443 b.test.", "10 5 8448 A.Test."]}) as (resolver, _):
        port: Resolver = resolver
        assert await port.srv(NAME) == [SrvRecord(10, 5, 8448, "a.test"), SrvRecord(20, 0, 443, "b.test")]


async def test_a_service_that_is_decidedly_not_offered() -> None:
    async with name_server({NAME: ["0 0 0 ."]}) as (resolver, _):
        assert await resolver.srv(NAME) == [SrvRecord(0, 0, 0, ".")]


async def test_records_are_bounded() -> None:
    zone = {NAME: [f"{100 - number} 1 8448 a{number}." for number in range(MAX_SRV_RECORDS + 8)]}
    async with name_server(zone) as (resolver, _):
        found = await resolver.srv(NAME)
    assert [record.priority for record in found] == list(range(61, 61 + MAX_SRV_RECORDS))


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
    resolver = DnsResolver(configuration=configuration)
    with pytest.raises(ResolverError, match="no name server is configured"):
        await resolver.srv(NAME)
    configuration.write_text("# nothing here\n")
    with pytest.raises(ResolverError, match="no name server is configured"):
        await resolver.srv(NAME)


async def test_a_name_server_that_is_not_there() -> None:
    resolver = DnsResolver(nameservers=["127.0.0.1"], port=9, lookup_seconds=0.2)
    with pytest.raises(ResolverError):
        await resolver.srv(NAME)
