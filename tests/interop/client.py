"""A small Matrix client for tests: the client-server API by hand, over aiohttp.

Owns one logged-in user's requests and their `/sync` position. It adds nothing to what the
server says and hides nothing: an error answer is an `ApiError` with its status and code.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import itertools
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol
from urllib.parse import quote

import aiohttp
from yarl import URL

from tests.interop.servers import Homeserver
from tests.interop.waiting import PATIENCE

Json = dict[str, Any]

#: One request. A join over federation may take several round trips on a busy machine.
REQUEST_TIMEOUT = aiohttp.ClientTimeout(total=60)
#: One long poll.
POLL_MS = 3000
#: The default size of a page of history: small, so that paging is really exercised.
PAGE = 7
PASSWORD = "correct horse battery staple"

_transactions = itertools.count(1)


class ApiError(Exception):
    """An answer that was not 2xx."""

    def __init__(self, method: str, path: str, status: int, body: Any) -> None:
        self.status = status
        self.body = body
        self.errcode = body.get("errcode", "") if isinstance(body, dict) else ""
        super().__init__(f"{method} {path}: {status} {body}")


class Named(Protocol):
    """Anything with a server name: a homeserver, a peer."""

    @property
    def name(self) -> str: ...


def path_of(*parts: str) -> str:
    """A path under `/_matrix/client/v3` with every part escaped."""
    return "/_matrix/client/v3/" + "/".join(quote(part, safe="") for part in parts)


async def request(
    http: aiohttp.ClientSession,
    method: str,
    url: str,
    path: str,
    *,
    token: str | None = None,
    body: Any = None,
    query: Mapping[str, str | int] | None = None,
) -> Json:
    """One request; the answer's JSON object, or an `ApiError`."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    pairs = "&".join(f"{key}={quote(str(value), safe='')}" for key, value in (query or {}).items())
    full = f"{url}{path}?{pairs}" if pairs else url + path
    async with http.request(
        method, URL(full, encoded=True), json=body, headers=headers, timeout=REQUEST_TIMEOUT
    ) as response:
        raw = await response.read()
        answer: Any
        try:
            answer = json.loads(raw)
        except ValueError:
            answer = raw[:500]
        if response.status >= 300 or not isinstance(answer, dict):
            raise ApiError(method, path, response.status, answer)
        return answer


async def register(
    http: aiohttp.ClientSession, server: Homeserver, localpart: str, password: str = PASSWORD
) -> Client:
    """A new user, made with the registration secret (nonce + HMAC-SHA1), logged in."""
    path = "/_synapse/admin/v1/register"
    nonce = (await request(http, "GET", server.base_url, path))["nonce"]
    parts = (nonce, localpart, password, "notadmin")
    mac = hmac.new(server.registration_secret.encode(), b"\0".join(p.encode() for p in parts), hashlib.sha1)
    body = {
        "nonce": nonce, "username": localpart, "password": password, "admin": False,
        "mac": mac.hexdigest(),
    }  # fmt: skip
    return Client(http, server, await request(http, "POST", server.base_url, path, body=body))


async def login(
    http: aiohttp.ClientSession, server: Homeserver, localpart: str, password: str = PASSWORD
) -> Client:
    body = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": localpart},
        "password": password,
    }
    return Client(http, server, await request(http, "POST", server.base_url, path_of("login"), body=body))


