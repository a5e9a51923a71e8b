"""Room aliases (client-server §Room aliases): made, led by, listed, taken away."""

from __future__ import annotations

from pathlib import Path

from tests.api.neighbours import name_of, neighbours
from tests.api.support_rooms import SERVER, place
from tests.api.support_users import at

HALL = f"#hall:{SERVER}"


async def test_an_alias_leads_to_its_room_until_it_is_deleted(tmp_path: Path) -> None:
    async with place(tmp_path) as server:
        alice, bob = await server.clients("alice", "bob")
        room_id = await alice.create()
        path = at("directory", "room", HALL)
        (await bob.ask("GET", path)).failed(404, "M_NOT_FOUND")
        assert (await alice.ask("PUT", path, {"room_id": room_id})).ok() == {}
        (await bob.ask("PUT", path, {"room_id": room_id})).failed(409, "M_UNKNOWN")
        assert (await bob.ask("GET", path)).ok() == {"room_id": room_id, "servers": [SERVER]}
        assert (await bob.ask("POST", at("join", HALL), {})).ok() == {"room_id": room_id}
        # Who made it may delete it, and who may set the canonical alias; bob is neither.
        (await bob.ask("DELETE", path)).failed(403, "M_FORBIDDEN")
        assert (await alice.ask("DELETE", path)).ok() == {}
        (await bob.ask("GET", path)).failed(404, "M_NOT_FOUND")
        (await alice.ask("DELETE", path)).failed(404, "M_NOT_FOUND")


async def test_an_alias_must_be_of_this_server_and_lead_somewhere(tmp_path: Path) -> None:
    async with place(tmp_path) as server:
        alice = await server.client("alice")
        room_id = await alice.create()
        for alias in ("#hall:elsewhere.example", "hall", f"#{'x' * 255}:{SERVER}"):
            asked = await alice.ask("PUT", at("directory", "room", alias), {"room_id": room_id})
            asked.failed(400, "M_INVALID_PARAM")
        (await alice.ask("GET", at("directory", "room", "hall"))).failed(400, "M_INVALID_PARAM")
        path = at("directory", "room", HALL)
        (await alice.ask("PUT", path, {})).failed(400, "M_MISSING_PARAM")
        (await alice.ask("PUT", path, {"room_id": 5})).failed(400, "M_BAD_JSON")
        (await alice.ask("PUT", path, {"room_id": f"!nowhere:{SERVER}"})).failed(404, "M_NOT_FOUND")


async def test_members_see_a_rooms_aliases(tmp_path: Path) -> None:
    async with place(tmp_path) as server:
        alice, bob = await server.clients("alice", "bob")
        room_id = await alice.create(room_alias_name="hall")
        await bob.join(room_id)
        porch = f"#porch:{SERVER}"
        (await bob.ask("PUT", at("directory", "room", porch), {"room_id": room_id})).ok()
        path = at("rooms", room_id, "aliases")
        assert sorted((await bob.ask("GET", path)).ok()["aliases"]) == [HALL, porch]
        await bob.leave(room_id)
        (await bob.ask("GET", path)).failed(403, "M_FORBIDDEN")
        history = {"history_visibility": "world_readable"}
        await alice.set_state(room_id, "m.room.history_visibility", history)
        assert sorted((await bob.ask("GET", path)).ok()["aliases"]) == [HALL, porch]
        (await alice.ask("DELETE", at("directory", "room", porch))).ok()
        assert (await alice.ask("GET", path)).ok() == {"aliases": [HALL]}


async def test_canonical_aliases_must_lead_to_their_room(tmp_path: Path) -> None:
    """client-server §PUT /rooms/{roomId}/state: those that are new; what stands may have drifted away."""
    async with place(tmp_path) as server:
        alice = await server.client("alice")
        room_id, other = await alice.create(room_alias_name="hall"), await alice.create()
        porch, elsewhere = f"#porch:{SERVER}", f"#elsewhere:{SERVER}"
        for alias, target in ((porch, room_id), (elsewhere, other)):
            (await alice.ask("PUT", at("directory", "room", alias), {"room_id": target})).ok()
        path = at("rooms", room_id, "state", "m.room.canonical_alias")
        for wrong, code in (
            (f"#nowhere:{SERVER}", "M_BAD_ALIAS"),
            (elsewhere, "M_BAD_ALIAS"),
            ("porch", "M_INVALID_PARAM"),
            (7, "M_INVALID_PARAM"),
        ):
            (await alice.ask("PUT", path, {"alias": wrong})).failed(400, code)
            (await alice.ask("PUT", path, {"alias": HALL, "alt_aliases": [porch, wrong]})).failed(400, code)
        (await alice.ask("PUT", path, {"alias": HALL, "alt_aliases": [""]})).failed(400, "M_INVALID_PARAM")
        (await alice.ask("PUT", path, {"alt_aliases": HALL})).failed(400, "M_BAD_JSON")
        many = [f"#{number}:{SERVER}" for number in range(51)]
        (await alice.ask("PUT", path, {"alt_aliases": many})).failed(400, "M_INVALID_PARAM")
        (await alice.ask("PUT", path, {"alt_aliases": many[:50]})).failed(400, "M_BAD_ALIAS")
        await alice.set_state(room_id, "m.room.canonical_alias", {"alias": HALL, "alt_aliases": [porch]})
        # Of an alias that is gone, the event can still be changed; it is new again once it was taken out.
        (await alice.ask("DELETE", at("directory", "room", porch))).ok()
        await alice.set_state(room_id, "m.room.canonical_alias", {"alias": porch, "alt_aliases": [HALL]})
        await alice.set_state(room_id, "m.room.canonical_alias", {"alias": HALL})
        (await alice.ask("PUT", path, {"alias": porch})).failed(400, "M_BAD_ALIAS")
        await alice.set_state(room_id, "m.room.canonical_alias", {"alias": ""})
        # What stands is not held against the grammar either, wherever it came from.
        odd = [{"type": "m.room.canonical_alias", "content": {"alias": "no alias"}}]
        room_id = await alice.create(initial_state=odd)
        await alice.set_state(room_id, "m.room.canonical_alias", {"alt_aliases": ["no alias"]})


async def test_aliases_of_another_server_are_asked_for_there(tmp_path: Path) -> None:
    async with neighbours(tmp_path) as (here, there):
        alice, bob = await here.client("alice"), await there.client("bob")
        room_id = await bob.create(room_alias_name="hall")
        alias = f"#hall:{name_of(2)}"
        found = (await alice.ask("GET", at("directory", "room", alias))).ok()
        assert found == {"room_id": room_id, "servers": [name_of(2)]}
        nowhere = at("directory", "room", f"#cellar:{name_of(2)}")
        (await alice.ask("GET", nowhere)).failed(404, "M_NOT_FOUND")
        assert (await alice.ask("POST", at("join", alias), {})).ok() == {"room_id": room_id}
