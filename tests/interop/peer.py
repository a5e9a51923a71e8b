"""A federation peer in the test's own process: it signs properly, and lies on demand.

Owns a server name `localhost:PORT`, a key that it publishes over TLS, rooms that it hosts
or has joined, and what other servers asked of it and sent to it. Every request that comes
in is checked (X-Matrix signature, event hashes and signatures) by a reading of the
specification of its own; what is wrong goes to `complaints`. What it answers stands in `peer_service`.
It never uses comity's code.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import aiohttp
from aiohttp import web
from yarl import URL

from tests.interop import wire
from tests.interop.peer_room import Room, create_room, now_ms
from tests.interop.wire import Json, Signer

#: A key document that nobody needs to fetch again during a test.
KEY_LIFETIME_MS = 24 * 3600 * 1000
TIMEOUT = aiohttp.ClientTimeout(total=30)
VERSIONS = [str(number) for number in range(1, 13)]


def uri(*parts: str, version: str = "v1") -> str:
    """A path below `/_matrix/federation/v1` with every part escaped."""
    return f"/_matrix/federation/{version}/" + "/".join(quote(part, safe="") for part in parts)


@dataclass
class Answer:
    """What the other server said."""

    status: int
    body: Any

    @property
    def errcode(self) -> str:
        return str(self.body.get("errcode", "")) if isinstance(self.body, dict) else ""


@dataclass
class Asked:
    """A request that the other server made."""

    what: str
    origin: str
    path: str
    query: dict[str, list[str]]
    body: Json


#: Spoils an answer before it is sent: the request, the honest answer -> the answer to give.
Lie = Callable[[Asked, Any], Any]


@dataclass
class Peer:
    """A server of one test. `lies` maps what is asked ("send_join", "event", "key" …) to a `Lie`."""

    signer: Signer
    http: aiohttp.ClientSession
    rooms: dict[str, Room] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    profiles: dict[str, Json] = field(default_factory=dict)
    lies: dict[str, Lie] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    received: list[Json] = field(default_factory=list)
    edus: list[Json] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    invited: list[Json] = field(default_factory=list)
    _keys: dict[str, Json] = field(default_factory=dict)
    _transactions: int = 0

    @property
    def name(self) -> str:
        return self.signer.name

    def user(self, localpart: str) -> str:
        return f"@{localpart}:{self.name}"

    # What it says

    def key_document(self, **changes: Any) -> Json:
        document = {
            "server_name": self.name,
            "verify_keys": {self.signer.key_id: {"key": self.signer.public}},
            "old_verify_keys": {},
            "valid_until_ts": now_ms() + KEY_LIFETIME_MS,
            **changes,
        }
        return self.signer.sign(document)

    def authorization(
        self, method: str, target: str, to: str, content: Any = None, **changes: str | None
    ) -> str:
        """The X-Matrix header; `changes` replace (or, with None, remove) its parameters after signing."""
        signed: Json = {"method": method, "uri": target, "origin": self.name, "destination": to}
        if content is not None:
            signed["content"] = content
        parameters: dict[str, str | None] = {
            "origin": self.name,
            "destination": to,
            "key": self.signer.key_id,
            "sig": self.signer.signature(signed),
            **changes,
        }
        return "X-Matrix " + ",".join(
            f'{key}="{value}"' for key, value in parameters.items() if value is not None
        )

    async def request(
        self,
        method: str,
        destination: str,
        target: str,
        content: Any = None,
        *,
        raw: bytes | None = None,
        header: str | None = None,
    ) -> Answer:
        """A signed request; `raw` sends other bytes than were signed, `header` replaces the whole header."""
        if header is None:
            header = self.authorization(method, target, destination, content)
        body = raw if raw is not None else (None if content is None else wire.canonical(content))
        data = None if body is None else io.BytesIO(body)  # of any size
        headers = {"Authorization": header} if header else {}
        if body is not None:
            headers["Content-Type"] = "application/json"
        async with self.http.request(
            method,
            URL(f"https://{destination}{target}", encoded=True),
            data=data,
            headers=headers,
            timeout=TIMEOUT,
        ) as response:
            text = await response.read()
            try:
                return Answer(response.status, json.loads(text))
            except ValueError:
                return Answer(response.status, text[:500])

    def transaction(self, pdus: list[Any], edus: list[Any] | None = None) -> Json:
        body: Json = {"origin": self.name, "origin_server_ts": now_ms(), "pdus": pdus}
        if edus:
            body["edus"] = edus
        return body

    async def send(
        self, destination: str, pdus: list[Any], edus: list[Any] | None = None, *, txn: str | None = None
    ) -> Answer:
        """PUT /send with these PDUs as they are."""
        self._transactions += 1
        txn = txn or f"{now_ms()}-{self._transactions}"
        return await self.request("PUT", destination, uri("send", txn), self.transaction(pdus, edus))

    async def join(self, destination: str, room_id: str, user: str) -> Room:
        """Join a room of another server properly, and keep it among `rooms`."""
        versions = "&".join(f"ver={version}" for version in VERSIONS)
        answer = await self.request("GET", destination, f"{uri('make_join', room_id, user)}?{versions}")
        assert answer.status == 200, answer
        version = answer.body.get("room_version", "1")
        template = answer.body["event"]
        room = Room(version, room_id)
        event = {**template, "origin_server_ts": now_ms()}
        if int(version) <= 2:
            event["event_id"] = f"$peerjoin{now_ms()}:{self.name}"
        if int(version) <= 10:
            event["origin"] = self.name
        event = self.signer.sign_event(event, version)
        joined = wire.event_id(event, version)
        path = uri("send_join", room_id, joined, version="v2")
        answer = await self.request("PUT", destination, path, event)
        assert answer.status == 200, answer
        room.take_snapshot(answer.body["state"], answer.body["auth_chain"])
        room.extremities = [i for i in wire.referred(event["prev_events"]) if i in room.events]
        room.add(answer.body.get("event", event))
        room.extremities = [joined]
        self.rooms[room_id] = room
        return room

    def create_room(self, version: str = "12", creator: str = "mallory", **more: Any) -> Room:
        """A room that lives here, with a public alias `#room-…`."""
        room = create_room(self.signer, version, self.user(creator), **more)
        self.rooms[room.room_id] = room
        return room

    # What it checks

    async def check_request(self, request: web.Request, body: Any) -> str:
        """Verify the X-Matrix header of a request; the origin it proves."""
        header = request.headers.get("Authorization", "")
        pairs = (pair.split("=", 1) for pair in header.removeprefix("X-Matrix ").split(","))
        parameters = {pair[0].strip().lower(): pair[1].strip('" ') for pair in pairs if len(pair) == 2}
        origin = parameters.get("origin", "")
        signed: Json = {
            "method": request.method,
            "uri": str(request.rel_url.raw_path_qs),
            "origin": origin,
            "destination": self.name,
            "signatures": {origin: {parameters.get("key", ""): parameters.get("sig", "")}},
        }
        if body is not None:
            signed["content"] = body
        if parameters.get("destination") != self.name:
            self.complaints.append(f"{request.path}: destination {parameters.get('destination')!r}")
        if not await self.signed_by(signed, origin):
            self.complaints.append(f"{request.method} {request.path}: bad signature: {header}")
        return origin

    async def signed_by(self, value: Json, server: str) -> bool:
        """Whether `value` carries a signature by a key that `server` publishes."""
        if server == self.name:
            keys = {self.signer.key_id: {"key": self.signer.public}}
        else:
            keys = (await self.keys_of(server)).get("verify_keys", {})
        return any(
            verify
            for key_id in value.get("signatures", {}).get(server, {})
            if (verify := wire.verifies(value, server, key_id, keys.get(key_id, {}).get("key", "")))
        )

    async def keys_of(self, server: str) -> Json:
        if server not in self._keys:
            async with self.http.get(f"https://{server}/_matrix/key/v2/server", timeout=TIMEOUT) as response:
                document: Json = await response.json()
            self._keys[server] = document
            key_ids = document.get("signatures", {}).get(server, {})
            if not any(
                wire.verifies(document, server, i, document["verify_keys"][i]["key"])
                for i in key_ids
                if i in document.get("verify_keys", {})
            ):
                self.complaints.append(f"the key document of {server} is not signed by itself")
        return self._keys[server]

    async def check_event(self, event: Json, version: str) -> None:
        """Complain of an event whose hash or signature is wrong."""
        identifier = wire.event_id(event, version)
        if event.get("hashes", {}).get("sha256") != wire.content_hash(event):
            self.complaints.append(f"{identifier}: wrong content hash")
        bare = wire.redacted(event, version)
        if not await self.signed_by(bare, event["sender"].split(":", 1)[1]):
            self.complaints.append(f"{identifier}: not signed by its sender's server")
