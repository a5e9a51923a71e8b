"""Whose content was erased, and when, at rest (client-server §Account deactivation).

Owns the fact and a memory of it, for it is asked of the sender of every event that is told. What
follows from it is `comity.protocol.visibility.is_erased_for`.
"""

from __future__ import annotations

from collections.abc import Mapping

from comity.store.cache import Followed
from comity.store.database import Database, Tx, WriteTx

#: Erased users that are all held in memory, about 150 bytes each; of more, each is looked up.
MAX_HELD = 50_000
#: Of who is not erased; positions begin at 1.
NEVER = 0


class Erasures:
    """Who was erased."""

    def __init__(self) -> None:
        """Nothing is remembered at first."""
        #: Under None: user id -> position, of all; empty if they are too many.
        self._all: Followed[None, Mapping[str, int]] = Followed(1)
        self._are_too_many = False
        #: How often somebody was added: who remembers what follows from it remembers this with it.
        self.changes = 0

    def position(self, tx: Tx, user_id: str) -> int:
        """The position of the log at which a user's content was erased; NEVER if it was not."""
        held = self._all.get(None)
        if held is None:
            held = self._load(tx)
        if not self._are_too_many:
            return held.get(user_id, NEVER)
        row = tx.one("SELECT position FROM erased_users WHERE user_id = ?", (user_id,))
        return int(row[0]) if row else NEVER

    def are_any(self, tx: Tx) -> bool:
        """Whether anybody was erased."""
        held = self._all.get(None)
        return bool(self._load(tx) if held is None else held) or self._are_too_many

    def _load(self, tx: Tx) -> Mapping[str, int]:
        rows = tx.all("SELECT user_id, position FROM erased_users LIMIT ?", (MAX_HELD + 1,))
        self._are_too_many = len(rows) > MAX_HELD
        held = {} if self._are_too_many else {row[0]: int(row[1]) for row in rows}
        self._all.keep(None, held, tx.as_of)
        return held

    def add(self, tx: WriteTx, user_id: str, database: Database) -> None:
        """Erase a user's content for whoever comes from now on; done twice, the first time counts."""
        tx.run(
            "INSERT INTO erased_users (user_id, position) VALUES (?, ?) ON CONFLICT (user_id) DO NOTHING",
            (user_id, database.last_position),
        )

        def committed() -> None:
            self.changes += 1
            self._all.change(None, database.commits)

        tx.after_commit(committed)
