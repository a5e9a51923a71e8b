"""What waits: events for other servers, events that lack something, answers already given."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from comity.store import compression, edus
from comity.store.database import Tx
from comity.store.lists import parts

# -- outbound: one row an event, however many destinations (DESIGN §4.7)


def add_outbound(tx: Tx, room_num: int, position: int, event_num: int, except_server: str) -> None:
    """An event is to be sent to the servers that are in the room at `position`."""
    tx.run(
        "INSERT INTO outbound (room_num, position, event_num, except_server) VALUES (?, ?, ?, ?)",
        (room_num, position, event_num, except_server),
    )


#: A server that stays in at most this many rooms is served by looking into each of them …
FEW_ROOMS = 32
#: … and any other by looking whether it is in the rooms of the newest events, this many at most.
NEWEST_ROWS = 1_000
#: Rows deleted by one statement, so that no write waits long for it.
PRUNED_AT_ONCE = 5_000

# What a server (?) is owed after a position (? ? ? ?) of what does not come from itself (?).
_OWED = (
    "FROM server_stays s JOIN outbound o ON o.room_num = s.room_num "
    "AND o.position >= CASE WHEN s.from_position > ? THEN s.from_position ELSE ? + 1 END "
    "AND (s.to_position IS NULL OR o.position <= s.to_position) "
    "WHERE s.server = ? AND (s.to_position IS NULL OR s.to_position > ?) AND o.except_server <> ?"
)


def _owed(server: str, after: int) -> tuple[int | str, ...]:
    return after, after, server, after, server


def due(tx: Tx, server: str, after: int, limit: int) -> list[tuple[int, int, int]]:
    """(position, event number, room number) of what a server is owed after a position, in order.

    Costs about as much as there is to find, for servers in few rooms and in thousands.
    """
    rooms = tx.one(
        "SELECT count(*) FROM (SELECT 1 FROM server_stays WHERE server = ? "
        "AND (to_position IS NULL OR to_position > ?) LIMIT ?) AS few",
        (server, after, FEW_ROOMS + 1),
    )
    if rooms is None or rooms[0] == 0:
        return []
    if rooms[0] > FEW_ROOMS:
        found, complete = _due_of_newest(tx, server, after, limit)
        if complete or len(found) == limit:
            return found
    rows = tx.all(
        f"SELECT DISTINCT o.position, o.event_num, o.room_num {_OWED} ORDER BY o.position LIMIT ?",
        (*_owed(server, after), limit),
    )
    return [(row[0], row[1], row[2]) for row in rows]


def _due_of_newest(tx: Tx, server: str, after: int, limit: int) -> tuple[list[tuple[int, int, int]], bool]:
    """What of the next NEWEST_ROWS rows a server is owed, and whether those were all there are."""
    end = tx.one(
        "SELECT position FROM outbound WHERE position > ? ORDER BY position LIMIT 1 OFFSET ?",
        (after, NEWEST_ROWS),
    )
    rows = tx.all(
        "SELECT o.position, o.event_num, o.room_num FROM outbound o WHERE o.position > ? AND o.position < ? "
        "AND o.except_server <> ? AND EXISTS (SELECT 1 FROM server_stays s WHERE s.server = ? "
        "AND s.room_num = o.room_num AND s.from_position <= o.position "
        "AND (s.to_position IS NULL OR s.to_position >= o.position)) ORDER BY o.position LIMIT ?",
        (after, 2**62 if end is None else end[0], server, server, limit),
    )
    return [(row[0], row[1], row[2]) for row in rows], end is None


def newest_due_by_room(tx: Tx, server: str, after: int, limit: int) -> list[tuple[int, int, int]]:
    """(position, event number, room number) of the newest event owed in each room, in order.

    Costs what the server's rooms are, however much waits in them.
    """
    rows = tx.all(
        "SELECT s.room_num, (SELECT o.position FROM outbound o WHERE o.room_num = s.room_num "
        "AND o.position > ? AND o.position >= s.from_position "
        "AND (s.to_position IS NULL OR o.position <= s.to_position) "
        "AND o.except_server <> ? ORDER BY o.position DESC LIMIT 1) FROM server_stays s "
        "WHERE s.server = ? AND (s.to_position IS NULL OR s.to_position > ?)",
        (after, server, server, after),
    )
    newest: dict[int, int] = {}
    for room_num, position in rows:
        if position is not None:
            newest[room_num] = max(position, newest.get(room_num, 0))
    found = []
    for position, room_num in sorted((position, room_num) for room_num, position in newest.items())[:limit]:
        row = tx.one(
            "SELECT event_num FROM outbound WHERE room_num = ? AND position = ?", (room_num, position)
        )
        if row is not None:
            found.append((position, row[0], room_num))
    return found


def is_owed_more_than(tx: Tx, server: str, after: int, limit: int) -> bool:
    """Whether a server is owed more than `limit` events after a position."""
    if tx.one("SELECT position FROM outbound WHERE position > ? LIMIT 1 OFFSET ?", (after, limit)) is None:
        return False
    row = tx.one(
        f"SELECT count(*) FROM (SELECT DISTINCT o.position {_OWED} LIMIT ?) AS owed",
        (*_owed(server, after), limit + 1),
    )
    return row is not None and row[0] > limit


@dataclass(frozen=True, slots=True)
class Destination:
    """A server that we send to, and how that goes. Times are ms since the epoch."""

    server: str
    #: Everything up to this position is delivered.
    delivered: int
    failing_since: int | None = None
    retry_at: int | None = None
    interval_ms: int | None = None
    #: The last position in a transaction that failed and is to be sent again as it was.
    sending_upto: int | None = None
    #: What the last failure was, in words, and its kind (`federation.errors.FailureKind`).
    failure: str | None = None
    failure_kind: str | None = None


_DESTINATION = "server, delivered, failing_since, retry_at, interval_ms, sending_upto, failure, failure_kind"


def destinations(tx: Tx, after: str, limit: int) -> list[Destination]:
    """Destinations in the order of their names, those after a name."""
    rows = tx.all(
        f"SELECT {_DESTINATION} FROM destinations WHERE server > ? ORDER BY server LIMIT ?",
        (after, limit),
    )
    return [Destination(*row) for row in rows]


def destination(tx: Tx, server: str) -> Destination | None:
    """One destination, or None if nothing was ever owed to that server."""
    row = tx.one(f"SELECT {_DESTINATION} FROM destinations WHERE server = ?", (server,))
    return Destination(*row) if row else None


def put_destinations(tx: Tx, changed: Iterable[Destination]) -> None:
    """Store how far destinations have come and how they fail."""
    tx.many(
        f"INSERT INTO destinations ({_DESTINATION}) VALUES (?, ?, ?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (server) DO UPDATE SET delivered = "
        "CASE WHEN excluded.delivered > destinations.delivered THEN excluded.delivered "
        "ELSE destinations.delivered END, failing_since = excluded.failing_since, "
        "retry_at = excluded.retry_at, interval_ms = excluded.interval_ms, "
        "sending_upto = excluded.sending_upto, failure = excluded.failure, "
        "failure_kind = excluded.failure_kind",
        [
            (
                item.server,
                item.delivered,
                item.failing_since,
                item.retry_at,
                item.interval_ms,
                item.sending_upto,
                item.failure,
                item.failure_kind,
            )
            for item in changed
        ],
    )


def ensure_destination(tx: Tx, server: str, delivered: int) -> None:
    """A server joins a room of ours: it is owed what comes after `delivered`, unless known already."""
    tx.run(
        "INSERT INTO destinations (server, delivered) VALUES (?, ?) ON CONFLICT (server) DO NOTHING",
        (server, delivered),
    )


def advance_idle(tx: Tx, servers: Iterable[str], upto: int) -> None:
    """Move the cursors of those servers that are owed nothing up to a position on to it.

    `upto` is at most the last position given; all up to it is in this transaction's sight.
    """
    for server in servers:
        at = destination(tx, server)
        if at is None or at.delivered >= upto or due(tx, server, at.delivered, 1):
            continue
        if not edus.due(tx, server, at.delivered, upto, 1)[0]:
            tx.run("UPDATE destinations SET delivered = ? WHERE server = ?", (upto, server))


def prune_outbound(tx: Tx, dead_since: int) -> int:
    """Delete what nobody waits for any more, some rows at most; how many rows went.

    That is what every destination has. One that has failed since `dead_since` (ms) or longer
    holds back only the newest event of each room, and the last of each stay: it is told no
    more than that when it returns, and fetches the rest itself.
    """
    everyone = tx.one("SELECT min(delivered) FROM destinations")
    alive = tx.one(
        "SELECT min(delivered) FROM destinations WHERE failing_since IS NULL OR failing_since > ?",
        (dead_since,),
    )
    newest = tx.one("SELECT max(position) FROM outbound")
    if everyone is None or everyone[0] is None or alive is None or newest is None or newest[0] is None:
        return 0
    gone = _prune_upto(tx, everyone[0], "")
    held = alive[0] if alive[0] is not None else newest[0]
    if gone < PRUNED_AT_ONCE and held > everyone[0]:
        gone += _prune_upto(
            tx,
            held,
            " AND EXISTS (SELECT 1 FROM outbound n WHERE n.room_num = outbound.room_num "
            "AND n.position > outbound.position) AND NOT EXISTS (SELECT 1 FROM server_stays s "
            "WHERE s.room_num = outbound.room_num AND s.to_position = outbound.position)",
        )
    return gone


def _prune_upto(tx: Tx, position: int, condition: str) -> int:
    return tx.changed(
        "DELETE FROM outbound WHERE position IN (SELECT position FROM outbound "
        f"WHERE position <= ?{condition} ORDER BY position LIMIT ?)",
        (position, PRUNED_AT_ONCE),
    )


# -- staging


@dataclass(frozen=True, slots=True)
class Staged:
    """A received event that cannot be judged yet: shape, signatures and hash are checked."""

    event_id: str
    room_num: int
    origin: str
    received_at: int
    encoded: bytes


def stage(tx: Tx, staged: Iterable[Staged]) -> None:
    """Keep events until what they need is here."""
    tx.many(
        "INSERT INTO staged_events (event_id, room_num, origin, received_at, json) VALUES (?, ?, ?, ?, ?) "
        "ON CONFLICT (event_id) DO NOTHING",
        [
            (item.event_id, item.room_num, item.origin, item.received_at, compression.pack(item.encoded))
            for item in staged
        ],
    )


def staged_rooms(tx: Tx) -> list[int]:
    """The rooms in which events are staged."""
    return [row[0] for row in tx.all("SELECT DISTINCT room_num FROM staged_events ORDER BY room_num")]


def staged(tx: Tx, room_num: int, limit: int) -> list[Staged]:
    """The staged events of a room, oldest first."""
    rows = tx.all(
        "SELECT event_id, room_num, origin, received_at, json FROM staged_events WHERE room_num = ? "
        "ORDER BY received_at, event_id LIMIT ?",
        (room_num, limit),
    )
    return [Staged(row[0], row[1], row[2], row[3], compression.unpack(bytes(row[4]))) for row in rows]


def staged_event(tx: Tx, event_id: str) -> Staged | None:
    """A staged event by id."""
    row = tx.one(
        "SELECT event_id, room_num, origin, received_at, json FROM staged_events WHERE event_id = ?",
        (event_id,),
    )
    return Staged(row[0], row[1], row[2], row[3], compression.unpack(bytes(row[4]))) if row else None


def count_staged(tx: Tx, room_num: int) -> int:
    """How many events are staged in a room."""
    row = tx.one("SELECT count(*) FROM staged_events WHERE room_num = ?", (room_num,))
    return int(row[0]) if row else 0


def unstage(tx: Tx, event_ids: Iterable[str]) -> None:
    """The events are judged."""
    tx.many("DELETE FROM staged_events WHERE event_id = ?", [(event_id,) for event_id in event_ids])


# -- answers given before


def received_answer(tx: Tx, origin: str, transaction_id: str) -> bytes | None:
    """What was answered to that server's transaction, if it came before."""
    row = tx.one(
        "SELECT answer FROM received_transactions WHERE origin = ? AND transaction_id = ?",
        (origin, transaction_id),
    )
    return bytes(row[0]) if row else None


