"""Requests that are answered, or wait, without a task (`ports.AtOnce`): in order, once, never for nobody."""

from __future__ import annotations

import asyncio

import pytest

from comity.net.http_protocol import Connection
from comity.net.http_request import Origin
from comity.net.http_server import HttpServer
from comity.ports import Request, Response, Waiter, Waiting
from tests.net.serving import CLIENT, PATIENCE, Recorder, Sink, Wire, get

JSON = {"content-type": "application/json"}


class Desk:
    """An `AtOnce` that answers by the path: /now at once, /later when told to, all else not."""

    def __init__(self) -> None:
        self.waiting: list[Waiter] = []
        self.cancelled = 0
        self.came = asyncio.Event()
        self.went = asyncio.Event()
        self.requests: list[Request] = []

    def __call__(self, request: Request, waiter: Waiter) -> Response | Waiting | None:
        self.requests.append(request)
        if request.path == "/now":
            return Response(200, b"now", JSON)
        if request.path == "/large":
            return Response(200, b"l" * 100_000, JSON)
        if request.path != "/later":
            return None
        self.waiting.append(waiter)
        self.came.set()
        return self

    def cancel(self) -> None:
        self.cancelled += 1
        self.went.set()

    async def waiter(self) -> Waiter:
        async with asyncio.timeout(PATIENCE):
            await self.came.wait()
        self.came.clear()
        return self.waiting.pop()


class Open:
    """A server with a desk, and a client that has asked already."""

    def __init__(self) -> None:
        self.desk, self.handle = Desk(), Recorder(Response(200, b"by a task", JSON))
        self.server = HttpServer(self.handle, max_body_bytes=1_000, at_once=self.desk)
        self.wire: Wire

    async def __aenter__(self) -> Open:
        address = await self.server.listen("127.0.0.1:0", CLIENT, None)
        self.wire = await Wire.to(address)
        assert (await self.wire.ask(get("/first"))).body == b"by a task"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.wire.close()
        await self.server.close(grace_seconds=0)


async def test_what_is_there_is_answered_without_a_task() -> None:
    async with Open() as on:
        first = on.handle.only
        reply = await on.wire.ask(get("/now?a=b"))
        assert (reply.status, reply.body, reply.headers["content-type"]) == (200, b"now", "application/json")
        asked = on.desk.requests[1]
        assert (asked.path, asked.query, asked.serves, asked.remote) == (
            "/now", "a=b", first.serves, first.remote,
        )  # fmt: skip
        assert asked.headers is first.headers
        # In other words than before, as behind a proxy of many.
        assert (await on.wire.ask(get("/now", "X-Forwarded-For: 192.0.2.1"))).body == b"now"
        assert (await on.wire.ask(get("/other"))).body == b"by a task"
        assert len(on.handle.requests) == 2


