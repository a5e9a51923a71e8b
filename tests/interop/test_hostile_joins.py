"""A user here joins a room whose server lies: in the template, in the state, in the history.

Runs against comity alone; the peer is `peer.py`. A forged event is never believed: the
join fails whole and leaves no trace, or it goes on without what was forged.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web

from tests.interop import wire
from tests.interop.client import ApiError, Client, MakeUser
from tests.interop.hostile import deviates
from tests.interop.peer import Asked, Peer
from tests.interop.peer_room import Room
from tests.interop.servers import Homeserver
from tests.interop.wire import Json, Signer

pytestmark = pytest.mark.xdist_group("interop-peer")

Spoil = Callable[[Peer, Room, Json], Any]

VERSIONS = pytest.mark.parametrize("version", ["12", "10", "6"], ids=["v12", "v10", "v6"])


@pytest.fixture
async def alice(here: Homeserver, user: MakeUser) -> Client:
    return await user(here, "alice")


async def _joins(alice: Client, alias: str) -> bool:
    """Whether the join went through; refused it must be with an error that is not the server's own."""
    try:
        await alice.join(alias)
    except ApiError as error:
        refused = error
    else:
        return True
    assert refused.errcode
    # Synapse answers most lies with "Internal server error".
    assert refused.status != 500 or alice.server.software == "synapse", refused
    return False


async def _content(alice: Client, room: Room, kind: str) -> Json:
    """The content of a state event, empty if there is none."""
    if (kind, "") in await alice.state(room.room_id):
        return await alice.state_content(room.room_id, kind)
    return {}


async def _no_trace(alice: Client, room: Room) -> None:
    assert room.room_id not in await alice.joined_rooms()
    with pytest.raises(ApiError) as refused:
        await alice.state(room.room_id)
    assert refused.value.status in (403, 404)
    sync = await alice.sync()
    assert room.room_id not in sync.get("rooms", {}).get("join", {})


async def _honest_join_works(alice: Client, peer: Peer, room: Room) -> None:
    peer.lies.clear()
    # A refused join may have reached the peer's copy of the room; it is no member there.
    room.state = {key: value for key, value in room.state.items() if key != ("m.room.member", alice.user_id)}
    await alice.join(f"#honest:{peer.name}")
    assert room.room_id in await alice.joined_rooms()
    await alice.send(room.room_id, "here after all")


def _in(answer: Json, kind: str, change: Callable[[Json], Json], *lists: str) -> Json:
    """The answer with every event of this type changed, in `state` and `auth_chain`."""
    return {
        **answer,
        **{
            name: [change(event) if event["type"] == kind else event for event in answer[name]]
            for name in (lists or ("state", "auth_chain"))
        },
    }


def _without(answer: Json, kind: str) -> Json:
    keep = {name: [e for e in answer[name] if e["type"] != kind] for name in ("state", "auth_chain")}
    return {**answer, **keep}


def _resigned(peer: Peer, room: Room, **content: object) -> Callable[[Json], Json]:
    def change(event: Json) -> Json:
        bare = {key: value for key, value in event.items() if key not in ("hashes", "signatures")}
        return peer.signer.sign_event({**bare, "content": {**event["content"], **content}}, room.version)

    return change


def _other_room(peer: Peer, version: str) -> Room:
    return peer.create_room(version, creator="other")


