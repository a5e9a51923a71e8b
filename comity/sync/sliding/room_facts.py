"""What lists are filtered and sorted by: a few facts about each room, and when there was last life in it.

Remembered, and read again only for rooms in which something happened since.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from comity.bus import Bus
from comity.protocol.event import StateKey
from comity.rooms.read import Reader
from comity.store import heads, notices
from comity.store.cache import Bounded
from comity.store.database import Tx

#: Rooms of which facts are remembered: about 400 bytes each.
MAX_ROOMS = 200_000
#: Ends of stays of which they are.
MAX_PAST = 20_000
#: Membership events whose senders are remembered: about 150 bytes each.
MAX_SENDERS = 100_000


@dataclass(frozen=True, slots=True)
class Facts:
    """Facts about a room, as of a position; `children` are those of a space."""

    position: int
    state: bytes
    room_type: str | None
    is_encrypted: bool
    name: str | None
    children: frozenset[str] = frozenset()


class RoomFacts:
    """Knows rooms."""

    def __init__(self, reader: Reader, bus: Bus) -> None:
        self._reader = reader
        self._bus = bus
        self._facts: Bounded[int, Facts] = Bounded(MAX_ROOMS)
        #: (room number, position) -> what was so there, of rooms that somebody was removed from.
        self._past: Bounded[tuple[int, int], Facts] = Bounded(MAX_PAST)
        #: Number of an event that ended a stay, or invited -> who sent it.
        self._senders: Bounded[int, str] = Bounded(MAX_SENDERS)
        #: Room number -> (the position up to which it holds, that of the last activity).
        self._activity: Bounded[int, tuple[int, int]] = Bounded(MAX_ROOMS)

    def get(self, tx: Tx, room_num: int, room_id: str, now: int) -> Facts:
        """The facts about a room at position `now`, or later ones that are known."""
        known = self._facts.get(room_num)
        if known is not None and not self._bus.changed((room_id,), known.position):
            return known
        state = heads.at(tx, room_num, now)
        if known is not None and known.state == state:
            facts = Facts(now, state, known.room_type, known.is_encrypted, known.name, known.children)
        else:
            facts = self._read(tx, room_num, state, now)
        self._facts.put(room_num, facts)
        return facts

    def at(self, tx: Tx, room_num: int, position: int) -> Facts:
        """The facts about a room as they were at a position."""
        known = self._past.get((room_num, position))
        if known is None:
            known = self._read(tx, room_num, heads.at(tx, room_num, position), position)
            self._past.put((room_num, position), known)
        return known

    def _read(self, tx: Tx, room_num: int, state: bytes, now: int) -> Facts:
        create = self.content(tx, room_num, state, ("m.room.create", ""))
        name = (self.content(tx, room_num, state, ("m.room.name", "")) or {}).get("name")
        room_type = (create or {}).get("type")
        children: frozenset[str] = frozenset()
        if room_type == "m.space":
            states, events = self._reader.states, self._reader.events
            numbers = states.by_type(tx, room_num, state, "m.space.child").values()
            children = frozenset(
                stored.event.state_key or ""
                for stored in events.load(tx, numbers).values()
                if isinstance(stored.event.content.get("via"), list)
            )
        return Facts(
            now,
            state,
            room_type if isinstance(room_type, str) else None,
            self.content(tx, room_num, state, ("m.room.encryption", "")) is not None,
            name if isinstance(name, str) and name else None,
            children,
        )

    def content(self, tx: Tx, room_num: int, state: bytes, key: StateKey) -> Mapping[str, object] | None:
        """The content of an entry of a state."""
        slot = self._reader.states.slot(tx, room_num, key)
        number = 0 if slot is None else self._reader.states.get(tx, state, slot)
        stored = self._reader.events.get(tx, number) if number else None
        return stored.event.content if stored is not None else None

    def senders(self, tx: Tx, numbers: Iterable[int]) -> dict[int, str]:
        """event number -> who sent it, of those that are there."""
        found: dict[int, str] = {}
        unknown: list[int] = []
        for number in numbers:
            known = self._senders.get(number)
            if known is not None:
                found[number] = known
            elif number:
                unknown.append(number)
        for number, stored in self._reader.events.load(tx, unknown).items():
            found[number] = stored.event.sender
            self._senders.put(number, stored.event.sender)
        return found

    def activity(self, tx: Tx, rooms: Iterable[tuple[int, str]], now: int) -> dict[int, int]:
        """room number -> the position of its last activity (0: none), for (number, id) of rooms."""
        found: dict[int, int] = {}
        unknown: list[int] = []
        for room_num, room_id in rooms:
            known = self._activity.get(room_num)
            # All who follow a room ask after each message: the first one reads.
            if known is not None and not self._bus.key_changed(room_id, known[0]):
                found[room_num] = known[1]
            else:
                unknown.append(room_num)
        if unknown:
            read = notices.activity(tx, unknown)
            for room_num in unknown:
                found[room_num] = read.get(room_num, 0)
                self._activity.put(room_num, (now, found[room_num]))
        return found
