"""What becomes of what an erased user has said (client-server §Account deactivation)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from comity.store import erasures
from tests.api.neighbours import ask_as, name_of, neighbours, settle
from tests.api.support_accounts import deactivate
from tests.api.support_rooms import Client, Place, by_key, place
from tests.api.support_users import at


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Place]:
    async with place(tmp_path) as opened:
        yield opened


async def told(client: Client, room_id: str, event_id: str) -> dict[str, Any]:
    """The content of an event as a user is given it."""
    content: dict[str, Any] = (await client.ask("GET", at("rooms", room_id, "event", event_id))).ok()[
        "content"
    ]
    return content


async def count(server: Place, statement: str, value: str) -> int:
    """What a count in the database comes to."""
    row = await server.database.read(lambda tx: tx.one(statement, (value,)))
    assert row is not None
    return int(row[0])


def contents(events: list[dict[str, Any]], sender: str) -> list[dict[str, Any]]:
    """The contents of a user's messages."""
    return [
        event["content"]
        for event in events
        if event["sender"] == sender and event["type"] == "m.room.message"
    ]


async def test_who_was_there_reads_on_and_who_comes_later_does_not(server: Place) -> None:
    alice, bob, carol = await server.clients("alice", "bob", "carol")
    room_id = await alice.create(name="A room")
    await bob.join(room_id)
    secret = await alice.say(room_id, "secret")
    await bob.say(room_id, "an answer")
    await deactivate(alice, erase=True)
    await carol.join(room_id)
    assert await told(bob, room_id, secret) == {"msgtype": "m.text", "body": "secret"}
    assert await told(carol, room_id, secret) == {}
    # In every way to it.
    assert b"secret" not in orjson.dumps(await carol.sync())
    assert contents((await carol.messages(room_id))["chunk"], alice.user_id) == [{}]
    around = (await carol.ask("GET", at("rooms", room_id, "context", secret))).ok()
    assert around["event"]["content"] == {}
    for relation in ("m.thread", "m.annotation"):
        listed = await carol.ask(
            "GET", f"/_matrix/client/v1{at('rooms', room_id, 'relations', secret, relation)}"
        )
        assert b"secret" not in orjson.dumps(listed.body)
    # Others' words are theirs, the room's name is the room's.
    assert contents((await carol.messages(room_id))["chunk"], bob.user_id) == [
        {"msgtype": "m.text", "body": "an answer"}
    ]
    state = by_key((await carol.ask("GET", at("rooms", room_id, "state"))).ok())
    assert state["m.room.name", ""] == {"name": "A room"}
    # And to who was there nothing happened.
    assert b"secret" in orjson.dumps(await bob.messages(room_id))


async def test_without_erase_all_is_as_it_was(server: Place) -> None:
    alice, bob, carol = await server.clients("alice", "bob", "carol")
    room_id = await alice.create()
    await bob.join(room_id)
    said = await alice.say(room_id, "not secret")
    await deactivate(alice)
    await carol.join(room_id)
    assert (await told(carol, room_id, said))["body"] == "not secret"


async def test_who_left_and_comes_again_had_seen_it(server: Place) -> None:
    alice, bob, carol, dora = await server.clients("alice", "bob", "carol", "dora")
    room_id = await alice.create()
    said = await alice.say(room_id, "secret")
    for client in (bob, carol, dora):
        await client.join(room_id)
    await bob.leave(room_id)
    await carol.leave(room_id)
    (await carol.ask("POST", at("rooms", room_id, "forget"), {})).ok()
    await deactivate(alice, erase=True)
    await bob.join(room_id)
    assert (await told(bob, room_id, said))["body"] == "secret"
    # Who has forgotten a room comes as a stranger.
    await carol.join(room_id)
    assert await told(carol, room_id, said) == {}


async def test_who_never_joins_is_no_better_off(server: Place) -> None:
    alice, bob, carol = await server.clients("alice", "bob", "carol")
    room_id = await alice.create()
    await carol.join(room_id)
    await alice.set_state(room_id, "m.room.history_visibility", {"history_visibility": "world_readable"})
    said = await alice.say(room_id, "secret")
    assert (await told(bob, room_id, said))["body"] == "secret"
    await deactivate(alice, erase=True)
    assert await told(bob, room_id, said) == {}


async def test_a_name_is_erased_and_what_makes_the_room_is_not(server: Place) -> None:
    alice, bob, carol = await server.clients("alice", "bob", "carol")
    (await alice.ask("PUT", at("profile", alice.user_id, "displayname"), {"displayname": "Alice Doe"})).ok()
    room_id = await alice.create(
        initial_state=[{"type": "m.room.encryption", "state_key": "", "content": {"algorithm": "m.megolm"}}]
    )
    await alice.set_state(room_id, "org.example.own", {"said": "secret"}, alice.user_id)
    await bob.join(room_id)
    await deactivate(alice, erase=True)
    await carol.join(room_id)
    for reader, sees in ((bob, True), (carol, False)):
        everything = orjson.dumps([await reader.sync(), await reader.messages(room_id, limit=100)])
        assert (b"Alice Doe" in everything) is sees
        own = await reader.ask("GET", at("rooms", room_id, "state", "org.example.own", alice.user_id))
        assert own.ok() == ({"said": "secret"} if sees else {})
        encryption = await reader.ask("GET", at("rooms", room_id, "state", "m.room.encryption"))
        assert encryption.ok() == {"algorithm": "m.megolm"}


