"""Auth chains at rest: the sets of state resolution, at a cost of what differs.

Event numbers only fall along auth edges, so a set of chains is walked from the top and in one
pass. The walk ends where it meets what all states share; whether something that all share
stands on an event is asked upwards, of the events that cite it, where an answer is mostly
near. Neither follows the room's size (DESIGN §4.3, §4.4); where a graph defies the second,
`_Descent` answers it by walking down from everything.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Protocol

from comity.protocol.auth.selection import POWER_LEVELS_KEY
from comity.store.database import Tx
from comity.store.events import Events, unpack_numbers
from comity.store.lists import parts
from comity.store.state import States

#: Citations of one event that are looked at before everything is walked down from instead.
MAX_FOLLOWED = 2_000
#: Citations read at a time: among the newest, one is mostly part of the current state.
CITATIONS_AT_ONCE = 16
#: Power levels events of which the edges are read at first, and at most, at a time.
POWER_LEVELS_AT_FIRST = 16
POWER_LEVELS_AT_ONCE = 512
#: Rows that a migration reads at a time.
FILL_AT_ONCE = 2_000


class Shared(Protocol):
    """The entries that all the states in question have in common."""

    def holds(self, number: int) -> bool:
        """Whether the event of that number is such an entry."""

    def holds_at(self, slot: int | None, number: int) -> bool:
        """The same, for one whose slot is known; None if its key has none."""

    def numbers(self) -> Iterable[int]:
        """Every such entry. It follows the size of the state: asked when nothing else helps."""


class AuthChains:
    """Answers questions about the auth chains of a room's states."""

    def __init__(
        self,
        events: Events,
        states: States,
        *,
        max_followed: int = MAX_FOLLOWED,
        at_once: int = CITATIONS_AT_ONCE,
    ) -> None:
        """`max_followed` and `at_once` are the constants of those names; only cost depends on them."""
        self.max_followed = max_followed
        self._at_once = at_once
        self._events = events
        self._states = states

    def difference(self, tx: Tx, own: Sequence[Collection[int]], shared: Shared) -> set[int]:
        """The events in some but not all of the full auth chains of several states.

        State i consists of the events `own[i]` and of those that are `shared` by all; a state's
        own events count as part of its chain (COMPAT: as other servers reckon).
        """
        everywhere = (1 << len(own)) - 1
        masks: dict[int, int] = {}
        for index, numbers in enumerate(own):
            for number in numbers:
                masks[number] = masks.get(number, 0) | 1 << index
        heap = [-number for number in masks]
        heapq.heapify(heap)
        differing = frozenset(masks)
        ascent = _Ascent(tx, self, shared, self._uncited(tx, differing))
        while heap:
            number = -heapq.heappop(heap)
            mask = masks[number]
            is_shared = number not in differing and shared.holds(number)
            if mask == everywhere or is_shared or ascent.leads_to_all(number):
                # So is all below it: that is found out upwards, if anything asks.
                ascent.in_all(number)
                continue
            ascent.in_some.add(number)
            for below in self._events.auth(tx, number):
                known = masks.get(below)
                if known is None:
                    heapq.heappush(heap, -below)
                    masks[below] = mask
                else:
                    masks[below] = known | mask
        return ascent.in_some

    def subgraph(self, tx: Tx, ends: Collection[int]) -> set[int]:
        """The events on all paths of auth edges from one of `ends` to another, ends included
        (rooms/v12 §Definitions, *conflicted state subgraph*).

        It is walked from above and from below by turns; the first to come to its end has what
        the other need only thin out.
        """
        floor, ceiling = min(ends), max(ends)
        down, up = set(ends), set(ends)
        going_down, going_up = set(ends), set(ends)
        while True:
            going_down = {n for n in self._below(tx, going_down) if n >= floor} - down
            if not going_down:
                return self._leading_to(tx, down, frozenset(ends))
            down |= going_down
            while len(up) <= len(down):
                going_up = {n for n in self._above(tx, going_up) if n <= ceiling} - up
                if not going_up:
                    return self._reached_from(tx, up, frozenset(ends))
                up |= going_up

    def _leading_to(self, tx: Tx, region: set[int], ends: frozenset[int]) -> set[int]:
        """Those of a region below `ends` that lead to one of them."""
        leading = set(ends)
        for number in sorted(region):
            if not leading.isdisjoint(self._events.auth(tx, number)):
                leading.add(number)
        return leading

    def _reached_from(self, tx: Tx, region: set[int], ends: frozenset[int]) -> set[int]:
        """Those of a region above `ends` that one of them leads to."""
        self._events.load_auth(tx, region)
        reached = set(ends)
        for number in sorted(region, reverse=True):
            if number in reached:
                reached.update(region.intersection(self._events.auth(tx, number)))
        return reached

    def _below(self, tx: Tx, numbers: Collection[int]) -> set[int]:
        self._events.load_auth(tx, numbers)
        return {below for number in numbers for below in self._events.auth(tx, number)}

    def _above(self, tx: Tx, numbers: Collection[int]) -> set[int]:
        found = {number for cited in numbers for number, _ in self._pending(tx, cited)}
        ordered = sorted(numbers)
        for marks, chunk in parts(ordered):
            rows = tx.all(f"SELECT citing FROM auth_citations WHERE cited IN ({marks})", chunk)
            found.update(row[0] for row in rows)
        return found

    def citations(self, tx: Tx, number: int) -> Iterator[list[tuple[int, int | None]]]:
        """(number, slot) of the state events that cite an event, newest first, some at a time."""
        pending = self._pending(tx, number)
        if pending:
            yield pending
        below = 1 << 62
        while True:
            rows = tx.all(_CITATIONS, (number, below, self._at_once))
            if rows:
                yield rows
            if len(rows) < self._at_once:
                return
            below = rows[-1][0]

    def _uncited(self, tx: Tx, numbers: Collection[int]) -> frozenset[int]:
        """Those of them that no state event cites: most of what differs."""
        found = {number for number in numbers if self._events.pending_citations(number)}
        ordered = sorted(numbers)
        for marks, chunk in parts(ordered, "(?)"):
            rows = tx.all(
                f"SELECT column1 FROM (VALUES {marks}) AS given "
                "WHERE EXISTS (SELECT 1 FROM auth_citations WHERE cited = column1)",
                chunk,
            )
            found.update(row[0] for row in rows)
        return frozenset(numbers) - found

    def _pending(self, tx: Tx, number: int) -> list[tuple[int, int | None]]:
        return [
            (stored.number, self._states.slot(tx, stored.room_num, stored.event.key))
            for stored in self._events.pending_citations(number)
        ]

    def descent(self, tx: Tx, numbers: Iterable[int]) -> _Descent:
        """The chains of many events, walked down as far as somebody asks."""
        return _Descent(tx, self._events, numbers)


