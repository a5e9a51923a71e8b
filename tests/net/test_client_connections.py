"""The connections that we make: how long they are kept, how many there are, what comes unasked."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from comity.net import client_pool
from comity.net.client_connection import PIECE_BYTES
from comity.net.http_client import HttpsTransport
from comity.net.http_server import server_ssl_context
from comity.ports import Answer, Endpoint, TransportError
from tests.net.authority import Authority
from tests.net.peers import AMPLE, Connection, answer_all, running_peer, transport
from tests.net.serving import within_patience
from tests.net.test_http_client import ChangingLookup, ask, failure, looking_up


async def seen_to_end(connection: Connection, ended: asyncio.Event) -> None:
    """Note that the client ended the connection."""
    assert await connection.reader.read() == b""
    ended.set()


async def test_a_connection_at_rest_is_ended_after_a_while(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_pool, "KEEPALIVE_SECONDS", 0.01)
    ended = asyncio.Event()

    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.answer()
        await seen_to_end(connection, ended)

    async with running_peer(script, authority.issue(["peer.test"])) as peer, transport(authority) as client:
        await ask(client, peer.endpoint())
        await within_patience(ended)
        await ask(client, peer.endpoint())
        assert len(peer.connections) == 2


@pytest.mark.parametrize("unasked", [b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n", b"x"])
async def test_what_comes_unasked_answers_nothing(authority: Authority, unasked: bytes) -> None:
    """An answer on a connection at rest must not be taken for that to the next request."""
    ended = asyncio.Event()

    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.answer(b'{"n":%d}' % connection.number)
        if connection.number == 0:
            await connection.send(unasked)
            await connection.reader.read()
            ended.set()
        await connection.reader.read()

    async with running_peer(script, authority.issue(["peer.test"])) as peer, transport(authority) as client:
        assert (await ask(client, peer.endpoint())).body == b'{"n":0}'
        await within_patience(ended)
        assert (await ask(client, peer.endpoint())).body == b'{"n":1}'


async def test_two_answers_to_one_request(authority: Authority) -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        one = b'HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n{"n":%d}'
        await connection.send(one % connection.number + one % 9)
        await connection.reader.read()

    async with running_peer(script, authority.issue(["peer.test"])) as peer, transport(authority) as client:
        answers = [(await ask(client, peer.endpoint())).body for _ in range(2)]
    assert answers == [b'{"n":0}', b'{"n":1}']


async def test_an_end_that_was_told_is_kept_to(authority: Authority) -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.answer(b"{}", "200 OK", "Connection: close")
        await connection.reader.read()

    async with running_peer(script, authority.issue(["peer.test"])) as peer, transport(authority) as client:
        for _ in range(2):
            await ask(client, peer.endpoint(), method="POST", body=b"{}")
        assert len(peer.connections) == 2


async def test_all_kept_connections_of_a_server_that_was_restarted(authority: Authority) -> None:
    """However many had been kept, each request costs one attempt more at most."""
    together = asyncio.Event()
    asked = 0

    async def script(connection: Connection) -> None:
        nonlocal asked
        await connection.request()
        asked += 1
        if asked == 3:
            together.set()
        await within_patience(together)
        await connection.answer()
        if connection.number < 3:
            await connection.request()  # and the connection ends
        else:
            await answer_all(connection)

    async with running_peer(script, authority.issue(["peer.test"])) as peer, transport(authority) as client:
        await asyncio.gather(*(ask(client, peer.endpoint()) for _ in range(3)))
        assert (await ask(client, peer.endpoint(), method="PUT", body=b"{}")).status == 200
        assert len(peer.connections) == 4


async def test_no_more_than_so_many_exchanges_with_one_place(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_pool, "MAX_CONNECTIONS_PER_ENDPOINT", 2)
    arrived = asyncio.Queue[Connection]()

    async def script(connection: Connection) -> None:
        while True:
            await connection.request()
            await arrived.put(connection)

    issued = authority.issue(["peer.test"])
    async with (
        running_peer(script, issued) as peer,
        running_peer(answer_all, issued) as other,
        transport(authority) as client,
    ):
        tasks = [asyncio.create_task(ask(client, peer.endpoint())) for _ in range(5)]
        held = [await asyncio.wait_for(arrived.get(), AMPLE) for _ in range(2)]
        await ask(client, other.endpoint())  # which is held up by nobody
        assert arrived.empty()
        tasks[4].cancel()  # one that waits leaves
        for connection in held:
            await connection.answer()
        for _ in range(2):
            await (await asyncio.wait_for(arrived.get(), AMPLE)).answer()
        answers = await asyncio.gather(*tasks[:4])
        assert [answer.status for answer in answers] == [200] * 4
        assert len(peer.connections) == 2


async def test_a_large_body_goes_out_as_it_is(authority: Authority) -> None:
    received: list[bytes] = []

    async def script(connection: Connection) -> None:
        received.append(await connection.request())
        await connection.answer()

    body = bytes(range(256)) * (3 * PIECE_BYTES // 256) + b"the end"
    async with running_peer(script, authority.issue(["peer.test"])) as peer, transport(authority) as client:
        await ask(client, peer.endpoint(), method="POST", body=body)
    assert received[0].partition(b"\r\n\r\n")[2] == body


async def test_an_answer_before_the_body_is_whole(authority: Authority) -> None:
    """A peer that refuses a body and reads no more of it is heard, and its connection not used again."""

    async def script(connection: Connection) -> None:
        await connection.reader.readuntil(b"\r\n\r\n")
        await connection.answer(b"{}", "413 Content Too Large")
        await asyncio.Event().wait()

    async with running_peer(script, authority.issue(["peer.test"])) as peer, transport(authority) as client:
        for _ in range(2):
            answer = await ask(client, peer.endpoint(), method="PUT", body=bytes(40 * PIECE_BYTES))
            assert answer.status == 413
        assert len(peer.connections) == 2


async def test_a_method_or_host_that_would_say_more_is_refused(authority: Authority) -> None:
    async with (
        running_peer(answer_all, authority.issue(["peer.test"])) as peer,
        transport(authority) as client,
    ):
        await failure(client, peer.endpoint(), method="GET / HTTP/1.1\r\nX: y\r\n\r\nGET")
        for host_header in ("a.test\r\nX: y", "a test", "a.test\x00"):
            await failure(client, Endpoint("127.0.0.1", peer.port, "peer.test", host_header))
        for name, value in (("X Y", "a"), ("X:", "a"), ("", "a"), ("X", "a\nb"), ("X", "a\x00")):
            error = await failure(client, peer.endpoint(), headers={name: value})
            assert not error.reached
        assert peer.connections == []


async def test_how_a_request_stands_on_the_wire_is_not_for_others_to_say(authority: Authority) -> None:
    heads: list[bytes] = []

    async def script(connection: Connection) -> None:
        heads.append(await connection.request())
        await connection.answer()

    async with running_peer(script, authority.issue(["peer.test"])) as peer, transport(authority) as client:
        await ask(
            client, peer.endpoint(), method="POST", body=b"{}",
            headers={"content-length": "0", "Transfer-Encoding": "chunked", "hOST": "b", "accept": "a/b"},
        )  # fmt: skip
    lines = heads[0].lower().partition(b"\r\n\r\n")[0].split(b"\r\n")
    assert [line for line in lines if line.startswith((b"content-length", b"transfer"))] == [
        b"content-length: 2"
    ]
    assert [line for line in lines if line.startswith(b"host")] == [b"host: peer.test:443"]
    assert [line for line in lines if line.startswith(b"accept:")] == [b"accept: a/b"]


async def test_a_request_without_a_body_says_so_where_one_is_usual(authority: Authority) -> None:
    heads: list[bytes] = []

    async def script(connection: Connection) -> None:
        while True:
            heads.append(await connection.request())
            await connection.answer()

    async with running_peer(script, authority.issue(["peer.test"])) as peer, transport(authority) as client:
        for method in ("GET", "POST"):
            await ask(client, peer.endpoint(), method=method)
    assert b"content-length" not in heads[0].lower()
    assert b"\r\ncontent-length: 0\r\n" in heads[1].lower()


async def test_tls_1_2_is_spoken(authority: Authority) -> None:
    issued = authority.issue(["peer.test"])
    ended = asyncio.Event()

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answer_all(Connection(0, reader, writer))
        except (ConnectionError, asyncio.IncompleteReadError):
            writer.transport.abort()
            ended.set()

    context = server_ssl_context(issued.certificate, issued.private_key)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    server = await asyncio.start_server(accepted, "127.0.0.1", 0, ssl=context)
    endpoint = Endpoint("127.0.0.1", server.sockets[0].getsockname()[1], "peer.test", "peer.test")
    async with transport(authority) as client:
        for _ in range(2):
            assert (await ask(client, endpoint)).status == 200
    await within_patience(ended)
    server.close()
    await server.wait_closed()


async def test_a_request_may_be_given_up_at_any_step(authority: Authority) -> None:
    """Before TCP, within the handshake and the thread that is at it, before and after the answer."""
    async with (
        running_peer(answer_all, authority.issue(["*.peer.test", "peer.test"])) as peer,
        transport(authority) as client,
    ):
        given_up = 0
        for steps in range(80):  # each on a new connection, for each name has its own
            task = asyncio.create_task(ask(client, peer.endpoint(f"n{steps}.peer.test")))
            for _ in range(steps):
                await asyncio.sleep(0)
            given_up += task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        assert given_up
        for _ in range(2):
            assert (await ask(client, peer.endpoint())).status == 200


@pytest.mark.parametrize("beginning", [b"", b"\x16\x03\x03\x00\x7a\x02\x00\x00\x76\x03\x03"])
async def test_a_peer_that_leaves_within_the_handshake(authority: Authority, beginning: bytes) -> None:
    async def script(connection: Connection) -> None:
        await connection.reader.read(100)
        await connection.send(beginning)
        connection.writer.write_eof()
        await connection.reader.read()

    async with running_peer(script, None) as peer, transport(authority) as client:
        error = await failure(client, peer.endpoint())
    assert not error.reached
    where = f"127.0.0.1:{peer.port}"
    assert str(error) == f"could not connect to {where}: it was closed within the TLS handshake"


@contextmanager
def deaf_port() -> Iterator[int]:
    """A port of 127.0.0.3 where connections are neither taken nor refused: its queue is full."""
    with socket.socket() as deaf, socket.socket() as first:
        deaf.bind(("127.0.0.3", 0))
        deaf.listen(0)
        port = deaf.getsockname()[1]
        first.connect(("127.0.0.3", port))
        yield port


async def test_an_address_that_says_nothing_holds_nobody_up(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next address of the name is tried along with it (RFC 8305)."""
    monkeypatch.setattr(client_pool, "HAPPY_EYEBALLS_SECONDS", 0.01)
    with deaf_port() as port:

        class Lookup:
            async def resolve(self, host: str, _: int) -> list[tuple[str, int]]:
                return [("127.0.0.3", port), (peer.host, peer.port)]

        async with running_peer(answer_all, authority.issue(["a.test"])) as peer:
            client = await looking_up(authority, Lookup(), "127.0.0.0/8")
            assert (await ask(client, Endpoint("a.test", 1, "a.test", "a.test"))).status == 200
            await client.close()


