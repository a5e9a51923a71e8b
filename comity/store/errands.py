"""Errands at rest: what is still to be done for an account beside requests.

Plain functions over an open transaction. An errand is written with what makes it necessary and
deleted when it is done, so none is lost; who does them is `comity.users.errands`.
"""

from __future__ import annotations

from dataclasses import dataclass

from comity.store.database import Tx

#: The memberships of the user are to carry their profile as it now is.
PROFILE = "profile"
#: The account is to leave every room.
DEPARTURE = "departure"
#: A command has ended the account: what is kept for it goes, then it leaves every room.
END = "end"
#: A command has ended the account's sessions: its devices go.
LOGOUT = "logout"
#: One kind after the other.
_ORDER = (LOGOUT, END, DEPARTURE, PROFILE)


@dataclass(frozen=True, slots=True)
class Errand:
    """Something to be done, since a time (ms); `done` of `total` rooms were done with.

    `revision` changes when it is asked for anew: then it begins anew.
    """

    user_id: str
    kind: str
    revision: int
    since: int
    done: int
    total: int
    erase: bool


_COLUMNS = "user_id, kind, revision, since, done, total, erase"


def put(tx: Tx, user_id: str, kind: str, now_ms: int, *, erase: bool = False) -> None:
    """Have something done; what of it was under way is superseded. `erase` is of an END."""
    tx.run(
        "INSERT INTO errands (user_id, kind, revision, since, erase) VALUES (?, ?, 1, ?, ?) "
        "ON CONFLICT (user_id, kind) DO UPDATE SET revision = errands.revision + 1, since = excluded.since, "
        "done = 0, total = 0, erase = CASE WHEN excluded.erase = 1 THEN 1 ELSE errands.erase END",
        (user_id, kind, now_ms, int(erase)),
    )


def of(tx: Tx, user_id: str) -> list[Errand]:
    """What is to be done for a user, in the order in which it is to be done."""
    rows = tx.all(f"SELECT {_COLUMNS} FROM errands WHERE user_id = ?", (user_id,))
    return sorted((_errand(row) for row in rows), key=lambda errand: _ORDER.index(errand.kind))


def users(tx: Tx, limit: int) -> list[str]:
    """The users for whom something is to be done, who have waited for longest first."""
    rows = tx.all(
        "SELECT user_id FROM errands GROUP BY user_id ORDER BY min(since), user_id LIMIT ?", (limit,)
    )
    return [row[0] for row in rows]


def note_progress(tx: Tx, errand: Errand, done: int, total: int) -> None:
    """How far an errand is, if it was not superseded."""
    tx.run(
        "UPDATE errands SET done = ?, total = ? WHERE user_id = ? AND kind = ? AND revision = ?",
        (done, total, errand.user_id, errand.kind, errand.revision),
    )


def finish(tx: Tx, errand: Errand) -> None:
    """An errand is done, if it was not superseded."""
    tx.run(
        "DELETE FROM errands WHERE user_id = ? AND kind = ? AND revision = ?",
        (errand.user_id, errand.kind, errand.revision),
    )


def drop(tx: Tx, user_id: str, kind: str) -> None:
    """Something is not to be done any more."""
    tx.run("DELETE FROM errands WHERE user_id = ? AND kind = ?", (user_id, kind))


def _errand(row: tuple[str, str, int, int, int, int, int]) -> Errand:
    return Errand(row[0], row[1], row[2], row[3], row[4], row[5], bool(row[6]))
