"""Who may see what: the one place where a user's eyes meet a room's history.

Collects what `comity.protocol.visibility` asks for from the state vectors: two entries of the
state before each event, found once for all events that share a state.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from comity.protocol.event import Event
from comity.protocol.visibility import (
    History,
    UserView,
    history_at,
    history_visibility,
    is_erased_for,
    user_may_see,
)
from comity.rooms.read.lifetimes import Horizon, never
from comity.store import rooms as stored_rooms
from comity.store.database import Tx
from comity.store.erasures import NEVER as NOT_ERASED
from comity.store.erasures import Erasures
from comity.store.events import ACCEPTED, Events, StoredEvent, live_line
from comity.store.rooms import LocalMembership
from comity.store.state import States

#: Events that join the ends of a room's graph and mean nothing (`comity.rooms.extremities`).
HIDDEN_TYPE = "org.matrix.dummy_event"
#: Above every line: they fit into the 64 bits that SQLite takes.
MAX_LINE = 2**63 - 1
#: Before every time that an event can say.
NEVER = -(2**64)


class RoomView:
    """One user's view of one room, for the time of one read."""

    __slots__ = (
        "_came_at",
        "_erasures",
        "_events",
        "_gone_before",
        "_horizon",
        "_last_line",
        "_member_root",
        "_member_slot",
        "_member_upto",
        "_memberships",
        "_newest",
        "_policies",
        "_policy_slot",
        "_states",
        "_tx",
        "room_num",
        "user_id",
    )

    def __init__(
        self,
        tx: Tx,
        states: States,
        events: Events,
        erasures: Erasures,
        horizon: Horizon,
        user_id: str,
        room_num: int,
        last_line: int | None,
    ) -> None:
        self.user_id = user_id
        self.room_num = room_num
        self._tx = tx
        self._states = states
        self._events = events
        self._erasures = erasures
        self._horizon = horizon
        #: The room's horizon, and the line of its newest event; found when they are first asked for.
        self._gone_before: int | None = None
        self._newest: int | None = None
        #: Where in a state the user's membership is, and the history visibility; found when asked for.
        self._member_slot: int | None = None
        self._policy_slot: int | None = None
        #: By the name of a state: the user's membership, the history visibility's event.
        self._memberships: dict[bytes, str | None] = {}
        self._policies: dict[bytes, Event | None] = {}
        self._last_line = last_line
        #: A state in which the user is joined, and the line up to which that lets them see events on it.
        self._member_root: bytes | None = None
        self._member_upto = 0
        #: The position at which the user first came to the room.
        self._came_at: int | None = None

    def _entry(self, root: bytes, slot: int | None) -> Event | None:
        number = 0 if slot is None else self._states.get(self._tx, root, slot)
        stored = self._events.get(self._tx, number) if number else None
        return stored.event if stored is not None else None

    def membership_in(self, root: bytes) -> str | None:
        """The user's membership in a state; None if they have none."""
        try:
            return self._memberships[root]
        except KeyError:
            if self._member_slot is None:
                key = ("m.room.member", self.user_id)
                self._member_slot = self._states.slot(self._tx, self.room_num, key)
            event = self._entry(root, self._member_slot)
            membership = self._memberships[root] = event.membership if event is not None else None
            return membership

    def policy_in(self, root: bytes) -> Event | None:
        """The `m.room.history_visibility` of a state."""
        try:
            return self._policies[root]
        except KeyError:
            if self._policy_slot is None:
                key = ("m.room.history_visibility", "")
                self._policy_slot = self._states.slot(self._tx, self.room_num, key)
            policy = self._policies[root] = self._entry(root, self._policy_slot)
            return policy

    def membership_at(self, stored: StoredEvent) -> str | None:
        """`unsigned.membership`: the user's membership, changes by the event included."""
        root = stored.state_after
        if root is None:
            return None
        return self._memberships.get(root) or self.membership_in(root) or "leave"

    @property
    def last_line(self) -> int:
        """The line at which the user's last stay in the room ended; above all lines if it lasts, 0 if
        they never were in the room.

        "Joined after the event was sent" means: its line is not above this one. For an event may come
        late, from a part of the graph whose writer did not know yet of a join that came here before it.
        """
        if self._last_line is None:
            history = stored_rooms.local_history(self._tx, self.user_id, self.room_num)
            self._last_line = _end_of_last_stay(history)
        return self._last_line

    def sees(self, state_before: bytes, *, in_time: bool) -> bool:
        """Whether the user may see events on that state that are no state events themselves.

        `in_time`: whether the events are here since before the user left (`last_line`).
        """
        membership = self.membership_in(state_before) if in_time else None
        if membership == "join":
            return True
        policy = self.policy_in(state_before)
        visibility = history_visibility(policy.content if policy is not None else None)
        return user_may_see(History(visibility, visibility), UserView(membership, in_time))

    def is_gone(self, stored: StoredEvent) -> bool:
        """Whether a message's time is over, so that nobody is shown it (`comity.rooms.read.lifetimes`).

        Not so the room's newest event, from which others go on, nor any state.
        """
        gone_before = self._gone_before
        if stored.event.origin_server_ts >= (
            self._end_of_lifetimes() if gone_before is None else gone_before
        ):
            return False
        if self._newest is None:
            self._newest = self._events.last_line(self._tx, self.room_num)
        return stored.line != self._newest

    def _end_of_lifetimes(self) -> int:
        if self._gone_before is None:
            horizon = self._horizon(self._tx, self.room_num)
            self._gone_before = NEVER if horizon is None else horizon
        return self._gone_before

    @property
    def keeps_all(self) -> bool:
        """Whether nothing of the room is gone, or will be, as long as its state is this."""
        return self._end_of_lifetimes() == NEVER

    def may_see(self, stored: StoredEvent) -> bool:
        """Whether the user may see an event (client-server §Room History Visibility)."""
        event = stored.event
        if event.state_key is None and (event.type == HIDDEN_TYPE or self.is_gone(stored)):
            return False
        if (
            stored.state_before == self._member_root
            and 0 < (stored.line or 0) <= self._member_upto
            and stored.verdict == ACCEPTED
        ):
            # Of messages that follow each other, what holds of the first.
            return True
        line, before, membership, in_time = stored.line, stored.state_before, None, False
        placed = stored.verdict == ACCEPTED and before is not None and line is not None
        if placed:
            assert before is not None and line is not None
            # Whoever has left sees nothing that came since, whatever its writer knew of their leaving.
            in_time = line <= (self._last_line or self.last_line)
            if in_time:
                membership = self._memberships.get(before) or self.membership_in(before)
            if membership == "join":
                self._member_root, self._member_upto = before, self.last_line
                return True
        own = event.type == "m.room.member" and event.state_key == self.user_id
        if not placed:
            # What is held for authorization alone has no place in history; but their own invite
            # or rejection, from a room that we are not in, is theirs to see.
            return own and stored.verdict == ACCEPTED
        assert before is not None
        policy = self.policy_in(before)
        history = history_at(event, policy.content if policy is not None else None)
        return user_may_see(history, UserView(membership, in_time, own))

    def is_erased(self, stored: StoredEvent) -> bool:
        """Whether the user is given an event without what its sender said, who had it erased before."""
        erased_at = self._erasures.position(self._tx, stored.event.sender)
        if erased_at == NOT_ERASED:
            return False
        before = stored.state_before
        was_in = before is not None and self.membership_in(before) == "join"
        return is_erased_for(stored.event, was_in=was_in, came_before=self._first_came() <= erased_at)

    def _first_came(self) -> int:
        if self._came_at is None:
            # Of a stay that they forgot, nothing is theirs any more.
            self._came_at = min(
                (
                    entry.position
                    for entry in stored_rooms.local_history(self._tx, self.user_id, self.room_num)
                    if entry.membership == "join" and not entry.forgotten
                ),
                default=MAX_LINE,
            )
        return self._came_at

    def visible(self, listed: Iterable[StoredEvent]) -> list[StoredEvent]:
        """Those of the events that the user may see."""
        return [stored for stored in listed if self.may_see(stored)]


