"""The published directory: what is in it, in which order, for whom; and other servers'."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.api.neighbours import ask_as, name_of, neighbours, refusal
from tests.api.support_rooms import Client, ask
from tests.api.support_users import at

ONE, TWO = name_of(1), name_of(2)
PUBLISHING = "publish_rooms = true\n[rooms]\npublish_without_account = true\n"


def names(answer: Any) -> list[str]:
    """The names of the rooms of a page."""
    return [room.get("name", "") for room in answer["chunk"]]


async def some_rooms(alice: Client, others: list[Client]) -> dict[str, str]:
    """Published rooms of sizes that differ; their ids by name."""
    made = {}
    for index, name in enumerate(("small", "middle", "large")):
        made[name] = await alice.create(name=name, topic=f"About {name}", visibility="public")
        for client in others[:index]:
            await client.join(made[name])
    made["secret"] = await alice.create(name="secret")
    return made


async def test_pages_there_and_back(tmp_path: Path) -> None:
    async with neighbours(tmp_path, 1) as (here,):
        alice, *others = await here.clients("alice", "amy", "ann")
        rooms = await some_rooms(alice, others)
        answer = (await alice.ask("GET", "/publicRooms")).ok()
        assert names(answer) == ["large", "middle", "small"]
        assert answer["total_room_count_estimate"] == 3
        assert answer["chunk"][0] == {
            "room_id": rooms["large"], "name": "large", "topic": "About large", "join_rule": "public",
            "num_joined_members": 3, "world_readable": False, "guest_can_join": False,
        }  # fmt: skip
        first = (await alice.ask("GET", "/publicRooms", limit=2)).ok()
        assert names(first) == ["large", "middle"]
        assert "prev_batch" not in first
        second = (await alice.ask("GET", "/publicRooms", limit=2, since=first["next_batch"])).ok()
        assert names(second) == ["small"]
        assert "next_batch" not in second
        back = (await alice.ask("GET", "/publicRooms", limit=1, since=second["prev_batch"])).ok()
        assert names(back) == ["middle"]
        assert names((await alice.ask("GET", "/publicRooms", since=back["next_batch"])).ok()) == ["small"]


async def test_filters(tmp_path: Path) -> None:
    async with neighbours(tmp_path, 1) as (here,):
        alice = await here.client("alice")
        await some_rooms(alice, [])
        await alice.create(name="A space", visibility="public", creation_content={"type": "m.space"})

        async def found(**wanted: object) -> list[str]:
            return sorted(names((await alice.ask("POST", "/publicRooms", {"filter": wanted})).ok()))

        assert await found(generic_search_term="ABOUT s") == ["small"]
        assert await found(room_types=["m.space"]) == ["A space"]
        assert await found(room_types=[None], generic_search_term="l") == ["large", "middle", "small"]
        assert await found(room_types=[]) == []
        for body in (
            {"filter": 3}, {"filter": {"room_types": "m.space"}}, {"filter": {"generic_search_term": 1}},
            {"limit": "2"}, {"limit": -1}, {"since": "!"}, {"since": 4}, {"limit": True},
            {"include_all_networks": "true"}, {"third_party_instance_id": 4},
            {"include_all_networks": True, "third_party_instance_id": "irc"},
        ):  # fmt: skip
            (await alice.ask("POST", "/publicRooms", body)).failed(400, "M_INVALID_PARAM")


async def test_join_rules_that_are_none(tmp_path: Path) -> None:
    """One room cannot break the directory for all, and a rule that is no text lets nobody look in."""
    async with neighbours(tmp_path, 1) as (here,):
        alice, bob = await here.clients("alice", "bob")
        wrong: tuple[object, ...] = ([], {}, 5, None)
        for index, rule in enumerate(wrong):
            rules = {"type": "m.room.join_rules", "content": {"join_rule": rule}}
            room_id = await alice.create(name=str(index), visibility="public", initial_state=[rules])
            for path in (at("room_summary", room_id), at("rooms", room_id, "hierarchy")):
                seen = (await alice.ask("GET", "/_matrix/client/v1" + path)).ok()
                assert (seen["rooms"][0] if "rooms" in seen else seen)["join_rule"] == "invite"
                assert (await bob.ask("GET", "/_matrix/client/v1" + path)).status in (403, 404)
        listed = (await bob.ask("GET", "/publicRooms")).ok()["chunk"]
        assert sorted(room["name"] for room in listed) == ["0", "1", "2", "3"]
        assert {room["join_rule"] for room in listed} == {"invite"}


async def test_settings_that_say_nothing_are_left_out(tmp_path: Path) -> None:
    """An alias that is none in one room must not make the whole list unreadable for apps."""
    async with neighbours(tmp_path, 1) as (here,):
        alice = await here.client("alice")
        for wrong in ("", "nonsense"):
            state = (
                ("m.room.canonical_alias", {"alias": wrong}), ("m.room.avatar", {"url": wrong}),
                ("m.room.name", {"name": ""}), ("m.room.topic", {"topic": ""}),
            )  # fmt: skip
            given = [{"type": event_type, "content": content} for event_type, content in state]
            await alice.create(visibility="public", initial_state=given)
        for room in (await alice.ask("GET", "/publicRooms")).ok()["chunk"]:
            assert not {"canonical_alias", "avatar_url", "name", "topic"} & set(room)


async def test_networks(tmp_path: Path) -> None:
    """Here there are none but Matrix; another server is asked for the same."""
    async with neighbours(tmp_path, 2, p1=PUBLISHING) as (here, there):
        alice, bob = await here.client("alice"), await there.client("bob")
        await alice.create(name="Ours", visibility="public")
        for client, query in ((alice, {}), (bob, {"server": ONE})):
            for asked, found in (
                ({"include_all_networks": True}, ["Ours"]),
                ({"include_all_networks": False}, ["Ours"]),
                ({"third_party_instance_id": "irc"}, []),
                ({"third_party_instance_id": "irc", "include_all_networks": False}, []),
                ({"third_party_instance_id": None}, ["Ours"]),
            ):
                answer = (await client.ask("POST", "/publicRooms", asked, **query)).ok()
                assert names(answer) == found
                assert answer["total_room_count_estimate"] == len(found)
        # Of the two ways in which another server may ask, the one without a body.
        for name, value, found in (
            ("include_all_networks", "true", ["Ours"]),
            ("third_party_instance_id", "irc", []),
            ("third_party_instance_id", "", ["Ours"]),
        ):
            assert names(await ask_as(there, ONE, "GET", "/v1/publicRooms", None, **{name: value})) == found


async def test_who_decides_what_is_published(tmp_path: Path) -> None:
    async with neighbours(tmp_path, 1) as (here,):
        alice, amy = await here.clients("alice", "amy")
        room_id = await alice.create(name="Ours")
        await amy.join(room_id)
        path = at("directory", "list", "room", room_id)
        assert (await alice.ask("GET", path)).ok() == {"visibility": "private"}
        (await amy.ask("PUT", path, {"visibility": "public"})).failed(403, "M_FORBIDDEN")
        (await alice.ask("PUT", path, {"visibility": "loud"})).failed(400, "M_BAD_JSON")
        (await alice.ask("PUT", path, {})).ok()
        assert (await amy.ask("GET", path)).ok() == {"visibility": "public"}
        assert names((await amy.ask("GET", "/publicRooms")).ok()) == ["Ours"]
        (await alice.ask("PUT", path, {"visibility": "private"})).ok()
        assert names((await amy.ask("GET", "/publicRooms")).ok()) == []
        nowhere = at("directory", "list", "room", "!nothing:example.org")
        (await alice.ask("GET", nowhere)).failed(404, "M_NOT_FOUND")
        (await alice.ask("PUT", nowhere, {})).failed(404, "M_NOT_FOUND")


async def test_without_an_account(tmp_path: Path) -> None:
    async with neighbours(tmp_path, 2, p2=PUBLISHING) as (here, there):
        path = "/_matrix/client/v3/publicRooms"
        (await ask(here.app, "GET", path, None, {}, None)).failed(401, "M_MISSING_TOKEN")
        assert names((await ask(there.app, "GET", path, None, {}, None)).ok()) == []
        (await ask(there.app, "GET", path, None, {"server": ONE}, None)).failed(401, "M_MISSING_TOKEN")


async def test_the_directory_of_another_server(tmp_path: Path) -> None:
    async with neighbours(tmp_path, 2, p1=PUBLISHING) as (here, there):
        alice, *others = await here.clients("alice", "amy", "ann")
        bob = await there.client("bob")
        await some_rooms(alice, others)
        await alice.create(name="local", visibility="public", creation_content={"m.federate": False})
        first = (await bob.ask("GET", "/publicRooms", server=ONE, limit=2)).ok()
        assert names(first) == ["large", "middle"]
        second = (await bob.ask("GET", "/publicRooms", server=ONE, since=first["next_batch"])).ok()
        assert names(second) == ["small"]
        body = {"filter": {"generic_search_term": "large"}, "limit": 5}
        assert names((await bob.ask("POST", "/publicRooms", body, server=ONE)).ok()) == ["large"]
        body = {"filter": {"generic_search_term": "l"}, "limit": 2, "since": first["next_batch"]}
        assert names((await bob.ask("POST", "/publicRooms", body, server=ONE)).ok()) == ["small"]
        (await alice.ask("GET", "/publicRooms", server=TWO)).failed(403, "M_FORBIDDEN")
        (await alice.ask("GET", "/publicRooms", server="no name!")).failed(400, "M_INVALID_PARAM")
        (await alice.ask("GET", "/publicRooms", server="192.0.2.1:9")).failed(502, "M_UNKNOWN")
        assert await refusal(ask_as(there, ONE, "GET", "/v1/publicRooms", limit="x")) == (
            400,
            "M_INVALID_PARAM",
        )
        assert await refusal(ask_as(there, ONE, "POST", "/v1/publicRooms", {"since": []})) == (
            400,
            "M_INVALID_PARAM",
        )
        assert await refusal(ask_as(here, TWO, "GET", "/v1/publicRooms")) == (403, "M_FORBIDDEN")