_CITATIONS = (
    "SELECT c.citing, s.slot FROM auth_citations AS c "
    "JOIN events AS e ON e.event_num = c.citing "
    "LEFT JOIN state_slots AS s ON s.room_num = e.room_num AND s.type = e.type AND s.state_key = e.state_key "
    "WHERE c.cited = ? AND c.citing < ? ORDER BY c.citing DESC LIMIT ?"
)


_POWER_LEVELS = (
    "SELECT event_num, event_id, auth FROM events "
    "WHERE room_num = ? AND type = 'm.room.power_levels' AND state_key = '' AND event_num < ? "
    "ORDER BY event_num DESC LIMIT ?"
)


class _Ascent:
    """Whether something that is in every chain stands on an event; asked from the top downwards."""

    def __init__(self, tx: Tx, chains: AuthChains, shared: Shared, uncited: frozenset[int]) -> None:
        """`uncited` are events that are known to be cited by none."""
        self._uncited = uncited
        self._tx = tx
        self._chains = chains
        self._shared = shared
        #: Settled events: those in every chain, and those that are not.
        self._in_all: set[int] = set()
        self.in_some: set[int] = set()
        #: Events of no chain in question on which nothing that is in every chain stands.
        self._leads_nowhere: set[int] = set()
        self._descent: _Descent | None = None

    def in_all(self, number: int) -> None:
        """Note that an event is in every chain."""
        self._in_all.add(number)
        if self._descent is not None:
            self._descent.add(number)

    def leads_to_all(self, number: int) -> bool:
        """Whether an event that is in every chain has this one in its own."""
        if number in self._uncited:
            return False
        if self._descent is None:
            answer = self._ask_upwards(number)
            if answer is not None:
                return answer
            self._descent = self._chains.descent(self._tx, (*self._shared.numbers(), *self._in_all))
        return self._descent.reaches(number)

    def _ask_upwards(self, number: int) -> bool | None:
        """None when there is too much above it."""
        seen = {number}
        pending = [number]
        while pending:
            for citations in self._chains.citations(self._tx, pending.pop()):
                for citing, slot in citations:
                    if citing in self._in_all:
                        return True
                    if citing in self.in_some or citing in seen or citing in self._leads_nowhere:
                        continue
                    if self._shared.holds_at(slot, citing):
                        return True
                    seen.add(citing)
                    pending.append(citing)
                if len(seen) > self._chains.max_followed:
                    return None
        seen.discard(number)
        self._leads_nowhere |= seen
        return False


