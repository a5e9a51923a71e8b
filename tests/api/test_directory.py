"""Room aliases (client-server §Room aliases)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.api.support_rooms import Place, place
from tests.api.support_users import at

ALIAS = "#club:example.org"


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Place]:
    async with place(tmp_path) as opened:
        yield opened


async def test_an_alias_comes_and_goes(here: Place) -> None:
    alice, bob, carol = await here.clients("alice", "bob", "carol")
    room_id, path = await alice.create(), at("directory", "room", ALIAS)
    (await alice.ask("GET", path)).failed(404, "M_NOT_FOUND")
    await bob.join(room_id)
    (await bob.ask("PUT", path, {"room_id": room_id})).ok()
    assert (await carol.ask("GET", path)).ok() == {"room_id": room_id, "servers": ["example.org"]}
    other = await carol.create()
    (await carol.ask("PUT", path, {"room_id": other})).failed(409, "M_UNKNOWN")
    (await bob.ask("PUT", path, {"room_id": room_id})).failed(409, "M_UNKNOWN")
    # Whose it is may delete it, and who may name the room.
    (await carol.ask("DELETE", path)).failed(403, "M_FORBIDDEN")
    (await bob.ask("DELETE", path)).ok()
    (await bob.ask("DELETE", path)).failed(404, "M_NOT_FOUND")
    (await bob.ask("PUT", path, {"room_id": room_id})).ok()
    (await alice.ask("DELETE", path)).ok()
    (await alice.ask("GET", path)).failed(404, "M_NOT_FOUND")


async def test_what_is_no_alias_of_ours(here: Place) -> None:
    alice = await here.client("alice")
    room_id = await alice.create()
    for alias in ("club", "#club", "#:example.org", "#a b:example.org", "#club:not a server"):
        path = at("directory", "room", alias)
        (await alice.ask("PUT", path, {"room_id": room_id})).failed(400, "M_INVALID_PARAM")
    for alias in ("club", "#club", "#:example.org"):
        (await alice.ask("GET", at("directory", "room", alias))).failed(400, "M_INVALID_PARAM")
    path = at("directory", "room", "#club:elsewhere.example")
    (await alice.ask("PUT", path, {"room_id": room_id})).failed(400, "M_INVALID_PARAM")
    path = at("directory", "room", ALIAS)
    (await alice.ask("PUT", path, {})).failed(400, "M_MISSING_PARAM")
    (await alice.ask("PUT", path, {"room_id": 4})).failed(400, "M_BAD_JSON")
    (await alice.ask("PUT", path, {"room_id": "!nothing:example.org"})).failed(404, "M_NOT_FOUND")


async def test_who_is_told_a_rooms_aliases(here: Place) -> None:
    alice, bob = await here.clients("alice", "bob")
    room_id = await alice.create(room_alias_name="club")
    path = at("rooms", room_id, "aliases")
    assert (await alice.ask("GET", path)).ok() == {"aliases": [ALIAS]}
    (await bob.ask("GET", path)).failed(403, "M_FORBIDDEN")
    await alice.set_state(room_id, "m.room.history_visibility", {"history_visibility": "world_readable"})
    assert (await bob.ask("GET", path)).ok() == {"aliases": [ALIAS]}
    (await bob.ask("GET", at("rooms", "!nothing:example.org", "aliases"))).failed(403, "M_FORBIDDEN")
    (await bob.ask("GET", at("rooms", ALIAS, "aliases"))).failed(400, "M_INVALID_PARAM")
    assert (await alice.ask("GET", at("rooms", await alice.create(), "aliases"))).ok() == {"aliases": []}
