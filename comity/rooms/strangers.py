"""Rooms that we are not in: invites that reach our users from outside, and their end.

Such an event is held as an outlier; what the invited user is shown of the room is the
stripped state that came with the invite (client-server §Stripped state).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import orjson

from comity.bus import Bus
from comity.protocol.auth.rules import StateLookup
from comity.protocol.errors import invalid_param
from comity.protocol.event import Event
from comity.protocol.identifiers import server_of
from comity.protocol.room_versions import RoomVersion
from comity.rooms.batch import Batch
from comity.rooms.decisions import Decisions
from comity.rooms.fetch import Fetcher
from comity.rooms.room import Room, Rooms
from comity.store import rooms as stored_rooms
from comity.store.database import Database, Tx, WriteTx

_log = logging.getLogger(__name__)
#: Stripped state events that are kept of one invite.
MAX_STRIPPED = 100
#: State that an invite or the answer to a knock shows of a room (client-server §Stripped state).
SHOWN_STATE = (
    "m.room.create",
    "m.room.name",
    "m.room.avatar",
    "m.room.topic",
    "m.room.join_rules",
    "m.room.canonical_alias",
    "m.room.encryption",
)


def shown_state(find: StateLookup, inviter: str | None = None) -> list[Event]:
    """The state events that somebody outside is shown of a room, and of whoever invites them to it."""
    keys = [(event_type, "") for event_type in SHOWN_STATE]
    if inviter is not None:
        # Whoever invites has a name and a face that apps show.
        keys.append(("m.room.member", inviter))
    found = (find(key) for key in keys)
    return [event for event in found if event is not None]


def strip(event: dict[str, Any]) -> dict[str, Any]:
    """client-server §Stripped state of an event's object."""
    return {
        "type": event.get("type"),
        "state_key": event.get("state_key", ""),
        "sender": event.get("sender"),
        "content": event.get("content", {}),
    }


class Strangers:
    """Memberships of our users in rooms that this server is not in."""

    def __init__(
        self,
        database: Database,
        rooms: Rooms,
        decisions: Decisions,
        fetcher: Fetcher,
        bus: Bus,
        server_name: str,
        *,
        forget_upon_leave: bool = False,
    ) -> None:
        self._forget_upon_leave = forget_upon_leave
        self._database = database
        self._rooms = rooms
        self._decisions = decisions
        self._fetcher = fetcher
        self._bus = bus
        self._server_name = server_name

    async def head(self, room_id: str, version: RoomVersion) -> Room:
        """The head of a room, made now if it was never heard of."""
        room = await self._rooms.get(room_id)
        if room is None:
            room = Room(self._rooms.numbers.room(), room_id, version, b"", {}, resident=False, next_slot=0)
            self._rooms.put(room)
        return room

    async def record(
        self,
        version: RoomVersion,
        event: Event,
        membership: str,
        stripped: Sequence[dict[str, Any]] = (),
        *,
        through: str | None = None,
    ) -> None:
        """Store an out-of-band membership of a user of ours; returns once it is on disk.

        `through` is the server that took a knock.
        """
        user_id = event.state_key or ""
        text = orjson.dumps([strip(item) for item in stripped[:MAX_STRIPPED]]).decode() if stripped else None

        def decide(tx: Tx, batch: Batch) -> None:
            batch.room_creator = ""
            number, room_num = batch.add_outlier(tx, event), batch.room.number

            def add(tx: WriteTx) -> None:
                position = tx.next_position()
                stored_rooms.add_local_membership(
                    tx, user_id, room_num, position, membership, number, text, through
                )
                if self._forget_upon_leave and membership in ("leave", "ban"):
                    stored_rooms.forget(tx, user_id, room_num, at_once=True)
                tx.after_commit(lambda: self._bus.publish(position, [user_id]))

            batch.also.append(add)

        await self._decisions.make(lambda: self.head(event.room_id, version), decide)

    async def believable(
        self, version: RoomVersion, room_id: str, shown: Sequence[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """What may be shown of a room, of the state that another server gave with an invite or knock.

        From room version 12 on, the create event must be there and be that of the room. Of the rest,
        what is whole and not valid is left out. Raises 400 M_INVALID_PARAM.
        """
        if not version.room_id_is_create_hash:
            return list(shown)
        # COMPAT: the specification wants whole events and refuses an invite for one that is not; other
        # servers give stripped ones, and the key of whoever set the topic may be out of reach.
        whole = [item for item in shown if "signatures" in item]
        valid = await self._fetcher.check(version, whole, room_id)
        kept = [item for item in shown if "signatures" not in item]
        kept.extend(dict(event.source) for event in valid.values() if event.is_state)
        if not any(item.get("type") == "m.room.create" for item in kept):
            raise invalid_param("The state that is shown of the room lacks its create event")
        return kept

    async def receive(
        self, origin: str, room_id: str, values: Sequence[object], results: dict[str, dict[str, Any]]
    ) -> None:
        """PDUs of a room that we are not in: only the end of an invite of ours is taken."""
        room = await self._rooms.get(room_id)
        if room is None:
            _log.info("%d PDUs from %s for an unknown room were dropped", len(values), origin)
            return
        for event in (await self._fetcher.check(room.version, values, room_id)).values():
            if await self._database.read(lambda tx: self._ends_invite(tx, room, event)):  # noqa: B023
                await self.record(room.version, event, event.membership or "leave")
                results[event.event_id] = {}
            else:
                results[event.event_id] = {"error": "This server is not in the room"}

    def _ends_invite(self, tx: Tx, room: Room, event: Event) -> bool:
        """Whether the event takes back an invite or knock that one of our users has there."""
        user_id = event.state_key or ""
        if event.type != "m.room.member" or server_of(user_id) != self._server_name:
            return False
        if event.membership not in ("leave", "ban"):
            return False
        last = stored_rooms.last_local_membership(tx, user_id, room.number)
        if last is None or last.membership not in ("invite", "knock"):
            return False
        invite = self._rooms.events.get(tx, last.event_num)
        if invite is None:
            return False
        # Without the room's state it cannot be judged fully: it must stand on the very invite,
        # or come from the server that sent it.
        from_inviter = server_of(event.sender) == server_of(invite.event.sender)
        return from_inviter or invite.event.event_id in event.auth_event_ids
