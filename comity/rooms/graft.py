"""Join events to the graph whose past may be missing: late ones, and history.

First everything that is needed is fetched, without any lock; then all of it is decided at
once on the head as it then is. Where the graph begins anew, the state before the event is
taken from the server that knows it, merged with what we know, and the hole is recorded.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from comity.federation.calls import Calls
from comity.federation.errors import FederationError
from comity.protocol.admission import Outcome
from comity.protocol.event import Event
from comity.rooms.batch import Batch, Decided
from comity.rooms.fetch import Fetcher
from comity.rooms.judge import Judge, Missing
from comity.rooms.room import Room
from comity.store.database import Database, Tx
from comity.store.events import REJECTED, Events

_log = logging.getLogger(__name__)
#: Places in one graft where the past is missing and a state is asked for.
MAX_UNROOTED = 20


@dataclass(slots=True)
class Cutting:
    """Events to be joined to the graph, and all that is needed for it."""

    #: In topological order, oldest first.
    events: list[Event]
    #: Events that are held for authorization only.
    outliers: dict[str, Event] = field(default_factory=dict)
    #: event id -> ids of the state before it, for events whose past is not here.
    states: dict[str, list[str]] = field(default_factory=dict)


def in_graph_order(events: Mapping[str, Event]) -> list[Event]:
    """Previous events first; ties by depth and id. Events on a cycle are left out."""
    waiting: dict[str, int] = {}
    after: dict[str, list[str]] = {}
    ready: list[str] = []
    for event_id, event in events.items():
        held = [prev for prev in set(event.prev_event_ids) if prev in events]
        waiting[event_id] = len(held)
        for prev in held:
            after.setdefault(prev, []).append(event_id)
        if not held:
            ready.append(event_id)
    ordered: list[Event] = []
    ready.sort(key=lambda event_id: (-events[event_id].depth, event_id))
    while ready:
        event = events[ready.pop()]
        ordered.append(event)
        for next_id in after.get(event.event_id, ()):
            waiting[next_id] -= 1
            if waiting[next_id] == 0:
                ready.append(next_id)
    return ordered


class Grafter:
    """Prepares cuttings and decides them."""

    def __init__(
        self, database: Database, events: Events, judge: Judge, fetcher: Fetcher, calls: Calls
    ) -> None:
        self._database = database
        self._events = events
        self._judge = judge
        self._fetcher = fetcher
        self._calls = calls

    async def prepare(self, server: str, room: Room, events: Mapping[str, Event]) -> Cutting:
        """Fetch what `events` (checked, of one room) need from `server`. Raises FederationError."""
        cutting = Cutting(in_graph_order(events))
        for event in cutting.events:
            unknown = await self._database.read(lambda tx: self._unknown_prev(tx, room, event))  # noqa: B023
            if any(prev not in events for prev in unknown):
                if room.partial is not None:
                    # Its state would be all that is being fetched already.
                    raise FederationError(server, "The room's state is not whole yet", temporary=True)
                if len(cutting.states) >= MAX_UNROOTED:
                    raise FederationError(server, "Too much of the room's history is missing")
                await self._fetch_state(server, room, event, events, cutting)
        for event in cutting.events:
            await self._fetch_auth(server, room, event, events, cutting)
        return cutting

    def _unknown_prev(self, tx: Tx, room: Room, event: Event) -> list[str]:
        unknown = []
        for event_id in event.prev_event_ids:
            stored = self._events.by_id(tx, event_id)
            if stored is None or stored.state_after is None or stored.room_num != room.number:
                unknown.append(event_id)
        return unknown

    async def _not_held(self, ids: Iterable[str], *also: Mapping[str, Event]) -> list[str]:
        wanted = [event_id for event_id in dict.fromkeys(ids) if not any(event_id in held for held in also)]
        held = await self._database.read(lambda tx: self._events.numbers(tx, wanted))
        return [event_id for event_id in wanted if event_id not in held]

    async def _fetch_state(
        self, server: str, room: Room, event: Event, events: Mapping[str, Event], cutting: Cutting
    ) -> None:
        state_ids, auth_ids = await self._calls.state_ids(server, room.room_id, event.event_id)
        missing = await self._not_held([*state_ids, *auth_ids], events, cutting.outliers)
        if missing:
            found = await self._fetcher.missing(server, room.version, room.room_id, missing, event.event_id)
            for event_id, extra in found.items():
                if event_id not in events:
                    cutting.outliers[event_id] = extra
        # Events of the cutting itself can be part of a state too.
        cutting.states[event.event_id] = state_ids

    async def _fetch_auth(
        self, server: str, room: Room, event: Event, events: Mapping[str, Event], cutting: Cutting
    ) -> None:
        if not await self._not_held(event.auth_event_ids, events, cutting.outliers):
            return
        for event_id, extra in (
            await self._fetcher.auth_events(server, room.version, room.room_id, event.event_id)
        ).items():
            if event_id not in events:
                cutting.outliers[event_id] = extra

    # -- deciding

    def decide(
        self, tx: Tx, batch: Batch, cutting: Cutting, *, lines: Mapping[str, int] | None = None
    ) -> list[Decided]:
        """Judge and add every event of the cutting that can be; call it under the room's lock.

        With `lines` (event id -> line) the events are history: they do not move the head.
        """
        self._add_outliers(tx, batch, cutting)
        decided: list[Decided] = []
        for event in cutting.events:
            stored = self._events.by_id(tx, event.event_id)
            if stored is not None and stored.state_before is not None:
                continue
            root, gap = self._state_before(tx, batch, event, cutting)
            judged = self._judge.judge(tx, batch, event, state_before=root, check_current=lines is None)
            if isinstance(judged, Missing):
                _log.info("event %s still lacks %s", event.event_id, judged)
                continue
            line = 0 if lines is None else lines[event.event_id]
            if judged.verdict.outcome is not Outcome.ACCEPT:
                _log.info(
                    "event %s: %s: %s", event.event_id, judged.verdict.outcome.value, judged.verdict.reason
                )
            decided.append(
                batch.add(tx, event, judged.verdict.outcome, judged.state_before, line=line, gap=gap)
            )
        return decided

    def _add_outliers(self, tx: Tx, batch: Batch, cutting: Cutting) -> None:
        waiting = dict(cutting.outliers)
        while waiting:
            ready = [
                event
                for event in waiting.values()
                if not any(auth_id in waiting for auth_id in event.auth_event_ids)
            ]
            if not ready:
                return
            for event in ready:
                del waiting[event.event_id]
                outcome = self._judge.judge_outlier(tx, batch, event)
                if not isinstance(outcome, Missing):
                    batch.add_outlier(tx, event, outcome)

    def _state_before(
        self, tx: Tx, batch: Batch, event: Event, cutting: Cutting
    ) -> tuple[bytes | None, tuple[str, ...]]:
        """The state before an event whose past is not all here, and what is missing of it."""
        unknown = tuple(self._unknown_prev(tx, batch.room, event))
        state_ids = cutting.states.get(event.event_id)
        if not unknown or state_ids is None:
            return None, ()
        entries: list[tuple[Event, int]] = []
        for event_id in state_ids:
            stored = self._events.by_id(tx, event_id)
            # The ids are another server's word: an event of another room is nobody's state here.
            if stored is None or stored.room_num != batch.room.number:
                continue
            if stored.event.is_state and stored.verdict != REJECTED:
                entries.append((stored.event, stored.number))
        roots = [batch.with_events(tx, b"", entries)]
        for event_id in event.prev_event_ids:
            stored = self._events.by_id(tx, event_id)
            if stored is not None and stored.state_after is not None and stored.room_num == batch.room.number:
                roots.append(stored.state_after)
        return batch.merge(tx, roots), unknown
