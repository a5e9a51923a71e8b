"""A bounded map that forgets what was not used for longest."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")
#: Of the entries, the part that goes at once when there are too many. A dict remembers what was deleted
#: at its front until it grows, and looks past all of that for its oldest entry: one at a time, each put
#: into a full map of 70,000 entries took 35 µs.
_GONE_AT_ONCE = 64


class Bounded(Generic[K, V]):
    """At most `limit` entries, least recently used first out."""

    __slots__ = ("_entries", "_limit", "peek")

    def __init__(self, limit: int) -> None:
        """`limit` is a count of entries, at least 1."""
        self._limit = limit
        self._entries: dict[K, V] = {}
        #: As `get`, but the value is no more recently used for it: for what is asked at every turn.
        self.peek: Callable[[K], V | None] = self._entries.get

    def get(self, key: K) -> V | None:
        """The value, now the most recently used, or None."""
        try:
            value = self._entries.pop(key)
        except KeyError:
            return None
        self._entries[key] = value
        return value

    def put(self, key: K, value: V) -> None:
        """Set a value; the oldest go if there are too many."""
        self._entries.pop(key, None)
        self._entries[key] = value
        if len(self._entries) > self._limit:
            for oldest in list(itertools.islice(self._entries, 1 + self._limit // _GONE_AT_ONCE)):
                del self._entries[oldest]

    def drop(self, key: K) -> None:
        """Forget a value, if it is there."""
        self._entries.pop(key, None)

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()

    def keys(self) -> list[K]:
        """Every key, the most recently used last."""
        return list(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


class Weighed(Generic[K, V]):
    """As many entries as weigh `limit` together, least recently used first out."""

    __slots__ = ("_entries", "_limit", "_weight")

    def __init__(self, limit: int) -> None:
        """`limit` is the sum of all weights, in the units of `put`."""
        self._limit = limit
        self._weight = 0
        self._entries: dict[K, tuple[V, int]] = {}

    def get(self, key: K) -> V | None:
        """The value, now the most recently used, or None."""
        try:
            entry = self._entries.pop(key)
        except KeyError:
            return None
        self._entries[key] = entry
        return entry[0]

    def put(self, key: K, value: V, weight: int) -> None:
        """Set a value; the oldest go until all fit, this one too if it is too heavy by itself."""
        self.drop(key)
        self._entries[key] = (value, weight)
        self._weight += weight
        while self._weight > self._limit:
            for oldest in list(itertools.islice(self._entries, 1 + len(self._entries) // _GONE_AT_ONCE)):
                self.drop(oldest)

    def drop(self, key: K) -> None:
        """Forget a value, if it is there."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._weight -= entry[1]

    def __len__(self) -> int:
        return len(self._entries)


class Followed(Bounded[K, V]):
    """Values that were read from the database and that commits may change.

    A read may have begun before a commit and end behind it: what it read then is not kept.
    `as_of` is the read's `Tx.as_of`, `commits` the database's at the time of the change.
    """

    __slots__ = ("_changed_at",)

    def __init__(self, limit: int) -> None:
        """As `Bounded`."""
        super().__init__(limit)
        self._changed_at = 0

    def keep(self, key: K, value: V, as_of: int) -> None:
        """Keep a value that was read, unless something has changed since its snapshot was opened."""
        if as_of >= self._changed_at:
            self.put(key, value)

    def change(self, key: K, commits: int) -> None:
        """A commit changed the value: it is read anew."""
        self._changed_at = max(self._changed_at, commits)
        self.drop(key)

    def note_change(self, commits: int) -> None:
        """A commit changed values that are right in here already: older ones that were read are not kept."""
        self._changed_at = max(self._changed_at, commits)
