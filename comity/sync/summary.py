"""A room's summary: how many members, and after whom to call a room that has no name.

client-server, GET /sync, RoomSummary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from comity.protocol.identifiers import is_user_id
from comity.store import rooms as stored_rooms
from comity.store.cache import Bounded
from comity.store.database import Tx

#: Users that may give a nameless room its name.
HEROES = 5
#: Rooms whose counts are remembered.
MAX_ROOMS = 5_000
_PRESENT = ("join", "invite")
_PAST = ("leave", "ban")


@dataclass(frozen=True, slots=True)
class Counts:
    """The members of a room in one state; the candidates are one more than the heroes."""

    joined: int
    invited: int
    present: tuple[str, ...]
    past: tuple[str, ...]


class Summaries:
    """Counts members, once for all who ask after the same change."""

    def __init__(self) -> None:
        self._known: Bounded[int, tuple[bytes, Counts]] = Bounded(MAX_ROOMS)

    def counts(self, tx: Tx, room_num: int, state: bytes) -> Counts:
        """The members of a room whose current state is `state`."""
        known = self._known.get(room_num)
        if known is not None and known[0] == state:
            return known[1]
        by_membership = stored_rooms.member_counts(tx, room_num)
        present = self._first(tx, room_num, _PRESENT)
        past = self._first(tx, room_num, _PAST) if len(present) <= 1 else ()
        counts = Counts(by_membership.get("join", 0), by_membership.get("invite", 0), present, past)
        self._known.put(room_num, (state, counts))
        return counts

    @staticmethod
    def _first(tx: Tx, room_num: int, memberships: tuple[str, str]) -> tuple[str, ...]:
        rows = tx.all(
            "SELECT user_id FROM memberships WHERE room_num = ? AND membership IN (?, ?) "
            "AND user_id LIKE '@%:%' ORDER BY position, user_id LIMIT ?",
            (room_num, *memberships, HEROES + 1),
        )
        # The rules let other servers invite and ban what is no user; apps stumble over such heroes.
        return tuple(row[0] for row in rows if is_user_id(row[0]))

    def summary(
        self, tx: Tx, room_num: int, state: bytes, user_id: str, *, is_named: bool
    ) -> tuple[dict[str, Any], list[str]]:
        """(the summary as `user_id` gets it, the heroes in it); a room with a name needs no heroes."""
        counts = self.counts(tx, room_num, state)
        answer: dict[str, Any] = {
            "m.joined_member_count": counts.joined,
            "m.invited_member_count": counts.invited,
        }
        if is_named:
            return answer, []
        present = [user for user in counts.present if user != user_id]
        heroes = (present or [user for user in counts.past if user != user_id])[:HEROES]
        answer["m.heroes"] = heroes
        return answer, heroes
