"""What became of one event: whom it was sent to and how that went, or how it came and what was made of it.

Reads what the queues, the deliveries and the verdicts hold. It changes nothing and asks nobody.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import orjson

from comity.protocol import identifiers
from comity.protocol.event import Event
from comity.rooms.explain import Explainer, Verdict
from comity.rooms.merge import Merger
from comity.rooms.room import Room, Rooms
from comity.store import deliveries, queues
from comity.store import trace as stored_trace
from comity.store.database import Tx
from comity.store.deliveries import Refusal
from comity.store.queues import Destination, Staged
from comity.store.trace import Receiver

#: How a delivery stands. "failing" is tried again at once, "backing off" at a time that is set; "dropped"
#: is not sent any more, for the server was away too long: it fetches what it missed when it is back.
Standing = Literal["delivered", "refused", "queued", "sending", "failing", "backing off", "dropped"]
#: Events that a waiting one waits for, as many as are told.
MAX_WANTED = 50
#: A transaction is answered at about the time at which its events get their positions; one that comes
#: late in a long transaction, or waited a little, is still found.
BROUGHT_WITHIN_MS = 600_000

_KINDS = {
    "discovery": "not found",
    "tls": "not trusted (TLS)",
    "connection": "not connected",
    "answer": "answered with an error",
    "unwelcome": "not allowed by federation.allow_servers and deny_servers",
}


@dataclass(frozen=True, slots=True)
class Delivery:
    """How it went with one server. Times are ms since the epoch."""

    server: str
    standing: Standing
    #: What the server said of the event, or why it cannot be reached, in words.
    text: str = ""
    #: How it fails: one of `_KINDS`' words; empty if it does not.
    kind: str = ""
    since: int | None = None
    retry_at: int | None = None
    #: When the server refused the event.
    at: int | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """An event that a waiting one stands on: not held, or waiting itself."""

    event_id: str
    waits_too: bool


@dataclass(frozen=True, slots=True)
class Trace:
    """What is known of the way of one event. Times are ms since the epoch."""

    event_id: str
    room_id: str
    type: str
    sender: str
    #: Whether it was written here.
    ours: bool
    #: When it says that it was sent.
    said: int
    #: When it was stored, or came; None if that is forgotten.
    at: int | None
    #: Its place in the log; 0 if it has none.
    position: int
    #: The server that brought it, if that is known.
    brought_by: str | None
    verdict: Verdict | None
    #: Of a waiting event: what it waits for. None: it does not wait.
    waits_for: tuple[Wanted, ...] | None
    #: How many events it stands on that are not here; more than are told, perhaps.
    missing: int
    #: None for an event that is not sent from here.
    deliveries: tuple[Delivery, ...] | None


class Tracer:
    """Traces events of the rooms that are held here."""

    def __init__(self, rooms: Rooms, merger: Merger, server_name: str, now: int) -> None:
        """`server_name` is ours; `now` is in ms since the epoch."""
        self._rooms = rooms
        self._explainer = Explainer(rooms, merger)
        self._server_name = server_name
        self._now = now

    def trace(self, tx: Tx, event_id: str) -> Trace | None:
        """The way of an event; None if there is no such event."""
        verdict = self._explainer.verdict(tx, event_id)
        if verdict is not None:
            return self._judged(tx, verdict)
        staged = queues.staged_event(tx, event_id)
        room = None if staged is None else self._rooms.peek_number(tx, staged.room_num)
        return None if staged is None or room is None else self._waiting(tx, room, staged)

    def _judged(self, tx: Tx, verdict: Verdict) -> Trace:
        event = verdict.event
        position = verdict.position
        at = deliveries.time_of(tx, position) if position else None
        ours = identifiers.server_of(event.sender) == self._server_name
        brought = None
        if not ours and at is not None:
            brought = stored_trace.brought_by(
                tx, event.event_id, at - BROUGHT_WITHIN_MS, at + BROUGHT_WITHIN_MS
            )
        return Trace(
            event.event_id, verdict.room_id, event.type, event.sender, ours, event.origin_server_ts,
            at, position, None if brought is None else brought[0], verdict, None, 0,
            self._deliveries(tx, verdict, ours=ours),
        )  # fmt: skip

    def _waiting(self, tx: Tx, room: Room, staged: Staged) -> Trace:
        event = Event(
            room.version, orjson.loads(staged.encoded), event_id=staged.event_id, encoded=staged.encoded
        )
        wanted = list(self._wanted(tx, event))
        return Trace(
            event.event_id, room.room_id, event.type, event.sender, False, event.origin_server_ts,
            staged.received_at, 0, staged.origin, None, tuple(wanted[:MAX_WANTED]), len(wanted), None,
        )  # fmt: skip

    def _wanted(self, tx: Tx, event: Event) -> Iterator[Wanted]:
        for event_id in dict.fromkeys([*event.prev_event_ids, *event.auth_event_ids]):
            if self._rooms.events.number(tx, event_id) is None:
                yield Wanted(event_id, stored_trace.is_staged(tx, event_id))

    def _deliveries(self, tx: Tx, verdict: Verdict, *, ours: bool) -> tuple[Delivery, ...] | None:
        position, number = verdict.position, self._rooms.events.number(tx, verdict.event.event_id)
        room = self._rooms.peek(tx, verdict.room_id)
        if room is None or number is None:
            return None
        skipped = stored_trace.except_server(tx, room.number, position) if position else None
        if skipped is None and not ours:
            return None  # its own server sends it
        owed = stored_trace.receivers(tx, room.number, position) if position else []
        if skipped is None and any(receiver.since == position for receiver in owed):
            # Nobody else comes in by an event of ours: it is we who came in, through one of them.
            return ()
        refusals = {refusal.server: refusal for refusal in deliveries.refusals(tx, number)}
        return tuple(
            self._delivery(receiver, position, refusals.get(receiver.server), in_queue=skipped is not None)
            for receiver in owed
            if receiver.server not in (self._server_name, skipped)
        )

    def _delivery(
        self, receiver: Receiver, position: int, refusal: Refusal | None, *, in_queue: bool
    ) -> Delivery:
        server, known = receiver.server, receiver.destination
        if refusal is not None:
            return Delivery(server, "refused", refusal.error, at=refusal.at)
        if known is not None and known.delivered >= position:
            return Delivery(server, "delivered")
        if not in_queue:
            return Delivery(server, "dropped", since=None if known is None else known.failing_since)
        if known is None:
            return Delivery(server, "queued")
        if known.failing_since is not None:
            return self._failing(known)
        return Delivery(server, "sending" if (known.sending_upto or 0) >= position else "queued")

    def _failing(self, known: Destination) -> Delivery:
        waits = known.retry_at is not None and known.retry_at > self._now
        return Delivery(
            known.server,
            "backing off" if waits else "failing",
            known.failure or "",
            _KINDS.get(known.failure_kind or "", ""),
            since=known.failing_since,
            retry_at=known.retry_at if waits else None,
        )


def count(found: Sequence[Delivery]) -> dict[Standing, int]:
    """How many deliveries stand how, the worst first; only what there is."""
    order: tuple[Standing, ...] = (
        "refused", "dropped", "backing off", "failing", "queued", "sending", "delivered",
    )  # fmt: skip
    counts = {standing: sum(item.standing == standing for item in found) for standing in order}
    return {standing: number for standing, number in counts.items() if number}
