"""/sync: members, invites, leaving, what users keep for themselves, what they have not read."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.support_rooms import Client, Place, bodies, by_key, ids, place
from tests.api.support_users import at

LAZY = {"room": {"state": {"lazy_load_members": True}, "timeline": {"limit": 5}}}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Place]:
    async with place(tmp_path) as opened:
        yield opened


def members(part: Any, name: str = "state") -> list[str]:
    """Whose membership events a room's part has in its state."""
    return sorted(event["state_key"] for event in part[name]["events"] if event["type"] == "m.room.member")


async def a_crowd(server: Place) -> tuple[str, Client, Client, Client]:
    """A room with a name (so without heroes), in which much was said since anybody joined."""
    alice, bob, carol = await server.clients("alice", "bob", "carol")
    room_id = await alice.create(name="Crowd")
    await bob.join(room_id)
    await carol.join(room_id)
    await alice.say_all(room_id, *"123456")
    return room_id, alice, bob, carol


# -- members


async def test_lazy_loading_gives_senders_and_oneself(server: Place) -> None:
    room_id, alice, bob, carol = await a_crowd(server)
    part = (await bob.sync(wanted=LAZY))["rooms"]["join"][room_id]
    assert members(part) == sorted([alice.user_id, bob.user_id])
    assert ("m.room.name", "") in by_key(part["state"]["events"])
    everybody = (await bob.sync(wanted={"room": {"timeline": {"limit": 1}}}))["rooms"]["join"][room_id]
    assert members(everybody) == sorted([alice.user_id, bob.user_id, carol.user_id])


async def test_members_are_loaded_once(server: Place) -> None:
    room_id, alice, bob, carol = await a_crowd(server)
    since = (await bob.sync(wanted=LAZY))["next_batch"]
    await alice.say(room_id, "again")
    await carol.say(room_id, "for the first time")
    first = await bob.sync(since, LAZY)
    assert members(first["rooms"]["join"][room_id]) == [carol.user_id]
    # The answer may have been lost: whoever asks the same again is told the same again.
    assert members((await bob.sync(since, LAZY))["rooms"]["join"][room_id]) == [carol.user_id]
    await carol.say(room_id, "for the second time")
    part = (await bob.sync(first["next_batch"], LAZY))["rooms"]["join"][room_id]
    assert members(part) == []
    redundant = {"room": {"state": {"lazy_load_members": True, "include_redundant_members": True}}}
    part = (await bob.sync(first["next_batch"], redundant))["rooms"]["join"][room_id]
    assert members(part) == [carol.user_id]


async def test_members_who_change_in_a_gap_are_told(server: Place) -> None:
    room_id, alice, bob, carol = await a_crowd(server)
    since = (await bob.sync(wanted=LAZY))["next_batch"]
    await carol.leave(room_id)
    await alice.say_all(room_id, *"abcdefg")
    part = (await bob.sync(since, LAZY))["rooms"]["join"][room_id]
    assert part["timeline"]["limited"]
    assert members(part) == [carol.user_id]
    assert part["summary"] == {"m.joined_member_count": 2, "m.invited_member_count": 0}


async def test_state_after_loads_senders_too(server: Place) -> None:
    room_id, alice, bob, carol = await a_crowd(server)
    answer = await bob.sync(wanted=LAZY, use_state_after=True)
    assert members(answer["rooms"]["join"][room_id], "state_after") == sorted([alice.user_id, bob.user_id])
    await carol.say(room_id, "hello")
    part = (await bob.sync(answer["next_batch"], LAZY, use_state_after=True))["rooms"]["join"][room_id]
    assert members(part, "state_after") == [carol.user_id]


async def test_heroes_stand_in_for_a_name(server: Place) -> None:
    alice, bob, carol = await server.clients("alice", "bob", "carol")
    room_id = await alice.create(preset="private_chat")
    part = (await alice.sync())["rooms"]["join"][room_id]
    assert part["summary"] == {"m.joined_member_count": 1, "m.invited_member_count": 0, "m.heroes": []}
    since = await alice.token_now()
    await alice.treat(room_id, "invite", bob)
    await alice.treat(room_id, "invite", carol)
    await bob.join(room_id)
    answer = await alice.sync(since, LAZY)
    summary = answer["rooms"]["join"][room_id]["summary"]
    assert summary["m.joined_member_count"] == 2
    assert summary["m.invited_member_count"] == 1
    assert sorted(summary["m.heroes"]) == [bob.user_id, carol.user_id]
    await alice.treat(room_id, "kick", carol)
    await bob.leave(room_id)
    summary = (await alice.sync(answer["next_batch"]))["rooms"]["join"][room_id]["summary"]
    assert sorted(summary["m.heroes"]) == [bob.user_id, carol.user_id]
    assert summary["m.joined_member_count"] == 1
    since = await alice.token_now()
    await alice.set_state(room_id, "m.room.name", {"name": "Named"})
    assert "m.heroes" not in (await alice.sync(since))["rooms"]["join"][room_id]["summary"]
    initial = (await alice.sync(wanted=LAZY))["rooms"]["join"][room_id]
    assert "m.heroes" not in initial["summary"]
    # What no client can show is no name.
    await alice.set_state(room_id, "m.room.name", {"name": ["Named"]})
    initial = (await alice.sync(wanted=LAZY))["rooms"]["join"][room_id]
    assert sorted(initial["summary"]["m.heroes"]) == [bob.user_id, carol.user_id]


