"""What follows from events (relations, notices, activity), worked out anew from all that are held.

For a database from before these were kept; afterwards they are stored with each event.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import orjson

from comity.protocol.event import Event
from comity.protocol.notices import ACTIVITY_TYPES, SILENT, notice_of
from comity.protocol.push_rules import RoomContext
from comity.protocol.relations import relation_of
from comity.protocol.room_versions import ROOM_VERSIONS
from comity.store import compression, heads, notices, relations
from comity.store.database import Tx
from comity.store.events import ACCEPTED, is_live, position_of
from comity.store.notices import Notification
from comity.store.relations import NewRelation

#: Events read at a time.
AT_ONCE = 1_000
#: What is not worked out anew: that an old message was meant for the whole room.
_NO_POWER = RoomContext(0, float("-inf"))


def fill(tx: Tx) -> None:
    """The migration to schema 6: relations first, for threads are found by them."""
    for held in _events(tx):
        relation = relation_of(held.event)
        if relation is not None:
            new = NewRelation(relation, held.number, held.line, held.event)
            relations.insert(tx, held.room_num, [new])
    newest: dict[int, int] = {}
    for held in _events(tx):
        if not is_live(held.line) or held.verdict != ACCEPTED:
            continue
        position = position_of(held.line)
        if held.event.type in ACTIVITY_TYPES:
            newest[held.room_num] = max(newest.get(held.room_num, 0), position)
        notice = SILENT if held.redacted else notice_of(held.event, lambda: _NO_POWER)
        if notice is not SILENT:
            thread = relations.thread_of(tx, relation_of(held.event))
            aside = held.state_before != heads.at(tx, held.room_num, position - 1)
            row = Notification(held.line, thread, held.event.sender, notice.weight, aside)
            notices.insert(tx, held.room_num, row, notice.mentioned)
    for room_num, position in newest.items():
        notices.note_activity(tx, room_num, position)


@dataclass(frozen=True, slots=True)
class _Held:
    room_num: int
    number: int
    line: int
    verdict: int
    redacted: bool
    state_before: bytes
    event: Event


def _events(tx: Tx) -> Iterator[_Held]:
    """All events with a place in a timeline, oldest numbers first."""
    versions: dict[int, str] = dict(tx.all("SELECT room_num, version FROM rooms"))
    last = 0
    while True:
        rows = tx.all(
            "SELECT event_num, room_num, line, verdict, redacted_by, state_before, event_id, json "
            "FROM events WHERE event_num > ? AND line IS NOT NULL ORDER BY event_num LIMIT ?",
            (last, AT_ONCE),
        )
        if not rows:
            return
        for number, room_num, line, verdict, redacted_by, before, event_id, packed in rows:
            encoded = compression.unpack(bytes(packed))
            source = orjson.loads(encoded)
            event = Event(ROOM_VERSIONS[versions[room_num]], source, event_id=event_id, encoded=encoded)
            yield _Held(room_num, number, line, verdict, redacted_by is not None, bytes(before or b""), event)
        last = rows[-1][0]
