"""What sliding sync tells of a room beside its events: names, direct chats, knocks; rooms that come back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.support_keys import device_keys_of
from tests.api.support_rooms import Place, bodies, by_key, place
from tests.api.support_users import at
from tests.api.test_sliding_edges import listed
from tests.api.test_sliding_sync import everything, slide, window


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Place]:
    async with place(tmp_path) as opened:
        yield opened


async def test_a_name_and_a_picture_that_are_gone_are_null(server: Place) -> None:
    """What is left out is as it was: a room whose name was removed must not keep it in anybody's list."""
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create(name="Old name")
    await alice.set_state(room_id, "m.room.avatar", {"url": "mxc://example.org/a"})
    await bob.join(room_id)
    # Whether or not they want the state itself.
    body = {"lists": {"all": listed((0, 9), limit=1)}}
    answer = await slide(bob, body)
    assert answer["rooms"][room_id]["name"] == "Old name"
    await alice.set_state(room_id, "m.room.name", {})
    answer = await slide(bob, body, answer["pos"])
    told = answer["rooms"][room_id]
    assert (told["name"], told["avatar"]) == (None, "mxc://example.org/a")
    assert told["heroes"] == [{"user_id": alice.user_id}]
    await alice.set_state(room_id, "m.room.avatar", {})
    answer = await slide(bob, body, answer["pos"])
    told = answer["rooms"][room_id]
    assert told["avatar"] is None
    assert "name" not in told
    # Who begins anew is told nothing of what is not there.
    anew = await slide(bob, {**body, "conn_id": "other"})
    assert not {"name", "avatar"} & anew["rooms"][room_id].keys()
    await alice.set_state(room_id, "m.room.name", {"name": "New name"})
    told = (await slide(bob, body, answer["pos"]))["rooms"][room_id]
    assert told["name"] == "New name"


