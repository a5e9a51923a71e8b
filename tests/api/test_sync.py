"""/sync: what is new, for whom, and what is told beside it (client-server §Syncing)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

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
from tests.api.support_users import at

#: Long enough that a test which waits for it has failed.
LONG_MS = 60_000


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Place]:
    async with place(tmp_path) as opened:
        yield opened


def joined(answer: Any, room_id: str) -> Any:
    """A joined room's part of an answer, which must be there."""
    assert room_id in answer["rooms"]["join"], answer["rooms"]
    return answer["rooms"]["join"][room_id]


# -- what an answer holds


async def test_an_initial_sync_has_the_whole_of_a_small_room(server: Place) -> None:
    alice = await server.client("alice")
    room_id = await alice.create(name="Kitchen")
    said = await alice.say(room_id, "hello")
    part = joined(await alice.sync(wanted={"room": {"timeline": {"limit": 50}}}), room_id)
    events = part["timeline"]["events"]
    assert events[0]["type"] == "m.room.create"
    assert events[-1]["event_id"] == said
    assert not part["timeline"]["limited"]
    assert part["state"]["events"] == []
    assert part["summary"]["m.joined_member_count"] == 1
    assert all("room_id" not in event for event in events)


async def test_state_is_that_at_the_start_of_the_timeline(server: Place) -> None:
    alice = await server.client("alice")
    room_id = await alice.create(name="Before")
    await alice.set_state(room_id, "m.room.name", {"name": "After"})
    await alice.set_state(room_id, "m.room.topic", {"topic": "Tea"})
    part = joined(await alice.sync(wanted={"room": {"timeline": {"limit": 2}}}), room_id)
    assert part["timeline"]["limited"]
    state = by_key(part["state"]["events"])
    assert state["m.room.name", ""] == {"name": "Before"}
    assert ("m.room.topic", "") not in state
    assert ("m.room.member", alice.user_id) in state


async def test_an_incremental_sync_has_only_what_is_new(server: Place) -> None:
    alice = await server.client("alice")
    room_id, other = await alice.create(), await alice.create()
    since = await alice.token_now()
    said = await alice.say(room_id, "new")
    answer = await alice.sync(since)
    part = joined(answer, room_id)
    assert ids(part["timeline"]["events"]) == [said]
    assert not part["timeline"]["limited"]
    assert part["state"]["events"] == []
    assert part["summary"] == {}
    assert other not in answer["rooms"]["join"]
    again = await alice.sync(answer["next_batch"])
    assert again["rooms"]["join"] == {}
    assert (await alice.sync(since))["rooms"]["join"].keys() == {room_id}


async def test_a_long_absence_leaves_a_gap_that_messages_fills(server: Place) -> None:
    alice = await server.client("alice")
    room_id = await alice.create()
    since = await alice.token_now()
    said = await alice.say_all(room_id, *"abcdefgh")
    part = joined(await alice.sync(since, wanted={"room": {"timeline": {"limit": 3}}}), room_id)
    assert bodies(part["timeline"]["events"]) == ["f", "g", "h"]
    assert part["timeline"]["limited"]
    page = await alice.messages(room_id, from_=part["timeline"]["prev_batch"], to=since, limit=20)
    assert ids(page["chunk"]) == said[4::-1]


async def test_state_that_changed_in_the_gap_is_told(server: Place) -> None:
    alice = await server.client("alice")
    room_id = await alice.create(name="One")
    since = await alice.token_now()
    await alice.set_state(room_id, "m.room.topic", {"topic": "in the gap"})
    await alice.set_state(room_id, "m.room.name", {"name": "Two"})
    await alice.say_all(room_id, "a", "b")
    await alice.set_state(room_id, "m.room.name", {"name": "Three"})
    wanted = {"room": {"timeline": {"limit": 2}}}
    part = joined(await alice.sync(since, wanted), room_id)
    state = by_key(part["state"]["events"])
    # What the name was before the timeline sets it again, so that each event has its context.
    assert state == {("m.room.topic", ""): {"topic": "in the gap"}, ("m.room.name", ""): {"name": "Two"}}
    at_end = joined(await alice.sync(since, wanted, use_state_after=True), room_id)
    assert "state" not in at_end
    state = by_key(at_end["state_after"]["events"])
    assert state == {("m.room.topic", ""): {"topic": "in the gap"}, ("m.room.name", ""): {"name": "Three"}}


