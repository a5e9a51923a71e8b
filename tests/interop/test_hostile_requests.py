"""Requests that a server must refuse: forged, malformed, too large, about rooms that are not theirs.

Runs against comity alone; the peer is `peer.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest

from tests.interop import wire
from tests.interop.client import Client, MakeUser
from tests.interop.hostile import STRANGER, Scene, deviates, set_scene
from tests.interop.peer import Answer, Peer, uri
from tests.interop.peer_room import now_ms
from tests.interop.servers import Homeserver
from tests.interop.wire import Json, Signer

pytestmark = pytest.mark.xdist_group("interop-peer")

#: Server-server §Transactions.
MOST_PDUS, MOST_EDUS = 50, 100
#: Deeper than any parser should follow.
ABYSS = 100_000
VERSION = uri("version")


@pytest.fixture
async def alice(here: Homeserver, user: MakeUser) -> Client:
    return await user(here, "alice")


@pytest.fixture
async def scene(here: Homeserver, peer: Peer, alice: Client) -> Scene:
    return await set_scene(here, peer, alice, "12")


def _refused(answer: Answer, status: int, code: str) -> None:
    assert (answer.status, answer.errcode) == (status, code), answer
    assert answer.body["error"]


# Who is asking: server-server §Request Authentication

Header = Callable[[Peer, str, str], str]
PROFILE = uri("query", "profile") + "?user_id="

BAD_HEADERS: dict[str, Header] = {
    "none": lambda p, to, at: "",
    "another scheme": lambda p, to, at: "Bearer abcdef",
    "the scheme alone": lambda p, to, at: "X-Matrix",
    "no parameters": lambda p, to, at: "X-Matrix ",
    "no equals sign": lambda p, to, at: "X-Matrix origin,destination,key,sig",
    "an open quote": lambda p, to, at: f'X-Matrix origin="{p.name}',
    "no origin": lambda p, to, at: p.authorization("GET", at, to, origin=None),
    "no key": lambda p, to, at: p.authorization("GET", at, to, key=None),
    "no signature": lambda p, to, at: p.authorization("GET", at, to, sig=None),
    "an empty signature": lambda p, to, at: p.authorization("GET", at, to, sig=""),
    "a signature that is no base64": lambda p, to, at: p.authorization("GET", at, to, sig="%%%"),
    "a signature of zeroes": lambda p, to, at: p.authorization("GET", at, to, sig="A" * 86),
    "an unknown key": lambda p, to, at: p.authorization("GET", at, to, key="ed25519:unknown"),
    "a key of another kind": lambda p, to, at: p.authorization("GET", at, to, key="rsa:peer"),
    "another destination": lambda p, to, at: p.authorization("GET", at, "localhost:1"),
    "another destination than signed": lambda p, to, at: p.authorization(
        "GET", at, to, destination="localhost:1"
    ),
    "signed for another path": lambda p, to, at: p.authorization("GET", VERSION, to),
    "signed for another method": lambda p, to, at: p.authorization("PUT", at, to),
    "signed with a body that is not there": lambda p, to, at: p.authorization("GET", at, to, {"a": 1}),
    "an origin that does not answer": lambda p, to, at: p.authorization("GET", at, to, origin="localhost:1"),
    "an origin that is no server name": lambda p, to, at: p.authorization("GET", at, to, origin="a b/../c"),
    "the receiver as origin": lambda p, to, at: p.authorization("GET", at, to, origin=to),
    "a header of 7,000 bytes": lambda p, to, at: "X-Matrix " + "a=b," * 1750,
}


@pytest.mark.parametrize("header", BAD_HEADERS.values(), ids=BAD_HEADERS.keys())
async def test_bad_authorization(here: Homeserver, peer: Peer, alice: Client, header: Header) -> None:
    at = PROFILE + quote(alice.user_id, safe="")
    answer = await peer.request("GET", here.name, at, header=header(peer, here.name, at))
    if answer.status == 400:
        deviates(here, "answers a malformed header with 400")
    _refused(answer, 401, "M_UNAUTHORIZED")


GOOD_HEADERS: dict[str, Callable[[str], str]] = {
    "as it is": lambda h: h,
    "parameters in another order": lambda h: "X-Matrix " + ",".join(reversed(h[9:].split(","))),
    "names in capitals": lambda h: h.replace("origin=", "ORIGIN=").replace("sig=", "Sig="),
    "spaces around commas": lambda h: h.replace(",", " ,\t"),
    "an unknown parameter": lambda h: h + ',future="yes, \\"really\\""',
    "escapes": lambda h: h.replace('key="ed25519:', 'key="\\e\\d25519:'),
    "more spaces behind the scheme": lambda h: h.replace("X-Matrix ", "X-Matrix   "),
    "values without quotes": lambda h: h.replace('key="ed25519:peer"', "key=ed25519:peer"),
    "no destination": lambda h: ",".join(part for part in h.split(",") if "destination" not in part),
}


@pytest.mark.parametrize("change", GOOD_HEADERS.values(), ids=GOOD_HEADERS.keys())
async def test_unusual_but_good_authorization(
    here: Homeserver, peer: Peer, alice: Client, change: Callable[[str], str]
) -> None:
    at = PROFILE + quote(alice.user_id, safe="")
    header = change(peer.authorization("GET", at, here.name))
    answer = await peer.request("GET", here.name, at, header=header)
    if "future" in header:
        deviates(here, "does not know commas inside quotes")
    assert answer.status == 200, answer


async def test_body_is_covered_by_the_signature(scene: Scene) -> None:
    peer, message = scene.peer, scene.message("tampered")
    at = uri("send", "tampered")
    signed = peer.transaction([])
    raw = wire.canonical({**signed, "pdus": [message]})
    answer = await peer.request("PUT", scene.server.name, at, signed, raw=raw)
    _refused(answer, 401, "M_UNAUTHORIZED")
    await scene.absent(message)
    await scene.still_works()


KEY_LIES: dict[str, Callable[[Peer], Any]] = {
    "expired": lambda p: p.key_document(valid_until_ts=now_ms() - 1000),
    "for another server": lambda p: p.key_document(server_name="localhost:1"),
    "not signed": lambda p: p.key_document() | {"signatures": {}},
    "signed by another key": lambda p: Signer(p.name).sign(p.key_document() | {"signatures": {}}),
    "changed after signing": lambda p: p.key_document() | {"valid_until_ts": now_ms() + 10_000_000},
    "without our key": lambda p: p.signer.sign({**p.key_document(), "verify_keys": {}, "signatures": {}}),
    "our key among the old ones": lambda p: p.key_document(
        verify_keys={}, old_verify_keys={p.signer.key_id: {"key": p.signer.public, "expired_ts": 1}}
    ),
    "a key that is no key": lambda p: p.key_document(verify_keys={p.signer.key_id: {"key": "AAAA"}}),
    "a list": lambda p: [],
    "numbers": lambda p: {"server_name": 1, "verify_keys": 2, "valid_until_ts": "x", "signatures": 3},
    "nothing": lambda p: None,
}


@pytest.mark.parametrize("lie", KEY_LIES.values(), ids=KEY_LIES.keys())
async def test_untrustworthy_key_document(
    here: Homeserver, peer: Peer, alice: Client, lie: Callable[[Peer], Any]
) -> None:
    peer.lies["key"] = lambda _asked, _honest: lie(peer)
    at = PROFILE + quote(alice.user_id, safe="")
    _refused(await peer.request("GET", here.name, at), 401, "M_UNAUTHORIZED")


# What is said: bodies that are not what they must be

NOT_JSON: dict[str, bytes] = {
    "text": b"hello",
    "cut short": b'{"pdus": [',
    "behind the end": b'{"pdus": []} {}',
    "not UTF-8": b'{"pdus": ["\xff\xfe"]}',
    "NaN": b'{"pdus": [], "x": NaN}',
    "a lone surrogate": b'{"pdus": [], "x": "\\ud800"}',
    "a raw newline in a string": b'{"pdus": [], "x": "\n"}',
    "nested without end": b"[" * ABYSS,
    "nested deeply": b'{"pdus": ' + b"[" * ABYSS + b"]" * ABYSS + b"}",
    "objects nested deeply": b'{"a":' * ABYSS + b"1" + b"}" * ABYSS,
}


@pytest.mark.parametrize("raw", NOT_JSON.values(), ids=NOT_JSON.keys())
async def test_transaction_that_is_not_json(scene: Scene, raw: bytes) -> None:
    at = uri("send", "not-json")
    answer = await scene.peer.request("PUT", scene.server.name, at, scene.peer.transaction([]), raw=raw)
    if answer.status == 500:
        deviates(scene.server, "answers a lone surrogate with 500")
    assert answer.status == 400, answer
    assert answer.errcode in ("M_NOT_JSON", "M_BAD_JSON"), answer
    await scene.still_works()


BAD_TRANSACTIONS: dict[str, Callable[[Scene], Any]] = {
    "a list": lambda s: [],
    "a number": lambda s: 7,
    "pdus that are text": lambda s: s.peer.transaction([]) | {"pdus": "x"},
    "pdus that are an object": lambda s: s.peer.transaction([]) | {"pdus": {"a": s.message("good")}},
    "edus that are text": lambda s: s.peer.transaction([s.message("good")]) | {"edus": "x"},
    "51 pdus": lambda s: s.peer.transaction([s.message("good", depth=n) for n in range(MOST_PDUS + 1)]),
    "101 edus": lambda s: s.peer.transaction(
        [s.message("good")], [{"edu_type": "org.example", "content": {}}] * (MOST_EDUS + 1)
    ),
}


@pytest.mark.parametrize("make", BAD_TRANSACTIONS.values(), ids=BAD_TRANSACTIONS.keys())
async def test_transaction_of_the_wrong_shape(scene: Scene, make: Callable[[Scene], Any]) -> None:
    body = make(scene)
    answer = await scene.peer.request("PUT", scene.server.name, uri("send", "shape"), body)
    if answer.status != 400 or answer.errcode not in ("M_BAD_JSON", "M_INVALID_PARAM"):
        deviates(scene.server, f"answers this with {answer.status} {answer.errcode}")
    assert answer.status == 400, answer
    assert answer.errcode in ("M_BAD_JSON", "M_INVALID_PARAM"), answer
    await scene.still_works()
    assert "good" not in scene.alice.texts(scene.room_id)


async def test_pdus_that_are_no_events(scene: Scene) -> None:
    junk: list[Any] = [7, None, "x", [], {}, {"room_id": scene.room_id}, {"room_id": 7}, {"type": "x"}]
    if scene.server.software == "synapse":
        junk = [item for item in junk if isinstance(item, dict)]
    message = scene.message("among junk")
    answer = await scene.send(*junk, message)
    assert answer.status == 200, answer
    assert answer.body["pdus"][scene.room.add(message)] == {}
    await scene.alice.hears(scene.room_id, "among junk")
    await scene.still_works()


async def test_edus_that_are_junk(scene: Scene) -> None:
    server, alice = scene.server.name, scene.alice.user_id
    junk: list[Any] = [
        {"edu_type": "org.example.unknown", "content": {"a": 1}},
        {"edu_type": "m.typing", "content": {"room_id": scene.room_id, "user_id": alice, "typing": True}},
        {"edu_type": "m.typing", "content": {}},
        {"edu_type": "m.receipt", "content": {scene.room_id: {"m.read": {alice: {"event_ids": ["$x"]}}}}},
        {"edu_type": "m.receipt", "content": {"x": 1}},
        {"edu_type": "m.presence", "content": {"push": 7}},
        {"edu_type": 7, "content": []},
        {"edu_type": "m.direct_to_device", "content": {"sender": alice, "messages": {alice: {"*": {}}}}},
    ]
    if scene.server.software != "synapse":
        junk += [7, None, []]
    message = scene.message("among junk")
    answer = await scene.peer.send(server, [message], junk)
    if answer.status == 500:
        deviates(scene.server, "answers with 500")
    assert (answer.status, answer.body) == (200, {"pdus": {scene.room.add(message): {}}})
    await scene.still_works()
    sync = await scene.alice.sync()
    ephemeral = sync.get("rooms", {}).get("join", {}).get(scene.room_id, {}).get("ephemeral", {})
    assert alice not in str(ephemeral)


async def test_same_transaction_twice(scene: Scene) -> None:
    """A transaction that is repeated gets the same answer, and happens once."""
    message = scene.message("once")
    body = scene.peer.transaction([message, scene.message("badly signed") | {"depth": 4}])
    at = uri("send", "again")
    answers = await asyncio.gather(
        *(scene.peer.request("PUT", scene.server.name, at, body) for _ in range(5))
    )
    answers.append(await scene.peer.request("PUT", scene.server.name, at, body))
    assert {answer.status for answer in answers} == {200}
    assert len({str(sorted(answer.body["pdus"].items())) for answer in answers}) == 1, answers
    # The same event in another transaction is no news either.
    assert (await scene.send(message)).body == {"pdus": {scene.room.add(message): {}}}
    await scene.alice.hears(scene.room_id, "once")
    await scene.still_works()
    assert scene.alice.texts(scene.room_id).count("once") == 1


async def test_unknown_room(scene: Scene) -> None:
    """Events, joins and questions about rooms that do not exist here."""
    elsewhere = scene.peer.create_room("11")
    message = scene.peer.signer.sign_event(elsewhere.message(scene.mallory, "x"), "11")
    answer = await scene.send(message)
    assert answer.status == 200, answer
    result = answer.body["pdus"].get(elsewhere.event_id(message))
    assert result is None or result.get("error"), answer
    assert elsewhere.room_id not in await scene.alice.joined_rooms()
    at = f"{uri('make_join', elsewhere.room_id, scene.mallory)}?ver=11"
    _refused(await scene.peer.request("GET", scene.server.name, at), 404, "M_NOT_FOUND")
    event_id = quote(elsewhere.event_id(message), safe="")
    for path in (
        uri("state", elsewhere.room_id) + f"?event_id={event_id}",
        uri("state_ids", elsewhere.room_id) + f"?event_id={event_id}",
        uri("backfill", elsewhere.room_id) + f"?v={event_id}&limit=5",
        uri("event_auth", elsewhere.room_id, elsewhere.event_id(message)),
        uri("event", elsewhere.event_id(message)),
    ):
        answer = await scene.peer.request("GET", scene.server.name, path)
        assert answer.status in (403, 404), (path, answer)
        if answer.errcode == "":
            deviates(scene.server, "answers an unknown event without an error code")
        assert answer.errcode in ("M_FORBIDDEN", "M_NOT_FOUND"), (path, answer)


async def test_rooms_of_others_stay_closed(scene: Scene) -> None:
    """A server that is not in a room is told nothing of it, and can put nothing into it."""
    alice, peer, here = scene.alice, scene.peer, scene.server.name
    room_id = await alice.create_room(preset="private_chat")
    secret = await alice.send(room_id, "secret")
    at = quote(secret, safe="")
    for method, path, body in (
        ("GET", uri("event", secret), None),
        ("GET", uri("state", room_id) + f"?event_id={at}", None),
        ("GET", uri("state_ids", room_id) + f"?event_id={at}", None),
        ("GET", uri("event_auth", room_id, secret), None),
        ("GET", uri("backfill", room_id) + f"?v={at}&limit=5", None),
        (
            "POST",
            uri("get_missing_events", room_id),
            {"earliest_events": [], "latest_events": [secret], "limit": 10},
        ),
        ("GET", uri("make_join", room_id, scene.mallory) + "?ver=12", None),
        ("GET", uri("make_leave", room_id, scene.mallory), None),
    ):
        answer = await peer.request(method, here, path, body)
        assert answer.status in (403, 404), (path, answer)
        assert answer.errcode in ("M_FORBIDDEN", "M_NOT_FOUND"), (path, answer)
    before = await alice.state(room_id)
    auth = [before[key] for key in (("m.room.power_levels", ""), ("m.room.join_rules", ""))]
    for kind, key in (("m.room.message", None), ("m.room.member", scene.mallory)):
        intruder = scene.sign(
            scene.room.draft(kind, scene.mallory, {"membership": "join", "body": "intruder"}, key)
            | {"room_id": room_id, "auth_events": auth, "prev_events": [secret]}
        )
        answer = await scene.send(intruder)
        assert answer.status == 200, answer
        if key is not None:
            path = uri("send_join", room_id, scene.room.event_id(intruder), version="v2")
            answer = await peer.request("PUT", here, path, intruder)
            assert answer.status in (400, 403, 404), answer
    assert await alice.state(room_id) == before
    assert next(e["content"].get("body") for e in await alice.history(room_id)) == "secret"


async def test_make_join_for_others(scene: Scene) -> None:
    """A server may ask for its own users alone, and must know the room's version."""
    here = scene.server.name
    for user in (scene.alice.user_id, "@carol:localhost:1", "carol"):
        answer = await scene.peer.request("GET", here, uri("make_join", scene.room_id, user) + "?ver=12")
        assert answer.status in (400, 403), (user, answer)
    at = uri("make_join", scene.room_id, scene.peer.user(STRANGER))
    answer = await scene.peer.request("GET", here, at + "?ver=1&ver=11")
    _refused(answer, 400, "M_INCOMPATIBLE_ROOM_VERSION")
    assert answer.body["room_version"] == "12"


