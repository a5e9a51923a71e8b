"""Fetching URLs: redirects are followed, few of them, and each hop is checked."""

from __future__ import annotations

import pytest

from comity.net.http_client import MAX_REDIRECTS, HttpsTransport
from comity.ports import TransportError
from tests.net.authority import Authority
from tests.net.peers import AMPLE, Connection, answer_all, running_peer, transport


class Redirecting:
    """A script that redirects to `locations` in turn, and then answers."""

    def __init__(self, *locations: str) -> None:
        self.locations = list(locations)
        self.asked: list[str] = []
        self.heads: list[bytes] = []

    async def __call__(self, connection: Connection) -> None:
        while True:
            head = await connection.request()
            self.heads.append(head)
            self.asked.append(head.decode().split(" ")[1])
            if self.locations:
                await connection.answer(b"moved", "302 Found", f"Location: {self.locations.pop(0)}")
            else:
                await connection.answer(b"here")


async def failure(client: HttpsTransport, url: str, *, timeout: float = AMPLE) -> TransportError:
    with pytest.raises(TransportError) as raised:
        await client.get_url(url, timeout=timeout, max_bytes=100)
    return raised.value


async def test_redirects_are_followed(authority: Authority) -> None:
    script = Redirecting("/two%2F?x=%21+", "three")
    async with running_peer(script, authority.issue(["127.0.0.1"])) as peer, transport(authority) as client:
        script.locations.append(f"https://127.0.0.1:{peer.port}/four#fragment")
        answer = await client.get_url(f"{peer.url}/one/%41?y=%2B#fragment", timeout=AMPLE, max_bytes=100)
    assert (answer.status, answer.body) == (200, b"here")
    assert script.asked == ["/one/%41?y=%2B", "/two%2F?x=%21+", "/three", "/four"]
    assert f"Host: 127.0.0.1:{peer.port}\r\n".encode() in script.heads[0]


async def test_an_answer_without_a_location_is_the_answer(authority: Authority) -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.answer(b"", "304 Not Modified")

    async with running_peer(script, authority.issue(["127.0.0.1"])) as peer, transport(authority) as client:
        assert (await client.get_url(f"{peer.url}/", timeout=AMPLE, max_bytes=100)).status == 304


async def test_redirects_are_bounded(authority: Authority) -> None:
    script = Redirecting(*["/again"] * 20)
    async with running_peer(script, authority.issue(["127.0.0.1"])) as peer, transport(authority) as client:
        error = await failure(client, f"{peer.url}/first")
    assert f"more than {MAX_REDIRECTS} redirects" in str(error)
    assert len(script.asked) == MAX_REDIRECTS + 1


@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.1/",
        "file:///etc/passwd",
        "https://user:secret@127.0.0.1/",
        "https://[::1/",
        "https://127.0.0.1:99999/",
        "https://127.0.0.1/" + "a" * 5000,
    ],
)
async def test_where_a_redirect_may_not_lead(authority: Authority, location: str) -> None:
    script = Redirecting(location)
    async with running_peer(script, authority.issue(["127.0.0.1"])) as peer, transport(authority) as client:
        error = await failure(client, f"{peer.url}/first")
    assert "redirects to where we do not follow" in str(error)
    assert "secret" not in str(error)
    assert script.asked == ["/first"]


async def test_a_redirect_to_a_private_address_is_refused(authority: Authority) -> None:
    issued = authority.issue(["127.0.0.1", "127.0.0.2", "localhost"])
    async with running_peer(answer_all, issued) as inside:
        for location in (f"{inside.url}/", f"https://localhost:{inside.port}/"):
            script = Redirecting(location)
            async with (
                running_peer(script, issued, "127.0.0.2") as outside,
                transport(authority, allow=("127.0.0.2",)) as client,
            ):
                error = await failure(client, f"{outside.url}/")
            assert "the address 127.0.0.1 is private or reserved" in str(error)
        assert inside.connections == []


async def test_the_certificate_is_checked_after_a_redirect(authority: Authority) -> None:
    async with running_peer(answer_all, authority.issue(["other.test"]), "127.0.0.2") as second:
        script = Redirecting(f"{second.url}/")
        async with (
            running_peer(script, authority.issue(["127.0.0.1"])) as first,
            transport(authority) as client,
        ):
            error = await failure(client, f"{first.url}/")
    assert str(error) == f"the certificate of 127.0.0.2:{second.port} is not valid for 127.0.0.2"


async def test_the_time_is_for_all_redirects_together(authority: Authority) -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.answer()
        await connection.request()
        await connection.answer(b"", "301 Moved Permanently", "Location: /on")
        await connection.request()
        await connection.reader.read()

    async with running_peer(script, authority.issue(["127.0.0.1"])) as peer, transport(authority) as client:
        # So that the short time that follows need not cover TLS.
        await client.get_url(f"{peer.url}/", timeout=AMPLE, max_bytes=100)
        error = await failure(client, f"{peer.url}/", timeout=0.1)
    assert "no whole answer" in str(error)


@pytest.mark.parametrize(
    "url", ["http://a.test/", "a.test", "", "https://", "https://a..b/", "https://[::1/"]
)
async def test_what_is_no_url_to_fetch(authority: Authority, url: str) -> None:
    async with transport(authority) as client:
        await failure(client, url)


async def test_a_url_that_is_not_encoded_is_encoded(authority: Authority) -> None:
    script = Redirecting()
    async with running_peer(script, authority.issue(["127.0.0.1"])) as peer, transport(authority) as client:
        await client.get_url(f"{peer.url}/ä b?ü=\r\n", timeout=AMPLE, max_bytes=100)
    assert script.asked == ["/%C3%A4%20b?%C3%BC="]