async def test_an_event_is_told_alike_in_the_timeline_and_in_state_after(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create()
    await bob.join(room_id)
    since = await alice.token_now()
    await bob.leave(room_id)
    part = joined(await alice.sync(since, use_state_after=True), room_id)
    assert part["state_after"]["events"] == part["timeline"]["events"]
    # What a client calls one who left stands in what the leaving replaced.
    assert part["state_after"]["events"][0]["unsigned"]["prev_content"]["membership"] == "join"


async def test_state_after_is_there_even_when_it_is_empty(server: Place) -> None:
    alice = await server.client("alice")
    room_id = await alice.create()
    since = await alice.token_now()
    await alice.say(room_id, "hello")
    part = joined(await alice.sync(since, use_state_after=True), room_id)
    assert part["state_after"] == {"events": []}
    assert "state" not in part


async def test_state_that_the_timeline_filter_hides_is_told_as_state(server: Place) -> None:
    alice = await server.client("alice")
    room_id = await alice.create()
    since = await alice.token_now()
    await alice.set_state(room_id, "m.room.name", {"name": "New"})
    await alice.say(room_id, "hello")
    wanted = {"room": {"timeline": {"types": ["m.room.message"]}}}
    part = joined(await alice.sync(since, wanted), room_id)
    assert bodies(part["timeline"]["events"]) == ["hello"]
    assert by_key(part["state"]["events"]) == {("m.room.name", ""): {"name": "New"}}


async def test_full_state_is_told_at_once_with_the_timeline_since(server: Place) -> None:
    alice = await server.client("alice")
    room_id = await alice.create(name="Kitchen")
    since = await alice.token_now()
    answer = await alice.sync(since, full_state=True, timeout=LONG_MS)
    part = joined(answer, room_id)
    assert part["timeline"]["events"] == []
    assert by_key(part["state"]["events"])["m.room.name", ""] == {"name": "Kitchen"}
    said = await alice.say(room_id, "hello")
    part = joined(await alice.sync(since, full_state=True), room_id)
    assert ids(part["timeline"]["events"]) == [said]
    assert ("m.room.create", "") in by_key(part["state"]["events"])


async def test_unsigned_tells_what_the_reader_should_know(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create(name="One")
    await bob.join(room_id)
    since, of_bob = await alice.token_now(), await bob.token_now()
    await alice.set_state(room_id, "m.room.name", {"name": "Two"})
    await alice.say(room_id, "hello")
    await server.clock.turn(5)
    renamed, said = joined(await alice.sync(since), room_id)["timeline"]["events"]
    assert renamed["unsigned"]["prev_content"] == {"name": "One"}
    assert renamed["unsigned"]["replaces_state"].startswith("$")
    assert said["unsigned"]["age"] == 5_000
    assert said["unsigned"]["membership"] == "join"
    assert said["unsigned"]["transaction_id"] == "txn1"
    # The transaction id is the sending device's alone.
    _, seen = joined(await bob.sync(of_bob), room_id)["timeline"]["events"]
    assert "transaction_id" not in seen["unsigned"]


async def test_a_redacted_event_comes_redacted(server: Place) -> None:
    alice = await server.client("alice")
    room_id = await alice.create()
    since = await alice.token_now()
    said = await alice.say(room_id, "a secret")
    assert bodies(joined(await alice.sync(since), room_id)["timeline"]["events"]) == ["a secret"]
    redaction = await alice.redact(room_id, said)
    first, second = joined(await alice.sync(since), room_id)["timeline"]["events"]
    assert first["content"] == {}
    assert first["unsigned"]["redacted_because"]["event_id"] == redaction
    assert first["unsigned"]["redacted_because"]["content"]["reason"] == "spam"
    # rooms/v11: clients of either age find what is redacted.
    assert second["redacts"] == second["content"]["redacts"] == said


async def test_redactions_of_older_rooms_have_it_in_both_places(server: Place) -> None:
    alice = await server.client("alice")
    room_id = await alice.create(room_version="10")
    since = await alice.token_now()
    said = await alice.say(room_id, "a secret")
    await alice.redact(room_id, said)
    redaction = joined(await alice.sync(since), room_id)["timeline"]["events"][-1]
    assert redaction["redacts"] == redaction["content"]["redacts"] == said


# -- filters


async def test_a_stored_filter_is_used_by_its_id(server: Place) -> None:
    alice = await server.client("alice")
    room_id = await alice.create()
    await alice.say_all(room_id, "a", "b", "c")
    made = await alice.ask("POST", at("user", alice.user_id, "filter"), {"room": {"timeline": {"limit": 2}}})
    part = joined(await alice.sync(wanted=made.ok()["filter_id"]), room_id)
    assert bodies(part["timeline"]["events"]) == ["b", "c"]
    (await alice.ask("GET", "/sync", filter="nonsense")).failed(404, "M_NOT_FOUND")
    (await alice.ask("GET", "/sync", filter="{nonsense")).failed(400, "M_BAD_JSON")


async def test_filters_choose_rooms_types_and_senders(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    one, two = await alice.create(), await alice.create()
    await bob.join(one)
    since = await alice.token_now()
    await alice.say(one, "mine")
    await bob.say(one, "his")
    await bob.send(one, "org.example.other", {"url": "mxc://example.org/picture"})
    await alice.say(two, "elsewhere")

    async def seen(room: object) -> dict[str, list[str]]:
        answer = await alice.sync(since, {"room": room})
        parts = answer["rooms"]["join"].items()
        return {room_id: [event["sender"] for event in part["timeline"]["events"]] for room_id, part in parts}

    assert await seen({"not_rooms": [one]}) == {two: [alice.user_id]}
    assert await seen({"rooms": [one], "timeline": {"senders": [bob.user_id]}}) == {one: [bob.user_id] * 2}
    assert await seen({"timeline": {"rooms": [two]}}) == {two: [alice.user_id]}
    assert await seen({"timeline": {"types": ["org.*"]}}) == {one: [bob.user_id]}
    assert await seen({"timeline": {"contains_url": True}}) == {one: [bob.user_id]}
    assert await seen({"timeline": {"not_senders": [bob.user_id, alice.user_id]}}) == {}


async def test_event_fields_and_event_format_shape_events(server: Place) -> None:
    alice = await server.client("alice")
    room_id = await alice.create()
    since = await alice.token_now()
    await alice.say(room_id, "hello")
    part = joined(await alice.sync(since, {"event_fields": ["type", "content.body"]}), room_id)
    assert part["timeline"]["events"] == [{"type": "m.room.message", "content": {"body": "hello"}}]
    part = joined(await alice.sync(since, {"event_format": "federation"}), room_id)
    (event,) = part["timeline"]["events"]
    assert {"auth_events", "prev_events", "hashes", "signatures", "depth", "unsigned"} <= event.keys()


# -- waiting


async def test_without_news_a_sync_ends_after_its_timeout(server: Place) -> None:
    alice = await server.client("alice")
    room_id = await alice.create()
    since = await alice.token_now()
    answer = await alice.sync(since, timeout=20)
    assert answer["rooms"]["join"] == {}
    assert (await alice.sync(answer["next_batch"]))["rooms"]["join"] == {}
    said = await alice.say(room_id, "later")
    part = joined(await alice.sync(answer["next_batch"], timeout=LONG_MS), room_id)
    assert ids(part["timeline"]["events"]) == [said]


async def woken(client: Client, since: str, by: Any, **query: object) -> Any:
    """The answer of a sync that was waiting when `by` was done."""
    waiting = asyncio.create_task(client.sync(since, timeout=LONG_MS, **query))
    await until_waiting()
    assert not waiting.done()
    await by
    return await asyncio.wait_for(waiting, 10)


async def test_a_waiting_sync_is_woken_by_what_concerns_the_user(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create()
    await bob.join(room_id)
    since = await alice.token_now()
    answer = await woken(alice, since, bob.say(room_id, "wake up"))
    assert bodies(joined(answer, room_id)["timeline"]["events"]) == ["wake up"]
    answer = await woken(alice, answer["next_batch"], alice.account_data("org.example.colour", {"is": "red"}))
    assert answer["account_data"]["events"] == [{"type": "org.example.colour", "content": {"is": "red"}}]
    said = await alice.say(room_id, "read this")
    answer = await alice.sync(answer["next_batch"])
    answer = await woken(alice, answer["next_batch"], bob.receipt(room_id, said))
    assert said in joined(answer, room_id)["ephemeral"]["events"][0]["content"]
    answer = await woken(bob, await bob.token_now(), alice.treat(room_id, "kick", bob))
    assert room_id in answer["rooms"]["leave"]
    answer = await woken(bob, answer["next_batch"], alice.treat(room_id, "invite", bob))
    assert room_id in answer["rooms"]["invite"]


async def test_what_does_not_concern_the_user_does_not_end_the_wait(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id, other = await alice.create(), await bob.create()
    since = await alice.token_now()
    wanted = {"room": {"timeline": {"not_types": ["org.quiet"]}}}
    waiting = asyncio.create_task(alice.sync(since, wanted, timeout=LONG_MS))
    await until_waiting()
    await bob.say(other, "not for alice")
    await alice.send(room_id, "org.quiet", {})
    await until_waiting()
    assert not waiting.done()
    await alice.say(room_id, "but this")
    answer = await asyncio.wait_for(waiting, 10)
    assert bodies(joined(answer, room_id)["timeline"]["events"]) == ["but this"]
    assert other not in answer["rooms"]["join"]


async def test_typing_is_told_while_it_lasts(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create()
    await bob.join(room_id)
    since = await alice.token_now()
    typing = bob.ask("PUT", at("rooms", room_id, "typing", bob.user_id), {"typing": True, "timeout": 10_000})
    answer = await woken(alice, since, typing)
    event = {"type": "m.typing", "content": {"user_ids": [bob.user_id]}}
    assert joined(answer, room_id)["ephemeral"]["events"] == [event]
    assert joined(await alice.sync(), room_id)["ephemeral"]["events"] == [event]
    answer = await woken(alice, answer["next_batch"], server.clock.turn(12))
    event = {"type": "m.typing", "content": {"user_ids": []}}
    assert joined(answer, room_id)["ephemeral"]["events"] == [event]
    assert (await alice.sync(answer["next_batch"]))["rooms"]["join"] == {}


async def test_many_who_wait_are_all_told_of_every_event(server: Place) -> None:
    alice, *others = await server.clients("alice", "bob", "carol", "dan")
    room_id = await alice.create()
    for other in others:
        await other.join(room_id)
    texts = [str(number) for number in range(25)]

    async def follow(client: Client) -> list[str]:
        since = await client.token_now()
        found: list[str] = []
        ready.release()
        while len(found) < len(texts):
            answer = await client.sync(since, timeout=LONG_MS)
            since = answer["next_batch"]
            for part in answer["rooms"]["join"].values():
                assert not part["timeline"]["limited"]
                found += bodies(part["timeline"]["events"])
        return found

    ready = asyncio.Semaphore(0)
    followers = [asyncio.create_task(follow(client)) for client in others]
    for _ in others:
        await ready.acquire()
    await alice.say_all(room_id, *texts)
    for follower in followers:
        assert await asyncio.wait_for(follower, 20) == texts


# -- tokens


async def test_tokens_outlive_a_restart(tmp_path: Path) -> None:
    async with place(tmp_path) as server:
        alice = await server.client("alice")
        room_id = await alice.create(name="One")
        since = await alice.token_now()
        said = await alice.say(room_id, "before")
        await alice.set_state(room_id, "m.room.name", {"name": "Two"})
    async with place(tmp_path, seed=2) as server:
        alice = server.again(alice)
        answer = await alice.sync(since)
        part = joined(answer, room_id)
        assert part["timeline"]["events"][0]["event_id"] == said
        assert not part["timeline"]["limited"]
        assert part["state"]["events"] == []
        assert (await alice.sync(answer["next_batch"]))["rooms"]["join"] == {}
        after = await alice.set_state(room_id, "m.room.topic", {"topic": "Tea"})
        assert ids(joined(await alice.sync(answer["next_batch"]), room_id)["timeline"]["events"]) == [after]


async def test_nonsense_is_refused(server: Place) -> None:
    alice = await server.client("alice")
    for query in ({"since": "nonsense"}, {"since": "t12"}, {"timeout": "soon"}, {"set_presence": "there"}):
        (await alice.ask("GET", "/sync", **query)).failed(400, "M_INVALID_PARAM")
    (await Client(server, alice.user_id, "").ask("GET", "/sync")).failed(401, "M_MISSING_TOKEN")


@pytest.mark.parametrize("use_state_after", [False, True])
async def test_who_was_away_and_back_unnoticed_is_told_of_members_that_changed(
    server: Place, *, use_state_after: bool
) -> None:
    alice, bob, carol = await server.clients("alice", "bob", "carol")
    lazy = {"room": {"state": {"lazy_load_members": True}, "timeline": {"limit": 1}}}
    # It has a name, so that nobody is told as one to call it after.
    room_id = await alice.create(name="Kitchen")
    for client in (carol, bob):
        await client.join(room_id)
    await carol.say(room_id, "hello")
    first = await bob.sync(wanted=lazy, use_state_after=use_state_after)
    await bob.leave(room_id)
    (await carol.ask("PUT", at("profile", carol.user_id, "displayname"), {"displayname": "Caroline"})).ok()
    await bob.join(room_id)
    await alice.say(room_id, "welcome back")
    answer = await bob.sync(first["next_batch"], lazy, use_state_after=use_state_after)
    part = joined(answer, room_id)
    state = by_key(part["state_after" if use_state_after else "state"]["events"])
    # The client never heard of the leave: it holds Carol as she was.
    assert state["m.room.member", carol.user_id]["displayname"] == "Caroline"


async def test_what_comes_again_after_an_unnoticed_leave_is_not_told_as_going_on(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    wide = {"room": {"timeline": {"limit": 50}}}
    room_id = await alice.create()
    await bob.join(room_id)
    first = await bob.sync(wanted=wide)
    await bob.leave(room_id)
    await bob.join(room_id)
    before, after = (
        joined(answer, room_id)["timeline"] for answer in (first, await bob.sync(first["next_batch"], wide))
    )
    assert not before["limited"]
    # The timeline of a new stay begins anew; a client that appended it would have its events twice.
    assert ids(after["events"])[: len(before["events"])] == ids(before["events"])
    assert after["limited"]


async def test_a_ban_after_forgetting_tells_nothing_of_what_was_forgotten(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create()
    await bob.join(room_id)
    since = await bob.token_now()
    await alice.say(room_id, "old")
    await bob.leave(room_id)
    (await bob.ask("POST", at("rooms", room_id, "forget"), {})).ok()
    await alice.treat(room_id, "ban", bob)
    part = (await bob.sync(since))["rooms"]["leave"][room_id]
    assert [event["content"]["membership"] for event in part["timeline"]["events"]] == ["ban"]
    assert part["state"]["events"] == []


async def test_a_hole_is_told_of_though_nothing_that_is_shown_came_with_it(server: Place) -> None:
    alice = await server.client("alice")
    room_id = await alice.create()
    since = await alice.token_now()
    await with_a_hole(server, alice, room_id)
    part = joined(await alice.sync(since), room_id)
    assert part["timeline"]["events"] == []
    assert part["timeline"]["limited"]
    assert part["timeline"]["prev_batch"]
