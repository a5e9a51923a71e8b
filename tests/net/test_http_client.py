"""The HTTPS transport against real TLS servers on loopback: names, addresses, bounds, reuse."""

from __future__ import annotations

import asyncio
import gzip
import ssl

import pytest

from comity.net import client_pool
from comity.net.http_client import HttpsTransport
from comity.net.http_server import server_ssl_context
from comity.net.lookup import Lookup
from comity.ports import Answer, Endpoint, Request, Response, TransportError
from tests.net.authority import Authority
from tests.net.peers import AMPLE, Connection, answer_all, running_peer, transport
from tests.net.serving import Serve, within_patience


async def ask(
    client: HttpsTransport,
    endpoint: Endpoint,
    target: str = "/",
    *,
    method: str = "GET",
    headers: dict[str, str] | None = None,
    body: bytes | None = None,
    timeout: float = AMPLE,
    max_bytes: int = 10_000,
) -> Answer:
    return await client.request(
        method, endpoint, target, headers=headers or {}, body=body, timeout=timeout, max_bytes=max_bytes
    )


async def failure(
    client: HttpsTransport, endpoint: Endpoint, target: str = "/", **rest: object
) -> TransportError:
    with pytest.raises(TransportError) as raised:
        await ask(client, endpoint, target, **rest)  # type: ignore[arg-type]
    return raised.value


# What is sent and what comes back


async def test_an_exchange(authority: Authority) -> None:
    requests: list[bytes] = []

    async def script(connection: Connection) -> None:
        requests.append(await connection.request())
        await connection.answer(b'{"a":1}', "202 Accepted", "X-Thing: one", "x-thing: two")

    async with running_peer(script, authority.issue(["peer.test"])) as peer, transport(authority) as client:
        answer = await ask(
            client,
            Endpoint("127.0.0.1", peer.port, "peer.test", "peer.test:8448"),
            "/_matrix/%21a%2Fb//../c;d?x=%20+1&y=@a:b&e=",
            method="PUT",
            headers={"Authorization": "X-Matrix …", "Content-Type": "application/json", "Host": "not.this"},
            body=b'{"b":2}',
        )
    assert (answer.status, answer.body) == (202, b'{"a":1}')
    assert answer.headers["x-thing"] == "one, two"
    head, _, body = requests[0].partition(b"\r\n\r\n")
    line, *headers = head.decode().split("\r\n")
    assert line == "PUT /_matrix/%21a%2Fb//../c;d?x=%20+1&y=@a:b&e= HTTP/1.1"
    assert [header for header in headers if header.startswith("Host")] == ["Host: peer.test:8448"]
    assert "Authorization: X-Matrix …" in headers
    assert "Content-Type: application/json" in headers
    assert "User-Agent: comity-test" in headers
    assert "Accept-Encoding: identity" in headers
    assert body == b'{"b":2}'
    assert peer.server_names == ["peer.test"]


async def test_it_speaks_with_our_own_server(serve: Serve, authority: Authority) -> None:
    received: list[Request] = []
    ours, theirs = authority.issue(["here.test"]), authority.issue(["there.test"])

    async def handle(request: Request) -> Response:
        received.append(request)
        return Response(200, request.body)

    context = server_ssl_context(
        ours.certificate, ours.private_key, request_client_certificate=True, client_authorities=[authority.ca]
    )
    served = await serve(handle, tls=context, max_body_bytes=3_000_000)
    body = bytes(range(256)) * 10_000
    async with transport(authority, client_certificate=theirs) as client:
        answer = await ask(
            client,
            Endpoint("127.0.0.1", served.port, "here.test", "here.test"),
            method="POST",
            body=body,
            max_bytes=len(body),
        )
    assert answer.body == body
    assert received[0].body == body
    assert received[0].peer_certificate == theirs.der


@pytest.mark.parametrize("target", ["/a b", "/ä", "/a#b", "no/slash", "/a\r\nX: y", "", "/a?"])
async def test_a_target_that_would_not_go_out_as_it_is_is_refused(authority: Authority, target: str) -> None:
    async with (
        running_peer(answer_all, authority.issue(["peer.test"])) as peer,
        transport(authority) as client,
    ):
        error = await failure(client, peer.endpoint(), target)
    assert not error.reached
    assert peer.connections == []


async def test_a_header_with_a_line_break_is_refused(authority: Authority) -> None:
    async with (
        running_peer(answer_all, authority.issue(["peer.test"])) as peer,
        transport(authority) as client,
    ):
        await failure(client, peer.endpoint(), headers={"X-Thing": "a\r\nX-Other: b"})
        assert (await ask(client, peer.endpoint())).status == 200