def _end_of_last_stay(history: Sequence[LocalMembership], *, at_once_too: bool = False) -> int:
    """`at_once_too`: stays count that were forgotten in leaving, whose end is still to be told."""
    ended = 0
    for entry in history:
        if entry.forgotten and not (at_once_too and entry.at_once):
            # Of a stay that they forgot, nothing is theirs any more: what is left is what strangers see.
            continue
        if entry.membership == "join":
            ended = MAX_LINE
        elif ended == MAX_LINE:
            ended = live_line(entry.position)
    return ended


class Visibility:
    """Makes RoomViews."""

    def __init__(self, states: States, events: Events, erasures: Erasures, horizon: Horizon = never) -> None:
        self._states = states
        self._events = events
        self._erasures = erasures
        self._horizon = horizon

    def view(
        self, tx: Tx, user_id: str, room_num: int, *, is_joined: bool = False, is_leaving: bool = False
    ) -> RoomView:
        """A user's view of a room, good for this read alone.

        Who knows that they are in the room says so: it spares reading how long they were. `is_leaving`:
        the end of a stay is told, which may be forgotten with it.
        """
        last_line = MAX_LINE if is_joined else None
        if is_leaving:
            history = stored_rooms.local_history(tx, user_id, room_num)
            last_line = _end_of_last_stay(history, at_once_too=True)
        return RoomView(
            tx, self._states, self._events, self._erasures, self._horizon, user_id, room_num, last_line
        )

    def visible_events(
        self, tx: Tx, user_id: str, room_num: int, listed: Iterable[StoredEvent]
    ) -> list[StoredEvent]:
        """Those of a room's events that a user may see."""
        return self.view(tx, user_id, room_num).visible(listed)
