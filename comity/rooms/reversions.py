"""The guard against state resets: what resolution takes back is noticed, and its cause written down.

Nothing here decides: the rules have decided already (server-server §Room State Resolution). An
entry of the current state has *reverted* when state resolution, and no event, has put an older
event in its place or none at all. Another branch's event that wins is no reversion: it says so.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Iterator

from comity.protocol.auth.ruling import Denied
from comity.protocol.event import Event, StateKey
from comity.protocol.state_resolution.trace import Trace
from comity.rooms.merge import Merger
from comity.rooms.room import Room
from comity.store.database import Tx
from comity.store.resolutions import Reversion

_log = logging.getLogger(__name__)
#: Events of one state key that are walked back through to find whether one came after another.
MAX_PREDECESSORS = 256
#: State key and the event that stood there -> why it does so no more.
_Why = Callable[[StateKey, Event], str]
#: Reversions of one event that are recorded; more than a few mean that a whole branch was lost.
MAX_REVERSIONS = 1_000


class Guard:
    """Compares a room's current state before and after a fork was merged into it."""

    def __init__(self, merger: Merger) -> None:
        self._merger = merger
        self._states, self._events = merger.states, merger.events

    def reversions(
        self, tx: Tx, room: Room, before: bytes, after: bytes, roots: Iterable[bytes], event: Event
    ) -> list[Reversion]:
        """What of `before` went back or went away in `after`, which is what `roots` resolve to.

        `event` is the one whose arrival brought it about. Where history is missing before it,
        `roots` lack the state that another server told of that.
        """
        found: list[Reversion] = []
        why: _Why | None = None
        for slot, was, became in self._states.difference(tx, before, after):
            key = self._states.key(tx, room.number, slot)
            if not was or not self._is_older(tx, slot, became, was):
                continue
            stood = self._events.get(tx, was)
            if stood is None or len(found) == MAX_REVERSIONS:
                continue
            why = why or self._why(tx, room, roots)
            found.append(Reversion(key, was, became, why(key, stood.event)))
        for reversion in found:
            _log.warning(
                "state resolution reverted %s of %s after %s: %s",
                reversion.key, room.room_id, event.event_id, reversion.cause,
            )  # fmt: skip
        return found

    def _why(self, tx: Tx, room: Room, roots: Iterable[bytes]) -> _Why:
        """What tells causes; the resolution is run anew for it."""
        distinct = frozenset(roots)
        trace = Trace()
        if len(distinct) > 1:
            self._merger.conflict(tx, room, distinct).resolve(trace)
        return functools.partial(cause, trace)

    def _is_older(self, tx: Tx, slot: int, became: int, was: int) -> bool:
        """Whether `became` is nothing, or an event that `was` had taken the place of."""
        if not became:
            return True
        return became in self._predecessors(tx, slot, was)

    def _predecessors(self, tx: Tx, slot: int, number: int) -> Iterator[int]:
        """The events that stood at a slot before that one, newest first, as its own branch saw it."""
        for _ in range(MAX_PREDECESSORS):
            stored = self._events.get(tx, number)
            if stored is None or stored.state_before is None:
                # Held for authorization only: its own past is not known.
                return
            number = self._states.get(tx, stored.state_before, slot)
            if not number:
                return
            yield number


def cause(trace: Trace, key: StateKey, stood: Event) -> str:
    """Why `stood` is not what a resolution came to at its key, in a sentence."""
    entries = trace.at(key)
    own = next((entry for entry in entries if entry.event.event_id == stood.event_id), None)
    if own is None:
        return f"{stood.event_id} is not in what another server told of the state"
    if isinstance(own.ruling, Denied):
        on = ", ".join(event.event_id for event in own.stood_on)
        return (
            f"{stood.event_id} was denied by {own.ruling.rule} ({own.ruling.reason}), "
            f"judged by {on or 'an empty state'} [{own.step.value}]"
        )
    later = [entry for entry in entries[entries.index(own) + 1 :] if entry.was_taken]
    if later:
        return f"{later[-1].event.event_id} was taken after {stood.event_id} [{later[-1].step.value}]"
    return f"{stood.event_id} was not preferred [{own.step.value}]"