async def test_a_request_follows_no_redirect(authority: Authority) -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.answer(b"", "302 Found", "Location: /elsewhere")

    async with running_peer(script, authority.issue(["peer.test"])) as peer, transport(authority) as client:
        answer = await ask(client, peer.endpoint())
    assert (answer.status, answer.headers["location"]) == (302, "/elsewhere")


# Certificates


async def test_a_certificate_for_another_name(authority: Authority) -> None:
    async with (
        running_peer(answer_all, authority.issue(["other.test"])) as peer,
        transport(authority) as client,
    ):
        error = await failure(client, peer.endpoint())
    assert str(error) == f"the certificate of 127.0.0.1:{peer.port} is not valid for peer.test"
    assert not error.reached


async def test_a_common_name_is_no_name(authority: Authority) -> None:
    issued = authority.issue([], common_name="peer.test")
    async with running_peer(answer_all, issued) as peer, transport(authority) as client:
        assert "is not valid for peer.test" in str(await failure(client, peer.endpoint()))


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
async def test_an_ip_literal_is_checked_against_addresses(authority: Authority, address: str) -> None:
    async with (
        running_peer(answer_all, authority.issue([address]), address) as peer,
        transport(authority) as client,
    ):
        assert (await ask(client, peer.endpoint(address))).status == 200
        assert peer.server_names == [None]  # RFC 6066 §3 allows no literal
        assert "is not valid for 127.0.0.2" in str(await failure(client, peer.endpoint("127.0.0.2")))


async def test_an_ip_literal_is_not_checked_against_names(authority: Authority) -> None:
    async with (
        running_peer(answer_all, authority.issue(["127.0.0.1.test", "localhost"])) as peer,
        transport(authority) as client,
    ):
        assert "is not valid for 127.0.0.1" in str(await failure(client, peer.endpoint("127.0.0.1")))


async def test_a_certificate_of_an_unknown_authority(authority: Authority, stranger: Authority) -> None:
    async with (
        running_peer(answer_all, stranger.issue(["peer.test"])) as peer,
        transport(authority) as client,
    ):
        error = await failure(client, peer.endpoint())
    assert f"the certificate of 127.0.0.1:{peer.port} is not trusted" in str(error)
    assert not error.reached


async def test_verification_can_be_turned_off(stranger: Authority, caplog: pytest.LogCaptureFixture) -> None:
    async with (
        running_peer(answer_all, stranger.issue(["other.test"])) as peer,
        transport(None, verify=False) as client,
    ):
        assert (await ask(client, peer.endpoint())).status == 200
    assert "not verified" in caplog.text


async def test_connections_of_two_names_are_not_mixed(authority: Authority) -> None:
    async with (
        running_peer(answer_all, authority.issue(["one.test", "two.test"])) as peer,
        transport(authority) as client,
    ):
        for name in ("one.test", "two.test", "one.test", "two.test"):
            await ask(client, peer.endpoint(name))
        assert peer.server_names == ["one.test", "two.test"]
        await failure(client, peer.endpoint("three.test"))


@pytest.mark.parametrize("name", ["a..b", "a" * 64 + ".test", "", "ä.test", "a\0b", "a\nb.test"])
async def test_what_is_no_host_name(authority: Authority, name: str) -> None:
    async with (
        running_peer(answer_all, authority.issue(["peer.test"])) as peer,
        transport(authority) as client,
    ):
        for endpoint in (peer.endpoint(name), Endpoint(name, peer.port, "peer.test", "peer.test")):
            assert "no valid host name" in str(await failure(client, endpoint))


@pytest.mark.parametrize("port", [-1, 0, 65_536, 10**9])
async def test_what_is_no_port(authority: Authority, port: int) -> None:
    async with transport(authority) as client:
        for host in ("127.0.0.1", "localhost"):
            error = await failure(client, Endpoint(host, port, "a.test", "a.test"))
            assert str(error) == f"{host}:{port} is no address to connect to"


# Addresses


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "::ffff:127.0.0.1"])
async def test_the_machine_itself_is_refused(authority: Authority, host: str) -> None:
    async with (
        running_peer(answer_all, authority.issue(["peer.test"])) as peer,
        transport(authority, allow=()) as client,
    ):
        error = await failure(client, peer.endpoint(host=host))
        assert peer.connections == []
    assert not error.reached
    if host in ("127.0.0.1", "localhost"):
        assert "the address 127.0.0.1 is private or reserved" in str(error)


