"""An honest peer of another make: comity federates with it in every room version.

Needs no Synapse: the peer is `peer.py`, a second reading of the specification, and checks
every signature, hash and event that it is sent.
"""

from __future__ import annotations

from urllib.parse import quote

import pytest

from tests.interop import wire
from tests.interop.agreement import told_in_order
from tests.interop.client import Client, MakeUser
from tests.interop.peer import VERSIONS, Peer, uri
from tests.interop.servers import Homeserver
from tests.interop.waiting import eventually

pytestmark = pytest.mark.xdist_group("interop-peer")

ALL_VERSIONS = pytest.mark.parametrize("version", VERSIONS, ids=[f"v{number}" for number in VERSIONS])


@pytest.fixture
async def alice(here: Homeserver, user: MakeUser) -> Client:
    return await user(here, "alice")


async def received(peer: Peer, text: str) -> wire.Json:
    """The message with this body that a server sent to the peer."""

    async def look() -> wire.Json | None:
        return next((e for e in peer.received if e["content"].get("body") == text), None)

    found = await eventually(look, f"{text!r} at the peer")
    assert found is not None
    return found


@ALL_VERSIONS
async def test_peer_joins_here(here: Homeserver, peer: Peer, alice: Client, version: str) -> None:
    room_id = await alice.create_room(version)
    await alice.sync()
    mallory = peer.user("mallory")
    room = await peer.join(here.name, room_id, mallory)
    for event in [room.events[i] for i in room.order]:
        await peer.check_event(event, version)
    # What the joiner is told is what stands here.
    state = await alice.state(room_id)
    assert {key: i for key, i in room.state.items() if key != ("m.room.member", mallory)} == {
        key: i for key, i in state.items() if key != ("m.room.member", mallory)
    }
    assert state["m.room.member", mallory] == room.extremities[0]

    message = peer.signer.sign_event(room.message(mallory, "from the peer"), version)
    answer = await peer.send(here.name, [message])
    assert (answer.status, answer.body) == (200, {"pdus": {room.add(message): {}}})
    assert (await alice.hears(room_id, "from the peer"))["event_id"] == room.event_id(message)

    sent = await alice.send(room_id, "from alice")
    event = await received(peer, "from alice")
    assert room.event_id(event) == sent
    assert wire.referred(event["prev_events"]) == [room.event_id(message)]
    expected = room.auth_for("m.room.message", alice.user_id, event["content"], None)
    assert set(wire.referred(event["auth_events"])) == set(expected)
    assert event["depth"] == message["depth"] + 1
    assert ("event_id" in event) == (version in ("1", "2"))


@ALL_VERSIONS
async def test_joins_the_peers_room(here: Homeserver, peer: Peer, alice: Client, version: str) -> None:
    room = peer.create_room(version)
    mallory = peer.user("mallory")
    peer.aliases[f"#somewhere:{peer.name}"] = room.room_id
    said = [f"old {number}" for number in range(25)]
    for text in said:
        room.add(peer.signer.sign_event(room.message(mallory, text), version))

    assert await alice.join(f"#somewhere:{peer.name}") == room.room_id

    assert await alice.state(room.room_id) == dict(room.state)
    await told_in_order(alice, room.room_id, said)
    sent = await alice.send(room.room_id, "hello")
    assert room.event_id(await received(peer, "hello")) == sent
    message = peer.signer.sign_event(room.message(mallory, "hello back"), version)
    room.add(message)
    assert (await peer.send(here.name, [message])).status == 200
    await alice.hears(room.room_id, "hello back")


