"""Answers for other servers: a room's events, states, auth chains and history.

Everything is spliced from stored bytes (DESIGN §4.1). A server sees what its users may see
(`comity.protocol.visibility`); an event that it may not see is given redacted, and so is what was
erased before it came.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence

from comity.protocol.errors import forbidden, not_found
from comity.protocol.event import Event
from comity.protocol.server_acl import is_allowed
from comity.protocol.visibility import ServerView, history_at, is_erased_for, server_may_see
from comity.rooms.merge import Merger
from comity.rooms.room import Room, Rooms
from comity.store import rooms as stored_rooms
from comity.store.database import Database, Tx
from comity.store.erasures import NEVER, Erasures
from comity.store.events import REJECTED, StoredEvent
from comity.store.retention import ERASED

#: Events in one answer to /backfill and /get_missing_events.
MAX_BACKFILL = 100
MAX_MISSING = 50
#: Events walked past while looking for them.
MAX_WALK = 5_000
#: Users of one server whose memberships decide what it may see.
MAX_VIEWERS = 1_000


def splice(events: Iterable[bytes]) -> bytes:
    """A JSON array of finished JSON values."""
    return b"[" + b",".join(events) + b"]"


class Server:
    """What other servers may ask about rooms."""

    def __init__(self, database: Database, rooms: Rooms, merger: Merger, erasures: Erasures) -> None:
        self._database = database
        self._erasures = erasures
        self._rooms = rooms
        self._merger = merger
        self._events = rooms.events
        self._states = rooms.states

    async def room_for(self, room_id: str, origin: str, *, must_be_in: bool = True) -> Room:
        """The head of a room that `origin` may ask about.

        Raises 404 M_NOT_FOUND for a room that we are not in; 403 M_FORBIDDEN when the room's ACL
        denies the server or, with `must_be_in`, when it has no user in the room.
        """
        room = await self._rooms.get(room_id)
        if room is None or not room.resident:
            raise not_found("This server is not in a room of that id")
        acl = await self._database.read(lambda tx: self._merger.current(tx, room)(("m.room.server_acl", "")))
        if not is_allowed(acl.content if acl is not None else None, origin):
            raise forbidden("The room's server ACL does not allow your server")
        if must_be_in and origin not in room.servers:
            raise forbidden("Your server is not in the room")
        return room

    @staticmethod
    def check_whole(room: Room) -> None:
        """Raises 404 M_NOT_FOUND for a room whose state we have not got whole ourselves."""
        if room.partial is not None:
            raise not_found("This server has just joined the room and does not know its whole state yet")

    # -- visibility

    def _visible(self, tx: Tx, room: Room, origin: str, stored: StoredEvent) -> Event:
        """The event as that server may see it."""
        if stored.state_before is None:
            return stored.event
        find = self._merger.lookup(tx, room, stored.state_before)
        visibility = find(("m.room.history_visibility", ""))
        history = history_at(stored.event, visibility.content if visibility is not None else None)
        if server_may_see(history, ServerView(joined=False, invited=False, joined_later=True)):
            # The origin is in the room now, which is all that "shared" asks for.
            return stored.event
        joined = invited = own = False
        after = self._merger.lookup(tx, room, stored.state_after or b"")
        for member in stored_rooms.members_of_server(tx, room.number, origin)[:MAX_VIEWERS]:
            for state in (find, after):
                event = state(("m.room.member", member.user_id))
                joined |= event is not None and event.membership == "join"
                invited |= event is not None and event.membership == "invite"
            own |= stored.event.type == "m.room.member" and stored.event.state_key == member.user_id
        view = ServerView(joined=joined, invited=invited, joined_later=True, is_own_membership=own)
        return stored.event if server_may_see(history, view) else stored.event.redacted()

    def shown(self, tx: Tx, room: Room, origin: str, stored: StoredEvent) -> bytes:
        """The JSON of an event that the server may see: redacted if it was erased before they came."""
        erased_at = self._erasures.position(tx, stored.event.sender)
        if erased_at == NEVER:
            return stored.event.encoded
        was_in = stored.state_before is not None and self._was_in(tx, room, origin, stored.state_before)
        before = stored_rooms.came_before(tx, origin, room.number, erased_at)
        erased = is_erased_for(stored.event, was_in=was_in, came_before=before)
        return (stored.event.redacted() if erased else stored.event).encoded

    def _was_in(self, tx: Tx, room: Room, origin: str, state: bytes) -> bool:
        find = self._merger.lookup(tx, room, state)
        members = stored_rooms.members_of_server(tx, room.number, origin)[:MAX_VIEWERS]
        found = (find(("m.room.member", member.user_id)) for member in members)
        return any(event is not None and event.membership == "join" for event in found)

    def _given(self, tx: Tx, room: Room, origin: str, stored: StoredEvent) -> bytes:
        """The JSON of an event of the room's history for that server."""
        event = self._visible(tx, room, origin, stored)
        return self.shown(tx, room, origin, stored) if event is stored.event else event.encoded

    def may_see(self, tx: Tx, room: Room, origin: str, stored: StoredEvent) -> bool:
        """Whether a server that is in the room may see an event of it whole."""
        return self._visible(tx, room, origin, stored) is stored.event

    # -- single events

    async def event(self, event_id: str, origin: str) -> bytes:
        """One event as JSON. Raises 404 M_NOT_FOUND, 403 M_FORBIDDEN."""

        def find(tx: Tx) -> str:
            stored = self._events.by_id(tx, event_id)
            row = stored_rooms.by_number(tx, stored.room_num) if stored is not None else None
            if stored is None or row is None or stored.verdict == REJECTED:
                raise not_found("The event is not known here")
            return row.room_id

        def read(tx: Tx) -> bytes:
            stored = self._events.by_id(tx, event_id)
            if stored is None:
                raise not_found("The event is not known here")
            return self._given(tx, room, origin, stored)

        room = await self.room_for(await self._database.read(find), origin)
        return await self._database.read(read)

    # -- states

    def _state_before(self, tx: Tx, room: Room, event_id: str) -> list[int]:
        stored = self._events.by_id(tx, event_id)
        if stored is None or stored.state_before is None or stored.room_num != room.number:
            raise not_found("The state at that event is not known here")
        self.check_whole(room)
        return [number for _, number in self._states.items(tx, stored.state_before)]

    async def state_ids(self, room: Room, event_id: str) -> tuple[list[str], list[str]]:
        """(ids of the state before an event, ids of its auth chain). Raises 404 M_NOT_FOUND."""

        def read(tx: Tx) -> tuple[list[str], list[str]]:
            numbers = self._state_before(tx, room, event_id)
            chain = self._events.auth_chain(tx, numbers)
            ids = self._events.ids(tx, [*numbers, *chain])
            return [ids[number] for number in numbers], [ids[number] for number in sorted(chain)]

        return await self._database.read(read)

    async def state(self, room: Room, origin: str, event_id: str) -> tuple[list[bytes], list[bytes]]:
        """(events of the state before an event, its auth chain) as JSON. Raises 404 M_NOT_FOUND."""

        def read(tx: Tx) -> tuple[list[bytes], list[bytes]]:
            numbers = self._state_before(tx, room, event_id)
            chain = sorted(self._events.auth_chain(tx, numbers))
            loaded = self._events.load(tx, [*numbers, *chain])
            return (
                [self.shown(tx, room, origin, loaded[number]) for number in numbers],
                [self.shown(tx, room, origin, loaded[number]) for number in chain],
            )

        return await self._database.read(read)

    async def event_auth(self, room: Room, origin: str, event_id: str) -> list[bytes]:
        """The auth chain of an event as JSON. Raises 404 M_NOT_FOUND."""

        def read(tx: Tx) -> list[bytes]:
            stored = self._events.by_id(tx, event_id)
            if stored is None or stored.room_num != room.number:
                raise not_found("The event is not known here")
            direct = list(self._events.numbers(tx, stored.event.auth_event_ids).values())
            chain = sorted(self._events.auth_chain(tx, direct, including=True))
            loaded = self._events.load(tx, chain)
            return [self.shown(tx, room, origin, loaded[number]) for number in chain]

        return await self._database.read(read)

    # -- history

    async def backfill(self, room: Room, origin: str, event_ids: Sequence[str], limit: int) -> list[bytes]:
        """Events from those given backwards, newest first, at most `limit`, as JSON."""
        limit = min(limit, MAX_BACKFILL)

        def read(tx: Tx) -> list[bytes]:
            found = self._walk_back(tx, room, event_ids, limit, stop=frozenset(), include_starts=True)
            return [self._given(tx, room, origin, stored) for stored in found]

        return await self._database.read(read)

    async def missing_events(
        self,
        room: Room,
        origin: str,
        earliest: Sequence[str],
        latest: Sequence[str],
        limit: int,
        min_depth: int,
    ) -> list[bytes]:
        """Events between `earliest` and `latest`, both excluded, oldest first, as JSON."""
        limit = min(limit, MAX_MISSING)

        def read(tx: Tx) -> list[bytes]:
            found = self._walk_back(tx, room, latest, limit, stop=frozenset(earliest), include_starts=False)
            found = [stored for stored in found if stored.event.depth >= min_depth]
            found.reverse()
            return [self._given(tx, room, origin, stored) for stored in found]

        return await self._database.read(read)

    def _walk_back(
        self,
        tx: Tx,
        room: Room,
        starts: Sequence[str],
        limit: int,
        *,
        stop: frozenset[str],
        include_starts: bool,
    ) -> list[StoredEvent]:
        """Breadth first by depth along previous events; rejected ones are passed, not given."""
        heap: list[tuple[int, int, StoredEvent]] = []
        seen: set[str] = set(stop)

        def push(event_ids: Iterable[str]) -> None:
            for event_id in event_ids:
                if event_id in seen:
                    continue
                seen.add(event_id)
                stored = self._events.by_id(tx, event_id)
                if stored is not None and stored.room_num == room.number and stored.state_before is not None:
                    heapq.heappush(heap, (-stored.event.depth, -stored.number, stored))

        if include_starts:
            push(starts)
        else:
            seen.update(starts)
            for event_id in starts:
                stored = self._events.by_id(tx, event_id)
                if stored is not None and stored.room_num == room.number:
                    push(stored.event.prev_event_ids)
        found: list[StoredEvent] = []
        for _ in range(MAX_WALK):
            if not heap or len(found) >= limit:
                break
            stored = heapq.heappop(heap)[2]
            # What was erased has nothing to give; others may have it still.
            if stored.verdict != REJECTED and stored.redacted_by != ERASED:
                found.append(stored)
            push(stored.event.prev_event_ids)
        return found