#: Answers to send_join that hold no room to be in: the join fails.
IMPOSSIBLE: dict[str, Spoil] = {
    "nothing": lambda p, r, a: {},
    "a list": lambda p, r, a: [],
    "numbers": lambda p, r, a: {**a, "state": 5, "auth_chain": "x"},
    "events that are numbers": lambda p, r, a: {**a, "state": [1, 2], "auth_chain": [None]},
    "no state": lambda p, r, a: {**a, "state": [], "auth_chain": []},
    "no create event": lambda p, r, a: _without(a, "m.room.create"),
    "a create event that is not signed": lambda p, r, a: _in(
        a, "m.room.create", lambda e: {**e, "signatures": {}}
    ),
    "a create event signed by nobody we know": lambda p, r, a: _in(
        a,
        "m.room.create",
        lambda e: Signer(p.name).sign_event({**e, "signatures": {}}, r.version),
    ),
    "a create event of another version": lambda p, r, a: _in(
        a, "m.room.create", _resigned(p, r, room_version="9")
    ),
    "the state of another room": lambda p, r, a: {
        **a,
        "state": _other_room(p, r.version).state_events(),
        "auth_chain": _other_room(p, r.version).state_events(),
    },
    "an error page": lambda p, r, a: web.Response(status=200, text="<html>busy</html>"),
    "an error": lambda p, r, a: web.json_response({"errcode": "M_UNKNOWN", "error": "no"}, status=500),
    "a ban": lambda p, r, a: {**a, "state": [*a["state"], _banned(p, r, a)], "auth_chain": a["auth_chain"]},
}


def _banned(peer: Peer, room: Room, answer: Json) -> Json:
    """A good ban of the one who joins: with it in the state, no join is allowed."""
    with room.aside():
        room.state = {key: value for key, value in room.state.items() if key[0] != "m.room.member"} | {
            key: value for key, value in room.state.items() if key[1] == peer.user("mallory")
        }
        draft = room.draft("m.room.member", peer.user("mallory"), {"membership": "ban"}, answer["joiner"])
        return peer.signer.sign_event(draft, room.version)


@VERSIONS
@pytest.mark.parametrize("spoil", IMPOSSIBLE.values(), ids=IMPOSSIBLE.keys())
async def test_impossible_state(peer: Peer, alice: Client, version: str, spoil: Spoil) -> None:
    room = peer.create_room(version)
    peer.aliases[f"#honest:{peer.name}"] = room.room_id
    peer.lies["send_join"] = lambda _asked, honest: spoil(peer, room, {**honest, "joiner": alice.user_id})
    if await _joins(alice, f"#honest:{peer.name}"):
        deviates(alice.server, "joins all the same")
        raise AssertionError("joined a room that cannot be")
    await _no_trace(alice, room)
    await _honest_join_works(alice, peer, room)


def _forged_levels(peer: Peer, room: Room, answer: Json) -> Json:
    """Power levels by somebody who has none, in place of the real ones."""
    nobody = peer.user("nobody")
    forged = room.draft("m.room.power_levels", nobody, {"users": {nobody: 100}, "users_default": 100}, "")
    return _replaced(answer, peer.signer.sign_event(forged, room.version))


def _replaced(answer: Json, event: Json) -> Json:
    state = [e for e in answer["state"] if (e["type"], e["state_key"]) != (event["type"], event["state_key"])]
    return {**answer, "state": [*state, event]}


def _added(peer: Peer, room: Room, answer: Json, event: Json, *, sign: bool = True) -> Json:
    signed = peer.signer.sign_event(event, room.version) if sign else event
    return {**answer, "state": [*answer["state"], signed]}


