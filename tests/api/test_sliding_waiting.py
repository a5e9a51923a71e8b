"""Waiting in sliding sync: who asks again in the same words reads nothing, and misses nothing for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from comity.store.database import Database
from comity.sync.sliding import requests
from tests.api.support_keys import claim_key, device_of, give_keys
from tests.api.support_rooms import Client, Place, bodies, place, until_waiting
from tests.api.support_users import at

PATH = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
LONG_MS = 30_000
#: Seconds after which a test that waits has failed.
PATIENCE = 10.0
EXTENSIONS = ("to_device", "e2ee", "account_data", "receipts", "typing")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Place]:
    async with place(tmp_path) as opened:
        yield opened


class App:
    """A client that asks in the same words until it has messages to acknowledge."""

    def __init__(self, client: Client, last: int = 9) -> None:
        self.client = client
        self.last = last
        self.pos: str | None = None
        self.since: str | None = None

    def body(self) -> dict[str, Any]:
        listed = {
            "ranges": [[0, self.last]],
            "timeline_limit": 5,
            "required_state": [["m.room.topic", ""], ["m.room.member", "$ME"]],
        }
        extensions: dict[str, Any] = {name: {"enabled": True} for name in EXTENSIONS}
        if self.since is not None:
            extensions["to_device"]["since"] = self.since
        return {"lists": {"all": listed}, "extensions": extensions}

    async def ask(self, timeout: int = 0) -> Any:
        query = {} if self.pos is None else {"pos": self.pos}
        return (await self.client.ask("POST", PATH, self.body(), timeout=timeout, **query)).ok()

    async def follow(self, timeout: int = 0) -> Any:
        answer = await self.ask(timeout)
        self.pos, self.since = answer["pos"], answer["extensions"]["to_device"]["next_batch"]
        return answer

    async def steady(self) -> None:
        """It has been told everything, in the words that it goes on using."""
        for _ in range(2):
            await self.follow()
        answer = await self.follow()
        assert answer["rooms"] == {} and answer["extensions"]["to_device"]["events"] == []


class Reads:
    """How often a server's database was read."""

    def __init__(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        read = database.read

        def counted(look: Callable[..., Any]) -> Awaitable[Any]:
            self.count += 1
            return read(look)

        monkeypatch.setattr(database, "read", counted)


async def _message(alice: Client, bob: Client, room_id: str) -> None:
    await alice.say(room_id, "news")


async def _topic(alice: Client, bob: Client, room_id: str) -> None:
    await alice.set_state(room_id, "m.room.topic", {"topic": "news"})


async def _receipt(alice: Client, bob: Client, room_id: str) -> None:
    event_id = (await alice.messages(room_id, limit=1))["chunk"][0]["event_id"]
    await alice.receipt(room_id, event_id)


async def _typing(alice: Client, bob: Client, room_id: str) -> None:
    path = at("rooms", room_id, "typing", alice.user_id)
    (await alice.ask("PUT", path, {"typing": True, "timeout": LONG_MS})).ok()


async def _account_data(alice: Client, bob: Client, room_id: str) -> None:
    await bob.account_data("x.global", {"news": True})


async def _room_account_data(alice: Client, bob: Client, room_id: str) -> None:
    await bob.account_data("x.room", {"news": True}, room_id)


async def _direct(alice: Client, bob: Client, room_id: str) -> None:
    await bob.account_data("m.direct", {alice.user_id: [room_id]})


async def _to_device(alice: Client, bob: Client, room_id: str) -> None:
    messages = {bob.user_id: {"*": {"news": True}}}
    (await alice.ask("PUT", at("sendToDevice", "x.hello", "1"), {"messages": messages})).ok()


async def _key_claimed(alice: Client, bob: Client, room_id: str) -> None:
    await claim_key(alice, bob)


async def _new_keys(alice: Client, bob: Client, room_id: str) -> None:
    device_id = await device_of(alice)
    keys = {
        "user_id": alice.user_id,
        "device_id": device_id,
        "algorithms": ["m.olm.v1.curve25519-aes-sha2"],
        "keys": {f"curve25519:{device_id}": "x", f"ed25519:{device_id}": "y"},
        "signatures": {},
    }
    (await alice.ask("POST", "/keys/upload", {"device_keys": keys})).ok()


async def _invite(alice: Client, bob: Client, room_id: str) -> None:
    await alice.create(preset="private_chat", invite=[bob.user_id])


async def _ban(alice: Client, bob: Client, room_id: str) -> None:
    await alice.treat(room_id, "ban", bob)


async def _other_room(alice: Client, bob: Client, room_id: str) -> None:
    await bob.join(await alice.create(name="another"))


NEWS = [
    _message, _topic, _receipt, _typing, _account_data, _room_account_data, _direct, _to_device, _key_claimed,
    _new_keys, _invite, _ban, _other_room,
]  # fmt: skip


def _told(answer: Any) -> Any:
    """What an answer tells that an empty one does not."""
    extensions = answer["extensions"]
    return [
        answer["rooms"],
        extensions["account_data"]["global"],
        extensions["account_data"]["rooms"],
        extensions["receipts"]["rooms"],
        extensions["typing"]["rooms"],
        extensions["to_device"]["events"],
        extensions["e2ee"].get("device_lists"),
    ]


async def _begun(server: Place) -> tuple[Client, Client, str, App]:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create(name="a room")
    await bob.join(room_id)
    await alice.say(room_id, "hello")
    await give_keys(bob, "first", "second")
    app = App(bob)
    await app.steady()
    return alice, bob, room_id, app


@pytest.mark.parametrize("happens", NEWS)
async def test_news_between_two_requests_are_told_at_once(
    server: Place, happens: Callable[[Client, Client, str], Awaitable[None]]
) -> None:
    alice, bob, room_id, app = await _begun(server)
    before = (await app.follow())["extensions"]["e2ee"]["device_one_time_keys_count"]
    await happens(alice, bob, room_id)
    async with asyncio.timeout(PATIENCE):
        answer = await app.ask(LONG_MS)
    count = answer["extensions"]["e2ee"]["device_one_time_keys_count"]
    assert any(_told(answer)) or count != before
    # An answer that was lost comes again.
    async with asyncio.timeout(PATIENCE):
        again = await app.follow(LONG_MS)
    assert _told(again) == _told(answer)


@pytest.mark.parametrize("happens", NEWS)
async def test_news_wake_who_waits(
    server: Place, happens: Callable[[Client, Client, str], Awaitable[None]]
) -> None:
    alice, bob, room_id, app = await _begun(server)
    before = (await app.follow())["extensions"]["e2ee"]["device_one_time_keys_count"]
    waiting = asyncio.create_task(app.ask(LONG_MS))
    await until_waiting()
    assert not waiting.done()
    await happens(alice, bob, room_id)
    async with asyncio.timeout(PATIENCE):
        answer = await waiting
    count = answer["extensions"]["e2ee"]["device_one_time_keys_count"]
    assert any(_told(answer)) or count != before


async def test_who_asks_in_the_same_words_reads_nothing_until_there_is_news(
    server: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice, _, room_id, app = await _begun(server)
    reads = Reads(server.database, monkeypatch)
    waiting = asyncio.create_task(app.ask(LONG_MS))
    await until_waiting()
    assert (reads.count, waiting.done()) == (0, False)
    await alice.say(room_id, "news")
    assert bodies((await waiting)["rooms"][room_id]["timeline"]) == ["news"]


async def test_who_waits_in_vain_is_told_how_it_stands(server: Place) -> None:
    _, _, _, app = await _begun(server)
    waiting = asyncio.create_task(app.ask(30))
    answer = await waiting
    assert not any(_told(answer))
    assert answer["lists"] == {"all": {"count": 1}}


async def test_other_words_are_answered_at_once(server: Place) -> None:
    alice, bob, _, app = await _begun(server)
    app.last = 0
    await app.follow()
    newest = await alice.create(name="newest")
    await bob.join(newest)
    assert set((await app.follow())["rooms"]) == {newest}
    await app.steady()
    # Nothing has happened, but the second room has not been told of since what it was told before.
    app.last = 9
    await alice.say(newest, "so that there is something")
    async with asyncio.timeout(PATIENCE):
        assert newest in (await app.follow(LONG_MS))["rooms"]


async def test_messages_that_do_not_fit_come_with_the_next_request(server: Place) -> None:
    alice, bob, _, app = await _begun(server)
    for number in range(101):
        path = at("sendToDevice", "x.hello", f"t{number}")
        (await alice.ask("PUT", path, {"messages": {bob.user_id: {"*": {"n": number}}}})).ok()
    async with asyncio.timeout(PATIENCE):
        first = await app.follow(LONG_MS)
        second = await app.follow(LONG_MS)
    counts = [len(answer["extensions"]["to_device"]["events"]) for answer in (first, second)]
    assert counts == [100, 1]


async def test_two_users_may_ask_in_the_same_words(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create(name="a room")
    await bob.join(room_id)
    for client in (alice, bob, alice):
        told = (await App(client).follow())["rooms"][room_id]["required_state"]
        assert [event["state_key"] for event in told] == [client.user_id]


async def test_long_bodies_are_not_remembered(server: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, _, app = await _begun(server)
    monkeypatch.setattr(requests, "MAX_REMEMBERED_BODY", 10)
    app.last = 8
    await app.steady()
    reads = Reads(server.database, monkeypatch)
    waiting = asyncio.create_task(app.ask(LONG_MS))
    await until_waiting()
    assert (reads.count, waiting.done()) == (1, False)
    waiting.cancel()
