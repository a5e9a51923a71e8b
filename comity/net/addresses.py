"""Which IP addresses comity connects to: the guard against forged destinations (SSRF).

A server name, a delegation or a redirect is written by strangers; it must not make this
server talk to the machines beside it. Owns the list of address ranges that are not the
public internet and the judgement of one address. Never resolves a name and never opens a
socket: `http_client` asks about the very address it is about to connect to.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from functools import lru_cache

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

#: IPv4 ranges that are not globally reachable unicast (the IANA special-purpose registry).
_REFUSED_IPV4 = tuple(
    ipaddress.IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # "this network", and 0.0.0.0 which reaches the machine itself
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carrier-grade NAT
        "127.0.0.0/8",  # loopback
        "169.254.0.0/16",  # link-local, and the metadata services of cloud providers
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and the broadcast address
    )
)

#: Of IPv6, only this is globally reachable unicast …
_GLOBAL_IPV6 = ipaddress.IPv6Network("2000::/3")

#: … without these parts of it. Everything outside 2000::/3 (loopback, link-local, unique
#: local, site-local, multicast, discard, translated) is refused for that reason alone.
_REFUSED_IPV6 = tuple(
    ipaddress.IPv6Network(text)
    for text in (
        "2001::/23",  # protocol assignments, Teredo, ORCHID
        "2001:db8::/32",  # documentation
        "3fff::/20",  # documentation
    )
)

#: NAT64's well-known prefix: the last 32 bits are the IPv4 address that is reached.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_SIX_TO_FOUR = ipaddress.IPv6Network("2002::/16")


#: Texts whose judgement is remembered; 200 bytes each.
MAX_JUDGED = 10_000


@lru_cache(MAX_JUDGED)
def is_literal(text: str) -> bool:
    """Whether a text is an IP address and no name."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


class AddressGuard:
    """Judges addresses: the public internet, and what the operator allowed beside it."""

    def __init__(self, allow_ranges: Sequence[str]) -> None:
        """`allow_ranges` are CIDR strings or single addresses; raises ValueError on others."""
        self._allowed: tuple[Network, ...] = tuple(ipaddress.ip_network(text) for text in allow_ranges)
        self._judged = lru_cache(MAX_JUDGED)(self._judge)

    def allows(self, address: str) -> bool:
        """Whether `address`, an IP literal as the system gives it, may be connected to.

        An IPv6 address that carries an IPv4 one (mapped, 6to4, NAT64) is judged by the one
        it carries, for that is where the packets go. What is no address is refused.
        """
        return self._judged(address)

    def _judge(self, address: str) -> bool:
        try:
            parsed = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        if self._is_allowed(parsed):
            return True
        carried = _carried_ipv4(parsed)
        if carried is not None:
            return self._is_allowed(carried) or _is_public(carried)
        return _is_public(parsed)

    def _is_allowed(self, address: Address) -> bool:
        return any(address in network for network in self._allowed)


def _carried_ipv4(address: Address) -> ipaddress.IPv4Address | None:
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _SIX_TO_FOUR:
        return address.sixtofour
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None


def _is_public(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _REFUSED_IPV4)
    return address in _GLOBAL_IPV6 and not any(address in network for network in _REFUSED_IPV6)
