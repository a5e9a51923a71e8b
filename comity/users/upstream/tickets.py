"""Tickets: what is to be gone on with in one browser, for a short while, once.

Held in memory, bounded and expiring: after a restart people begin again.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import Generic, TypeVar

from comity.ports import Clock, Entropy
from comity.store.cache import Bounded

T = TypeVar("T")

#: Tickets of one kind, about 1 KiB each: beyond that, the oldest goes.
MAX_TICKETS = 10_000
#: 32 characters of 62: more than 190 bits.
TICKET_LENGTH = 32


@dataclass(frozen=True, slots=True)
class _Ticket(Generic[T]):
    value: T
    binding: bytes
    expires_at: float


class Tickets(Generic[T]):
    """The tickets of one kind. `binding` is what tells the browser that may use one from all others."""

    def __init__(self, clock: Clock, entropy: Entropy, seconds: float) -> None:
        """`seconds` is how long each is good for."""
        self._clock = clock
        self._entropy = entropy
        self._seconds = seconds
        self._tickets: Bounded[str, _Ticket[T]] = Bounded(MAX_TICKETS)

    def give(self, value: T, binding: bytes) -> str:
        """A new ticket for `value`."""
        key = self._entropy.token(TICKET_LENGTH)
        self._tickets.put(key, _Ticket(value, binding, self._clock.monotonic() + self._seconds))
        return key

    def look(self, key: str, binding: bytes) -> T | None:
        """What a ticket is for; it stays good."""
        ticket = self._tickets.get(key)
        if ticket is None or ticket.expires_at <= self._clock.monotonic():
            return None
        return ticket.value if hmac.compare_digest(ticket.binding, binding) else None

    def take(self, key: str, binding: bytes) -> T | None:
        """The same, and it is used up, whoever brought it."""
        value = self.look(key, binding)
        self._tickets.drop(key)
        return value
