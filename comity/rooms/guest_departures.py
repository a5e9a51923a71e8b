"""Guests leave the rooms that let no guests in any more (client-server §Guest Access, Server behaviour).

What changes `m.room.guest_access` may come from anywhere: a user of ours, another server, a
resolution of the room's state, a join through a server that had told something else. So each room
in which it may have changed is looked at once that is on disk, and all rooms with guests at a start.
"""

from __future__ import annotations

import asyncio
import logging

from comity.background import Worker
from comity.ports import Clock
from comity.protocol.errors import MatrixError
from comity.rooms.guest_access import GuestAccess
from comity.rooms.membership import Memberships
from comity.rooms.room import Room, Rooms
from comity.store import guests
from comity.store.database import Database, StoreFailedError, StoreOverloadedError, StoreUnavailableError, Tx

_log = logging.getLogger(__name__)
#: Seconds until a room is looked at again that a guest could not leave.
RETRY_SECONDS = 60.0
REASON = "Guests may not be in this room any more"


class GuestDepartures(Worker):
    """Takes guests out of rooms that do not let them in."""

    def __init__(
        self,
        *,
        database: Database,
        rooms: Rooms,
        guest_access: GuestAccess,
        memberships: Memberships,
        clock: Clock,
        server_name: str,
    ) -> None:
        """`server_name` is ours."""
        self._database = database
        self._rooms = rooms
        self._guest_access = guest_access
        self._memberships = memberships
        self._clock = clock
        self._server_name = server_name
        #: Rooms to be looked at: at most all that there are.
        self._waiting: dict[str, None] = {}
        self._woken = asyncio.Event()

    def look(self, room_id: str) -> None:
        """Whether guests may be in the room may have changed."""
        self._waiting[room_id] = None
        self._woken.set()

    async def start(self) -> None:
        """Begin, with what an earlier run left undone."""
        for room_id in await self._database.read(guests.rooms):
            self.look(room_id)
        await super().start()

    async def _work(self) -> None:
        while True:
            await self._woken.wait()
            self._woken.clear()
            again: list[str] = []
            while self._waiting:
                room_id = next(iter(self._waiting))
                del self._waiting[room_id]
                try:
                    if not await self._empty(room_id):
                        again.append(room_id)
                except (StoreFailedError, StoreOverloadedError, StoreUnavailableError) as error:
                    _log.info("guests in %s wait for the database: %s", room_id, error)
                    again.append(room_id)
                except Exception:  # noqa: BLE001 - one room's trouble must not end the work on all
                    _log.exception("guests could not be taken out of %s", room_id)
            if again:
                await self._clock.sleep(RETRY_SECONDS)
                for room_id in again:
                    self.look(room_id)

    async def _empty(self, room_id: str) -> bool:
        """Take the guests out of a room if they may not be in it; False if one could not leave."""
        room = await self._rooms.get(room_id)
        if room is None or not room.resident:
            return True
        done = True
        for user_id in await self._database.read(lambda tx: self._unwelcome(tx, room)):
            try:
                await self._memberships.leave(user_id, room_id, reason=REASON)
            except MatrixError as error:
                _log.warning("the guest %s could not leave %s: %s", user_id, room_id, error)
                done = False
        return done

    def _unwelcome(self, tx: Tx, room: Room) -> list[str]:
        if self._guest_access.lets_in(tx, room):
            return []
        return guests.joined(tx, room.number, self._server_name)