@ALL_VERSIONS
async def test_invited_by_the_peer(here: Homeserver, peer: Peer, alice: Client, version: str) -> None:
    room = peer.create_room(version, join_rule="invite")
    await alice.sync()
    event = room.draft("m.room.member", peer.user("mallory"), {"membership": "invite"}, alice.user_id)
    event = peer.signer.sign_event(event, version)
    content = {
        "room_version": version,
        "event": event,
        "invite_room_state": [room.events[i] for i in room.state.values()],
    }
    path = uri("invite", room.room_id, room.event_id(event), version="v2")
    answer = await peer.request("PUT", here.name, path, content)
    assert answer.status == 200, answer
    signed = answer.body["event"]
    assert room.event_id(signed) == room.event_id(event)
    assert await peer.signed_by(wire.redacted(signed, version), here.name)
    assert await peer.signed_by(wire.redacted(signed, version), peer.name)
    room.add(signed)
    await alice.follow(lambda: room.room_id in alice.invites, "the invite")

    await alice.join(room.room_id)
    assert await alice.membership(room.room_id, alice.user_id) == "join"
    assert room.state["m.room.member", alice.user_id] != room.event_id(event)


@ALL_VERSIONS
async def test_invites_the_peer(here: Homeserver, peer: Peer, alice: Client, version: str) -> None:
    room_id = await alice.create_room(version, "private_chat", name="Come")
    mallory = peer.user("mallory")
    await alice.invite(room_id, mallory)
    (event,) = peer.invited
    assert (event["state_key"], event["content"]["membership"]) == (mallory, "invite")
    (asked,) = [a for a in peer.asked if a.what == "invite"]
    # Since v1.16 whole events, the create event among them.
    kinds = {stripped["type"]: stripped for stripped in asked.body["invite_room_state"]}
    assert {"m.room.create", "m.room.join_rules", "m.room.name"} <= kinds.keys()
    for stripped in kinds.values():
        await peer.check_event(stripped, version)
    await peer.join(here.name, room_id, mallory)
    assert await alice.membership(room_id, mallory) == "join"


async def test_missing_events_are_fetched(here: Homeserver, peer: Peer, alice: Client) -> None:
    """Only the last of a run is sent: the server asks for what lies between."""
    room_id = await alice.create_room()
    await alice.sync()
    room = await peer.join(here.name, room_id, peer.user("mallory"))
    said = [f"run {number}" for number in range(8)]
    events = []
    for text in said:
        events.append(peer.signer.sign_event(room.message(peer.user("mallory"), text), room.version))
        room.add(events[-1])
    answer = await peer.send(here.name, events[-1:])
    assert (answer.status, answer.body) == (200, {"pdus": {room.event_id(events[-1]): {}}})
    await told_in_order(alice, room_id, said)
    assert "get_missing_events" in [asked.what for asked in peer.asked]


async def test_profile_and_leave_and_read_access(here: Homeserver, peer: Peer, alice: Client) -> None:
    peer.profiles[peer.user("mallory")] = {"displayname": "Mallory"}
    assert (await alice.profile(peer.user("mallory")))["displayname"] == "Mallory"
    await alice.set_profile("displayname", "Alice")
    path = uri("query", "profile") + f"?user_id={quote(alice.user_id, safe='')}"
    answer = await peer.request("GET", here.name, path)
    assert (answer.status, answer.body["displayname"]) == (200, "Alice")

    room_id = await alice.create_room()
    room = await peer.join(here.name, room_id, peer.user("mallory"))
    last = room.extremities[0]
    at = quote(last, safe="")
    for path, key in (
        (uri("event", last), "pdus"),
        (uri("state", room_id) + f"?event_id={at}", "pdus"),
        (uri("state_ids", room_id) + f"?event_id={at}", "pdu_ids"),
        (uri("event_auth", room_id, last), "auth_chain"),
        (uri("backfill", room_id) + f"?v={at}&limit=5", "pdus"),
    ):
        answer = await peer.request("GET", here.name, path)
        assert answer.status == 200, (path, answer)
        assert answer.body[key]

    leave = room.draft("m.room.member", peer.user("mallory"), {"membership": "leave"}, peer.user("mallory"))
    await peer.send(here.name, [peer.signer.sign_event(leave, room.version)])
    await eventually(lambda: _left(alice, room_id, peer.user("mallory")), "the leave")


async def _left(viewer: Client, room_id: str, user_id: str) -> bool:
    return await viewer.membership(room_id, user_id) == "leave"
