"""The presence of others in /sync: of whom the user shares a room with (client-server §Presence)."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

from comity.protocol.filters import Filter
from comity.store import personal
from comity.store.database import Tx
from comity.sync.asked import Asked, SyncRequest
from comity.sync.user_rooms import UserRooms
from comity.users.ephemeral import Ephemeral, wake_key

__all__ = ["PresenceNews", "PresencePart", "wake_key"]

PRESENCE = "m.presence"
#: Presences in one answer; the rest come with the next. Each is about 200 bytes.
MAX_TOLD = 500
#: Newcomers of rooms that are looked at for one answer.
MAX_NEWCOMERS = 2_000


@dataclass(frozen=True, slots=True)
class PresencePart:
    """The events, and the serial number up to which everything was told; 0: nothing is to be told."""

    events: list[dict[str, Any]] = field(default_factory=list)
    serial: int = 0


class PresenceNews:
    """Reads what is new of presence for one user."""

    def __init__(self, ephemeral: Ephemeral) -> None:
        self.presences = ephemeral.presences

    def wants(self, wanted: Filter) -> bool:
        """Whether a filter lets any presence through."""
        return wanted.wants_presence and self.presences.enabled

    def has_changed(self, request: SyncRequest, rooms: UserRooms, serial: int) -> bool:
        """Whether presence that is wanted may have changed after that serial number: a look into memory."""
        if self.presences.serial <= serial or not self.wants(request.wanted):
            return False
        return bool(self.presences.changed(request.user_id, _numbers(rooms), serial))

    def part(
        self, tx: Tx, asked: Asked, rooms: UserRooms, serial: int, newcomers: Collection[str]
    ) -> PresencePart:
        """What changed up to `serial`, and how those are who came into the user's rooms: `newcomers`.

        Rooms that the user came into since are seen by their own memberships.
        """
        if not self.wants(asked.wanted):
            return PresencePart()
        presences, user_id = self.presences, asked.user_id
        since = 0 if asked.request.since is None else asked.request.since.presence
        listed: dict[str, int] = {}
        if since < presences.serial:
            listed = presences.changed(user_id, _numbers(rooms), since, serial)
        met = self._met(asked, rooms, newcomers) if since else set()
        met.difference_update(listed, [user_id])
        chosen = self._visible(tx, asked, [*sorted(met), *listed])
        if len(chosen) > MAX_TOLD:
            chosen = chosen[:MAX_TOLD]
            serial = listed.get(chosen[-1], since)
        return PresencePart([presences.event(other) for other in chosen], serial)

    def _met(self, asked: Asked, rooms: UserRooms, newcomers: Iterable[str]) -> set[str]:
        """Whom the user has met since: what they were before is news to the client."""
        met = {other for other in newcomers if self.presences.is_known(other)}
        for entry in rooms.joined.values():
            if entry.position > asked.after:
                met.update(self.presences.seen_in(entry.room_num)[:MAX_NEWCOMERS])
        return met

    @staticmethod
    def _visible(tx: Tx, asked: Asked, candidates: list[str]) -> list[str]:
        """Those whom the user shares a room with now, does not ignore, and wants to hear of."""
        wanted = asked.wanted.presence
        candidates = [
            other
            for other in candidates
            if other not in asked.ignored and (wanted.is_open or wanted.matches(PRESENCE, other))
        ]
        others = [other for other in candidates if other != asked.user_id]
        sharing = personal.sharing_room(tx, asked.user_id, others) if others else set()
        return [other for other in candidates if other in sharing or other == asked.user_id]


def _numbers(rooms: UserRooms) -> set[int]:
    return {entry.room_num for entry in rooms.joined.values()}
