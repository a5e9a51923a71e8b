"""/sync at its edges: filters that drop events, gaps, memberships that change twice between two syncs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from comity.rooms.read.tokens import SyncToken
from tests.api.support_rooms import Client, Place, ask, bodies, by_key, ids, place, until_waiting
from tests.api.support_users import at


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Place]:
    async with place(tmp_path) as opened:
        yield opened


def own_memberships(client: Client, events: list[Any]) -> list[str]:
    """What the events make of a client's own membership."""
    return [event["content"]["membership"] for event in events if event.get("state_key") == client.user_id]


# -- the timeline and what is below it


@pytest.mark.parametrize("limit", [1, 2, 3])
@pytest.mark.parametrize("types", [None, ["m.room.message"], ["m.room.*"], ["org.*"]], ids=str)
async def test_pages_go_on_from_a_timeline_without_overlap_or_hole(
    server: Place, limit: int, types: list[str] | None
) -> None:
    alice = await server.client("alice")
    room_id = await alice.create()
    since, sent = await alice.token_now(), []
    for number in range(4):
        sent.append(("m.room.message", await alice.say(room_id, str(number))))
        sent.append(("m.room.topic", await alice.set_state(room_id, "m.room.topic", {"topic": str(number)})))
        noise = [await alice.send(room_id, "org.example.other", {}) for _ in range(number)]
        sent += [("org.example.other", event_id) for event_id in noise]
    wanted: dict[str, object] = {} if types is None else {"types": types}
    prefixes = [name.removesuffix("*") for name in types or [""]]
    expected = [event_id for kind, event_id in sent if any(kind.startswith(prefix) for prefix in prefixes)]
    answer = await alice.sync(since, {"room": {"timeline": {"limit": limit, **wanted}}})
    timeline = answer["rooms"]["join"][room_id]["timeline"]
    assert timeline["limited"]
    found, token = ids(timeline["events"]), timeline["prev_batch"]
    assert len(found) == limit
    while token is not None:
        page = await alice.messages(room_id, wanted=wanted, from_=token, to=since, limit=limit)
        found = ids(page["chunk"])[::-1] + found
        token = page.get("end") if page["chunk"] else None
    assert found == expected


async def test_a_timeline_that_ends_in_what_is_not_wanted_is_not_cut_short(server: Place) -> None:
    alice = await server.client("alice")
    room_id = await alice.create()
    since = await alice.token_now()
    said = await alice.say(room_id, "wanted")
    for _ in range(60):
        await alice.send(room_id, "org.example.noise", {})
    wanted = {"room": {"timeline": {"limit": 1, "types": ["m.room.message"]}}}
    timeline = (await alice.sync(since, wanted))["rooms"]["join"][room_id]["timeline"]
    assert (ids(timeline["events"]), timeline["limited"]) == ([said], False)


