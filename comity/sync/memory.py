"""What memory alone tells of a device's news: that there is none, or what many others got as well.

A /sync that is woken, or has waited in vain, need not read the database (DESIGN §4.5). What is told
here is exact or not told: whoever gets None reads.
"""

from __future__ import annotations

from collections.abc import Collection

from comity.bus import DEVICE_LISTS, Bus
from comity.rooms.read.tokens import SyncToken
from comity.sync.asked import Asked, SyncRequest
from comity.sync.devices import Devices
from comity.sync.presence import PresenceNews
from comity.sync.slice import JoinedRooms
from comity.sync.user_rooms import RoomsOfUsers, UserRooms
from comity.users.ephemeral import Ephemeral

#: Rooms with news that are put together from memory; who has more has been away, and reads.
MAX_ROOMS = 4
#: An answer: its parts of rooms, what is left of the device's keys, the token.
_ANSWER = (
    b'{"rooms":{"join":{%b},"invite":{},"knock":{},"leave":{}},"device_lists":{"changed":[],"left":[]},'
    b'%b,"next_batch":"%b"}'
)


#: What may be new for a device: nothing but of its user's joined rooms that are listed.
Looked = tuple[UserRooms, list[str]]
#: A whole answer as JSON, and whether it has anything to tell.
Told = tuple[bytes, bool]


class Memory:
    """Looks into memory for /sync."""

    def __init__(
        self,
        *,
        bus: Bus,
        ephemeral: Ephemeral,
        user_rooms: RoomsOfUsers,
        devices: Devices,
        joined: JoinedRooms,
        presence: PresenceNews,
    ) -> None:
        self._bus = bus
        self._ephemeral = ephemeral
        self._rooms = user_rooms
        self._devices = devices
        self._joined = joined
        self._presence = presence
        #: The last token that was written, and what it says.
        self._token: tuple[tuple[int, int, int], bytes] = ((-1, 0, 0), b"")

    def look(self, request: SyncRequest, now: int) -> Looked | None:
        """What may be new up to `now`, the bus's position; None if memory does not tell it."""
        since = request.since
        if since is None or request.full_state or since.device_position is not None:
            return None
        if self._ephemeral.has_forgotten(since.typing):
            return None
        looked = self.rooms_with_news(request.user_id, request.device_id, since, now)
        if looked is None:
            return None
        with_presence = request.wanted.wants_presence
        if with_presence and self._presence.has_changed(request, looked[0], since.presence):
            return None
        return looked

    def rooms_with_news(self, user_id: str, device_id: str, since: SyncToken, now: int) -> Looked | None:
        """The same of what is told of by every way to follow rooms: all but presence."""
        after, bus = since.position, self._bus
        # What is remembered of a user holds as long as nothing is published for them.
        touched = bus.touched(user_id)
        rooms = self._rooms.peek(user_id)
        if rooms is None or after > now or not touched <= rooms.position <= now:
            return None
        rooms.position = now
        # Most who ask have just been told all there is.
        is_behind = now > after
        if is_behind and (touched > after or bus.touched(DEVICE_LISTS) > after):
            return None
        empty = self._devices.empty((user_id, device_id))
        if empty is None or touched > empty:
            return None
        if self._ephemeral.typing_serial > since.typing and self.typed_since(since.typing, rooms.joined):
            return None
        changed = self._changed(rooms.joined, after, now) if is_behind else []
        return None if len(changed) > MAX_ROOMS else (rooms, changed)

    def _changed(self, joined: Collection[str], after: int, now: int) -> list[str]:
        """The rooms in which something happened; it costs what is fewer, rooms or news."""
        if now - after < MAX_ROOMS or now - after < len(joined):
            keys = self._bus.keys_after(after)
            if keys is not None:
                return [key for key in keys if key in joined]
        changed = self._bus.key_changed
        return [room_id for room_id in joined if changed(room_id, after)]

    def typed_since(self, serial: int, joined: Collection[str]) -> bool:
        """Whether typing changed in one of the rooms: it has no position, and only wakes who waits."""
        typing = self._ephemeral.typing
        return self._ephemeral.typing_serial > serial and any(typing(room)[0] > serial for room in joined)

    def answer(
        self, request: SyncRequest, looked: Looked, now: int, typing_serial: int, presence_serial: int
    ) -> Told | None:
        """The answer to what was looked at; None if it has to be read.

        The serial numbers are those from before the look.
        """
        rooms, changed = looked
        asked = Asked(request, now, typing_serial, rooms.ignored, rooms.blocks_invites)
        left = self._devices.counts.known_since((request.user_id, request.device_id), asked.after)
        if left is None:
            return None
        parts: list[bytes] = []
        wanted = request.wanted.room
        for room_id in changed:
            if not (wanted.any_room or wanted.wants_room(room_id)):
                continue
            part = self._joined.from_memory(asked, room_id, rooms.joined[room_id])
            if part is None:
                return None
            parts.append(part)
        serial = presence_serial if self._presence.wants(request.wanted) else 0
        place = (now, typing_serial, serial)
        if self._token[0] != place:
            # All who are woken together are given the same.
            self._token = (place, str(SyncToken(now, typing_serial, None, serial)).encode())
        return _ANSWER % (b",".join(parts), left.told, self._token[1]), bool(parts)
