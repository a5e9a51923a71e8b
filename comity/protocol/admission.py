"""What happens to one event: the checks on receipt of a PDU, in the specification's order.

server-server §Checks performed on receipt of a PDU. Pure: `next()` says what is needed, `feed`
takes the answer, until a Verdict comes out. It does not know whether the event is ours or
theirs, nor where answers come from; an unmet need simply leaves it where it is.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from comity.protocol.auth.rules import Cited, Denied, StateLookup, authorize, check_auth_events, cited
from comity.protocol.errors import EventFormatError
from comity.protocol.event import Event, parse
from comity.protocol.room_versions import RoomVersion
from comity.protocol.signing import required_signers


class Outcome(Enum):
    """The four ends of an event's admission."""

    #: Part of the room's graph, state and timeline.
    ACCEPT = "accept"
    #: Part of the graph, not shown and not built upon (§Soft failure).
    SOFT_FAIL = "soft-fail"
    #: Part of the graph, without effect (§Rejection).
    REJECT = "reject"
    #: Never stored.
    DROP = "drop"


@dataclass(frozen=True, slots=True)
class Verdict:
    """How an admission ended. `reason` is for the operator and safe for the peer."""

    outcome: Outcome
    event: Event | None
    reason: str = ""
    rule: str = ""


@dataclass(frozen=True, slots=True)
class NeedSignatures:
    """Which of these servers' signatures on `message` hold? Answer: the set of those that do."""

    event: Event
    message: bytes
    signers: frozenset[str]


@dataclass(frozen=True, slots=True)
class NeedAuthEvents:
    """The event's auth events. Answer: AuthEvents."""

    event: Event


@dataclass(frozen=True)
class AuthEvents:
    """Auth events that are held, which of them were rejected, and the room's create event.

    It may answer for many events that cite the same: what they have in common is found out once.
    """

    events: Sequence[Event]
    is_rejected: Callable[[str], bool]
    create: Event | None

    @functools.cached_property
    def state(self) -> StateLookup:
        """The state that they make, the create event implied where the room version has it so."""
        create = self.create
        return lookup_in(
            self.events, create if create is not None and create.version.room_id_is_create_hash else None
        )

    @functools.cached_property
    def cited(self) -> Cited | None:
        """See `comity.protocol.auth.rules.cited`."""
        some = self.create or next(iter(self.events), None)
        return None if some is None else cited(some.version, self.events, self.is_rejected, self.create)


@dataclass(frozen=True, slots=True)
class NeedStateBefore:
    """The state before the event. Answer: StateBefore."""

    event: Event


@dataclass(frozen=True, slots=True)
class StateBefore:
    """The state before the event; `is_current` when that is the room's current state too."""

    state: StateLookup
    is_current: bool


@dataclass(frozen=True, slots=True)
class NeedCurrentState:
    """The room's current state, over all forward extremities. Answer: a StateLookup."""

    event: Event


Need = NeedSignatures | NeedAuthEvents | NeedStateBefore | NeedCurrentState


def lookup_in(events: Sequence[Event], create: Event | None) -> StateLookup:
    """A lookup over a list of state events, the create event implied (rooms/v12)."""
    by_key = {event.key: event for event in events if event.is_state}
    if create is not None:
        by_key.setdefault(("m.room.create", ""), create)
    return by_key.get


def denied_by_auth_events(event: Event, answer: AuthEvents) -> Denied | None:
    """Check 4: whether an event's auth events are such as it may cite, and allow it."""
    if answer.cited is None or not answer.cited.may_be_cited_by(event):
        denied = check_auth_events(event, answer.events, answer.is_rejected, answer.create)
        if denied is not None:
            return denied
    return authorize(event, answer.state)


class Admission:
    """One event on its way to a Verdict."""

    def __init__(self, event: Event, *, step: int) -> None:
        """Use `received`, `checked` or `judge_own`."""
        self._event = event
        self._step = step
        self._verdict: Verdict | None = None
        self._signers: frozenset[str] | None = None

    @classmethod
    def received(cls, version: RoomVersion, value: object) -> Admission | Verdict:
        """Begin with a foreign JSON value: the format is checked here (check 1)."""
        try:
            return cls(parse(version, value), step=0)
        except EventFormatError as error:
            return Verdict(Outcome.DROP, None, str(error), "server-server §Checks on receipt, 1")

    @classmethod
    def checked(cls, event: Event) -> Admission:
        """Begin behind format, signatures and hash (an event that was staged, or is our own)."""
        return cls(event, step=1)

    @property
    def event(self) -> Event:
        """The event as it stands: redacted, once its hash has failed."""
        return self._event

    def next(self) -> Need | Verdict:
        """What is needed now, or the end."""
        if self._verdict is not None:
            return self._verdict
        if self._step == 0:
            event = self._event
            return NeedSignatures(event, event.signed, self._required_signers())
        if self._step == 1:
            return NeedAuthEvents(self._event)
        if self._step == 2:
            return NeedStateBefore(self._event)
        return NeedCurrentState(self._event)

    @classmethod
    def own(cls, event: Event) -> Admission:
        """Begin with an event that was just built on the state before it.

        Its auth events were selected from that very state, so check 4 would ask the same
        questions of the same events as check 5.
        """
        return cls(event, step=2)

    def _required_signers(self) -> frozenset[str]:
        if self._signers is None:
            self._signers = required_signers(self._event)
        return self._signers

    def _end(self, outcome: Outcome, reason: str = "", rule: str = "") -> None:
        self._verdict = Verdict(outcome, self._event, reason, rule)

    def feed_signatures(self, valid: frozenset[str]) -> None:
        """Checks 2 and 3: without its signatures it is dropped, without its hash redacted."""
        missing = self._required_signers() - valid
        if missing:
            self._end(
                Outcome.DROP,
                f"No valid signature by {', '.join(sorted(missing))}",
                "server-server §Checks on receipt, 2",
            )
            return
        if not self._event.content_hash_matches():
            self._event = self._event.redacted()
        self._step = 1

    def feed_auth_events(self, answer: AuthEvents) -> None:
        """Check 4: the rules on the state that the auth events make."""
        denied = denied_by_auth_events(self._event, answer)
        if denied is not None:
            self._end(Outcome.REJECT, f"Against its auth events: {denied.reason}", denied.rule)
        self._step = 2

    def feed_state_before(self, answer: StateBefore) -> None:
        """Check 5: the rules on the state before the event."""
        denied = authorize(self._event, answer.state)
        if denied is not None:
            self._end(Outcome.REJECT, f"Against the state before it: {denied.reason}", denied.rule)
        elif answer.is_current:
            self._end(Outcome.ACCEPT)
        self._step = 3

    def feed_current_state(self, state: StateLookup) -> None:
        """Check 6: the rules on the current state."""
        denied = authorize(self._event, state)
        if denied is None:
            self._end(Outcome.ACCEPT)
        else:
            self._end(Outcome.SOFT_FAIL, f"Against the current state: {denied.reason}", denied.rule)


def redaction_applies(redaction: Event, target: Event, redact_level_reached: bool) -> bool:
    """Whether a redaction takes effect (rooms/v3 §Handling redactions; rooms/v1 rule 11).

    `redact_level_reached` says whether the redaction's sender has the redact level. In room
    versions 1–2 an accepted redaction has been judged by rule 11 already.
    """
    if redaction.room_id != target.room_id:
        return False
    if redaction.version.redactions_need_authorization or redact_level_reached:
        return True
    return redaction.sender.partition(":")[2] == target.sender.partition(":")[2]