class ChangingLookup:
    """Names whose address is another at each look, and names with several addresses."""

    def __init__(self, **names: list[list[str]]) -> None:
        self.names = {name.replace("_", "."): answers for name, answers in names.items()}

    async def resolve(self, host: str, port: int) -> list[tuple[str, int]]:
        answers = self.names[host]
        addresses = answers.pop(0) if len(answers) > 1 else answers[0]
        return [(address, port) for address in addresses]


async def looking_up(authority: Authority, lookup: Lookup, *allow: str) -> HttpsTransport:
    client = HttpsTransport(
        trusted_ca=[authority.ca],
        verify_certificates=True,
        allow_ranges=allow,
        user_agent="comity-test",
        lookup=lookup,
    )
    await client.open()
    return client


async def test_what_counts_is_the_address_that_is_connected_to(authority: Authority) -> None:
    """A name that leads to an allowed address once and to a private one next gains nothing."""
    async with running_peer(answer_all, authority.issue(["a.test"]), "127.0.0.2") as peer:
        client = await looking_up(
            authority, ChangingLookup(a_test=[["127.0.0.2"]], b_test=[["127.0.0.1"]]), "127.0.0.2"
        )
        assert (await ask(client, peer.endpoint("a.test", host="a.test"))).status == 200
        error = await failure(client, peer.endpoint("a.test", host="b.test"))
        assert "the address 127.0.0.1 is private" in str(error)
        await client.close()


async def test_another_address_is_tried_when_one_fails(authority: Authority) -> None:
    """Refused by our guard, refused by the machine, and then one that answers."""
    async with running_peer(answer_all, authority.issue(["a.test"]), "127.0.0.2") as peer:
        lookup = ChangingLookup(a_test=[["10.0.0.1", "::1", "127.0.0.3", "127.0.0.2"]])
        client = await looking_up(authority, lookup, "127.0.0.0/8", "::1")
        assert (await ask(client, peer.endpoint("a.test", host="a.test"))).status == 200
        await client.close()


async def test_a_name_that_does_not_exist(authority: Authority) -> None:
    """Over 253 characters: the system's resolver says no without asking anyone."""
    name = ".".join(["a" * 60] * 5)
    async with transport(authority) as client:
        error = await failure(client, Endpoint(name, 443, name, name))
    assert "was not found" in str(error)
    assert not error.reached


# Failures of the peer


async def test_nobody_listens(authority: Authority) -> None:
    async with running_peer(answer_all, None) as peer:
        pass
    async with transport(authority) as client:
        error = await failure(client, peer.endpoint())
    assert str(error) == f"connection refused by 127.0.0.1:{peer.port}"
    assert not error.reached


async def test_a_peer_that_speaks_no_tls(authority: Authority) -> None:
    async def script(connection: Connection) -> None:
        await connection.reader.read(1)
        await connection.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with running_peer(script, None) as peer, transport(authority) as client:
        error = await failure(client, peer.endpoint())
    assert f"the TLS handshake with 127.0.0.1:{peer.port} failed" in str(error)
    assert not error.reached


async def test_a_peer_that_never_shakes_hands(authority: Authority) -> None:
    async def script(connection: Connection) -> None:
        await connection.reader.read()

    async with running_peer(script, None) as peer, transport(authority) as client:
        error = await failure(client, peer.endpoint(), timeout=0.1)
    assert str(error) == f"could not connect to 127.0.0.1:{peer.port} in time"
    assert not error.reached


@pytest.mark.parametrize("beginning", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc"])
async def test_a_peer_that_never_finishes_its_answer(authority: Authority, beginning: bytes) -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.answer()
        await connection.request()
        await connection.send(beginning)
        await connection.reader.read()

    async with running_peer(script, authority.issue(["peer.test"])) as peer, transport(authority) as client:
        await ask(client, peer.endpoint())  # so that the short time that follows need not cover TLS
        error = await failure(client, peer.endpoint(), timeout=0.1)
    assert str(error) == f"no whole answer from 127.0.0.1:{peer.port} within 0.1 s"
    assert error.reached


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "closed the connection without an answer"),
        (b"220 mail.test ESMTP\r\n\r\n", "did not answer with valid HTTP"),
        (b"HTTP/1.1 200 OK\r\nX-Thing: " + b"a" * 20_000 + b"\r\n\r\n", "did not answer with valid HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", "broke off in the middle of its answer"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab", "broke off in the middle"),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc", "127.0.0.1"),
    ],
)
async def test_a_peer_that_answers_badly(authority: Authority, data: bytes, text: str) -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(data)
        connection.writer.close()
        await connection.writer.wait_closed()

    async with running_peer(script, authority.issue(["peer.test"])) as peer, transport(authority) as client:
        error = await failure(client, peer.endpoint())
    assert text in str(error)
    assert error.reached


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"32\r\n" + bytes(50) + b"\r\n"
        b"33\r\n" + bytes(51) + b"\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n" + bytes(101),
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"%x\r\n%b\r\n" % (len(bomb := gzip.compress(bytes(50_000_000))), bomb),
    ],
    ids=["declared", "chunked", "to the end", "compressed"],
)
async def test_an_answer_over_the_limit_is_not_read(authority: Authority, data: bytes) -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(data)
        await connection.reader.read()

    async with running_peer(script, authority.issue(["peer.test"])) as peer, transport(authority) as client:
        error = await failure(client, peer.endpoint(), max_bytes=100)
    assert str(error) == f"the answer of 127.0.0.1:{peer.port} is over 100 bytes"
    assert error.reached


