"""Target: what other servers answer to our requests, down to the values that the rooms are given.

Head: the call and the HTTP status (`send_join 200`). Body: the body of the answer.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping

from comity.federation.answers import MAX_EVENTS, MAX_PROFILE_FIELDS
from comity.federation.availability import Availability
from comity.federation.calls import Calls
from comity.federation.client import FederationClient
from comity.federation.directory_calls import DirectoryCalls
from comity.federation.discoverer import Discoverer
from comity.federation.errors import FederationError
from comity.federation.key_calls import KeyCalls
from comity.federation.user_calls import UserCalls
from comity.ports import Answer, Endpoint
from comity.protocol.identifiers import is_event_id, is_room_id, is_server_name
from comity.protocol.signing import SigningKey
from fuzz.target import Target, require
from fuzz.targets.events import SCENES
from fuzz.targets.events import TARGETS as EVENTS
from tests.federation.doors import FixedEntropy, ManualClock, TableResolver

PEER = "192.0.2.2:8448"
ROOM, USER, EVENT = "!room:a.example", "@alice:a.example", SCENES["10"].room.create


class Told:
    """`ports.Transport` over which every request gets the same answer."""

    answer = Answer(200, {}, b"")

    async def request(
        self,
        method: str,
        endpoint: Endpoint,
        target: str,
        *,
        headers: Mapping[str, str],
        body: bytes | None = None,
        timeout: float,
        max_bytes: int,
    ) -> Answer:
        return self.answer

    async def get_url(self, url: str, *, timeout: float, max_bytes: int) -> Answer:
        return self.answer


class All:
    """Every call that there is."""

    def __init__(self, client: FederationClient) -> None:
        self.rooms = Calls(client)
        self.keys = KeyCalls(client)
        self.users = UserCalls(client)
        self.directory = DirectoryCalls(client)


async def _directory(calls: All) -> str:
    found = await calls.directory.query_directory(PEER, "#a:b.example")
    require(is_room_id(found.room_id) and all(map(is_server_name, found.servers)), "an alias leads to a room")
    return "directory"


async def _send_join(calls: All) -> str:
    found = await calls.rooms.send_join(PEER, ROOM, EVENT)
    require(all(map(is_server_name, found.servers_in_room)), "servers are server names")
    require(all(isinstance(event, dict) for event in (*found.state, *found.auth_chain)), "events are objects")
    return f"join {len(found.state)}"


async def _state_ids(calls: All) -> str:
    state, chain = await calls.rooms.state_ids(PEER, ROOM, "$1")
    require(all(map(is_event_id, (*state, *chain))), "ids are event ids")
    return f"ids {len(state)}"


async def _events(found: Awaitable[list[dict[str, object]]]) -> str:
    events = await found
    require(all(isinstance(event, dict) for event in events), "events are objects")
    require(len(events) <= MAX_EVENTS, "they are counted")
    return f"events {len(events)}"


async def _state(calls: All) -> str:
    state, _ = await calls.rooms.state(PEER, ROOM, "$1")
    return f"state {len(state)}"


async def _make(calls: All) -> str:
    found = await calls.rooms.make_join(PEER, ROOM, USER, ["10"])
    return f"make {found.room_version[:3]}"


async def _profile(calls: All) -> str:
    found = await calls.users.query_profile(PEER, "@bob:b.example", None)
    require(len(found) <= MAX_PROFILE_FIELDS, "a profile has a bound")
    return "profile"


async def _kept(what: str, found: Awaitable[object]) -> str:
    await found
    return what


CALLS: Mapping[str, Callable[[All], Awaitable[str]]] = {
    "version": lambda calls: _kept("version", calls.keys.version(PEER)),
    "server_keys": lambda calls: _kept("keys", calls.keys.server_keys(PEER)),
    "query_keys": lambda calls: _kept(
        "documents", calls.keys.query_keys(PEER, {"b.example": {"ed25519:1": 1}})
    ),
    "send": lambda calls: _kept("send", calls.rooms.send_transaction(PEER, "1", b"{}")),
    "make_join": _make,
    "send_join": _send_join,
    "send_leave": lambda calls: _kept("left", calls.rooms.send_leave(PEER, ROOM, EVENT)),
    "invite": lambda calls: _kept("invited", calls.rooms.invite(PEER, ROOM, EVENT, "10", [])),
    "event": lambda calls: _kept("event", calls.rooms.get_event(PEER, "$1")),
    "state_ids": _state_ids,
    "state": _state,
    "event_auth": lambda calls: _events(calls.rooms.event_auth(PEER, ROOM, "$1")),
    "backfill": lambda calls: _events(calls.rooms.backfill(PEER, ROOM, ["$1"], 10)),
    "missing_events": lambda calls: _events(
        calls.rooms.get_missing_events(PEER, ROOM, ["$1"], ["$2"], 10, 0)
    ),
    "profile": _profile,
    "directory": _directory,
}

_loop = asyncio.new_event_loop()
_told = Told()


def _calls() -> All:
    """Made anew for each input: a server that answers with 503 is not asked again for a while."""
    clock, entropy = ManualClock(), FixedEntropy()
    discoverer = Discoverer(_told, TableResolver(), clock, entropy)
    availability = Availability(clock, entropy)
    key = SigningKey("1", b"\x01" * 32)
    return All(FederationClient(discoverer, _told, clock, "a.example", key, availability))


def check_answer(data: bytes) -> str:
    """Make the call that the head names, and get the body for an answer."""
    head, _, body = data.partition(b"\n")
    name, _, status = head.decode("ascii", "replace").partition(" ")
    number = int(status) if status.isascii() and status.isdecimal() and len(status) == 3 else 200
    _told.answer = Answer(number, {"retry-after": status}, body)
    call = CALLS.get(name) or CALLS["send_join"]
    try:
        return _loop.run_until_complete(call(_calls()))
    except FederationError as error:
        require(error.retry_after_ms >= 0, "a pause is not negative")
        json.dumps(error.text)
        return f"{name} {error.text[:50]}"


TARGETS = (
    Target(
        "answers",
        check_answer,
        json=True,
        separator=b"\n",
        heads=tuple(
            f"{name} {status}".encode() for name in CALLS for status in (200, 200, 200, 400, 404, 429, 502)
        ),
        words=("state", "auth_chain", "event", "members_omitted", "servers_in_room", "pdus", "pdu_ids",
               "auth_chain_ids", "events", "room_version", "server_keys", "errcode", "error",
               "M_UNRECOGNIZED", "retry_after_ms", "room_id", "servers", "displayname",
               *EVENTS[0].words[:30]),
    ),
)  # fmt: skip
