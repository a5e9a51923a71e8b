"""Messages whose time is over (MSC1763): shown to nobody, then erased."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from comity.store import compression
from comity.store.retention import ERASED
from tests.api.support_rooms import Client, Place, bodies, ids, place
from tests.api.support_users import at
from tests.store.whole import breaches

SETTINGS = """
[retention]
enabled = true
allowed_min_days = 0
"""
HOUR = 3_600
RETENTION = "m.room.retention"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Place]:
    async with place(tmp_path, settings=SETTINGS) as opened:
        yield opened


async def a_room(client: Client, hours: float | None = 10) -> str:
    room_id = await client.create()
    if hours is not None:
        await client.set_state(room_id, RETENTION, {"max_lifetime": round(hours * HOUR * 1000)})
    return room_id


async def said(client: Client, room_id: str) -> list[str]:
    return bodies((await client.messages(room_id, "f", limit=200))["chunk"])


async def search(client: Client, term: str) -> Any:
    body = {"search_categories": {"room_events": {"search_term": term}}}
    return (await client.ask("POST", "/search", body)).ok()["search_categories"]["room_events"]["results"]


async def stored_text(server: Place, event_id: str) -> tuple[str, int | None]:
    """The JSON of an event as it is in the database, and its redaction."""
    row = await server.database.read(
        lambda tx: tx.one("SELECT json, redacted_by FROM events WHERE event_id = ?", (event_id,))
    )
    assert row is not None
    return compression.unpack(bytes(row[0])).decode(), row[1]


async def erase(server: Place) -> int:
    """One pass now, to its end, however long its pauses."""
    eraser = server.app._rooms.eraser
    assert eraser is not None
    eraser._clock = _Hurried(server)
    return await eraser.pass_over_all()


class _Hurried:
    """A clock on which nobody waits."""

    def __init__(self, server: Place) -> None:
        self.now_ms = server.clock.now_ms
        self.monotonic = server.clock.monotonic

    async def sleep(self, seconds: float) -> None:
        """No wait."""


async def test_what_is_too_old_is_shown_by_no_endpoint(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await a_room(alice)
    await bob.join(room_id)
    old = await alice.say(room_id, "old secret")
    thread = {"body": "old secret too", "m.relates_to": {"rel_type": "m.thread", "event_id": old}}
    await bob.send(room_id, "m.room.message", thread)
    await server.clock.turn(6 * HOUR)
    young = await alice.say(room_id, "young secret")
    since = await bob.token_now()
    assert await said(bob, room_id) == ["old secret", "old secret too", "young secret"]
    await server.clock.turn(5 * HOUR)
    await alice.say(room_id, "newest")
    assert await said(bob, room_id) == ["young secret", "newest"]
    for path in (at("event", old), at("context", old), at("relations", old)):
        version = "v1" if path.startswith("/relations") else "v3"
        whole = f"/_matrix/client/{version}" + at("rooms", room_id) + path
        (await bob.ask("GET", whole)).failed(404, "M_NOT_FOUND")
    for query in ({}, {"since": since}):
        answer = await bob.sync(**query, wanted={"room": {"timeline": {"limit": 100}}})
        assert "old secret" not in str(answer)
    threads = (await bob.ask("GET", "/_matrix/client/v1" + at("rooms", room_id, "threads"))).ok()
    assert threads["chunk"] == []
    context = (await bob.ask("GET", at("rooms", room_id, "context", young))).ok()
    assert bodies(context["events_before"]) == []
    results = await search(bob, "secret")
    assert [item["result"]["event_id"] for item in results] == [young]
    path = "/_matrix/client/v1" + at("rooms", room_id, "timestamp_to_event")
    closest = (await bob.ask("GET", path, ts=server.clock.now_ms() - 10 * HOUR * 1000, dir="f")).ok()
    assert closest["event_id"] == young
    # State says what it said.
    state = (await bob.ask("GET", at("rooms", room_id, "state"))).ok()
    assert {"m.room.create", RETENTION} <= {event["type"] for event in state}


async def test_it_is_erased_for_good(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id, other = await a_room(alice), await a_room(alice, None)
    await bob.join(room_id)
    root = await alice.say(room_id, "old root")
    thread = {"body": "old bob", "m.mentions": {"user_ids": [bob.user_id]}}
    thread["m.relates_to"] = {"rel_type": "m.thread", "event_id": root}
    child = await alice.send(room_id, "m.room.message", thread)
    kept = await alice.say(other, "old, and kept")
    await server.clock.turn(11 * HOUR)
    young = await alice.say(room_id, "young")
    assert len(await search(alice, "old")) == 1, "the other room's; both are in the index"
    assert await erase(server) == 2
    for event_id in (root, child):
        text, redacted_by = await stored_text(server, event_id)
        assert "old" not in text
        assert redacted_by == ERASED
    for event_id in (kept, young):
        text, redacted_by = await stored_text(server, event_id)
        assert redacted_by is None

    def left(tx: Any) -> list[object]:
        return [
            tx.one("SELECT count(*) FROM relations")[0],
            tx.one("SELECT count(*) FROM threads")[0],
            tx.one("SELECT count(*) FROM mentions")[0],
            tx.one("SELECT count(*) FROM search_words WHERE word = ?", ("root",))[0],
        ]

    assert await server.database.read(left) == [0, 0, 0, 0]
    assert breaches(server.database.driver) == []
    assert await erase(server) == 0
    # A longer lifetime brings nothing back, and the room goes on.
    await alice.set_state(room_id, RETENTION, {"max_lifetime": 1000 * HOUR * 1000})
    event = (await bob.ask("GET", at("rooms", room_id, "event", root))).ok()
    assert event["content"] == {}
    assert "redacted_because" not in event["unsigned"]
    assert await bob.say(room_id, "and on")
    assert await said(alice, other) == ["old, and kept"]


async def test_the_newest_event_stays(server: Place) -> None:
    alice = await server.client("alice")
    room_id = await a_room(alice)
    one, two = await alice.say_all(room_id, "one", "two")
    await server.clock.turn(20 * HOUR)
    assert await said(alice, room_id) == ["two"]
    assert await erase(server) == 1
    assert (await stored_text(server, one))[1] == ERASED
    assert (await stored_text(server, two))[1] is None
    assert await said(alice, room_id) == ["two"]
    await alice.say(room_id, "three")
    assert await said(alice, room_id) == ["three"]


async def test_many_are_erased_in_steps(server: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PAGE", "BATCH", "ROOMS"):
        monkeypatch.setattr(f"comity.rooms.retention.{name}", 3)
    alice = await server.client("alice")
    rooms = [await a_room(alice) for _ in range(4)]
    for room_id in rooms:
        await alice.say_all(room_id, *"abcdefgh")
    await server.clock.turn(20 * HOUR)
    assert await erase(server) == 4 * 7
    for room_id in rooms:
        assert await said(alice, room_id) == ["h"]


async def test_other_servers_are_not_given_what_was_erased(server: Place) -> None:
    alice = await server.client("alice")
    room_id = await a_room(alice)
    await alice.say_all(room_id, "old", "older")
    await server.clock.turn(11 * HOUR)
    young = await alice.say(room_id, "young")
    rooms = server.app._rooms
    room = await rooms.writer.resident_room(room_id)

    async def backfilled() -> list[str]:
        events = await rooms.server.backfill(room, "b.example", [young], 100)
        return bodies([orjson.loads(event) for event in events])

    assert await backfilled() == ["young", "older", "old"]
    await erase(server)
    assert len(await rooms.server.backfill(room, "b.example", [young], 3)) == 3, "it goes on behind them"
    assert await backfilled() == ["young"]


async def test_it_happens_by_itself(server: Place) -> None:
    alice = await server.client("alice")
    room_id = await a_room(alice, 1)
    old = await alice.say(room_id, "old")
    await server.clock.turn(2 * HOUR)
    await alice.say(room_id, "young")
    for _ in range(40):
        await server.clock.turn(HOUR)
    assert (await stored_text(server, old))[1] == ERASED


async def test_the_operator_has_the_last_word(tmp_path: Path) -> None:
    settings = """
    [retention]
    enabled = true
    default_max_lifetime_days = 10
    allowed_max_days = 20
    """
    async with place(tmp_path, settings=settings) as server:
        alice = await server.client("alice")
        # Weeks of looks for something to do would take a while.
        await server.app._errands.stop()
        silent, greedy, hasty = [await a_room(alice, hours) for hours in (None, 1000, 0.001)]
        for room_id in (silent, greedy, hasty):
            await alice.say(room_id, "old")
            await server.clock.turn(1)
            await alice.set_state(room_id, "m.room.topic", {"topic": room_id})
        await server.clock.turn(23 * HOUR)
        assert await said(alice, hasty) == ["old"]
        await server.clock.turn(HOUR)
        assert await said(alice, hasty) == []
        assert await said(alice, silent) == ["old"]
        await server.clock.turn(9 * 24 * HOUR)
        assert await said(alice, silent) == []
        assert await said(alice, greedy) == ["old"]
        await server.clock.turn(10 * 24 * HOUR)
        assert await said(alice, greedy) == []


async def test_nothing_of_it_where_it_is_not_enabled(tmp_path: Path) -> None:
    async with place(tmp_path) as server:
        alice = await server.client("alice")
        room_id = await a_room(alice, 0)
        old = await alice.say(room_id, "old")
        await server.clock.turn(HOUR)
        await alice.say(room_id, "young")
        assert server.app._rooms.eraser is None
        assert ids((await alice.messages(room_id))["chunk"])[1] == old
