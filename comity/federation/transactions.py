"""What goes into the next transaction to a server, and its bytes (server-server §Transactions).

Plain reading and splicing: nothing here waits, sends or remembers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import orjson

from comity.protocol import canonical_json
from comity.store import edus, queues
from comity.store.database import Tx
from comity.store.edus import DueEdu
from comity.store.events import Events, StoredEvent

#: server-server §Transactions: PDUs in one transaction.
MAX_PDUS = 50
#: Of the 100 EDUs that one may hold, those that must not be missed; the rest are for what passes.
MAX_LASTING_EDUS = 60
MAX_PASSING_EDUS = 40
#: A server that is owed more than this is sent only the newest event of each room and fetches the
#: rest when somebody looks at it: it would be busy with the past for longer than anybody waits.
CATCH_UP_LIMIT = 5_000


@dataclass(frozen=True, slots=True)
class Batch:
    """The events and lasting EDUs of one transaction, and the position up to which nothing is owed
    after it."""

    transaction_id: str
    numbers: tuple[int, ...]
    upto: int
    #: Where its parts stand in what is owed.
    first_position: int
    last_position: int
    made_at: int
    #: Finished EDUs, as JSON.
    edus: tuple[bytes, ...] = ()


def next_batch(
    tx: Tx,
    events: Events,
    server: str,
    *,
    after: int,
    committed: int,
    limit: int,
    now: int,
) -> Batch | None:
    """The next transaction for a server that has everything up to `after`; None if it has it all.

    `committed` is the last position that is on disk, `limit` how many PDUs to take, `now` the
    time (ms since the epoch).
    """
    found = queues.due(tx, server, after, limit)
    upto = committed
    if len(found) == limit:
        upto = found[-1][0]
        if queues.is_owed_more_than(tx, server, after, CATCH_UP_LIMIT):
            # In order of position: what is older than the last of these is in rooms that are done
            # with, or still has a newer event to come.
            found = queues.newest_due_by_room(tx, server, after, limit)
            upto = found[-1][0]
    elif found:
        upto = max(found[-1][0], committed)
    told, upto = edus.due(tx, server, after, upto, MAX_LASTING_EDUS)
    found = [item for item in found if item[0] <= upto]
    return _batch(tx, events, found, told, upto, now)


def same_batch(
    tx: Tx, events: Events, server: str, *, after: int, last_position: int, now: int
) -> Batch | None:
    """The transaction whose last part is at `last_position`, as it was made before a restart.

    None if it was of the newest of each room, with others left out: then the next one is, too.
    """
    told, upto = edus.due(tx, server, after, last_position, MAX_LASTING_EDUS)
    found = [item for item in queues.due(tx, server, after, MAX_PDUS + 1) if item[0] <= upto]
    if len(found) > MAX_PDUS:
        return None
    return _batch(tx, events, found, told, upto, now)


def first_alone(tx: Tx, events: Events, server: str, *, after: int, upto: int, now: int) -> Batch | None:
    """The transaction of nothing but the first that a server is owed up to a position; None if nothing is."""
    positions = [item[0] for item in queues.due(tx, server, after, 1) if item[0] <= upto]
    positions += [item.position for item in edus.due(tx, server, after, upto, 1)[0]]
    if not positions:
        return None
    return same_batch(tx, events, server, after=after, last_position=min(positions), now=now)


def _batch(
    tx: Tx,
    events: Events,
    found: Sequence[tuple[int, int, int]],
    told: Sequence[DueEdu],
    upto: int,
    now: int,
) -> Batch | None:
    if not found and not told:
        return None
    numbers = tuple(number for _, number, _ in found)
    ids = events.ids(tx, numbers)
    finished = tuple(_merged(told))
    # The positions alone would come again after a backup was restored, with other events; a
    # server that has seen the id would not look at them.
    names = [ids.get(number, "").encode() for number in numbers]
    digest = hashlib.sha256(b"\n".join([*names, *finished])).hexdigest()
    positions = [*(item[0] for item in found), *(item.position for item in told)]
    first, last = min(positions), max(positions)
    return Batch(f"{first}.{last}.{digest[:24]}", numbers, upto, first, last, now, finished)


def _merged(told: Iterable[DueEdu]) -> Iterable[bytes]:
    """The EDUs as JSON; receipts of different users and rooms share one."""
    receipts: list[dict[str, dict[str, dict[str, object]]]] = []
    for item in told:
        if item.edu_type != edus.RECEIPT:
            yield edu(item.edu_type, item.content)
            continue
        for room_id, by_type in orjson.loads(item.content).items():
            for user_id, receipt in by_type["m.read"].items():
                # One EDU holds one receipt of a user in a room: those of further threads go on.
                for held in receipts:
                    if user_id not in held.get(room_id, {}).get("m.read", {}):
                        break
                else:
                    held = {}
                    receipts.append(held)
                held.setdefault(room_id, {}).setdefault("m.read", {})[user_id] = receipt
    for held in receipts:
        yield edu(edus.RECEIPT, orjson.dumps(held))


def edu(edu_type: str, content: bytes) -> bytes:
    """An EDU as canonical JSON; `content` is JSON."""
    canonical = canonical_json.encode_signable(orjson.loads(content))
    return b'{"content":' + canonical + b',"edu_type":' + canonical_json.encode(edu_type) + b"}"


def load(tx: Tx, events: Events, batch: Batch) -> list[StoredEvent]:
    """The events of a batch, in order."""
    stored = events.load(tx, batch.numbers)
    return [stored[number] for number in batch.numbers if number in stored]


def body(origin: str, batch: Batch, stored: Iterable[StoredEvent], passing: Sequence[bytes] = ()) -> bytes:
    """The transaction as canonical JSON: the events' own bytes, set between the rest.

    `passing` are EDUs as JSON that go along this time only.
    """
    return b"".join(
        (
            b'{"edus":[',
            b",".join([*batch.edus, *passing]),
            b'],"origin":',
            canonical_json.encode(origin),
            b',"origin_server_ts":',
            str(batch.made_at).encode(),
            b',"pdus":[',
            b",".join(item.event.encoded for item in stored),
            b"]}",
        )
    )
