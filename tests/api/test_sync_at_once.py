"""/sync without a task: when it is so, that it says what a task would, and whom it tells nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import orjson
import pytest

from comity.ports import Request, Response, Waiting
from comity.sync.asked import SyncRequest
from comity.sync.v3 import Sync
from tests.api.asking import Waits
from tests.api.headers import headers_of
from tests.api.support_rooms import Client, Place, bodies, place, until_waiting
from tests.engines import SQLITE

LONG_MS = 60_000
#: Seconds after which a test that waits has failed.
PATIENCE = 10.0


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Place]:
    async with place(tmp_path) as opened:
        yield opened


class Poll:
    """One request of /sync, put to the server as a connection puts it."""

    def __init__(self, server: Place, client: Client, token: str | None = None, **query: object) -> None:
        headers = headers_of(server.app.router, {}, token or client.token)
        serves = frozenset({"client"})
        self.request = Request(
            "GET", "/_matrix/client/v3/sync", urlencode(query), headers, b"", "192.0.2.1", serves
        )
        self.waits = Waits()
        self.outcome = server.app.router.at_once(self.request, self.waits)

    def waiting(self) -> Waiting:
        """It waits without a task; who cancels it is the client that goes away."""
        assert self.outcome is not None and not isinstance(self.outcome, Response)
        return self.outcome

    async def answer(self) -> tuple[int, Any]:
        assert self.outcome is not None
        async with asyncio.timeout(PATIENCE):
            response = self.outcome if isinstance(self.outcome, Response) else await self.waits.answer
        assert isinstance(response.body, bytes)
        assert response.headers["Access-Control-Allow-Origin"] == "*"
        return response.status, orjson.loads(response.body)


async def steady(client: Client) -> str:
    """The token of a client that has been told everything, and is known to be here."""
    return str((await client.sync(await client.token_now()))["next_batch"])


async def test_who_has_been_told_everything_is_answered_or_waits_without_a_task(
    server: Place, engine: str
) -> None:
    alice, bob, carol = await server.clients("alice", "bob", "carol")
    room_id = await alice.create()
    for client in (bob, carol):
        await client.join(room_id)
    for client in (bob, carol):
        await steady(client)  # that the other is here is no news any more
    tokens = {client: await steady(client) for client in (bob, carol)}
    status, told = await Poll(server, bob, since=tokens[bob], timeout=0).answer()
    assert (status, told["rooms"]["join"], told["next_batch"]) == (200, {}, tokens[bob])
    for body in ("first", "second"):
        polls = {c: Poll(server, c, since=token, timeout=LONG_MS) for c, token in tokens.items()}
        for poll in polls.values():
            poll.waiting()
        await alice.say(room_id, body)
        for client, poll in polls.items():
            status, told = await poll.answer()
            assert status == 200
            assert bodies(told["rooms"]["join"][room_id]["timeline"]["events"]) == [body]
            tokens[client] = told["next_batch"]
        if engine == SQLITE:
            # The first of them reads what the others are given, which takes no time there.
            assert [poll.waits.pursued is None for poll in polls.values()] == [False, True]


async def test_who_knows_nothing_or_is_nobody_is_the_task_s(server: Place) -> None:
    alice, = await server.clients("alice")  # fmt: skip
    guest = await server.guest()
    since = await steady(alice)
    for poll in (
        Poll(server, alice, timeout=0),
        Poll(server, alice, since=since, full_state="true"),
        Poll(server, alice, since="rubbish"),
        Poll(server, alice, since="s99999_0", timeout=0),
        Poll(server, alice, since=since, set_presence="rubbish"),
        Poll(server, alice, since=since, filter="unknown"),
        Poll(server, alice, "wrong", since=since),
        Poll(server, guest, since=await guest.token_now()),
    ):
        assert poll.outcome is None


async def test_whoever_is_logged_out_while_they_wait_is_told_nothing(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create()
    await bob.join(room_id)
    poll = Poll(server, bob, since=await steady(bob), timeout=LONG_MS)
    poll.waiting()
    (await bob.ask("POST", "/logout", {})).ok()
    await alice.say(room_id, "for members")
    status, told = await poll.answer()
    assert (status, told["errcode"]) == (401, "M_UNKNOWN_TOKEN")


async def test_the_time_of_who_waits_ends(server: Place) -> None:
    (alice,) = await server.clients("alice")
    since = await steady(alice)
    poll = Poll(server, alice, since=since, timeout=20)
    poll.waiting()
    status, told = await poll.answer()
    assert (status, told["next_batch"], poll.waits.pursued) == (200, since, None)


async def test_who_waits_looks_again_when_what_woke_them_is_not_for_them(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id, other = await alice.create(), await alice.create()
    for each in (room_id, other):
        await bob.join(each)
    wanted = orjson.dumps({"room": {"rooms": [room_id]}, "presence": {"types": []}}).decode()
    since = (await bob.sync(await bob.token_now(), orjson.loads(wanted)))["next_batch"]
    poll = Poll(server, bob, since=since, filter=wanted, timeout=LONG_MS)
    poll.waiting()
    await alice.say(other, "not wanted")
    await until_waiting()
    assert not poll.waits.answer.done()
    await alice.say(room_id, "wanted")
    status, told = await poll.answer()
    assert (status, list(told["rooms"]["join"])) == (200, [room_id])


async def test_whoever_goes_away_is_told_nothing_and_waits_no_more(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create()
    await bob.join(room_id)
    since = await steady(bob)
    gone, woken = (Poll(server, bob, since=since, timeout=LONG_MS) for _ in range(2))
    gone.waiting().cancel()
    # Woken already, and not told yet: that is in the loop's next turn.
    server.app._bus.wake([bob.user_id])
    woken.waiting().cancel()
    await alice.say(room_id, "news")
    await until_waiting()
    for poll in (gone, woken):
        assert not poll.waits.answer.done() and poll.waits.pursued is None
    known = server.app._users.ephemeral.presences._known[bob.user_id]
    assert [device.running for device in known.devices.values()] == [0]


async def test_a_server_that_stops_lets_who_waits_go(server: Place) -> None:
    (alice,) = await server.clients("alice")
    since = await steady(alice)
    poll = Poll(server, alice, since=since, timeout=LONG_MS)
    poll.waiting()
    server.app.wake_waiters()
    status, told = await poll.answer()
    assert (status, told["next_batch"]) == (200, since)


async def test_an_error_costs_nobody_an_answer(
    server: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create()
    await bob.join(room_id)
    since = await steady(bob)
    poll = Poll(server, bob, since=since, timeout=LONG_MS)
    poll.waiting()
    glance = Sync.glance
    failures = [RuntimeError("in the answer"), RuntimeError("in the request")]

    def failing(sync: Sync, request: SyncRequest, *, is_over: bool) -> Any:
        if failures:
            raise failures.pop()
        return glance(sync, request, is_over=is_over)

    monkeypatch.setattr(Sync, "glance", failing)
    assert Poll(server, bob, since=since, timeout=LONG_MS).outcome is None
    await alice.say(room_id, "news")
    status, told = await poll.answer()
    assert status == 200
    assert bodies(told["rooms"]["join"][room_id]["timeline"]["events"]) == ["news"]
    assert [record.levelname for record in caplog.records].count("ERROR") == 2
