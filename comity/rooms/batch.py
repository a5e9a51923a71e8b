"""Decisions on one room, gathered: what will be stored in one transaction.

A batch moves the head in memory as it decides, so that the next decision stands on it, and
remembers the head as it was, so that a decision which comes to nothing is taken back whole.
It decides what follows from a verdict (state, extremities, memberships, redactions), never
the verdict itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from comity.protocol.admission import Outcome, redaction_applies
from comity.protocol.auth.power_levels import PowerLevels
from comity.protocol.build import reference_to
from comity.protocol.errors import MatrixError
from comity.protocol.event import Event, StateKey
from comity.protocol.notices import SILENT, Notice, notice_of
from comity.protocol.push_rules import RoomContext
from comity.protocol.room_versions import RoomVersion
from comity.rooms.merge import Merger
from comity.rooms.reversions import Guard
from comity.rooms.room import Extremity, Room, Rooms
from comity.store import redactions
from comity.store import rooms as stored_rooms
from comity.store.database import Tx, WriteTx
from comity.store.events import ACCEPTED, REJECTED, SOFT_FAILED, NewEvent, StoredEvent
from comity.store.resolutions import Resolution, Reversion
from comity.store.state import NewPages

_VERDICTS = {Outcome.ACCEPT: ACCEPTED, Outcome.SOFT_FAIL: SOFT_FAILED, Outcome.REJECT: REJECTED}


@dataclass(frozen=True, slots=True)
class MemberChange:
    """One entry of the current state's members that an event changes; None: none any more."""

    user_id: str
    membership: str | None
    event_num: int


@dataclass(slots=True)
class Decided:
    """One decided event and what follows from it."""

    new: NewEvent
    stored: StoredEvent
    #: The room's current state from here on; None: as it was.
    head_state: bytes | None = None
    members: list[MemberChange] = field(default_factory=list)
    #: What state resolution took back when it came; no event said so.
    reversions: list[Reversion] = field(default_factory=list)
    #: Send it to the room's servers, but not to this one (its own). None: do not send.
    send_except: str | None = None
    #: Servers beyond the room's that are told of it too.
    visit: tuple[str, ...] = ()
    #: The ids of events that it points to and that are not here.
    gap: tuple[str, ...] = ()
    #: Whom it notifies; and whether it stands beside the room's state as it was.
    notice: Notice = SILENT
    aside: bool = False


@dataclass(frozen=True, slots=True)
class Redaction:
    """A redaction that takes effect."""

    target_number: int
    redacted: Event
    by: int
    #: The target as it was.
    original: Event


