"""What is true for a moment and lives in memory alone: typing, and presence (`comity.users.presence`).

Typing has a serial number instead of a position, because nothing of it is on disk: it begins
with the time of the start, so that it grows over a restart too, and sync carries it in its
tokens (client-server §Typing Notifications).
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from comity.bus import Bus
from comity.federation.sink import EduSink, NoSink
from comity.ports import Clock
from comity.protocol.errors import bad_json, forbidden, missing_param
from comity.rooms.batch import Batch
from comity.store import personal
from comity.store import rooms as stored_rooms
from comity.store.cache import Bounded
from comity.store.database import Database, Tx, WriteTx
from comity.users.presence import Presences, wake_key

__all__ = ["Ephemeral", "wake_key"]

#: Rooms whose last change of typing is remembered, each a few hundred bytes.
MAX_TYPING_ROOMS = 20_000
#: Users typing at once in one room; nobody reads a longer list.
MAX_TYPING_USERS = 200
#: A client that does not say how long is believed this long.
DEFAULT_TYPING_MS = 30_000
#: Clients repeat themselves every 20 to 30 seconds; a longer wish is cut to this.
MAX_TYPING_MS = 120_000
#: How late it may be noticed that somebody's time to type is over.
SWEEP_SECONDS = 1.0


@dataclass(slots=True)
class _Room:
    serial: int
    #: user id -> when they stop (monotonic seconds).
    typing: dict[str, float] = field(default_factory=dict)
    #: local user id -> the servers that were told that they type.
    told: dict[str, Collection[str]] = field(default_factory=dict)


class Ephemeral:
    """Who types where; who is there at all is known to its `presences`."""

    def __init__(
        self,
        database: Database,
        bus: Bus,
        clock: Clock,
        sink: EduSink | None = None,
        server_name: str = "",
        *,
        with_presence: bool = True,
    ) -> None:
        """`sink` is who tells other servers than `server_name`, which is ours; None: nobody does."""
        self._database = database
        self._bus = bus
        self._clock = clock
        self._sink = sink or NoSink()
        self._server_name = server_name
        #: The serial number of the last change of typing anywhere. Set here alone.
        self.typing_serial = self._first_serial = clock.now_ms()
        self._rooms: Bounded[str, _Room] = Bounded(MAX_TYPING_ROOMS)
        #: Rooms in which somebody types, to be looked through when time passes.
        self._busy: dict[str, _Room] = {}
        self._sweeper: asyncio.Task[None] | None = None
        self.presences = Presences(database, bus, clock, sink, server_name, enabled=with_presence)
        #: (user id, room id) -> the newest of their requests that are being looked into.
        self._asking: dict[tuple[str, str], object] = {}

    # -- typing

    def typing(self, room_id: str) -> tuple[int, list[str]]:
        """(serial number of the room's last change, the users who type now).

        0 where nobody has typed for as long as is remembered.
        """
        room = self._rooms.get(room_id)
        return (room.serial, list(room.typing)) if room is not None else (0, [])

    def has_forgotten(self, serial: int) -> bool:
        """Whether a client was told of typing up to `serial` by a server that was restarted since.

        Who typed then is not known any more.
        """
        return 0 < serial < self._first_serial

    def busy_rooms(self) -> Collection[str]:
        """The ids of the rooms in which somebody types now."""
        return self._busy.keys()

    async def type_locally(self, user_id: str, room_id: str, body: Mapping[str, Any]) -> None:
        """`PUT /rooms/{roomId}/typing/{userId}` by that user.

        Raises 400 M_MISSING_PARAM or M_BAD_JSON, 403 M_FORBIDDEN.
        """
        typing, timeout = body.get("typing"), body.get("timeout")
        if typing is None:
            raise missing_param("The request body lacks typing")
        if not isinstance(typing, bool):
            raise bad_json("typing is not a boolean")
        if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, int)):
            raise bad_json("timeout is not an integer")
        servers = await self._may_type(user_id, room_id)
        if servers is None:
            return
        wanted = DEFAULT_TYPING_MS if timeout is None else min(max(timeout, 0), MAX_TYPING_MS)
        self.set_typing(user_id, room_id, wanted if typing else None)
        room = self._busy.get(room_id)
        if room is not None and user_id in room.typing:
            # Also when it is no news here: other servers let it time out.
            room.told[user_id] = servers
            self._tell_typing(user_id, room_id, servers, typing=True)

    def _tell_typing(self, user_id: str, room_id: str, servers: Collection[str], *, typing: bool) -> None:
        """server-server §Typing Notifications."""
        if servers:
            content = orjson.dumps({"room_id": room_id, "user_id": user_id, "typing": typing})
            self._sink.whisper(servers, "m.typing", f"{room_id} {user_id}", content)

    async def _may_type(self, user_id: str, room_id: str) -> Collection[str] | None:
        """The other servers in the room, if this request counts: a later one may have been faster.

        Raises 403 M_FORBIDDEN for a user who is not in the room.
        """
        key, mine = (user_id, room_id), object()
        self._asking[key] = mine
        try:
            servers = await self._database.look_up(lambda tx: self._servers_of(tx, user_id, room_id))
        finally:
            is_newest = self._asking.get(key) is mine
            if is_newest:
                del self._asking[key]
        if servers is None:
            raise forbidden("The user is not in this room")
        return servers if is_newest else None

    def _servers_of(self, tx: Tx, user_id: str, room_id: str) -> set[str] | None:
        """The other servers in a room that the user is in; None where they are not."""
        room_num = personal.joined_room(tx, room_id, user_id)
        if room_num is None:
            return None
        return stored_rooms.servers(tx, room_num) - {self._server_name}

    def set_typing(self, user_id: str, room_id: str, timeout_ms: int | None) -> None:
        """A user (of any server) types for so long from now, or, with None, stops."""
        room = self._rooms.get(room_id)
        was_typing = room is not None and user_id in room.typing
        if timeout_ms is None:
            if room is not None and was_typing:
                self._stop(user_id, room_id, room)
                self._changed(room_id, room)
            return
        if room is None:
            room = self._busy.get(room_id) or _Room(0)
        if not was_typing and len(room.typing) >= MAX_TYPING_USERS:
            return
        room.typing[user_id] = self._clock.monotonic() + timeout_ms / 1000
        if not was_typing:
            self._changed(room_id, room)
        self._sweep_later()

    def follow(self, tx: WriteTx, batch: Batch) -> None:
        """Whoever leaves a room types there no more: a follower of `comity.rooms.commit.Commits`."""
        gone = [
            change.user_id
            for decided in batch.all_decided()
            for change in decided.members
            if change.membership != "join"
        ]
        if gone:
            room_id = batch.room.room_id

            def stop() -> None:
                for user_id in gone:
                    self.set_typing(user_id, room_id, None)

            tx.after_commit(stop)

    def _stop(self, user_id: str, room_id: str, room: _Room) -> None:
        del room.typing[user_id]
        self._tell_typing(user_id, room_id, room.told.pop(user_id, ()), typing=False)

    def _changed(self, room_id: str, room: _Room) -> None:
        self.typing_serial += 1
        room.serial = self.typing_serial
        self._rooms.put(room_id, room)
        if room.typing:
            self._busy[room_id] = room
        else:
            self._busy.pop(room_id, None)
        # Nothing was stored: the position stays, those who wait look at the serial number.
        self._bus.publish(self._bus.position, [room_id])

    def _sweep_later(self) -> None:
        if self._sweeper is None or self._sweeper.done():
            self._sweeper = asyncio.get_running_loop().create_task(self._sweep())

    async def _sweep(self) -> None:
        while self._busy:
            await self._clock.sleep(SWEEP_SECONDS)
            now = self._clock.monotonic()
            for room_id, room in list(self._busy.items()):
                over = [user_id for user_id, until in room.typing.items() if until <= now]
                for user_id in over:
                    self._stop(user_id, room_id, room)
                if over:
                    self._changed(room_id, room)

    async def close(self) -> None:
        """Stop the tasks that end what has timed out."""
        await self.presences.close()
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)
