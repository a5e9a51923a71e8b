"""What is said and set in a room arrives on the other side: messages, state, redactions, profiles."""

from __future__ import annotations

import pytest

from tests.interop.agreement import same_events, same_state, told_in_order
from tests.interop.client import ApiError, Client
from tests.interop.servers import Pair
from tests.interop.waiting import eventually

pytestmark = [pytest.mark.interop, pytest.mark.xdist_group("interop-rooms")]


async def _room(pair: Pair, version: str, alice: Client, bob: Client) -> str:
    room = await alice.create_room(version)
    await alice.sync()
    await bob.sync()
    await bob.join(room, pair.host)
    return room


async def test_messages_both_ways(pair: Pair, version: str, alice: Client, bob: Client) -> None:
    room = await _room(pair, version, alice, bob)
    said = []
    for number in range(5):
        said += [f"alice {number}", f"bob {number} ünïcødé \N{GRINNING FACE}"]
        sent = await alice.send(room, said[-2])
        assert (await bob.hears(room, said[-2]))["event_id"] == sent
        sent = await bob.send(room, said[-1])
        heard = await alice.hears(room, said[-1])
        assert (heard["event_id"], heard["sender"]) == (sent, bob.user_id)
    await bob.hears(room, said[-1])
    for client in (alice, bob):
        assert client.texts(room) == said
        await told_in_order(client, room, said)
    await same_events(room, alice, bob)


async def test_state_changes_both_ways(pair: Pair, version: str, alice: Client, bob: Client) -> None:
    room = await _room(pair, version, alice, bob)
    levels = await alice.state_content(room, "m.room.power_levels")
    levels["users"] = {**levels.get("users", {}), bob.user_id: 100}
    changed = await alice.set_state(room, "m.room.power_levels", levels)
    await bob.sees_event(room, changed)

    for speaker, listener, who in ((alice, bob, "alice"), (bob, alice, "bob")):
        topic = await speaker.set_state(room, "m.room.topic", {"topic": f"topic of {who}"})
        name = await speaker.set_state(room, "m.room.name", {"name": f"name of {who}"})
        own = await speaker.set_state(
            room, "org.example.own", {"n": 1, "nested": {"list": [1, "2", None]}}, who
        )
        for event_id in (topic, name, own):
            await listener.sees_event(room, event_id)
        state = await same_state(room, alice, bob)
        assert state["m.room.topic", ""] == topic
        assert state["m.room.name", ""] == name
        assert state["org.example.own", who] == own
        assert (await listener.state_content(room, "m.room.topic"))["topic"] == f"topic of {who}"

    # bob may now give away what he has, and no more.
    levels["users"][bob.user_id] = 49
    lowered = await bob.set_state(room, "m.room.power_levels", levels)
    await alice.sees_event(room, lowered)
    await same_state(room, alice, bob)
    with pytest.raises(ApiError) as refused:
        await bob.set_state(room, "m.room.name", {"name": "too much"})
    assert (refused.value.status, refused.value.errcode) == (403, "M_FORBIDDEN")
    await same_events(room, alice, bob)


async def test_redactions_both_ways(pair: Pair, version: str, alice: Client, bob: Client) -> None:
    room = await _room(pair, version, alice, bob)
    for speaker, listener in ((alice, bob), (bob, alice)):
        text = f"regretted by {speaker.user_id}"
        message = await speaker.send(room, text)
        await listener.hears(room, text)
        redaction = await speaker.redact(room, message)
        told = await listener.sees_event(room, redaction)
        assert told.get("redacts", told["content"].get("redacts")) == message

        for client in (speaker, listener):
            event = await client.event(room, message)
            assert event["content"] == {}
            assert event["unsigned"]["redacted_because"]["event_id"] == redaction

    # A moderator redacts somebody else's message.
    message = await bob.send(room, "moderated")
    await alice.hears(room, "moderated")
    redaction = await alice.redact(room, message)
    await bob.sees_event(room, redaction)

    async def gone() -> bool:
        return bool((await bob.event(room, message))["content"] == {})

    await eventually(gone, "the redaction on the sender's own server")
    await same_events(room, alice, bob)


async def test_profile_over_federation(pair: Pair, alice: Client, bob: Client) -> None:
    for asker, asked in ((bob, alice), (alice, bob)):
        await asked.set_profile("displayname", "Ünï Cødé")
        await asked.set_profile("avatar_url", f"mxc://{asked.server.name}/picture")
        profile = await asker.profile(asked.user_id)
        assert profile["displayname"] == "Ünï Cødé"
        assert profile["avatar_url"] == f"mxc://{asked.server.name}/picture"
        with pytest.raises(ApiError) as unknown:
            await asker.profile(f"@nobody-at-all:{asked.server.name}")
        assert (unknown.value.status, unknown.value.errcode) == (404, "M_NOT_FOUND")


async def test_profile_change_is_told_in_the_room(
    pair: Pair, version: str, alice: Client, bob: Client
) -> None:
    room = await _room(pair, version, alice, bob)
    for changer, viewer in ((alice, bob), (bob, alice)):
        await changer.set_profile("displayname", f"New name of {changer.user_id}")

        async def told(changer: Client = changer, viewer: Client = viewer) -> bool:
            member = await viewer.state_content(room, "m.room.member", changer.user_id)
            return bool(member.get("displayname") == f"New name of {changer.user_id}")

        await eventually(told, "the new name")
    await same_state(room, alice, bob)
