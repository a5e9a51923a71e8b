"""Why an event is what it is here: its verdict told again, from what the store holds.

Judges anew what was judged when the event came, on the same states, and says which rule spoke;
for a state event, also what state resolution made of it. It changes nothing and asks nobody.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from comity.protocol.admission import lookup_in
from comity.protocol.auth.rules import check_auth_events, rule_on
from comity.protocol.auth.ruling import Allowed, Ruling
from comity.protocol.auth.selection import CREATE_KEY, StateLookup
from comity.protocol.event import Event
from comity.protocol.policy import POLICY, is_recommended, policy_server
from comity.protocol.state_resolution.trace import Watched
from comity.rooms.explain_state import Told, tell
from comity.rooms.merge import Merger
from comity.rooms.room import Room, Rooms
from comity.store import heads, queues
from comity.store import rooms as stored_rooms
from comity.store.database import Tx
from comity.store.events import ACCEPTED, REJECTED, SOFT_FAILED, StoredEvent, live_line, position_of
from comity.store.retention import ERASED

VERDICTS = {ACCEPTED: "accepted", SOFT_FAILED: "soft-failed", REJECTED: "rejected"}
_CHECKS = "server-server §Checks performed on receipt of a PDU"


@dataclass(frozen=True, slots=True)
class Check:
    """One check on receipt, made anew."""

    #: What was asked, and where the specification asks it.
    question: str
    section: str
    #: None where it cannot be made anew.
    passed: bool | None
    #: The rule that decided, as `rooms/v12 rule 5.3.3`; empty where no rule was asked.
    rule: str
    reason: str
    #: The events that the rule looked at.
    stood_on: tuple[Told, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was made of one event, and why."""

    event: Told
    room_id: str
    room_version: str
    verdict: str
    #: The position of the log at which it came; 0 if it has none (history, or an outlier).
    position: int
    auth_events: tuple[Told, ...]
    checks: tuple[Check, ...]
    #: What else is to be known of it.
    notes: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Waiting:
    """An event that cannot be judged yet: what it stands on is not here."""

    event_id: str
    room_id: str
    #: The server that sent it, and when it came (ms).
    origin: str
    received_at: int


