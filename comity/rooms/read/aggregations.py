"""Aggregations: what is told of an event's children beside it (client-server §Aggregations of child events).

Owns which replacement, which references and what of a thread is bundled for one reader; how it is
written is `comity.rooms.read.format`. Nothing that the reader may not see or sent by somebody
whom they ignore counts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from comity.protocol.relations import REFERENCE, REPLACE, THREAD, relation_of, replaces
from comity.rooms.read.access import ignored_users
from comity.rooms.read.visible import RoomView
from comity.store import relations
from comity.store.database import Tx
from comity.store.events import Events, StoredEvent

#: Replacements of one event that are looked at, those with the latest times first.
MAX_EDITS = 50
#: References that are listed with an event; /relations has the others.
MAX_REFERENCES = 200


@dataclass(frozen=True, slots=True)
class ThreadSummary:
    """What is told of a thread with its root; `latest` is the newest event in it."""

    count: int
    participated: bool
    latest: StoredEvent


@dataclass(frozen=True, slots=True)
class Bundle:
    """What is told of one event's children."""

    edit: StoredEvent | None = None
    references: tuple[str, ...] = ()
    thread: ThreadSummary | None = None

    def events(self) -> list[StoredEvent]:
        """The events that are told whole."""
        found = [self.edit] if self.edit is not None else []
        return found if self.thread is None else [*found, self.thread.latest]


class Aggregations:
    """Finds out what to bundle."""

    def __init__(self, events: Events) -> None:
        self._events = events

    def bundles(self, tx: Tx, view: RoomView, listed: Iterable[StoredEvent]) -> dict[int, Bundle]:
        """event number -> its Bundle, of those that have one, and of events inside bundles."""
        found = self._of(tx, view, listed)
        # A thread's newest event has children of its own; it is no root, so this ends here.
        inner = [item for bundle in found.values() for item in bundle.events() if item.number not in found]
        return {**self._of(tx, view, inner), **found} if inner else found

    def _of(self, tx: Tx, view: RoomView, listed: Iterable[StoredEvent]) -> dict[int, Bundle]:
        # client-server §Aggregations of child events: state events get none.
        parents = {item.event.event_id: item for item in listed if item.related and not item.event.is_state}
        if not parents:
            return {}
        ignored = ignored_users(tx, view.user_id)
        found = {}
        for event_id, kinds in relations.kinds(tx, list(parents)).items():
            parent = parents[event_id]
            edit = None
            if REPLACE in kinds and parent.redacted_by is None and parent.event.sender not in ignored:
                edit = self._edit(tx, view, parent)
            bundle = Bundle(
                edit,
                self._references(tx, view, parent, ignored) if REFERENCE in kinds else (),
                self.thread(tx, view, parent, ignored) if THREAD in kinds else None,
            )
            if bundle != Bundle():
                found[parent.number] = bundle
        return found

    def _edit(self, tx: Tx, view: RoomView, parent: StoredEvent) -> StoredEvent | None:
        """The most recent valid replacement (client-server §Server-side aggregation of m.replace)."""
        numbers = relations.edits(tx, parent.room_num, parent.event.event_id, parent.event.sender, MAX_EDITS)
        valid = [
            item
            for item in self._events.load(tx, numbers).values()
            if item.redacted_by is None and replaces(item.event, parent.event) and view.may_see(item)
        ]
        return max(valid, key=lambda item: (item.event.origin_server_ts, item.event.event_id), default=None)

    def _references(
        self, tx: Tx, view: RoomView, parent: StoredEvent, ignored: frozenset[str]
    ) -> tuple[str, ...]:
        rows = relations.children(
            tx, parent.room_num, [parent.event.event_id], rel_type=REFERENCE,
            limit=MAX_REFERENCES, backwards=False,
        )  # fmt: skip
        return tuple(
            item.event.event_id
            for item in self._events.load(tx, [number for _, number in rows]).values()
            if item.event.sender not in ignored and view.may_see(item)
        )

    def thread(
        self, tx: Tx, view: RoomView, root: StoredEvent, ignored: frozenset[str]
    ) -> ThreadSummary | None:
        """client-server §Server-side aggregation of m.thread; None: nothing in it is for the reader."""
        if relation_of(root.event) is not None:
            # An event that relates to another is no root, whatever some server's clients sent.
            return None
        groups = relations.groups(tx, root.room_num, root.event.event_id, THREAD, view.last_line)
        seen = [
            group
            for group in groups
            if group.sender not in ignored and view.sees(group.state_before, in_time=not group.later)
        ]
        if not seen:
            return None
        line = max(group.last_line for group in seen)
        latest = self._events.timeline(tx, root.room_num, after=line - 1, upto=line, limit=1, backwards=True)
        if not latest or view.is_gone(latest[0]):
            return None
        participated = root.event.sender == view.user_id or any(
            group.sender == view.user_id for group in groups
        )
        return ThreadSummary(sum(group.count for group in seen), participated, latest[0])