BAD_JOINS: dict[str, Callable[[Scene, Json], Json]] = {
    "not signed": lambda s, e: e,
    "signed by another key": lambda s, e: Signer(s.peer.name).sign_event(e, s.room.version),
    "a leave": lambda s, e: s.sign({**e, "content": {"membership": "leave"}}),
    "an invite": lambda s, e: s.sign({**e, "content": {"membership": "invite"}}),
    "a message": lambda s, e: s.sign({**e, "type": "m.room.message"}),
    "no state key": lambda s, e: s.sign({k: v for k, v in e.items() if k != "state_key"}),
    "another's state key": lambda s, e: s.sign({**e, "state_key": s.alice.user_id}),
    "another's sender": lambda s, e: s.sign({**e, "sender": s.alice.user_id, "state_key": s.alice.user_id}),
    "another room": lambda s, e: s.sign({**e, "room_id": "!" + "x" * 43}),
    "no auth events": lambda s, e: s.sign({**e, "auth_events": []}),
    "no previous events": lambda s, e: s.sign({**e, "prev_events": []}),
    "a float": lambda s, e: s.sign({**e, "content": {"membership": "join", "n": 0.5}}),
    "too large": lambda s, e: s.sign({**e, "content": {"membership": "join", "x": "x" * 70_000}}),
    "a number": lambda s, e: {"a": 7},
}


