"""Passwords: hashing with Argon2id and checking, in a bounded number of threads.

It knows no account: whose password it is and what follows from a right one is the affair of
`comity.users.accounts`.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import argon2
from argon2.exceptions import InvalidHashError, VerificationError

from comity.config import Passwords as PasswordsConfig
from comity.ports import Entropy, Offload
from comity.protocol.errors import MatrixError, invalid_param
from comity.users.foreign_hashes import counts_whole, is_bcrypt, matches_bcrypt

T = TypeVar("T")

#: A longer password is no password: it is work that somebody makes for us.
MAX_PASSWORD_BYTES = 512
#: Hashes worked out at once: each takes `memory_kib`, and a core for as long as it lasts.
MAX_CONCURRENT_HASHES = 4
#: Hashes that wait for their turn: some seconds of work. Beyond that, people are asked to come again,
#: and the rest of the server goes on.
MAX_WAITING_HASHES = 100
#: What is then told as the time to wait: from this on to twice as long, lest all come again at once.
BUSY_MS = 5_000
SALT_BYTES = 16


@dataclass(frozen=True, slots=True)
class Cost:
    """What one hash takes. The default is about 50 ms on one core of a small machine."""

    passes: int = 2
    memory_kib: int = 19_456
    lanes: int = 1


def cost_of(config: PasswordsConfig) -> Cost:
    """What the operator wants a hash to take."""
    return Cost(passes=config.iterations, memory_kib=config.memory_kib)


class Passwords:
    """The one way to make and to check password hashes."""

    def __init__(self, offload: Offload, entropy: Entropy, cost: Cost | None = None) -> None:
        """`cost` is for new hashes; older ones say their own, and are renewed as they are used."""
        cost = cost or Cost()
        self._offload = offload
        self._entropy = entropy
        self._hasher = argon2.PasswordHasher(
            time_cost=cost.passes, memory_cost=cost.memory_kib, parallelism=cost.lanes
        )
        self._places = asyncio.Semaphore(MAX_CONCURRENT_HASHES)
        self._waiting = 0
        self._cost = cost
        self._nobodys: str | None = None

    async def hash(self, password: str) -> str:
        """The hash to store, salt and cost included.

        Raises 400 M_INVALID_PARAM if it is too long, 429 M_LIMIT_EXCEEDED if too many wait.
        """
        data = _encoded(password)
        if not data or len(data) > MAX_PASSWORD_BYTES:
            raise invalid_param(f"A password is between 1 and {MAX_PASSWORD_BYTES} bytes long")
        salt = self._entropy.bytes(SALT_BYTES)
        return await self._in_turn(lambda: self._hasher.hash(data, salt=salt))

    async def matches(self, stored: str | None, password: str) -> bool:
        """Whether `password` is the one that `stored` is the hash of.

        It takes as long without a stored hash as with one, so that nobody learns by the time
        whether there is an account. Raises 429 M_LIMIT_EXCEEDED if too many wait.
        """
        data = _encoded(password)[: MAX_PASSWORD_BYTES + 1]
        against = stored if stored is not None else self._hash_of_nobody()
        right = await self._in_turn(lambda: self._verify(against, data))
        return right and stored is not None

    def _hash_of_nobody(self) -> str:
        """What no password is the hash of, at the cost of any other: chance, which took no work to make."""
        if self._nobodys is None:
            cost = self._cost
            salt, digest = (
                base64.b64encode(self._entropy.bytes(length)).decode().rstrip("=")
                for length in (SALT_BYTES, argon2.DEFAULT_HASH_LENGTH)
            )
            price = f"m={cost.memory_kib},t={cost.passes},p={cost.lanes}"
            self._nobodys = f"$argon2id$v=19${price}${salt}${digest}"
        return self._nobodys

    def check_room(self) -> None:
        """Raise 429 M_LIMIT_EXCEEDED if too many wait: before anything is done for one more."""
        if self._waiting >= MAX_WAITING_HASHES:
            raise MatrixError(
                429,
                "M_LIMIT_EXCEEDED",
                "Too many people log in at once: try again in a moment",
                extra={"retry_after_ms": BUSY_MS + int(BUSY_MS * self._entropy.random())},
            )

    async def _in_turn(self, work: Callable[[], T]) -> T:
        self.check_room()
        self._waiting += 1
        try:
            await self._places.acquire()
        finally:
            self._waiting -= 1
        try:
            return await self._offload.run(work)
        finally:
            self._places.release()

    def is_outdated(self, stored: str, password: str) -> bool:
        """Whether a hash that this `password` matches is to be replaced by one of today's kind and cost.

        Not if it has said yes to a part of the password alone: the rest was never checked.
        """
        if is_bcrypt(stored):
            return counts_whole(_encoded(password))
        return self._hasher.check_needs_rehash(stored)

    def _verify(self, stored: str, data: bytes) -> bool:
        if is_bcrypt(stored):
            return matches_bcrypt(stored, data)
        try:
            return self._hasher.verify(stored, data)
        except (VerificationError, InvalidHashError):
            return False


def _encoded(password: str) -> bytes:
    return password.encode("utf-8", "surrogatepass")
