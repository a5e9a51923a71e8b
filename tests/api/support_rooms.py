"""A whole server in process: `App.handle` over a real database, with a clock that the test turns.

Users register, rooms are made and events sent by the real routes, as clients do it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import orjson

from comity.app import App, build
from comity.config import loads, signing_key
from comity.ports import (
    NO_HEADERS,
    Endpoint,
    Offload,
    Outbound,
    Ports,
    Request,
    ResolverError,
    SrvRecord,
    TransportError,
)
from comity.ports import Answer as TransportAnswer
from comity.rooms.read import Reader
from comity.store import rooms as stored_rooms
from comity.store.database import Database, WriteTx
from tests import specification
from tests.api.asking import answered
from tests.api.headers import headers_of
from tests.api.support_users import Answer, InlineOffload, SeededEntropy, TurnedClock, answer_of, at
from tests.engines import Pauses, quiet, url_of

SERVER = "example.org"
CONFIGURATION = """
server_name = "{name}"
data_dir = "."
[database]
url = "{url}"
connections = 3
[registration]
enabled = true
requires = "nothing"
guests = true
[rate_limits]
enabled = false
[federation]
enabled = {federation}
"""
#: Changes of it: with limits on how often one may ask for things; closed; for who has a token.
LIMITED = {"[rate_limits]\nenabled = false": "[rate_limits]"}
CLOSED = {"[registration]\nenabled = true": "[registration]\nenabled = false"}
FOR_TOKENS = {'requires = "nothing"': 'requires = "token"'}


class Network:
    """`ports.Transport` between servers of one process, which are found by the port in their names."""

    def __init__(self) -> None:
        self.places: dict[int, Place] = {}
        #: The ports whose servers cannot be reached.
        self.cut: set[int] = set()
        #: What is found at a URL of no server.
        self.pages: dict[str, TransportAnswer] = {}

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
    ) -> TransportAnswer:
        there = self.places.get(endpoint.port)
        if there is None or endpoint.port in self.cut:
            raise TransportError("Nobody is there")
        path, _, query = target.partition("?")
        lower = {name.lower(): value for name, value in headers.items()}
        request = Request(method, path, query, lower, body or b"", "192.0.2.2", frozenset({"federation"}))
        response = await there.app.handle(request)
        assert isinstance(response.body, bytes)
        # A test may put somebody else there, who answers as the test wants.
        if isinstance(there.app, App):
            specification.note_faults(there.app.router, request, response)
        lower = {name.lower(): value for name, value in response.headers.items()}
        return TransportAnswer(response.status, lower, response.body)

    async def get_url(self, url: str, *, timeout: float, max_bytes: int) -> TransportAnswer:
        if url not in self.pages:
            raise TransportError("There is no network")
        return self.pages[url]

    async def request_url(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] = NO_HEADERS,
        body: bytes | None = None,
        timeout: float,
        max_bytes: int,
        max_redirects: int = 0,
        plain_http: bool = False,
    ) -> TransportAnswer:
        return await self.get_url(url, timeout=timeout, max_bytes=max_bytes)


class NoResolver:
    """`ports.Resolver` where nobody answers."""

    async def srv(self, name: str) -> list[SrvRecord]:
        raise ResolverError("There is no network")


class Client:
    """One user's device."""

    def __init__(self, place: Place, user_id: str, token: str) -> None:
        self._place = place
        self.user_id = user_id
        self.token = token
        self._transactions = 0

    async def ask(self, method: str, path: str, body: object = None, **query: object) -> Answer:
        """One request; `path` is of the client API v3 unless it begins with `/_`."""
        if not path.startswith("/_"):
            path = "/_matrix/client/v3" + path
        return await ask(self._place.app, method, path, body, query, self.token)

    # -- writing

    async def create(self, **body: object) -> str:
        """Make a room; its id."""
        # The id of a room is the hash of how it began: no two begin in the same millisecond.
        await self._place.clock.turn(0.001)
        answer = await self.ask("POST", "/createRoom", {"preset": "public_chat", **body})
        room_id: str = answer.ok()["room_id"]
        return room_id

    async def join(self, room_id: str, via: str = "") -> None:
        """Join a room, through the server `via` if ours is not in it."""
        (await self.ask("POST", at("join", room_id), {}, **({"via": via} if via else {}))).ok()

    async def leave(self, room_id: str) -> None:
        """Leave a room."""
        (await self.ask("POST", at("rooms", room_id, "leave"), {})).ok()

    async def treat(self, room_id: str, how: str, other: Client) -> None:
        """`invite`, `kick`, `ban` or `unban` somebody."""
        (await self.ask("POST", at("rooms", room_id, how), {"user_id": other.user_id})).ok()

    async def send(self, room_id: str, event_type: str, content: Mapping[str, object]) -> str:
        """Send an event; its id."""
        self._transactions += 1
        path = at("rooms", room_id, "send", event_type, f"txn{self._transactions}")
        event_id: str = (await self.ask("PUT", path, content)).ok()["event_id"]
        return event_id

    async def say(self, room_id: str, body: str) -> str:
        """Send a text message; its event id."""
        return await self.send(room_id, "m.room.message", {"msgtype": "m.text", "body": body})

    async def say_all(self, room_id: str, *bodies: str) -> list[str]:
        """Send text messages one after the other; their event ids."""
        return [await self.say(room_id, body) for body in bodies]

    async def set_state(
        self, room_id: str, event_type: str, content: Mapping[str, object], state_key: str = ""
    ) -> str:
        """Set state; the event's id."""
        path = at("rooms", room_id, "state", event_type) + (at(state_key) if state_key else "")
        event_id: str = (await self.ask("PUT", path, content)).ok()["event_id"]
        return event_id

    async def redact(self, room_id: str, event_id: str) -> str:
        """Redact an event; the redaction's id."""
        self._transactions += 1
        path = at("rooms", room_id, "redact", event_id, f"txn{self._transactions}")
        redaction: str = (await self.ask("PUT", path, {"reason": "spam"})).ok()["event_id"]
        return redaction

    async def receipt(self, room_id: str, event_id: str, kind: str = "m.read", **body: object) -> None:
        """Say how far was read."""
        (await self.ask("POST", at("rooms", room_id, "receipt", kind, event_id), body)).ok()

    async def account_data(self, event_type: str, content: object, room_id: str | None = None) -> None:
        """Set account data."""
        place = at("rooms", room_id) if room_id else ""
        path = at("user", self.user_id) + place + at("account_data", event_type)
        (await self.ask("PUT", path, content)).ok()

    # -- reading

    async def sync(self, since: str | None = None, wanted: object = None, **query: object) -> Any:
        """/sync; `wanted` is a filter, or the id of one."""
        if since is not None:
            query["since"] = since
        if wanted is not None:
            query["filter"] = wanted if isinstance(wanted, str) else orjson.dumps(wanted).decode()
        return (await self.ask("GET", "/sync", **query)).ok()

    async def token_now(self) -> str:
        """The `next_batch` of a sync."""
        token: str = (await self.sync())["next_batch"]
        return token

    async def messages(
        self, room_id: str, direction: str = "b", wanted: object = None, **query: object
    ) -> Any:
        """A page of history; `from_` stands for `from`."""
        return (await self.try_messages(room_id, direction, wanted, **query)).ok()

    async def try_messages(
        self, room_id: str, direction: str = "b", wanted: object = None, **query: object
    ) -> Answer:
        """The same, whatever the answer is."""
        if "from_" in query:
            query["from"] = query.pop("from_")
        if wanted is not None:
            query["filter"] = orjson.dumps(wanted).decode()
        return await self.ask("GET", at("rooms", room_id, "messages"), dir=direction, **query)


