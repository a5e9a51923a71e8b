"""Simplified sliding sync (MSC4186): the rooms that a client looks at, and what is new in them.

Like /sync it looks at `now` first, bounds the whole answer by it, and sleeps on the bus if there is
nothing, so that no wake-up can be lost (DESIGN §3).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from comity.bus import Bus
from comity.rooms.read import Reader
from comity.rooms.read.tokens import SyncToken
from comity.store.database import Database, Tx
from comity.store.rooms import LocalMembership
from comity.sync.asked import Asked, SyncRequest
from comity.sync.memory import Memory
from comity.sync.sliding.connections import Connections, State, Told
from comity.sync.sliding.extensions import Extensions, Shown, to_device_since, understood
from comity.sync.sliding.room import SlidingRooms
from comity.sync.sliding.room_lists import PRESENT, Entry, RoomLists
from comity.sync.sliding.wish import RoomWish, Wish
from comity.sync.user_rooms import RoomsOfUsers, UserRooms
from comity.sync.v3 import MAX_TIMEOUT
from comity.users.ephemeral import Ephemeral


@dataclass(slots=True)
class _Answer:
    """An answer under construction, the state after it, and whether there is anything to tell."""

    now: int
    joined: Collection[str]
    state: State
    body: dict[str, Any] = field(default_factory=dict)
    is_news: bool = False


@dataclass(slots=True)
class _Looked:
    """What a request looks at: by room id the entry and what is wanted of it."""

    rooms: dict[str, tuple[Entry, RoomWish]] = field(default_factory=dict)
    shown: Shown = field(default_factory=Shown)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, entry: Entry, wish: RoomWish) -> None:
        """Look at a room, as well as for what it is looked at already."""
        known = self.rooms.get(entry.room_id)
        if known is not None:
            wish = wish if known[1] is wish else known[1] | wish
        self.rooms[entry.room_id] = (entry, wish)


class Sliding:
    """Answers sliding sync."""

    def __init__(
        self,
        *,
        database: Database,
        bus: Bus,
        reader: Reader,
        ephemeral: Ephemeral,
        user_rooms: RoomsOfUsers,
        memory: Memory,
        lists: RoomLists,
        rooms: SlidingRooms,
        extensions: Extensions,
    ) -> None:
        self._database = database
        self._bus = bus
        self._reader = reader
        self._ephemeral = ephemeral
        self._user_rooms = user_rooms
        self._memory = memory
        self._lists = lists
        self._rooms = rooms
        self._extensions = extensions
        self.connections = Connections(reader.clock.now_ms())

    async def sync(
        self, user_id: str, device_id: str, wish: Wish, pos: str | None, timeout: float
    ) -> dict[str, Any]:
        """What is new for a device's connection; without news after `timeout` seconds.

        Raises 400 M_UNKNOWN_POS, M_INVALID_PARAM.
        """
        clock, device = self._reader.clock, (user_id, device_id)
        # Whoever knows nothing yet does not wait to be told that there is nothing.
        deadline = clock.monotonic() + (min(timeout, MAX_TIMEOUT) if pos is not None else 0.0)
        wish = understood(wish, self._bus.position)
        request = SyncRequest(user_id, device_id, to_device_since(wish))
        if "to_device" in wish.extensions:
            await self._extensions.acknowledge(request)
        if pos is None:
            base = self.connections.begin(device, wish.connection, clock.monotonic())
        else:
            base = self.connections.at(device, wish.connection, pos, clock.monotonic())
        answer = await self._first_news(request, wish, base, deadline)
        new_pos = self.connections.advance(device, wish.connection, base, answer.state)
        if new_pos is None:
            # Another request began this connection anew meanwhile.
            self.connections.at(device, wish.connection, "", clock.monotonic())
        answer.body["pos"] = new_pos
        return answer.body

    async def _first_news(self, request: SyncRequest, wish: Wish, base: State, deadline: float) -> _Answer:
        """The answer on top of `base` as soon as it has news, or at the deadline (monotonic)."""
        clock, user_id = self._reader.clock, request.user_id
        while True:
            # What comes from here on has a later position, which the wait compares.
            serial, now = self._ephemeral.typing_serial, self._bus.position
            remaining = deadline - clock.monotonic()
            joined = self._joined_if_quiet(request, wish, base, now) if remaining > 0 else None
            if joined is None:
                answer = await self._database.read(self._look(request, wish, base))
                remaining = deadline - clock.monotonic()
                if answer.is_news or remaining <= 0:
                    return answer
                if self._memory.typed_since(serial, answer.joined):
                    continue
                joined, now = answer.joined, answer.now
            # What wakes who follows by /sync without presence, too.
            subscription = self._bus.subscription((user_id, False), joined, partial(_keys, user_id, joined))
            if not await self._bus.wait_by(subscription, now, remaining):
                deadline = clock.monotonic()

    def _joined_if_quiet(
        self, request: SyncRequest, wish: Wish, base: State, now: int
    ) -> Collection[str] | None:
        """The ids of the user's rooms, if memory tells that nothing happened for them up to `now`, the bus's
        position, since this very wish was answered: nothing need be read to wait for news."""
        if not wish.number or base.answered != wish.number:
            return None
        since = SyncToken(base.position, base.typing_serial)
        looked = self._memory.rooms_with_news(request.user_id, request.device_id, since, now)
        return looked[0].joined if looked is not None and not looked[1] else None

    def _look(self, request: SyncRequest, wish: Wish, base: State) -> Callable[[Tx], _Answer]:
        now, serial = self._bus.position, self._ephemeral.typing_serial

        def look(tx: Tx) -> _Answer:
            rooms = self._user_rooms.get(tx, request.user_id, now, afresh=base.position == 0)
            # To every part but the messages from devices, the place is that of the connection.
            since = SyncToken(base.position) if base.position else None
            here = SyncRequest(request.user_id, request.device_id, since)
            asked = Asked(here, now, serial, rooms.ignored, rooms.blocks_invites)
            return self._answer(tx, asked, wish, base, rooms)

        return look

    def _answer(self, tx: Tx, asked: Asked, wish: Wish, base: State, rooms: UserRooms) -> _Answer:
        looked = self._choose(tx, asked, wish, rooms)
        state = base.copy()
        state.answered, state.typing_serial = wish.number, asked.typing_serial
        told, parts = dict(base.rooms), {}
        changed = 0
        direct = self._lists.direct(tx, asked.user_id, asked.now)
        for room_id, (entry, room_wish) in looked.rooms.items():
            known, is_dm = base.rooms.get(room_id), room_id in direct
            if known is not None and self._is_settled(entry, room_wish, known, is_dm=is_dm):
                continue
            if known is not None and known.membership in PRESENT and not entry.is_present:
                # A departure, below.
                continue
            part, ids, told[room_id] = self._rooms.part(tx, asked, entry, room_wish, known, is_dm=is_dm)
            changed += 1
            if part is not None:
                parts[room_id] = part
                looked.shown.timelines[room_id] = ids
                if "expanded_timeline" in part:
                    looked.shown.longer.add(room_id)
                if "initial" in part:
                    looked.shown.whole.add(room_id)
        for room_id, end in self._gone(tx, asked, base, rooms):
            part = self._rooms.departure(tx, asked, room_id, end, told.pop(room_id))
            if room_id in looked.rooms:
                # It stays in the lists, and is not told of again there.
                told[room_id] = Told(asked.now, end.membership)
            changed += 1
            if part is not None:
                parts[room_id] = part
        if changed:
            state.rooms = told
        # What is kept of a room beside it is told anew along with it.
        anew = {
            room_id
            for room_id, part in parts.items()
            if "initial" in part or part["membership"] not in PRESENT
        }
        if anew:
            state.forget(anew)
        extensions, is_news = self._extensions.fill(tx, asked, wish, state, looked.shown)
        lists = tuple(sorted(looked.counts.items()))
        is_news = is_news or bool(parts) or lists != base.lists
        state.position, state.lists = asked.now, lists
        body = {
            "lists": {name: {"count": count} for name, count in looked.counts.items()},
            "rooms": parts,
            "extensions": extensions,
        }
        return _Answer(asked.now, rooms.joined, state, body, is_news)

    def _is_settled(self, entry: Entry, wish: RoomWish, told: Told, *, is_dm: bool) -> bool:
        """Whether the client has all of a room that it wants: a look into memory."""
        return (
            wish.timeline_limit <= told.timeline_limit
            and is_dm is told.is_dm
            and (told.required == wish.required or told.required.covers(wish.required))
            and not self._bus.changed((entry.room_id,), told.position)
            and entry.own.position <= told.position
            and told.membership == entry.own.membership
        ) or (told.membership == entry.own.membership != "join" and entry.own.position <= told.position)

    def _choose(self, tx: Tx, asked: Asked, wish: Wish, rooms: UserRooms) -> _Looked:
        """The rooms in the windows of the lists, and those that are asked for by name."""
        looked = _Looked()
        listed_rooms = self._lists.entries(tx, asked.user_id, rooms, asked.now)
        for name, listed in wish.lists.items():
            found = self._lists.select(tx, asked.user_id, listed, listed_rooms.entries, rooms, asked.now)
            looked.counts[name] = len(found)
            inside = looked.shown.lists[name] = set()
            for first, last in ((0, len(found)),) if listed.ranges is None else listed.ranges:
                for entry in found[first : last + 1]:
                    looked.add(entry, listed.room)
                    inside.add(entry.room_id)
        for room_id, room_wish in wish.subscriptions.items():
            subscribed = listed_rooms.by_id.get(room_id)
            if subscribed is not None and subscribed.is_present:
                looked.add(subscribed, room_wish)
                looked.shown.subscribed.add(room_id)
        looked.shown.rooms = {
            room_id: entry.own.room_num
            for room_id, (entry, _) in looked.rooms.items()
            if entry.own.membership == "join"
        }
        for ids in (*looked.shown.lists.values(), looked.shown.subscribed):
            ids.intersection_update(looked.shown.rooms)
        return looked

    def _gone(self, tx: Tx, asked: Asked, base: State, rooms: UserRooms) -> list[tuple[str, LocalMembership]]:
        """The rooms that the user is not in any more, and was as far as the client knows; what ended it."""
        if not base.rooms or not self._bus.changed((asked.user_id,), base.position):
            return []
        found = []
        for room_id, told in base.rooms.items():
            own = rooms.memberships.get(room_id)
            if own is None or told.membership not in PRESENT:
                continue
            end = self._rooms.end_of(tx, asked, own, told)
            if end is not None:
                found.append((room_id, end))
        return found


def _keys(user_id: str, joined: Collection[str]) -> list[str]:
    return [user_id, *joined]
