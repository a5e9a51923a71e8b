"""Presence: who is there, in memory alone (client-server §Presence, server-server §Presence).

A user of ours is as present as the most present of their devices that is connected: that follows
/sync or did so a moment ago. Every change has a serial number, which grows over a restart because
it begins with the time; sync carries it in its tokens. Nothing of it is on disk.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from comity.bus import Bus
from comity.federation.sink import EduSink, NoSink
from comity.ports import Clock
from comity.protocol.errors import invalid_param, missing_param, not_found
from comity.store import accounts, device_lists, personal
from comity.store.database import Database, Tx
from comity.users.text import optional_text

#: Users whose presence is remembered, about 500 bytes each and 8 for each of their rooms.
MAX_PRESENCES = 50_000
#: Devices of one user that are followed; the one that was seen least lately goes.
MAX_DEVICES = 20
#: Rooms of one user through which others see them; nobody is in more with people who look.
MAX_ROOMS = 2_000
MAX_STATUS_BYTES = 1_024
#: Presences in one whole answer of the API from before /sync.
MAX_PRESENCES_TOLD = 1_000
#: client-server §Idle timeout: online turns into unavailable after so long without activity.
IDLE_MS = 5 * 60_000
#: A device is connected for so long after its last /sync ended: clients ask again at once, and those
#: that met an error wait a little.
GONE_SECONDS = 60.0
#: How late it may be noticed that somebody is idle or gone.
SWEEP_SECONDS = 10.0
#: Other servers' users of whom nothing was heard for so long are taken to be offline: their server,
#: or the way to it, is down.
SILENT_MS = 30 * 60_000
#: So that they are not taken to be offline elsewhere, other servers are told again after this long.
AGAIN_MS = 25 * 60_000
#: The same presence set again is told to other servers after this long.
SAME_AGAIN_MS = 60_000
ONLINE, OFFLINE, UNAVAILABLE = "online", "offline", "unavailable"
PRESENCES = (ONLINE, OFFLINE, UNAVAILABLE)
PRESENCE = "m.presence"


@dataclass(slots=True)
class _Device:
    state: str
    #: Whether the client set the state itself, not by the way of a /sync.
    is_set: bool = False
    running: int = 0
    #: When it was seen last (monotonic seconds).
    seen: float = 0.0


@dataclass(slots=True)
class _Known:
    #: As it was told last.
    state: str = OFFLINE
    status: str | None = None
    active_ms: int = 0
    serial: int = 0
    #: When other servers were told of it, or when their server told us (ms since the epoch).
    told_ms: int = 0
    #: Of other servers' users: whether they are active, as their server says.
    is_active: bool = False
    #: Of our users whose profile changed since the start: what others are to call them.
    profile: Mapping[str, str] = field(default_factory=dict)
    #: Of our users: device id -> what it says.
    devices: dict[str, _Device] = field(default_factory=dict)
    #: The numbers of the user's rooms when this was told, through which others see it.
    rooms: array[int] = field(default_factory=lambda: array("q"))
    #: The position at which they were read.
    rooms_at: int = 0


def wake_key(name: str) -> str:
    """What waits on the bus for presence in a room, or of a user: only those who ask for presence."""
    return "presence " + name


class Presences:
    """Who is there."""

    def __init__(
        self,
        database: Database,
        bus: Bus,
        clock: Clock,
        sink: EduSink | None = None,
        server_name: str = "",
        *,
        enabled: bool = True,
    ) -> None:
        """`sink` is who tells other servers than `server_name`, which is ours; None: nobody does."""
        self.bus = bus
        self.clock = clock
        self._database = database
        self._sink = sink or NoSink()
        self._server_name = server_name
        self.enabled = enabled
        #: The serial number of the last change of anybody's presence. Set here alone.
        self.serial = clock.now_ms()
        self._first_serial = self.serial
        #: By user id, in the order of their last changes.
        self._known: dict[str, _Known] = {}
        #: Those who are not offline, whom the passing of time may change.
        self._live: dict[str, _Known] = {}
        self._sweeper: asyncio.Task[None] | None = None

    # -- our users

    async def put(self, user_id: str, device_id: str, body: Mapping[str, Any]) -> None:
        """`PUT /presence/{userId}/status` by that user's device.

        Raises 400 M_MISSING_PARAM, M_INVALID_PARAM or M_BAD_JSON.
        """
        state = body.get("presence")
        if state is None:
            raise missing_param("The request body lacks presence")
        if state not in PRESENCES:
            raise invalid_param("presence is not online, offline or unavailable")
        status = optional_text(body.get("status_msg"), "status_msg", most=MAX_STATUS_BYTES)
        if not self.enabled:
            return
        known = self._of(user_id)
        device = self._device(known, device_id)
        device.state, device.is_set = state, True
        known.active_ms = self.clock.now_ms()
        is_news, known.status = known.status != status, status
        is_due = known.active_ms - known.told_ms >= SAME_AGAIN_MS
        await self.settle(user_id, known, is_news=is_news or is_due)

    async def rename(self, user_id: str, profile: Mapping[str, str]) -> None:
        """A user of ours is called otherwise (client-server §Profiles, Events on Change of Profile
        Information): who sees their presence is told with it. `profile` is their name and avatar.

        Of whom nothing is remembered nobody sees any presence.
        """
        known = self._known.get(user_id)
        if known is None:
            return
        known.profile = profile
        if known.serial:
            await self._announce(user_id, known)

    def forget(self, user_id: str) -> None:
        """An account has ended: nothing is remembered of it."""
        self._known.pop(user_id, None)
        self._live.pop(user_id, None)

    def following(self, user_id: str, device_id: str, wish: str | None) -> Following | NotFollowed:
        """While a device waits in a /sync; `wish` is its `set_presence`, None if it did not say.

        client-server, GET /sync: whoever does not say is online. A device that has set itself
        unavailable stays so until it says otherwise or is active; one that says `offline` is not
        marked by its syncing, and keeps what it has set.
        """
        if not self.enabled:
            return NOT_FOLLOWED
        known = self._known.get(user_id)
        device = known.devices.get(device_id) if known is not None else None
        if (
            known is None
            or device is None
            or device.state != ONLINE
            or wish not in (None, ONLINE)
            or self._is_gone(device)
        ):
            begun = self._begin(user_id, device_id, wish)
            return NOT_FOLLOWED if begun is None else Following(self, user_id, *begun)
        # Most who ask have just been here, and are what they were.
        device.running += 1
        device.is_set = False
        if len(known.devices) > 1:
            known.devices[device_id] = known.devices.pop(device_id)
        return Following(self, user_id, known, device)

    def _begin(self, user_id: str, device_id: str, wish: str | None) -> tuple[_Known, _Device] | None:
        """A device's /sync begins, and what is to be settled by it; None if it does not count."""
        known = self._known.get(user_id)
        if wish == OFFLINE:
            held = known.devices.get(device_id) if known is not None else None
            if known is None or held is None:
                return None
            if not held.is_set:
                held.state = OFFLINE
        known = known or self._of(user_id)
        held = known.devices.get(device_id)
        was_online = held is not None and held.state == ONLINE and not self._is_gone(held)
        device = self._device(known, device_id)
        device.running += 1
        if wish == UNAVAILABLE:
            device.state, device.is_set = UNAVAILABLE, False
        elif wish != OFFLINE and not (wish is None and device.is_set and device.state == UNAVAILABLE):
            if not was_online:
                # client-server §Last active ago: becoming online is an activity.
                known.active_ms = self.clock.now_ms()
            device.state, device.is_set = ONLINE, False
        return known, device

    async def active(self, user_id: str, device_id: str) -> None:
        """A user did something, a message for instance (client-server §Idle timeout): they are online.

        Of who is not connected nothing is remembered.
        """
        known = self._known.get(user_id)
        device = known.devices.get(device_id) if known is not None else None
        if known is None or device is None:
            return
        known.active_ms = self.clock.now_ms()
        if device.state == UNAVAILABLE:
            device.state, device.is_set = ONLINE, False
        await self.settle(user_id, known)

    def _of(self, user_id: str) -> _Known:
        known = self._known.get(user_id)
        if known is None:
            known = self._known[user_id] = _Known()
            if len(self._known) > MAX_PRESENCES:
                oldest = next(iter(self._known))
                del self._known[oldest]
                self._live.pop(oldest, None)
        return known

    def _device(self, known: _Known, device_id: str) -> _Device:
        """A device that is seen now."""
        device = known.devices.pop(device_id, None) or _Device(OFFLINE)
        device.seen = self.clock.monotonic()
        known.devices[device_id] = device
        if len(known.devices) > MAX_DEVICES:
            del known.devices[next(iter(known.devices))]
        return device

    def _is_gone(self, device: _Device) -> bool:
        """Whether a device is not connected any more."""
        return device.running <= 0 and self.clock.monotonic() - device.seen >= GONE_SECONDS

    def state_now(self, known: _Known) -> str:
        """What a user of ours is, by their devices and their last activity."""
        state = OFFLINE
        for device in known.devices.values():
            if device.state == OFFLINE or self._is_gone(device):
                continue
            if device.state == ONLINE:
                return UNAVAILABLE if self.clock.now_ms() - known.active_ms >= IDLE_MS else ONLINE
            state = UNAVAILABLE
        return state

    async def settle(self, user_id: str, known: _Known, *, is_news: bool = False) -> None:
        """Tell of a user of ours if they are not what was told of them."""
        state = self.state_now(known)
        if state == known.state and not is_news:
            if known.serial and self.bus.changed((user_id,), known.rooms_at):
                await self._read_rooms(user_id, known)
            return
        known.state, known.told_ms = state, self.clock.now_ms()
        await self._announce(user_id, known)
        await self._tell_servers(user_id)

    async def _tell_servers(self, user_id: str) -> None:
        servers = await self._database.look_up(lambda tx: device_lists.servers_sharing(tx, user_id))
        content = {"user_id": user_id, "last_active_ago": 0, **self._shown(user_id)}
        self._sink.whisper(servers - {self._server_name}, PRESENCE, user_id, orjson.dumps(content))

    # -- other servers' users

    async def take(
        self, user_id: str, state: str, status: str | None, ago_ms: int, *, is_active: bool
    ) -> None:
        """What another server says of a user of its own, who was active `ago_ms` ago.

        The user shares a room with one of ours.
        """
        if not self.enabled:
            return
        known, now = self._of(user_id), self.clock.now_ms()
        is_active = is_active and state == ONLINE
        before = (known.state, known.status, known.is_active, known.active_ms)
        known.told_ms, known.active_ms = now, now - ago_ms
        known.state, known.status, known.is_active = state, status, is_active
        # client-server §Last active ago: while they are active, a later activity is no news.
        if before[:3] != (state, status, is_active) or (before[3] != known.active_ms and not is_active):
            await self._announce(user_id, known)

    # -- telling our users

    async def _announce(self, user_id: str, known: _Known) -> None:
        """Give a change its serial number, and wake those who see it and wait for it."""
        if self._known.get(user_id) is not known:
            return  # forgotten meanwhile, for others
        if known.state == OFFLINE:
            self._live.pop(user_id, None)
        else:
            self._live[user_id] = known
            self._sweep_later()
        rooms = await self._read_rooms(user_id, known)
        if self._known.get(user_id) is not known:
            return
        self._known[user_id] = self._known.pop(user_id)
        self.serial += 1
        known.serial = self.serial
        self.bus.wake([wake_key(user_id), *(wake_key(room_id) for room_id in rooms)])

    async def _read_rooms(self, user_id: str, known: _Known) -> list[str]:
        """Look up the user's rooms, and return their ids."""
        known.rooms_at = self.bus.position
        rooms = await self._database.look_up(lambda tx: personal.rooms_of(tx, user_id, MAX_ROOMS))
        known.rooms = array("q", [room_num for room_num, _ in rooms])
        return [room_id for _, room_id in rooms]

    def changed(
        self, user_id: str, rooms: Collection[int], after: int, upto: int | None = None
    ) -> dict[str, int]:
        """Users whose presence changed at `after < serial <= upto` and whom a user may see.

        With the serial number of each, the oldest change first.

        `rooms` are the numbers of the user's rooms. For a client that knows nothing (`after` is 0, or
        from before the start) those who are offline are no news. A look into memory: whether they
        still share a room is for the caller to see.
        """
        knows_nothing, mine = after < self._first_serial, frozenset(rooms)
        found = []
        for other, known in reversed(self._known.items()):
            if not known.serial:
                continue  # it is about to be told
            if known.serial <= after:
                break
            if upto is not None and known.serial > upto:
                continue
            if knows_nothing and known.state == OFFLINE:
                continue
            if other == user_id or not mine.isdisjoint(known.rooms):
                found.append((other, known.serial))
        return dict(reversed(found))

    def seen_in(self, room_num: int) -> list[str]:
        """Who of those in a room is not offline, for somebody who has just come into it."""
        return [user_id for user_id, known in self._live.items() if room_num in known.rooms]

    def is_known(self, user_id: str) -> bool:
        """Whether anything is remembered of a user."""
        return user_id in self._known

    def event(self, user_id: str) -> dict[str, Any]:
        """The `m.presence` event of a user."""
        content = self._shown(user_id)
        known = self._known.get(user_id)
        if known is not None:
            content.update(known.profile)
        return {"type": PRESENCE, "sender": user_id, "content": content}

    async def get(self, requester: str, user_id: str) -> dict[str, object]:
        """`GET /presence/{userId}/status`, as `requester` may see it.

        Raises 404 M_NOT_FOUND for a user who does not exist or shares no room.
        """
        is_visible = await self._database.read(lambda tx: _may_see(tx, requester, user_id))
        if not is_visible:
            raise not_found("There is no presence of such a user to be seen")
        return self._shown(user_id)

    async def all_seen_by(self, requester: str) -> list[dict[str, Any]]:
        """`m.presence` of the requester and of those who share a room with them, of what is known here.

        At most MAX_PRESENCES_TOLD, those that changed last.
        """
        known = [user_id for user_id, held in self._known.items() if held.serial]
        sharing = await self._database.read(lambda tx: personal.sharing_room(tx, requester, known))
        users = [user_id for user_id in known if user_id in sharing or user_id == requester]
        return [self.event(user_id) for user_id in users[-MAX_PRESENCES_TOLD:]]

    def _shown(self, user_id: str) -> dict[str, object]:
        known = self._known.get(user_id)
        if known is None or not known.told_ms:
            return {"presence": OFFLINE}
        state = self.state_now(known) if known.devices else known.state
        shown: dict[str, object] = {"presence": state}
        if known.active_ms:
            # Who is connected may have done nothing yet.
            shown["last_active_ago"] = max(0, self.clock.now_ms() - known.active_ms)
        if state == ONLINE:
            shown["currently_active"] = bool(known.devices) or known.is_active
        if known.status is not None:
            shown["status_msg"] = known.status
        return shown

    # -- what time changes

    def _sweep_later(self) -> None:
        if self._sweeper is None or self._sweeper.done():
            self._sweeper = asyncio.get_running_loop().create_task(self._sweep())

    async def _sweep(self) -> None:
        while self._live:
            await self.clock.sleep(SWEEP_SECONDS)
            now = self.clock.now_ms()
            for user_id, known in list(self._live.items()):
                if known.devices:
                    await self.settle(user_id, known)
                    if known.state != OFFLINE and now - known.told_ms >= AGAIN_MS:
                        known.told_ms = now
                        await self._tell_servers(user_id)
                elif now - known.told_ms >= SILENT_MS:
                    known.state, known.is_active = OFFLINE, False
                    await self._announce(user_id, known)

    async def close(self) -> None:
        """Stop the task that ends what time ends."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)


def _may_see(tx: Tx, requester: str, user_id: str) -> bool:
    if requester == user_id:
        return accounts.user(tx, user_id) is not None
    return personal.shares_room(tx, requester, user_id)


class Following:
    """The time of one /sync: `begin` it if `is_begun` does not say so, and `end` it whatever comes."""

    __slots__ = ("_device", "_known", "_presences", "_user_id")

    def __init__(self, presences: Presences, user_id: str, known: _Known, device: _Device) -> None:
        self._presences = presences
        self._user_id = user_id
        self._known = known
        self._device = device

    @property
    def is_begun(self) -> bool:
        """Whether nobody need be told that it begins."""
        presences, known = self._presences, self._known
        return presences.state_now(known) == known.state and not (
            known.serial and presences.bus.touched(self._user_id) > known.rooms_at
        )

    async def begin(self) -> None:
        """Tell who is to be told that the user is there."""
        await self._presences.settle(self._user_id, self._known)

    def end(self) -> None:
        """The device waits no more."""
        self._device.running -= 1
        self._device.seen = self._presences.clock.monotonic()


class NotFollowed:
    """What a /sync is that says nothing of its user's presence."""

    is_begun = True

    async def begin(self) -> None:
        """Nobody is told."""

    def end(self) -> None:
        """Nobody was."""


NOT_FOLLOWED = NotFollowed()
