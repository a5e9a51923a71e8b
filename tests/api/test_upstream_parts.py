"""Addresses of apps, names for newcomers, tickets: the parts of signing in that need no server."""

from __future__ import annotations

import pytest

from comity.protocol.errors import MatrixError
from comity.users.upstream import clients, names
from comity.users.upstream.provider import Identity
from comity.users.upstream.tickets import MAX_TICKETS, Tickets
from tests.api.support_users import SeededEntropy, TurnedClock


@pytest.mark.parametrize(
    ("url", "told", "shown", "target"),
    [
        ("https://App.example/x", "https://App.example/x", "App.example", "https://App.example"),
        ("http://localhost:8080/", "http://localhost:8080/", "localhost:8080", "http://localhost:8080"),
        ("https://a.example/ä b", "https://a.example/%C3%A4%20b", "a.example", "https://a.example"),
        ("https://a.example/%20?a=%26", "https://a.example/%20?a=%26", "a.example", "https://a.example"),
        ("org.example.app:/in", "org.example.app:/in", "org.example.app:", "org.example.app:"),
        ("element://connect", "element://connect", "element:", "element:"),
    ],
)
def test_addresses_of_apps(url: str, told: str, shown: str, target: str) -> None:
    checked = clients.checked_redirect(url)
    assert (checked, clients.where(checked), clients.form_target(checked)) == (told, shown, target)


def test_no_address_can_put_anything_into_a_policy() -> None:
    for text in ("https://a.example;script-src *", "https://a.example,x", "https://a.example' 'x"):
        try:
            target = clients.form_target(clients.checked_redirect(text))
        except MatrixError:
            continue
        assert not set(target) & set(" ;,'\""), target


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("https://a.example", "https://a.example?loginToken=T"),
        ("https://a.example/#/x", "https://a.example/?loginToken=T#/x"),
        ("https://a.example/?a=1&b", "https://a.example/?a=1&b&loginToken=T"),
        ("https://a.example/?loginToken=1&a=1&login%54oken=2", "https://a.example/?a=1&loginToken=T"),
        ("app:///x?loginToken=#y", "app:///x?loginToken=T#y"),
    ],
)
def test_the_token_is_the_only_one(url: str, told: str) -> None:
    assert clients.with_token(url, "T") == told


@pytest.mark.parametrize(
    ("url", "trusted"),
    [
        ("https://app.example/matrix", True),
        ("https://app.example/matrix/", True),
        ("https://app.example/matrix/a?b#c", True),
        ("https://APP.example/matrix/", True),
        ("https://app.example/matrixx", False),
        ("https://app.example/", False),
        ("http://app.example/matrix/", False),
        ("https://app.example:444/matrix/", False),
        ("https://app.example.evil/matrix/", False),
        ("https://app.example/matrix/../x", False),
        ("https://app.example/matrix/%2e%2E/x", False),
    ],
)
def test_what_is_below_a_trusted_address(url: str, trusted: bool) -> None:
    for base in ("https://app.example/matrix/", "https://app.example/matrix"):
        assert clients.is_trusted(url, ["https://other.example/", base]) is trusted


def test_a_whole_site_may_be_trusted() -> None:
    assert clients.is_trusted("https://app.example", ["https://app.example/"])
    assert clients.is_trusted("https://app.example/x", ["https://app.example"])


@pytest.mark.parametrize(
    ("identity", "suggested"),
    [
        (Identity("p", "i", "s", preferred_username="Zoë Smith"), "zoe.smith"),
        (Identity("p", "i", "s", preferred_username="太郎", email="taro@example.com"), "taro"),
        (Identity("p", "i", "s", display_name="  Bob!  "), "bob"),
        (Identity("p", "i", "1234567890"), ""),
        (Identity("p", "i", "s", display_name="x" * 400), "x" * 64),
    ],
)
def test_names_to_begin_with(identity: Identity, suggested: str) -> None:
    assert names.suggested(identity) == suggested


async def test_tickets_are_bounded_and_end() -> None:
    clock = TurnedClock()
    tickets: Tickets[int] = Tickets(clock, SeededEntropy(), 60)
    first = tickets.give(1, b"browser")
    assert tickets.look(first, b"browser") == 1
    assert tickets.look(first, b"other") is None
    assert tickets.take(first, b"other") is None
    # Whoever brought it has used it up.
    assert tickets.take(first, b"browser") is None
    second = tickets.give(2, b"browser")
    await clock.turn(61)
    assert tickets.look(second, b"browser") is None
    oldest = tickets.give(3, b"browser")
    for number in range(MAX_TICKETS):
        tickets.give(number, b"browser")
    assert tickets.look(oldest, b"browser") is None