#: State that holds one forged event: it is believed by nobody, whatever becomes of the join.
FORGED: dict[str, Spoil] = {
    "power levels by nobody": _forged_levels,
    "power levels that are not signed": lambda p, r, a: _in(
        a, "m.room.power_levels", lambda e: {**_resigned(p, r, users_default=100)(e), "signatures": {}}
    ),
    "power levels signed by another key": lambda p, r, a: _in(
        a,
        "m.room.power_levels",
        lambda e: Signer(p.name).sign_event(
            {**e, "content": {**e["content"], "users_default": 100}, "signatures": {}}, r.version
        ),
    ),
    "power levels changed after signing": lambda p, r, a: _in(
        a, "m.room.power_levels", lambda e: {**e, "content": {**e["content"], "users_default": 100}}
    ),
    "a name by nobody": lambda p, r, a: _added(
        p, r, a, r.draft("m.room.name", p.user("nobody"), {"name": "forged"}, "")
    ),
    "a name in the name of the joiner": lambda p, r, a: _added(
        p, r, a, r.draft("m.room.name", a["joiner"], {"name": "forged"}, "")
    ),
    "a name that is not signed": lambda p, r, a: _added(
        p, r, a, r.draft("m.room.name", p.user("mallory"), {"name": "forged"}, ""), sign=False
    ),
    "a name of another room": lambda p, r, a: _added(
        p, r, a, r.draft("m.room.name", p.user("mallory"), {"name": "forged"}, "") | {"room_id": "!x:y"}
    ),
    "a name with a float": lambda p, r, a: _added(
        p, r, a, r.draft("m.room.name", p.user("mallory"), {"name": "forged", "n": 1.5}, "")
    ),
    "a name of 70,000 bytes": lambda p, r, a: _added(
        p, r, a, r.draft("m.room.name", p.user("mallory"), {"name": "forged", "x": "x" * 70_000}, "")
    ),
    "a name without auth events": lambda p, r, a: _added(
        p, r, a, r.draft("m.room.name", p.user("mallory"), {"name": "forged"}, "", auth_events=[])
    ),
    "a member by nobody": lambda p, r, a: _added(
        p, r, a,
        r.draft("m.room.member", p.user("nobody"), {"membership": "join", "x": "forged"}, p.user("other")),
    ),
    "two names": lambda p, r, a: _added(
        p, r, _added(p, r, a, r.draft("m.room.name", p.user("mallory"), {"name": "good"}, "")),
        r.draft("m.room.name", p.user("nobody"), {"name": "forged"}, ""),
    ),
    "a message in the state": lambda p, r, a: _added(
        p, r, a, r.message(p.user("mallory"), "forged")
    ),
}  # fmt: skip


@VERSIONS
@pytest.mark.parametrize("spoil", FORGED.values(), ids=FORGED.keys())
async def test_forged_state(peer: Peer, alice: Client, version: str, spoil: Spoil) -> None:
    room = peer.create_room(version)
    peer.aliases[f"#honest:{peer.name}"] = room.room_id
    peer.lies["send_join"] = lambda _asked, honest: spoil(peer, room, {**honest, "joiner": alice.user_id})
    if not await _joins(alice, f"#honest:{peer.name}"):
        await _no_trace(alice, room)
        await _honest_join_works(alice, peer, room)
    for key, event_id in (await alice.state(room.room_id)).items():
        if key != ("m.room.member", alice.user_id):
            assert room.state.get(key) == event_id or key == ("m.room.name", "")
    levels = await _content(alice, room, "m.room.power_levels")
    if levels.get("users_default", 0) != 0:
        deviates(alice.server, "believes it")
    assert levels.get("users_default", 0) == 0
    name = (await _content(alice, room, "m.room.name")).get("name")
    if name == "forged":
        deviates(alice.server, "believes it")
    assert name in (None, "good")
    if not levels:
        deviates(alice.server, "cannot read a room without power levels")
    texts = [e["content"].get("body") for e in await alice.history(room.room_id)]
    assert "forged" not in texts


def _template(**changes: object) -> Spoil:
    return lambda p, r, a: {**a, "event": {**a["event"], **changes}}