class Client:
    """One user on one server."""

    def __init__(self, http: aiohttp.ClientSession, server: Homeserver, account: Json) -> None:
        self.http = http
        self.server = server
        self.user_id: str = account["user_id"]
        self.token: str = account["access_token"]
        self.device_id: str = account["device_id"]
        self.since: str | None = None
        #: Everything that /sync has told, in order: room -> timeline events.
        self.timelines: dict[str, list[Json]] = {}
        self.invites: dict[str, list[Json]] = {}
        self.left: set[str] = set()

    async def call(
        self, method: str, *parts: str, body: Any = None, query: Mapping[str, str | int] | None = None
    ) -> Json:
        return await request(
            self.http, method, self.server.base_url, path_of(*parts), token=self.token, body=body, query=query
        )

    # Rooms

    async def create_room(self, version: str = "12", preset: str = "public_chat", **more: Any) -> str:
        body = {"room_version": version, "preset": preset, **more}
        return str((await self.call("POST", "createRoom", body=body))["room_id"])

    async def join(self, room: str, *via: Named) -> str:
        """Join by id or alias, asking `via`."""
        # `server_name` is the older name of `via`; servers differ in which they read.
        pairs = [f"{key}={quote(server.name, safe='')}" for server in via for key in ("via", "server_name")]
        path = path_of("join", room) + ("?" + "&".join(pairs) if pairs else "")
        answer = await request(self.http, "POST", self.server.base_url, path, token=self.token, body={})
        return str(answer["room_id"])

    async def invite(self, room_id: str, user_id: str) -> None:
        await self.call("POST", "rooms", room_id, "invite", body={"user_id": user_id})

    async def leave(self, room_id: str) -> None:
        await self.call("POST", "rooms", room_id, "leave", body={})

    async def kick(self, room_id: str, user_id: str) -> None:
        await self.call("POST", "rooms", room_id, "kick", body={"user_id": user_id, "reason": "test"})

    async def ban(self, room_id: str, user_id: str) -> None:
        await self.call("POST", "rooms", room_id, "ban", body={"user_id": user_id, "reason": "test"})

    async def unban(self, room_id: str, user_id: str) -> None:
        await self.call("POST", "rooms", room_id, "unban", body={"user_id": user_id})

    async def send(self, room_id: str, text: str, *, txn: str | None = None) -> str:
        content = {"msgtype": "m.text", "body": text}
        return await self.send_event(room_id, "m.room.message", content, txn=txn)

    async def send_event(self, room_id: str, kind: str, content: Json, *, txn: str | None = None) -> str:
        txn = txn or f"t{next(_transactions)}.{time.time_ns()}"
        return str((await self.call("PUT", "rooms", room_id, "send", kind, txn, body=content))["event_id"])

    async def set_state(self, room_id: str, kind: str, content: Json, key: str = "") -> str:
        return str((await self.call("PUT", "rooms", room_id, "state", kind, key, body=content))["event_id"])

    async def redact(self, room_id: str, event_id: str) -> str:
        txn = f"r{next(_transactions)}.{time.time_ns()}"
        answer = await self.call("PUT", "rooms", room_id, "redact", event_id, txn, body={"reason": "test"})
        return str(answer["event_id"])

    # Reading

    async def event(self, room_id: str, event_id: str) -> Json:
        return await self.call("GET", "rooms", room_id, "event", event_id)

    async def state_content(self, room_id: str, kind: str, key: str = "") -> Json:
        return await self.call("GET", "rooms", room_id, "state", kind, key)

    async def state(self, room_id: str) -> dict[tuple[str, str], str]:
        """The current state: (type, state_key) -> event id."""
        path = path_of("rooms", room_id, "state")
        headers = {"Authorization": f"Bearer {self.token}"}
        async with self.http.get(
            URL(self.server.base_url + path, encoded=True), headers=headers, timeout=REQUEST_TIMEOUT
        ) as response:
            answer = await response.json()
            if response.status != 200:
                raise ApiError("GET", path, response.status, answer)
        return {(event["type"], event["state_key"]): event["event_id"] for event in answer}

    async def membership(self, room_id: str, user_id: str) -> str:
        """What this server's state says of `user_id`; "" when nothing."""
        try:
            return str((await self.state_content(room_id, "m.room.member", user_id))["membership"])
        except ApiError as error:
            if error.status == 404:
                return ""
            raise

    async def joined_members(self, room_id: str) -> set[str]:
        return set((await self.call("GET", "rooms", room_id, "joined_members"))["joined"])

    async def joined_rooms(self) -> set[str]:
        return set((await self.call("GET", "joined_rooms"))["joined_rooms"])

    async def profile(self, user_id: str) -> Json:
        return await self.call("GET", "profile", user_id)

    async def set_profile(self, key: str, value: str) -> None:
        await self.call("PUT", "profile", self.user_id, key, body={key: value})

    async def history(self, room_id: str, *, page: int = PAGE) -> list[Json]:
        """Every event of the room that this server will tell, newest first, page by page."""
        events: list[Json] = []
        query: dict[str, str | int] = {"dir": "b", "limit": page}
        for _ in range(1000):
            answer = await self.call("GET", "rooms", room_id, "messages", query=query)
            events += answer["chunk"]
            if "end" not in answer:
                return events
            assert answer["end"] != query.get("from"), "the page token stands still"
            query["from"] = answer["end"]
        raise AssertionError("history without end")

    # Following

    async def sync(self, *, timeout_ms: int = 0, **more: str | int) -> Json:
        """One /sync from where the last one ended."""
        query: dict[str, str | int] = {"timeout": timeout_ms, **more}
        if self.since is not None:
            query["since"] = self.since
        answer = await self.call("GET", "sync", query=query)
        self.since = answer["next_batch"]
        rooms = answer.get("rooms", {})
        for room_id, room in rooms.get("join", {}).items():
            self.invites.pop(room_id, None)
            self.left.discard(room_id)
            self.timelines.setdefault(room_id, []).extend(room.get("timeline", {}).get("events", []))
        for room_id, room in rooms.get("invite", {}).items():
            self.left.discard(room_id)
            self.invites[room_id] = room["invite_state"]["events"]
        for room_id, room in rooms.get("leave", {}).items():
            self.invites.pop(room_id, None)
            self.left.add(room_id)
            self.timelines.setdefault(room_id, []).extend(room.get("timeline", {}).get("events", []))
        return answer

    async def follow(self, told: Callable[[], Any], what: str, within: float = PATIENCE) -> Any:
        """Long-poll /sync until `told()` is true, and return what it said."""
        deadline = time.monotonic() + within
        if self.since is None:
            await self.sync()
        while not (answer := told()):
            left = deadline - time.monotonic()
            if left <= 0:
                raise AssertionError(f"{self.user_id}: {what}: /sync did not tell within {within:g} s")
            before = time.monotonic()
            await self.sync(timeout_ms=min(POLL_MS, int(left * 1000) + 1))
            if time.monotonic() - before < 0.01:  # a server that does not wait must not be hammered
                await asyncio.sleep(0.05)
        return answer

    def texts(self, room_id: str) -> list[str]:
        """Message bodies that /sync has told, in order."""
        return texts(self.timelines.get(room_id, []))

    async def hears(self, room_id: str, text: str, within: float = PATIENCE) -> Json:
        """Wait until /sync tells a message with this body; that event."""
        return dict(
            await self.follow(
                lambda: next((e for e in self.timelines.get(room_id, []) if text in texts([e])), None),
                f"the message {text!r}",
                within,
            )
        )

    async def sees_event(self, room_id: str, event_id: str, within: float = PATIENCE) -> Json:
        """Wait until /sync tells this event; that event."""
        return dict(
            await self.follow(
                lambda: next((e for e in self.timelines.get(room_id, []) if e["event_id"] == event_id), None),
                f"the event {event_id}",
                within,
            )
        )


#: Makes a fresh user on a server, the name beginning as asked.
MakeUser = Callable[[Homeserver, str], Awaitable[Client]]


def texts(events: list[Json]) -> list[str]:
    """The bodies of the messages among `events`."""
    return [
        e["content"]["body"]
        for e in events
        if e["type"] == "m.room.message" and "body" in e.get("content", {})
    ]
