"""People found by their names (client-server §User Directory)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from comity.store import user_directory as stored
from comity.users import directory
from tests.api.support_rooms import Client, Network, Place, networked_place, place, until_waiting
from tests.api.support_users import Answer, at

TWO = "192.0.2.1:1002"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Place]:
    async with place(tmp_path) as opened:
        yield opened


async def ask(client: Client, term: object, **more: object) -> Answer:
    return await client.ask("POST", "/user_directory/search", {"search_term": term, **more})


async def found(client: Client, term: str, **more: object) -> list[str]:
    """The user ids found, the best first."""
    return [user["user_id"] for user in (await ask(client, term, **more)).ok()["results"]]


async def call(client: Client, name: str, field: str = "displayname") -> None:
    (await client.ask("PUT", at("profile", client.user_id, field), {field: name})).ok()


async def test_by_name_and_by_id(server: Place) -> None:
    alice, bob, carol = await server.clients("alice", "bob.baker", "carol")
    room_id = await alice.create(preset="private_chat", invite=[bob.user_id, carol.user_id])
    await bob.join(room_id)
    await carol.join(room_id)
    await call(bob, "Róbert Straße")
    await call(bob, "mxc://example.org/face", "avatar_url")
    for term in ("bob", "BAKER", "bak bob", "róbert", "rob", "Robert str", "strasse", "@bob.b"):
        assert await found(alice, term) == [bob.user_id], term
    assert await found(alice, f"BOB.baker:{bob.user_id.partition(':')[2]}") == [bob.user_id]
    for term in ("obert", "robert carol", "example", "@ob", "", "  ", "!?"):
        assert await found(alice, term) == [], term
    assert (await ask(alice, "robert")).ok() == {
        "results": [
            {"user_id": bob.user_id, "display_name": "Róbert Straße", "avatar_url": "mxc://example.org/face"}
        ],
        "limited": False,
    }
    # Oneself is in a room with oneself.
    assert await found(alice, "alice") == [alice.user_id]


async def test_a_name_with_a_colon_is_no_id(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    await alice.join(await bob.create())
    await call(bob, "Support:Bob")
    for term in ("support:bob", "Support:B", "bob:support", bob.user_id, bob.user_id[1:]):
        assert await found(alice, term) == [bob.user_id], term
    for term in ("@support:bob", "support:carol", ":"):
        assert await found(alice, term) == [], term


async def test_a_name_of_old_is_forgotten(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    await bob.join(await alice.create())
    await call(bob, "Zebra Crossing")
    await call(bob, "Zebra Bob")
    assert await found(alice, "crossing") == []
    assert await found(alice, "zebra") == [bob.user_id]
    (await bob.ask("DELETE", at("profile", bob.user_id, "displayname"))).ok()
    assert await found(alice, "zebra") == []
    words = await server.database.read(lambda tx: stored.beginning_with(tx, "zebra", 10))
    assert words == []
    assert await found(alice, "bob") == [bob.user_id]


async def test_only_people_who_can_be_met_are_found(server: Place) -> None:
    alice, bob, carol = await server.clients("alice", "bob", "carol")
    private = await alice.create(preset="private_chat", invite=[bob.user_id])
    assert await found(carol, "alice") == []
    assert await found(bob, "alice") == []
    await bob.join(private)
    assert await found(bob, "alice") == [alice.user_id]
    assert await found(carol, "alice") == []
    public = await alice.create()
    assert await found(carol, "alice") == [alice.user_id]
    await alice.set_state(public, "m.room.join_rules", {"join_rule": "invite"})
    assert await found(carol, "alice") == []
    await alice.set_state(public, "m.room.history_visibility", {"history_visibility": "world_readable"})
    assert await found(carol, "alice") == [alice.user_id]
    await alice.leave(public)
    assert await found(carol, "alice") == []


async def test_who_has_gone_is_not_found(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    await bob.join(await alice.create())
    await call(bob, "Robert")
    proof = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "bob"}}
    refused = await bob.ask("POST", "/account/deactivate", {})
    auth = {**proof, "password": "correct horse", "session": refused.body["session"]}
    (await bob.ask("POST", "/account/deactivate", {"auth": auth})).ok()
    assert await found(alice, "bob") == []
    assert await server.database.read(lambda tx: stored.beginning_with(tx, "rob", 10)) == []


async def test_the_best_come_first_and_no_more_than_asked(server: Place) -> None:
    alice, *others = await server.clients("alice", "ann", "anna", "annabel", "annegret")
    room_id = await alice.create()
    for other in others:
        await other.join(room_id)
    everybody = await found(alice, "ann")
    assert everybody[0] == others[0].user_id
    assert sorted(everybody) == sorted(other.user_id for other in others)
    answer = (await ask(alice, "ann", limit=2)).ok()
    assert len(answer["results"]) == 2
    assert answer["results"][0]["user_id"] == others[0].user_id
    assert answer["limited"] is True
    assert (await ask(alice, "ann", limit=4)).ok()["limited"] is False
    assert (await ask(alice, "ann", limit=10**9)).ok()["limited"] is False


async def test_no_more_is_looked_at_than_is_bounded(server: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory, "MAX_SCANNED", 3)
    alice, *others = await server.clients("alice", "ann", "anna", "annabel", "annegret")
    room_id = await alice.create()
    for other in others:
        await other.join(room_id)
    answer = (await ask(alice, "ann")).ok()
    assert len(answer["results"]) == 3
    assert answer["limited"] is True


async def test_what_is_refused(server: Place) -> None:
    alice = await server.client("alice")
    (await alice.ask("POST", "/user_directory/search", {})).failed(400, "M_MISSING_PARAM")
    (await ask(alice, 5)).failed(400, "M_BAD_JSON")
    (await ask(alice, "x", limit="many")).failed(400, "M_BAD_JSON")
    (await ask(alice, "x", limit=True)).failed(400, "M_BAD_JSON")
    (await ask(alice, "x", limit=0)).failed(400, "M_INVALID_PARAM")
    (await ask(alice, "x" * (directory.MAX_TERM_BYTES + 1))).failed(400, "M_INVALID_PARAM")
    assert (await ask(alice, "x" * directory.MAX_TERM_BYTES)).ok()["results"] == []


async def test_all_accounts_are_found_where_the_operator_wants_it(tmp_path: Path) -> None:
    settings = '[users]\ndirectory = "all"\n'
    async with networked_place(tmp_path / "one", Network(), 1001, settings) as server:
        alice, bob = await server.clients("alice", "bob")
        assert await found(alice, "bob") == [bob.user_id]
        await call(bob, "Zoe")
        assert await found(alice, "zoe") == [bob.user_id]
        # Guests are not people whom anybody would look for.
        insert = "INSERT INTO guests (user_id) VALUES (?)"
        await server.database.write(lambda tx: tx.run(insert, (bob.user_id,)))
        assert await found(alice, "zoe") == []


async def test_names_elsewhere_are_shown_where_they_are_borne(tmp_path: Path) -> None:
    """A user of another server is called otherwise in a private room: that is told to those inside alone."""
    network = Network()
    async with (
        networked_place(tmp_path / "one", network, 1001) as one,
        networked_place(tmp_path / "two", network, 1002) as two,
    ):
        alice, carol = await one.clients("alice", "carol")
        bob = await two.client("bob")
        await call(bob, "Robert Public")
        public = await alice.create()
        private = await alice.create(preset="private_chat", invite=[bob.user_id])
        for room_id in (public, private):
            await bob.join(room_id, "192.0.2.1:1001")
        secret = {"membership": "join", "displayname": "Batman Secret"}
        await bob.set_state(private, "m.room.member", secret, bob.user_id)
        for _ in range(5):
            await two.clock.turn(1)
            await until_waiting()
        result = {"user_id": bob.user_id, "display_name": "Robert Public"}
        assert (await ask(carol, "robert")).ok()["results"] == [result]
        assert (await ask(carol, "bob")).ok()["results"] == [result]
        assert await found(carol, "batman") == []
        assert await found(carol, "secret robert") == []
        inside = {"user_id": bob.user_id, "display_name": "Batman Secret"}
        assert (await ask(alice, "batman")).ok()["results"] == [inside]
        await bob.leave(public)
        for _ in range(5):
            await two.clock.turn(1)
            await until_waiting()
        assert await found(carol, "robert") == []
        assert await found(carol, "bob") == []
        assert await found(alice, "bob") == [bob.user_id]


async def test_accounts_and_members_from_before_there_was_an_index(
    server: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "STEP_ROWS", 2)
    monkeypatch.setattr(directory, "STEPS_WAITED", 1)
    alice, *others = await server.clients("alice", "bob", "carol", "dave", "erin")
    room_id = await alice.create()
    for other in others:
        await other.join(room_id)
        await call(other, "Friend")
    await server.database.write(lambda tx: tx.run("DELETE FROM directory_words"))
    assert len(await found(alice, "friend")) < len(others)
    await until_waiting()
    assert sorted(await found(alice, "friend")) == sorted(other.user_id for other in others)
    assert not await server.database.read(stored.is_behind)