async def ask(
    app: App, method: str, path: str, body: object, query: Mapping[str, object], token: str | None
) -> Answer:
    """One request to a server."""
    written = {
        name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in query.items()
    }
    headers = headers_of(app.router, {}, token)
    data = b"" if body is None else orjson.dumps(body)
    request = Request(method, path, urlencode(written), headers, data, "192.0.2.1", frozenset({"client"}))
    return answer_of(app.router, request, await answered(app.router, request))


class Place:
    """A server and the doors it was given."""

    def __init__(self, app: App, clock: TurnedClock) -> None:
        self.app = app
        self.clock = clock

    @property
    def reader(self) -> Reader:
        """What answers the routes that read rooms."""
        return self.app._rooms.reader

    @property
    def database(self) -> Database:
        """The store, for what no route does."""
        return self.app._database

    async def client(self, name: str) -> Client:
        """Register a user and log in."""
        body = {"username": name, "password": "correct horse", "auth": {"type": "m.login.dummy"}}
        answer = (await ask(self.app, "POST", "/_matrix/client/v3/register", body, {}, None)).ok()
        return Client(self, answer["user_id"], answer["access_token"])

    async def guest(self) -> Client:
        """Register as a guest."""
        answer = (
            await ask(self.app, "POST", "/_matrix/client/v3/register", {}, {"kind": "guest"}, None)
        ).ok()
        return Client(self, answer["user_id"], answer["access_token"])

    async def clients(self, *names: str) -> list[Client]:
        """Register users."""
        return [await self.client(name) for name in names]

    def again(self, client: Client) -> Client:
        """The same device, talking to this server (after a restart)."""
        return Client(self, client.user_id, client.token)


