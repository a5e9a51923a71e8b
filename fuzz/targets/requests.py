"""Targets that are requests: the router by itself, every endpoint, and transactions of PDUs.

A request is written as HTTP is, with the body behind an empty line. `<room>`, `<event>`, `<user>`,
`<peer>` and `<token>` stand for what is there; the header `authorization: sign` for a signature.
"""

from __future__ import annotations

import asyncio
import atexit
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import orjson

from comity.api.router import Call, Router, json_response
from comity.ports import Request, Response
from comity.protocol import canonical_json
from comity.protocol.errors import EventFormatError
from comity.protocol.event import event_id_of
from fuzz.target import Broken, Target, require
from fuzz.targets.events import TARGETS as EVENTS
from fuzz.targets.servers import object_of
from fuzz.world import FAULTS, FEDERATION, PEER_USER, USER, VERSIONS, PeerRoom, World, Worlds, check_json

#: Inputs that share a world: what some leave behind, others come upon.
SHARED = 400
#: One for each kind of input, or they would come upon each other's.
REQUESTS, TRANSACTIONS = Worlds(SHARED), Worlds(SHARED)


@atexit.register
def close_worlds() -> None:
    """End the servers that stand open."""
    REQUESTS.discard()
    TRANSACTIONS.discard()


def parse_request(data: bytes) -> tuple[str, str, str, dict[str, str], bytes]:
    """Method, path, query, headers and body of a written request."""
    head, _, body = data.partition(b"\n\n")
    first, *lines = head.decode("utf-8", "replace").split("\n")
    method, _, target = first.partition(" ")
    path, _, query = target.partition("?")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    return method, path, query, headers, body


# -- the router


async def _use(call: Call) -> Response:
    """A handler that asks for everything."""
    found: dict[str, object] = {"path": dict(call.parameters)}
    require(call.query("dir", "b") is not None, "a default stands in")
    number = call.query_int("limit", 10, least=1, most=100)
    require(1 <= number <= 100, "a number is held within its bounds")
    found["flag"] = call.query_bool("flag")
    found["all"] = call.query_all("v")
    if call.request.method in ("PUT", "POST"):
        body = call.json() if "json" in call.parameters else call.json_or_empty()
        found["name"] = call.field("name", str, required=False) if body else None
        found["count"] = call.field("count", int, required=False) if body else None
        found["kept"] = body
    else:
        found["from"] = call.query_required("from")
    return json_response(found)


def _router() -> Router:
    router = Router()
    for method in ("GET", "PUT", "POST"):
        for template in (
            "/a/{one}", "/a/b", "/a/b/{two}", "/a/{one}/c", "/a/{one}/c/{three}", "/json/{json}",
            "/{any}/b/c",
        ):  # fmt: skip
            router.add(method, template, _use, guard=None)
    return router


_ROUTER = _router()
_loop = asyncio.new_event_loop()
atexit.register(_loop.close)


def check_router(data: bytes) -> str:
    """A path, a query and a body, to handlers that read them in every way."""
    method, path, query, headers, body = parse_request(data)
    request = Request(method, path, query, headers, body, "192.0.2.9", frozenset({"client"}))
    FAULTS.seen.clear()
    response = _loop.run_until_complete(_ROUTER.handle(request))
    for text, error in FAULTS.seen:
        raise Broken(f"an error is logged: {text}") from error
    require(response.status < 500, "a request that cannot be read is the sender's fault")
    check_json(response)
    return f"{method[:3]} {min(len(path.split('/')), 9)} {response.status}"


# -- the whole server


def _filled(text: bytes, world: World, room: PeerRoom) -> bytes:
    for name, value in (
        (b"<room>", room.room_id), (b"<event>", world.event), (b"<user>", USER), (b"<peer>", PEER_USER),
        (b"<token>", world.token), (b"<head>", room.head.event_id if room.head else ""),
    ):  # fmt: skip
        text = text.replace(name, value.encode())
    return text


def _requested(world: World, data: bytes) -> tuple[str, str, str, dict[str, str], bytes]:
    """A written request with everything that is only known now."""
    head, _, body = data.partition(b"\n\n")
    _, _, _, headers, _ = parse_request(head)
    room = world.rooms.get(headers.pop("room", "12")) or world.rooms["12"]
    body = _filled(body, world, room)
    if headers.pop("complete", ""):
        event = room.completed(object_of(body), world.clock.now_ms())
        try:
            body = orjson.dumps(event)
        except TypeError:
            pass  # a lone surrogate, which no JSON has
        head = head.replace(b"<id>", quote(_id_of(room, event), safe="").encode())
    quoted = {"room": room.room_id, "event": world.event, "user": USER, "peer": PEER_USER}
    first, found, lines = head.partition(b"\n")
    for name, value in quoted.items():
        first = first.replace(f"<{name}>".encode(), quote(value, safe="").encode())
    method, path, query, headers, _ = parse_request(_filled(first + found + lines, world, room))
    headers = {name: value for name, value in headers.items() if name not in ("room", "complete")}
    return method, path, query, headers, body


