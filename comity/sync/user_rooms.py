"""Which rooms concern a user, and from whom they want to hear, remembered until either changes.

An incremental sync of somebody in a thousand rooms must not read a thousand rows to learn that
one of them has news.
"""

from __future__ import annotations

from dataclasses import dataclass

from comity.bus import Bus
from comity.rooms.read.access import blocks_invites, ignored_users
from comity.store import rooms as stored_rooms
from comity.store.cache import Bounded
from comity.store.database import Tx
from comity.store.rooms import LocalMembership

#: Users whose rooms are remembered; a user in a thousand rooms takes about 300 KiB.
MAX_USERS = 5_000
#: Room ids by number.
MAX_ROOM_IDS = 200_000


@dataclass(slots=True)
class UserRooms:
    """A user's newest membership in each room, by room id, as of `position`."""

    position: int
    memberships: dict[str, LocalMembership]
    joined: dict[str, LocalMembership]
    #: Whom the user ignores.
    ignored: frozenset[str]
    #: Whether the user wants no invites.
    blocks_invites: bool


class RoomsOfUsers:
    """Knows the rooms of every user who syncs."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._known: Bounded[str, UserRooms] = Bounded(MAX_USERS)
        self._room_ids: Bounded[int, str] = Bounded(MAX_ROOM_IDS)
        #: What is remembered of a user's rooms, if it is: for who knows how far to believe it.
        self.peek = self._known.peek

    def known(self, user_id: str, now: int) -> UserRooms | None:
        """The user's rooms as of position `now`, if they are remembered."""
        known = self._known.peek(user_id)
        if known is None or known.position > now or self._bus.key_changed(user_id, known.position):
            return None
        known.position = now
        return known

    def get(self, tx: Tx, user_id: str, now: int, *, afresh: bool = False) -> UserRooms:
        """The user's rooms as of position `now`, which is the bus's."""
        known = None if afresh else self.known(user_id, now)
        if known is not None:
            return known
        memberships = {}
        for entry in stored_rooms.local_rooms(tx, user_id, now):
            room_id = self._room_id(tx, entry.room_num)
            if room_id is not None:
                memberships[room_id] = entry
        joined = {room_id: entry for room_id, entry in memberships.items() if entry.membership == "join"}
        known = UserRooms(now, memberships, joined, ignored_users(tx, user_id), blocks_invites(tx, user_id))
        self._known.put(user_id, known)
        return known

    def _room_id(self, tx: Tx, room_num: int) -> str | None:
        room_id = self._room_ids.get(room_num)
        if room_id is None:
            room = stored_rooms.by_number(tx, room_num)
            if room is None:
                return None
            room_id = room.room_id
            self._room_ids.put(room_num, room_id)
        return room_id
