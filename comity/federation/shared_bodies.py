"""Transactions' bytes, made once for all servers that are sent the same.

Remembers the newest few for a moment. It does not know what anybody is owed.
"""

from __future__ import annotations

from dataclasses import replace

from comity.federation.transactions import Batch
from comity.store.cache import Bounded

#: Bodies that are remembered. One has 3 MiB at most (fifty of the largest events), and servers of
#: several rooms differ in what they are owed: those of few rooms that are busy at once find theirs.
MAX_BODIES = 8
#: Servers that are sent the same within this time are told the same `origin_server_ts`; to thousands
#: it takes seconds.
SAME_TIME_MS = 10_000


class SharedBodies:
    """The bodies of the newest transactions, by the id, which covers the contents, and the time."""

    def __init__(self) -> None:
        self._made_at: Bounded[str, int] = Bounded(MAX_BODIES)
        self._bodies: Bounded[tuple[str, int], bytes] = Bounded(MAX_BODIES)

    def of_one_time(self, batch: Batch) -> Batch:
        """The batch, with the time of one with the same contents that was made just before."""
        made_at = self._made_at.get(batch.transaction_id)
        if made_at is not None and 0 <= batch.made_at - made_at < SAME_TIME_MS:
            return replace(batch, made_at=made_at)
        self._made_at.put(batch.transaction_id, batch.made_at)
        return batch

    def get(self, batch: Batch) -> bytes | None:
        """The body, if it was put lately."""
        return self._bodies.get((batch.transaction_id, batch.made_at))

    def put(self, batch: Batch, body: bytes) -> None:
        """Remember a body that holds nothing but the batch."""
        self._bodies.put((batch.transaction_id, batch.made_at), body)
