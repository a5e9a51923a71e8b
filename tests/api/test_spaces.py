"""Spaces: trees of rooms here and elsewhere, in pages, and what is shown to whom."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.api.neighbours import ask_as, name_of, neighbours, refusal, settle
from tests.api.support_rooms import Client
from tests.api.support_users import Answer, at

ONE, TWO = name_of(1), name_of(2)
V1 = "/_matrix/client/v1"


async def a_space(owner: Client, name: str, **fields: Any) -> str:
    """A room that is a space."""
    return await owner.create(name=name, creation_content={"type": "m.space"}, **fields)


async def put(owner: Client, space: str, child: str, via: str = ONE, **content: Any) -> None:
    """Put a room into a space."""
    await owner.set_state(space, "m.space.child", {"via": [via], **content}, child)


async def hierarchy(client: Client, space: str, **query: object) -> Answer:
    """GET hierarchy."""
    if "from_" in query:
        query["from"] = query.pop("from_")
    return await client.ask("GET", V1 + at("rooms", space, "hierarchy"), **query)


def names(answer: Any) -> list[str]:
    """The names of the rooms of a page."""
    return [room["name"] for room in answer["rooms"]]


async def a_tree(alice: Client) -> dict[str, str]:
    """root(b(d, e), a(closed), c)."""
    made = {name: await a_space(alice, name) for name in ("root", "b", "a")}
    made |= {name: await alice.create(name=name) for name in ("c", "d", "e")}
    made["closed"] = await alice.create(name="closed", preset="private_chat")
    await put(alice, made["root"], made["a"], order="2")
    await put(alice, made["root"], made["b"], order="1", suggested=True)
    await put(alice, made["root"], made["c"])
    await put(alice, made["b"], made["d"], order="1")
    await put(alice, made["b"], made["e"], order="2", suggested=True)
    await put(alice, made["a"], made["closed"])
    # A ring, a child that was taken out again, and one that leads nowhere.
    await put(alice, made["b"], made["root"])
    await alice.set_state(made["root"], "m.space.child", {}, made["d"])
    await put(alice, made["root"], "!nothing:192.0.2.1:1")
    return made


async def test_a_tree_of_rooms_here(tmp_path: Path) -> None:
    async with neighbours(tmp_path, 1) as (here,):
        alice, amy = await here.clients("alice", "amy")
        made = await a_tree(alice)
        answer = (await hierarchy(alice, made["root"])).ok()
        assert names(answer) == ["root", "b", "d", "e", "a", "closed", "c"]
        assert "next_batch" not in answer
        root, b = answer["rooms"][0], answer["rooms"][1]
        assert root["room_type"] == "m.space"
        assert [child["state_key"] for child in b["children_state"]] == [made["d"], made["e"], made["root"]]
        assert set(b["children_state"][0]) == {"type", "state_key", "content", "sender", "origin_server_ts"}
        assert names((await hierarchy(amy, made["root"])).ok()) == ["root", "b", "d", "e", "a", "c"]
        assert names((await hierarchy(amy, made["root"], max_depth=1)).ok()) == ["root", "b", "a", "c"]
        assert names((await hierarchy(amy, made["root"], max_depth=0)).ok()) == ["root"]
        assert names((await hierarchy(amy, made["root"], suggested_only=True)).ok()) == ["root", "b", "e"]
        (await hierarchy(amy, made["closed"])).failed(403, "M_FORBIDDEN")
        (await hierarchy(amy, "!nothing:192.0.2.1:1")).failed(403, "M_FORBIDDEN")


async def test_pages(tmp_path: Path) -> None:
    async with neighbours(tmp_path, 1) as (here,):
        alice, amy = await here.clients("alice", "amy")
        made = await a_tree(alice)
        first = (await hierarchy(amy, made["root"], limit=3)).ok()
        assert names(first) == ["root", "b", "d"]
        second = (await hierarchy(amy, made["root"], limit=3, from_=first["next_batch"])).ok()
        assert names(second) == ["e", "a", "c"]
        again = (await hierarchy(amy, made["root"], limit=3, from_=first["next_batch"])).ok()
        assert names(again) == names(second)
        rest = second.get("next_batch")
        if rest is not None:
            assert (await hierarchy(amy, made["root"], from_=rest)).ok() == {"rooms": []}
        for client, query in (
            (amy, {"from_": "nothing"}), (alice, {"from_": first["next_batch"]}),
            (amy, {"from_": first["next_batch"], "max_depth": 2}),
            (amy, {"from_": first["next_batch"], "suggested_only": True}),
        ):  # fmt: skip
            (await hierarchy(client, made["root"], **query)).failed(400, "M_INVALID_PARAM")


async def test_a_tree_over_two_servers(tmp_path: Path) -> None:
    async with neighbours(tmp_path) as (here, there):
        alice, (bob, ben) = await here.client("alice"), await there.clients("bob", "ben")
        made = await a_tree(alice)
        theirs = await a_space(bob, "theirs")
        await put(bob, theirs, made["root"])
        hidden = await bob.create(name="hidden", preset="private_chat")
        await put(bob, theirs, hidden, via=TWO)
        expected = ["theirs", "root", "b", "d", "e", "a", "c"]
        assert names((await hierarchy(ben, theirs)).ok()) == expected
        assert names((await hierarchy(bob, theirs)).ok()) == [*expected, "hidden"]
        # What was told is remembered, and what is here goes before it.
        await alice.set_state(made["c"], "m.room.name", {"name": "C"})
        assert names((await hierarchy(ben, theirs)).ok()) == expected
        await bob.join(made["c"], via=ONE)
        assert names((await hierarchy(ben, theirs)).ok())[-1] == "C"
        await there.clock.turn(400)
        await alice.set_state(made["e"], "m.room.name", {"name": "E"})
        assert names((await hierarchy(ben, theirs)).ok()) == ["theirs", "root", "b", "d", "E", "a", "C"]


async def test_what_another_server_is_told(tmp_path: Path) -> None:
    async with neighbours(tmp_path) as (here, there):
        alice, bob = await here.client("alice"), await there.client("bob")
        space = await a_space(alice, "space")
        allow = [{"type": "m.room_membership", "room_id": space}]
        rule = {
            "type": "m.room.join_rules",
            "state_key": "",
            "content": {"join_rule": "restricted", "allow": allow},
        }
        inner = await alice.create(name="inner", preset="private_chat", initial_state=[rule])
        closed = await alice.create(name="closed", preset="private_chat")
        for room_id in (inner, closed, "!elsewhere:192.0.2.1:2"):
            await put(alice, space, room_id)
        path = at("v1", "hierarchy", space)
        answer = await ask_as(there, ONE, "GET", path)
        assert answer["room"]["name"] == "space"
        assert len(answer["room"]["children_state"]) == 3
        assert answer["children"] == []
        assert sorted(answer["inaccessible_children"]) == sorted([inner, closed])
        await bob.join(space, via=ONE)
        await alice.treat(closed, "invite", bob)
        await settle(here, there)
        answer = await ask_as(there, ONE, "GET", path)
        assert {room["name"] for room in answer["children"]} == {"inner", "closed"}
        told = next(room for room in answer["children"] if room["name"] == "inner")
        assert told["allowed_room_ids"] == [space]
        assert (await ask_as(there, ONE, "GET", path, suggested_only="true"))["children"] == []
        unknown = at("v1", "hierarchy", "!nothing")
        assert await refusal(ask_as(there, ONE, "GET", unknown)) == (404, "M_NOT_FOUND")
        await alice.leave(closed)
        await alice.set_state(space, "m.room.server_acl", {"allow": [ONE]})
        assert await refusal(ask_as(there, ONE, "GET", path)) == (404, "M_NOT_FOUND")


async def test_summaries(tmp_path: Path) -> None:
    async with neighbours(tmp_path) as (here, there):
        alice, amy = await here.clients("alice", "amy")
        bob = await there.client("bob")
        room_id = await alice.create(
            name="Shown", room_alias_name="shown", room_version="11",
            initial_state=[{"type": "m.room.encryption", "content": {"algorithm": "m.megolm.v1.aes-sha2"}}],
        )  # fmt: skip
        closed = await alice.create(preset="private_chat", room_version="11")

        async def summary(client: Client, room: str, **query: object) -> Answer:
            return await client.ask("GET", V1 + at("room_summary", room), **query)

        expected = {
            "room_id": room_id, "name": "Shown", "canonical_alias": f"#shown:{ONE}", "join_rule": "public",
            "num_joined_members": 1, "world_readable": False, "guest_can_join": False, "room_version": "11",
            "encryption": "m.megolm.v1.aes-sha2",
        }  # fmt: skip
        assert (await summary(alice, room_id)).ok() == {**expected, "membership": "join"}
        assert (await summary(amy, room_id)).ok() == expected
        assert (await summary(bob, f"#shown:{ONE}")).ok() == expected
        for client in (amy, bob):
            (await summary(client, closed, via=ONE)).failed(404, "M_NOT_FOUND")
        (await summary(bob, "nothing")).failed(400, "M_INVALID_PARAM")
        (await summary(bob, f"#no:{ONE}")).failed(404, "M_NOT_FOUND")
        (await summary(bob, f"!no:{ONE}", via=ONE)).failed(404, "M_NOT_FOUND")


async def test_a_summary_tells_the_membership(tmp_path: Path) -> None:
    async with neighbours(tmp_path, 1) as (here,):
        alice, amy = await here.clients("alice", "amy")
        club = await alice.create()
        allow = [{"type": "m.room_membership", "room_id": club}]
        rule = {"join_rule": "knock_restricted", "allow": allow}
        room_id = await alice.create(
            room_version="12", initial_state=[{"type": "m.room.join_rules", "content": rule}]
        )

        async def summary() -> Any:
            return (await amy.ask("GET", V1 + at("room_summary", room_id))).ok()

        found = await summary()
        assert "membership" not in found
        assert (found["join_rule"], found["allowed_room_ids"]) == ("knock_restricted", [club])
        (await amy.ask("POST", at("knock", room_id), {})).ok()
        assert (await summary())["membership"] == "knock"
        await alice.treat(room_id, "invite", amy)
        assert (await summary())["membership"] == "invite"
        await amy.leave(room_id)
        assert (await summary())["membership"] == "leave"
        await alice.treat(room_id, "ban", amy)
        (await amy.ask("GET", V1 + at("room_summary", room_id))).failed(404, "M_NOT_FOUND")


async def test_who_is_invited_or_has_left_need_name_no_server(tmp_path: Path) -> None:
    """A room id of version 12 names none, but whose server invited, and who was in the room, is known."""
    async with neighbours(tmp_path) as (here, there):
        alice, bob = await here.client("alice"), await there.client("bob")
        space = await a_space(alice, "Closed", preset="private_chat")
        room_id = await alice.create(name="Open")
        await alice.treat(space, "invite", bob)
        await bob.join(room_id, via=ONE)
        await bob.leave(room_id)
        await settle(here, there)
        for wanted, name, membership in ((space, "Closed", "invite"), (room_id, "Open", "leave")):
            assert names((await hierarchy(bob, wanted)).ok()) == [name]
            seen = (await bob.ask("GET", "/_matrix/client/v1" + at("room_summary", wanted))).ok()
            assert (seen["name"], seen["membership"]) == (name, membership)


async def test_rules_that_the_version_does_not_know_open_nothing(tmp_path: Path) -> None:
    """GET hierarchy: "in a room version that supports those settings"."""
    async with neighbours(tmp_path) as (here, there):
        alice, amy = await here.clients("alice", "amy")
        bob = await there.client("bob")
        club = await alice.create()
        await amy.join(club)
        await bob.join(club, via=ONE)
        await settle(here, there)
        allow = [{"type": "m.room_membership", "room_id": club}]
        for rule, version, is_shown in (
            ("knock", "6", False), ("knock", "7", True),
            ("restricted", "7", False), ("restricted", "8", True),
            ("knock_restricted", "9", False), ("knock_restricted", "10", True),
        ):  # fmt: skip
            rules = {"type": "m.room.join_rules", "content": {"join_rule": rule, "allow": allow}}
            room_id = await alice.create(preset="private_chat", room_version=version, initial_state=[rules])
            for client in (amy, bob):
                answer = await client.ask("GET", V1 + at("room_summary", room_id), via=ONE)
                assert (answer.status == 200) == is_shown, (rule, version)