class Batch:
    """Decisions on one room. Make it under the room's lock; hand it to `Commits.submit`."""

    def __init__(self, rooms: Rooms, merger: Merger, room: Room) -> None:
        self.rooms = rooms
        self.room = room
        self.decided: list[Decided] = []
        self.outliers: list[NewEvent] = []
        self.placed: list[tuple[int, Decided]] = []
        #: Both of these: a former outlier's number says nothing about its place.
        self._in_order: list[Decided] = []
        self.pages: NewPages = {}
        self.slots: dict[StateKey, int] = {}
        self.resolutions: list[Resolution] = []
        self.redactions: list[Redaction] = []
        self.awaited: list[tuple[str, int]] = []
        self.unstaged: list[str] = []
        #: Events whose states and verdicts are stored anew.
        self.restated: list[StoredEvent] = []
        #: Anything else that is to be stored with it.
        self.also: list[Callable[[WriteTx], None]] = []
        #: The members and the extremities are replaced whole: we (re)join the room.
        self.replaces_head = False
        #: The numbers of auth events that many events of a room have in common.
        self._auth_known: dict[tuple[str, ...], tuple[int, ...]] = {}
        #: Whether guests may join may have changed.
        self.concerns_guests = False
        #: Set where the room's row may not be there yet.
        self.room_creator: str | None = None
        self._merger = merger
        self._guard = Guard(merger)
        self._states = rooms.states
        self._events = rooms.events
        self.state_before_all = room.state
        self._before = (room.version, room.state, dict(room.extremities), room.next_slot, room.partial)
        self._missing_before = frozenset(room.missing)
        self.extremities_before = frozenset(extremity.number for extremity in room.extremities.values())
        #: The state and the extremities that are stored with the batch.
        self.head = (room.state, self.extremities_before)

    def is_empty(self) -> bool:
        """Whether there is nothing to store."""
        return not (self.decided or self.placed or self.outliers or self.unstaged or self.also)

    def seal(self) -> None:
        """Note the head as this batch leaves it; later decisions move it on."""
        room = self.room
        self.head = (room.state, frozenset(extremity.number for extremity in room.extremities.values()))

    def begin_anew(self, version: RoomVersion) -> None:
        """Forget the head: we join the room from outside, and learn its state anew.

        What an invite claimed of the room's version may have been wrong; the state's word counts.
        """
        room = self.room
        self.replaces_head = self.concerns_guests = True
        room.extremities, room.state, room.partial = {}, b"", None
        if room.version is not version:
            room.version = version
            self._events.know_room(room.number, version)
            self.also.append(lambda tx: stored_rooms.set_version(tx, room.number, version.identifier))

    def undo(self) -> None:
        """Take everything back: nothing of the batch was or will be stored."""
        room = self.room
        room.version, room.state, room.extremities, room.next_slot, room.partial = self._before
        room.decided_state = room.state
        room.missing = set(self._missing_before)
        self._events.know_room(room.number, room.version)
        for new in self.new_events():
            self._events.release(new.number)
        for number, _ in self.placed:
            self._events.release(number)
        for stored in self.restated:
            self._events.release(stored.number)
        self._states.forget(self.pages)
        self._states.forget_slots(room.number, self.slots)
        self._merger.forget()

    def new_events(self) -> list[NewEvent]:
        """Every event that the batch stores for the first time, auth events first."""
        return [*self.outliers, *(decided.new for decided in self.decided)]

    # -- states

    def standing(self, tx: Tx, key: StateKey) -> Event | None:
        """The current state's event of that key."""
        return self._merger.lookup(tx, self.room, self.room.state)(key)

    def state_before(self, tx: Tx, prev_event_ids: Sequence[str]) -> bytes | None:
        """The state before an event with those previous events; None if one is not held."""
        if self.room.extremities.keys() == set(prev_event_ids):
            return self.room.state
        roots = []
        for event_id in prev_event_ids:
            stored = self._events.by_id(tx, event_id)
            if stored is None or stored.state_after is None or stored.room_num != self.room.number:
                return None
            roots.append(stored.state_after)
        return self.merge(tx, roots) if roots else b""

    def merge(self, tx: Tx, roots: Sequence[bytes]) -> bytes:
        """The resolution of several states of the room."""
        return self._merger.merge(tx, self.room, roots, self.pages, self.slots, self.resolutions)

    def with_event(self, tx: Tx, root: bytes, event: Event, number: int) -> bytes:
        """The state with a state event's entry set."""
        slot = self._merger.slot_for(tx, self.room, event.key, self.slots)
        return self._states.replace(tx, root, {slot: number}, self.pages)

    def with_events(self, tx: Tx, root: bytes, entries: Sequence[tuple[Event, int]]) -> bytes:
        """The state with many entries set."""
        return self.with_entries(tx, root, {event.key: number for event, number in entries})

    def with_entries(self, tx: Tx, root: bytes, entries: Mapping[StateKey, int]) -> bytes:
        """The state with many entries set, given by their keys and event numbers."""
        slots = self._merger.slots_for(tx, self.room, entries, self.slots)
        changes = {slots[key]: number for key, number in entries.items()}
        return self._states.replace(tx, root, changes, self.pages)

    def restate(self, tx: Tx, stored: StoredEvent) -> None:
        """Have an event's verdict and states stored anew; what is decided from now on stands on them."""
        self._events.hold(stored, self._events.auth(tx, stored.number) if stored.event.is_state else ())
        self.restated.append(stored)

    # -- events

    def add_outlier(
        self,
        tx: Tx,
        event: Event,
        outcome: Outcome = Outcome.ACCEPT,
        *,
        is_new: bool = False,
        packed: bytes | None = None,
    ) -> int:
        """Hold an event for authorization only; its number. One that is held keeps its own.

        With `is_new`, the caller knows that the event is not held in any form. `packed`: see NewEvent.
        """
        known = None if is_new else self._events.number(tx, event.event_id)
        if known is not None:
            self._check_room(self._events.get(tx, known))
            return known
        number = self.rooms.numbers.event()
        auth = self._auth_numbers(tx, event)
        verdict = _VERDICTS[outcome]
        self.outliers.append(NewEvent(number, event, verdict, None, None, auth, None, packed))
        self._events.hold(StoredEvent(number, self.room.number, event, None, verdict, None, None), auth)
        return number

    def _check_room(self, held: StoredEvent | None) -> None:
        """Where servers choose ids, two rooms may have come to the same one at once: one is refused."""
        if held is not None and held.room_num != self.room.number:
            raise MatrixError(400, "M_INVALID_PARAM", "An event of another room has the id of this one")

    def _auth_numbers(self, tx: Tx, event: Event) -> tuple[int, ...]:
        if not event.is_state:
            return ()
        known = self._auth_known.get(event.auth_event_ids)
        if known is not None:
            return known
        found = self._events.numbers(tx, event.auth_event_ids)
        numbers = set(found.values())
        if event.version.room_id_is_create_hash and event.type != "m.room.create":
            # rooms/v12: the create event is implied and part of every auth chain.
            create = self._events.number(tx, "$" + event.room_id[1:])
            if create is not None:
                numbers.add(create)
        auth = tuple(sorted(numbers))
        if len(found) == len(event.auth_event_ids) and event.type != "m.room.create":
            self._auth_known[event.auth_event_ids] = auth
        return auth

    def add(
        self,
        tx: Tx,
        event: Event,
        outcome: Outcome,
        state_before: bytes,
        *,
        line: int = 0,
        gap: tuple[str, ...] = (),
        is_new: bool = False,
    ) -> Decided:
        """Append a judged event to the graph and move the head. `line` 0 means now.

        With `is_new`, the caller knows that the event is not held in any form.
        """
        verdict = _VERDICTS[outcome]
        held = None if is_new else self._events.by_id(tx, event.event_id)
        self._check_room(held)
        number = held.number if held is not None else self.rooms.numbers.event()
        if held is not None:
            # The copy that is stored counts: it may have been redacted since.
            event = held.event
        auth = self._auth_numbers(tx, event)
        counts = event.is_state and outcome is not Outcome.REJECT
        if held is None:
            stored = StoredEvent(number, self.room.number, event, None, verdict, state_before, state_before)
            self._events.hold(stored, auth)
        state_after = self.with_event(tx, state_before, event, number) if counts else state_before
        if event.type == "m.room.redaction" and outcome is not Outcome.REJECT:
            verdict = self._redact(tx, event, number, state_before, verdict)
        stored = StoredEvent(
            number,
            self.room.number,
            event,
            None,
            verdict,
            state_before,
            state_after,
            held.redacted_by if held is not None else None,
        )
        self._events.hold(stored, auth)
        decided = Decided(
            NewEvent(number, event, verdict, state_before, state_after, auth, line),
            stored,
            gap=gap,
        )
        self._in_order.append(decided)
        if held is not None:
            self.placed.append((number, decided))
        else:
            self.decided.append(decided)
        if outcome is Outcome.ACCEPT and line == 0:
            self._move_head(tx, decided)
        return decided

    def all_decided(self) -> list[Decided]:
        """Every event that gets a place in the timeline, in the order of decision."""
        return self._in_order

    def _move_head(self, tx: Tx, decided: Decided) -> None:
        room, event, new = self.room, decided.new.event, decided.new
        before = room.state
        for event_id in event.prev_event_ids:
            room.extremities.pop(event_id, None)
        after = new.state_after if new.state_after is not None else b""
        # One that comes late, to fill a gap, is followed by what is held already: no end of the graph.
        if not room.extremities or event.event_id not in room.missing:
            room.extremities[event.event_id] = Extremity(new.number, reference_to(event), after)
        if len(room.extremities) == 1:
            room.state = next(iter(room.extremities.values())).state_after
        else:
            room.state = self.merge(tx, [extremity.state_after for extremity in room.extremities.values()])
        if decided.gap:
            room.missing.update(decided.gap)
        decided.aside = new.state_before != before
        decided.notice = notice_of(event, lambda: self._context(tx, event.sender, new.state_before or b""))
        if room.state != before:
            decided.head_state = room.state
            decided.members = self._member_changes(tx, before, room.state)
            # An event at the head changes its own entry; only a fork can bring more.
            if before and new.state_before != before:
                decided.reversions = self._guard.reversions(
                    tx, room, before, room.state, self._merged_roots(tx, event), event
                )

    def _merged_roots(self, tx: Tx, event: Event) -> list[bytes]:
        """The states that the head, which that event has just moved, was merged from."""
        ends = self.room.extremities
        if len(ends) > 1:
            return [extremity.state_after for extremity in ends.values()]
        known = (self._events.by_id(tx, event_id) for event_id in event.prev_event_ids)
        return [
            stored.state_after for stored in known if stored is not None and stored.state_after is not None
        ]

    def _member_changes(self, tx: Tx, before: bytes, after: bytes) -> list[MemberChange]:
        changes = []
        for slot, _, number in self._states.difference(tx, before, after):
            event_type, user_id = self._states.key(tx, self.room.number, slot)
            if event_type == "m.room.guest_access":
                self.concerns_guests = True
            if event_type != "m.room.member":
                continue
            stored = self._events.get(tx, number) if number else None
            membership = stored.event.membership if stored else None
            changes.append(MemberChange(user_id, membership, number))
        return changes

    def _context(self, tx: Tx, sender: str, state: bytes) -> RoomContext:
        """What push rules ask about the room in that state, but for the number of members."""
        find = self._merger.lookup(tx, self.room, state)
        levels = find(("m.room.power_levels", ""))
        power = PowerLevels(self.room.version, find(("m.room.create", "")), levels).user(sender)
        notifications = levels.content.get("notifications") if levels is not None else None
        return RoomContext(0, power, notifications if isinstance(notifications, dict) else {})

    # -- redactions

    def _redact(self, tx: Tx, event: Event, number: int, state_before: bytes, verdict: int) -> int:
        """Apply a redaction, or let it wait for its target. Returns the redaction's verdict."""
        redacts = event.redacts
        if redacts is None:
            return verdict
        target = self._events.by_id(tx, redacts)
        if target is None or target.room_num != self.room.number:
            self.awaited.append((redacts, number))
            return verdict
        if not self.redaction_allowed(tx, event, target.event, state_before):
            # rooms/v3 §Handling redactions: it is not sent to clients.
            return max(verdict, SOFT_FAILED)
        if verdict == ACCEPTED and target.redacted_by is None:
            self.redactions.append(Redaction(target.number, target.event.redacted(), number, target.event))
        return verdict

    def redaction_allowed(self, tx: Tx, redaction: Event, target: Event, state: bytes) -> bool:
        """Whether a redaction takes effect, in the state before it."""
        find = self._merger.lookup(tx, self.room, state)
        levels = PowerLevels(
            self.room.version, find(("m.room.create", "")), find(("m.room.power_levels", ""))
        )
        return redaction_applies(redaction, target, levels.user(redaction.sender) >= levels.redact)

    def apply_awaited(self, tx: Tx, decided: Sequence[Decided]) -> None:
        """Redactions that came before these events take effect on them now."""
        ids = {item.new.event.event_id: item for item in decided}
        stored = redactions.waiting_for(tx, list(ids))
        if stored:
            self.also.append(lambda tx: redactions.forget(tx, list(ids)))
        here = [(redacts, number) for redacts, number in self.awaited if redacts in ids]
        self.awaited = [pair for pair in self.awaited if pair[0] not in ids]
        for redacts, number in [*stored, *here]:
            redaction = self._events.get(tx, number)
            target = ids[redacts]
            if redaction is None or redaction.state_before is None or redaction.verdict != ACCEPTED:
                continue
            if self.redaction_allowed(tx, redaction.event, target.new.event, redaction.state_before):
                event = target.new.event
                self.redactions.append(Redaction(target.new.number, event.redacted(), number, event))
