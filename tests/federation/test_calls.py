"""The calls: what they ask, what they take for an answer, and what they do with older servers."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from comity.federation import answers
from comity.federation.calls import Calls
from comity.federation.client import FederationError, path
from comity.protocol.event import Event
from comity.protocol.signing import SigningKey
from tests.federation.conftest import Side
from tests.federation.peer_server import PeerServer
from tests.rules.rooms import ALICE, Room

V1, V2 = "/_matrix/federation/v1", "/_matrix/federation/v2"
ROOM = "!room:a.example"
UNRECOGNIZED = {"errcode": "M_UNRECOGNIZED", "error": "?"}


@pytest.fixture
def calls(side: Side) -> Calls:
    return side.calls


def a_join(version: str = "10") -> Event:
    return Room(version).join(ALICE)


async def test_version_and_keys_are_asked_without_signature(side: Side, peer: PeerServer) -> None:
    peer.on("GET", f"{V1}/version", 200, {"server": {"name": "Other", "version": "1"}})
    assert await side.keys.version(peer.name) == {"name": "Other", "version": "1"}
    assert await side.keys.server_keys(peer.name) == peer.key_document()
    assert not any("authorization" in request.headers for request in peer.received)


async def test_make_join_and_make_leave(calls: Calls, peer: PeerServer, own_key: SigningKey) -> None:
    where = path(f"{V1}/make_join", ROOM, "@us:own.example")
    peer.on("GET", where, 200, {"room_version": "10", "event": {"type": "m.room.member"}})
    answer = await calls.make_join(peer.name, ROOM, "@us:own.example", ["1", "10"])
    assert (answer.room_version, answer.event) == ("10", {"type": "m.room.member"})
    assert peer.received[0].target == where + "?ver=1&ver=10"
    assert peer.received[0].is_signed_by(own_key.public, peer.name)
    peer.on("GET", path(f"{V1}/make_leave", ROOM, "@us:own.example"), 200, {"event": {}})
    assert (await calls.make_leave(peer.name, ROOM, "@us:own.example")).room_version == "1"


async def test_an_incompatible_version_is_told_with_the_version(calls: Calls, peer: PeerServer) -> None:
    where = path(f"{V1}/make_join", ROOM, "@us:own.example")
    peer.on("GET", where, 400, {"errcode": "M_INCOMPATIBLE_ROOM_VERSION", "room_version": "99"})
    with pytest.raises(FederationError) as caught:
        await calls.make_join(peer.name, ROOM, "@us:own.example", ["1"])
    assert caught.value.code == "M_INCOMPATIBLE_ROOM_VERSION"
    assert caught.value.body["room_version"] == "99"


async def test_send_join(calls: Calls, peer: PeerServer, own_key: SigningKey) -> None:
    event = a_join()
    answer = {
        "origin": "x",
        "event": {"type": "m.room.member"},
        "state": [{"type": "a", "n": 1, "text": "ü"}] * 450,
        "auth_chain": [{"type": "b"}],
        "members_omitted": True,
        "servers_in_room": ["a.example", "not a server", "b.example:1"],
        "something": {"else": 1.5},
    }
    peer.on("PUT", path(f"{V2}/send_join", ROOM, event.event_id), 200, answer)
    found = await calls.send_join(peer.name, ROOM, event)
    assert found.event == {"type": "m.room.member"}
    assert found.state == answer["state"] and found.auth_chain == answer["auth_chain"]
    assert found.members_omitted and found.servers_in_room == ["a.example", "b.example:1"]
    assert peer.received[0].json == event.source
    assert peer.received[0].is_signed_by(own_key.public, peer.name)


@pytest.mark.parametrize("refusal", [(404, b"not found"), (404, UNRECOGNIZED), (400, UNRECOGNIZED)])
async def test_send_join_to_an_older_server(calls: Calls, peer: PeerServer, refusal: tuple[int, Any]) -> None:
    event = a_join()
    peer.on("PUT", path(f"{V2}/send_join", ROOM, event.event_id), *refusal)
    answer = [200, {"state": [{"a": 1}], "auth_chain": [], "event": None}]
    peer.on("PUT", path(f"{V1}/send_join", ROOM, event.event_id), 200, answer)
    found = await calls.send_join(peer.name, ROOM, event)
    assert found.state == [{"a": 1}] and found.event is None and not found.members_omitted


async def test_a_refusal_is_not_taken_for_an_older_server(calls: Calls, peer: PeerServer) -> None:
    event = a_join()
    where = path(f"{V2}/send_join", ROOM, event.event_id)
    peer.on("PUT", where, 404, {"errcode": "M_NOT_FOUND", "error": "Unknown room"})
    with pytest.raises(FederationError) as caught:
        await calls.send_join(peer.name, ROOM, event)
    assert caught.value.code == "M_NOT_FOUND"
    assert [request.path for request in peer.received] == [where]


async def test_send_leave_and_its_older_form(calls: Calls, peer: PeerServer) -> None:
    event = a_join()
    peer.on("PUT", path(f"{V1}/send_leave", ROOM, event.event_id), 200, [200, {}])
    await calls.send_leave(peer.name, ROOM, event)
    peer.on("PUT", path(f"{V2}/send_leave", ROOM, event.event_id), 200, {})
    await calls.send_leave(peer.name, ROOM, event)
    assert [request.path.split("/")[3] for request in peer.received] == ["v2", "v1", "v2"]


async def test_invite_carries_whole_events(calls: Calls, peer: PeerServer, own_key: SigningKey) -> None:
    room = Room("12")
    event = room.join(ALICE)
    signed = {**event.source, "signatures": {"peer": {}}}
    peer.on("PUT", path(f"{V2}/invite", event.room_id, event.event_id), 200, {"event": signed})
    assert await calls.invite(peer.name, event.room_id, event, "12", [room.create]) == signed
    body = peer.received[0].json
    assert body == {"event": event.source, "invite_room_state": [room.create.source], "room_version": "12"}
    assert peer.received[0].is_signed_by(own_key.public, peer.name)


async def test_invite_to_an_older_server(calls: Calls, peer: PeerServer, own_key: SigningKey) -> None:
    room = Room("1")
    event = room.join(ALICE)
    peer.on("PUT", path(f"{V1}/invite", ROOM, event.event_id), 200, [200, {"event": {"signed": True}}])
    assert await calls.invite(peer.name, ROOM, event, "1", [room.create]) == {"signed": True}
    body = peer.received[1].json
    assert body.pop("unsigned") == {"invite_room_state": [room.create.source]}
    assert body == event.source
    assert peer.received[1].is_signed_by(own_key.public, peer.name)
    newer = a_join("10")
    with pytest.raises(FederationError):
        await calls.invite(peer.name, ROOM, newer, "10", [])
    assert len(peer.received) == 3


async def test_fetching_events(calls: Calls, peer: PeerServer, own_key: SigningKey) -> None:
    peer.on("GET", path(f"{V1}/event", "$a/b"), 200, {"origin": "x", "pdus": [{"type": "t"}]})
    assert await calls.get_event(peer.name, "$a/b") == {"type": "t"}
    peer.on("GET", path(f"{V1}/state_ids", ROOM), 200, {"pdu_ids": ["$a"], "auth_chain_ids": ["$b", "$c"]})
    assert await calls.state_ids(peer.name, ROOM, "$at") == (["$a"], ["$b", "$c"])
    peer.on("GET", path(f"{V1}/state", ROOM), 200, {"pdus": [{"a": 1}], "auth_chain": [{"b": 2}]})
    assert await calls.state(peer.name, ROOM, "$at") == ([{"a": 1}], [{"b": 2}])
    peer.on("GET", path(f"{V1}/event_auth", ROOM, "$at"), 200, {"auth_chain": [{"b": 2}]})
    assert await calls.event_auth(peer.name, ROOM, "$at") == [{"b": 2}]
    peer.on("GET", path(f"{V1}/backfill", ROOM), 200, {"pdus": [{"a": 1}, {"a": 2}]})
    assert await calls.backfill(peer.name, ROOM, ["$x", "$y"], 30) == [{"a": 1}, {"a": 2}]
    peer.on("POST", path(f"{V1}/get_missing_events", ROOM), 200, {"events": [{"a": 1}]})
    assert await calls.get_missing_events(peer.name, ROOM, ["$x"], ["$y"], 20, 5) == [{"a": 1}]
    assert [request.target.partition("?")[2] for request in peer.received] == [
        "", "event_id=%24at", "event_id=%24at", "", "v=%24x&v=%24y&limit=30", "",
    ]  # fmt: skip
    expected = {"earliest_events": ["$x"], "latest_events": ["$y"], "limit": 20, "min_depth": 5}
    assert peer.received[-1].json == expected
    assert all(request.is_signed_by(own_key.public, peer.name) for request in peer.received)


async def test_queries(side: Side, peer: PeerServer) -> None:
    peer.on("GET", f"{V1}/query/profile", 200, {"displayname": "Bob"})
    assert await side.users.query_profile(peer.name, "@b:x", None) == {"displayname": "Bob"}
    assert await side.users.query_profile(peer.name, "@b:x", "displayname") == {"displayname": "Bob"}
    assert peer.received[1].target.endswith("?user_id=%40b%3Ax&field=displayname")
    peer.on("GET", f"{V1}/query/directory", 200, {"room_id": ROOM, "servers": ["a.example", 5, "b.example"]})
    found = await side.directory.query_directory(peer.name, "#ü:x")
    assert (found.room_id, found.servers) == (ROOM, ["a.example", "b.example"])
    assert peer.received[2].target.endswith("?room_alias=%23%C3%BC%3Ax")


async def test_knocks(calls: Calls, peer: PeerServer, own_key: SigningKey) -> None:
    where = path(f"{V1}/make_knock", ROOM, "@us:own.example")
    peer.on("GET", where, 200, {"room_version": "10", "event": {"type": "m.room.member"}})
    answer = await calls.make_knock(peer.name, ROOM, "@us:own.example", ["7", "10"])
    assert (answer.room_version, answer.event) == ("10", {"type": "m.room.member"})
    assert peer.received[0].target == where + "?ver=7&ver=10"
    event = a_join()
    peer.on("PUT", path(f"{V1}/send_knock", ROOM, event.event_id), 200, {"knock_room_state": [{"a": 1}]})
    assert await calls.send_knock(peer.name, ROOM, event) == [{"a": 1}]
    assert peer.received[1].json == event.source
    assert peer.received[1].is_signed_by(own_key.public, peer.name)


async def test_times_exchanges_and_policies(calls: Calls, peer: PeerServer) -> None:
    answer: dict[str, Any] = {"event_id": "$a", "origin_server_ts": 5}
    peer.on("GET", path(f"{V1}/timestamp_to_event", ROOM), 200, answer)
    assert await calls.timestamp_to_event(peer.name, ROOM, 4, forwards=True) == ("$a", 5)
    assert await calls.timestamp_to_event(peer.name, ROOM, 6, forwards=False) == ("$a", 5)
    queries = [request.target.partition("?")[2] for request in peer.received]
    assert queries == ["ts=4&dir=f", "ts=6&dir=b"]
    peer.on("PUT", path(f"{V1}/exchange_third_party_invite", ROOM), 200, {})
    await calls.exchange_third_party_invite(peer.name, ROOM, {"type": "m.room.member"})
    assert peer.received[-1].json == {"type": "m.room.member"}
    event = a_join()
    peer.on("POST", "/_matrix/policy/v1/sign", 200, {peer.name: {"ed25519:policy_server": "x"}})
    assert await calls.policy_signature(peer.name, event) == {peer.name: {"ed25519:policy_server": "x"}}
    assert peer.received[-1].json == event.source


async def test_rooms_from_outside(side: Side, peer: PeerServer) -> None:
    answer: dict[str, Any] = {"chunk": [{"room_id": ROOM}], "next_batch": "n", "prev_batch": 3}
    peer.on("GET", f"{V1}/publicRooms", 200, answer)
    found = await side.directory.public_rooms(peer.name, 5, "s", {}, {})
    assert (found.rooms, found.next_batch, found.prev_batch, found.total) == (answer["chunk"], "n", None, 1)
    assert peer.received[0].target == f"{V1}/publicRooms?limit=5&since=s"
    peer.on("POST", f"{V1}/publicRooms", 200, {**answer, "total_room_count_estimate": 7})
    wanted = {"generic_search_term": "x"}
    assert (await side.directory.public_rooms(peer.name, 5, None, wanted, {})).total == 7
    assert peer.received[1].json == {"limit": 5, "filter": wanted}
    tree = {"room": {"room_id": ROOM}, "children": [{"a": 1}], "inaccessible_children": ["!b:c", 4]}
    peer.on("GET", path(f"{V1}/hierarchy", ROOM), 200, tree)
    told = await side.directory.hierarchy(peer.name, ROOM, suggested_only=True)
    assert (told.room, told.children, told.inaccessible) == ({"room_id": ROOM}, [{"a": 1}], ["!b:c"])
    assert peer.received[2].target.endswith("?suggested_only=true")


async def test_send_transaction(calls: Calls, peer: PeerServer, own_key: SigningKey) -> None:
    assert await calls.send_transaction(peer.name, "1.2", b'{"edus":[],"pdus":[]}') == {"pdus": {}}
    assert peer.transactions == [("1.2", {"edus": [], "pdus": []})]
    assert peer.received[0].is_signed_by(own_key.public, peer.name)


Ask = Callable[[Side, str], Awaitable[object]]

MAKE = f"{V1}/make_join/%21r%3Aa/%40u%3Ab"
EVENT, IDS, STATE = f"{V1}/event/%24a", f"{V1}/state_ids/r", f"{V1}/state/r"
TIME, HIERARCHY, PUBLIC = f"{V1}/timestamp_to_event/r", f"{V1}/hierarchy/r", f"{V1}/publicRooms"
BACKFILL, DIRECTORY, PROFILE = f"{V1}/backfill/r", f"{V1}/query/directory", f"{V1}/query/profile"
ASK: dict[str, Ask] = {
    MAKE: lambda side, server: side.calls.make_join(server, "!r:a", "@u:b", []),
    EVENT: lambda side, server: side.calls.get_event(server, "$a"),
    IDS: lambda side, server: side.calls.state_ids(server, "r", "$a"),
    STATE: lambda side, server: side.calls.state(server, "r", "$a"),
    BACKFILL: lambda side, server: side.calls.backfill(server, "r", [], 5),
    DIRECTORY: lambda side, server: side.directory.query_directory(server, "#a:b"),
    TIME: lambda side, server: side.calls.timestamp_to_event(server, "r", 5, forwards=True),
    HIERARCHY: lambda side, server: side.directory.hierarchy(server, "r", suggested_only=False),
    PUBLIC: lambda side, server: side.directory.public_rooms(server, 5, None, {}, {}),
    PROFILE: lambda side, server: side.users.query_profile(server, "@a:b", None),
}
MALFORMED: list[tuple[str, object]] = [
    (MAKE, {"event": []}),
    (MAKE, [1]),
    (EVENT, {"pdus": []}),
    (EVENT, {"pdus": [{}, {}]}),
    (EVENT, b'{"pdus":[{}]'),
    (EVENT, b"[" * 5000),
    (EVENT, b'{"pdus":[{"a":' + b"[" * 300 + b"]" * 300 + b"}]}"),
    (EVENT, b"\xff\xfe"),
    (IDS, {"pdu_ids": ["x"], "auth_chain_ids": []}),
    (IDS, {"pdu_ids": [1], "auth_chain_ids": []}),
    (IDS, {"pdu_ids": []}),
    (STATE, {"pdus": [1], "auth_chain": []}),
    (STATE, b'{"pdus":[{"a":tru}],"auth_chain":[]}'),
    (STATE, b'{"pdus":[{"a":"\xff"}],"auth_chain":[]}'),
    (STATE, b'{"pdus":[' + b"[" * 100_000),
    (BACKFILL, {"pdus": {}}),
    (BACKFILL, {"pdus": [{}] * 501}),
    (DIRECTORY, {"room_id": "x", "servers": []}),
    (TIME, {"event_id": "$a"}),
    (TIME, {"event_id": "$a", "origin_server_ts": True}),
    (TIME, {"event_id": 4, "origin_server_ts": 5}),
    (HIERARCHY, {"room": {"room_id": "other"}, "children": []}),
    (HIERARCHY, {"room": {"room_id": "r"}, "children": [3]}),
    (HIERARCHY, {"room": {"room_id": "r"}, "children": [], "inaccessible_children": {}}),
    (PUBLIC, {}),
    (PUBLIC, {"chunk": [[]]}),
    (PUBLIC, {"chunk": [{}] * 2001}),
    (PROFILE, {str(number): 1 for number in range(300)}),
]


@pytest.mark.parametrize(("where", "answer"), MALFORMED)
async def test_malformed_answers_are_errors(side: Side, peer: PeerServer, where: str, answer: object) -> None:
    peer.on("GET", where, 200, answer)
    with pytest.raises(FederationError) as caught:
        await ASK[where](side, peer.name)
    assert caught.value.reached and caught.value.status is None
    assert len(peer.received) == 1


async def test_a_state_of_too_many_events_is_refused(
    calls: Calls, peer: PeerServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "MAX_STATE_EVENTS", 10)
    body = json.dumps({"pdus": [{}] * 11, "auth_chain": []}).encode()
    peer.on("GET", f"{V1}/state/r", 200, body)
    with pytest.raises(FederationError):
        await calls.state(peer.name, "r", "$a")