BAD_TEMPLATES: dict[str, Spoil] = {
    "power levels": _template(type="m.room.power_levels", state_key="", content={"users_default": 100}),
    "a message": _template(type="m.room.message", content={"msgtype": "m.text", "body": "I owe you"}),
    "a leave": _template(content={"membership": "leave"}),
    "another sender": _template(sender="@carol:localhost:1"),
    "another state key": _template(state_key="@carol:localhost:1"),
    "another room": _template(room_id="!elsewhere:localhost:1"),
    "extra content": _template(content={"membership": "join", "org.example.contract": "I owe you"}),
    "extra keys": _template(**{"org.example.contract": "I owe you"}),
    "an old time": _template(origin_server_ts=1),
    "a depth without end": _template(depth=2**62),
    "previous events of another kind": _template(prev_events=[1, {}, []]),
    "no previous events": _template(prev_events=[]),
    "nothing": lambda p, r, a: {"room_version": r.version},
    "a list": lambda p, r, a: [],
    "no version": lambda p, r, a: {"event": a["event"]},
    "an unknown version": lambda p, r, a: {**a, "room_version": "org.example.none"},
    "a version that is a number": lambda p, r, a: {**a, "room_version": 12},
}


@pytest.mark.parametrize("spoil", BAD_TEMPLATES.values(), ids=BAD_TEMPLATES.keys())
async def test_template_that_lies(peer: Peer, alice: Client, here: Homeserver, spoil: Spoil) -> None:
    """Whatever the template says, nothing but a plain join of this user is ever signed."""
    room = peer.create_room("11")
    peer.aliases[f"#honest:{peer.name}"] = room.room_id
    signed: list[Json] = []

    def keep(asked: Asked, honest: Any) -> Any:
        signed.append(asked.body)
        return honest

    peer.lies["make_join"] = lambda _asked, honest: spoil(peer, room, honest)
    peer.lies["send_join"] = keep
    if not await _joins(alice, f"#honest:{peer.name}"):
        await _no_trace(alice, room)
    for event in signed:
        if event.get("content", {}).keys() - {"membership", "displayname", "avatar_url"}:
            deviates(here, "signs content from the template")
        if "I owe you" in str(event):
            deviates(here, "signs what the template holds")
        assert "I owe you" not in str(event)
        assert event["type"] == "m.room.member"
        assert event["sender"] == event["state_key"] == alice.user_id
        assert event["room_id"] == room.room_id
        assert event["content"]["membership"] == "join"
        assert wire.verifies(wire.redacted(event, "11"), here.name, *await _key_of(peer, event, here.name))
    # What was signed for a liar may come back as unknown ends of the history; a fresh room is untouched.
    fresh = peer.create_room("11")
    peer.aliases[f"#honest:{peer.name}"] = fresh.room_id
    await _honest_join_works(alice, peer, fresh)


async def _key_of(peer: Peer, event: Json, server: str) -> tuple[str, str]:
    (key_id,) = event["signatures"][server]
    return key_id, (await peer.keys_of(server))["verify_keys"][key_id]["key"]


async def test_history_that_is_forged(peer: Peer, alice: Client) -> None:
    """Backfill: events that are not signed, of another room, or out of nowhere are not shown."""
    room = peer.create_room("11")
    mallory = peer.user("mallory")
    other = peer.create_room("11")
    for number in range(5):
        room.add(peer.signer.sign_event(room.message(mallory, f"good {number}"), "11"))
    forged = [
        room.message(mallory, "forged 1"),
        Signer(peer.name).sign_event(room.message(mallory, "forged 2"), "11"),
        peer.signer.sign_event(other.message(mallory, "forged 3"), "11"),
        peer.signer.sign_event(room.message(alice.user_id, "forged 4"), "11"),
        peer.signer.sign_event(room.message(peer.user("nobody"), "forged 5"), "11"),
    ]
    peer.lies["backfill"] = lambda _asked, honest: {**honest, "pdus": [*forged, *honest["pdus"]]}
    await alice.join(room.room_id, peer)
    bodies = [e["content"].get("body", "") for e in await alice.history(room.room_id)]
    assert [body for body in bodies if body.startswith("forged")] == []
    if not any(bodies):
        deviates(alice.server, "drops the whole answer for one event of another room")
    assert [body for body in bodies if body.startswith("good")] == [f"good {n}" for n in (4, 3, 2, 1, 0)]
