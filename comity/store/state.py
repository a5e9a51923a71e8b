"""State as a persistent paged vector: what a room's state was, at a cost of what changed.

A room numbers its state keys: (type, state_key) -> slot. A state is a vector of event numbers
over slots, cut into leaves of 64 and held together by inner pages of 16, every page stored
once under the hash of its content (DESIGN §4.3). Two states are compared page by page, and
equal pages are never looked into. Pages are immutable; a state is the name of its root page.
"""

from __future__ import annotations

import hashlib
import sys
from array import array
from collections.abc import Iterable, Iterator, Mapping

from comity.protocol.event import StateKey
from comity.store.cache import Bounded
from comity.store.database import Tx
from comity.store.lists import parts

#: Slots in a leaf page.
LEAF = 64
#: Children of an inner page. Narrower than a leaf: a change rewrites a path, and names are long.
FAN = 16
NAME_BYTES = 12
#: Decoded pages kept in memory, per megabyte of budget: about a kilobyte each.
PAGES_PER_MEGABYTE = 1_000
#: (room, type, state key) -> slot and back, kept in memory: about 300 bytes each way.
SLOTS_PER_MEGABYTE = 1_600
DEFAULT_MEGABYTES = 64
#: The empty state.
EMPTY = b""
_ABSENT = bytes(NAME_BYTES)
#: In the place of a slot: the room has no state of that key.
_NO_SLOT = -1
#: Item sizes of the arrays that a leaf may be packed in, by their type code.
_WIDTHS = ((1, "B"), (2, "H"), (4, "I"), (8, "Q"))

#: A leaf: 64 event numbers, 0 where there is none. An inner page: (level, names of children).
Leaf = tuple[int, ...]
Page = tuple[int, tuple[bytes, ...] | Leaf]
#: Pages made by a decision: name -> body.
NewPages = dict[bytes, bytes]


def _encode_leaf(numbers: Leaf) -> bytes:
    present = [number for number in numbers if number]
    base = min(present) - 1
    span = max(present) - base
    width, code = next(pair for pair in _WIDTHS if span < 1 << (8 * pair[0]))
    last = max(index for index, number in enumerate(numbers) if number)
    packed = array(code, [number - base if number else 0 for number in numbers[: last + 1]])
    if sys.byteorder == "big":
        packed.byteswap()
    return bytes((0, width)) + base.to_bytes(8, "little") + packed.tobytes()


def _encode_inner(level: int, names: tuple[bytes, ...]) -> bytes:
    last = max(index for index, name in enumerate(names) if name != _ABSENT)
    return bytes((level,)) + b"".join(names[: last + 1])


def _decode(body: bytes) -> Page:
    level = body[0]
    if level:
        names = tuple(body[start : start + NAME_BYTES] for start in range(1, len(body), NAME_BYTES))
        return level, names + (_ABSENT,) * (FAN - len(names))
    packed = array(dict(_WIDTHS)[body[1]])
    packed.frombytes(body[10:])
    if sys.byteorder == "big":
        packed.byteswap()
    base = int.from_bytes(body[2:10], "little")
    numbers = tuple(number + base if number else 0 for number in packed)
    return 0, numbers + (0,) * (LEAF - len(numbers))


def name_of(body: bytes) -> bytes:
    """The name of a page with that body."""
    return hashlib.blake2b(body, digest_size=NAME_BYTES).digest()


def children(body: bytes) -> list[bytes]:
    """The names of the pages below a page; none below a leaf."""
    level, items = _decode(body)
    return [name for name in items if isinstance(name, bytes) and name != _ABSENT] if level else []


#: Slots under a page of each level: the last is more than numbers go to.
_CAPACITIES = tuple(LEAF * FAN**level for level in range(11))


