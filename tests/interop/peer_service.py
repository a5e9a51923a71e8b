"""A signing peer's ears: the server-server endpoints, over its rooms.

Owns the listener and the shapes of honest answers; `Peer.lies` spoils them afterwards.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import unquote

import aiohttp
from aiohttp import web

from tests.interop import wire
from tests.interop.authority import Authority
from tests.interop.listener import listening
from tests.interop.peer import Asked, Peer
from tests.interop.peer_room import Room, now_ms
from tests.interop.process import free_port
from tests.interop.wire import Json, Signer

#: An answer to /backfill or /get_missing_events.
MOST_EVENTS = 100


@asynccontextmanager
async def serve_peer(authority: Authority) -> AsyncIterator[Peer]:
    """A peer on a free port of loopback, until the block ends."""
    port = free_port()
    connector = aiohttp.TCPConnector(ssl=authority.client_context(), limit=0)
    async with aiohttp.ClientSession(connector=connector) as http:
        peer = Peer(Signer(f"localhost:{port}"), http)
        async with listening(authority, port, lambda request: _handle(peer, request)):
            yield peer


async def _handle(peer: Peer, request: web.Request) -> web.StreamResponse:
    path = request.rel_url.raw_path
    parts = [unquote(part) for part in path.strip("/").split("/")]
    raw = await request.read()
    try:
        body = json.loads(raw) if raw else None
    except ValueError:
        body = None
        peer.complaints.append(f"{request.method} {path}: no JSON")
    query: dict[str, list[str]] = {}
    for key, value in request.rel_url.query.items():
        query.setdefault(key, []).append(value)
    if parts[1:3] == ["key", "v2"]:
        return _say(peer, Asked("key", "", path, query, {}), peer.key_document())
    if parts[1:2] != ["federation"] or len(parts) < 4:
        return web.json_response({"errcode": "M_UNRECOGNIZED", "error": "no such endpoint"}, status=404)
    origin = await peer.check_request(request, body)
    asked = Asked(parts[3], origin, path, query, body or {})
    peer.asked.append(asked)
    return _say(peer, asked, await _honest_answer(peer, asked, parts[4:]))


def _say(peer: Peer, asked: Asked, honest: Any) -> web.StreamResponse:
    lie = peer.lies.get(asked.what)
    answer = honest if lie is None else lie(asked, honest)
    if isinstance(answer, web.StreamResponse):
        return answer
    if answer is None:
        return web.json_response({"errcode": "M_NOT_FOUND", "error": "not known here"}, status=404)
    return web.Response(body=wire.canonical(answer), content_type="application/json")


async def _honest_answer(peer: Peer, asked: Asked, rest: list[str]) -> Any:
    """The JSON to answer, or None for 404. `rest` is the path behind the endpoint's name."""
    match asked.what:
        case "version":
            return {"server": {"name": "peer", "version": "1"}}
        case "send":
            return await _send(peer, asked)
        case "query":
            return _query(peer, asked, rest[0])
        case "invite":
            return await _invite(peer, asked)
        case "event":
            return _event(peer, rest[0])
    room = peer.rooms.get(rest[0]) if rest else None
    return None if room is None else await _of_room(peer, asked, rest, room)


async def _of_room(peer: Peer, asked: Asked, rest: list[str], room: Room) -> Any:
    match asked.what:
        case "make_join" | "make_leave":
            membership = asked.what.removeprefix("make_")
            event = room.draft("m.room.member", rest[1], {"membership": membership}, rest[1])
            for key in ("event_id", "origin"):
                event.pop(key, None)
            return {"room_version": room.version, "event": event}
        case "send_join" | "send_leave":
            return await _send_membership(peer, asked, room)
        case "state" | "state_ids":
            return _state(asked, room)
        case "event_auth":
            return {"auth_chain": room.auth_chain([rest[1]])} if rest[1] in room.events else None
        case "backfill":
            limit = min(int(asked.query["limit"][0]), MOST_EVENTS)
            events = room.back_from(asked.query["v"], limit)
            return {"origin": peer.name, "origin_server_ts": now_ms(), "pdus": events}
        case "get_missing_events":
            return _missing(asked, room)
    return None


async def _send(peer: Peer, asked: Asked) -> Json:
    results: Json = {}
    for event in asked.body.get("pdus", []):
        peer.received.append(event)
        room = peer.rooms.get(event.get("room_id", ""))
        if room is not None:
            await peer.check_event(event, room.version)
            results[room.add(event)] = {}
    peer.edus += asked.body.get("edus", [])
    return {"pdus": results}


def _query(peer: Peer, asked: Asked, which: str) -> Json | None:
    if which == "directory":
        room_id = peer.aliases.get(asked.query["room_alias"][0])
        return None if room_id is None else {"room_id": room_id, "servers": [peer.name]}
    if which == "profile":
        return peer.profiles.get(asked.query["user_id"][0])
    return None


async def _invite(peer: Peer, asked: Asked) -> Json:
    version = asked.body["room_version"]
    event = asked.body["event"]
    await peer.check_event(event, version)
    peer.invited.append(event)
    return {"event": peer.signer.sign_event(event, version, rehash=False)}


def _event(peer: Peer, wanted: str) -> Json | None:
    for room in peer.rooms.values():
        if wanted in room.events:
            return {"origin": peer.name, "origin_server_ts": now_ms(), "pdus": [room.events[wanted]]}
    return None


async def _send_membership(peer: Peer, asked: Asked, room: Room) -> Json:
    event = asked.body
    await peer.check_event(event, room.version)
    state = room.state_events()
    chain = room.auth_chain([*room.state.values(), *wire.referred(event["auth_events"])])
    room.add(event)
    if asked.what == "send_leave":
        return {}
    return {
        "state": state, "auth_chain": chain, "event": event, "origin": peer.name,
        "members_omitted": False,
    }  # fmt: skip


def _state(asked: Asked, room: Room) -> Json | None:
    at = asked.query.get("event_id", [""])[0]
    if at not in room.before:
        return None
    state = room.before[at]
    chain = room.auth_chain(list(state.values()))
    if asked.what == "state":
        return {"pdus": room.state_events(state), "auth_chain": chain}
    return {"pdu_ids": list(state.values()), "auth_chain_ids": [room.event_id(event) for event in chain]}


def _missing(asked: Asked, room: Room) -> Json:
    known = set(asked.body["earliest_events"])
    parents = [
        parent
        for event_id in asked.body["latest_events"]
        for parent in wire.referred(room.events.get(event_id, {}).get("prev_events", []))
        if parent not in known
    ]
    found: dict[str, Json] = {}
    for event in room.back_from(parents, MOST_EVENTS):
        event_id = room.event_id(event)
        if event_id not in known and len(found) < int(asked.body.get("limit", 10)):
            found[event_id] = event
    return {"events": list(reversed(found.values()))}