async def test_a_room_that_becomes_a_direct_chat(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id, far = await alice.create(), await alice.create()
    for joined in (far, room_id):
        await bob.join(joined)
    body = {"lists": {"all": listed((0, 1), limit=1)}}
    narrow = {"lists": {"all": listed((0, 0), limit=1)}}
    answer = await slide(bob, body)
    assert answer["rooms"][room_id]["is_dm"] is False
    await bob.account_data("m.direct", {alice.user_id: [room_id, far]})
    answer = await slide(bob, narrow, answer["pos"])
    told = answer["rooms"]
    assert told.keys() == {room_id}
    assert (told[room_id]["is_dm"], told[room_id]["timeline"]) == (True, [])
    assert (await slide(bob, narrow, answer["pos"]))["rooms"] == {}
    # The other was out of sight when it changed.
    answer = await slide(bob, body, answer["pos"])
    assert {room: part["is_dm"] for room, part in answer["rooms"].items()} == {far: True}
    await alice.say(room_id, "hello")
    await bob.account_data("m.direct", {alice.user_id: [room_id]})
    answer = await slide(bob, body, answer["pos"])
    assert answer["rooms"][far]["is_dm"] is False
    assert "is_dm" not in answer["rooms"][room_id]


async def test_a_knock_is_where_apps_look_for_it(server: Place) -> None:
    """They take a room without `invite_state` for one that they are in."""
    alice, bob = await server.clients("alice", "bob")
    rules = {"type": "m.room.join_rules", "content": {"join_rule": "knock"}}
    room_id = await alice.create(preset="private_chat", name="Door", initial_state=[rules])
    (await bob.ask("POST", at("knock", room_id), {})).ok()
    told = (await slide(bob, window()))["rooms"][room_id]
    assert told["invite_state"] == told["stripped_state"]
    own = by_key(told["invite_state"])["m.room.member", bob.user_id]
    assert (told["membership"], own["membership"]) == ("knock", "knock")


async def test_what_is_kept_of_a_room_is_told_anew_with_it(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create(name="Den")
    await bob.join(room_id)
    tags: dict[str, Any] = {"tags": {"u.work": {}}}
    await bob.account_data("m.tag", tags, room_id)
    said = await alice.say(room_id, "hello")
    await alice.receipt(room_id, said)
    body = everything()
    first = await slide(bob, body)
    await bob.leave(room_id)
    gone = await slide(bob, body, first["pos"])
    await bob.join(room_id)

    def is_whole(answer: Any) -> None:
        assert answer["rooms"][room_id]["initial"] is True
        told = answer["extensions"]
        assert told["account_data"]["rooms"] == {room_id: [{"type": "m.tag", "content": tags}]}
        assert told["receipts"]["rooms"][room_id]["content"].keys() == {said}

    is_whole(await slide(bob, body, gone["pos"]))


async def test_what_is_kept_of_a_room_is_told_anew_also_to_who_missed_the_leaving(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create(name="Den")
    await bob.join(room_id)
    await bob.account_data("x.note", {"a": 1}, room_id)
    first = await slide(bob, everything())
    await bob.leave(room_id)
    await bob.join(room_id)
    answer = await slide(bob, everything(), first["pos"])
    assert answer["rooms"][room_id]["initial"] is True
    told = answer["extensions"]["account_data"]["rooms"]
    assert told == {room_id: [{"type": "x.note", "content": {"a": 1}}]}
    again = await slide(bob, everything(), answer["pos"])
    assert again["extensions"]["account_data"]["rooms"] == {}


async def test_a_new_name_of_ones_own_lifts_no_room(server: Place) -> None:
    """It is told to every room at once: all would be lifted, and in another order than before."""
    alice, bob = await server.clients("alice", "bob")
    rooms = [await alice.create(name=str(number)) for number in range(3)]
    for room_id in rooms:
        await bob.join(room_id)
    # One has had no activity since they came.
    for room_id in (rooms[2], rooms[0]):
        await alice.say(room_id, "hello")
    body = {"lists": {"all": listed((0, 9), limit=1)}}
    first = await slide(bob, body)
    stamps = {room_id: part["bump_stamp"] for room_id, part in first["rooms"].items()}
    assert sorted(rooms, key=stamps.__getitem__) == [rooms[1], rooms[2], rooms[0]]
    (await bob.ask("PUT", at("profile", bob.user_id, "displayname"), {"displayname": "Robert"})).ok()
    answer = await slide(bob, body, first["pos"])
    assert {room_id: part["bump_stamp"] for room_id, part in answer["rooms"].items()} == stamps
    assert (await slide(bob, {"lists": {"all": listed((0, 0), limit=1)}}))["rooms"].keys() == {rooms[0]}
    # To come anew does, though nothing else happened.
    await bob.leave(rooms[1])
    await bob.join(rooms[1])
    answer = await slide(bob, {"lists": {"all": listed((0, 0), limit=1)}})
    assert answer["rooms"].keys() == {rooms[1]}
    assert answer["rooms"][rooms[1]]["bump_stamp"] > max(stamps.values())


async def test_who_begins_anew_is_told_what_they_were_removed_from(server: Place) -> None:
    """After a restart of the server everybody begins anew, with the rooms that they knew before."""
    alice, bob = await server.clients("alice", "bob")
    names = ("kicked", "banned", "left", "both", "never")
    kicked, banned, left, both, never = [await alice.create(name=name) for name in names]
    for room_id in (kicked, banned, left, both):
        await bob.join(room_id)
        await alice.say_all(room_id, "one", "two")
    await alice.treat(never, "ban", bob)
    invited = await alice.create(preset="private_chat", invite=[bob.user_id])
    await alice.treat(invited, "kick", bob)
    await bob.leave(left)
    for how, room_id in (("kick", kicked), ("ban", banned), ("kick", both), ("ban", both)):
        await alice.treat(room_id, how, bob)
    await alice.say(kicked, "behind his back")
    await alice.set_state(kicked, "m.room.name", {"name": "renamed"})
    body = {"lists": {"all": listed((0, 9), limit=2, required=[["m.room.name", ""]])}}
    answer = await slide(bob, body)
    # Of what they left themselves, and where they never were, there is nothing to know.
    assert answer["rooms"].keys() == {kicked, banned, both}
    assert answer["lists"]["all"]["count"] == 3
    memberships = {room_id: part["membership"] for room_id, part in answer["rooms"].items()}
    assert memberships == {kicked: "leave", banned: "ban", both: "ban"}
    told = answer["rooms"][kicked]
    assert (told["initial"], told["num_live"], told["limited"]) == (True, 0, True)
    assert [event["content"].get("body") for event in told["timeline"]] == ["two", None]
    state = by_key(told["required_state"])
    assert state["m.room.name", ""] == {"name": "kicked"}
    assert state["m.room.member", bob.user_id]["membership"] == "leave"
    assert (await slide(bob, body, answer["pos"]))["rooms"] == {}
    # What came of it since they were removed is no affair of theirs.
    for name, found in (("kicked", {kicked}), ("renamed", set())):
        wish = listed((0, 9), room_name_like=name)
        assert (await slide(bob, {"conn_id": "x", "lists": {"all": wish}}))["rooms"].keys() == found
    single = {"room_subscriptions": {kicked: {"timeline_limit": 1, "required_state": []}}}
    assert (await slide(bob, {**single, "conn_id": "x"}))["rooms"] == {}


async def test_a_room_that_somebody_was_removed_from_and_comes_back_to(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create(name="Den")
    await bob.join(room_id)
    body = {"lists": {"all": listed((0, 9), limit=5)}}
    first = await slide(bob, body)
    await alice.treat(room_id, "kick", bob)
    answer = await slide(bob, body, first["pos"])
    assert (answer["rooms"][room_id]["membership"], answer["lists"]["all"]["count"]) == ("leave", 1)
    assert (await slide(bob, body, answer["pos"]))["rooms"] == {}
    # A ban after that is another end, which is told.
    await alice.treat(room_id, "ban", bob)
    answer = await slide(bob, body, answer["pos"])
    assert answer["rooms"][room_id]["membership"] == "ban"
    await alice.treat(room_id, "unban", bob)
    answer = await slide(bob, body, answer["pos"])
    assert (answer["rooms"], answer["lists"]["all"]["count"]) == ({}, 0)
    await bob.join(room_id)
    answer = await slide(bob, body, answer["pos"])
    told = answer["rooms"][room_id]
    assert (told["membership"], told["initial"], told["name"]) == ("join", True, "Den")
    await alice.treat(room_id, "kick", bob)
    answer = await slide(bob, body, answer["pos"])
    (await bob.ask("POST", at("rooms", room_id, "forget"), {})).ok()
    answer = await slide(bob, body, answer["pos"])
    assert (answer["rooms"], answer["lists"]["all"]["count"]) == ({}, 0)
    assert (await slide(bob, body))["rooms"] == {}


async def test_an_extension_that_was_left_out_for_a_while_misses_nothing(server: Place) -> None:
    """Also one that is asked for after a first answer, which an app wants soon."""
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create(name="Den")
    await bob.join(room_id)
    await bob.account_data("x.note", {"n": 1})
    await bob.account_data("x.note", {"n": 1}, room_id)
    # What is small is told at once.
    answer = await slide(bob, window())
    answer = await slide(bob, everything(), answer["pos"])

    def notes(answer: Any) -> tuple[list[Any], list[Any]]:
        told = answer["extensions"]["account_data"]
        listed = (told["global"], told["rooms"].get(room_id, []))
        whole, inside = ([one["content"] for one in events if one["type"] == "x.note"] for events in listed)
        return whole, inside

    assert notes(answer) == ([{"n": 1}], [{"n": 1}])
    assert notes(await slide(bob, everything(), answer["pos"])) == ([], [])
    answer = await slide(bob, everything(), answer["pos"])
    # Nothing of this is asked for meanwhile.
    await bob.account_data("x.note", {"n": 2})
    await bob.account_data("x.note", {"n": 2}, room_id)
    said = await alice.say(room_id, "hello")
    await alice.receipt(room_id, said)
    keys = {"device_keys": await device_keys_of(alice)}
    (await alice.ask("POST", "/keys/upload", keys)).ok()
    answer = await slide(bob, window(), answer["pos"])
    assert answer["extensions"] == {}
    answer = await slide(bob, window(), answer["pos"])
    answer = await slide(bob, everything(), answer["pos"])
    assert notes(answer) == ([{"n": 2}], [{"n": 2}])
    told = answer["extensions"]
    assert told["e2ee"]["device_lists"]["changed"] == [alice.user_id]
    assert told["receipts"]["rooms"][room_id]["content"].keys() == {said}
    again = (await slide(bob, everything(), answer["pos"]))["extensions"]
    assert (again["receipts"]["rooms"], "device_lists" in again["e2ee"]) == ({}, False)


async def test_receipts_on_what_was_shown_before_a_room_went_out_of_sight(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    near, far = await alice.create(name="near"), await alice.create(name="far")
    for room_id in (near, far):
        await bob.join(room_id)
    said = await alice.say(far, "hello")
    receipts = {"receipts": {"enabled": True}}
    wide = {"lists": {"all": listed((0, 1), limit=1)}, "extensions": receipts}
    narrow = {"lists": {"all": listed((0, 0), limit=1)}, "extensions": receipts}
    answer = await slide(bob, wide)
    assert answer["extensions"]["receipts"]["rooms"] == {}
    await alice.say(near, "up")
    await alice.receipt(far, said)
    answer = await slide(bob, narrow, answer["pos"])
    assert answer["extensions"]["receipts"]["rooms"] == {}
    answer = await slide(bob, wide, answer["pos"])
    # Nothing else happened there.
    assert answer["rooms"] == {}
    told = answer["extensions"]["receipts"]["rooms"]
    assert told.keys() == {far}
    assert told[far]["content"][said]["m.read"].keys() == {alice.user_id}
    assert (await slide(bob, wide, answer["pos"]))["extensions"]["receipts"]["rooms"] == {}


async def test_receipts_of_a_room_that_is_in_sight_before_they_are_wanted(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create(name="Den")
    await bob.join(room_id)
    said = await alice.say(room_id, "hello")
    await alice.receipt(room_id, said)
    receipts: dict[str, Any] = {"enabled": True, "lists": [], "rooms": ["*"]}
    body = {"lists": {"all": listed((0, 1), limit=1)}, "extensions": {"receipts": receipts}}
    answer = await slide(bob, body)
    assert answer["extensions"]["receipts"]["rooms"] == {}
    subscribed = {**body, "room_subscriptions": {room_id: {"timeline_limit": 1, "required_state": []}}}
    answer = await slide(bob, subscribed, answer["pos"])
    assert answer["rooms"] == {}
    assert answer["extensions"]["receipts"]["rooms"][room_id]["content"].keys() == {said}


async def test_a_position_is_a_place_in_timelines(server: Place) -> None:
    """MSC4186: it can be given to /messages and /relations."""
    alice = await server.client("alice")
    room_id = await alice.create(name="Den")
    root = await alice.say(room_id, "one")
    relation = {"m.relates_to": {"rel_type": "m.thread", "event_id": root}}
    text = {"msgtype": "m.text", "body": "below", **relation}
    below = await alice.send(room_id, "m.room.message", text)
    pos = (await slide(alice, window()))["pos"]
    await alice.say(room_id, "two")
    await alice.send(room_id, "m.room.message", {**text, "body": "above"})
    assert bodies((await alice.messages(room_id, from_=pos, limit=2))["chunk"]) == ["below", "one"]
    assert bodies((await alice.messages(room_id, "f", from_=pos))["chunk"]) == ["two", "above"]
    path = "/_matrix/client/v1" + at("rooms", room_id, "relations", root)
    found = (await alice.ask("GET", path, **{"from": pos})).ok()["chunk"]
    assert [event["event_id"] for event in found] == [below]
    for wrong in (pos + "/1", pos.replace("/", "_"), "1/2/" + "9" * 12, "1/2/"):
        answer = await alice.try_messages(room_id, from_=wrong)
        answer.failed(400, "M_INVALID_PARAM")


async def test_an_extension_may_name_a_room_that_is_in_a_list_alone(server: Place) -> None:
    alice = await server.client("alice")
    one, two, three = [await alice.create(name=name) for name in ("one", "two", "three")]
    for room_id in (one, two, three):
        await alice.account_data("x.note", {}, room_id)
    subscription = {"timeline_limit": 0, "required_state": []}

    async def found(**scope: list[str]) -> set[str]:
        body = {
            "lists": {"newest": listed((0, 1), limit=0)},
            "room_subscriptions": {one: subscription},
            "extensions": {"account_data": {"enabled": True, **scope}},
        }
        return set((await slide(alice, body))["extensions"]["account_data"]["rooms"])

    assert await found() == {one, two, three}
    assert await found(lists=[], rooms=[]) == set()
    assert await found(lists=[], rooms=[two]) == {two}
    assert await found(lists=[], rooms=["*"]) == {one}
    assert await found(lists=[], rooms=["*", two]) == {one, two}
    assert await found(lists=["newest"], rooms=[]) == {two, three}
    assert await found(lists=["*"], rooms=[]) == {two, three}
    assert await found(lists=["none"], rooms=[one, "!nowhere:example.org"]) == {one}
    assert await found(lists=["newest"]) == {one, two, three}
    assert await found(rooms=[]) == {two, three}
