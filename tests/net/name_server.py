"""A real name server on loopback, which knows what a test tells it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import cast

import dns.message
import dns.rcode
import dns.rrset

from comity.net.dns import DnsResolver

#: What the name server knows: SRV data by name, an alias, or a failure.
Zone = Mapping[str, Sequence[str] | dns.rcode.Rcode | None]


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
            DnsResolver(nameservers=["127.0.0.1"], port=port, lookup_seconds=seconds),
            protocol,
        )
    finally:
        transport.close()
