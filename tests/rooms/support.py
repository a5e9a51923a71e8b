"""Whole servers in process, with a clock that the test turns, and rooms written by hand beside them.

A Place is one running server over a database in a folder of the test's own. Its parts are driven
directly; other servers are either Places on the same Network or hands: `branch` gives a room as
somebody else would continue it, with keys that the Place knows.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import orjson

from comity.app import App, build
from comity.config import loads, signing_key
from comity.ports import Answer, Endpoint, Offload, Ports, Request, ResolverError, SrvRecord, TransportError
from comity.protocol.build import Draft
from comity.protocol.event import Event, StateKey, decode_base64
from comity.protocol.signing import PublishedKey
from comity.rooms.create import NewRoom
from comity.rooms.room import Room as Head
from comity.rooms.room import know_all_rooms
from comity.rooms.system import RoomSystem
from comity.rooms.write import ClientTransaction
from comity.store import keys as stored_keys
from comity.store import rooms as stored_rooms
from comity.store.database import Database, Tx
from comity.store.events import Events, StoredEvent
from tests import specification
from tests.api.support_users import InlineOffload, SeededEntropy, TurnedClock
from tests.engines import Pauses, quiet, url_of
from tests.rules.rooms import Graph, Room, key_of
from tests.store.support import Held

SERVER = "a.example"
ALICE = f"@alice:{SERVER}"
AMY = f"@amy:{SERVER}"
BOB = "@bob:b.example"
CAROL = "@carol:c.example"
#: Servers that exist as keys alone.
HANDS = ("b.example", "c.example", "d.example")
CONFIGURATION = """
server_name = "{name}"
data_dir = "."
[database]
url = "{url}"
connections = 3
[registration]
enabled = true
requires = "nothing"
[rate_limits]
enabled = false
"""


class Network:
    """`ports.Transport` between the Places of one test; nobody else answers."""

    def __init__(self) -> None:
        self.apps: dict[str, App] = {}
        #: (method, path) of every request.
        self.requests: list[tuple[str, str]] = []

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
        app = self.apps.get(endpoint.host_header)
        if app is None:
            raise TransportError(f"Nobody is at {endpoint.host_header}")
        path, _, query = target.partition("?")
        self.requests.append((method, path))
        lowered = {name.lower(): value for name, value in headers.items()}
        asked = Request(method, path, query, lowered, body or b"", "192.0.2.1", frozenset({"federation"}))
        response = await app.handle(asked)
        assert isinstance(response.body, bytes)
        specification.note_faults(app.router, asked, response)
        return Answer(
            response.status, {name.lower(): value for name, value in response.headers.items()}, response.body
        )

    async def get_url(self, url: str, *, timeout: float, max_bytes: int) -> Answer:
        raise TransportError("There is no other network")


class NoResolver:
    """`ports.Resolver` where nobody answers."""

    async def srv(self, name: str) -> list[SrvRecord]:
        raise ResolverError("There is no network")


class Place:
    """A running server and its parts."""

    def __init__(self, app: App, clock: TurnedClock) -> None:
        self.app = app
        self.clock = clock
        self.rooms: RoomSystem = app._rooms
        self.database: Database = app._database
        self._transactions = itertools.count(1)

    # -- what local users do

    async def create(self, creator: str = ALICE, **fields: Any) -> str:
        """Make a room; its id."""
        return await self.rooms.creator.create(NewRoom(creator, **{"preset": "public_chat", **fields}))

    async def send(
        self,
        room_id: str,
        sender: str,
        event_type: str,
        content: Mapping[str, Any],
        state_key: str | None = None,
        *,
        transaction: str | None = None,
        redacts: str | None = None,
    ) -> str:
        """Send an event; its id."""
        known = None if transaction is None else ClientTransaction(sender, "PHONE", room_id, transaction)
        draft = Draft(event_type, sender, content, state_key, redacts)
        return await self.rooms.writer.send(room_id, draft, transaction=known)

    async def say(self, room_id: str, body: str, sender: str = ALICE) -> str:
        """Send a text message; its id."""
        return await self.send(room_id, sender, "m.room.message", {"msgtype": "m.text", "body": body})

    # -- what other servers do

    async def receive(self, origin: str, *events: Event | Mapping[str, Any]) -> dict[str, Any]:
        """Take a transaction in; the result of each PDU."""
        name = f"t{next(self._transactions)}"
        values = [dict(event.source if isinstance(event, Event) else event) for event in events]
        answer = await self.rooms.intake.receive(origin, name, values)
        results: dict[str, Any] = orjson.loads(answer)["pdus"]
        return results

    async def accept(self, *events: Event) -> None:
        """Take events in one by one, from their senders' servers, and have nothing against them."""
        for event in events:
            results = await self.receive(event.sender.partition(":")[2], event)
            assert results == {event.event_id: {}}, results

    def branch(self, room_id: str) -> Room:
        """The room as it is here, to be continued by hand."""
        room = Room.__new__(Room)
        head = self.head(room_id)
        graph = Graph()
        for stored in self.all_events(room_id):
            graph.events[stored.event.event_id] = stored.event
        graph.clock = max(self.clock.now_ms(), *(event.origin_server_ts for event in graph.events.values()))
        room.version, room.graph, room.room_id = head.version, graph, room_id
        room.state = dict(self.state_events(room_id))
        room.head = tuple(graph.events[event_id] for event_id in head.extremities)
        room.create = room.state["m.room.create", ""]
        return room

    # -- what is here

    def head(self, room_id: str) -> Head:
        """The head in memory."""
        rooms = self.rooms.writer._rooms
        head = self.database.read_now(lambda tx: rooms.peek(tx, room_id))
        assert head is not None
        return head

    def stored_head(self, room_id: str) -> tuple[bytes, set[int], bool]:
        """(state, extremities, whether we are in it) on disk."""

        def read(tx: Tx) -> tuple[bytes, set[int], bool]:
            row = stored_rooms.by_id(tx, room_id)
            assert row is not None
            return row.state, set(stored_rooms.extremities(tx, row.room_num)), row.resident

        return self.database.read_now(read)

    def assert_head_is_stored(self, room_id: str) -> None:
        """What is in memory is what is on disk."""
        head = self.head(room_id)
        numbers = {extremity.number for extremity in head.extremities.values()}
        assert self.stored_head(room_id) == (head.state, numbers, head.resident)

    def state_events(self, room_id: str) -> dict[StateKey, Event]:
        """The current state."""
        head, parts = self.head(room_id), self.rooms.writer._rooms

        def read(tx: Tx) -> dict[StateKey, Event]:
            numbers = [number for _, number in parts.states.items(tx, head.state)]
            return {stored.event.key: stored.event for stored in parts.events.load(tx, numbers).values()}

        return self.database.read_now(read)

    def state(self, room_id: str) -> dict[StateKey, str]:
        """The current state: event ids by key."""
        return {key: event.event_id for key, event in self.state_events(room_id).items()}

    def content(self, room_id: str, event_type: str, state_key: str = "") -> Mapping[str, Any] | None:
        """The content of a state event."""
        event = self.state_events(room_id).get((event_type, state_key))
        return None if event is None else event.content

    def membership(self, room_id: str, user_id: str) -> str | None:
        """A membership as the table of current members has it."""
        number = self.head(room_id).number
        member = self.database.read_now(lambda tx: stored_rooms.member(tx, number, user_id))
        return None if member is None else member.membership

    def stored(self, event_id: str) -> StoredEvent | None:
        """An event that is held."""
        return self.database.read_now(lambda tx: self.rooms.writer._rooms.events.by_id(tx, event_id))

    def at_rest(self, event_id: str) -> StoredEvent | None:
        """An event as the disk has it, past every cache."""
        events = self.rooms.writer._rooms.events
        number = self.database.read_now(lambda tx: events.number(tx, event_id))
        if number is None:
            return None
        fresh = Events()
        self.database.read_now(lambda tx: know_all_rooms(tx, fresh))
        return self.database.read_now(lambda tx: fresh.get(tx, number))

    def verdict(self, event_id: str) -> int:
        """What was made of an event."""
        stored = self.stored(event_id)
        assert stored is not None, "the event is not held"
        return stored.verdict

    def all_events(self, room_id: str) -> list[StoredEvent]:
        """Every event of a room that is held."""
        number, events = self.head(room_id).number, self.rooms.writer._rooms.events
        return self.database.read_now(
            lambda tx: list(
                events.load(
                    tx,
                    [row[0] for row in tx.all("SELECT event_num FROM events WHERE room_num = ?", (number,))],
                ).values()
            )
        )

    def timeline(self, room_id: str) -> list[str]:
        """The ids of the events in a room's timeline, oldest first."""
        number, events = self.head(room_id).number, self.rooms.writer._rooms.events
        found = self.database.read_now(
            lambda tx: events.timeline(tx, number, after=0, upto=2**62, limit=100_000, backwards=False)
        )
        return [stored.event.event_id for stored in found]

    def count(self, table: str) -> int:
        """How many rows a table has."""
        row = self.database.read_now(lambda tx: tx.one(f"SELECT count(*) FROM {table}"))
        assert row is not None
        return int(row[0])