async def test_an_address_with_another_certificate_is_not_the_last_one(
    authority: Authority, stranger: Authority
) -> None:
    async with (
        running_peer(answer_all, stranger.issue(["a.test"])) as wrong,
        running_peer(answer_all, authority.issue(["a.test"])) as right,
    ):

        class Lookup:
            async def resolve(self, host: str, _: int) -> list[tuple[str, int]]:
                return [(wrong.host, wrong.port), (right.host, right.port)]

        client = await looking_up(authority, Lookup(), "127.0.0.0/8")
        assert (await ask(client, Endpoint("a.test", 1, "a.test", "a.test"))).status == 200
        await client.close()
        assert len(wrong.connections) == 0 and len(right.connections) == 1


async def test_a_name_is_looked_up_once_for_all_who_ask(authority: Authority) -> None:
    names = ChangingLookup(a_test=[["127.0.0.1"], ["127.0.0.99"]])
    async with running_peer(answer_all, authority.issue(["a.test"])) as peer:
        client = await looking_up(authority, names, "127.0.0.0/8")
        answers: list[Answer] = await asyncio.gather(
            *(ask(client, peer.endpoint("a.test", host="a.test")) for _ in range(5))
        )
        assert [answer.status for answer in answers] == [200] * 5
        await client.close()
    assert names.names["a.test"] == [["127.0.0.99"]]


async def test_closing_ends_what_is_under_way(authority: Authority) -> None:
    arrived = asyncio.Event()

    async def script(connection: Connection) -> None:
        await connection.request()
        arrived.set()
        await connection.reader.read()

    async def ends(client: HttpsTransport, endpoint: Endpoint) -> None:
        with pytest.raises(TransportError):
            await ask(client, endpoint)

    async with running_peer(script, authority.issue(["peer.test"])) as peer, transport(authority) as client:
        task = asyncio.create_task(ends(client, peer.endpoint()))
        await within_patience(arrived)
        await client.close()
        await task
        assert "not open" in str(await failure(client, peer.endpoint()))
