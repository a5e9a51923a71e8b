"""Which addresses may be connected to."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from comity.net.addresses import AddressGuard

PUBLIC = [
    "1.1.1.1",
    "9.255.255.255",
    "100.63.0.1",
    "172.32.0.1",
    "223.255.255.255",
    "2606:4700::1111",
    "2a00::1",
]

NOT_PUBLIC = [
    "0.0.0.0", "10.1.2.3", "100.64.0.1", "100.127.255.255", "127.0.0.1", "127.255.255.255",
    "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.2.1", "192.88.99.1",
    "192.168.1.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1",
    "239.255.255.255", "240.0.0.1", "255.255.255.255",
    "::", "::1", "100::1", "2001::1", "2001:db8::1", "3fff::1", "5f00::1", "fc00::1", "fd00::1",
    "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "4000::1",
]  # fmt: skip

#: How an IPv4 address hides in an IPv6 one: mapped, 6to4, NAT64.
HIDDEN = ["::ffff:{0}", "2002:{1:04x}:{2:04x}::1", "64:ff9b::{0}"]

#: And forms that are refused whatever they carry: compatible, translated, local NAT64, Teredo.
NEVER = ["::{0}", "::ffff:0:{0}", "64:ff9b:1::{0}", "2001::{0}"]


def hide(form: str, address: str) -> str:
    number = int(ipaddress.IPv4Address(address))
    return form.format(address, number >> 16, number & 0xFFFF)


@pytest.mark.parametrize("address", PUBLIC)
def test_the_public_internet_is_allowed(address: str) -> None:
    assert AddressGuard([]).allows(address)


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_what_is_not_public_is_refused_unless_allowed(address: str) -> None:
    assert not AddressGuard([]).allows(address)
    assert AddressGuard([address.partition("%")[0]]).allows(address)


@pytest.mark.parametrize("form", HIDDEN)
def test_an_address_within_an_address_is_the_one_that_counts(form: str) -> None:
    for address in PUBLIC[:5]:
        assert AddressGuard([]).allows(hide(form, address))
    for address in NOT_PUBLIC[:21]:
        assert not AddressGuard([]).allows(hide(form, address))
        assert AddressGuard([address]).allows(hide(form, address))


@pytest.mark.parametrize("form", NEVER)
def test_forms_that_lead_nowhere_public(form: str) -> None:
    assert not AddressGuard([]).allows(hide(form, "1.1.1.1"))


@pytest.mark.parametrize("text", ["", "localhost", "127.1", "2130706433", "1.1.1.1:80", "[::1]", "01.1.1.1"])
def test_what_is_no_address_is_refused(text: str) -> None:
    assert not AddressGuard(["0.0.0.0/0", "::/0"]).allows(text)


def test_ranges_are_allowed_as_written() -> None:
    guard = AddressGuard(["10.1.0.0/16", "fd00::/8"])
    assert guard.allows("10.1.255.1")
    assert not guard.allows("10.2.0.1")
    assert guard.allows("fd12::1")
    assert not guard.allows("fc12::1")


@pytest.mark.parametrize("text", ["10.0.0.1/8", "ten", "10.0.0.0/33", ""])
def test_what_is_no_range(text: str) -> None:
    with pytest.raises(ValueError, match=r"IPv4 or IPv6 network|host bits set"):
        AddressGuard([text])


@given(st.ip_addresses())
def test_nothing_is_allowed_that_the_standard_library_calls_private(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    # Python versions differ on 6to4, which is judged here by the address within.
    assume(address not in ipaddress.ip_network("2002::/16"))
    if address.is_private or address.is_multicast or address.is_loopback or address.is_unspecified:
        assert not AddressGuard([]).allows(str(address))
