"""What clients from before /sync begin with: one room to look into, or everything at once.

client-server §Room Previews (`/rooms/{roomId}/initialSync`), and the deprecated `/initialSync` and
`/events/{eventId}`. Each answer is read when it is asked for, with nothing remembered from one to the
next: these need to be right, not fast. What happens afterwards is `comity.sync.old_stream`.
"""

from __future__ import annotations

from typing import Any

from comity.bus import Bus
from comity.protocol.errors import MatrixError, not_found
from comity.protocol.filters import NO_ROOM_EVENT_FILTER, Filter, RoomFilter
from comity.rooms.read import Reader
from comity.rooms.read.access import Access, access, end_of_last_stay, ignored_users
from comity.rooms.read.paging import wanted_events
from comity.rooms.read.tokens import SyncToken, line_token
from comity.rooms.read.window import scan_back
from comity.store import personal, published
from comity.store import rooms as stored_rooms
from comity.store.database import Database, Tx
from comity.store.events import live_line
from comity.store.rooms import LocalMembership
from comity.sync.asked import SyncRequest
from comity.sync.slice import account_data_events
from comity.sync.v3 import Sync
from comity.users.ephemeral import Ephemeral

#: Of /sync, all but rooms.
_NO_ROOMS = Filter(room=RoomFilter(rooms=frozenset()))


class OldSync:
    """Answers the endpoints named above."""

    def __init__(
        self, *, database: Database, bus: Bus, reader: Reader, sync: Sync, ephemeral: Ephemeral
    ) -> None:
        self._database = database
        self._bus = bus
        self._reader = reader
        self._sync = sync
        self._ephemeral = ephemeral

    # -- one room

    async def room(self, user_id: str, device_id: str, room_id: str, limit: int) -> dict[str, Any]:
        """GET /rooms/{roomId}/initialSync, with the newest `limit` events. Raises 403 M_FORBIDDEN."""
        now = self._bus.position

        def read(tx: Tx) -> dict[str, Any]:
            allowed = access(tx, self._reader.states, self._reader.events, user_id, room_id, now)
            history = stored_rooms.local_history(tx, user_id, allowed.room.room_num)
            standing = [entry for entry in history if entry.position <= now and not entry.forgotten]
            membership = {"membership": standing[-1].membership} if standing else {}
            return {
                "room_id": room_id,
                **membership,
                **self._info(tx, user_id, device_id, allowed, now, limit),
            }

        return await self._database.read(read)

    def _info(
        self, tx: Tx, user_id: str, device_id: str, allowed: Access, now: int, limit: int
    ) -> dict[str, Any]:
        """What is told of a room that the user may read: its newest events, its state, what is theirs."""
        reader, room = self._reader, allowed.room
        view = reader.visibility.view(tx, user_id, room.room_num)
        window = scan_back(
            tx, reader.events, room.room_num, after=0, upto=allowed.line, limit=limit,
            keep=wanted_events(tx, reader.events, view, user_id, room.room_id, NO_ROOM_EVENT_FILTER),
        )  # fmt: skip
        chunk = window.events[::-1]
        reading = reader.reading(tx, user_id, device_id, chunk, view)
        messages: dict[str, Any] = {
            "chunk": reader.format.events(tx, chunk, reading),
            "end": line_token(allowed.line),
        }
        if not window.exhausted:
            messages["start"] = line_token(window.stop)
        numbers = [number for _, number in reader.states.items(tx, allowed.state)]
        state = list(reader.events.load(tx, numbers).values())
        reading = reader.reading(tx, user_id, device_id, state, view).brief()
        own = personal.room_account_data(tx, user_id, room.room_id, now)
        return {
            "messages": messages,
            "state": reader.format.events(tx, state, reading),
            "visibility": "public" if published.is_published(tx, room.room_num) else "private",
            "account_data": account_data_events(NO_ROOM_EVENT_FILTER, room.room_id, own),
        }

    # -- everything

    async def everything(self, user_id: str, device_id: str, limit: int, *, archived: bool) -> dict[str, Any]:
        """GET /initialSync: every room with its newest `limit` events, those that were left if `archived`."""
        # Messages to the device are in this answer and are not told: the next /sync has them again,
        # because the token that is given here is none of /sync.
        beside = await self._sync.everything(SyncRequest(user_id, device_id, wanted=_NO_ROOMS))
        now = SyncToken.parse(beside["next_batch"]).position
        memberships = await self._database.read(lambda tx: stored_rooms.local_rooms(tx, user_id, now))
        rooms = []
        for entry in memberships:
            # A read for each, so that other requests come in between.
            part = await self._database.read(
                lambda tx: self._part(tx, user_id, device_id, entry, now, limit, archived=archived)  # noqa: B023
            )
            if part is not None:
                rooms.append(part)
        return {
            "end": line_token(live_line(now)),
            "presence": await self._ephemeral.presences.all_seen_by(user_id),
            "account_data": beside.get("account_data", {}).get("events", []),
            "rooms": rooms,
        }

    def _part(
        self,
        tx: Tx,
        user_id: str,
        device_id: str,
        entry: LocalMembership,
        now: int,
        limit: int,
        *,
        archived: bool,
    ) -> dict[str, Any] | None:
        """One room of /initialSync; None for those that are not told of."""
        room = stored_rooms.by_number(tx, entry.room_num)
        if room is None or entry.forgotten:
            return None
        told = {"room_id": room.room_id, "membership": entry.membership}
        if entry.membership == "invite":
            invite = self._invite(tx, user_id, device_id, entry)
            return None if invite is None else {**told, "invite": invite}
        if entry.membership != "join":
            history = stored_rooms.local_history(tx, user_id, entry.room_num)
            was_in = end_of_last_stay([item for item in history if item.position <= now]) is not None
            if not archived or not was_in or entry.membership not in ("leave", "ban"):
                return None
        allowed = access(tx, self._reader.states, self._reader.events, user_id, room.room_id, now)
        return {**told, **self._info(tx, user_id, device_id, allowed, now, limit)}

    def _invite(self, tx: Tx, user_id: str, device_id: str, entry: LocalMembership) -> object | None:
        reader = self._reader
        stored = reader.events.get(tx, entry.event_num) if entry.event_num else None
        if stored is None or stored.event.sender in ignored_users(tx, user_id):
            return None
        view = reader.visibility.view(tx, user_id, entry.room_num)
        reading = reader.reading(tx, user_id, device_id, [stored], view)
        return reader.format.event(tx, stored, reading)

    # -- one event

    async def event(self, user_id: str, device_id: str, event_id: str) -> object:
        """GET /events/{eventId}. Raises 404 M_NOT_FOUND if there is none or the user may not see it."""

        def find(tx: Tx) -> str | None:
            stored = self._reader.events.by_id(tx, event_id)
            room = stored_rooms.by_number(tx, stored.room_num) if stored is not None else None
            return room.room_id if room is not None else None

        room_id = await self._database.read(find)
        try:
            if room_id is not None:
                return await self._reader.event(user_id, device_id, room_id, event_id)
        except MatrixError as error:
            if error.status not in (403, 404):
                raise
        raise not_found("There is no such event, or you may not see it")