async def test_state_has_filters_of_its_own(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    one, two = await alice.create(name="One"), await alice.create(name="Two")
    await bob.join(one)
    await bob.join(two)

    async def state(**filters: object) -> dict[str, set[str]]:
        timeline = {"types": ["m.room.message"]}
        parts = (await bob.sync(wanted={"room": {"timeline": timeline, "state": filters}}))["rooms"]["join"]
        return {
            room_id: {event["type"] for event in part["state"]["events"]} for room_id, part in parts.items()
        }

    assert await state(types=["m.room.na*"]) == {one: {"m.room.name"}, two: {"m.room.name"}}
    assert await state(types=["m.room.name"], not_rooms=[two]) == {one: {"m.room.name"}, two: set()}
    assert await state(types=["m.room.name"], rooms=[two]) == {one: set(), two: {"m.room.name"}}
    assert await state(senders=[bob.user_id]) == {one: {"m.room.member"}, two: {"m.room.member"}}
    assert await state(types=["m.*"], not_types=["*.member"], not_senders=[alice.user_id]) == {
        one: set(),
        two: set(),
    }
    # A room that is excluded is, whatever else says that it is included.
    wanted = {"room": {"rooms": [one, two], "not_rooms": [one]}}
    assert (await bob.sync(wanted=wanted))["rooms"]["join"].keys() == {two}


async def test_a_filter_that_could_be_stored_can_be_used(server: Place) -> None:
    """What is too long for a URL is what filters are stored for."""
    alice = await server.client("alice")
    room_id, other = await alice.create(), await alice.create()
    many = [f"!{number:0>90}:example.org" for number in range(900)]
    wanted = {"room": {"not_rooms": [*many, other], "timeline": {"not_rooms": many}}}
    made = (await alice.ask("POST", at("user", alice.user_id, "filter"), wanted)).ok()
    assert (await alice.sync(wanted=made["filter_id"]))["rooms"]["join"].keys() == {room_id}


async def test_the_shape_of_events_is_that_of_state_too(server: Place) -> None:
    alice = await server.client("alice")
    room_id = await alice.create(name="Shaped")
    timeline = {"types": ["m.room.message"]}
    wanted = {
        "event_format": "federation",
        "room": {"timeline": timeline, "state": {"types": ["m.room.name"]}},
    }
    (event,) = (await alice.sync(wanted=wanted))["rooms"]["join"][room_id]["state"]["events"]
    assert {"auth_events", "prev_events", "hashes", "signatures", "depth"} <= event.keys()
    wanted = {"event_fields": ["type", "state_key", "content.name"], "room": wanted["room"]}
    part = (await alice.sync(wanted=wanted))["rooms"]["join"][room_id]
    event = {"type": "m.room.name", "state_key": "", "content": {"name": "Shaped"}}
    assert part["state"]["events"] == [event]


# -- members that are loaded lazily


@pytest.mark.parametrize("name", ["state", "state_after"])
async def test_ones_own_membership_comes_with_the_full_state(server: Place, name: str) -> None:
    """client-server, GET /sync: servers MUST include it when the user joins, or asks for the full state."""
    alice, bob, carol = await server.clients("alice", "bob", "carol")
    room_id = await alice.create(name="Room")
    lazy = {"room": {"state": {"lazy_load_members": True}, "timeline": {"limit": 1}}}
    query = {"use_state_after": name == "state_after"}
    first = await bob.token_now()
    for client in (bob, carol):
        await client.join(room_id)
    await alice.say_all(room_id, "1", "2")
    answer = await bob.sync(first, lazy, **query)
    part = answer["rooms"]["join"][room_id]
    keys = by_key(part[name]["events"])
    assert ("m.room.member", bob.user_id) in keys
    assert ("m.room.member", carol.user_id) not in keys
    part = (await bob.sync(answer["next_batch"], lazy, full_state=True, **query))["rooms"]["join"][room_id]
    keys = by_key(part[name]["events"])
    assert ("m.room.member", bob.user_id) in keys
    assert ("m.room.member", carol.user_id) not in keys
    assert ("m.room.name", "") in keys


# -- memberships


async def test_the_last_of_many_memberships_between_two_syncs_counts(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create(preset="private_chat", name="Den")
    start = await bob.token_now()
    await alice.treat(room_id, "invite", bob)
    invited = await bob.token_now()
    await bob.join(room_id)
    joined = await bob.token_now()
    await alice.say(room_id, "one")
    await alice.treat(room_id, "kick", bob)
    kicked = await bob.token_now()
    await alice.treat(room_id, "invite", bob)
    for since in (start, invited, joined, kicked, None):
        rooms = (await bob.sync(since))["rooms"]
        assert rooms["join"] == rooms["leave"] == {}
        assert rooms["invite"].keys() == {room_id}
    await bob.join(room_id)
    for since in (start, invited, joined, kicked, None):
        rooms = (await bob.sync(since))["rooms"]
        assert rooms["invite"] == rooms["leave"] == {}
        part = rooms["join"][room_id]
        known = by_key([event for event in part["state"]["events"] + part["timeline"]["events"]
                        if "state_key" in event])  # fmt: skip
        assert known["m.room.name", ""] == {"name": "Den"}
        assert known["m.room.member", bob.user_id]["membership"] == "join"
    await alice.treat(room_id, "ban", bob)
    await alice.treat(room_id, "unban", bob)
    await alice.say(room_id, "behind his back")
    for since in (start, invited, joined, kicked):
        rooms = (await bob.sync(since))["rooms"]
        assert rooms["invite"] == rooms["join"] == {}
        part = rooms["leave"][room_id]
        assert own_memberships(bob, part["timeline"]["events"])[-2:] == ["ban", "leave"]
        assert "behind his back" not in bodies(part["timeline"]["events"])


@pytest.mark.parametrize("by", ["alice", "bob"])
async def test_a_knock_that_is_withdrawn_or_refused(server: Place, by: str) -> None:
    alice, bob = await server.clients("alice", "bob")
    rules = [{"type": "m.room.join_rules", "content": {"join_rule": "knock"}}]
    room_id = await alice.create(preset="private_chat", name="Den", initial_state=rules)
    start = await bob.token_now()
    (await bob.ask("POST", at("knock", room_id), {})).ok()
    answer = await bob.sync(start)
    events = answer["rooms"]["knock"][room_id]["knock_state"]["events"]
    assert ("m.room.create", "") in by_key(events)
    assert own_memberships(bob, events) == ["knock"]
    if by == "alice":
        await alice.treat(room_id, "kick", bob)
    else:
        await bob.leave(room_id)
    for since in (start, answer["next_batch"]):
        rooms = (await bob.sync(since))["rooms"]
        assert rooms["knock"] == rooms["join"] == {}
        assert own_memberships(bob, rooms["leave"][room_id]["timeline"]["events"]) == ["leave"]
        assert rooms["leave"][room_id]["state"]["events"] == []
    assert (await bob.sync())["rooms"]["knock"] == {}


async def test_an_archive_holds_rooms_that_one_was_in(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    left, banned = await alice.create(name="Left"), await alice.create(name="Banned")
    stranger = await alice.create()
    for room_id in (left, banned):
        await bob.join(room_id)
    await bob.leave(left)
    await alice.treat(banned, "ban", bob)
    await alice.treat(stranger, "ban", bob)
    archive = {"room": {"include_leave": True, "timeline": {"limit": 1}}}
    rooms = (await bob.sync(wanted=archive))["rooms"]["leave"]
    assert rooms.keys() == {left, banned}
    for room_id, name in ((left, "Left"), (banned, "Banned")):
        assert by_key(rooms[room_id]["state"]["events"])["m.room.name", ""] == {"name": name}
        assert rooms[room_id]["timeline"]["limited"]
        page = await bob.messages(room_id, from_=rooms[room_id]["timeline"]["prev_batch"], limit=50)
        assert page["chunk"][-1]["type"] == "m.room.create"
    wanted = {"room": {**archive["room"], "not_rooms": [banned]}}
    assert (await bob.sync(wanted=wanted))["rooms"]["leave"].keys() == {left}


# -- devices


async def test_each_device_has_what_is_its_own(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    login = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": alice.user_id},
        "password": "correct horse",
    }
    answer = (await ask(server.app, "POST", "/_matrix/client/v3/login", login, {}, None)).ok()
    second = Client(server, alice.user_id, answer["access_token"])
    room_id = await alice.create()
    of_first, of_second = await alice.token_now(), await second.token_now()
    message = {"messages": {alice.user_id: {answer["device_id"]: {"n": 2}}}}
    (await bob.ask("PUT", at("sendToDevice", "org.example.ping", "1"), message)).ok()
    said = await alice.say(room_id, "hello")
    first, other = await alice.sync(of_first), await second.sync(of_second)
    assert "to_device" not in first
    assert [event["content"] for event in other["to_device"]["events"]] == [{"n": 2}]
    for got, has_transaction in ((first, True), (other, False)):
        (event,) = got["rooms"]["join"][room_id]["timeline"]["events"]
        assert event["event_id"] == said
        assert ("transaction_id" in event["unsigned"]) is has_transaction


# -- state that the user may not see, and the one before it that they may


@pytest.mark.parametrize("limit", [3, 50])
@pytest.mark.parametrize("knows", [True, False], ids=["incremental", "initial"])
@pytest.mark.parametrize("at_end", [True, False], ids=["state_after", "state"])
async def test_the_state_is_right_though_some_of_what_set_it_is_hidden(
    server: Place, limit: int, *, knows: bool, at_end: bool
) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create()
    since = await bob.token_now() if knows else None
    await alice.set_state(room_id, "m.room.name", {"name": "For all to see"})
    await alice.set_state(room_id, "m.room.history_visibility", {"history_visibility": "joined"})
    await alice.set_state(room_id, "m.room.name", {"name": "For members"})
    await bob.join(room_id)
    wanted = {"room": {"timeline": {"limit": limit}}}
    part = (await bob.sync(since, wanted, use_state_after=at_end))["rooms"]["join"][room_id]
    listed = part["state_after"]["events"] if at_end else part["state"]["events"] + part["timeline"]["events"]
    told = by_key([event for event in listed if "state_key" in event])
    now = by_key((await bob.ask("GET", at("rooms", room_id, "state"))).ok())
    assert told == now
    assert now["m.room.name", ""] == {"name": "For members"}
    # What is not shown for that is there to be paged through.
    found, token = ids(part["timeline"]["events"]), part["timeline"]["prev_batch"]
    assert part["timeline"]["limited"]
    page = await bob.messages(room_id, from_=token, limit=100)
    every = ids((await bob.messages(room_id, limit=100))["chunk"])[::-1]
    assert ids(page["chunk"])[::-1] + found == every


# -- invites that are not told of


@pytest.mark.parametrize("was", ["join", "invite", "leave"])
@pytest.mark.parametrize("at_end", [True, False], ids=["state_after", "state"])
async def test_an_invite_that_is_not_told_does_not_hide_what_ended_before_it(
    server: Place, was: str, *, at_end: bool
) -> None:
    alice, bob, mallory = await server.clients("alice", "bob", "mallory")
    room_id = await alice.create()
    await mallory.join(room_id)
    if was == "invite":
        await alice.treat(room_id, "invite", bob)
    else:
        await bob.join(room_id)
    if was == "leave":
        await bob.leave(room_id)
    await bob.account_data("m.ignored_user_list", {"ignored_users": {mallory.user_id: {}}})
    since = await bob.token_now()
    if was != "leave":
        await alice.treat(room_id, "kick", bob)
    await mallory.treat(room_id, "invite", bob)
    rooms = (await bob.sync(since, use_state_after=at_end))["rooms"]
    assert rooms["join"] == rooms["invite"] == {}
    if was == "leave":
        assert rooms["leave"] == {}
        return
    part = rooms["leave"][room_id]
    assert own_memberships(bob, part["timeline"]["events"]) == ["leave"]
    assert part["timeline"]["events"][-1]["sender"] == alice.user_id
    if at_end:
        assert own_memberships(bob, part["state_after"]["events"]) == ["leave"]


# -- after a restart


async def test_who_typed_before_a_restart_does_not_type_for_ever(tmp_path: Path) -> None:
    nobody = {"type": "m.typing", "content": {"user_ids": []}}
    async with place(tmp_path) as before:
        alice, bob = await before.clients("alice", "bob")
        room_id, quiet = await alice.create(), await alice.create()
        await bob.join(room_id)
        (await bob.ask("PUT", at("rooms", room_id, "typing", bob.user_id), {"typing": True})).ok()
        token = SyncToken.parse(await alice.token_now())
    # Had the server not been restarted at the same moment by the test's clock, it would be of long ago.
    token.typing -= 60_000
    async with place(tmp_path, seed=2) as server:
        alice, bob = server.again(alice), server.again(bob)
        assert (await alice.sync(str(token)))["rooms"]["join"] == {}
        waiting = asyncio.ensure_future(alice.sync(str(token), timeout=60_000))
        await until_waiting()
        assert not waiting.done()
        await bob.say(room_id, "here it is")
        answer = await waiting
        assert answer["rooms"]["join"][room_id]["ephemeral"]["events"] == [nobody]
        assert quiet not in answer["rooms"]["join"]
        await bob.say(room_id, "and more")
        part = (await alice.sync(answer["next_batch"]))["rooms"]["join"][room_id]
        assert part["ephemeral"]["events"] == []
        no_typing = {"room": {"ephemeral": {"types": ["m.receipt"]}}}
        part = (await alice.sync(str(token), no_typing))["rooms"]["join"][room_id]
        assert part["ephemeral"]["events"] == []
        (await bob.ask("PUT", at("rooms", room_id, "typing", bob.user_id), {"typing": True})).ok()
        part = (await alice.sync(str(token)))["rooms"]["join"][room_id]
        assert part["ephemeral"]["events"] == [{**nobody, "content": {"user_ids": [bob.user_id]}}]
