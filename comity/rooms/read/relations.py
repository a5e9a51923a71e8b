"""Lists of relations and of threads (client-server §Relationships API, §Querying threads in a room).

Each answers from one snapshot, with what the reader may see and nobody's whom they ignore.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from comity.protocol.errors import not_found
from comity.protocol.relations import relation_of
from comity.rooms.read.access import access, ignored_users
from comity.rooms.read.format import Reading
from comity.rooms.read.reader import Reader
from comity.rooms.read.tokens import line_token, parse_line
from comity.store import relations
from comity.store.database import Tx
from comity.store.events import StoredEvent
from comity.store.relations import LAST_LINE

#: How far relations are followed with `recurse`: what the specification asks for at least.
MAX_DEPTH = 3
#: Events whose children are listed together with `recurse`.
MAX_PARENTS = 2_000
#: Events that one request looks at, however few of them are for the reader.
MAX_LOOKED_AT = 1_000


@dataclass(frozen=True, slots=True)
class RelationsRequest:
    """What GET /relations was asked. `start` and `end` are tokens of either kind."""

    user_id: str
    device_id: str
    room_id: str
    event_id: str
    rel_type: str | None
    event_type: str | None
    backwards: bool
    start: str | None
    end: str | None
    limit: int
    recurse: bool


@dataclass(frozen=True, slots=True)
class ThreadsRequest:
    """What GET /threads was asked."""

    user_id: str
    device_id: str
    room_id: str
    participated: bool
    start: str | None
    limit: int


class RelationsReader:
    """Answers both."""

    def __init__(self, reader: Reader, position: Callable[[], int]) -> None:
        """`position` gives the last position of the log."""
        self._reader = reader
        self._position = position

    async def relations(self, request: RelationsRequest) -> dict[str, Any]:
        """Children of an event. Raises 404 M_NOT_FOUND, 403 M_FORBIDDEN, 400 M_INVALID_PARAM."""
        start = None if request.start is None else parse_line(request.start)
        end = None if request.end is None else parse_line(request.end)
        return await self._reader.database.read(lambda tx: self._relations(tx, request, start, end))

    def _relations(
        self, tx: Tx, request: RelationsRequest, start: int | None, end: int | None
    ) -> dict[str, Any]:
        reader = self._reader
        allowed = access(tx, reader.states, reader.events, request.user_id, request.room_id, self._position())
        room_num = allowed.room.room_num
        view = reader.visibility.view(tx, request.user_id, room_num)
        parent = reader.events.by_id(tx, request.event_id)
        if parent is None or parent.room_num != room_num or not view.may_see(parent):
            raise not_found("There is no such event in the room, or you may not see it")
        parents, depth = [request.event_id], 1
        if request.recurse:
            parents, depth = self._descendants(tx, room_num, request)
        back = request.backwards
        low, high = (end, start) if back else (start, end)
        after = 0 if low is None else low
        upto = LAST_LINE if high is None else high
        ignored = ignored_users(tx, request.user_id)
        found: list[StoredEvent] = []
        cursor: int | None = None
        looked_at = 0
        while True:
            page = request.limit - len(found) + 1
            rows = relations.children(
                tx, room_num, parents, rel_type=request.rel_type, event_type=request.event_type,
                after=after, upto=upto, limit=page, backwards=back,
            )  # fmt: skip
            loaded = reader.events.load(tx, [number for _, number in rows])
            for line, number in rows:
                if len(found) == request.limit:
                    break
                stored = loaded.get(number)
                if stored is not None and stored.event.sender not in ignored and view.may_see(stored):
                    found.append(stored)
                cursor = line - 1 if back else line
                after, upto = (after, cursor) if back else (cursor, upto)
            looked_at += len(rows)
            if len(rows) < page:
                cursor = None
            if cursor is None or len(found) == request.limit or looked_at >= MAX_LOOKED_AT:
                break
        reading = reader.reading(tx, request.user_id, request.device_id, found, view)
        answer: dict[str, Any] = {"chunk": reader.format.events(tx, found, reading)}
        if cursor is not None:
            answer["next_batch"] = line_token(cursor)
        if request.start is not None:
            answer["prev_batch"] = request.start
        if request.recurse:
            answer["recursion_depth"] = depth
        return answer

    def _descendants(self, tx: Tx, room_num: int, request: RelationsRequest) -> tuple[list[str], int]:
        """The event and those below it whose children are listed too; and how deep that reaches.

        client-server §Relationships API: what is reached through an event that is not asked for is not
        listed.
        """
        known = {request.event_id: None}
        level, depth = [request.event_id], 1
        while level and depth < MAX_DEPTH and len(known) < MAX_PARENTS:
            rows = relations.children(
                tx, room_num, level, rel_type=request.rel_type, event_type=request.event_type,
                limit=MAX_PARENTS - len(known),
            )  # fmt: skip
            ids = self._reader.events.ids(tx, [number for _, number in rows]).values()
            level = [child for child in ids if child not in known]
            known.update(dict.fromkeys(level))
            depth += 1
        return list(known), depth

    async def threads(self, request: ThreadsRequest) -> dict[str, Any]:
        """A room's threads, last active first. Raises 403 M_FORBIDDEN, 400 M_INVALID_PARAM."""
        below = LAST_LINE if request.start is None else parse_line(request.start)
        return await self._reader.database.read(lambda tx: self._threads(tx, request, below))

    def _threads(self, tx: Tx, request: ThreadsRequest, below: int) -> dict[str, Any]:
        reader = self._reader
        allowed = access(tx, reader.states, reader.events, request.user_id, request.room_id, self._position())
        room_num = allowed.room.room_num
        view = reader.visibility.view(tx, request.user_id, room_num)
        ignored = ignored_users(tx, request.user_id)
        participant = request.user_id if request.participated else None
        roots: list[StoredEvent] = []
        more, looked_at = True, 0
        while more and len(roots) < request.limit and looked_at < MAX_LOOKED_AT:
            wanted = request.limit - len(roots)
            rows = relations.threads(tx, room_num, below, wanted + 1, participant)
            more = len(rows) > wanted
            for root_id, line in rows[:wanted]:
                below = line
                root = reader.events.by_id(tx, root_id)
                is_here = root is not None and root.room_num == room_num and view.may_see(root)
                if root is not None and is_here and relation_of(root.event) is None:
                    roots.append(root)
            looked_at += len(rows)
        reading = reader.reading(tx, request.user_id, request.device_id, roots, view)
        answer: dict[str, Any] = {
            "chunk": [
                # Of those whom the reader ignores, the thread is told and not what they wrote.
                reader.format.redacted(tx, root, reading)
                if root.event.sender in ignored
                else reader.format.event(tx, root, reading)
                for root in _by_latest(roots, reading)
            ]
        }
        if more:
            answer["next_batch"] = line_token(below)
        return answer


def _by_latest(roots: Iterable[StoredEvent], reading: Reading) -> list[StoredEvent]:
    """Those of some roots that have a thread for the reader, by the newest event of it that is theirs to
    see: others may have spoken there since, whom they ignore or do not see any more.
    """
    lines: dict[int, int] = {}
    for number, bundle in reading.bundles.items():
        if bundle.thread is not None:
            lines[number] = bundle.thread.latest.line or 0
    shown = [root for root in roots if root.number in lines]
    return sorted(shown, key=lambda root: lines[root.number], reverse=True)
