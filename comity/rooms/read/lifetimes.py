"""From when on a room's messages are still there: its retention policy, as of now (MSC1763).

Owns which policy counts; who may see what is `comity.rooms.read.visible`, and what is done with
events whose time is over `comity.rooms.retention`.

It is the policy of the room's current state, not the one before each event: the MSC speaks of "the
`m.room.retention` event for the room", an operator who is asked how long messages stay has one answer
for a room, and one time in a room decides for all of its events, with nothing to look up for each. So
a policy holds for what was said before it too; what protects a room's history against a moderator who
sets a lifetime of a second is the operator's least lifetime.
"""

from __future__ import annotations

from collections.abc import Callable

from comity.ports import Clock
from comity.protocol.retention import TYPE, Bounds, lifetime
from comity.store import rooms as stored_rooms
from comity.store.database import Tx
from comity.store.events import Events
from comity.store.state import States

#: (tx, room number) -> the time (ms) before which the room's messages are gone; None: none are.
Horizon = Callable[[Tx, int], int | None]


def never(tx: Tx, room_num: int) -> None:
    """Nothing is ever gone: a `Horizon`."""


class Lifetimes:
    """Knows the horizon of each room."""

    def __init__(self, states: States, events: Events, clock: Clock, bounds: Bounds) -> None:
        self._states = states
        self._events = events
        self._clock = clock
        self._bounds = bounds

    def horizon(self, tx: Tx, room_num: int) -> int | None:
        """The time before which messages of a room are gone. Costs one row and what is in memory."""
        room = stored_rooms.by_number(tx, room_num)
        content = None
        if room is not None and room.state:
            slot = self._states.slot(tx, room_num, (TYPE, ""))
            number = 0 if slot is None else self._states.get(tx, room.state, slot)
            stored = self._events.get(tx, number) if number else None
            content = None if stored is None else stored.event.content
        kept = lifetime(content, self._bounds)
        return None if kept is None else self._clock.now_ms() - kept