async def test_an_answer_just_at_the_limit_is_read(authority: Authority) -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.answer(gzip.compress(bytes(100)), "200 OK", "Content-Encoding: gzip")

    async with running_peer(script, authority.issue(["peer.test"])) as peer, transport(authority) as client:
        assert (await ask(client, peer.endpoint(), max_bytes=100)).body == bytes(100)


# Kept connections


async def test_a_connection_is_used_again(authority: Authority) -> None:
    async with (
        running_peer(answer_all, authority.issue(["peer.test"])) as peer,
        transport(authority) as client,
    ):
        for _ in range(3):
            await ask(client, peer.endpoint())
    assert len(peer.connections) == 1


async def test_no_more_than_so_many_connections_are_kept(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_pool, "MAX_KEPT_CONNECTIONS", 1)
    issued = authority.issue(["peer.test"])
    async with (
        running_peer(answer_all, issued) as first,
        running_peer(answer_all, issued) as second,
        transport(authority) as client,
    ):
        for peer in (first, second, second):
            await ask(client, peer.endpoint())
        assert [len(peer.connections) for peer in (first, second)] == [1, 2]


async def drop_the_second_request(connection: Connection) -> None:
    """The first connection answers once and then ends on a request; later ones answer."""
    await connection.request()
    await connection.answer()
    await connection.request()
    if connection.number == 0:
        return
    await connection.answer()


async def test_a_kept_connection_that_had_ended_is_replaced(authority: Authority) -> None:
    issued = authority.issue(["peer.test"])
    async with running_peer(drop_the_second_request, issued) as peer, transport(authority) as client:
        await ask(client, peer.endpoint())
        answer = await ask(client, peer.endpoint(), method="PUT", body=b"{}")
        assert answer.status == 200
        assert len(peer.connections) == 2


async def test_what_must_not_be_repeated_is_not(authority: Authority) -> None:
    issued = authority.issue(["peer.test"])
    async with running_peer(drop_the_second_request, issued) as peer, transport(authority) as client:
        await ask(client, peer.endpoint())
        error = await failure(client, peer.endpoint(), method="POST", body=b"{}")
        assert error.reached
        assert len(peer.connections) == 1


async def test_a_new_connection_that_ends_is_not_replaced(authority: Authority) -> None:
    async def script(connection: Connection) -> None:
        await connection.request()

    async with running_peer(script, authority.issue(["peer.test"])) as peer, transport(authority) as client:
        assert (await failure(client, peer.endpoint())).reached
        assert len(peer.connections) == 1


async def test_a_cancelled_exchange_leaves_no_half_read_connection(authority: Authority) -> None:
    received = asyncio.Event()

    async def script(connection: Connection) -> None:
        while True:
            await connection.request()
            received.set()
            if connection.number > 0:
                await connection.answer()

    async with running_peer(script, authority.issue(["peer.test"])) as peer, transport(authority) as client:
        task = asyncio.create_task(ask(client, peer.endpoint()))
        await within_patience(received)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await ask(client, peer.endpoint())).status == 200


async def test_a_transport_that_is_not_open(authority: Authority) -> None:
    client = HttpsTransport(
        trusted_ca=[authority.ca], verify_certificates=True, allow_ranges=(), user_agent="comity-test"
    )
    assert "not open" in str(await failure(client, Endpoint("127.0.0.1", 1, "a.test", "a.test")))
    await client.close()


async def test_a_file_that_is_no_certificate(authority: Authority) -> None:
    key = authority.issue([]).private_key
    client = HttpsTransport(
        trusted_ca=[key], verify_certificates=True, allow_ranges=(), user_agent="comity-test"
    )
    with pytest.raises(ssl.SSLError):
        await client.open()
