"""Simplified sliding sync at its edges: windows with holes, two wishes for one room, who comes and goes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from comity.sync.sliding.wish import MAX_SUBSCRIPTIONS
from tests.api.neighbours import neighbours, settle
from tests.api.support_keys import KIND, claim_key, device_keys_of, give_keys
from tests.api.support_rooms import Place, bodies, by_key, ids, place
from tests.api.support_users import at
from tests.api.test_sliding_sync import everything, slide, try_slide, window


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Place]:
    async with place(tmp_path) as opened:
        yield opened


def listed(*ranges: tuple[int, int], limit: int = 1, required: object = (), **filters: object) -> Any:
    wish = {"timeline_limit": limit, "required_state": list(required)}  # type: ignore[call-overload]
    return {**wish, "ranges": [list(pair) for pair in ranges], "filters": filters}


async def test_a_window_may_have_holes(server: Place) -> None:
    alice = await server.client("alice")
    rooms = [await alice.create(name=str(number)) for number in range(5)][::-1]
    body = {"lists": {"all": listed((0, 0), (2, 3), (4, 9))}}
    answer = await slide(alice, body)
    assert answer["rooms"].keys() == {rooms[0], rooms[2], rooms[3], rooms[4]}
    # What moves up pushes a room into the hole, and another one out of it.
    await alice.say(rooms[4], "up")
    answer = await slide(alice, body, answer["pos"])
    assert answer["rooms"].keys() == {rooms[4], rooms[1]}
    assert answer["rooms"][rooms[1]]["initial"] is True
    assert "initial" not in answer["rooms"][rooms[4]]


async def test_a_room_that_a_filter_lets_through_no_more(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create(name="Plain")
    await bob.join(room_id)
    body = {"lists": {"plain": listed((0, 9), is_encrypted=False)}}
    answer = await slide(bob, body)
    assert answer["rooms"].keys() == {room_id}
    await alice.say(room_id, "seen")
    await alice.set_state(room_id, "m.room.encryption", {"algorithm": "m.megolm.v1.aes-sha2"})
    answer = await slide(bob, body, answer["pos"])
    assert (answer["lists"], answer["rooms"]) == ({"plain": {"count": 0}}, {})
    # It was not left: whoever asks for it by name goes on where the list stopped.
    body["room_subscriptions"] = {room_id: {"timeline_limit": 5, "required_state": []}}
    told = (await slide(bob, body, answer["pos"]))["rooms"][room_id]
    assert "initial" not in told
    assert "seen" in bodies(told["timeline"])


async def test_a_room_in_two_lists_has_what_either_wishes(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create(name="Both", topic="Tea")
    await bob.join(room_id)
    await alice.say_all(room_id, "1", "2", "3")
    small = listed((0, 9), limit=1, required=[["m.room.topic", ""]])
    large = listed((0, 9), limit=3, required=[["m.room.name", ""]])
    body = {"lists": {"small": small, "large": large}}
    answer = await slide(bob, body)
    told = answer["rooms"][room_id]
    assert bodies(told["timeline"]) == ["1", "2", "3"]
    assert by_key(told["required_state"]).keys() == {("m.room.topic", ""), ("m.room.name", "")}
    # What only one of them wishes for is missed when that one goes, and made up for when it is back.
    answer = await slide(bob, {"lists": {"large": large}}, answer["pos"])
    assert answer["rooms"] == {}
    await alice.set_state(room_id, "m.room.topic", {"topic": "Coffee"})
    answer = await slide(bob, {"lists": {"large": large}}, answer["pos"])
    assert answer["rooms"][room_id]["required_state"] == []
    told = (await slide(bob, body, answer["pos"]))["rooms"][room_id]
    assert by_key(told["required_state"])["m.room.topic", ""] == {"topic": "Coffee"}
    assert told["timeline"] == []


@pytest.mark.parametrize(
    ("required", "expected"),
    [
        ([["m.room.member", "*"]], {("m.room.member", "alice"), ("m.room.member", "bob")}),
        ([["m.room.member", "$ME"]], {("m.room.member", "bob")}),
        ([["*", "$ME"]], {("m.room.member", "bob"), ("x.own", "bob")}),
        ([["x.own", "*"], ["m.room.name", ""]], {("x.own", "bob"), ("x.own", "x"), ("m.room.name", "")}),
        ([["x.none", ""], ["x.none", "*"]], set()),
    ],
    ids=["a type", "oneself", "all of oneself", "a type and an entry", "nothing that is there"],
)
async def test_required_state_has_wildcards(
    server: Place, required: list[list[str]], expected: set[tuple[str, str]]
) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create(name="Wild")
    await bob.join(room_id)
    levels = {"users": {bob.user_id: 100}}
    await alice.set_state(room_id, "m.room.power_levels", levels)
    full = {"alice": alice.user_id, "bob": bob.user_id}
    wanted = {(kind, full.get(key, key)) for kind, key in expected}
    body = {"lists": {"all": listed((0, 9), required=required)}}
    await bob.set_state(room_id, "x.own", {"n": 1}, bob.user_id)
    await bob.set_state(room_id, "x.own", {"n": 1}, "x")
    answer = await slide(bob, body)
    assert by_key(answer["rooms"][room_id]["required_state"]).keys() == wanted
    await bob.set_state(room_id, "x.own", {"n": 2}, bob.user_id)
    told = (await slide(bob, body, answer["pos"]))["rooms"][room_id]
    changed = {("x.own", bob.user_id)} & wanted
    assert by_key(told["required_state"]) == {key: {"n": 2} for key in changed}


async def test_whoever_wants_no_timeline_is_told_that_a_room_moved_up(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create(name="Quiet")
    await bob.join(room_id)
    await alice.say(room_id, "one")
    body = {"lists": {"all": listed((0, 9), limit=0, required=[["m.room.name", ""]])}}
    answer = await slide(bob, body)
    told = answer["rooms"][room_id]
    assert (told["timeline"], told["limited"], told["notification_count"]) == ([], True, 1)
    page = await bob.messages(room_id, from_=told["prev_batch"], limit=1)
    assert bodies(page["chunk"]) == ["one"]
    # Also by what does not notify.
    await alice.send(room_id, "m.room.message", {"msgtype": "m.notice", "body": "two"})
    answer = await slide(bob, body, answer["pos"])
    assert answer["rooms"][room_id]["bump_stamp"] > told["bump_stamp"]
    assert answer["rooms"][room_id]["timeline"] == []
    assert (await slide(bob, body, answer["pos"]))["rooms"] == {}


async def test_memberships_that_change_more_than_once_between_two_answers(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create(preset="private_chat", name="Den")
    start = await slide(bob, window())
    await alice.treat(room_id, "invite", bob)
    await bob.join(room_id)
    await bob.leave(room_id)
    # It came and went: there is nothing to show, and nothing to take away.
    answer = await slide(bob, window(), start["pos"])
    assert (answer["rooms"], answer["lists"]["all"]["count"]) == ({}, 0)
    await alice.treat(room_id, "invite", bob)
    await bob.join(room_id)
    answer = await slide(bob, window(), answer["pos"])
    assert answer["rooms"][room_id]["initial"] is True
    await bob.leave(room_id)
    await alice.say(room_id, "meanwhile")
    await alice.treat(room_id, "invite", bob)
    await bob.join(room_id)
    answer = await slide(bob, window(), answer["pos"])
    told = answer["rooms"][room_id]
    assert (told["initial"], told["membership"], told["name"]) == (True, "join", "Den")
    await alice.treat(room_id, "kick", bob)
    await alice.treat(room_id, "invite", bob)
    answer = await slide(bob, window(), answer["pos"])
    told = answer["rooms"][room_id]
    assert (told["membership"], told["timeline"]) == ("invite", [])
    assert ("m.room.name", "") in by_key(told["stripped_state"])
    await bob.leave(room_id)
    told = (await slide(bob, window(), answer["pos"]))["rooms"][room_id]
    assert told["membership"] == "leave"


async def test_invites_of_who_is_ignored_are_in_no_list(server: Place) -> None:
    bob, mallory = await server.clients("bob", "mallory")
    invited = await mallory.create(preset="private_chat", invite=[bob.user_id])
    await bob.account_data("m.ignored_user_list", {"ignored_users": {mallory.user_id: {}}})
    mine = await bob.create()
    answer = await slide(bob, window(0))
    assert (answer["lists"]["all"]["count"], answer["rooms"].keys()) == (1, {mine})
    await bob.account_data("m.ignored_user_list", {"ignored_users": {}})
    answer = await slide(bob, window(1), answer["pos"])
    assert (answer["lists"]["all"]["count"], answer["rooms"].keys()) == (2, {invited})


async def test_an_invite_that_is_not_told_does_not_hide_what_ended_before_it(server: Place) -> None:
    alice, bob, mallory = await server.clients("alice", "bob", "mallory")
    room_id = await alice.create()
    for client in (bob, mallory):
        await client.join(room_id)
    await bob.account_data("m.ignored_user_list", {"ignored_users": {mallory.user_id: {}}})
    first = await slide(bob, window())
    assert first["rooms"][room_id]["membership"] == "join"
    await alice.treat(room_id, "kick", bob)
    await mallory.treat(room_id, "invite", bob)
    answer = await slide(bob, window(), first["pos"])
    told = answer["rooms"][room_id]
    assert told["membership"] == "leave"
    assert [event["sender"] for event in told["timeline"]] == [alice.user_id]
    assert answer["lists"]["all"]["count"] == 0
    assert (await slide(bob, window(), answer["pos"]))["rooms"] == {}


@pytest.mark.parametrize("forgets", [False, True])
async def test_a_ban_takes_a_room_away_once(server: Place, *, forgets: bool) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create()
    await bob.join(room_id)
    first = await slide(bob, window())
    await alice.treat(room_id, "ban", bob)
    if forgets:
        (await bob.ask("POST", at("rooms", room_id, "forget"), {})).ok()
    answer = await slide(bob, window(), first["pos"])
    told = answer["rooms"][room_id]
    assert told["membership"] == "ban"
    assert [event["content"]["membership"] for event in told["timeline"]] == ["ban"]
    # Unless it is forgotten it stays in the list (MSC4186, Lists).
    assert answer["lists"]["all"]["count"] == (0 if forgets else 1)
    assert (await slide(bob, window(), answer["pos"]))["rooms"] == {}
    await alice.treat(room_id, "unban", bob)
    assert (await slide(bob, window(), answer["pos"]))["rooms"] == {}


async def test_connections_of_one_device_know_nothing_of_each_other(server: Place) -> None:
    alice = await server.client("alice")
    room_id = await alice.create()
    one, two = ({**everything(), "conn_id": name} for name in ("one", "two"))
    first = await slide(alice, one)
    said = await alice.say(room_id, "hello")
    second = await slide(alice, two)
    assert said in ids(second["rooms"][room_id]["timeline"])
    first = await slide(alice, one, first["pos"])
    assert ids(first["rooms"][room_id]["timeline"]) == [said]
    for body, pos in ((one, first["pos"]), (two, second["pos"])):
        assert (await slide(alice, body, pos))["rooms"] == {}
    (await alice.ask("POST", "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync", one,
                     pos=second["pos"])).failed(400, "M_UNKNOWN_POS")  # fmt: skip


async def test_nothing_says_that_what_was_asked_for_is_remembered(server: Place) -> None:
    """In MSC3575, whose apps are still about, a `txn_id` that comes back says so: they would leave out
    their extensions and what they want of rooms from then on."""
    alice = await server.client("alice")
    body = {**everything(), "txn_id": "first"}
    answer = await slide(alice, body)
    assert answer.keys() == {"pos", "lists", "rooms", "extensions"}
    assert (await slide(alice, body, answer["pos"])).keys() == answer.keys()


async def test_a_device_that_has_no_one_time_keys_left_is_told_so(server: Place) -> None:
    """What is left out has not changed: unlike in /sync, none is a number."""
    alice, bob = await server.clients("alice", "bob")
    body = {"extensions": {"e2ee": {"enabled": True}}}
    answer = await slide(bob, body)
    # Who never had any keys does not encrypt.
    assert answer["extensions"]["e2ee"]["device_one_time_keys_count"] == {}
    (await bob.ask("POST", "/keys/upload", {"device_keys": await device_keys_of(bob)})).ok()
    await give_keys(bob, "a")
    answer = await slide(bob, body, answer["pos"])
    assert answer["extensions"]["e2ee"]["device_one_time_keys_count"] == {KIND: 1}
    await claim_key(alice, bob)
    answer = await slide(bob, body, answer["pos"])
    assert answer["extensions"]["e2ee"]["device_one_time_keys_count"] == {KIND: 0}
    answer = await slide(bob, body)
    assert answer["extensions"]["e2ee"]["device_one_time_keys_count"] == {KIND: 0}


async def test_who_comes_from_sync_goes_on_with_its_token_of_messages(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")

    async def message(number: int) -> None:
        messages = {"messages": {bob.user_id: {"*": {"n": number}}}}
        (await alice.ask("PUT", at("sendToDevice", "x.hello", str(number)), messages)).ok()

    await message(1)
    answer = await bob.sync()
    assert [event["content"] for event in answer["to_device"]["events"]] == [{"n": 1}]
    await message(2)
    body = everything(to_device={"since": answer["next_batch"]})
    told = (await slide(bob, body))["extensions"]["to_device"]
    assert [event["content"] for event in told["events"]] == [{"n": 2}]
    body = everything(to_device={"since": told["next_batch"]})
    assert (await slide(bob, body))["extensions"]["to_device"]["events"] == []


async def test_what_a_later_draft_calls_otherwise(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    joined = await bob.create()
    invited = await alice.create(preset="private_chat", invite=[bob.user_id])
    await alice.join(joined)
    status = at("presence", bob.user_id, "status")
    body = {"lists": {"all": {"range": [0, 9], "timeline_limit": 0, "filters": {"is_invited": True}}}}
    # Also where a poll says how it is with its user.
    assert (await slide(bob, {**body, "set_presence": "offline"}))["rooms"].keys() == {invited}
    assert (await alice.ask("GET", status)).ok()["presence"] == "offline"
    body["lists"]["all"]["filters"] = {"is_invited": False}
    assert (await slide(bob, {**body, "set_presence": "unavailable"}))["rooms"].keys() == {joined}
    assert (await alice.ask("GET", status)).ok()["presence"] == "unavailable"
    for wrong in ("away", 1, ["online"]):
        (await try_slide(bob, {**body, "set_presence": wrong})).failed(400, "M_INVALID_PARAM")


async def test_an_app_may_name_every_room_that_its_user_looked_at(server: Place) -> None:
    """Apps add to their subscriptions as long as they run, and cannot get by an error that says so."""
    alice = await server.client("alice")
    room_id = await alice.create(name="Here")
    wish = {"timeline_limit": 1, "required_state": [["m.room.name", ""], ["m.room.create", ""]]}
    rooms = {f"!{number}:example.org": wish for number in range(MAX_SUBSCRIPTIONS - 1)}
    # Of one more is wanted, and that alone.
    other = {"timeline_limit": 3, "required_state": [["m.room.create", ""]]}
    told = (await slide(alice, {"room_subscriptions": {**rooms, room_id: other}}))["rooms"][room_id]
    assert by_key(told["required_state"]).keys() == {("m.room.create", "")}
    assert len(told["timeline"]) == 3
    rooms = {f"!{number}:example.org": wish for number in range(MAX_SUBSCRIPTIONS + 1)}
    (await try_slide(alice, {"room_subscriptions": rooms})).failed(400, "M_INVALID_PARAM")


async def test_an_invite_from_elsewhere_is_filtered_by_what_it_shows_of_its_room(tmp_path: Path) -> None:
    async with neighbours(tmp_path) as (here, there):
        bob, alice = await here.client("bob"), await there.client("alice")
        encryption = {"type": "m.room.encryption", "content": {"algorithm": "m.megolm.v1.aes-sha2"}}
        room_id = await alice.create(
            preset="private_chat", name="Far away", initial_state=[encryption], invite=[bob.user_id]
        )
        await settle(here, there)
        for filters, found in (
            ({"room_name_like": "FAR"}, {room_id}),
            ({"room_name_like": "near"}, set[str]()),
            ({"is_encrypted": True, "room_types": [None]}, {room_id}),
            ({"is_encrypted": False}, set[str]()),
            ({"room_types": ["m.space"]}, set[str]()),
        ):
            body = {"lists": {"all": listed((0, 9), **filters)}}
            answer = await slide(bob, body)
            assert (answer["rooms"].keys(), answer["lists"]["all"]["count"]) == (found, len(found))
        # And is found by its sender's word alone: nothing of the room is here.
        told = (await slide(bob, window()))["rooms"][room_id]
        assert by_key(told["invite_state"])["m.room.name", ""] == {"name": "Far away"}
        await bob.leave(room_id)
        # An invite that they turned down themselves is in no list.
        assert (await slide(bob, window()))["rooms"] == {}
