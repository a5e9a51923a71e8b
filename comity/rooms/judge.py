"""Drive an admission with what is at hand in the store; never over the network.

The same few lines for our own events and everybody's: answer each need from the room, and
either there is a verdict, or something is missing and the caller finds it.
"""

from __future__ import annotations

from dataclasses import dataclass

from comity.protocol.admission import (
    Admission,
    AuthEvents,
    NeedAuthEvents,
    NeedCurrentState,
    NeedSignatures,
    NeedStateBefore,
    Outcome,
    StateBefore,
    Verdict,
    denied_by_auth_events,
)
from comity.protocol.auth.rules import StateLookup
from comity.protocol.event import Event, StateKey
from comity.protocol.policy import is_exempt, is_recommended
from comity.rooms.batch import Batch
from comity.rooms.merge import Merger
from comity.rooms.policy import in_force
from comity.store.database import Tx
from comity.store.events import REJECTED, Events


@dataclass(frozen=True, slots=True)
class Missing:
    """What the store does not hold, and the admission waits for."""

    prev_event_ids: tuple[str, ...] = ()
    auth_event_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Judged:
    """A verdict, and the state before the event on which it was reached."""

    verdict: Verdict
    state_before: bytes


class Judge:
    """Answers an admission's needs from one room."""

    def __init__(self, events: Events, merger: Merger) -> None:
        self._events = events
        self._merger = merger

    def judge(
        self,
        tx: Tx,
        batch: Batch,
        event: Event,
        *,
        state_before: bytes | None = None,
        check_current: bool = True,
        just_built: bool = False,
        recommended: bool = False,
    ) -> Judged | Missing:
        """Checks 4 to 6 for an event whose format, signatures and hash are checked.

        `state_before` is given when it is known from elsewhere (a gap, a join); without
        `check_current` (events of the past) check 6 is left out. `just_built` tells an event
        whose auth events were selected from the head under this very lock, `recommended` one whose
        recommendation by the room's policy server is the caller's affair.
        """
        room = batch.room
        if event.type == "m.room.create" and room.extremities:
            standing = batch.standing(tx, ("m.room.create", ""))
            if standing is not None and standing.event_id != event.event_id:
                # Up to room version 11 the server that the room id names could begin the room anew.
                return Judged(Verdict(Outcome.REJECT, event, "The room has been created already"), b"")
        admission = Admission.own(event) if just_built else Admission.checked(event)
        root = state_before
        while True:
            step = admission.next()
            if isinstance(step, Verdict):
                if check_current and not recommended:
                    step = self._by_policy(tx, batch, event, step)
                return Judged(step, root if root is not None else b"")
            if isinstance(step, NeedAuthEvents):
                answer = self._auth_events(tx, batch, event)
                if isinstance(answer, Missing):
                    return answer
                admission.feed_auth_events(answer)
                if isinstance(admission.next(), Verdict) and root is None:
                    # Rejected: it still needs its place in the graph.
                    root = batch.state_before(tx, event.prev_event_ids)
                    if root is None:
                        return Missing(prev_event_ids=self._unknown(tx, batch, event.prev_event_ids))
            elif isinstance(step, NeedStateBefore):
                if root is None:
                    root = batch.state_before(tx, event.prev_event_ids)
                if root is None:
                    return Missing(prev_event_ids=self._unknown(tx, batch, event.prev_event_ids))
                is_current = not check_current or root == room.state
                admission.feed_state_before(StateBefore(self._lookup(tx, batch, root, event), is_current))
            elif isinstance(step, NeedCurrentState):
                admission.feed_current_state(self._lookup(tx, batch, room.state, event))
            elif isinstance(step, NeedSignatures):
                raise RuntimeError("Signatures are checked before an event comes to a room")

    def _lookup(self, tx: Tx, batch: Batch, root: bytes, event: Event) -> StateLookup:
        """Read a state on which the event is judged.

        While the room's members are not all here, those that are missing are believed as the event's
        auth events have them, which allow it (check 4); it is judged again when the state is whole.
        """
        find = self._merger.lookup(tx, batch.room, root)
        if batch.room.partial is None:
            return find
        told: dict[StateKey, Event] = {}
        for event_id in event.auth_event_ids:
            stored = self._events.by_id(tx, event_id)
            if stored is not None and stored.verdict != REJECTED and stored.event.type == "m.room.member":
                told[stored.event.key] = stored.event

        def find_or_believe(key: StateKey) -> Event | None:
            return find(key) or told.get(key)

        return find_or_believe

    def _by_policy(self, tx: Tx, batch: Batch, event: Event, verdict: Verdict) -> Verdict:
        """server-server §Validating Policy Server signatures: without a valid one an event soft-fails."""
        if verdict.outcome is not Outcome.ACCEPT or is_exempt(event.type, event.state_key):
            return verdict
        server = in_force(tx, batch.room, self._merger.lookup(tx, batch.room, batch.room.state))
        if server is None or is_recommended(event, server):
            return verdict
        return Verdict(Outcome.SOFT_FAIL, event, "The room's policy server does not recommend the event")

    def judge_outlier(
        self, tx: Tx, batch: Batch, event: Event, shared: dict[tuple[str, ...], AuthEvents] | None = None
    ) -> Outcome | Missing:
        """Check 4 alone, for an event that is held for authorization only.

        What is found of its auth events is kept in `shared`, for others of the batch that have the same.
        """
        answer = None if shared is None else shared.get(event.auth_event_ids)
        if answer is None:
            found = self._auth_events(tx, batch, event)
            if isinstance(found, Missing):
                return found
            answer = found
            if shared is not None and event.type != "m.room.create":
                shared[event.auth_event_ids] = answer
        return Outcome.ACCEPT if denied_by_auth_events(event, answer) is None else Outcome.REJECT

    def _auth_events(self, tx: Tx, batch: Batch, event: Event) -> AuthEvents | Missing:
        found: list[Event] = []
        missing: list[str] = []
        rejected: set[str] = set()
        for event_id in event.auth_event_ids:
            stored = self._events.by_id(tx, event_id)
            if stored is None:
                missing.append(event_id)
                continue
            found.append(stored.event)
            if stored.verdict == REJECTED:
                rejected.add(event_id)
        if missing:
            return Missing(auth_event_ids=tuple(missing))
        create = None
        if event.version.room_id_is_create_hash and event.type != "m.room.create":
            held = self._events.by_id(tx, "$" + batch.room.room_id[1:])
            create = held.event if held is not None and held.verdict != REJECTED else None
        return AuthEvents(found, rejected.__contains__, create)

    def _unknown(self, tx: Tx, batch: Batch, event_ids: tuple[str, ...]) -> tuple[str, ...]:
        unknown = []
        for event_id in event_ids:
            stored = self._events.by_id(tx, event_id)
            if stored is None or stored.state_after is None or stored.room_num != batch.room.number:
                unknown.append(event_id)
        return tuple(unknown)
