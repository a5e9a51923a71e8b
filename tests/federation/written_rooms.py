"""Rooms whose events are written straight into the store, with what other servers are owed of them."""

from __future__ import annotations

from comity.protocol.build import Draft, build
from comity.protocol.event import Event
from comity.protocol.room_versions import ROOM_VERSIONS
from comity.protocol.signing import SigningKey
from comity.store import events as stored_events
from comity.store import queues
from comity.store import rooms as stored_rooms
from comity.store.database import Database, WriteTx
from comity.store.events import ACCEPTED, Events, NewEvent, live_line
from tests.federation.conftest import OWN_NAME


class Rooms:
    """A few rooms by number, their servers, and an `Events` that knows them."""

    def __init__(self, database: Database, key: SigningKey, count: int = 1) -> None:
        self.database = database
        self.events = Events()
        self.key = key
        self.version = ROOM_VERSIONS["10"]
        for number in range(1, count + 1):
            self.events.know_room(number, self.version)

    async def join(self, server: str, room: int = 1) -> int:
        """The server has a user in the room from now on; the position of that."""

        def store(tx: WriteTx) -> int:
            position = tx.next_position()
            stored_rooms.begin_stay(tx, server, room, position)
            queues.ensure_destination(tx, server, position - 1)
            return position

        return await self.database.write(store)

    async def leave(self, server: str, room: int = 1) -> int:
        """Something is said by which the server's last user leaves; the position of that."""

        def store(tx: WriteTx) -> int:
            position, _ = self._say(tx, room, "left", OWN_NAME)
            stored_rooms.end_stay(tx, server, room, position)
            return position

        return await self.database.write(store)

    async def say(self, *texts: str, room: int = 1, by: str = OWN_NAME) -> list[Event]:
        """Messages in a room, in one write; `by` is the server that they are not sent to."""
        return await self.database.write(lambda tx: [self._say(tx, room, text, by)[1] for text in texts])

    def _say(self, tx: WriteTx, room: int, text: str, by: str) -> tuple[int, Event]:
        position = tx.next_position()
        event = build(
            Draft("m.room.message", f"@us:{OWN_NAME}", {"body": text}),
            version=self.version,
            room_id=f"!room{room}:{OWN_NAME}",
            prev=[],
            auth=[],
            now_ms=1_700_000_000_000 + position,
            server=OWN_NAME,
            key=self.key,
        )
        new = NewEvent(position, event, ACCEPTED, b"", b"", ())
        stored_events.insert(tx, room, [new], {position: live_line(position)})
        queues.add_outbound(tx, room, position, position, by)
        return position, event
