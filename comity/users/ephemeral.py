"""What is true for a moment and lives in memory alone: typing and presence.

Typing has a serial number instead of a position, because nothing of it is on disk: it begins
with the time of the start, so that it grows over a restart too, and sync carries it in its
tokens (client-server §Typing Notifications, §Presence).
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
from comity.protocol.errors import bad_json, forbidden, invalid_param, missing_param, not_found
from comity.store import accounts, device_lists, personal
from comity.store import rooms as stored_rooms
from comity.store.cache import Bounded
from comity.store.database import Database, Tx
from comity.users.text import optional_text

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
#: Users whose presence is remembered.
MAX_PRESENCES = 50_000
#: And told in one answer.
MAX_PRESENCES_TOLD = 1_000
MAX_STATUS_BYTES = 1_024
#: client-server §Idle timeout: online turns into unavailable after so long without activity.
IDLE_MS = 5 * 60_000
#: The same presence again is told to other servers after this long.
PRESENCE_AGAIN_MS = 60_000
PRESENCES = ("online", "offline", "unavailable")


@dataclass(slots=True)
class _Room:
    serial: int
    #: user id -> when they stop (monotonic seconds).
    typing: dict[str, float] = field(default_factory=dict)
    #: local user id -> the servers that were told that they type.
    told: dict[str, Collection[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Presence:
    state: str
    status: str | None
    active_ms: int
    #: when other servers were told of it (ms since the epoch); of users of ours alone.
    told_ms: int = 0


class Ephemeral:
    """Who types where, and who is there at all."""

    def __init__(
        self, database: Database, bus: Bus, clock: Clock, sink: EduSink | None = None, server_name: str = ""
    ) -> None:
        """`sink` is who tells other servers than `server_name`, which is ours; None: nobody does."""
        self._database = database
        self._bus = bus
        self._clock = clock
        self._sink = sink or NoSink()
        self._server_name = server_name
        self._serial = clock.now_ms()
        self._rooms: Bounded[str, _Room] = Bounded(MAX_TYPING_ROOMS)
        #: Rooms in which somebody types, to be looked through when time passes.
        self._busy: dict[str, _Room] = {}
        self._sweeper: asyncio.Task[None] | None = None
        self._presences: Bounded[str, _Presence] = Bounded(MAX_PRESENCES)
        #: (user id, room id) -> the newest of their requests that are being looked into.
        self._asking: dict[tuple[str, str], object] = {}

    # -- typing

    @property
    def typing_serial(self) -> int:
        """The serial number of the last change of typing anywhere."""
        return self._serial

    def typing(self, room_id: str) -> tuple[int, list[str]]:
        """(serial number of the room's last change, the users who type now).

        0 where nobody has typed for as long as is remembered.
        """
        room = self._rooms.get(room_id)
        return (room.serial, list(room.typing)) if room is not None else (0, [])

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

    def _stop(self, user_id: str, room_id: str, room: _Room) -> None:
        del room.typing[user_id]
        self._tell_typing(user_id, room_id, room.told.pop(user_id, ()), typing=False)

    def _changed(self, room_id: str, room: _Room) -> None:
        self._serial += 1
        room.serial = self._serial
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
        """Stop the task that ends what has timed out."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)

    # -- presence

    async def set_presence(self, user_id: str, body: Mapping[str, Any]) -> None:
        """`PUT /presence/{userId}/status` by that user.

        Raises 400 M_MISSING_PARAM, M_INVALID_PARAM or M_BAD_JSON.
        """
        state = body.get("presence")
        if state is None:
            raise missing_param("The request body lacks presence")
        if state not in PRESENCES:
            raise invalid_param("presence is not online, offline or unavailable")
        status = optional_text(body.get("status_msg"), "status_msg", most=MAX_STATUS_BYTES)
        now, before = self._clock.now_ms(), self._presences.get(user_id)
        is_same = before is not None and (before.state, before.status) == (state, status)
        told = before.told_ms if before is not None and is_same else 0
        is_due = not is_same or now - told >= PRESENCE_AGAIN_MS
        self._presences.put(user_id, _Presence(state, status, now, now if is_due else told))
        if is_due:
            servers = await self._database.look_up(lambda tx: device_lists.servers_sharing(tx, user_id))
            shown = self._shown(user_id)
            self._sink.whisper(
                servers - {self._server_name}, "m.presence", user_id,
                orjson.dumps({"user_id": user_id, "last_active_ago": 0, **shown}),
            )  # fmt: skip

    def take_presence(self, user_id: str, state: str, status: str | None, ago_ms: int) -> None:
        """What another server says of a user of its own, who was active `ago_ms` ago."""
        self._presences.put(user_id, _Presence(state, status, self._clock.now_ms() - ago_ms))

    async def presence(self, requester: str, user_id: str) -> dict[str, object]:
        """`GET /presence/{userId}/status`, as `requester` may see it.

        Raises 404 M_NOT_FOUND for a user who does not exist or shares no room.
        """
        is_visible = await self._database.read(
            lambda tx: (
                (requester == user_id and accounts.user(tx, user_id) is not None)
                or personal.shares_room(tx, requester, user_id)
            )
        )
        if not is_visible:
            raise not_found("There is no presence of such a user to be seen")
        return self._shown(user_id)

    async def presences(self, requester: str) -> list[dict[str, object]]:
        """`m.presence` of the requester and of those who share a room with them, of what is known here.

        At most MAX_PRESENCES_TOLD, those that were heard of last.
        """
        known = self._presences.keys()
        sharing = await self._database.read(lambda tx: personal.sharing_room(tx, requester, known))
        users = [user_id for user_id in known if user_id in sharing or user_id == requester]
        return [
            {"type": "m.presence", "sender": user_id, "content": self._shown(user_id)}
            for user_id in users[-MAX_PRESENCES_TOLD:]
        ]

    def _shown(self, user_id: str) -> dict[str, object]:
        known = self._presences.get(user_id)
        if known is None:
            return {"presence": "offline"}
        ago = max(0, self._clock.now_ms() - known.active_ms)
        idle = known.state == "online" and ago >= IDLE_MS
        shown: dict[str, object] = {
            "presence": "unavailable" if idle else known.state,
            "last_active_ago": ago,
        }
        if known.state == "online":
            shown["currently_active"] = not idle
        if known.status is not None:
            shown["status_msg"] = known.status
        return shown
