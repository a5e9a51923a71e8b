"""The only writer of events: decided batches become one transaction.

Events, edges, state, memberships, extremities, transaction ids, outbound marks and positions
of everything that was decided together are stored together or not at all (DESIGN §3).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial

from comity.bus import DEVICE_LISTS, Bus
from comity.ports import Clock
from comity.protocol.identifiers import server_of
from comity.protocol.notices import ACTIVITY_TYPES, SILENT
from comity.protocol.relations import relation_of
from comity.rooms.batch import Batch, Decided, MemberChange, Redaction
from comity.rooms.merge import Merger
from comity.rooms.room import Rooms
from comity.store import (
    deliveries,
    device_keys,
    device_lists,
    heads,
    notices,
    queues,
    redactions,
    relations,
    resolutions,
)
from comity.store import events as stored_events
from comity.store import rooms as stored_rooms
from comity.store import state as stored_state
from comity.store.database import Database, EarlierWriteError, StoreFailedError, Tx, WriteTx
from comity.store.events import ACCEPTED, NewEvent, live_line
from comity.store.notices import Notification
from comity.store.relations import NewRelation
from comity.store.rooms import Gap, Member

_log = logging.getLogger(__name__)
#: How exactly it can be told later when something was stored.
TIMES_EVERY_MS = 1_000


class Commits:
    """Stores batches, then tells the bus and whoever sends to other servers."""

    def __init__(
        self,
        database: Database,
        rooms: Rooms,
        merger: Merger,
        bus: Bus,
        server_name: str,
        clock: Clock,
        *,
        forget_upon_leave: bool = False,
    ) -> None:
        """`forget_upon_leave`: a room that a user of ours leaves is forgotten for them at once."""
        self._forget_upon_leave = forget_upon_leave
        self._database = database
        self._rooms = rooms
        self._merger = merger
        self._bus = bus
        self._server_name = server_name
        self._clock = clock
        self._noted_at = 0
        #: Called with each batch in its transaction: who follows what is stored notes there what it must
        #: not miss.
        self.followers: list[Callable[[WriteTx, Batch], None]] = []
        #: Called with a room and its servers when something was stored that they are owed.
        self.on_outbound: list[Callable[[frozenset[str]], None]] = []
        #: Called with a room's id when whether guests may be in it may have changed.
        self.on_guests: list[Callable[[str], None]] = []

    def submit(
        self, batches: Sequence[Batch], also: Callable[[WriteTx], None] | None = None
    ) -> asyncio.Future[int]:
        """Queue batches to be stored in one transaction. Call it before the rooms' locks are let go.

        The future resolves to the last position once everything is on disk, or raises; then the
        rooms' heads have been dropped.
        """

        def store(tx: WriteTx) -> int:
            try:
                for batch in batches:
                    if batch.room.stale:
                        raise StoreFailedError("An earlier decision about the room was not stored")
                position = 0
                stored = [
                    _Storing(tx, batch, self._server_name, self._forget_upon_leave) for batch in batches
                ]
                for storing in stored:
                    position = storing.run() or position
                for follow in self.followers:
                    for batch in batches:
                        follow(tx, batch)
                if also is not None:
                    also(tx)
                if position:
                    self._note_time(tx, position)
            except EarlierWriteError:
                # Somebody else's write failed; this one is run again.
                raise
            except BaseException:
                # Decisions later in the same group may stand on these heads. They stay registered
                # until the group has ended: loaded now, a head would lack what it stores.
                for batch in batches:
                    batch.room.stale = True
                raise
            for batch, storing in zip(batches, stored, strict=True):
                tx.after_commit(partial(self._publish, batch, storing))
                tx.when_seen(partial(self._settle, batch))
            return position

        for batch in batches:
            batch.seal()
        try:
            future = self._database.submit(store)
        except Exception:
            self._give_up(batches)
            raise
        for batch in batches:
            batch.room.decided_state = batch.room.state
            batch.room.unsettled += 1
            batch.room.last_write = future
        future.add_done_callback(lambda done: self._finish(done, batches))
        return future

    def _note_time(self, tx: WriteTx, position: int) -> None:
        """Note when positions are given, once a second at most."""
        now = self._clock.now_ms()
        if not 0 <= now - self._noted_at < TIMES_EVERY_MS:
            self._noted_at = now
            deliveries.note_time(tx, position, now)

    def _finish(self, done: asyncio.Future[int], batches: Sequence[Batch]) -> None:
        for batch in batches:
            batch.room.unsettled -= 1
            if batch.room.last_write is done:
                batch.room.last_write = None
                if batch.room.stale:
                    self._rooms.drop(batch.room)
        if not done.cancelled() and done.exception() is not None:
            _log.error("a decision was not stored: %s", done.exception())
            self._give_up(batches)

    def _give_up(self, batches: Sequence[Batch]) -> None:
        for batch in batches:
            batch.undo()
            batch.room.stale = True
            if batch.room.last_write is None:
                self._rooms.drop(batch.room)
        self._merger.forget()

    def _settle(self, batch: Batch) -> None:
        """The batch is on disk, and every read finds it there: it need not be held any more."""
        events, states = self._rooms.events, self._rooms.states
        states.settle(batch.pages)
        states.settle_slots(batch.room.number, batch.slots)
        for new in batch.new_events():
            events.settle(new.number)
        for number, _ in batch.placed:
            events.settle(number)
        for stored in batch.restated:
            events.settle(stored.number)

    def _publish(self, batch: Batch, storing: _Storing) -> None:
        """The batch is on disk: the world may know."""
        room, events, servers = batch.room, self._rooms.events, storing.servers
        commits = self._database.commits
        if batch.placed or batch.restated:
            events.note_change(commits)
        for redaction in batch.redactions:
            events.redact(redaction.target_number, redaction.redacted, redaction.by, commits)
            room.recent, room.recent_since = None, commits
        if storing.related:
            events.relate(storing.related, commits)
        users: set[str] = set()
        owed: set[str] = set()
        for decided in batch.all_decided():
            owed.update(decided.visit)
            users.update(change.user_id for change in decided.members)
        if servers is not None:
            owed |= room.servers
            room.servers = servers
        if any(decided.send_except is not None for decided in batch.all_decided()):
            owed |= room.servers
        else:
            owed.clear()
        keys = {room.room_id, *(user for user in users if server_of(user) == self._server_name)}
        if storing.marks_devices:
            keys.add(DEVICE_LISTS)
        self._bus.publish(self._database.last_committed, keys)
        if batch.concerns_guests:
            for look in self.on_guests:
                look(room.room_id)
        owed.discard(self._server_name)
        if owed:
            for notify in self.on_outbound:
                notify(frozenset(owed))


class _Storing:
    """One batch on its way into the open transaction."""

    def __init__(self, tx: WriteTx, batch: Batch, server_name: str, forget_upon_leave: bool) -> None:
        self._forget_upon_leave = forget_upon_leave
        self._tx = tx
        self._batch = batch
        self._room = batch.room
        self._server_name = server_name
        self._lines: dict[int, int | None] = {}
        self._last_position = 0
        self._was_resident = batch.room.resident
        #: The servers with joined users, if the batch changes that.
        self.servers: frozenset[str] | None = None
        #: Whether somebody's devices are to be looked at anew.
        self.marks_devices = False
        #: The ids of events that others turned out to relate to.
        self.related: set[str] = set()

    def run(self) -> int:
        """Store everything; the last position that was given, or 0."""
        tx, batch, room = self._tx, self._batch, self._room
        if batch.room_creator is not None:
            stored_rooms.insert(tx, room.number, room.room_id, room.version.identifier, batch.room_creator)
        if batch.slots:
            stored_state.insert_slots(tx, room.number, batch.slots)
        if batch.pages:
            stored_state.insert_pages(tx, batch.pages)
        self._lines.update((new.number, None) for new in batch.outliers)
        positions = [(decided, self._place(decided.new)) for decided in batch.all_decided()]
        stored_events.insert(tx, room.number, batch.new_events(), self._lines)
        for number, decided in batch.placed:
            stored_events.place(
                tx,
                number,
                line=self._lines[number] or 0,
                verdict=decided.new.verdict,
                state_before=decided.new.state_before or b"",
                state_after=decided.new.state_after or b"",
            )
        for decided, position in positions:
            self._follow(decided, position)
        self._relate([decided for decided, _ in positions])
        for decided, position in positions:
            self._notify(decided, position)
        if batch.resolutions:
            resolutions.record(tx, room.number, self._last_position, batch.resolutions)
        for redaction in batch.redactions:
            self._redact(redaction)
        for redacts, number in batch.awaited:
            redactions.wait_for(tx, redacts, number)
        if batch.restated:
            stored_events.restate(tx, batch.restated)
            gone = [item.line for item in batch.restated if item.verdict != ACCEPTED and item.line]
            notices.forget(tx, room.number, gone)
        if batch.unstaged:
            queues.unstage(tx, batch.unstaged)
        for write in batch.also:
            write(tx)
        self._store_head()
        return self._last_position

    def _place(self, new: NewEvent) -> int:
        """Give an event its line; its position if it is live, else 0."""
        if new.line:
            self._lines[new.number] = new.line
            position = 0
        else:
            position = self._last_position = self._tx.next_position()
            self._lines[new.number] = live_line(position)
        return position

    def _follow(self, decided: Decided, position: int) -> None:
        """Store what follows from one event."""
        tx, room, new = self._tx, self._room, decided.new
        decided.stored.line = self._lines[new.number]
        if decided.gap:
            line = decided.stored.line or 0
            stored_rooms.put_gap(tx, room.number, Gap(line, line, decided.gap))
        if position == 0:
            return
        # Asked before the members change: whoever leaves by this event is still told of it.
        is_owed = decided.send_except is not None and (bool(decided.visit) or self._has_audience())
        if decided.head_state is not None:
            heads.record(tx, room.number, position, decided.head_state)
        if decided.members:
            self._store_members(decided.members, position)
        if decided.reversions:
            resolutions.record_reversions(tx, room.number, position, decided.reversions)
        if is_owed:
            queues.add_outbound(tx, room.number, position, new.number, decided.send_except or "")
            for server in decided.visit:
                queues.ensure_destination(tx, server, position - 1)
                stored_rooms.visit(tx, server, room.number, position)

    def _relate(self, decided: Sequence[Decided]) -> None:
        """Store which events these relate to, and whether others relate to them."""
        tx, new = self._tx, []
        for item in decided:
            relation = relation_of(item.new.event)
            if relation is not None:
                new.append(NewRelation(relation, item.new.number, item.stored.line or 0, item.new.event))
        if new:
            relations.insert(tx, self._room.number, new)
            self.related.update(item.relation.target for item in new)
        # An event of ours that happens now has an id that nobody knew.
        elsewhere = [
            item.new.event.event_id
            for item in decided
            if item.new.line or item.send_except != self._server_name
        ]
        if elsewhere:
            self.related.update(relations.mark_related(tx, elsewhere))

    def _notify(self, decided: Decided, position: int) -> None:
        """Store whom an event notifies, and that something happened."""
        event, notice = decided.new.event, decided.notice
        if position == 0 or decided.new.verdict != ACCEPTED:
            return
        if event.type in ACTIVITY_TYPES:
            tx, room_num = self._tx, self._room.number
            tx.at_end(("activity", room_num), lambda tx: notices.note_activity(tx, room_num, position))
        if notice is not SILENT:
            thread = relations.thread_of(self._tx, relation_of(event))
            line = decided.stored.line or 0
            row = Notification(line, thread, event.sender, notice.weight, decided.aside)
            notices.insert(self._tx, self._room.number, row, notice.mentioned)

    def _redact(self, redaction: Redaction) -> None:
        """Store what is left of an event; it relates to nothing and notifies nobody any more."""
        tx, number = self._tx, redaction.target_number
        stored_events.replace_with_redacted(tx, number, redaction.redacted, redaction.by)
        relations.forget(tx, number)
        line = stored_events.line_of(tx, number)
        if line is not None:
            notices.forget(tx, self._room.number, [line])

    def _has_audience(self) -> bool:
        """Whether other servers are in the room, as of this place in the transaction."""
        room = self._room
        if room.has_audience is None:
            room.has_audience = bool(stored_rooms.servers(self._tx, room.number))
        return room.has_audience

    def _store_members(self, changes: Sequence[MemberChange], position: int) -> None:
        tx, room = self._tx, self._room
        if self._batch.replaces_head:
            # Users of ours meet everybody in it.
            self.marks_devices = True
            stored_rooms.clear_memberships(tx, room.number)
            for server in stored_rooms.servers(tx, room.number):
                stored_rooms.end_stay(tx, server, room.number, position - 1)
        else:
            self._note_newcomers(changes, position)
        stored_rooms.put_memberships(
            tx,
            room.number,
            [
                Member(change.user_id, change.membership, change.event_num, position)
                for change in changes
                if change.membership is not None
            ],
        )
        stored_rooms.delete_memberships(
            tx, room.number, [change.user_id for change in changes if change.membership is None]
        )
        servers = {server_of(change.user_id) for change in changes}
        # While members are missing, the word of who let us in says which servers are in the room.
        named = room.partial.servers if room.partial is not None else frozenset()
        if self._batch.replaces_head:
            servers |= named
        others_change = self._batch.replaces_head or servers != {self._server_name}
        if others_change:
            room.has_audience = None
        for server in servers:
            joined = stored_rooms.has_joined_members(tx, room.number, server)
            if server != self._server_name and server in named:
                joined = True
            if server == self._server_name:
                room.resident = joined
            elif joined and not stored_rooms.is_staying(tx, server, room.number):
                stored_rooms.begin_stay(tx, server, room.number, position)
                queues.ensure_destination(tx, server, position - 1)
            elif not joined:
                stored_rooms.end_stay(tx, server, room.number, position)
        if others_change:
            self.servers = frozenset(stored_rooms.servers(tx, room.number))
        for change in changes:
            if server_of(change.user_id) != self._server_name:
                continue
            known = stored_rooms.last_local_membership(tx, change.user_id, room.number)
            if known is None or known.event_num != change.event_num:
                membership = change.membership or "leave"
                stored_rooms.add_local_membership(
                    tx, change.user_id, room.number, position, membership, change.event_num
                )
                if self._forget_upon_leave and membership in ("leave", "ban"):
                    stored_rooms.forget(tx, change.user_id, room.number, at_once=True)

    def _note_newcomers(self, changes: Sequence[MemberChange], position: int) -> None:
        """Those in the room have to look at the devices of who comes in, and no more of who goes
        (client-server §Tracking the device list for a user). Call it before the members are stored."""
        tx = self._tx
        for change in changes:
            before = stored_rooms.member(tx, self._room.number, change.user_id)
            was_in = before is not None and before.membership == "join"
            if change.membership != "join":
                # Who is left behind need not look at the devices of who goes any more.
                self.marks_devices = self.marks_devices or was_in
                continue
            if was_in:
                continue
            device_keys.mark_changed(tx, change.user_id, position)
            self.marks_devices = True
            is_remote = server_of(change.user_id) != self._server_name
            if is_remote and not device_lists.users_sharing(tx, change.user_id, self._server_name, 1):
                # While they shared no room with a user of ours, nobody told us of changes.
                device_lists.mark_stale(tx, change.user_id)

    def _store_head(self) -> None:
        tx, batch, room = self._tx, self._batch, self._room
        if not batch.all_decided():
            return
        # The head may have moved on since: of the batches of a group, the last one's is stored.
        state, extremities = batch.head
        resident = room.resident

        def store(end: Tx) -> None:
            stored_rooms.set_head(end, room.number, state, resident=resident)

        if (
            state != batch.state_before_all
            or resident != self._was_resident
            or batch.room_creator is not None
        ):
            tx.at_end(("head", room.number), store)
        if extremities != batch.extremities_before:
            tx.at_end(
                ("extremities", room.number),
                lambda end: stored_rooms.set_extremities(end, room.number, extremities),
            )