@pytest.mark.parametrize(
    "request_",
    [
        get("/now").replace(b"GET", b"HEAD"),
        get("/now").replace(b"GET", b"POST"),
        get("/now").replace(b"HTTP/1.1", b"HTTP/1.0"),
        get("/now", "Connection: close"),
        get("/now", "Content-Length: 1") + b"a",
        get("/now", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
        get("http://here/now"),
    ],
)
async def test_what_is_no_plain_get_has_a_task(request_: bytes) -> None:
    async with Open() as on:
        before = len(on.desk.requests)
        reply = await on.wire.ask(request_, to_head=request_.startswith(b"HEAD"))
        assert reply.status == 200
        assert len(on.desk.requests) == before
        assert len(on.handle.requests) == 2


async def test_a_large_answer_has_a_task_that_waits_for_the_client() -> None:
    async with Open() as on:
        assert (await on.wire.ask(get("/large"))).body == b"by a task"
        on.wire.send(get("/later"))
        (await on.desk.waiter()).settle(Response(200, b"l" * 100_000, JSON))
        assert (await on.wire.reply()).body == b"l" * 100_000


async def test_who_waits_is_answered_later_and_may_ask_again() -> None:
    async with Open() as on:
        for text in (b"one", b"two"):
            on.wire.send(get("/later"))
            (await on.desk.waiter()).settle(Response(200, text, JSON))
            assert (await on.wire.reply()).body == text
        assert (await on.wire.ask(get("/now"))).body == b"now"
        assert on.desk.cancelled == 0


async def test_who_waits_may_be_given_a_task() -> None:
    async def answering() -> Response:
        await asyncio.sleep(0)
        return Response(200, b"after all", JSON)

    async def failing() -> Response:
        raise OSError("broken")

    async with Open() as on:
        on.wire.send(get("/later"))
        (await on.desk.waiter()).pursue(answering)
        assert (await on.wire.reply()).body == b"after all"
        on.wire.send(get("/later"))
        (await on.desk.waiter()).pursue(failing)
        assert (await on.wire.reply()).status == 500
        assert (await on.wire.ask(get("/now"))).body == b"now"


async def test_what_is_sent_ahead_is_answered_behind_who_waits() -> None:
    desk, handle, sink = Desk(), Recorder(Response(200, b"by a task", JSON)), Sink()
    server = HttpServer(handle, max_body_bytes=1_000, at_once=desk)
    connection = Connection(server.terms(Origin(CLIENT, asks_certificate=False, nameless="unknown")))
    connection.connection_made(sink)
    for path in ("/later", "/now", "/ahead"):
        connection.data_received(get(path))
    assert not sink.sent, "nothing overtakes"
    desk.waiting.pop().settle(Response(200, b"first", JSON))
    while (task := connection.task) is not None:
        await asyncio.wait([task])
    assert [data.rpartition(b"\r\n\r\n")[2] for data in sink.sent] == [b"first", b"by a task", b"by a task"]
    connection.connection_lost(None)


@pytest.mark.parametrize("late", [False, True])
async def test_whoever_goes_away_is_waited_for_no_more(*, late: bool) -> None:
    async with Open() as on:
        on.wire.send(get("/later"))
        waiter = await on.desk.waiter()
        await on.wire.close()
        async with asyncio.timeout(PATIENCE):
            await on.desk.went.wait()
        assert on.desk.cancelled == 1
        if late:
            # Against the rules of a Waiter, and nothing comes of it.
            waiter.pursue(_never)
        assert len(on.handle.requests) == 1


async def _never() -> Response:
    raise AssertionError("nobody is there")


async def test_a_server_that_closes_lets_who_waits_have_the_answer() -> None:
    async with Open() as on:
        on.wire.send(get("/later"))
        waiter = await on.desk.waiter()
        closing = asyncio.create_task(on.server.close(grace_seconds=PATIENCE))
        await asyncio.sleep(0)
        waiter.settle(Response(200, b"the last", JSON))
        reply = await on.wire.reply()
        assert (reply.body, reply.headers["connection"]) == (b"the last", "close")
        await closing
        assert on.desk.cancelled == 0


async def test_a_server_that_closes_cuts_off_who_waits_too_long() -> None:
    async with Open() as on:
        on.wire.send(get("/later"))
        await on.desk.waiter()
        await on.server.close(grace_seconds=0.01)
        assert on.desk.cancelled == 1
        assert await on.wire.ended() == b""


async def test_a_server_that_closes_does_not_wait_for_who_is_gone() -> None:
    async with Open() as on:
        on.wire.send(get("/later"))
        await on.desk.waiter()
        closing = asyncio.create_task(on.server.close(grace_seconds=60))
        await asyncio.sleep(0)
        await on.wire.close()
        async with asyncio.timeout(PATIENCE):
            await closing


async def test_who_does_not_take_the_answers_is_waited_for() -> None:
    """A client that asks and asks, and reads nothing: what it is owed is bounded."""
    big = Response(200, b"x" * 2_000, JSON)
    server = HttpServer(Recorder(big), max_body_bytes=1, at_once=lambda *_: big, stall_seconds=0.1)
    wire = await Wire.to(await server.listen("127.0.0.1:0", CLIENT, None))
    assert (await wire.ask(get())).status == 200

    async def ask_on() -> None:
        while True:
            wire.send(get())
            await wire.writer.drain()
            await asyncio.sleep(0)

    with pytest.raises(ConnectionError):
        await asyncio.wait_for(ask_on(), PATIENCE)
    await wire.close()
    await server.close(grace_seconds=0)
