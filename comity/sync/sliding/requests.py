"""Requests of simplified sliding sync as they were understood, to be known again (MSC4186).

An app asks in the same words again and again: they are read once, and by the number of its wish it is known
without a look whether it was told all of it.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

from comity.store.cache import Weighed
from comity.sync.sliding.wish import Wish

#: Bytes of bodies that are remembered (what they were understood as takes some ten times as many), and of
#: the longest of them.
MAX_REMEMBERED_BYTES, MAX_REMEMBERED_BODY = 4 * 1024 * 1024, 16 * 1024


@dataclass(frozen=True, slots=True)
class SlidingRequest:
    """A body: what is wished for; and `pos`, `timeout` (ms) and `set_presence`, where they are in it."""

    wish: Wish
    pos: str | None = None
    timeout: int | None = None
    presence: str | None = None


class Requests:
    """Remembers requests by who asked (a user id), and the body."""

    def __init__(self) -> None:
        self._known: Weighed[tuple[str, bytes], SlidingRequest] = Weighed(MAX_REMEMBERED_BYTES)
        self._numbers = itertools.count(1)

    def get(self, user_id: str, body: bytes) -> SlidingRequest | None:
        """The request that came as this body, if it is remembered."""
        return self._known.get((user_id, body))

    def remember(self, user_id: str, body: bytes, request: SlidingRequest) -> SlidingRequest:
        """The same request, with a number for its wish if it is not too long to be remembered."""
        if len(body) > MAX_REMEMBERED_BODY:
            return request
        numbered = replace(request, wish=replace(request.wish, number=next(self._numbers)))
        self._known.put((user_id, body), numbered, len(body))
        return numbered