@pytest.mark.parametrize("spoil", BAD_JOINS.values(), ids=BAD_JOINS.keys())
async def test_bad_send_join(scene: Scene, spoil: Callable[[Scene, Json], Json]) -> None:
    stranger = scene.peer.user(STRANGER)
    before = await scene.alice.state(scene.room_id)
    honest = scene.room.draft("m.room.member", stranger, {"membership": "join"}, stranger)
    event = spoil(scene, honest)
    event_id = "$" + "x" * 43 if "type" not in event else scene.room.event_id(event)
    path = uri("send_join", scene.room_id, event_id, version="v2")
    answer = await scene.peer.request("PUT", scene.server.name, path, event)
    assert answer.status in (400, 403, 413), answer
    assert answer.errcode, answer
    assert await scene.alice.state(scene.room_id) == before
    await scene.still_works()


async def test_event_id_in_the_path_must_be_the_events(scene: Scene) -> None:
    stranger = scene.peer.user(STRANGER)
    event = scene.sign(scene.room.draft("m.room.member", stranger, {"membership": "join"}, stranger))
    deviates(scene.server, "does not look at the event id in the path")
    path = uri("send_join", scene.room_id, "$" + "A" * 43, version="v2")
    answer = await scene.peer.request("PUT", scene.server.name, path, event)
    assert answer.status == 400, answer
    assert await scene.alice.membership(scene.room_id, stranger) == ""