@asynccontextmanager
async def place(
    directory: Path,
    seed: int = 1,
    settings: str = "",
    changes: Mapping[str, str] | None = None,
    outbound: Outbound | None = None,
    patient: Offload | None = None,
) -> AsyncIterator[Place]:
    """A running server, alone, whose data is in `directory`; opened again there, it goes on.

    `settings` is more configuration text; `changes` are made in the usual one (old text to new);
    `outbound` is how it asks places by URLs; `patient` works out its hashes.
    """
    async with _opened(
        directory, seed, SERVER, Network(), federation=False, settings=settings, changes=changes,
        outbound=outbound, patient=patient,
    ) as opened:  # fmt: skip
        yield opened


@asynccontextmanager
async def networked_place(
    directory: Path, network: Network, port: int, settings: str = ""
) -> AsyncIterator[Place]:
    """A running server that others in the `network` reach at a port, which its name ends in.

    `settings` is more configuration text.
    """
    directory.mkdir(exist_ok=True)
    name = f"192.0.2.1:{port}"
    async with _opened(directory, port, name, network, federation=True, settings=settings) as opened:
        network.places[port] = opened
        try:
            yield opened
        finally:
            del network.places[port]


@asynccontextmanager
async def _opened(
    directory: Path,
    seed: int,
    name: str,
    network: Network,
    *,
    federation: bool,
    settings: str = "",
    changes: Mapping[str, str] | None = None,
    outbound: Outbound | None = None,
    patient: Offload | None = None,
) -> AsyncIterator[Place]:
    key = directory / "signing.key"
    if not key.exists():
        key.write_text(signing_key.render("a1", SeededEntropy(seed).bytes(32)))
    clock = TurnedClock()
    offload = InlineOffload()
    ports = Ports(
        clock, SeededEntropy(seed), network, NoResolver(), offload, Pauses(), outbound or network,
        patient=patient,
    )  # fmt: skip
    text = CONFIGURATION.format(name=name, url=url_of(directory), federation=str(federation).lower())
    for old, new in (changes or {}).items():
        assert old in text
        text = text.replace(old, new)
    if "[oauth]" not in settings:
        settings += "\n[oauth]\nenabled = true\n"
    config = loads(text + settings, directory)
    app = build(config, ports)
    await app.start()
    try:
        yield Place(app, clock)
    finally:
        await app.stop()


def ids(events: Sequence[Mapping[str, Any]]) -> list[str]:
    """The ids of events."""
    return [event["event_id"] for event in events]


def bodies(events: Sequence[Mapping[str, Any]]) -> list[str]:
    """The texts of messages; other events, and redacted ones, are passed over."""
    messages = [event for event in events if event["type"] == "m.room.message"]
    return [event["content"]["body"] for event in messages if event["content"]]


def by_key(events: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], Mapping[str, Any]]:
    """(type, state key) -> content of state events."""
    return {(event["type"], event["state_key"]): event["content"] for event in events}


async def until_waiting() -> None:
    """Let every task run until all of them wait."""
    await quiet(20)


async def with_a_hole(server: Place, client: Client, room_id: str) -> None:
    """History is missing below an event that no client is shown."""
    event_id = await client.send(room_id, "org.matrix.dummy_event", {})

    def store(tx: WriteTx) -> None:
        row = tx.one("SELECT room_num, line FROM events WHERE event_id = ?", (event_id,))
        assert row is not None
        stored_rooms.put_gap(tx, row[0], stored_rooms.Gap(row[1], row[1], ("$missing",)))

    await server.database.write(store)
