"""Events that break the rules: each is refused by itself, and its neighbours are not.

Runs against comity alone; the peer is `peer.py`. Server-server §Checks performed on
receipt of a PDU, in its order.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.interop import wire
from tests.interop.client import Client, MakeUser
from tests.interop.hostile import STRANGER, Scene, deviates, set_scene
from tests.interop.peer import Peer, uri
from tests.interop.peer_room import now_ms
from tests.interop.servers import Homeserver
from tests.interop.wire import Json, Signer

pytestmark = pytest.mark.xdist_group("interop-peer")

Spoil = Callable[[Scene], Json]

DAY_MS = 24 * 3600 * 1000
#: Client-server §Size limits.
MAX_EVENT_BYTES = 65_536


@pytest.fixture
async def alice(here: Homeserver, user: MakeUser) -> Client:
    return await user(here, "alice")


@pytest.fixture(params=["12", "10", "6"], ids=["v12", "v10", "v6"])
async def scene(request: pytest.FixtureRequest, here: Homeserver, peer: Peer, alice: Client) -> Scene:
    return await set_scene(here, peer, alice, str(request.param))


def _content(**content: object) -> Spoil:
    return lambda s: s.sign(s.room.draft("m.room.message", s.mallory, {"body": "x", **content}))


def _with(**changes: object) -> Spoil:
    return lambda s: s.message("x", **changes)


def _after_signing(**changes: object) -> Spoil:
    def spoil(s: Scene) -> Json:
        event = {**s.message("x"), **changes}
        return {key: value for key, value in event.items() if value is not None}

    return spoil


def _of_size(s: Scene, size: int) -> Json:
    """A message whose canonical form has exactly this many bytes."""
    event = s.message("x" * 1000)
    body = "x" * (1000 + size - len(wire.canonical(event)))
    event = s.message(body)
    # The depth and time may have got another digit.
    event = s.message(body + "x" * (size - len(wire.canonical(event))))
    assert len(wire.canonical(event)) == size
    return event


def _nested(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = [value]
    return value


#: Not of the room version's event format: dropped.
MALFORMED: dict[str, Spoil] = {
    "a float": _content(number=1.5),
    "a float deep inside": _content(list=[{"number": [1.0e3]}]),
    "an integer beyond 2^53": _content(number=2**53),
    "an integer below -2^53": _content(number=-(2**53)),
    "one byte too large": lambda s: _of_size(s, MAX_EVENT_BYTES + 1),
    "much too large": lambda s: s.message("x" * 200_000),
    "a type of 256 bytes": _with(type="x" * 256),
    "a type of 130 characters in 260 bytes": _with(type="ü" * 130),
    "a state key of 256 bytes": _with(state_key="x" * 256),
    "no type": _with(type=None),
    "a type that is a number": _with(type=5),
    "no content": lambda s: s.sign(s.message("x"), rehash=False) | {"content": None},
    "content that is a list": _after_signing(content=["x"]),
    "content that is text": _after_signing(content="x"),
    "no sender": _after_signing(sender=None),
    "a sender that is no user id": _with(sender="mallory"),
    "a sender that is a number": _after_signing(sender=5),
    "a state key that is a number": _with(state_key=5),
    "no prev_events": _with(prev_events=None),
    "prev_events that is text": _with(prev_events="x"),
    "prev_events of numbers": _with(prev_events=[1, 2]),
    "21 prev_events": _with(prev_events=[f"$missing{number}" for number in range(21)]),
    "no auth_events": _with(auth_events=None),
    "auth_events of objects": _with(auth_events=[{}]),
    "11 auth_events": _with(auth_events=[f"$missing{number}" for number in range(11)]),
    "no depth": _with(depth=None),
    "a negative depth": _with(depth=-1),
    "a depth that is text": _with(depth="7"),
    "a depth beyond 2^53": _with(depth=2**60),
    "a depth that is true": _with(depth=True),
    "no origin_server_ts": _with(origin_server_ts=None),
    "an origin_server_ts that is text": _with(origin_server_ts="now"),
    "no hashes": _after_signing(hashes=None),
    "hashes that is a list": _after_signing(hashes=[]),
    "a room id that is a number": _with(room_id=7),
    "no room id": _with(room_id=None),
}


@pytest.mark.parametrize("spoil", MALFORMED.values(), ids=MALFORMED.keys())
async def test_malformed_event_is_dropped(scene: Scene, spoil: Spoil) -> None:
    bad = spoil(scene)
    good = scene.message("good")
    answer = await scene.send(bad, good)
    assert answer.status == 200, answer
    assert answer.body["pdus"][scene.room.add(good)] == {}
    await scene.alice.hears(scene.room_id, "good")
    assert bad.get("content", {}) == {} or "x" not in scene.alice.texts(scene.room_id)
    bodies = [e["content"].get("body", "") for e in await scene.alice.history(scene.room_id, page=100)]
    assert not [body for body in bodies if body.startswith("x")]


#: Signed wrongly: dropped.
BADLY_SIGNED: dict[str, Spoil] = {
    "no signatures": _after_signing(signatures=None),
    "empty signatures": _after_signing(signatures={}),
    "signatures that is text": _after_signing(signatures="x"),
    "signed by another key under our id": lambda s: Signer(s.peer.name).sign_event(
        s.room.message(s.mallory, "x"), s.room.version
    ),
    "signed by a key that we do not publish": lambda s: Signer(s.peer.name, "ed25519:other").sign_event(
        s.room.message(s.mallory, "x"), s.room.version
    ),
    "changed after signing": lambda s: s.message("x") | {"depth": 99},
    "another hash after signing": lambda s: s.message("x") | {"hashes": {"sha256": wire.content_hash({})}},
    "in the name of alice": lambda s: s.sign(s.room.message(s.alice.user_id, "x")),
    "in the name of a third server": lambda s: s.sign(s.room.message("@carol:localhost:1", "x")),
    "a signature that is no base64": lambda s: (
        s.message("x") | {"signatures": {s.peer.name: {s.peer.signer.key_id: "!!!"}}}
    ),
    "a signature that is a number": lambda s: (
        s.message("x") | {"signatures": {s.peer.name: {s.peer.signer.key_id: 7}}}
    ),
    "a signature cut short": lambda s: (
        s.message("x") | {"signatures": {s.peer.name: {s.peer.signer.key_id: "AAAA"}}}
    ),
}


@pytest.mark.parametrize("spoil", BADLY_SIGNED.values(), ids=BADLY_SIGNED.keys())
async def test_badly_signed_event_is_dropped(scene: Scene, spoil: Spoil) -> None:
    bad = spoil(scene)
    answer = await scene.send(bad)
    assert answer.status == 200, answer
    result = answer.body["pdus"].get(scene.room.event_id(bad))
    assert result is None or result.get("error"), answer
    await scene.absent(bad)
    await scene.still_works()


async def test_wrong_hash_means_redacted(scene: Scene) -> None:
    """A content that is not what was hashed: only the redacted event counts (step 3)."""
    event = scene.message("honest")
    event["content"] = {**event["content"], "body": "changed on the way"}
    answer = await scene.send(event)
    assert (answer.status, answer.body) == (200, {"pdus": {scene.room.add(event): {}}})
    told = await scene.alice.sees_event(scene.room_id, scene.room.event_id(event))
    assert told["content"] == {}
    answer = await scene.peer.request("GET", scene.server.name, uri("event", scene.room.event_id(event)))
    assert answer.status == 200
    (kept,) = answer.body["pdus"]
    assert kept["content"] == {}
    assert scene.room.event_id(kept) == scene.room.event_id(event)


async def test_largest_and_strangest_allowed(scene: Scene) -> None:
    """The limits themselves are inside: 65,536 bytes, 2^53-1, 255 bytes, NUL, a hundred levels."""
    odd = scene.message("odd", content={"body": "a\0b\u2028\U0001f600", "n": 2**53 - 1, "deep": _nested(100)})
    answer = await scene.send(odd)
    assert (answer.status, answer.body) == (200, {"pdus": {scene.room.add(odd): {}}})
    told = await scene.alice.sees_event(scene.room_id, scene.room.event_id(odd))
    assert told["content"] == odd["content"]
    long_type = scene.message("x", type="t" * 255)
    answer = await scene.send(long_type)
    assert (answer.status, answer.body) == (200, {"pdus": {scene.room.add(long_type): {}}})
    await scene.alice.sees_event(scene.room_id, scene.room.event_id(long_type))
    deviates(scene.server, "counts an empty `unsigned` that nobody sent")
    large = _of_size(scene, MAX_EVENT_BYTES)
    answer = await scene.send(large)
    assert (answer.status, answer.body) == (200, {"pdus": {scene.room.add(large): {}}})
    assert (await scene.alice.sees_event(scene.room_id, scene.room.event_id(large)))["content"] == large[
        "content"
    ]


async def test_floats_were_allowed_before_version_6(here: Homeserver, peer: Peer, alice: Client) -> None:
    scene = await set_scene(here, peer, alice, "5")
    event = scene.message("float", content={"body": "float", "number": 1.5, "small": 1e-7, "large": 1e21})
    answer = await scene.send(event)
    assert (answer.status, answer.body) == (200, {"pdus": {scene.room.add(event): {}}})
    told = await scene.alice.sees_event(scene.room_id, scene.room.event_id(event))
    assert told["content"] == event["content"]


def _levels(s: Scene, **users: int) -> Json:
    return s.sign(s.room.draft("m.room.power_levels", s.mallory, {"users": {s.mallory: 100, **users}}, ""))


def _member(s: Scene, sender: str, target: str, membership: str, **changes: object) -> Json:
    return s.sign(s.room.draft("m.room.member", sender, {"membership": membership}, target, **changes))


def _auth_without(s: Scene, kind: str) -> list[object]:
    kept = [
        i for i in s.room.auth_for("m.room.message", s.mallory, {}, None) if s.room.events[i]["type"] != kind
    ]
    return wire.references(kept, s.room.events, s.room.version)


#: Against the authorization rules: rejected.
UNAUTHORIZED: dict[str, Spoil] = {
    "power for herself": _levels,
    "a topic without the power": lambda s: s.sign(
        s.room.draft("m.room.topic", s.mallory, {"topic": "x"}, "")
    ),
    "a second create event": lambda s: s.sign(
        s.room.draft("m.room.create", s.mallory, {"room_version": s.room.version, "creator": s.mallory}, "")
    ),
    "a kick without the power": lambda s: _member(s, s.mallory, s.alice.user_id, "leave"),
    "a ban without the power": lambda s: _member(s, s.mallory, s.alice.user_id, "ban"),
    "a join for somebody else": lambda s: _member(s, s.mallory, s.peer.user("other"), "join"),
    "a membership that does not exist": lambda s: _member(s, s.mallory, s.mallory, "owner"),
    "a message of a stranger": lambda s: s.sign(s.room.message(s.peer.user(STRANGER), "x")),
    "state under another user's name": lambda s: s.sign(
        s.room.draft("org.example.mine", s.mallory, {}, s.alice.user_id)
    ),
    "no membership among the auth events": lambda s: s.message(
        "x", auth_events=_auth_without(s, "m.room.member")
    ),
    "no auth events at all": lambda s: s.message("x", auth_events=[]),
    "auth events that nobody has": lambda s: s.message("x", auth_events=["$" + "A" * 43]),
    "a superfluous auth event": lambda s: s.message(
        "x",
        auth_events=[
            *s.room.auth_for("m.room.message", s.mallory, {}, None),
            s.room.state["m.room.history_visibility", ""],
        ],
    ),
    "no previous events": lambda s: s.sign(s.room.message(s.mallory, "x", prev_events=[])),
}


@pytest.mark.parametrize("spoil", UNAUTHORIZED.values(), ids=UNAUTHORIZED.keys())
async def test_unauthorized_event_is_rejected(scene: Scene, spoil: Spoil) -> None:
    before = await scene.alice.state(scene.room_id)
    bad = spoil(scene)
    answer = await scene.send(bad)
    assert answer.status == 200, answer
    await scene.still_works()
    await scene.absent(bad, also_for_servers=False)
    assert await scene.alice.state(scene.room_id) == before


async def test_standing_on_a_forged_power_event(scene: Scene) -> None:
    """The forged power event is offered on request: what stands on it falls with it."""
    forged = _levels(scene)
    forged_id = scene.room.event_id(forged)
    before = await scene.alice.state(scene.room_id)
    auth = [
        i for i in scene.room.auth_for("m.room.topic", scene.mallory, {}, "")
        if scene.room.events[i]["type"] != "m.room.power_levels"
    ]  # fmt: skip
    topic = scene.sign(
        scene.room.draft(
            "m.room.topic", scene.mallory, {"topic": "mine"}, "", prev_events=[forged_id],
            auth_events=[*auth, forged_id],
        )
    )  # fmt: skip
    with scene.room.aside():
        scene.room.add(forged)
        scene.room.add(topic)
        answer = await scene.send(topic)
        assert answer.status == 200, answer
    await scene.still_works()
    for event in (forged, topic):
        await scene.absent(event, also_for_servers=False)
    assert await scene.alice.state(scene.room_id) == before


async def test_auth_events_of_another_room(scene: Scene) -> None:
    """mallory has all the power in a room of her own, which is no help in this one."""
    other = await set_scene(scene.server, scene.peer, scene.alice, scene.room.version)
    auth = [
        i if other.room.events[i]["type"] == "m.room.member" else scene.room.state[kind, ""]
        for i in other.room.auth_for("m.room.message", scene.mallory, {}, None)
        for kind in [other.room.events[i]["type"]]
    ]
    bad = scene.message("x", auth_events=auth)
    answer = await scene.send(bad)
    assert answer.status == 200, answer
    await scene.absent(bad, also_for_servers=False)
    await scene.still_works()


async def test_message_from_before_the_ban(scene: Scene) -> None:
    """It passes at its place in the history and not today: soft-failed, so nobody is told."""
    late = scene.message("sent while banned")
    await scene.alice.ban(scene.room_id, scene.mallory)
    answer = await scene.send(late)
    assert answer.status in (200, 403), answer
    await scene.alice.send(scene.room_id, "in peace")
    await scene.alice.hears(scene.room_id, "in peace")
    assert "sent while banned" not in scene.alice.texts(scene.room_id)
    bodies = [e["content"].get("body") for e in await scene.alice.history(scene.room_id)]
    assert "sent while banned" not in bodies


async def test_history_that_the_peer_will_not_show(scene: Scene) -> None:
    """The event before is withheld: without it nothing is known of this one's state."""
    scene.peer.lies["get_missing_events"] = lambda _asked, _honest: {"events": []}
    for what in ("event", "state", "state_ids", "backfill", "event_auth"):
        scene.peer.lies[what] = lambda _asked, _honest: None
    hidden = scene.message("hidden")
    with scene.room.aside():
        scene.room.add(hidden)
        shown = scene.message("shown")
        answer = await scene.send(shown)
        assert answer.status == 200, answer
    await scene.still_works()
    await scene.absent(shown, also_for_servers=False)