class States:
    """Reads and makes state pages and slots; the caches of both live here."""

    def __init__(self, megabytes: int = DEFAULT_MEGABYTES) -> None:
        """`megabytes` is the memory for its caches: half for pages, half for slots."""
        self._pages: Bounded[bytes, Page] = Bounded(max(1, megabytes * PAGES_PER_MEGABYTE // 2))
        #: Pages of decisions that are not on disk yet: they must be found whatever is evicted.
        self._pending: dict[bytes, Page] = {}
        slots = max(1, megabytes * SLOTS_PER_MEGABYTE // 2)
        self._slots: Bounded[tuple[int, str, str], int] = Bounded(slots)
        self._keys: Bounded[tuple[int, int], StateKey] = Bounded(slots)
        #: Slots of decisions that are not on disk yet.
        self._pending_slots: dict[tuple[int, str, str], int] = {}
        self._pending_keys: dict[tuple[int, int], StateKey] = {}

    # -- pages

    def _page(self, tx: Tx, name: bytes) -> Page:
        page = self._pages.get(name) or self._pending.get(name)
        if page is None:
            row = tx.one("SELECT body FROM state_pages WHERE name = ?", (name,))
            if row is None:
                raise KeyError(f"State page {name.hex()} is missing")
            page = _decode(bytes(row[0]))
            self._pages.put(name, page)
        return page

    def _keep(self, body: bytes, page: Page, made: NewPages) -> bytes:
        name = name_of(body)
        if name not in made:
            made[name] = body
            self._pending[name] = page
        return name

    def settle(self, made: Iterable[bytes]) -> None:
        """The pages are on disk (or their decision is void): they need no longer be held."""
        for name in made:
            page = self._pending.pop(name, None)
            if page is not None:
                self._pages.put(name, page)

    def forget(self, made: Iterable[bytes]) -> None:
        """The pages were not stored: drop them."""
        for name in made:
            self._pending.pop(name, None)
            self._pages.drop(name)

    def get(self, tx: Tx, root: bytes, slot: int) -> int:
        """The event number at `slot`; 0 if there is none."""
        if not root:
            return 0
        level, items = self._pages.get(root) or self._page(tx, root)
        if slot >= _CAPACITIES[level]:
            return 0
        while level:
            index, slot = divmod(slot, _CAPACITIES[level - 1])
            name: bytes = items[index]
            if name == _ABSENT:
                return 0
            level, items = self._pages.get(name) or self._page(tx, name)
        return items[slot]  # type: ignore[return-value]

    def replace(self, tx: Tx, root: bytes, changes: Mapping[int, int], made: NewPages) -> bytes:
        """The state with those slots set (0 removes). New pages are added to `made`."""
        if not changes:
            return root
        top = max(changes)
        level = self._page(tx, root)[0] if root else 0
        while top >= _CAPACITIES[level]:
            if root:
                names = (root, *(_ABSENT,) * (FAN - 1))
                root = self._keep(_encode_inner(level + 1, names), (level + 1, names), made)
            level += 1
        return self._replace(tx, root, level, dict(changes), made)

    def _replace(self, tx: Tx, name: bytes, level: int, changes: dict[int, int], made: NewPages) -> bytes:
        if level == 0:
            numbers = list(self._page(tx, name)[1]) if name else [0] * LEAF
            for slot, number in changes.items():
                numbers[slot] = number
            if not any(numbers):
                return EMPTY
            leaf: Leaf = tuple(numbers)  # type: ignore[arg-type]
            return self._keep(_encode_leaf(leaf), (0, leaf), made)
        names = list(self._page(tx, name)[1]) if name else [_ABSENT] * FAN
        span = _CAPACITIES[level - 1]
        parts: dict[int, dict[int, int]] = {}
        for slot, number in changes.items():
            parts.setdefault(slot // span, {})[slot % span] = number
        for index, part in parts.items():
            child = names[index]
            below = b"" if child == _ABSENT else child
            names[index] = self._replace(tx, below, level - 1, part, made) or _ABSENT  # type: ignore[arg-type]
        if all(child == _ABSENT for child in names):
            return EMPTY
        children: tuple[bytes, ...] = tuple(names)  # type: ignore[arg-type]
        return self._keep(_encode_inner(level, children), (level, children), made)

    def items(self, tx: Tx, root: bytes) -> Iterator[tuple[int, int]]:
        """(slot, event number) of every entry."""
        return self._items(tx, root, 0) if root else iter(())

    def _items(self, tx: Tx, name: bytes, base: int) -> Iterator[tuple[int, int]]:
        level, items = self._page(tx, name)
        if level == 0:
            for index, number in enumerate(items):
                if number:
                    yield base + index, number  # type: ignore[misc]
            return
        span = _CAPACITIES[level - 1]
        for index, child in enumerate(items):
            if child != _ABSENT:
                yield from self._items(tx, child, base + index * span)  # type: ignore[arg-type]

    def difference(self, tx: Tx, one: bytes, other: bytes) -> Iterator[tuple[int, int, int]]:
        """(slot, number in one, number in other) wherever two states differ."""
        if one == other:
            return
        level = max(self._page(tx, root)[0] for root in (one, other) if root)
        yield from self._difference(tx, one, other, level, 0)

    def _difference(
        self, tx: Tx, one: bytes, other: bytes, level: int, base: int
    ) -> Iterator[tuple[int, int, int]]:
        left, right = self._at_level(tx, one, level), self._at_level(tx, other, level)
        span = _CAPACITIES[level - 1] if level else 1
        for index, (mine, theirs) in enumerate(zip(left, right, strict=True)):
            if mine == theirs:
                continue
            start = base + index * span
            if isinstance(mine, int) and isinstance(theirs, int):
                yield start, mine, theirs
            elif isinstance(mine, bytes) and isinstance(theirs, bytes):
                below = b"" if mine == _ABSENT else mine
                yield from self._difference(tx, below, b"" if theirs == _ABSENT else theirs, level - 1, start)

    def _at_level(self, tx: Tx, name: bytes, level: int) -> tuple[bytes, ...] | Leaf:
        """What a page of that level over the page `name` holds; a state may have grown a level."""
        if not name:
            return (_ABSENT,) * FAN if level else (0,) * LEAF
        own_level, items = self._page(tx, name)
        return items if own_level == level else (name, *(_ABSENT,) * (FAN - 1))

    # -- slots

    def slot(self, tx: Tx, room_num: int, key: StateKey) -> int | None:
        """The slot of a state key in a room; None if no state event ever had it."""
        cache_key = (room_num, *key)
        slot = self._pending_slots.get(cache_key)
        if slot is None:
            slot = self._slots.get(cache_key)
        if slot == _NO_SLOT:
            return None
        if slot is None:
            row = tx.one(
                "SELECT slot FROM state_slots WHERE room_num = ? AND type = ? AND state_key = ?", cache_key
            )
            if row is None:
                # What is given a slot meanwhile is held until no snapshot is left that lacks it.
                self._slots.put(cache_key, _NO_SLOT)
                return None
            slot = int(row[0])
            self.remember_slot(room_num, key, slot)
        return slot

    def slots(self, tx: Tx, room_num: int, keys: Iterable[StateKey]) -> dict[StateKey, int]:
        """The slots of many state keys; those that never had a state event are absent."""
        found: dict[StateKey, int] = {}
        missing: dict[str, list[str]] = {}
        for key in keys:
            cache_key = (room_num, *key)
            slot = self._pending_slots.get(cache_key)
            if slot is None:
                slot = self._slots.get(cache_key)
            if slot is None:
                missing.setdefault(key[0], []).append(key[1])
            elif slot != _NO_SLOT:
                found[key] = slot
        for event_type, state_keys in missing.items():
            for marks, chunk in parts(state_keys):
                rows = tx.all(
                    "SELECT state_key, slot FROM state_slots "
                    f"WHERE room_num = ? AND type = ? AND state_key IN ({marks})",
                    (room_num, event_type, *chunk),
                )
                for state_key, slot in rows:
                    found[event_type, state_key] = slot
                    self.remember_slot(room_num, (event_type, state_key), slot)
        return found

    def remember_slot(self, room_num: int, key: StateKey, slot: int) -> None:
        """Note a slot that was given by a decision or read from the table."""
        self._slots.put((room_num, *key), slot)
        self._keys.put((room_num, slot), key)

    def hold_slot(self, room_num: int, key: StateKey, slot: int) -> None:
        """Note a slot that a decision gives, until `settle_slots` or `forget_slots`."""
        self._pending_slots[(room_num, *key)] = slot
        self._pending_keys[room_num, slot] = key

    def settle_slots(self, room_num: int, slots: Mapping[StateKey, int]) -> None:
        """The slots are on disk."""
        for key, slot in slots.items():
            self._pending_slots.pop((room_num, *key), None)
            self._pending_keys.pop((room_num, slot), None)
            self.remember_slot(room_num, key, slot)

    def forget_slots(self, room_num: int, slots: Mapping[StateKey, int]) -> None:
        """The slots were not stored."""
        for key, slot in slots.items():
            self._pending_slots.pop((room_num, *key), None)
            self._pending_keys.pop((room_num, slot), None)
            self._keys.drop((room_num, slot))

    def key(self, tx: Tx, room_num: int, slot: int) -> StateKey:
        """The state key of a slot."""
        key = self._pending_keys.get((room_num, slot)) or self._keys.get((room_num, slot))
        if key is None:
            row = tx.one(
                "SELECT type, state_key FROM state_slots WHERE room_num = ? AND slot = ?", (room_num, slot)
            )
            if row is None:
                raise KeyError(f"Slot {slot} of room {room_num} is missing")
            key = (row[0], row[1])
            self.remember_slot(room_num, key, slot)
        return key

    def by_type(self, tx: Tx, room_num: int, root: bytes, event_type: str) -> dict[str, int]:
        """state key -> event number of every entry of one type in a state."""
        rows = tx.all(
            "SELECT slot, state_key FROM state_slots WHERE room_num = ? AND type = ?", (room_num, event_type)
        )
        found = {}
        for slot, state_key in rows:
            number = self.get(tx, root, slot)
            if number:
                found[state_key] = number
        return found


def next_slot(tx: Tx, room_num: int) -> int:
    """The first slot of a room that was never given."""
    row = tx.one("SELECT max(slot) FROM state_slots WHERE room_num = ?", (room_num,))
    return 0 if row is None or row[0] is None else int(row[0]) + 1


def insert_slots(tx: Tx, room_num: int, slots: Mapping[StateKey, int]) -> None:
    """Store slots given by a decision."""
    tx.many(
        "INSERT INTO state_slots (room_num, slot, type, state_key) VALUES (?, ?, ?, ?)",
        [(room_num, slot, *key) for key, slot in slots.items()],
    )


def insert_pages(tx: Tx, made: NewPages) -> None:
    """Store pages made by a decision; a page that is there already is the same page."""
    tx.many(
        "INSERT INTO state_pages (name, body) VALUES (?, ?) ON CONFLICT (name) DO NOTHING", list(made.items())
    )
