"""Who may see what: the one place where a user's eyes meet a room's history.

Collects what `comity.protocol.visibility` asks for from the state vectors: two entries of the
state before each event, found once for all events that share a state.
"""

from __future__ import annotations

from collections.abc import Iterable

from comity.protocol.event import Event
from comity.protocol.visibility import History, UserView, history_at, history_visibility, user_may_see
from comity.store import rooms as stored_rooms
from comity.store.database import Tx
from comity.store.events import ACCEPTED, Events, StoredEvent, live_line
from comity.store.state import States

#: Events that join the ends of a room's graph and mean nothing (`comity.rooms.extremities`).
HIDDEN_TYPE = "org.matrix.dummy_event"


class RoomView:
    """One user's view of one room, for the time of one read."""

    __slots__ = (
        "_events",
        "_last_join",
        "_memberships",
        "_policies",
        "_slots",
        "_states",
        "_tx",
        "room_num",
        "user_id",
    )

    def __init__(self, tx: Tx, states: States, events: Events, user_id: str, room_num: int) -> None:
        self.user_id = user_id
        self.room_num = room_num
        self._tx = tx
        self._states = states
        self._events = events
        self._slots = (
            states.slot(tx, room_num, ("m.room.member", user_id)),
            states.slot(tx, room_num, ("m.room.history_visibility", "")),
        )
        #: By the name of a state: the user's membership, the history visibility's event.
        self._memberships: dict[bytes, str | None] = {}
        self._policies: dict[bytes, Event | None] = {}
        self._last_join: int | None = None

    def _entry(self, root: bytes, slot: int | None) -> Event | None:
        number = 0 if slot is None else self._states.get(self._tx, root, slot)
        stored = self._events.get(self._tx, number) if number else None
        return stored.event if stored is not None else None

    def membership_in(self, root: bytes) -> str | None:
        """The user's membership in a state; None if they have none."""
        try:
            return self._memberships[root]
        except KeyError:
            event = self._entry(root, self._slots[0])
            membership = self._memberships[root] = event.membership if event is not None else None
            return membership

    def policy_in(self, root: bytes) -> Event | None:
        """The `m.room.history_visibility` of a state."""
        try:
            return self._policies[root]
        except KeyError:
            policy = self._policies[root] = self._entry(root, self._slots[1])
            return policy

    def membership_at(self, stored: StoredEvent) -> str | None:
        """`unsigned.membership`: the user's membership, changes by the event included."""
        if stored.state_after is None:
            return None
        return self.membership_in(stored.state_after) or "leave"

    @property
    def last_join_line(self) -> int:
        """The line of the user's last join (they may have left since); 0 if they never joined."""
        if self._last_join is None:
            history = stored_rooms.local_history(self._tx, self.user_id, self.room_num)
            joins = [entry.position for entry in history if entry.membership == "join"]
            self._last_join = live_line(max(joins)) if joins else 0
        return self._last_join

    def sees(self, state_before: bytes, *, joined_later: bool) -> bool:
        """Whether the user may see events on that state that are no state events themselves.

        `joined_later`: whether they joined at any point after them.
        """
        membership = self.membership_in(state_before)
        if membership == "join":
            return True
        policy = self.policy_in(state_before)
        visibility = history_visibility(policy.content if policy is not None else None)
        return user_may_see(History(visibility, visibility), UserView(membership, joined_later))

    def may_see(self, stored: StoredEvent) -> bool:
        """Whether the user may see an event (client-server §Room History Visibility)."""
        event = stored.event
        if event.type == HIDDEN_TYPE and not event.is_state:
            return False
        own = event.type == "m.room.member" and event.state_key == self.user_id
        if stored.verdict != ACCEPTED or stored.state_before is None or stored.line is None:
            # What is held for authorization alone has no place in history; but their own invite
            # or rejection, from a room that we are not in, is theirs to see.
            return own and stored.verdict == ACCEPTED
        membership = self.membership_in(stored.state_before)
        if membership == "join":
            return True
        policy = self.policy_in(stored.state_before)
        history = history_at(event, policy.content if policy is not None else None)
        return user_may_see(history, UserView(membership, self.last_join_line > stored.line, own))

    def visible(self, listed: Iterable[StoredEvent]) -> list[StoredEvent]:
        """Those of the events that the user may see."""
        return [stored for stored in listed if self.may_see(stored)]


class Visibility:
    """Makes RoomViews."""

    def __init__(self, states: States, events: Events) -> None:
        self._states = states
        self._events = events

    def view(self, tx: Tx, user_id: str, room_num: int) -> RoomView:
        """A user's view of a room, good for this read alone."""
        return RoomView(tx, self._states, self._events, user_id, room_num)

    def visible_events(
        self, tx: Tx, user_id: str, room_num: int, listed: Iterable[StoredEvent]
    ) -> list[StoredEvent]:
        """Those of a room's events that a user may see."""
        return self.view(tx, user_id, room_num).visible(listed)
