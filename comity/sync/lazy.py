"""Which membership events a device has been given, so that they need not be repeated.

client-server §Lazy-loading room members: a member already sent, and not changed since, is
redundant. An answer that was lost is no answer: what was sent counts from the token that came
with it, and a device that asks again with an older one gets it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from comity.store.cache import Bounded

#: Rooms of devices that are remembered.
MAX_ROOMS_OF_DEVICES = 20_000
#: Members remembered in each: about 100 bytes.
MAX_MEMBERS = 200


@dataclass(slots=True)
class _Room:
    #: user id -> (the membership event's number, the position of the answer that it was in)
    sent: Bounded[str, tuple[int, int]] = field(default_factory=lambda: Bounded(MAX_MEMBERS))
    #: The newest of these positions.
    newest: int = 0


class SentMembers:
    """What each device knows of each room's members."""

    def __init__(self) -> None:
        self._rooms: Bounded[tuple[str, str, int], _Room] = Bounded(MAX_ROOMS_OF_DEVICES)

    def has(self, device: tuple[str, str], room_num: int, user_id: str, number: int, after: int) -> bool:
        """Whether a device that knows everything up to `after` has that membership event."""
        room = self._rooms.get((*device, room_num))
        known = room.sent.get(user_id) if room is not None else None
        return known is not None and known[0] == number and known[1] <= after

    def has_all(
        self, device: tuple[str, str], room_num: int, members: Sequence[tuple[str, int]], after: int
    ) -> bool:
        """Whether a device that asks from `after`, and lost no answer, has those (user, event number)."""
        if not members:
            return True
        room = self._rooms.peek((*device, room_num))
        if room is None or room.newest > after:
            return False
        sent = room.sent.peek
        for user_id, number in members:
            known = sent(user_id)
            if known is None or known[0] != number:
                return False
        return True

    def note(self, device: tuple[str, str], room_num: int, user_id: str, number: int, now: int) -> None:
        """The answer whose token is at `now` carries that membership event."""
        key = (*device, room_num)
        room = self._rooms.get(key)
        if room is None:
            room = _Room()
            self._rooms.put(key, room)
        known = room.sent.get(user_id)
        if known is None or known[0] != number:
            room.sent.put(user_id, (number, now))
            room.newest = max(room.newest, now)

    def rewind(self, device: tuple[str, str], room_num: int, after: int) -> None:
        """The device asks from `after`: answers with later tokens were lost, and what they had with them.

        Without this, a member of a lost answer would count as sent once the device is past its token,
        though the answer that came in its place had no need of that member.
        """
        room = self._rooms.get((*device, room_num))
        if room is None or room.newest <= after:
            return
        users = room.sent.keys()
        for user_id in users:
            known = room.sent.get(user_id)
            if known is not None and known[1] > after:
                room.sent.drop(user_id)
        room.newest = after

    def forget(self, device: tuple[str, str], room_num: int) -> None:
        """The device begins anew in that room."""
        self._rooms.drop((*device, room_num))