# -- coming and going


async def test_an_invite_shows_the_room_from_outside(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create(preset="private_chat", name="Den")
    await alice.say(room_id, "bob must not read this")
    since = await bob.token_now()
    await alice.treat(room_id, "invite", bob)
    answer = await bob.sync(since)
    assert answer["rooms"]["join"] == {}
    events = answer["rooms"]["invite"][room_id]["invite_state"]["events"]
    assert all(event.keys() == {"type", "state_key", "sender", "content"} for event in events)
    shown = by_key(events)
    assert shown["m.room.name", ""] == {"name": "Den"}
    assert shown["m.room.member", bob.user_id]["membership"] == "invite"
    assert ("m.room.create", "") in shown
    assert room_id in (await bob.sync())["rooms"]["invite"]
    assert (await bob.sync(answer["next_batch"]))["rooms"]["invite"] == {}


async def test_joining_tells_the_whole_room(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create(name="Kitchen")
    await alice.account_data("org.example.order", {"n": 1})
    await alice.say_all(room_id, *"abcdefghijkl")
    since = await bob.token_now()
    await bob.join(room_id)
    part = (await bob.sync(since))["rooms"]["join"][room_id]
    assert part["timeline"]["limited"]
    assert part["timeline"]["events"][-1]["state_key"] == bob.user_id
    assert by_key(part["state"]["events"])["m.room.name", ""] == {"name": "Kitchen"}
    assert part["summary"]["m.joined_member_count"] == 2


async def test_leaving_and_coming_back(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create(name="Kitchen")
    await bob.join(room_id)
    since = await bob.token_now()
    await alice.say(room_id, "stay")
    await bob.leave(room_id)
    await alice.say(room_id, "gone")
    await alice.set_state(room_id, "m.room.topic", {"topic": "Bob"})
    answer = await bob.sync(since)
    assert answer["rooms"]["join"] == {}
    left = answer["rooms"]["leave"][room_id]
    assert [event["type"] for event in left["timeline"]["events"]] == ["m.room.message", "m.room.member"]
    assert left["state"]["events"] == []
    assert (await bob.sync(answer["next_batch"]))["rooms"]["leave"] == {}
    assert room_id not in (await bob.sync())["rooms"]["leave"]
    archived = (await bob.sync(wanted={"room": {"include_leave": True}}))["rooms"]["leave"][room_id]
    assert archived["timeline"]["events"][-1]["content"]["membership"] == "leave"
    assert "gone" not in bodies(archived["timeline"]["events"])
    state = {**by_key(archived["state"]["events"]), **_state_of(archived["timeline"]["events"])}
    assert ("m.room.topic", "") not in state
    await bob.join(room_id)
    back = (await bob.sync(answer["next_batch"]))["rooms"]["join"][room_id]
    told = {**by_key(back["state"]["events"]), **_state_of(back["timeline"]["events"])}
    assert told["m.room.topic", ""] == {"topic": "Bob"}
    assert told["m.room.name", ""] == {"name": "Kitchen"}


def _state_of(events: list[Any]) -> dict[tuple[str, str], Any]:
    return dict(by_key([event for event in events if "state_key" in event]))


async def test_leaving_and_rejoining_between_two_syncs_starts_anew(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create(name="Kitchen")
    await bob.join(room_id)
    since = await bob.token_now()
    await bob.leave(room_id)
    await alice.say(room_id, "meanwhile")
    await bob.join(room_id)
    part = (await bob.sync(since))["rooms"]["join"][room_id]
    told = {**by_key(part["state"]["events"]), **_state_of(part["timeline"]["events"])}
    assert told["m.room.name", ""] == {"name": "Kitchen"}
    assert "meanwhile" in bodies(part["timeline"]["events"])


async def test_a_new_display_name_is_no_new_stay(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create()
    await bob.join(room_id)
    await alice.say(room_id, "unread")
    since = await bob.token_now()
    (await bob.ask("PUT", at("profile", bob.user_id, "displayname"), {"displayname": "Bobby"})).ok()
    part = (await bob.sync(since))["rooms"]["join"][room_id]
    assert [event["content"].get("displayname") for event in part["timeline"]["events"]] == ["Bobby"]
    assert part["state"]["events"] == []
    assert part["unread_notifications"]["notification_count"] == 1


@pytest.mark.parametrize("how", ["kick", "ban"])
async def test_being_kicked_or_banned_shows_who_did_it(server: Place, how: str) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create()
    await bob.join(room_id)
    since = await bob.token_now()
    await alice.treat(room_id, how, bob)
    await alice.say(room_id, "gone")
    part = (await bob.sync(since))["rooms"]["leave"][room_id]
    (event,) = part["timeline"]["events"]
    assert event["sender"] == alice.user_id
    assert event["content"]["membership"] == ("leave" if how == "kick" else "ban")


async def test_a_ban_after_leaving_is_told_without_the_room(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create()
    await bob.join(room_id)
    await bob.leave(room_id)
    since = await bob.token_now()
    await alice.set_state(room_id, "m.room.topic", {"topic": "secret"})
    await alice.treat(room_id, "ban", bob)
    part = (await bob.sync(since))["rooms"]["leave"][room_id]
    assert [event["content"]["membership"] for event in part["timeline"]["events"]] == ["ban"]
    assert part["state"]["events"] == []


async def test_an_invite_turned_down_leaves_the_list(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create(preset="private_chat")
    await alice.treat(room_id, "invite", bob)
    since = await bob.token_now()
    await bob.leave(room_id)
    answer = await bob.sync(since)
    assert answer["rooms"]["invite"] == {}
    (event,) = answer["rooms"]["leave"][room_id]["timeline"]["events"]
    assert event["content"]["membership"] == "leave"
    assert (await bob.sync(wanted={"room": {"include_leave": True}}))["rooms"]["leave"] == {}


async def test_a_forgotten_room_is_not_told_of(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create()
    await bob.join(room_id)
    await bob.leave(room_id)
    archive = {"room": {"include_leave": True}}
    assert room_id in (await bob.sync(wanted=archive))["rooms"]["leave"]
    (await bob.ask("POST", at("rooms", room_id, "forget"), {})).ok()
    assert room_id not in (await bob.sync(wanted=archive))["rooms"]["leave"]
    (await bob.try_messages(room_id)).failed(403, "M_FORBIDDEN")
    await bob.join(room_id)
    assert room_id in (await bob.sync())["rooms"]["join"]


# -- what users keep


async def test_who_is_ignored_is_not_heard(server: Place) -> None:
    alice, bob, mallory = await server.clients("alice", "bob", "mallory")
    room_id = await alice.create()
    await mallory.join(room_id)
    await alice.account_data("m.ignored_user_list", {"ignored_users": {mallory.user_id: {}}})
    since = await alice.token_now()
    await mallory.say(room_id, "listen")
    await mallory.set_state(await mallory.create(), "m.room.topic", {"topic": "mine"})
    answer = await alice.sync(since)
    assert answer["rooms"]["join"] == {}
    # What they do to the room's state is told all the same.
    await alice.set_state(room_id, "m.room.power_levels", {"users": {mallory.user_id: 50}})
    changed = await mallory.set_state(room_id, "m.room.topic", {"topic": "theirs"})
    part = (await alice.sync(since))["rooms"]["join"][room_id]
    assert ids(part["timeline"]["events"])[-1] == changed
    trap = await mallory.create(preset="private_chat")
    await mallory.treat(trap, "invite", alice)
    friendly = await bob.create(preset="private_chat")
    await bob.treat(friendly, "invite", alice)
    assert (await alice.sync(since))["rooms"]["invite"].keys() == {friendly}
    assert "listen" not in bodies((await alice.messages(room_id, limit=50))["chunk"])
    await alice.account_data("m.ignored_user_list", {"ignored_users": {}})
    since = await alice.token_now()
    await mallory.say(room_id, "sorry")
    part = (await alice.sync(since))["rooms"]["join"][room_id]
    assert bodies(part["timeline"]["events"]) == ["sorry"]


async def test_nobody_ignores_themselves(server: Place) -> None:
    alice = await server.client("alice")
    room_id = await alice.create()
    await alice.account_data("m.ignored_user_list", {"ignored_users": {alice.user_id: {}}})
    since = await alice.token_now()
    said = await alice.say(room_id, "hello, me")
    assert ids((await alice.sync(since))["rooms"]["join"][room_id]["timeline"]["events"]) == [said]


async def test_account_data_of_rooms_and_of_the_account(server: Place) -> None:
    alice = await server.client("alice")
    room_id = await alice.create()
    since = await alice.token_now()
    await alice.account_data("org.example.global", {"a": 1})
    await alice.account_data("org.example.local", {"b": 2}, room_id)
    answer = await alice.sync(since)
    assert answer["account_data"]["events"] == [{"type": "org.example.global", "content": {"a": 1}}]
    part = answer["rooms"]["join"][room_id]
    assert part["account_data"]["events"] == [{"type": "org.example.local", "content": {"b": 2}}]
    assert part["timeline"]["events"] == []
    wanted = {"account_data": {"not_types": ["org.*"]}, "room": {"account_data": {"types": []}}}
    answer = await alice.sync(since, wanted)
    assert answer["rooms"]["join"] == {}
    assert "account_data" not in answer
    initial = {event["type"] for event in (await alice.sync())["account_data"]["events"]}
    assert initial == {"org.example.global", "m.push_rules"}


# -- what was not read


async def test_unread_notifications_follow_push_rules_and_receipts(server: Place) -> None:
    alice, bob, carol = await server.clients("alice", "bob", "carol")
    room_id = await alice.create()
    await bob.join(room_id)
    await carol.join(room_id)

    async def counts(client: Client) -> tuple[int, int]:
        told = (await client.sync())["rooms"]["join"][room_id]["unread_notifications"]
        return told["notification_count"], told["highlight_count"]

    assert await counts(bob) == (0, 0)
    first = await alice.say(room_id, "one")
    await alice.send(room_id, "m.room.message", {"msgtype": "m.notice", "body": "a notice"})
    mention = {"msgtype": "m.text", "body": "you", "m.mentions": {"user_ids": [bob.user_id]}}
    last = await alice.send(room_id, "m.room.message", mention)
    assert await counts(bob) == (2, 1)
    assert await counts(carol) == (2, 0)
    assert await counts(alice) == (0, 0)
    since = await bob.token_now()
    await bob.receipt(room_id, first)
    assert await counts(bob) == (1, 1)
    await bob.receipt(room_id, last, "m.read.private")
    assert await counts(bob) == (0, 0)
    part = (await bob.sync(since))["rooms"]["join"][room_id]
    assert part["unread_notifications"] == {"notification_count": 0, "highlight_count": 0}
    read = part["ephemeral"]["events"][0]["content"]
    assert read[last]["m.read.private"].keys() == {bob.user_id}
    # Private receipts are nobody else's affair.
    events = (await carol.sync(since))["rooms"]["join"][room_id]["ephemeral"]["events"]
    assert events[0]["content"].keys() == {first}


async def test_the_count_comes_with_the_event(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create()
    await bob.join(room_id)
    since = await bob.token_now()
    for number in range(1, 4):
        await alice.say(room_id, str(number))
        answer = await bob.sync(since)
        since = answer["next_batch"]
        part = answer["rooms"]["join"][room_id]
        assert part["unread_notifications"]["notification_count"] == number


async def test_threads_are_counted_apart_if_asked(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create()
    await bob.join(room_id)
    root = await alice.say(room_id, "root")
    relation = {"rel_type": "m.thread", "event_id": root}
    reply = {"msgtype": "m.text", "body": "in the thread", "m.relates_to": relation}
    in_thread = await alice.send(room_id, "m.room.message", reply)
    wanted = {"room": {"timeline": {"unread_thread_notifications": True}}}
    part = (await bob.sync(wanted=wanted))["rooms"]["join"][room_id]
    assert part["unread_notifications"]["notification_count"] == 1
    assert part["unread_thread_notifications"] == {root: {"notification_count": 1, "highlight_count": 0}}
    await bob.receipt(room_id, in_thread, thread_id=root)
    part = (await bob.sync(wanted=wanted))["rooms"]["join"][room_id]
    assert part["unread_notifications"]["notification_count"] == 1
    assert part["unread_thread_notifications"] == {}
    whole = (await bob.sync())["rooms"]["join"][room_id]
    assert whole["unread_notifications"]["notification_count"] == 1


# -- devices


async def test_messages_between_devices_come_until_they_are_known_to_have_come(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    since = await bob.token_now()
    for number in range(130):
        path = at("sendToDevice", "org.example.ping", f"t{number}")
        (await alice.ask("PUT", path, {"messages": {bob.user_id: {"*": {"n": number}}}})).ok()
    first = await bob.sync(since)
    assert [event["content"]["n"] for event in first["to_device"]["events"]] == list(range(100))
    assert (await bob.sync(since))["to_device"] == first["to_device"]
    second = await bob.sync(first["next_batch"])
    assert [event["content"]["n"] for event in second["to_device"]["events"]] == list(range(100, 130))
    assert "to_device" not in await bob.sync(second["next_batch"])
    assert "to_device" not in await bob.sync()