@pytest.mark.parametrize("lie", ["another event", "junk", "endless"])
async def test_lies_about_missing_events(scene: Scene, lie: str) -> None:
    """Asked for what is missing, the peer answers with something else."""
    if lie == "endless":
        deviates(scene.server, "works through all that it is given, however much it asked for")
    hidden = scene.message("hidden")
    substitute = scene.message("substituted")
    with scene.room.aside():
        scene.room.add(hidden)
        shown = scene.message("shown")
    forged = hidden | {"content": {"msgtype": "m.text", "body": "substituted"}, "depth": 77}
    answers: dict[str, list[object]] = {
        "another event": [substitute, forged],
        "junk": [7, None, "x", [], {}, {"type": "m.room.message"}],
        "endless": [scene.message(f"filler {number}") for number in range(2000)],
    }
    scene.peer.lies["get_missing_events"] = lambda _asked, _honest: {"events": answers[lie]}
    for what in ("event", "state", "state_ids", "backfill"):
        scene.peer.lies[what] = lambda _asked, _honest: None
    answer = await scene.send(shown)
    assert answer.status == 200, answer
    await scene.still_works()
    await scene.absent(shown, also_for_servers=False)
    await scene.absent(forged)


@pytest.mark.parametrize("version", ["12", "6"], ids=["v12", "v6"])
async def test_expired_key_signs_no_new_event(
    here: Homeserver, peer: Peer, alice: Client, version: str
) -> None:
    """`old_verify_keys` vouch for what was written before they expired, and for nothing later."""
    old = Signer(peer.name, "ed25519:old")
    expired = now_ms() - DAY_MS
    document = peer.key_document(old_verify_keys={old.key_id: {"expired_ts": expired, "key": old.public}})
    peer.lies["key"] = lambda _asked, _honest: document
    scene = await set_scene(here, peer, alice, version)
    late = old.sign_event(scene.room.message(scene.mallory, "late"), version)
    answer = await scene.send(late)
    assert answer.status == 200, answer
    await scene.absent(late)
    timely = scene.room.message(scene.mallory, "timely", origin_server_ts=expired - DAY_MS)
    timely = old.sign_event(timely, version)
    answer = await scene.send(timely)
    assert (answer.status, answer.body) == (200, {"pdus": {scene.room.add(timely): {}}})
    await scene.alice.sees_event(scene.room_id, scene.room.event_id(timely))


async def test_key_is_not_valid_forever(scene: Scene) -> None:
    """From room version 5 a key counts until `valid_until_ts`, and never more than 7 days ahead."""
    document = scene.peer.key_document(valid_until_ts=now_ms() + 1000 * DAY_MS)
    scene.peer.lies["key"] = lambda _asked, _honest: document
    future = scene.message("from the future", origin_server_ts=now_ms() + 30 * DAY_MS)
    answer = await scene.send(future)
    assert answer.status == 200, answer
    deviates(scene.server, "takes a key for as long as its document says")
    await scene.absent(future)
    await scene.still_works()
