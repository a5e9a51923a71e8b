"""A bounded map that forgets what was not used for longest."""

from __future__ import annotations

from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Bounded(Generic[K, V]):
    """At most `limit` entries, least recently used first out."""

    __slots__ = ("_entries", "_limit")

    def __init__(self, limit: int) -> None:
        """`limit` is a count of entries, at least 1."""
        self._limit = limit
        self._entries: dict[K, V] = {}

    def get(self, key: K) -> V | None:
        """The value, now the most recently used, or None."""
        try:
            value = self._entries.pop(key)
        except KeyError:
            return None
        self._entries[key] = value
        return value

    def put(self, key: K, value: V) -> None:
        """Set a value; the oldest goes if there are too many."""
        self._entries.pop(key, None)
        self._entries[key] = value
        if len(self._entries) > self._limit:
            del self._entries[next(iter(self._entries))]

    def drop(self, key: K) -> None:
        """Forget a value, if it is there."""
        self._entries.pop(key, None)

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()

    def __len__(self) -> int:
        return len(self._entries)
