"""What other parts tell the outbox of, so that it can be told to other servers: EDUs."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol


class EduSink(Protocol):
    """The outbox, as those see it who have EDUs for it."""

    def wake_soon(self, servers: Collection[str]) -> None:
        """These servers are owed EDUs that last; they are on disk."""

    def whisper(self, servers: Collection[str], edu_type: str, key: str, content: bytes) -> None:
        """Tell these servers what is true now; the newest of a type and key counts. `content` is JSON.

        Of presence it is one entry of `push`. A server that is away is not told.
        """


class NoSink:
    """For a server that talks to no other."""

    def wake_soon(self, servers: Collection[str]) -> None:
        """Nobody is owed anything."""

    def whisper(self, servers: Collection[str], edu_type: str, key: str, content: bytes) -> None:
        """Nobody hears it."""
