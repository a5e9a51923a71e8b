"""Connections of sliding sync: what each client has been told, as of its last answers (MSC4186).

In memory alone and bounded: whoever is forgotten is told M_UNKNOWN_POS and begins anew. An answer
may be lost on its way, so the state before it is kept until the client has shown that it came; and one
that was taken for lost may come after all, so that the last few answers to the same place are kept.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from comity.protocol.errors import MatrixError
from comity.rooms.read.tokens import sliding_token
from comity.sync.sliding.wish import NOTHING_REQUIRED, Required

#: Connections of one device: apps keep two or three.
MAX_OF_DEVICE = 8
#: Rooms told of, over all connections: about 300 bytes each.
MAX_ROOMS = 1_000_000
#: What a connection takes that was told of no room, in rooms.
EMPTY_SIZE = 4
#: Members of one room that are remembered as told; beyond it they are told again.
MAX_MEMBERS = 500
#: Answers to one place that may be gone on from: that to a request which was given up, and one's own.
MAX_ANSWERS = 2
#: Seconds that a connection is kept without a request: a phone that sleeps over a weekend goes on.
MAX_IDLE_SECONDS = 7 * 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Told:
    """What a client was told of one room: all that was wanted then, up to `position`.

    `members` were told although only those who matter are wanted; `counts` is what was not read; `is_dm`
    whether the user has marked it as a direct chat.
    """

    position: int
    membership: str
    required: Required = NOTHING_REQUIRED
    timeline_limit: int = 0
    members: frozenset[str] = frozenset()
    counts: tuple[int, int] = (0, 0)
    is_dm: bool = False


@dataclass(slots=True)
class State:
    """What a client knows after one answer; `serial` is given when it is kept.

    `account_data` and `receipts` are the rooms of which it has all of either, up to `position`;
    `receipts_until` those of which it has receipts up to an earlier one; `has_global` whether it has all
    account data beside rooms; `devices` up to where it was told of devices; `typing` those in
    which it believes that somebody types, with the serial number of what it was told. Changed only while
    its answer is made: what is made anew for every answer is not frozen, which takes three times as long.
    """

    serial: int = 0
    position: int = 0
    rooms: Mapping[str, Told] = field(default_factory=dict)
    account_data: frozenset[str] = frozenset()
    has_global: bool = False
    devices: int = 0
    receipts: frozenset[str] = frozenset()
    receipts_until: Mapping[str, int] = field(default_factory=dict)
    typing: Mapping[str, int] = field(default_factory=dict)
    #: What it was last told of its keys, and of the sizes of lists: told again when they change.
    keys: object = None
    lists: object = None
    #: The number of the wish to which it was told everything there was, 0 if it was not everything; and up
    #: to which serial number of typing that was.
    answered: int = 0
    typing_serial: int = 0

    def copy(self) -> State:
        """The same, to be changed."""
        return replace(self)

    def forget(self, rooms: Collection[str]) -> None:
        """Nothing is known any more of what is kept beside these rooms."""
        self.account_data = self.account_data.difference(rooms)
        self.receipts = self.receipts.difference(rooms)
        self.receipts_until = _besides(self.receipts_until, rooms)
        self.typing = _besides(self.typing, rooms)

    @property
    def size(self) -> int:
        """How many rooms it holds something about, and what it costs without any, in rooms."""
        beside = len(self.account_data) + len(self.receipts) + len(self.receipts_until)
        return EMPTY_SIZE + len(self.rooms) + beside


def _besides(known: Mapping[str, int], rooms: Collection[str]) -> dict[str, int]:
    return {room_id: value for room_id, value in known.items() if room_id not in rooms}


@dataclass(slots=True)
class _Connection:
    """`states`: what the client has shown to know, and after it what it may know by now."""

    number: int
    states: list[State]
    used: float


Device = tuple[str, str]


class Connections:
    """The connections of all devices."""

    def __init__(self, first: int, max_rooms: int = MAX_ROOMS) -> None:
        """`first` is a number that no earlier run came to: the time of the start (ms).

        `max_rooms` is the constant of that name; tests make it small.
        """
        self._max_rooms = max_rooms
        self._known: dict[tuple[Device, str], _Connection] = {}
        self._of_device: dict[Device, dict[str, None]] = {}
        self._rooms = 0
        self._last = first

    def begin(self, device: Device, name: str, now: float) -> State:
        """A connection without anything told; one of that name is forgotten."""
        self._forget(device, name)
        names = self._of_device.setdefault(device, {})
        while len(names) >= MAX_OF_DEVICE:
            self._forget(device, next(iter(names)))
            names = self._of_device.setdefault(device, {})
        names[name] = None
        self._last += 1
        state = State(self._last)
        self._known[device, name] = _Connection(self._last, [state], now)
        self._rooms += state.size
        self._make_room(device, name)
        return state

    def at(self, device: Device, name: str, pos: str, now: float) -> State:
        """The state after the answer that gave `pos`. Raises 400 M_UNKNOWN_POS."""
        connection = self._known.get((device, name))
        if connection is not None and now - connection.used <= MAX_IDLE_SECONDS:
            for state in connection.states:
                if pos == _pos(connection, state):
                    if state is not connection.states[0]:
                        # What the client shows to have, it will not ask from before again.
                        self._rooms -= sum(old.size for old in connection.states) - state.size
                        connection.states = [state]
                    connection.used = now
                    self._known[device, name] = self._known.pop((device, name))
                    return state
        raise MatrixError(400, "M_UNKNOWN_POS", "This position is not known any more: begin without one")

    def advance(self, device: Device, name: str, base: State, state: State) -> str | None:
        """Keep what an answer told, on top of `base`; its `pos`. None if the connection began anew."""
        connection = self._known.get((device, name))
        if connection is None or connection.states[0] is not base:
            return None
        self._last += 1
        state.serial = self._last
        others = [known for known in connection.states if known is not base]
        kept = [base, *others[1 - MAX_ANSWERS :], state]
        self._rooms += sum(new.size for new in kept) - sum(old.size for old in connection.states)
        connection.states = kept
        self._make_room(device, name)
        return _pos(connection, state)

    def _make_room(self, device: Device, name: str) -> None:
        """Forget those that were not used for longest, but for this one."""
        while self._rooms > self._max_rooms and len(self._known) > 1:
            self._forget(*next(key for key in self._known if key != (device, name)))

    def _forget(self, device: Device, name: str) -> None:
        connection = self._known.pop((device, name), None)
        if connection is None:
            return
        self._rooms -= sum(state.size for state in connection.states)
        names = self._of_device[device]
        del names[name]
        if not names:
            del self._of_device[device]

    def __len__(self) -> int:
        return len(self._known)


def _pos(connection: _Connection, state: State) -> str:
    return sliding_token(connection.number, state.serial, state.position)