BAD_INVITES: dict[str, Callable[[Scene, Json], Json]] = {
    "not signed": lambda s, e: e,
    "signed by another key": lambda s, e: Signer(s.peer.name).sign_event(e, "12"),
    "a join": lambda s, e: s.sign({**e, "content": {"membership": "join"}}),
    "a message": lambda s, e: s.sign({**e, "type": "m.room.message"}),
    "for a user of another server": lambda s, e: s.sign({**e, "state_key": "@carol:localhost:1"}),
    "by a user of another server": lambda s, e: s.sign({**e, "sender": "@carol:localhost:1"}),
    "by the invited": lambda s, e: s.sign({**e, "sender": s.alice.user_id}),
}


@pytest.mark.parametrize("spoil", BAD_INVITES.values(), ids=BAD_INVITES.keys())
async def test_bad_invite(scene: Scene, spoil: Callable[[Scene, Json], Json]) -> None:
    room = scene.peer.create_room("12", join_rule="invite")
    event = spoil(
        scene,
        room.draft("m.room.member", scene.mallory, {"membership": "invite"}, scene.alice.user_id),
    )
    body = {"room_version": "12", "event": event, "invite_room_state": room.state_events()}
    path = uri("invite", room.room_id, room.event_id(event), version="v2")
    answer = await scene.peer.request("PUT", scene.server.name, path, body)
    assert answer.status in (400, 401, 403), answer
    assert answer.errcode, answer
    await scene.alice.sync()
    assert room.room_id not in scene.alice.invites


