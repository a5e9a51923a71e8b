"""The reader: a client's questions about a room, each answered from one snapshot.

Asks first who may read (`access`), then what they may see (`visible`), and writes it for
clients (`format`). It changes nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

import orjson

from comity.bus import Bus
from comity.ports import Clock
from comity.protocol.errors import MatrixError, forbidden, not_found
from comity.protocol.event import StateKey
from comity.protocol.filters import RoomEventFilter
from comity.rooms.read.access import Access, access
from comity.rooms.read.aggregations import Aggregations
from comity.rooms.read.format import ClientFormat, Reading, bare
from comity.rooms.read.lifetimes import Horizon, never
from comity.rooms.read.paging import FillGap, Paging, Walk
from comity.rooms.read.tail import Tails
from comity.rooms.read.tokens import parse_line, position_below
from comity.rooms.read.visible import RoomView, Visibility
from comity.store import heads, partial, queues
from comity.store import rooms as stored_rooms
from comity.store.cache import Bounded
from comity.store.database import Database, Tx
from comity.store.delayed import SENDING_DEVICE
from comity.store.erasures import Erasures
from comity.store.events import Events, StoredEvent, is_live, live_line
from comity.store.state import States

#: Events whose senders' transactions are remembered: about 300 bytes each.
MAX_SENDERS = 50_000
#: An event that no transaction of a client made, or none that is remembered.
NOBODY = ("", "", "")


class Reader:
    """Reads rooms for local users. Every `user_id` is a local user's, already authenticated."""

    def __init__(
        self,
        *,
        database: Database,
        states: States,
        events: Events,
        erasures: Erasures,
        bus: Bus,
        clock: Clock,
        fill_gap: FillGap,
        whole: Callable[[str], Awaitable[None]],
        horizon: Horizon = never,
    ) -> None:
        """`fill_gap(room_id, line, limit)` fetches missing history; False if none can be had.

        `whole(room_id)` waits until a room that was joined just now has all of its state.
        `horizon` says since when a room's messages are still there.
        """
        self._whole = whole
        self.database = database
        self.states = states
        self.events = events
        self.clock = clock
        self.visibility = Visibility(states, events, erasures, horizon)
        self.format = ClientFormat(states, events)
        self.tails = Tails(events, bus)
        self.aggregations = Aggregations(events)
        self.erasures = erasures
        #: event number -> (user, device, transaction id) by which it was sent.
        self._senders: Bounded[int, tuple[str, str, str]] = Bounded(MAX_SENDERS)
        self._bus = bus
        self._paging = Paging(
            database, states, events, self.visibility, self.format, self.reading,
            lambda: bus.position, fill_gap,
        )  # fmt: skip

    def history_came(self, room_id: str) -> None:
        """History is on disk: it lies inside what is remembered of the room's newest events."""
        self.tails.drop(room_id, self.database.commits)

    def reading(
        self,
        tx: Tx,
        user_id: str,
        device_id: str,
        listed: Sequence[StoredEvent],
        view: RoomView,
        *,
        with_room_id: bool = True,
        with_bundles: bool = True,
    ) -> Reading:
        """How a user's device reads events: its own transaction ids, its user's membership, children."""
        bundles = self.aggregations.bundles(tx, view, listed) if with_bundles else {}
        inner = [stored for bundle in bundles.values() for stored in bundle.events()]
        own = [stored for stored in (*listed, *inner) if stored.event.sender == user_id]
        transactions, delays = self._transactions(tx, user_id, device_id, own) if own else ({}, {})
        return Reading(
            now_ms=self.clock.now_ms(),
            with_room_id=with_room_id,
            transactions=transactions,
            delays=delays,
            membership=view.membership_at,
            may_see=view.may_see,
            is_erased=view.is_erased,
            may_be_erased=self.erasures.are_any(tx),
            bundles=bundles,
        )

    def _transactions(
        self, tx: Tx, user_id: str, device_id: str, own: Sequence[StoredEvent]
    ) -> tuple[dict[str, str], dict[str, str]]:
        """Of events of this user: event id -> the transaction id by which this device sent it; and
        event id -> the delay id of those that had been scheduled."""
        sent: dict[str, str] = {}
        delayed: dict[str, str] = {}
        senders = {stored.number: self._senders.get(stored.number) for stored in own}
        unknown = [stored for stored in own if senders[stored.number] is None]
        read = queues.sent_by(tx, [stored.event.event_id for stored in unknown]) if unknown else {}
        shows_all = tx.as_of == self.database.commits
        for stored in unknown:
            sender = senders[stored.number] = read.get(stored.event.event_id, NOBODY)
            # An event that is still on its way to the disk is followed there by its transaction.
            if sender is not NOBODY or (
                shows_all and 0 < (stored.line or 0) <= live_line(self._bus.position)
            ):
                self._senders.put(stored.number, sender)
        for stored in own:
            sender_user, sender_device, transaction_id = senders[stored.number] or NOBODY
            if sender_user == user_id and sender_device in (device_id, SENDING_DEVICE):
                found = sent if sender_device == device_id else delayed
                found[stored.event.event_id] = transaction_id
        return sent, delayed

    def sent_from(self, tx: Tx, user_id: str, device_id: str, own: Sequence[StoredEvent]) -> bool:
        """Whether a user is told how they sent one of these events, which are theirs, from this device."""
        return any(self._transactions(tx, user_id, device_id, own))

    def _access(self, tx: Tx, user_id: str, room_id: str) -> Access:
        return access(tx, self.states, self.events, user_id, room_id, self._bus.position)

    def visible_events(
        self, tx: Tx, user_id: str, room_num: int, listed: Iterable[StoredEvent]
    ) -> list[StoredEvent]:
        """Those of a room's events that a user may see (client-server §Room History Visibility)."""
        return self.visibility.visible_events(tx, user_id, room_num, listed)

    # -- history

    async def messages(self, walk: Walk) -> dict[str, Any]:
        """A page of history (GET …/messages). Raises 403 M_FORBIDDEN, 400 M_INVALID_PARAM."""
        return await self._paging.messages(walk)

    async def context(
        self, user_id: str, device_id: str, room_id: str, event_id: str, limit: int, wanted: RoomEventFilter
    ) -> dict[str, Any]:
        """What stands around an event (GET …/context). Raises 403 M_FORBIDDEN, 404 M_NOT_FOUND."""
        return await self._paging.context(user_id, device_id, room_id, event_id, limit, wanted)

    async def event(self, user_id: str, device_id: str, room_id: str, event_id: str) -> orjson.Fragment:
        """One event. Raises 404 M_NOT_FOUND if there is none or the user may not see it (GET …/event)."""

        def read(tx: Tx) -> orjson.Fragment | None:
            room = stored_rooms.by_id(tx, room_id)
            stored = self.events.by_id(tx, event_id)
            if room is None or stored is None or stored.room_num != room.room_num:
                return None
            try:
                allowed = self._access(tx, user_id, room_id)
            except MatrixError:
                return None
            view = self.visibility.view(tx, user_id, room.room_num)
            if not view.may_see(stored) and not self._in_state(tx, allowed, stored):
                return None
            return self.format.event(tx, stored, self.reading(tx, user_id, device_id, [stored], view))

        found = await self.database.read(read)
        if found is None:
            raise not_found("There is no such event in the room, or you may not see it")
        return found

    def _in_state(self, tx: Tx, allowed: Access, stored: StoredEvent) -> bool:
        """Whether an event is part of the state that the user may read anyway."""
        if not stored.event.is_state:
            return False
        slot = self.states.slot(tx, stored.room_num, stored.event.key)
        return slot is not None and self.states.get(tx, allowed.state, slot) == stored.number

    # -- state

    async def state(self, user_id: str, device_id: str, room_id: str) -> list[orjson.Fragment]:
        """All of the state. Raises 403 M_FORBIDDEN."""

        def read(tx: Tx) -> list[orjson.Fragment]:
            allowed = self._access(tx, user_id, room_id)
            numbers = [number for _, number in self.states.items(tx, allowed.state)]
            listed = list(self.events.load(tx, numbers).values())
            view = self.visibility.view(tx, user_id, allowed.room.room_num)
            return self.format.events(tx, listed, self.reading(tx, user_id, device_id, listed, view).brief())

        return await self.database.read(read)

    async def state_event(
        self, user_id: str, device_id: str, room_id: str, key: StateKey, *, whole: bool = False
    ) -> orjson.Fragment | dict[str, Any]:
        """The content of one state event, or the `whole` event. Raises 403 M_FORBIDDEN, 404 M_NOT_FOUND."""

        def read(tx: Tx) -> orjson.Fragment | dict[str, Any] | None:
            allowed = self._access(tx, user_id, room_id)
            slot = self.states.slot(tx, allowed.room.room_num, key)
            number = 0 if slot is None else self.states.get(tx, allowed.state, slot)
            stored = self.events.get(tx, number) if number else None
            if stored is None:
                return None
            view = self.visibility.view(tx, user_id, allowed.room.room_num)
            if not whole:
                return dict((bare(stored) if view.is_erased(stored) else stored).event.content)
            return self.format.event(tx, stored, self.reading(tx, user_id, device_id, [stored], view))

        found = await self.database.read(read)
        if found is None:
            raise not_found("The room has no state of that type and state key")
        return found

    # -- members

    async def members(
        self,
        user_id: str,
        device_id: str,
        room_id: str,
        *,
        at: str | None = None,
        membership: str | None = None,
        not_membership: str | None = None,
    ) -> dict[str, Any]:
        """The member events, at a token or now. Raises 403 M_FORBIDDEN, 400 M_INVALID_PARAM."""
        line = None if at is None else parse_line(at)
        await self._whole(room_id)

        def read(tx: Tx) -> dict[str, Any]:
            allowed = self._access(tx, user_id, room_id)
            room_num, root = allowed.room.room_num, allowed.state
            view = self.visibility.view(tx, user_id, room_num)
            if line is not None and line < allowed.line:
                root = self._state_at(tx, room_num, line) or root
                # Who was in the room then is history like what was said.
                if not view.sees(root, in_time=line <= view.last_line):
                    raise forbidden("You may not see what the room was like at that time")
            numbers = self.states.by_type(tx, room_num, root, "m.room.member").values()
            listed = [
                stored
                for stored in self.events.load(tx, numbers).values()
                if _is_wanted(stored.event.membership, membership, not_membership)
            ]
            reading = self.reading(tx, user_id, device_id, listed, view)
            return {"chunk": self.format.events(tx, listed, reading.brief())}

        return await self.database.read(read)

    def _state_at(self, tx: Tx, room_num: int, line: int) -> bytes | None:
        """The name of the state at a place of the timeline; None if nothing is held there."""
        below = self.events.timeline(tx, room_num, after=0, upto=line, limit=1, backwards=True)
        above = self.events.timeline(
            tx, room_num, after=line, upto=live_line(self._bus.position), limit=1, backwards=False
        )
        # A place inside a gap: what is held below it is older than what is missing.
        missing = stored_rooms.gaps(tx, room_num, after=line, upto=line + 1)
        if below and not missing:
            if is_live(below[0].line or 1):
                position = partial.completed_at(tx, room_num, position_below(line))
                return heads.at(tx, room_num, position)
            return below[0].state_after
        return above[0].state_before if above else None

    async def joined_members(self, user_id: str, room_id: str) -> dict[str, Any]:
        """Who is joined, with their profiles in the room. Raises 403 M_FORBIDDEN if the user is not."""
        await self._whole(room_id)

        def read(tx: Tx) -> dict[str, Any]:
            room = stored_rooms.by_id(tx, room_id)
            own = stored_rooms.member(tx, room.room_num, user_id) if room is not None else None
            if room is None or own is None or own.membership != "join":
                raise forbidden("You are not joined to the room")
            members = stored_rooms.members(tx, room.room_num, "join")
            loaded = self.events.load(tx, [member.event_num for member in members])
            joined = {}
            for member in members:
                content = loaded[member.event_num].event.content if member.event_num in loaded else {}
                joined[member.user_id] = _profile(content)
            return {"joined": joined}

        return await self.database.read(read)

    async def joined_rooms(self, user_id: str) -> list[str]:
        """The ids of the rooms that a user is joined to."""

        def read(tx: Tx) -> list[str]:
            found = []
            for entry in stored_rooms.local_rooms(tx, user_id, self._bus.position):
                room = stored_rooms.by_number(tx, entry.room_num) if entry.membership == "join" else None
                if room is not None:
                    found.append(room.room_id)
            return found

        return await self.database.read(read)


def _is_wanted(membership: str | None, wanted: str | None, unwanted: str | None) -> bool:
    """client-server, GET …/members: the two parameters together are an "or"."""
    if wanted is None and unwanted is None:
        return True
    return (wanted is not None and membership == wanted) or (unwanted is not None and membership != unwanted)


def _profile(content: Any) -> dict[str, str]:
    """A member's profile; a property that is no string is left out."""
    profile = {}
    for name, told in (("displayname", "display_name"), ("avatar_url", "avatar_url")):
        value = content.get(name)
        if isinstance(value, str):
            profile[told] = value
    return profile
