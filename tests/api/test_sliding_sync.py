"""Simplified sliding sync (MSC4186): lists, windows, required state, increments, extensions, connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from comity.sync.sliding.connections import MAX_OF_DEVICE
from tests.api.support_keys import KIND, claim_key, give_keys
from tests.api.support_rooms import (
    Client,
    Place,
    bodies,
    by_key,
    ids,
    place,
    until_waiting,
    with_a_hole,
)
from tests.api.support_users import Answer, at

PATH = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
NAMES = [["m.room.name", ""], ["m.room.topic", ""]]


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Place]:
    async with place(tmp_path) as opened:
        yield opened


async def try_slide(client: Client, body: object, pos: str | None = None, timeout: int = 0) -> Answer:
    query: dict[str, object] = {"timeout": timeout}
    if pos is not None:
        query["pos"] = pos
    return await client.ask("POST", PATH, body, **query)


async def slide(client: Client, body: object, pos: str | None = None, timeout: int = 0) -> Any:
    return (await try_slide(client, body, pos, timeout)).ok()


def window(last: int = 9, limit: int = 5, required: object = NAMES, filters: object = None) -> dict[str, Any]:
    listed = {"ranges": [[0, last]], "timeline_limit": limit, "required_state": required}
    return {"lists": {"all": {**listed, "filters": filters or {}}}}


def everything(**more: Any) -> dict[str, Any]:
    names = ("to_device", "e2ee", "account_data", "receipts", "typing")
    return {**window(), "extensions": {name: {"enabled": True, **more.get(name, {})} for name in names}}


async def test_the_window_holds_the_rooms_with_the_newest_messages(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    rooms = [await alice.create(name=f"room {number}") for number in range(4)]
    for room_id in rooms:
        await bob.join(room_id)
    await alice.say(rooms[1], "newest but one")
    await alice.say(rooms[0], "newest")
    answer = await slide(bob, window(1))
    assert answer["lists"] == {"all": {"count": 4}}
    assert set(answer["rooms"]) == {rooms[0], rooms[1]}
    told = answer["rooms"][rooms[0]]
    assert (told["initial"], told["name"], told["joined_count"], told["is_dm"]) == (True, "room 0", 2, False)
    assert bodies(told["timeline"]) == ["newest"]
    assert told["limited"] is True
    assert told["notification_count"] == 1
    assert by_key(told["required_state"]) == {("m.room.name", ""): {"name": "room 0"}}
    assert told["bump_stamp"] > answer["rooms"][rooms[1]]["bump_stamp"]
    # What happens in a room outside brings it in.
    await alice.say(rooms[3], "hello")
    answer = await slide(bob, window(1), answer["pos"])
    assert set(answer["rooms"]) == {rooms[3]}
    assert answer["rooms"][rooms[3]]["initial"] is True


async def test_increments_hold_what_is_new_alone(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create(name="first")
    await bob.join(room_id)
    answer = await slide(bob, window())
    nothing = await slide(bob, window(), answer["pos"])
    assert nothing["rooms"] == {}
    said = await alice.say(room_id, "hello")
    answer = await slide(bob, window(), nothing["pos"])
    told = answer["rooms"][room_id]
    assert ids(told["timeline"]) == [said]
    assert (told["limited"], told["num_live"], told["required_state"]) == (False, 1, [])
    assert "initial" not in told
    assert "name" not in told
    await alice.set_state(room_id, "m.room.name", {"name": "second"})
    await alice.set_state(room_id, "m.room.avatar", {"url": "mxc://example.org/a"})
    await alice.set_state(room_id, "x.other", {"not": "wanted"})
    told = (await slide(bob, window(), answer["pos"]))["rooms"][room_id]
    assert by_key(told["required_state"]) == {("m.room.name", ""): {"name": "second"}}
    assert (told["name"], told["avatar"]) == ("second", "mxc://example.org/a")
    assert len(told["timeline"]) == 3


async def test_an_event_is_told_alike_in_the_timeline_and_as_state(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create(name="first")
    await bob.join(room_id)
    required = [["*", "*"]]
    answer = await slide(bob, window(required=required))
    await alice.set_state(room_id, "m.room.name", {"name": "second"})
    told = (await slide(bob, window(required=required), answer["pos"]))["rooms"][room_id]
    assert told["required_state"] == told["timeline"]
    assert told["timeline"][0]["unsigned"]["prev_content"] == {"name": "first"}


async def test_a_lost_answer_is_given_again(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create()
    await bob.join(room_id)
    first = await slide(bob, window())
    said = await alice.say(room_id, "hello")
    lost = await slide(bob, window(), first["pos"])
    again = await slide(bob, window(), first["pos"])
    assert ids(lost["rooms"][room_id]["timeline"]) == ids(again["rooms"][room_id]["timeline"]) == [said]
    # One that was lost cannot be gone on from once others took its place.
    third = await slide(bob, window(), first["pos"])
    (await try_slide(bob, window(), lost["pos"])).failed(400, "M_UNKNOWN_POS")
    after = await slide(bob, window(), again["pos"])
    assert after["rooms"] == {}
    for pos in (first["pos"], third["pos"]):
        (await try_slide(bob, window(), pos)).failed(400, "M_UNKNOWN_POS")


@pytest.mark.parametrize("taken", [0, 1])
async def test_a_request_that_was_given_up_does_not_end_the_one_in_its_place(
    server: Place, taken: int
) -> None:
    """Something in between may still wait for the answer to a request that a client has repeated."""
    alice = await server.client("alice")
    room_id = await alice.create()
    first = await slide(alice, window())
    requests = [asyncio.create_task(slide(alice, window(), first["pos"], 30_000)) for _ in range(2)]
    await until_waiting()
    said = await alice.say(room_id, "hello")
    answers = await asyncio.wait_for(asyncio.gather(*requests), 10)
    assert [ids(answer["rooms"][room_id]["timeline"]) for answer in answers] == [[said], [said]]
    assert (await slide(alice, window(), answers[taken]["pos"]))["rooms"] == {}


async def test_rooms_out_of_sight_are_caught_up_with(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    near, far = [await alice.create(name=name) for name in ("near", "far")]
    for room_id in (far, near):
        await bob.join(room_id)
    both = await slide(bob, window(1, limit=2))
    await alice.say_all(far, "1", "2", "3")
    await alice.set_state(far, "m.room.topic", {"topic": "changed"})
    await alice.say(near, "x")
    one = await slide(bob, window(0, limit=2), both["pos"])
    assert set(one["rooms"]) == {near}
    told = (await slide(bob, window(1, limit=2), one["pos"]))["rooms"][far]
    assert "initial" not in told
    assert (told["limited"], bodies(told["timeline"])) == (True, ["3"])
    assert by_key(told["required_state"]) == {("m.room.topic", ""): {"topic": "changed"}}
    page = await bob.messages(far, from_=told["prev_batch"], limit=2)
    assert bodies(page["chunk"]) == ["2", "1"]


async def test_more_can_be_wanted_of_a_room_later(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create(name="name", topic="topic")
    await bob.join(room_id)
    await alice.say_all(room_id, "1", "2", "3")
    small = await slide(bob, window(limit=1, required=[["m.room.name", ""]]))
    assert bodies(small["rooms"][room_id]["timeline"]) == ["3"]
    large = await slide(bob, window(limit=3), small["pos"])
    told = large["rooms"][room_id]
    assert bodies(told["timeline"]) == ["1", "2", "3"]
    assert (told["unstable_expanded_timeline"], told["limited"]) == (True, True)
    # Even when there is no more of it: it begins before what the client has.
    whole = (await slide(bob, window(limit=50), large["pos"]))["rooms"][room_id]
    assert whole["timeline"][0]["type"] == "m.room.create"
    assert whole["limited"] is True
    assert ("m.room.topic", "") in by_key(told["required_state"])
    assert (await slide(bob, window(limit=1), large["pos"]))["rooms"] == {}


async def test_receipts_come_with_the_events_that_they_are_on(server: Place) -> None:
    alice, bob, carol = await server.clients("alice", "bob", "carol")
    room_id = await alice.create()
    for one in (bob, carol):
        await one.join(room_id)
    said = [await alice.say(room_id, text) for text in ("1", "2", "3", "4")]
    await alice.receipt(room_id, said[1])
    extensions = {"extensions": {"receipts": {"enabled": True}}}
    small = await slide(bob, {**window(limit=1), **extensions})
    assert small["extensions"]["receipts"]["rooms"] == {}
    # One on an event that is shown later, and one that is new, on an event that never is.
    await carol.receipt(room_id, said[0])
    large = await slide(bob, {**window(limit=3), **extensions}, small["pos"])
    content = large["extensions"]["receipts"]["rooms"][room_id]["content"]
    assert {event_id: set(kinds["m.read"]) for event_id, kinds in content.items()} == {
        said[0]: {carol.user_id}, said[1]: {alice.user_id}
    }  # fmt: skip
    again = await slide(bob, {**window(limit=3), **extensions}, large["pos"])
    assert again["extensions"]["receipts"]["rooms"] == {}


async def test_a_room_can_be_asked_for_by_name(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id, secret = await alice.create(name="name"), await alice.create(preset="private_chat")
    await bob.join(room_id)
    wish = {"required_state": [["*", "*"]], "timeline_limit": 3}
    body = {"room_subscriptions": {room_id: wish, secret: wish, "!nowhere:example.org": wish}}
    answer = await slide(bob, body)
    assert set(answer["rooms"]) == {room_id}
    assert ("m.room.create", "") in by_key(answer["rooms"][room_id]["required_state"])
    said = await alice.say(room_id, "hello")
    answer = await slide(bob, body, answer["pos"])
    assert ids(answer["rooms"][room_id]["timeline"]) == [said]


async def test_members_are_loaded_lazily(server: Place) -> None:
    alice, bob, carol, dave = await server.clients("alice", "bob", "carol", "dave")
    room_id = await alice.create(name="crowd")
    for client in (bob, carol, dave):
        await client.join(room_id)
    await carol.say(room_id, "from carol")
    wish = window(limit=1, required=[["m.room.member", "$LAZY"], ["m.room.member", "$ME"]])

    def members(answer: Any) -> set[str]:
        return {event["state_key"] for event in answer["rooms"][room_id]["required_state"]}

    answer = await slide(bob, wish)
    assert members(answer) == {bob.user_id, carol.user_id}
    await carol.say(room_id, "again")
    answer = await slide(bob, wish, answer["pos"])
    assert members(answer) == set()
    await dave.say(room_id, "from dave")
    answer = await slide(bob, wish, answer["pos"])
    assert members(answer) == {dave.user_id}
    # Whose name was told is told when it changes; nobody else's.
    for client in (carol, alice):
        (await client.ask("PUT", at("profile", client.user_id, "displayname"), {"displayname": "X"})).ok()
    answer = await slide(bob, wish, answer["pos"])
    assert members(answer) == {carol.user_id, alice.user_id} - ({alice.user_id} - senders(answer, room_id))
    # Whoever comes or is invited is told of: the timeline, which says so too, is no state.
    (erin,) = await server.clients("erin")
    await alice.treat(room_id, "invite", erin)
    answer = await slide(bob, wish, answer["pos"])
    assert members(answer) == {erin.user_id}


def senders(answer: Any, room_id: str) -> set[str]:
    return {event["sender"] for event in answer["rooms"][room_id]["timeline"]}


async def test_all_state_but_of_members_those_who_matter(server: Place) -> None:
    alice, bob, carol = await server.clients("alice", "bob", "carol")
    room_id = await alice.create(topic="topic")
    for client in (bob, carol):
        await client.join(room_id)
    await alice.say(room_id, "hello")

    def told(answer: Any) -> set[tuple[str, str]]:
        return set(by_key(answer["rooms"][room_id]["required_state"]))

    lazily = window(limit=1, required=[["*", "*"], ["m.room.member", "$LAZY"]])
    state = told(await slide(bob, lazily))
    assert {("m.room.topic", ""), ("m.room.create", ""), ("m.room.member", alice.user_id)} <= state
    assert ("m.room.member", carol.user_id) not in state
    # Another list that wants all members gets them.
    both = {"lists": {**lazily["lists"], "other": window(required=[["*", "*"]])["lists"]["all"]}}
    assert ("m.room.member", carol.user_id) in told(await slide(bob, both))
    answer = await slide(bob, lazily)
    await carol.leave(room_id)
    await alice.say(room_id, "again")
    assert ("m.room.member", carol.user_id) not in told(await slide(bob, lazily, answer["pos"]))


async def test_a_room_without_a_name_has_heroes(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    (await alice.ask("PUT", at("profile", alice.user_id, "displayname"), {"displayname": "Alice"})).ok()
    room_id = await alice.create()
    await bob.join(room_id)
    told = (await slide(bob, window()))["rooms"][room_id]
    assert "name" not in told
    assert told["heroes"] == [{"user_id": alice.user_id, "displayname": "Alice"}]


async def test_lists_are_filtered(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    encryption = {"type": "m.room.encryption", "content": {"algorithm": "m.megolm.v1.aes-sha2"}}
    plain = await alice.create(name="Plain Room")
    secret = await alice.create(name="Secret", initial_state=[encryption])
    space = await alice.create(name="Space", creation_content={"type": "m.space"})
    await alice.set_state(space, "m.space.child", {"via": ["example.org"]}, secret)
    for room_id in (plain, secret, space):
        await bob.join(room_id)
    invited = await alice.create(preset="private_chat", invite=[bob.user_id], name="Invited")
    await bob.account_data("m.direct", {alice.user_id: [plain]})
    await bob.account_data("m.tag", {"tags": {"m.favourite": {}}}, secret)

    async def found(**filters: object) -> set[str]:
        answer = await slide(bob, window(filters=filters))
        assert answer["lists"]["all"]["count"] == len(answer["rooms"])
        return set(answer["rooms"])

    assert await found() == {plain, secret, space, invited}
    assert await found(is_invite=True) == {invited}
    assert await found(is_invite=False) == {plain, secret, space}
    assert await found(is_dm=True) == {plain}
    assert await found(is_encrypted=True) == {secret}
    assert await found(is_encrypted=False, is_invite=False) == {plain, space}
    assert await found(room_types=["m.space"]) == {space}
    assert await found(room_types=[None], is_invite=False) == {plain, secret}
    assert await found(not_room_types=["m.space"], is_invite=False) == {plain, secret}
    assert await found(spaces=[space]) == {secret}
    assert await found(tags=["m.favourite"]) == {secret}
    assert await found(not_tags=["m.favourite"], is_invite=False) == {plain, space}
    assert await found(room_name_like="plain") == {plain}
    # A filter's answer follows what it asks about.
    await bob.account_data("m.tag", {"tags": {}}, secret)
    assert await found(tags=["m.favourite"]) == set()
    await alice.set_state(plain, "m.room.encryption", encryption["content"])  # type: ignore[arg-type]
    assert await found(is_encrypted=True) == {plain, secret}


async def test_invites_and_leaving_are_told(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    start = await slide(bob, window())
    room_id = await alice.create(preset="private_chat", invite=[bob.user_id], name="Private")
    answer = await slide(bob, window(), start["pos"])
    told = answer["rooms"][room_id]
    assert told["membership"] == "invite"
    names = {event["type"]: event["content"] for event in told["invite_state"]}
    assert names["m.room.name"] == {"name": "Private"}
    assert (told["timeline"], told["required_state"]) == ([], [])
    assert (await slide(bob, window(), answer["pos"]))["rooms"] == {}
    answer = await slide(bob, window(), answer["pos"])
    await bob.join(room_id)
    await alice.say(room_id, "welcome")
    answer = await slide(bob, window(), answer["pos"])
    assert (answer["rooms"][room_id]["initial"], answer["rooms"][room_id]["membership"]) == (True, "join")
    await alice.say(room_id, "a last word")
    await alice.set_state(room_id, "m.room.topic", {"topic": "wanted"})
    await alice.set_state(room_id, "x.other", {"not": "wanted"})
    await alice.treat(room_id, "kick", bob)
    await alice.say(room_id, "behind his back")
    answer = await slide(bob, window(), answer["pos"])
    told = answer["rooms"][room_id]
    assert told["membership"] == "leave"
    assert bodies(told["timeline"]) == ["a last word"]
    assert told["timeline"][-1]["content"]["membership"] == "leave"
    # State comes from here alone, so here stands that they left.
    topic, own = told["required_state"]
    assert (topic["content"], own) == ({"topic": "wanted"}, told["timeline"][-1])
    # It stays in the list until it is forgotten (MSC4186, Lists), and is told once.
    assert answer["lists"]["all"]["count"] == 1
    assert (await slide(bob, window(), answer["pos"]))["rooms"] == {}


async def test_an_invite_that_was_turned_down_is_told(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create(preset="private_chat", invite=[bob.user_id])
    answer = await slide(bob, window())
    since = await bob.token_now()
    await bob.leave(room_id)
    told = (await slide(bob, window(), answer["pos"]))["rooms"][room_id]
    assert told["membership"] == "leave"
    assert by_key(told["required_state"])[("m.room.member", bob.user_id)]["membership"] == "leave"
    # So it is where /sync tells state after the timeline.
    left = (await bob.sync(since, use_state_after=True))["rooms"]["leave"][room_id]
    assert left["state_after"]["events"] == left["timeline"]["events"] == told["required_state"]


async def test_it_waits_for_what_happens(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create()
    await bob.join(room_id)
    answer = await slide(bob, window())
    waiting = asyncio.create_task(slide(bob, window(), answer["pos"], 30_000))
    await until_waiting()
    assert not waiting.done()
    said = await alice.say(room_id, "hello")
    assert ids((await waiting)["rooms"][room_id]["timeline"]) == [said]
    assert (await slide(bob, window(), (await slide(bob, window()))["pos"], 20))["rooms"] == {}


async def test_who_was_logged_out_while_they_waited_is_told_nothing(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create()
    await bob.join(room_id)
    answer, since = await slide(bob, window()), await bob.token_now()
    slides = asyncio.create_task(try_slide(bob, window(), answer["pos"], 30_000))
    syncs = asyncio.create_task(bob.ask("GET", "/sync", since=since, timeout=30_000))
    await until_waiting()
    (await bob.ask("POST", "/logout")).ok()
    await alice.say(room_id, "not for who has gone")
    for waiting in (slides, syncs):
        (await waiting).failed(401, "M_UNKNOWN_TOKEN")


async def test_the_extensions(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create()
    await bob.join(room_id)
    said = await alice.say(room_id, "hello")
    await alice.receipt(room_id, said)
    await bob.account_data("x.global", {"a": 1})
    await bob.account_data("x.room", {"b": 2}, room_id)
    (
        await alice.ask(
            "PUT", at("sendToDevice", "x.hello", "1"), {"messages": {bob.user_id: {"*": {"c": 3}}}}
        )
    ).ok()
    typing = at("rooms", room_id, "typing", alice.user_id)
    (await alice.ask("PUT", typing, {"typing": True, "timeout": 30000})).ok()
    answer = await slide(bob, everything())
    told = answer["extensions"]
    assert {event["type"] for event in told["account_data"]["global"]} == {"x.global", "m.push_rules"}
    assert told["account_data"]["rooms"] == {room_id: [{"type": "x.room", "content": {"b": 2}}]}
    assert told["receipts"]["rooms"][room_id]["content"][said]["m.read"].keys() == {alice.user_id}
    assert told["typing"]["rooms"][room_id]["content"] == {"user_ids": [alice.user_id]}
    assert [event["content"] for event in told["to_device"]["events"]] == [{"c": 3}]
    assert told["e2ee"]["device_one_time_keys_count"] == {}
    # Once told, all of that is told no more; a message is, until its token comes back.
    answer = await slide(bob, everything(), answer["pos"])
    again = answer["extensions"]
    assert again["account_data"] == {"global": [], "rooms": {}}
    assert (again["receipts"], again["typing"]) == ({"rooms": {}}, {"rooms": {}})
    assert [event["content"] for event in again["to_device"]["events"]] == [{"c": 3}]
    since = {"to_device": {"since": again["to_device"]["next_batch"]}}
    answer = await slide(bob, everything(**since), answer["pos"])
    assert answer["extensions"]["to_device"]["events"] == []
    # Each kind of news comes by itself.
    await bob.account_data("x.room", {"b": 3}, room_id)
    await alice.receipt(room_id, await alice.say(room_id, "more"))
    (await alice.ask("PUT", typing, {"typing": False})).ok()
    told = (await slide(bob, everything(**since), answer["pos"]))["extensions"]
    assert told["account_data"]["rooms"] == {room_id: [{"type": "x.room", "content": {"b": 3}}]}
    assert len(told["receipts"]["rooms"][room_id]["content"]) == 1
    assert told["typing"]["rooms"][room_id]["content"] == {"user_ids": []}


async def test_devices_news_wake_who_waits(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create()
    await bob.join(room_id)
    answer = await slide(bob, everything())
    since = {"to_device": {"since": answer["extensions"]["to_device"]["next_batch"]}}
    waiting = asyncio.create_task(slide(bob, everything(**since), answer["pos"], 30_000))
    await until_waiting()
    (
        await alice.ask(
            "PUT", at("sendToDevice", "x.hello", "1"), {"messages": {bob.user_id: {"*": {"c": 3}}}}
        )
    ).ok()
    told = (await waiting)["extensions"]["to_device"]
    assert [event["sender"] for event in told["events"]] == [alice.user_id]


async def test_typing_is_told_of_rooms_that_come_into_sight(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    near, far = await alice.create(), await alice.create()
    for room_id in (far, near):
        await bob.join(room_id)

    async def types(room_id: str, *, typing: bool) -> None:
        path = at("rooms", room_id, "typing", alice.user_id)
        (await alice.ask("PUT", path, {"typing": typing, "timeout": 30_000})).ok()

    def body(last: int) -> dict[str, Any]:
        return {**window(last), "extensions": {"typing": {"enabled": True}}}

    async def told(last: int, pos: str | None) -> tuple[dict[str, list[str]], str]:
        answer = await slide(bob, body(last), pos)
        rooms = answer["extensions"]["typing"]["rooms"].items()
        return {room_id: event["content"]["user_ids"] for room_id, event in rooms}, answer["pos"]

    await types(far, typing=True)
    found, pos = await told(0, None)
    assert found == {}
    await types(near, typing=True)
    found, pos = await told(0, pos)
    assert found == {near: [alice.user_id]}
    found, pos = await told(1, pos)
    assert found == {far: [alice.user_id]}
    # What ends out of sight has ended when the room is seen again.
    await types(far, typing=False)
    await types(near, typing=False)
    found, pos = await told(0, pos)
    assert found == {near: []}
    found, pos = await told(1, pos)
    assert found == {far: []}
    assert (await told(1, pos))[0] == {}


async def test_a_token_of_messages_that_was_lost_acknowledges_nothing(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    message = {"messages": {bob.user_id: {"*": {"c": 3}}}}
    (await alice.ask("PUT", at("sendToDevice", "x.hello", "1"), message)).ok()
    for _ in range(2):
        # The database was restored from an older copy: its own tokens are smaller.
        told = (await slide(bob, everything(to_device={"since": "9999999"})))["extensions"]["to_device"]
        assert [event["content"] for event in told["events"]] == [{"c": 3}]
    told = (await slide(bob, everything(to_device={"since": told["next_batch"]})))["extensions"]["to_device"]
    assert told["events"] == []


async def test_who_runs_out_of_keys_is_told_at_once(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    await give_keys(bob, "a", "b", "c")
    body = {"extensions": {"e2ee": {"enabled": True}}}
    answer = await slide(bob, body)
    assert keys_left(answer) == ({KIND: 3}, [KIND])
    waiting = asyncio.create_task(slide(bob, body, answer["pos"], 30_000))
    await until_waiting()
    assert not waiting.done()
    await claim_key(alice, bob)
    answer = await asyncio.wait_for(waiting, 10)
    assert keys_left(answer) == ({KIND: 2}, [KIND])
    await claim_key(alice, bob)
    answer = await asyncio.wait_for(slide(bob, body, answer["pos"], 30_000), 10)
    assert keys_left(answer) == ({KIND: 1}, [KIND])


def keys_left(answer: Any) -> tuple[dict[str, int], list[str]]:
    told = answer["extensions"]["e2ee"]
    return told["device_one_time_keys_count"], told["device_unused_fallback_key_types"]


async def test_extensions_are_for_the_rooms_that_they_name(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    one, two = await alice.create(), await alice.create()
    for room_id in (one, two):
        await bob.join(room_id)
        await bob.account_data("x.room", {}, room_id)
    body = window()
    body["extensions"] = {"account_data": {"enabled": True, "lists": [], "rooms": [one]}}
    body["room_subscriptions"] = {one: {"timeline_limit": 1, "required_state": []}}
    answer = await slide(bob, body)
    assert set(answer["extensions"]["account_data"]["rooms"]) == {one}
    body["extensions"]["account_data"] = {"enabled": True}
    answer = await slide(bob, body, answer["pos"])
    assert set(answer["extensions"]["account_data"]["rooms"]) == {two}


async def test_connections_are_bounded_and_end_with_the_server(tmp_path: Path) -> None:
    async with place(tmp_path) as server:
        alice = await server.client("alice")
        first = await slide(alice, {"conn_id": "0"})
        for number in range(1, MAX_OF_DEVICE + 1):
            await slide(alice, {"conn_id": str(number)})
        (await try_slide(alice, {"conn_id": "0"}, first["pos"])).failed(400, "M_UNKNOWN_POS")
        last = await slide(alice, {"conn_id": "x"})
        # One of the same name begins anew.
        await slide(alice, {"conn_id": "x"})
        (await try_slide(alice, {"conn_id": "x"}, last["pos"])).failed(400, "M_UNKNOWN_POS")
        last = await slide(alice, {"conn_id": "x"})
    async with place(tmp_path) as server:
        alice = server.again(alice)
        (await try_slide(alice, {"conn_id": "x"}, last["pos"])).failed(400, "M_UNKNOWN_POS")


WRONG: list[dict[str, Any]] = [
    {"lists": []},
    {"lists": {"a": {"ranges": [[1]]}}},
    {"lists": {"a": {"ranges": [[2, 1]]}}},
    {"lists": {"a": {"ranges": [[-1, 1]]}}},
    {"lists": {"a": {"timeline_limit": "x"}}},
    {"lists": {"a": {"required_state": [["m.room.name"]]}}},
    {"lists": {"a": {"required_state": [[1, 2]]}}},
    {"lists": {"a": {"filters": {"is_dm": "yes"}}}},
    {"room_subscriptions": {"!a": []}},
    {"extensions": {"typing": 1}},
    {"conn_id": 1},
]


@pytest.mark.parametrize("body", WRONG, ids=str)
async def test_what_is_no_request(server: Place, body: dict[str, Any]) -> None:
    alice = await server.client("alice")
    (await try_slide(alice, body)).failed(400, "M_BAD_JSON")


async def test_too_much_of_anything(server: Place) -> None:
    alice = await server.client("alice")
    wrong: list[dict[str, Any]] = [
        {"lists": {str(number): {} for number in range(101)}},
        {"lists": {"a": {"required_state": [["a", str(number)] for number in range(301)]}}},
        {"lists": {"a": {"filters": {"tags": [str(number) for number in range(101)]}}}},
        {"extensions": {"to_device": {"enabled": True, "since": "x"}}},
    ]
    for body in wrong:
        (await try_slide(alice, body)).failed(400, "M_INVALID_PARAM")


async def test_a_hole_is_told_of_with_where_to_page_from(server: Place) -> None:
    alice = await server.client("alice")
    room_id = await alice.create()
    answer = await slide(alice, window())
    await with_a_hole(server, alice, room_id)
    told = (await slide(alice, window(), answer["pos"]))["rooms"][room_id]
    assert (told["timeline"], told["limited"]) == ([], True)
    assert told["prev_batch"]