async def test_what_is_erased_is_not_found(server: Place) -> None:
    alice, bob, carol = await server.clients("alice", "bob", "carol")
    (await alice.ask("PUT", at("profile", alice.user_id, "displayname"), {"displayname": "Alice Doe"})).ok()
    room_id = await alice.create()
    await bob.join(room_id)
    await alice.say(room_id, "the secret ingredient")
    await bob.say(room_id, "no ingredient")
    await deactivate(alice, erase=True)
    await carol.join(room_id)
    found = {}
    for reader in (bob, carol):
        wanted = {"search_term": "ingredient", "event_context": {"include_profile": True}}
        body = {"search_categories": {"room_events": wanted}}
        answer = (await reader.ask("POST", "/search", body)).ok()["search_categories"]["room_events"]
        assert (b"Alice Doe" in orjson.dumps(answer)) is (reader is bob)
        found[reader.user_id] = {result["result"]["content"]["body"] for result in answer["results"]}
    assert found == {
        bob.user_id: {"the secret ingredient", "no ingredient"},
        carol.user_id: {"no ingredient"},
    }


async def test_it_holds_after_a_restart(tmp_path: Path) -> None:
    async with place(tmp_path) as server:
        alice, bob = await server.clients("alice", "bob")
        room_id = await alice.create()
        await bob.join(room_id)
        said = await alice.say(room_id, "secret")
        await deactivate(alice, erase=True)
    async with place(tmp_path, seed=2) as server:
        carol = await server.client("carol")
        await carol.join(room_id)
        assert await told(carol, room_id, said) == {}
        assert (await told(server.again(bob), room_id, said))["body"] == "secret"


async def test_of_very_many_each_is_looked_up(server: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasures, "MAX_HELD", 1)
    alice, bob, carol, dora = await server.clients("alice", "bob", "carol", "dora")
    room_id = await dora.create()
    for client in (alice, bob):
        await client.join(room_id)
    said = [await alice.say(room_id, "secret"), await bob.say(room_id, "secret")]
    kept = await dora.say(room_id, "kept")
    await deactivate(alice, erase=True)
    await deactivate(bob, erase=True)
    await carol.join(room_id)
    assert [await told(carol, room_id, event_id) for event_id in said] == [{}, {}]
    assert (await told(carol, room_id, kept))["body"] == "kept"


async def test_their_own_data_goes(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create()
    said = await alice.say(room_id, "hello")
    await alice.account_data("org.example.mine", {"a": 1})
    await alice.receipt(room_id, said, "m.read.private")
    (await alice.ask("POST", at("user", alice.user_id, "filter"), {"room": {}})).ok()
    (await alice.ask("PUT", at("profile", alice.user_id, "displayname"), {"displayname": "Alice"})).ok()
    (await alice.ask("PUT", at("profile", alice.user_id, "org.example.x"), {"org.example.x": 1})).ok()
    await deactivate(alice, erase=True)
    (await bob.ask("GET", at("profile", alice.user_id))).failed(404, "M_NOT_FOUND")
    for table in ("account_data", "filters", "profiles", "devices", "access_tokens", "receipts"):
        assert await count(server, f"SELECT count(*) FROM {table} WHERE user_id = ?", alice.user_id) == 0


async def test_servers_that_were_there_are_given_it_and_servers_that_come_are_not(tmp_path: Path) -> None:
    async with neighbours(tmp_path, 3) as (here, there, late):
        alice, bob, carol = await here.client("alice"), await there.client("bob"), await late.client("carol")
        (
            await alice.ask("PUT", at("profile", alice.user_id, "displayname"), {"displayname": "Alice Doe"})
        ).ok()
        other = await here.client("other")
        room_id = await alice.create(name="A room")
        await other.join(room_id)
        said = await alice.say(room_id, "secret")
        await bob.join(room_id, via=name_of(1))
        await settle(here, there)
        await deactivate(alice, erase=True)
        await settle(here, there)
        last = await other.say(room_id, "last")
        await carol.join(room_id, via=name_of(1))
        await settle(here, there, late)
        for asking, sees in ((there, True), (late, False)):
            (event,) = (await ask_as(asking, name_of(1), "GET", at("v1", "event", said)))["pdus"]
            assert (event["content"] == {"msgtype": "m.text", "body": "secret"}) is sees
            path = at("v1", "backfill", room_id)
            filled = await ask_as(asking, name_of(1), "GET", path, v=last, limit=100)
            assert (b"secret" in orjson.dumps(filled)) is sees
            state = await ask_as(asking, name_of(1), "GET", at("v1", "state", room_id), event_id=last)
            assert (b"Alice Doe" in orjson.dumps(state)) is sees
            auth = await ask_as(asking, name_of(1), "GET", at("v1", "event_auth", room_id, said))
            assert (b"Alice Doe" in orjson.dumps(auth)) is sees
            assert b"A room" in orjson.dumps(state)
        # What was given with the join, and what is fetched behind it, is the same.
        assert b"Alice Doe" not in orjson.dumps(await carol.messages(room_id, limit=100))
        assert b"secret" not in orjson.dumps(await carol.messages(room_id, limit=100))
        row = await late.database.read(
            lambda tx: tx.one("SELECT count(*) FROM events WHERE event_id = ?", (said,))
        )
        assert row == (1,)