class Explainer:
    """Explains events of the rooms that are held here."""

    def __init__(self, rooms: Rooms, merger: Merger) -> None:
        self._rooms = rooms
        self._merger = merger
        self._events = rooms.events

    def verdict(self, tx: Tx, event_id: str) -> Verdict | None:
        """Why an event was accepted, soft-failed or rejected; None if it is not held."""
        stored = self._events.by_id(tx, event_id)
        room = None if stored is None else self._rooms.peek_number(tx, stored.room_num)
        if stored is None or room is None:
            return None
        event = stored.event
        position = 0
        if stored.line is not None:
            at = position_of(stored.line)
            position = at if stored.line == live_line(at) else 0
        held = [self._events.by_id(tx, auth_id) for auth_id in event.auth_event_ids]
        checks = [
            _received(stored),
            self._on_auth_events(tx, room, stored, [item for item in held if item is not None]),
            *self._on_states(tx, room, stored, position),
        ]
        return Verdict(
            tell(event, stored),
            room.room_id,
            room.version.identifier,
            "held for authorization only" if stored.is_outlier else VERDICTS[stored.verdict],
            position,
            tuple(tell(item.event, item) for item in held if item is not None),
            tuple(checks),
            tuple(self._notes(tx, room, stored, checks)),
        )

    def waiting(self, tx: Tx, event_id: str) -> Waiting | None:
        """An event that came and waits for what it lacks; None if there is no such event."""
        staged = queues.staged_event(tx, event_id)
        if staged is None:
            return None
        room = stored_rooms.by_number(tx, staged.room_num)
        return Waiting(event_id, room.room_id if room else "", staged.origin, staged.received_at)

    def _on_auth_events(self, tx: Tx, room: Room, stored: StoredEvent, held: list[StoredEvent]) -> Check:
        """Check 4."""
        event = stored.event
        question, section = "Do the events that it cites allow it?", f"{_CHECKS}, 4"
        missing = set(event.auth_event_ids) - {item.event.event_id for item in held}
        if missing:
            return Check(question, section, None, "", f"Not held: {', '.join(sorted(missing))}")
        create = None
        if event.version.room_id_is_create_hash and event.type != "m.room.create":
            found = self._events.by_id(tx, "$" + room.room_id[1:])
            create = found.event if found is not None and found.verdict != REJECTED else None
        rejected = {item.event.event_id for item in held if item.verdict == REJECTED}
        cited = [item.event for item in held]
        ruling: Ruling | None = check_auth_events(event, cited, rejected.__contains__, create)
        if ruling is not None:
            return self._check(tx, question, section, ruling, cited)
        return self._ask(tx, question, section, event, lookup_in(cited, create))

    def _on_states(self, tx: Tx, room: Room, stored: StoredEvent, position: int) -> Iterable[Check]:
        """Checks 5 and 6."""
        before = stored.state_before
        if before is None:
            return
        event = stored.event
        lookup = self._merger.lookup(tx, room, before)
        yield self._ask(tx, "Does the state before it allow it?", f"{_CHECKS}, 5", event, lookup)
        if not position:
            return
        question, section = "Did the room's state, when it came, allow it?", f"{_CHECKS}, 6"
        current = heads.at(tx, room.number, position - 1)
        if current == before:
            yield Check(question, section, True, "", "It was the state before the event")
        elif current:
            yield self._ask(tx, question, section, event, self._merger.lookup(tx, room, current))

    def _ask(self, tx: Tx, question: str, section: str, event: Event, lookup: StateLookup) -> Check:
        watched = Watched(lookup)
        ruling = rule_on(event, watched)
        return self._check(tx, question, section, ruling, watched.found)

    def _check(self, tx: Tx, question: str, section: str, ruling: Ruling, stood_on: Iterable[Event]) -> Check:
        lines = tuple(tell(event, self._events.by_id(tx, event.event_id)) for event in stood_on)
        return Check(question, section, isinstance(ruling, Allowed), ruling.rule, ruling.reason, lines)

    def _notes(self, tx: Tx, room: Room, stored: StoredEvent, checks: list[Check]) -> Iterable[str]:
        if stored.redacted_by == ERASED:
            yield "Its time was over and what it said was erased: it is judged here without it."
        elif stored.redacted_by is not None:
            redaction = self._events.get(tx, stored.redacted_by)
            name = redaction.event.event_id if redaction is not None else "an event"
            yield f"It was redacted by {name}: what it said is gone, and it is judged here without it."
        failed = [number for number, check in enumerate(checks) if check.passed is False]
        if stored.is_outlier or stored.redacted_by is not None:
            return
        if stored.verdict == REJECTED and not failed:
            create = self._merger.current(tx, room)(CREATE_KEY)
            if stored.event.type == "m.room.create" and create is not None:
                yield f"The room had been created already, by {create.event_id}: a room is created once."
            else:
                yield "It was rejected when it came, though it would be allowed by what is held now."
        if stored.verdict == SOFT_FAILED and not failed:
            yield self._why_soft_failed(tx, room, stored.event)
        if stored.verdict == ACCEPTED and failed:
            yield "It was accepted when it came, though it would not be by what is held now."

    def _why_soft_failed(self, tx: Tx, room: Room, event: Event) -> str:
        policy = self._merger.current(tx, room)((POLICY, ""))
        server = policy_server(policy.content) if policy is not None else None
        if server is not None and not is_recommended(event, server):
            return (
                f"The room's policy server, {server.name}, has not recommended it "
                "(server-server §Validating Policy Server signatures)."
            )
        return "It was soft-failed when it came, though it would be accepted by what is held now."


def _received(stored: StoredEvent) -> Check:
    """Checks 1 to 3: what is held has passed them, but for its hash."""
    event = stored.event
    section = f"{_CHECKS}, 1 to 3"
    question = "Are its format, its signatures and its hash right?"
    if event.content_hash_matches() or stored.redacted_by is not None:
        return Check(question, section, True, "", "Checked when it came")
    return Check(
        question, section, True, "", "The hash of its content did not match: it was taken as if redacted"
    )
