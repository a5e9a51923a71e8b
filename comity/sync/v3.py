"""/sync, version 3: everything new since a token, or a wait for it.

client-server §Syncing. Looks at `now` first and bounds the whole answer by it; if there is
nothing, sleeps on the bus until a position after `now` concerns the user, so that no wake-up
can be lost (DESIGN §3).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from comity.bus import Bus, Subscription
from comity.protocol.push_rules import default_rules
from comity.rooms.read import Reader
from comity.rooms.read.tokens import SyncToken
from comity.store import personal
from comity.store.database import Database, Tx
from comity.store.rooms import LocalMembership
from comity.sync.asked import Asked, SyncRequest
from comity.sync.departures import OtherRooms
from comity.sync.devices import Devices, add_to
from comity.sync.memory import Memory
from comity.sync.presence import PresenceNews, wake_key
from comity.sync.slice import JoinedRooms
from comity.sync.unread import PUSH_RULES
from comity.sync.user_rooms import RoomsOfUsers, UserRooms
from comity.users.ephemeral import Ephemeral

#: Seconds that a client may wait at most: longer than any that clients ask for.
MAX_TIMEOUT = 180.0


@dataclass(slots=True)
class _Answer:
    """An answer under construction, and whether there is anything to tell."""

    now: int
    rooms: UserRooms
    body: dict[str, Any] = field(default_factory=dict)
    is_empty: bool = True

    @property
    def joined(self) -> Collection[str]:
        """The ids of the rooms that the user is in."""
        return self.rooms.joined


class Sync:
    """Answers /sync."""

    def __init__(
        self,
        *,
        database: Database,
        bus: Bus,
        reader: Reader,
        ephemeral: Ephemeral,
        user_rooms: RoomsOfUsers,
        devices: Devices,
        joined: JoinedRooms,
        others: OtherRooms,
        presence: PresenceNews,
        memory: Memory,
    ) -> None:
        #: Where `glance` gave something to wait by: to be parked at before anything else happens.
        self.bus = bus
        self.clock = reader.clock
        self._database = database
        self._bus = bus
        self._reader = reader
        self._ephemeral = ephemeral
        self._rooms = user_rooms
        self._devices = devices
        self._joined = joined
        self._others = others
        self._presence = presence
        self._memory = memory

    async def sync(self, request: SyncRequest) -> dict[str, Any] | orjson.Fragment:
        """What is new for a device; empty after `request.timeout` seconds without news."""
        clock = self._reader.clock
        deadline = clock.monotonic() + min(request.timeout, MAX_TIMEOUT)
        if request.since is not None and request.since.is_beyond(self._bus.position):
            # The database is an older one than gave the token. What the client knows then, nobody knows;
            # it is told everything, and acknowledges nothing.
            request = replace(request, since=None)
        if request.since is not None and self._devices.may_wait(request):
            await self._devices.acknowledge(request)
        while True:
            # What comes from here on has a later position, which the wait compares.
            serial, now = self._ephemeral.typing_serial, self._bus.position
            presence = self._presence.presences.serial
            remaining = deadline - clock.monotonic()
            glance = self.glance(request, is_over=remaining <= 0)
            if isinstance(glance, bytes):
                return orjson.Fragment(glance)
            if glance is not None:
                # Nothing is new, as far as memory tells: nothing need be read to wait for it.
                if not await self._bus.wait_by(glance, now, remaining):
                    deadline = clock.monotonic()
                continue
            answer = await self._database.read(self._look(request))
            remaining = deadline - clock.monotonic()
            if not answer.is_empty or request.since is None or request.full_state or remaining <= 0:
                return answer.body
            if self._memory.typed_since(serial, answer.joined):
                continue
            if self._presence.has_changed(request, answer.rooms, presence):
                continue
            subscription = self._subscription(request, answer.joined)
            if not await self._bus.wait_by(subscription, answer.now, remaining):
                return answer.body

    def glance(self, request: SyncRequest, *, is_over: bool) -> bytes | Subscription | None:
        """What memory alone tells (`comity.sync.memory`): the whole answer as JSON, or, if there is no news
        and the time is not over, by what to wait for some. None: it has to be read."""
        now = self._bus.position
        serial, presence = self._ephemeral.typing_serial, self._presence.presences.serial
        looked = self._memory.look(request, now)
        if looked is None:
            return None
        if not (looked[1] or is_over):
            return self._subscription(request, looked[0].joined)
        told = self._memory.answer(request, looked, now, serial, presence)
        return told[0] if told is not None and (told[1] or is_over) else None

    async def everything(self, request: SyncRequest) -> dict[str, Any]:
        """What a device is told that knows nothing yet."""
        return (await self._database.read(self._look(request))).body

    def _subscription(self, request: SyncRequest, joined: Collection[str]) -> Subscription:
        """What wakes who waits for news; presence only those who ask for it."""
        with_presence = self._presence.wants(request.wanted)

        def keys() -> list[str]:
            keys = [request.user_id, *joined]
            return [*keys, *map(wake_key, keys)] if with_presence else keys

        return self._bus.subscription((request.user_id, with_presence), joined, keys)

    def _look(self, request: SyncRequest) -> Callable[[Tx], _Answer]:
        now, serial = self._bus.position, self._ephemeral.typing_serial
        presence = self._presence.presences.serial

        def look(tx: Tx) -> _Answer:
            rooms = self._rooms.get(tx, request.user_id, now, afresh=request.since is None)
            asked = Asked(request, now, serial, rooms.ignored, rooms.blocks_invites)
            return self._answer(tx, asked, rooms, presence)

        return look

    def _answer(self, tx: Tx, asked: Asked, rooms: UserRooms, presence_serial: int) -> _Answer:
        answer = _Answer(asked.now, rooms)
        account_data = self._account_data(tx, asked)
        self._add_rooms(tx, asked, rooms, account_data, answer)
        part = self._devices.news(tx, asked)
        events = self._global_account_data(tx, asked, account_data.get("", []))
        if events:
            answer.body["account_data"] = {"events": events}
        present = self._presence.part(tx, asked, rooms, presence_serial, part.changed)
        if present.events:
            answer.body["presence"] = {"events": present.events}
        answer.is_empty = answer.is_empty and not events and part.is_empty and not present.events
        add_to(answer.body, part, self._devices.counts.get(tx, asked.user_id, asked.request.device_id))
        token = SyncToken(asked.now, asked.typing_serial, part.upto, present.serial)
        answer.body["next_batch"] = str(token)
        return answer

    # -- account data

    def _account_data(self, tx: Tx, asked: Asked) -> dict[str, list[tuple[str, str]]]:
        """room id or '' -> (type, JSON text) of what changed."""
        if not asked.is_initial and not self._bus.changed((asked.user_id,), asked.after):
            return {}
        found: dict[str, list[tuple[str, str]]] = {}
        for room_id, event_type, text in personal.account_data_since(
            tx, asked.user_id, asked.after, asked.now
        ):
            found.setdefault(room_id, []).append((event_type, text))
        return found

    def _global_account_data(
        self, tx: Tx, asked: Asked, changed: list[tuple[str, str]]
    ) -> list[dict[str, Any]]:
        wanted = asked.wanted.account_data
        listed = [(event_type, orjson.Fragment(text)) for event_type, text in changed]
        if asked.is_initial and all(event_type != PUSH_RULES for event_type, _ in changed):
            # client-server §Push Rules: the rules are account data, predefined ones included.
            rules = orjson.dumps({"global": default_rules(asked.user_id)})
            listed.append((PUSH_RULES, orjson.Fragment(rules)))
        return [
            {"type": event_type, "content": content}
            for event_type, content in listed
            if wanted.matches(event_type, None)
        ]

    # -- rooms

    def _add_rooms(
        self,
        tx: Tx,
        asked: Asked,
        rooms: UserRooms,
        account_data: dict[str, list[tuple[str, str]]],
        answer: _Answer,
    ) -> None:
        parts: dict[str, dict[str, Any]] = {"join": {}, "invite": {}, "knock": {}, "leave": {}}
        wanted = asked.wanted.room
        for room_id, entry in self._with_news(asked, rooms, account_data):
            if wanted.wants_room(room_id):
                part = self._joined.part(tx, asked, room_id, entry, account_data.get(room_id, ()))
                if part is not None:
                    parts["join"][room_id] = part
        if asked.is_initial or asked.request.full_state or self._bus.changed((asked.user_id,), asked.after):
            for room_id, entry in rooms.memberships.items():
                if entry.membership != "join" and wanted.wants_room(room_id):
                    self._add_other(tx, asked, room_id, entry, account_data.get(room_id, ()), parts)
        answer.is_empty = not any(parts.values())
        answer.body["rooms"] = parts

    def _with_news(
        self, asked: Asked, rooms: UserRooms, account_data: Collection[str]
    ) -> list[tuple[str, LocalMembership]]:
        """A look into memory, so that only rooms which may have changed are read."""
        since, after, joined = asked.request.since, asked.after, rooms.joined
        if since is None or asked.request.full_state:
            return list(joined.items())
        news = self._bus.keys_after(after) if asked.now - after < len(joined) else None
        if news is not None:
            # Less happened anywhere than there are rooms to look at.
            ids = dict.fromkeys((*news, *(room_id for room_id in account_data if room_id)))
            found = [(room_id, joined[room_id]) for room_id in ids if room_id in joined]
        else:
            changed = self._bus.changed
            found = [
                (room_id, entry)
                for room_id, entry in joined.items()
                if changed((room_id,), after) or entry.position > after or room_id in account_data
            ]
        if asked.typing_serial > since.typing:
            known = {room_id for room_id, _ in found}
            found += [
                (room_id, entry)
                for room_id, entry in rooms.joined.items()
                if room_id not in known and self._ephemeral.typing(room_id)[0] > since.typing
            ]
        return found

    def _add_other(
        self,
        tx: Tx,
        asked: Asked,
        room_id: str,
        entry: LocalMembership,
        account_data: Any,
        parts: dict[str, dict[str, Any]],
    ) -> None:
        is_news = asked.is_initial or entry.position > asked.after
        part: dict[str, Any] | None = None
        if entry.membership in ("invite", "knock"):
            if is_news or asked.request.full_state:
                knows = self._others.invited if entry.membership == "invite" else self._others.knocked
                part = knows(tx, asked, entry)
            kind = entry.membership
            end = None
            if part is None and not asked.is_initial:
                end = self._others.end_before(tx, asked.user_id, entry, asked.after)
            if end is not None:
                part, kind = self._others.left(tx, asked, room_id, end, account_data), "leave"
        else:
            if is_news and (asked.wanted.room.include_leave or not asked.is_initial):
                part = self._others.left(tx, asked, room_id, entry, account_data)
            kind = "leave"
        if part is not None:
            parts[kind][room_id] = part
