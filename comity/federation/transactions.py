"""What goes into the next transaction to a server, and its bytes (server-server §Transactions).

Plain reading and splicing: nothing here waits, sends or remembers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from comity.protocol import canonical_json
from comity.store import queues
from comity.store.database import Tx
from comity.store.events import Events, StoredEvent

#: server-server §Transactions: PDUs in one transaction.
MAX_PDUS = 50
#: A server that is owed more than this is sent only the newest event of each room and fetches the
#: rest when somebody looks at it: it would be busy with the past for longer than anybody waits.
CATCH_UP_LIMIT = 5_000


@dataclass(frozen=True, slots=True)
class Batch:
    """The events of one transaction, and the position up to which nothing is owed after it."""

    transaction_id: str
    numbers: tuple[int, ...]
    upto: int
    last_position: int
    made_at: int


def next_batch(
    tx: Tx, events: Events, server: str, *, after: int, committed: int, limit: int, now: int
) -> Batch | None:
    """The next transaction for a server that has everything up to `after`; None if it has it all.

    `committed` is the last position that is on disk, `limit` how many PDUs to take, `now` the
    time (ms since the epoch).
    """
    found = queues.due(tx, server, after, limit)
    if not found:
        return None
    upto = found[-1][0]
    if len(found) < limit:
        upto = max(upto, committed)
    elif queues.is_owed_more_than(tx, server, after, CATCH_UP_LIMIT):
        # In order of position: what is older than the last of these is in rooms that are done
        # with, or still has a newer event to come.
        found = queues.newest_due_by_room(tx, server, after, limit)
        upto = found[-1][0]
    return _batch(tx, events, found, upto, now)


def same_batch(
    tx: Tx, events: Events, server: str, *, after: int, last_position: int, now: int
) -> Batch | None:
    """The transaction that failed before a restart, whose last event is at `last_position`."""
    found = [item for item in queues.due(tx, server, after, MAX_PDUS) if item[0] <= last_position]
    return _batch(tx, events, found, found[-1][0], now) if found else None


def _batch(tx: Tx, events: Events, found: Sequence[tuple[int, int, int]], upto: int, now: int) -> Batch:
    numbers = tuple(number for _, number, _ in found)
    ids = events.ids(tx, numbers)
    # The positions alone would come again after a backup was restored, with other events; a
    # server that has seen the id would not look at them.
    digest = hashlib.sha256("\n".join(ids.get(number, "") for number in numbers).encode()).hexdigest()
    first, last = found[0][0], found[-1][0]
    return Batch(f"{first}.{last}.{digest[:24]}", numbers, upto, last, now)


def load(tx: Tx, events: Events, batch: Batch) -> list[StoredEvent]:
    """The events of a batch, in order."""
    stored = events.load(tx, batch.numbers)
    return [stored[number] for number in batch.numbers if number in stored]


def body(origin: str, batch: Batch, stored: Iterable[StoredEvent]) -> bytes:
    """The transaction as canonical JSON: the events' own bytes, set between the rest."""
    return b"".join(
        (
            b'{"edus":[],"origin":',
            canonical_json.encode(origin),
            b',"origin_server_ts":',
            str(batch.made_at).encode(),
            b',"pdus":[',
            b",".join(item.event.encoded for item in stored),
            b"]}",
        )
    )