def _id_of(room: PeerRoom, event: Mapping[str, Any]) -> str:
    try:
        return event_id_of(room.version, event)
    except (EventFormatError, ValueError, TypeError, AttributeError, RecursionError):
        return "$none"


def check_request(data: bytes) -> str:
    """One request to a whole server."""
    world = REQUESTS.take()
    method, path, query, headers, body = _requested(world, data)
    try:
        response = world.ask(method, path, query, headers, body)
    except BaseException:
        REQUESTS.discard()
        raise
    value = check_json(response)
    code = value.get("errcode", "") if isinstance(value, dict) else ""
    known = [part for part in path.split("/") if part.isalpha() and part.islower()]
    return f"{method[:4]} {'/'.join(known)[:60]} {response.status} {code}"


def check_transaction(data: bytes) -> str:
    """`{"pdus", "edus", "answers"}`: a transaction, and what its sender answers when it is asked.

    Head: the version of the room that the PDUs are completed for.
    """
    head, _, body = data.partition(b"\n")
    world = TRANSACTIONS.take()
    room = world.rooms.get(head.decode("ascii", "replace")) or world.rooms["12"]
    given = object_of(_filled(body, world, room))
    try:
        canonical_json.check_nesting(given)
    except canonical_json.CanonicalJsonError:
        return "deep"
    now = world.clock.now_ms()
    pdus = given.get("pdus")
    if isinstance(pdus, list):
        given["pdus"] = [room.completed(pdu, now) if isinstance(pdu, dict) else pdu for pdu in pdus[:60]]
    answers = given.pop("answers", None)
    world.network.answers = _completed_answers(answers, room, now) if isinstance(answers, dict) else {}
    world.pass_time(1.0)
    try:
        response = world.ask(
            "PUT", f"{FEDERATION}/send/{now}", "", {"authorization": "sign"}, orjson.dumps(given)
        )
        value = check_json(response)
        _check_room(world, room)
    except BaseException:
        TRANSACTIONS.discard()
        raise
    results = value.get("pdus", {}) if response.status == 200 else {}
    require(isinstance(results, dict), "the results are by event")
    reasons = sorted({str(result.get("error", ""))[:40] for result in results.values()})
    return f"{head.decode('ascii', 'replace')[:2]} {response.status} {reasons[:2]}"


def _completed_answers(answers: dict[str, Any], room: PeerRoom, now: int) -> dict[str, Any]:
    """The answers with the events in their lists completed."""
    found: dict[str, Any] = {}
    for name, answer in answers.items():
        if isinstance(answer, dict):
            answer = {
                key: [room.completed(item, now) if isinstance(item, dict) else item for item in value]
                if isinstance(value, list)
                else value
                for key, value in answer.items()
            }
        found[name] = answer
    return found


def _check_room(world: World, room: PeerRoom) -> None:
    """Whatever came, the room can be read."""
    path = f"/_matrix/client/v3/rooms/{quote(room.room_id, safe='')}/state"
    response = world.ask("GET", path, "", {"authorization": f"Bearer {world.token}"}, b"")
    require(response.status in (200, 403), "the room's state can be read")


_PATH_WORDS = (
    "<room>", "<event>", "<user>", "<peer>", "<token>", "<id>", "authorization: sign",
    "authorization: Bearer ", "complete: 1", "?", "&", "%00", "%ff", "%2F", "limit=", "from=", "dir=b",
    "filter=", "timeout=0", "ver=12",
)  # fmt: skip

TARGETS = (
    Target(
        "router",
        check_router,
        json=True,
        separator=b"\n\n",
        words=("GET ", "PUT ", "/a/", "/a/b", "/json/", "?", "&", "%00", "%ff", "%2F", "+", "limit=",
               "flag=true", "v=", "from=", "name", "count", "kept"),
    ),
    Target(
        "requests",
        check_request,
        json=True,
        separator=b"\n\n",
        words=(*_PATH_WORDS, *EVENTS[0].words),
        seconds=2.0,
        weight=4.0,
    ),
    Target(
        "transactions",
        check_transaction,
        json=True,
        separator=b"\n",
        heads=tuple(version.encode() for version in VERSIONS),
        words=("pdus", "edus", "answers", "origin", "get_missing_events", "event_auth", "state_ids", "state",
               "event", "events", "auth_chain", "pdu_ids", "auth_chain_ids", "<room>", "<event>", "<user>",
               "<peer>", "<head>", *EVENTS[0].words),
        max_bytes=65_536,
        seconds=2.0,
        weight=4.0,
    ),
)  # fmt: skip