def put_received(tx: Tx, origin: str, transaction_id: str, at: int, answer: bytes) -> None:
    """Remember the answer to a transaction."""
    tx.run(
        "INSERT INTO received_transactions (origin, transaction_id, received_at, answer) VALUES (?, ?, ?, ?) "
        "ON CONFLICT (origin, transaction_id) DO NOTHING",
        (origin, transaction_id, at, answer),
    )


def client_event(tx: Tx, user_id: str, device_id: str, scope: str, transaction_id: str) -> str | None:
    """The event that a client's transaction made before (client-server §Transaction identifiers)."""
    row = tx.one(
        "SELECT event_id FROM client_transactions "
        "WHERE user_id = ? AND device_id = ? AND scope = ? AND transaction_id = ?",
        (user_id, device_id, scope, transaction_id),
    )
    return row[0] if row else None


def put_client_event(
    tx: Tx, user_id: str, device_id: str, scope: str, transaction_id: str, event_id: str, at: int
) -> None:
    """Remember what a client's transaction made."""
    tx.run(
        "INSERT INTO client_transactions (user_id, device_id, scope, transaction_id, event_id, at) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        (user_id, device_id, scope, transaction_id, event_id, at),
    )


def note_client_transaction(
    tx: Tx, user_id: str, device_id: str, scope: str, transaction_id: str, at: int
) -> bool:
    """Remember a client's transaction that makes no event; False if it has come before."""
    return (
        tx.changed(
            "INSERT INTO client_transactions (user_id, device_id, scope, transaction_id, event_id, at) "
            "VALUES (?, ?, ?, ?, '', ?) ON CONFLICT (user_id, device_id, scope, transaction_id) DO NOTHING",
            (user_id, device_id, scope, transaction_id, at),
        )
        > 0
    )


def sent_by(tx: Tx, event_ids: Sequence[str]) -> dict[str, tuple[str, str, str]]:
    """event id -> (user, device, transaction id) by which it was sent, where that is remembered."""
    found: dict[str, tuple[str, str, str]] = {}
    for marks, part in parts(event_ids):
        for event_id, user_id, device_id, transaction_id in tx.all(
            "SELECT event_id, user_id, device_id, transaction_id FROM client_transactions "
            f"WHERE event_id IN ({marks})",
            part,
        ):
            found[event_id] = (user_id, device_id, transaction_id)
    return found


def forget_before(tx: Tx, at: int) -> int:
    """Delete remembered transactions that nobody will repeat any more."""
    return tx.changed("DELETE FROM received_transactions WHERE received_at < ?", (at,)) + tx.changed(
        "DELETE FROM client_transactions WHERE at < ?", (at,)
    )