class _Descent:
    """What stands below a set of events, asked from the top downwards."""

    def __init__(self, tx: Tx, events: Events, numbers: Iterable[int]) -> None:
        self._tx = tx
        self._events = events
        self._heap = [-number for number in numbers]
        heapq.heapify(self._heap)
        self._seen: set[int] = set()
        self._below: set[int] = set()

    def add(self, number: int) -> None:
        """One more event to begin from."""
        heapq.heappush(self._heap, -number)

    def reaches(self, number: int) -> bool:
        """Whether the chain of one of them has that event. Never ask for a greater one later."""
        while self._heap and -self._heap[0] > number:
            above = -heapq.heappop(self._heap)
            if above in self._seen:
                continue
            self._seen.add(above)
            for below in self._events.auth(self._tx, above):
                if below not in self._below:
                    self._below.add(below)
                    heapq.heappush(self._heap, -below)
        return number in self._below


class PowerLevelsLine:
    """Which power levels event another one cites, for those who walk far back along them.

    Their events need not be read for that: the auth edges of a few hundred are read at a time,
    the newest first.
    """

    def __init__(
        self, tx: Tx, events: Events, room_num: int, *, at_first: int = POWER_LEVELS_AT_FIRST
    ) -> None:
        self._tx = tx
        self._room_num = room_num
        self._at_once = at_first
        self._ids: dict[int, str] = {}
        self._auth: dict[str, tuple[int, ...]] = {}
        #: Every power levels event from this number on is known; None before the first question.
        self._floor: int | None = None
        self._events = events

    def behind(self, event_id: str) -> str | None:
        """The id of the power levels event that a power levels event cites; None if it cites none."""
        while event_id not in self._auth:
            if not self._read():
                return None
        auth = self._auth[event_id]
        while True:
            for cited in auth:
                if cited in self._ids:
                    return self._ids[cited]
            # One that is not known yet is older than all that are, or is no power levels event.
            if all(self._floor is not None and cited >= self._floor for cited in auth) or not self._read():
                return None

    def _read(self) -> bool:
        """Read the next older ones; False if there are none."""
        if self._floor == 0:
            return False
        if self._floor is None:
            # Asked only now: most resolutions never look at this line.
            for stored in self._events.pending_state(self._room_num, POWER_LEVELS_KEY):
                self._ids[stored.number] = stored.event.event_id
                self._auth[stored.event.event_id] = self._events.auth(self._tx, stored.number)
        upto = self._floor if self._floor is not None else 1 << 62
        limit = self._at_once
        # Mostly the newest few are enough; whoever goes far soon reads many at a time.
        self._at_once = min(2 * limit, POWER_LEVELS_AT_ONCE)
        rows = self._tx.all(_POWER_LEVELS, (self._room_num, upto, limit))
        for number, event_id, auth in rows:
            self._ids[number] = event_id
            self._auth[event_id] = unpack_numbers(auth)
        self._floor = rows[-1][0] if len(rows) == limit else 0
        return True


def cite(tx: Tx, edges: Iterable[tuple[int, int]]) -> None:
    """Store auth edges as (cited, citing)."""
    tx.many("INSERT INTO auth_citations (cited, citing) VALUES (?, ?) ON CONFLICT DO NOTHING", list(edges))


def fill(tx: Tx, at_once: int = FILL_AT_ONCE) -> None:
    """Store the citations of every event that is there: the migration to schema 4."""
    last = 0
    while True:
        rows = tx.all(
            "SELECT event_num, auth FROM events WHERE event_num > ? AND auth IS NOT NULL "
            "ORDER BY event_num LIMIT ?",
            (last, at_once),
        )
        if not rows:
            return
        cite(tx, ((cited, row[0]) for row in rows for cited in unpack_numbers(bytes(row[1]))))
        last = rows[-1][0]
