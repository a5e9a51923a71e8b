"""How users of this server came to the memberships that they have: since when, and out of what."""

from __future__ import annotations

from dataclasses import dataclass

from comity.store.database import Tx


@dataclass(frozen=True, slots=True)
class LocalStay:
    """Since when a local user's membership of a room is what it is, and what came before it.

    `before` is the membership before, None at first; `was_joined` whether they were ever in the room.
    """

    since: int
    membership: str
    before: str | None = None
    was_joined: bool = False


def local_stays(tx: Tx, user_id: str, upto: int) -> dict[int, LocalStay]:
    """room number -> how a local user came to the membership that they have at position `upto`.

    Another membership event that says the same, such as one with a new name, begins no other stay.
    """
    rows = tx.all(
        "SELECT room_num, position, membership FROM local_memberships WHERE user_id = ? AND position <= ? "
        "ORDER BY room_num, position",
        (user_id, upto),
    )
    found: dict[int, LocalStay] = {}
    for room_num, position, membership in rows:
        last = found.get(room_num)
        if last is None:
            found[room_num] = LocalStay(position, membership)
        elif last.membership != membership:
            was_joined = last.was_joined or last.membership == "join"
            found[room_num] = LocalStay(position, membership, last.membership, was_joined)
    return found
