"""Asking places that are named by URLs: with bodies, within bounds, not the operator's machines."""

from __future__ import annotations

import asyncio

import pytest

from comity.net.http_client import HttpsTransport
from comity.ports import NoOutbound, TransportError
from tests.net.authority import Authority
from tests.net.peers import AMPLE, Connection, answer_all, running_peer, transport
from tests.net.test_get_url import Redirecting


async def test_a_request_has_method_headers_and_body(authority: Authority) -> None:
    asked: list[bytes] = []

    async def script(connection: Connection) -> None:
        asked.append(await connection.request())
        await connection.answer(b'{"a":1}', "418 I'm a teapot", "X-Kind: short")

    async with running_peer(script, authority.issue(["127.0.0.1"])) as peer, transport(authority) as client:
        answer = await client.request_url(
            "POST", f"{peer.url}/bind?x=1", headers={"Authorization": "Bearer secret"}, body=b"{}",
            timeout=AMPLE, max_bytes=100,
        )  # fmt: skip
    assert (answer.status, answer.body, answer.headers["x-kind"]) == (418, b'{"a":1}', "short")
    assert answer.url == f"{peer.url}/bind?x=1"
    (request,) = asked
    assert request.startswith(b"POST /bind?x=1 HTTP/1.1\r\n") and request.endswith(b"\r\n\r\n{}")
    assert b"Authorization: Bearer secret\r\n" in request


async def test_plain_http_where_it_is_meant() -> None:
    async with running_peer(answer_all, None) as peer, transport(None) as client:
        url = f"http://127.0.0.1:{peer.port}/"
        with pytest.raises(TransportError, match="only https URLs"):
            await client.request_url("GET", url, timeout=AMPLE, max_bytes=100)
        answer = await client.request_url("GET", url, timeout=AMPLE, max_bytes=100, plain_http=True)
    assert (answer.status, answer.url, answer.peer_certificate) == (200, url, None)
    assert len(peer.connections) == 1


async def test_redirects_are_not_followed_unasked(authority: Authority) -> None:
    script = Redirecting("/two", "/two")
    async with running_peer(script, authority.issue(["127.0.0.1"])) as peer, transport(authority) as client:
        got = await client.request_url("GET", f"{peer.url}/one", timeout=AMPLE, max_bytes=100)
        posted = await client.request_url(
            "POST", f"{peer.url}/one", body=b"{}", timeout=AMPLE, max_bytes=100, max_redirects=3
        )
    assert (got.status, posted.status) == (302, 302)
    assert script.asked == ["/one", "/one"]


async def test_so_many_redirects_as_are_asked_for(authority: Authority) -> None:
    script = Redirecting("/two", "/three")
    async with running_peer(script, authority.issue(["127.0.0.1"])) as peer, transport(authority) as client:
        with pytest.raises(TransportError, match="more than 1 redirects"):
            await client.request_url("GET", f"{peer.url}/one", timeout=AMPLE, max_bytes=100, max_redirects=1)
        answer = await client.request_url(
            "GET", f"{peer.url}/four", timeout=AMPLE, max_bytes=100, max_redirects=1
        )
    assert script.asked == ["/one", "/two", "/four"]
    assert answer.url == f"{peer.url}/four"


async def test_a_secret_stays_behind_when_a_redirect_leads_elsewhere(authority: Authority) -> None:
    second_script = Redirecting()
    issued = authority.issue(["127.0.0.1"])
    async with running_peer(second_script, issued) as second:
        first_script = Redirecting("/here", f"{second.url}/there")
        async with running_peer(first_script, issued) as first, transport(authority) as client:
            await client.request_url(
                "GET", f"{first.url}/", headers={"authorization": "Bearer secret", "Accept": "text/html"},
                timeout=AMPLE, max_bytes=100, max_redirects=5,
            )  # fmt: skip
    assert all(b"Bearer secret" in head for head in first_script.heads)
    assert len(first_script.heads) == 2
    (head,) = second_script.heads
    assert b"secret" not in head and b"Accept: text/html" in head


async def test_no_redirect_leads_from_https_to_http(authority: Authority) -> None:
    async with running_peer(answer_all, None) as plain:
        script = Redirecting(f"http://127.0.0.1:{plain.port}/")
        async with (
            running_peer(script, authority.issue(["127.0.0.1"])) as peer,
            transport(authority) as client,
        ):
            with pytest.raises(TransportError, match="redirects to where we do not follow"):
                await client.request_url(
                    "GET", f"{peer.url}/", timeout=AMPLE, max_bytes=100, max_redirects=5, plain_http=True
                )
    assert plain.connections == []


async def test_private_addresses_are_refused_also_behind_redirects(authority: Authority) -> None:
    async with running_peer(answer_all, None) as inside:
        url = f"http://127.0.0.1:{inside.port}/"
        script = Redirecting(url)
        async with (
            running_peer(script, None, "127.0.0.2") as outside,
            transport(None, allow=("127.0.0.2",)) as client,
        ):
            for asked in (url, f"http://127.0.0.2:{outside.port}/"):
                with pytest.raises(TransportError, match=r"the address 127\.0\.0\.1 is private"):
                    await client.request_url(
                        "GET", asked, timeout=AMPLE, max_bytes=100, max_redirects=5, plain_http=True
                    )
    assert inside.connections == []


class Rebinding:
    """A name whose address is another one each time that it is looked up."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = list(addresses)

    async def resolve(self, host: str, port: int) -> list[tuple[str, int]]:
        return [(self.addresses.pop(0), port)]


async def test_a_name_that_changes_its_address_gains_nothing() -> None:
    async with (
        running_peer(answer_all, None, "127.0.0.2") as outside,
        running_peer(answer_all, None) as inside,
    ):
        client = HttpsTransport(
            trusted_ca=[], verify_certificates=True, allow_ranges=["127.0.0.2"], user_agent="comity-test",
            lookup=Rebinding("127.0.0.2", "127.0.0.1"),
        )  # fmt: skip
        await client.open()
        try:
            first = f"http://rebinding.test:{outside.port}/"
            answer = await client.request_url("GET", first, timeout=AMPLE, max_bytes=100, plain_http=True)
            assert answer.status == 200
            with pytest.raises(TransportError, match=r"the address 127\.0\.0\.1 is private"):
                await client.request_url(
                    "GET", f"http://rebinding.test:{inside.port}/", timeout=AMPLE, max_bytes=100,
                    plain_http=True,
                )  # fmt: skip
        finally:
            await client.close()
    assert inside.connections == []


async def test_size_and_time_are_bounded() -> None:
    async def large(connection: Connection) -> None:
        await connection.request()
        await connection.answer(b"x" * 101)

    async def silent(connection: Connection) -> None:
        await connection.request()
        await connection.reader.read()

    async with transport(None) as client:
        for script, timeout, error in ((large, AMPLE, "over 100 bytes"), (silent, 0.05, "no whole answer")):
            async with running_peer(script, None) as peer:
                with pytest.raises(TransportError, match=error):
                    await client.request_url(
                        "GET", f"http://127.0.0.1:{peer.port}/", timeout=timeout, max_bytes=100,
                        plain_http=True,
                    )  # fmt: skip
        with pytest.raises(TransportError, match="too long"):
            await client.request_url("GET", "https://a.test/" + "a" * 5000, timeout=AMPLE, max_bytes=100)


async def test_a_server_without_the_door_asks_nobody() -> None:
    with pytest.raises(TransportError):
        await asyncio.wait_for(NoOutbound().request_url("GET", "https://a.test/", timeout=1, max_bytes=1), 1)
