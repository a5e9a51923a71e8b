"""What many receivers of one message are given alike, made once (DESIGN §4.1, §4.5).

All who are steadily joined to a room, ignore nobody and ask in the same way get the same stretch of
its timeline, to the byte, unless they sent a part of it. What is theirs alone (counts, receipts,
members that are loaded lazily) is added to it elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from comity.protocol.filters import Filter
from comity.rooms.read import Reader
from comity.rooms.read.tail import Tail
from comity.store.cache import Bounded
from comity.store.database import Tx
from comity.store.events import StoredEvent, is_live, position_of
from comity.store.rooms import LocalMembership
from comity.sync.asked import Asked, Stretch
from comity.sync.delta import Delta

#: Stretches that are kept, a few kilobytes each: those of the last moments are enough.
MAX_KEPT = 1_000
#: Seconds after which one is made anew: `age` in its events is that old.
MAX_AGE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class SharedPart:
    """A room's part of an answer as far as many get it; `lists` are its finished lists of events.

    `members` are those whom a client that loads members lazily must have: user id and event number.
    `whole` is all of the part but for counts and the brace at its end, as JSON, for who has those; empty if
    others get more of it.
    """

    wanted: Filter
    at_end: bool
    #: When it was made (monotonic seconds).
    made: float
    shown: Stretch
    delta: Delta
    senders: frozenset[str]
    lists: dict[str, Any]
    tail: Tail
    members: tuple[tuple[str, int], ...]
    whole: bytes


class SharedParts:
    """Keeps them for a moment."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._kept: Bounded[tuple[int, int, int], SharedPart] = Bounded(MAX_KEPT)

    @staticmethod
    def is_steady(asked: Asked, entry: LocalMembership) -> bool:
        """Whether a user sees of a room what all members see, since what the client knows."""
        request = asked.request
        return (
            request.since is not None
            and not request.full_state
            and entry.membership == "join"
            and entry.position <= asked.after
            and not asked.ignored
        )

    def get(self, room_num: int, asked: Asked) -> SharedPart | None:
        """What others were given who know as much and ask alike; never to who sent a part of it."""
        kept = self._kept.peek((room_num, asked.after, asked.now))
        if (
            kept is None
            or kept.wanted is not asked.wanted
            or kept.at_end is not asked.request.use_state_after
            or asked.user_id in kept.senders
            or self._reader.clock.monotonic() - kept.made > MAX_AGE_SECONDS
        ):
            return None
        return kept

    def keep(
        self,
        tx: Tx,
        room_num: int,
        room_id: str,
        asked: Asked,
        tail: Tail,
        shown: Stretch,
        delta: Delta,
        lists: dict[str, Any],
        members: tuple[tuple[str, int], ...],
    ) -> None:
        """Keep a steady user's part for others, if all of them are given the same."""
        if (
            not shown.events
            or shown.hidden
            or not self._is_same_for_all(tx, room_num, asked, tail, shown.events)
        ):
            return
        finished = {name: orjson.Fragment(orjson.dumps(part)) for name, part in lists.items()}
        self._kept.put(
            (room_num, asked.after, asked.now),
            SharedPart(
                asked.wanted,
                asked.request.use_state_after,
                self._reader.clock.monotonic(),
                shown,
                delta,
                frozenset(stored.event.sender for stored in shown.events),
                finished,
                tail,
                members,
                b"" if tail.receipts > asked.after or delta.renames else _whole(room_id, finished),
            ),
        )

    def _is_same_for_all(
        self, tx: Tx, room_num: int, asked: Asked, tail: Tail, events: Sequence[StoredEvent]
    ) -> bool:
        for stored in events:
            line = stored.line or 0
            # What a state event replaced is not for everybody to see; bundles name who took part.
            if stored.event.is_state or stored.related or stored.event.sender == asked.user_id:
                return False
            # On another branch of the graph somebody may not be a member.
            if not is_live(line):
                return False
            before = self._reader.tails.head(tx, room_num, tail, position_of(line) - 1)
            if before != stored.state_before:
                return False
        return True


def _whole(room_id: str, lists: dict[str, orjson.Fragment]) -> bytes:
    nothing_else: dict[str, Any] = {
        "summary": {},
        "ephemeral": {"events": []},
        "account_data": {"events": []},
    }
    return orjson.dumps(room_id) + b":" + orjson.dumps({**lists, **nothing_else})[:-1]
