"""Who sees what, through every door (client-server §Room History Visibility)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.api.support_rooms import Client, Place, bodies, by_key, ids, place
from tests.api.support_users import at


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Place]:
    async with place(tmp_path) as opened:
        yield opened


@dataclass
class Story:
    """A room in which alice spoke while bob was outside, invited, joined and outside again."""

    room_id: str
    alice: Client
    bob: Client
    said: dict[str, str]


async def a_story(server: Place, visibility: str) -> Story:
    alice, bob = await server.clients("alice", "bob")
    initial = {"type": "m.room.history_visibility", "content": {"history_visibility": visibility}}
    room_id = await alice.create(preset="private_chat", initial_state=[initial])
    said = {"outside": await alice.say(room_id, "outside")}
    await alice.treat(room_id, "invite", bob)
    said["invited"] = await alice.say(room_id, "invited")
    await bob.join(room_id)
    said["joined"] = await alice.say(room_id, "joined")
    return Story(room_id, alice, bob, said)


async def seen(client: Client, room_id: str) -> list[str]:
    """What paging back finds, oldest first."""
    return bodies((await client.messages(room_id, limit=100))["chunk"])[::-1]


async def found(client: Client, story: Story) -> list[str]:
    """What can be had by event id, and, the same, with its context."""
    found = []
    for name, event_id in story.said.items():
        event = await client.ask("GET", at("rooms", story.room_id, "event", event_id))
        context = await client.ask("GET", at("rooms", story.room_id, "context", event_id))
        assert event.status == context.status
        if event.status == 200:
            found.append(name)
        else:
            event.failed(404, "M_NOT_FOUND")
    return found


#: What bob sees once he is in, of what was said while he was outside, invited, in the room.
WHILE_JOINED = {
    "world_readable": ["outside", "invited", "joined"],
    "shared": ["outside", "invited", "joined"],
    "invited": ["invited", "joined"],
    "joined": ["joined"],
}


@pytest.mark.parametrize("visibility", WHILE_JOINED)
async def test_what_a_member_sees(server: Place, visibility: str) -> None:
    story = await a_story(server, visibility)
    expected = WHILE_JOINED[visibility]
    assert await seen(story.bob, story.room_id) == expected
    assert await found(story.bob, story) == expected
    answer = await story.bob.sync(wanted={"room": {"timeline": {"limit": 50}}})
    assert bodies(answer["rooms"]["join"][story.room_id]["timeline"]["events"]) == expected
    assert await seen(story.alice, story.room_id) == ["outside", "invited", "joined"]


@pytest.mark.parametrize("visibility", WHILE_JOINED)
async def test_what_is_left_to_those_who_left(server: Place, visibility: str) -> None:
    story = await a_story(server, visibility)
    room_id, alice, bob = story.room_id, story.alice, story.bob
    await bob.leave(room_id)
    story.said["after"] = await alice.say(room_id, "after")
    expected = WHILE_JOINED[visibility]
    # What anybody may read, they may read as well.
    since = [*expected, "after"] if visibility == "world_readable" else expected
    assert await seen(bob, room_id) == since
    assert await found(bob, story) == since
    # Who comes back sees what was said meanwhile only if history is shared.
    await alice.treat(room_id, "invite", bob)
    await bob.join(room_id)
    again = [*expected, "after"] if visibility in ("world_readable", "shared") else expected
    assert await seen(bob, room_id) == again


@pytest.mark.parametrize("visibility", WHILE_JOINED)
async def test_what_an_invited_user_and_a_stranger_see(server: Place, visibility: str) -> None:
    alice, bob, carol = await server.clients("alice", "bob", "carol")
    initial = {"type": "m.room.history_visibility", "content": {"history_visibility": visibility}}
    room_id = await alice.create(preset="private_chat", initial_state=[initial], name="Den")
    said = await alice.say(room_id, "hello")
    await alice.treat(room_id, "invite", bob)
    for client in (bob, carol):
        answers = [
            await client.try_messages(room_id),
            await client.ask("GET", at("rooms", room_id, "state")),
            await client.ask("GET", at("rooms", room_id, "state", "m.room.name")),
            await client.ask("GET", at("rooms", room_id, "members")),
            await client.ask("GET", at("rooms", room_id, "context", said)),
        ]
        # Of this endpoint alone, the specification has 404 for it.
        event = await client.ask("GET", at("rooms", room_id, "event", said))
        if visibility == "world_readable":
            event.ok()
        else:
            event.failed(404, "M_NOT_FOUND")
        for answer in answers:
            if visibility == "world_readable":
                answer.ok()
            else:
                answer.failed(403, "M_FORBIDDEN")
        (await client.ask("GET", at("rooms", room_id, "joined_members"))).failed(403, "M_FORBIDDEN")


async def test_visibility_counts_as_it_was_when_it_was_said(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create()
    await alice.say(room_id, "shared")
    await alice.set_state(room_id, "m.room.history_visibility", {"history_visibility": "joined"})
    await alice.say(room_id, "private")
    await alice.set_state(room_id, "m.room.history_visibility", {"history_visibility": "shared"})
    await alice.say(room_id, "shared again")
    await bob.join(room_id)
    assert await seen(bob, room_id) == ["shared", "shared again"]
    page = await bob.messages(room_id, limit=100)
    # Both changes are seen: before one and after the other, history was shared.
    changes = [event for event in page["chunk"] if event["type"] == "m.room.history_visibility"]
    assert len(changes) == 3


async def test_the_state_is_frozen_for_those_who_left(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create(name="Then")
    await bob.join(room_id)
    await bob.leave(room_id)
    await alice.set_state(room_id, "m.room.name", {"name": "Now"})
    state = by_key((await bob.ask("GET", at("rooms", room_id, "state"))).ok())
    assert state["m.room.name", ""] == {"name": "Then"}
    assert state["m.room.member", bob.user_id]["membership"] == "leave"
    assert (await bob.ask("GET", at("rooms", room_id, "state", "m.room.name"))).ok() == {"name": "Then"}
    members = (await bob.ask("GET", at("rooms", room_id, "members"))).ok()["chunk"]
    assert len(members) == 2
    (await bob.ask("GET", at("rooms", room_id, "joined_members"))).failed(403, "M_FORBIDDEN")


async def test_prev_content_is_not_told_of_what_may_not_be_seen(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    initial = {"type": "m.room.history_visibility", "content": {"history_visibility": "joined"}}
    room_id = await alice.create(initial_state=[initial])
    await alice.set_state(room_id, "m.room.topic", {"topic": "secret"})
    await bob.join(room_id)
    changed = await alice.set_state(room_id, "m.room.topic", {"topic": "open"})
    path = at("rooms", room_id, "event", changed)
    for_alice = (await alice.ask("GET", path)).ok()["unsigned"]
    for_bob = (await bob.ask("GET", path)).ok()["unsigned"]
    assert for_alice["prev_content"] == {"topic": "secret"}
    assert "prev_content" not in for_bob
    assert for_bob["replaces_state"] == for_alice["replaces_state"]


@pytest.mark.parametrize("version", ["10", "12"])
async def test_those_who_left_are_not_told_why_something_was_redacted_since(
    server: Place, version: str
) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create(room_version=version)
    await bob.join(room_id)
    said = await alice.say(room_id, "hello")
    await bob.leave(room_id)
    redaction = await alice.redact(room_id, said)
    for client, reason in ((alice, "spam"), (bob, None)):
        event = (await client.ask("GET", at("rooms", room_id, "event", said))).ok()
        listed = (await client.messages(room_id, limit=20))["chunk"]
        for told in (event, *(one for one in listed if one["event_id"] == said)):
            because = told["unsigned"]["redacted_because"]
            assert because["event_id"] == redaction
            assert because["content"].get("reason") == reason
    assert redaction not in ids((await bob.messages(room_id, limit=20))["chunk"])


async def test_the_readers_membership_at_the_event_is_told(server: Place) -> None:
    story = await a_story(server, "shared")
    page = await story.bob.messages(story.room_id, limit=100)
    told = {event["event_id"]: event["unsigned"]["membership"] for event in page["chunk"]}
    memberships = [told[story.said[name]] for name in ("outside", "invited", "joined")]
    assert memberships == ["leave", "invite", "join"]
    own = [event for event in page["chunk"] if event.get("state_key") == story.bob.user_id]
    assert [event["unsigned"]["membership"] for event in own] == ["join", "invite"]


@pytest.mark.parametrize("visibility", WHILE_JOINED)
async def test_who_was_in_the_room_when_is_history_too(server: Place, visibility: str) -> None:
    alice, bob = await server.clients("alice", "bob")
    initial = {"type": "m.room.history_visibility", "content": {"history_visibility": visibility}}
    room_id = await alice.create(initial_state=[initial])

    async def is_named(name: str) -> None:
        content = {"membership": "join", "displayname": name}
        await alice.set_state(room_id, "m.room.member", content, alice.user_id)

    await is_named("secret")
    outside = await alice.token_now()
    await is_named("invited")
    await alice.treat(room_id, "invite", bob)
    invited = await alice.token_now()
    await is_named("joined")
    await bob.join(room_id)
    joined = await alice.token_now()
    expected = {"outside": "secret", "invited": "invited", "joined": "joined"}
    await is_named("now")
    for stays in (True, False):
        for token, then in ((outside, "outside"), (invited, "invited"), (joined, "joined")):
            answer = await bob.ask("GET", at("rooms", room_id, "members"), at=token, not_membership="leave")
            if then in WHILE_JOINED[visibility]:
                names = {member["content"].get("displayname") for member in answer.ok()["chunk"]}
                assert expected[then] in names
            else:
                answer.failed(403, "M_FORBIDDEN")
        if stays:
            await bob.leave(room_id)


async def test_who_forgot_a_room_sees_of_it_what_strangers_see(server: Place) -> None:
    alice, bob, carol = await server.clients("alice", "bob", "carol")
    room_id = await alice.create()
    await bob.join(room_id)
    hidden = await alice.say(room_id, "among members")
    await alice.set_state(room_id, "m.room.history_visibility", {"history_visibility": "world_readable"})
    await alice.say(room_id, "for all the world")
    await bob.leave(room_id)
    assert "among members" in bodies((await bob.messages(room_id, limit=50))["chunk"])
    (await bob.ask("POST", at("rooms", room_id, "forget"), {})).ok()
    seen = [ids((await client.messages(room_id, limit=50))["chunk"]) for client in (bob, carol)]
    assert hidden not in seen[1]
    # His own leaving is told him anyway.
    assert [event_id for event_id in seen[0] if event_id in seen[1]] == seen[1]
    assert hidden not in seen[0]
    await bob.join(room_id)
    assert hidden in ids((await bob.messages(room_id, limit=50))["chunk"])
