"""A small Matrix client: as much of the client-server API as the demonstration plays.

Speaks to a server over HTTPS as any client does; it knows nothing of comity.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote, urlencode

import orjson

from comity.cli.demo.transcript import StepFailed
from comity.ports import Clock, Endpoint, Transport, TransportError

#: Seconds for a request that does not wait for news; a join asks another server in between.
REQUEST_SECONDS = 30.0
#: Seconds that one /sync waits for news.
SYNC_SECONDS = 5.0
#: Bytes of an answer; a demonstration's room is small.
MAX_ANSWER_BYTES = 8 << 20
#: Pages of history; the room of a demonstration has a few.
MAX_PAGES = 100

Event = dict[str, Any]


class Client:
    """One person's client: a session, and what it has seen of one room."""

    def __init__(self, name: str, transport: Transport, clock: Clock, port: int) -> None:
        """`name` is the localpart, `port` where the server listens on loopback with TLS."""
        self.name = name
        self.password = ""
        self.user_id = ""
        #: The events of the room as /sync brought them, in order.
        self.timeline: list[Event] = []
        #: Where the first timeline began: history before it is asked for.
        self.prev_batch = ""
        self._token = ""
        self._since = ""
        self._transactions = 0
        self._transport = transport
        self._clock = clock
        self._endpoint = Endpoint("localhost", port, "localhost", f"localhost:{port}")

    async def call(
        self,
        method: str,
        *path: str,
        query: Mapping[str, str] | None = None,
        body: object = None,
        prefix: str = "/_matrix/client/v3",
        timeout: float = REQUEST_SECONDS,
    ) -> dict[str, Any]:
        """The answer to a request, decoded. Raises StepFailed on anything but a 200."""
        target = prefix + "".join("/" + quote(part, safe="") for part in path)
        if query:
            target += "?" + urlencode(query)
        headers = {"content-type": "application/json"}
        if self._token:
            headers["authorization"] = f"Bearer {self._token}"
        try:
            answer = await self._transport.request(
                method,
                self._endpoint,
                target,
                headers=headers,
                body=None if body is None else orjson.dumps(body),
                timeout=timeout,
                max_bytes=MAX_ANSWER_BYTES,
            )
        except TransportError as error:
            raise StepFailed(f"{method} {target}: no answer: {error}") from None
        if answer.status != 200:
            raise StepFailed(
                f"{method} {target}: {answer.status} {answer.body[:500].decode(errors='replace')}"
            )
        result: dict[str, Any] = orjson.loads(answer.body)
        return result

    async def register(self, shared_secret: str, password: str) -> None:
        """Make the account as an operator's tool does: a nonce, and an HMAC over it."""
        admin = "/_synapse/admin/v1"
        nonce = (await self.call("GET", "register", prefix=admin))["nonce"]
        message = "\0".join((nonce, self.name, password, "notadmin")).encode()
        mac = hmac.new(shared_secret.encode(), message, hashlib.sha1).hexdigest()
        account = {"nonce": nonce, "username": self.name, "password": password, "admin": False, "mac": mac}
        await self.call("POST", "register", prefix=admin, body=account)
        self.password = password

    async def log_in(self) -> None:
        """Log in with the password, and tell the display name."""
        identifier = {"type": "m.id.user", "user": self.name}
        login = {"type": "m.login.password", "identifier": identifier, "password": self.password}
        answer = await self.call("POST", "login", body=login)
        self._token, self.user_id = answer["access_token"], answer["user_id"]
        profile = {"displayname": self.name.capitalize()}
        await self.call("PUT", "profile", self.user_id, "displayname", body=profile)

    async def send(self, room: str, text: str) -> str:
        """Send a message; its event id."""
        self._transactions += 1
        content = {"msgtype": "m.text", "body": text}
        transaction = f"demo-{self._transactions}"
        path = ("rooms", room, "send", "m.room.message", transaction)
        return str((await self.call("PUT", *path, body=content))["event_id"])

    async def sync(self, room: str, wait_seconds: float = 0) -> None:
        """Take in what is new in the room; wait for it if there is nothing yet."""
        query = {"timeout": str(int(wait_seconds * 1000))}
        if self._since:
            query["since"] = self._since
        answer = await self.call("GET", "sync", query=query, timeout=wait_seconds + REQUEST_SECONDS)
        self._since = answer["next_batch"]
        joined = answer.get("rooms", {}).get("join", {}).get(room, {})
        timeline = joined.get("timeline", {})
        if not timeline:
            return
        if not self.prev_batch:
            self.prev_batch = timeline.get("prev_batch", "")
        elif timeline.get("limited"):
            raise StepFailed(f"{self.name}'s /sync left out a part of what was said")
        self.timeline += timeline.get("events", [])

    async def wait_for(self, room: str, what: str, seen: Callable[[Event], bool], within: float) -> Event:
        """The first event in the timeline that `seen` accepts. Raises StepFailed after `within` seconds."""
        deadline = self._clock.monotonic() + within
        looked_at = 0
        while True:
            for event in self.timeline[looked_at:]:
                if seen(event):
                    return event
            looked_at = len(self.timeline)
            if (left := deadline - self._clock.monotonic()) <= 0:
                raise StepFailed(f"{self.name} did not see {what} within {within:.0f} s")
            await self.sync(room, min(SYNC_SECONDS, left))

    async def history(self, room: str, page: int) -> list[Event]:
        """Everything before the first timeline, oldest first, fetched `page` events at a time."""
        events: list[Event] = []
        position = self.prev_batch
        for _ in range(MAX_PAGES):
            if not position:
                return events[::-1]
            query = {"dir": "b", "from": position, "limit": str(page)}
            answer = await self.call("GET", "rooms", room, "messages", query=query)
            events += answer["chunk"]
            position = answer.get("end", "")
        raise StepFailed(f"{self.name} is not at the beginning of the room after {MAX_PAGES} pages")

    async def state(self, room: str) -> dict[tuple[str, str], Event]:
        """The room's current state by type and key."""
        answer: Any = await self.call("GET", "rooms", room, "state")
        return {(event["type"], event["state_key"]): event for event in answer}


def messages(events: list[Event]) -> list[str]:
    """What was said, in order."""
    return [event["content"]["body"] for event in events if event["type"] == "m.room.message"]