async def test_bad_questions(scene: Scene) -> None:
    """Parameters that are missing, absurd, or of another kind: an error of the 4xx, never 500."""
    room, here = scene.room_id, scene.server.name
    last = scene.room.extremities[0]
    at = quote(last, safe="")
    if scene.server.software == "synapse":
        pytest.skip("Synapse answers some of these with 500")
    for method, path, body in (
        ("GET", uri("backfill", room), None),
        ("GET", uri("backfill", room) + f"?v={at}&limit=many", None),
        ("GET", uri("state", room), None),
        ("GET", uri("state_ids", room), None),
        ("GET", uri("state", room) + "?event_id=nonsense", None),
        ("GET", uri("event", "nonsense"), None),
        ("GET", uri("query", "profile"), None),
        ("GET", uri("query", "profile") + "?user_id=nonsense", None),
        ("GET", uri("query", "directory"), None),
        ("GET", uri("query", "directory") + "?room_alias=nonsense", None),
        ("POST", uri("get_missing_events", room), {"earliest_events": 5, "latest_events": [last]}),
        ("POST", uri("get_missing_events", room), {"earliest_events": [], "latest_events": [7]}),
        ("POST", uri("get_missing_events", room), []),
        ("PUT", uri("send_join", room, "$x", version="v2"), []),
        ("PUT", uri("invite", room, "$x", version="v2"), {"room_version": 7, "event": 8}),
        ("PUT", uri("send_leave", room, "$x", version="v2"), {}),
    ):
        answer = await scene.peer.request(method, here, path, body)
        assert 400 <= answer.status < 500, (path, body, answer)
        assert answer.errcode, (path, body, answer)
    # However much or little is asked, the answer has a bound.
    for limit in ("1000000000", "-5"):
        answer = await scene.peer.request("GET", here, uri("backfill", room) + f"?v={at}&limit={limit}")
        assert answer.status in (200, 400), answer
    await scene.still_works()


async def test_unknown_endpoints(here: Homeserver, peer: Peer) -> None:
    _refused(await peer.request("GET", here.name, uri("nothing", "here")), 404, "M_UNRECOGNIZED")
    _refused(await peer.request("GET", here.name, uri("x", version="v9")), 404, "M_UNRECOGNIZED")
    _refused(await peer.request("GET", here.name, uri("send", "x")), 405, "M_UNRECOGNIZED")


async def test_body_without_end(scene: Scene) -> None:
    """More than a transaction can be: refused without being read to the end, or cut off."""
    at = uri("send", "endless")
    raw = b'{"pdus": [], "x": "' + b"x" * (50 * 1024 * 1024) + b'"}'
    try:
        answer = await scene.peer.request("PUT", scene.server.name, at, scene.peer.transaction([]), raw=raw)
    except (ConnectionError, OSError):
        pass
    else:
        assert answer.status in (400, 413), answer
    await scene.still_works()
