"""Who came to share a room with a user, and who ceased to.

client-server §Tracking the device list for a user, §Extensions to /sync. Any room counts, encrypted
or not: a client is told of changes of everybody in its rooms, so it need not be told twice that
somebody is there, and must be told once that somebody is not. Whom state resolution alone took out of
a room is not told of: no event says so.
"""

from __future__ import annotations

from comity.store.database import Tx
from comity.store.lists import parts

#: Of more people than this, it is asked who is in the rooms that are left, and not of each in which rooms
#: they are: whoever leaves a room of 20,000 is in rooms of far fewer people altogether, mostly.
MANY = 100
#: Members of the rooms that are left that are read for that, for each of these people: a look at one of
#: them costs about as much as so many members that are read in a row.
MEMBERS_FOR_EACH = 5
#: Members of one room that somebody who came in is told of. A client follows only people that it asked
#: about, and it is told of all who ceased to share a room with it, so it asks about newcomers anyway:
#: what is beyond this is no loss, and coming into a room of 20,000 costs no more than this.
MAX_MET = 1_000


def entered(tx: Tx, user_id: str, after: int, upto: int) -> list[int]:
    """Rooms (their numbers) that a local user is in at `upto` and was not in at `after`."""
    rows = tx.all(
        "SELECT DISTINCT room_num FROM local_memberships WHERE user_id = ? AND position > ? "
        "AND position <= ? AND membership = 'join'",
        (user_id, after, upto),
    )
    return [
        room_num
        for (room_num,) in rows
        if _membership(tx, user_id, room_num, upto) == "join"
        and _membership(tx, user_id, room_num, after) != "join"
    ]


def _membership(tx: Tx, user_id: str, room_num: int, upto: int) -> str:
    row = tx.one(
        "SELECT membership FROM local_memberships WHERE user_id = ? AND room_num = ? AND position <= ? "
        "ORDER BY position DESC LIMIT 1",
        (user_id, room_num, upto),
    )
    return row[0] if row else ""


def met(tx: Tx, user_id: str, rooms: list[int]) -> set[str]:
    """Who is in these rooms with a user: MAX_MET of each at most."""
    found: set[str] = set()
    for room_num in rooms:
        rows = tx.all(
            "SELECT user_id FROM memberships WHERE room_num = ? AND membership = 'join' AND user_id <> ? "
            "LIMIT ?",
            (room_num, user_id, MAX_MET),
        )
        found.update(row[0] for row in rows)
    return found


def _left_by(tx: Tx, user_id: str, after: int, upto: int) -> set[str]:
    """Who was in a room with a user when the user went from it at `after < position <= upto`."""
    found: set[str] = set()
    rooms = tx.all(
        "SELECT room_num FROM memberships WHERE user_id = ? AND membership <> 'join' AND left_at > ? "
        "AND left_at <= ?",
        (user_id, after, upto),
    )
    for (room_num,) in rooms:
        rows = tx.all(
            "SELECT user_id FROM memberships WHERE room_num = ? AND (membership = 'join' OR left_at > ?)",
            (room_num, after),
        )
        found.update(row[0] for row in rows)
    return found


def _gone_from(tx: Tx, user_id: str, after: int, upto: int) -> set[str]:
    """Who went from a room that a user is in, at `after < position <= upto`.

    CROSS JOIN has SQLite begin with those who went: they are fewer than the members of rooms.
    """
    rows = tx.all(
        "SELECT gone.user_id FROM memberships gone CROSS JOIN memberships mine "
        "WHERE gone.left_at > 0 AND gone.left_at > ? AND gone.left_at <= ? AND gone.membership <> 'join' "
        "AND mine.room_num = gone.room_num AND mine.user_id = ? AND mine.membership = 'join'",
        (after, upto, user_id),
    )
    return {row[0] for row in rows}


def sharing(tx: Tx, user_id: str, others: set[str]) -> set[str]:
    """Those of `others` who are in a room that `user_id` is in; it costs the rooms of `others`."""
    found: set[str] = set()
    for marks, part in parts(sorted(others)):
        rows = tx.all(
            "SELECT DISTINCT theirs.user_id FROM memberships theirs CROSS JOIN memberships mine "
            f"WHERE theirs.user_id IN ({marks}) AND theirs.membership = 'join' "
            "AND mine.room_num = theirs.room_num AND mine.user_id = ? AND mine.membership = 'join'",
            [*part, user_id],
        )
        found.update(row[0] for row in rows)
    return found


def _sharing_many(tx: Tx, user_id: str, others: set[str]) -> set[str]:
    """As `sharing`, of many: it costs the members of the rooms that `user_id` is in, if they are not more."""
    rooms = [
        row[0]
        for row in tx.all(
            "SELECT room_num FROM memberships WHERE user_id = ? AND membership = 'join'", (user_id,)
        )
    ]
    found: set[str] = set()
    left = MEMBERS_FOR_EACH * len(others)
    for marks, part in parts(rooms):
        rows = tx.all(
            f"SELECT user_id FROM memberships WHERE room_num IN ({marks}) AND membership = 'join' LIMIT ?",
            [*part, left],
        )
        found.update(row[0] for row in rows)
        left -= len(rows)
        if left <= 0:
            # There are more. Of those who were not among these, each is looked at.
            return (found & others) | sharing(tx, user_id, others - found)
    return found & others


def parted(tx: Tx, user_id: str, after: int, upto: int, *, i_went: bool = True) -> set[str]:
    """Who shared a room with a local user, and ceased to at `after < position <= upto`.

    `i_went`: whether the user may have left a room meanwhile. What it costs is how many went, or were
    left behind, and, of many, who is in the rooms that the user is in still.
    """
    candidates = _gone_from(tx, user_id, after, upto)
    if i_went:
        candidates |= _left_by(tx, user_id, after, upto)
    candidates.discard(user_id)
    if not candidates:
        return candidates
    ask = _sharing_many if len(candidates) > MANY else sharing
    return candidates - ask(tx, user_id, candidates)
