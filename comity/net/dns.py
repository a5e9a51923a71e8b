"""SRV records from the system's name servers: `ports.Resolver`.

Owns the difference between "there is none" and "nobody answered". Never resolves addresses
(`http_client` does, through the system's resolver, so that a hosts file counts), and knows
nothing of server discovery, nor of the order in which records are tried.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import dns.asyncresolver
import dns.exception
import dns.name
import dns.rdatatype
import dns.resolver
from dns.rdtypes.IN.SRV import SRV

from comity.ports import ResolverError, SrvRecord

#: Where the system names its name servers.
SYSTEM_CONFIGURATION = Path("/etc/resolv.conf")

#: Seconds for one lookup with its retries at all name servers. Discovery waits for it, so
#: it must be well under the time a federation request is given.
LOOKUP_SECONDS = 10.0

#: Seconds given to one name server before the next is asked.
SERVER_SECONDS = 2.5

#: Lookups on the wire at once, each holding a socket; the others wait within their time.
MAX_CONCURRENT_LOOKUPS = 64

#: Answers remembered for as long as their own time to live says, "there is none" included.
MAX_CACHED_ANSWERS = 10_000

#: Records of one name that are used, the first by priority. An answer over TCP could hold thousands.
MAX_SRV_RECORDS = 32


class DnsResolver:
    """`ports.Resolver` through dnspython, on the running event loop."""

    def __init__(
        self,
        *,
        nameservers: Sequence[str] | None = None,
        port: int = 53,
        lookup_seconds: float = LOOKUP_SECONDS,
        configuration: Path = SYSTEM_CONFIGURATION,
    ) -> None:
        """Ask `nameservers` (IP literals) on `port`; without them, those that `configuration` names."""
        self._nameservers = None if nameservers is None else list(nameservers)
        self._port = port
        self._lookup_seconds = lookup_seconds
        self._configuration = configuration
        self._places = asyncio.Semaphore(MAX_CONCURRENT_LOOKUPS)
        self._resolver: dns.asyncresolver.Resolver | None = None

    async def srv(self, name: str) -> list[SrvRecord]:
        """The SRV records of `name`; [] if there are none.

        Records whose target is no host name are left out; "." is one (RFC 2782: decidedly no
        service). Raises ResolverError when no name server gave an answer in time.
        """
        try:
            absolute = dns.name.from_text(name)
        except (dns.exception.DNSException, UnicodeError):
            return []  # no such name can exist in the DNS, so it has no records
        try:
            async with asyncio.timeout(self._lookup_seconds), self._places:
                answer = await self._configured().resolve(
                    absolute,
                    dns.rdatatype.SRV,
                    raise_on_no_answer=False,
                    lifetime=self._lookup_seconds,
                    search=False,
                )
        except dns.resolver.NXDOMAIN:
            return []
        except (TimeoutError, dns.exception.Timeout) as error:
            raise ResolverError(f"no name server answered for SRV {name} in time") from error
        except dns.resolver.NoNameservers as error:
            raise ResolverError(f"all name servers failed for SRV {name}") from error
        except (dns.exception.DNSException, OSError, EOFError) as error:
            raise ResolverError(f"the lookup of SRV {name} failed: {type(error).__name__}") from error
        return _records(answer)[:MAX_SRV_RECORDS]

    def _configured(self) -> dns.asyncresolver.Resolver:
        """The resolver; made on first use, and tried anew while the system has no name server."""
        if self._resolver is None:
            try:
                resolver = dns.asyncresolver.Resolver(
                    str(self._configuration), configure=self._nameservers is None
                )
            except dns.resolver.NoResolverConfiguration as error:
                raise ResolverError(f"no name server is configured in {self._configuration}") from error
            if self._nameservers is not None:
                resolver.nameservers = self._nameservers
                resolver.port = self._port
            resolver.timeout = min(SERVER_SECONDS, self._lookup_seconds)
            resolver.cache = dns.resolver.LRUCache(MAX_CACHED_ANSWERS)
            self._resolver = resolver
        return self._resolver


def _records(answer: dns.resolver.Answer) -> list[SrvRecord]:
    records = []
    for data in answer.rrset or ():
        if not isinstance(data, SRV):
            continue
        target = data.target.to_text(omit_final_dot=True)
        if target in ("", ".", "@"):
            target = "."
        elif data.port == 0 or "\\" in target:
            # Bytes outside host names are shown as \DDD; they would be trouble later.
            continue
        records.append(SrvRecord(data.priority, data.weight, data.port, target.lower()))
    return sorted(records, key=lambda record: record.priority)