async def learn_keys(place: Place, servers: Iterable[str] = HANDS) -> None:
    """Have the keys of servers that exist as keys alone."""
    until = place.clock.now_ms() + 6 * 24 * 3600 * 1000

    def store(tx: Tx) -> None:
        for server in servers:
            key = key_of(server)
            public = PublishedKey(key.key_id, decode_base64(key.public), until, expired=False)
            stored_keys.put(tx, server, [public], place.clock.now_ms())

    await place.database.write(store)


@asynccontextmanager
async def a_place(
    directory: Path,
    name: str = SERVER,
    *,
    network: Network | None = None,
    offload: Offload | None = None,
    seed: int = 1,
) -> AsyncIterator[Place]:
    """A running server whose data is in `directory`; opened again there, it goes on."""
    directory.mkdir(exist_ok=True)
    key_file = directory / "signing.key"
    if not key_file.exists():
        key = key_of(name)
        key_file.write_text(signing_key.render("1", bytes(key._key)))
    clock, network = TurnedClock(), network or Network()
    ports = Ports(
        clock, SeededEntropy(seed), network, NoResolver(), offload or InlineOffload(), Pauses(offload)
    )
    app = build(loads(CONFIGURATION.format(name=name, url=url_of(directory)), directory), ports)
    await app.start()
    network.apps[name] = app
    place = Place(app, clock)
    await learn_keys(place)
    try:
        yield place
    finally:
        network.apps.pop(name, None)
        if isinstance(offload, Held):
            offload.gate.set()
        async with asyncio.timeout(20):
            await app.stop()


@asynccontextmanager
async def places(directory: Path, *names: str) -> AsyncIterator[Sequence[Place]]:
    """Servers on one network. Their names have a port, so that nobody looks for them."""
    network = Network()
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                a_place(directory / name.replace(":", "_"), name, network=network, seed=index + 1)
            )
            for index, name in enumerate(names)
        ]


async def settle(*clocks: TurnedClock, seconds: float = 0.0) -> None:
    """Let every task run until all of them wait; then, if wanted, let time pass."""
    await quiet()
    for clock in clocks:
        await clock.turn(seconds)
    await quiet()
