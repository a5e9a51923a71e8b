"""What a device gets beside rooms: messages from other devices, news of keys.

client-server §Extensions to sync (send-to-device, end-to-end encryption).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import orjson

from comity.bus import DEVICE_LISTS, Bus
from comity.store import cross_signing, device_keys, personal, shared_rooms, to_device
from comity.store.cache import Bounded
from comity.store.database import Database, Tx, WriteTx
from comity.store.device_keys import KeyCounts, KeysLeft
from comity.store.to_device import DeviceMessage
from comity.sync.asked import Asked, SyncRequest

#: Messages in one answer, as the specification advises; the rest come with the next.
MAX_MESSAGES = 100
#: Devices that are known to have nothing waiting, or to have had some of it.
MAX_DEVICES = 50_000


@dataclass(frozen=True, slots=True)
class DevicePart:
    """A device's part of an answer. `upto`: where its messages end, if not at the answer's position.

    `keys_given`: whether some of its keys were given out, so that it may have to make others.
    """

    messages: list[dict[str, Any]] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    upto: int | None = None
    keys_given: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to wake anybody for."""
        return not (self.messages or self.changed or self.left or self.keys_given)


class Devices:
    """Reads what waits for devices, and lets go of what has come."""

    def __init__(self, database: Database, bus: Bus, counts: KeyCounts) -> None:
        self.counts = counts
        self._database = database
        self._bus = bus
        #: Device -> a position up to which none of its messages is kept.
        self._empty: Bounded[tuple[str, str], int] = Bounded(MAX_DEVICES)
        #: Device -> the position up to which its messages are being let go of, and no more given to it.
        self._acknowledged: Bounded[tuple[str, str], int] = Bounded(MAX_DEVICES)

    def empty(self, device: tuple[str, str]) -> int | None:
        """A position up to which no message is kept for (user id, device id), if one is known.

        None has come since unless something was published for the user.
        """
        return self._empty.peek(device)

    def may_wait(self, request: SyncRequest) -> bool:
        """Whether messages may wait for a device: a look into memory."""
        empty = self._empty.peek((request.user_id, request.device_id))
        return empty is None or self._bus.key_changed(request.user_id, empty)

    def news(self, tx: Tx, asked: Asked) -> DevicePart:
        """Messages that wait for the device, whose devices changed, and whose need not be followed."""
        request = asked.request
        messages, upto = self.messages(tx, asked, MAX_MESSAGES)
        if request.since is None:
            return DevicePart(messages, upto=upto)
        changed, left = self.lists(tx, request.user_id, asked.after, asked.now)
        given = self.counts.last_given(request.user_id, request.device_id)
        return DevicePart(messages, changed, left, upto, keys_given=asked.after < given <= asked.now)

    def messages(self, tx: Tx, asked: Asked, limit: int) -> tuple[list[dict[str, Any]], int | None]:
        """(messages that wait for the device, the position at which they end if there may be more)."""
        request = asked.request
        waiting: list[DeviceMessage] = []
        if self.may_wait(request):
            known = self._acknowledged.get((request.user_id, request.device_id)) or 0
            first = known if request.since is None else request.since.messages
            waiting = to_device.since(tx, request.user_id, request.device_id, first, asked.now, limit)
        messages = [
            {"type": item.type, "sender": item.sender, "content": orjson.Fragment(item.content)}
            for item in waiting
        ]
        return messages, waiting[-1].position if len(waiting) == limit else None

    def lists(self, tx: Tx, user_id: str, after: int, now: int) -> tuple[list[str], list[str]]:
        """`changed` and `left` of `device_lists`, for what happened at `after < position <= now`.

        Whose devices changed, of those whom the user shares a room with, or who share one now and did
        not; and with whom the last common room has ended.
        """
        if not self._bus.changed((DEVICE_LISTS,), after):
            return [], []
        changed: set[str] = set()
        if candidates := device_keys.changed_since(tx, after, now):
            changed = personal.sharing_room(tx, user_id, candidates) | ({user_id} & set(candidates))
        mine = self._bus.changed((user_id,), after)
        if mine:
            changed |= shared_rooms.met(tx, user_id, shared_rooms.entered(tx, user_id, after, now))
            changed.update(cross_signing.signed_since(tx, user_id, after, now))
        return sorted(changed), sorted(shared_rooms.parted(tx, user_id, after, now, i_went=mine))

    async def acknowledge(self, request: SyncRequest) -> None:
        """The device has what came before its token: those messages need not be kept.

        Nobody waits until they are gone: no answer has them again.
        """
        if request.since is None or not self.may_wait(request):
            return
        device, upto, now = (request.user_id, request.device_id), request.since.messages, self._bus.position
        if self._acknowledged.get(device) == upto:
            return
        first = await self._database.look_up(lambda tx: to_device.since(tx, *device, 0, now, 1))
        if not first:
            self._empty.put(device, now)
        elif first[0].position <= upto:
            self._acknowledged.put(device, upto)
            self._drop(device, upto, now)

    def _drop(self, device: tuple[str, str], upto: int, now: int) -> None:
        def drop(tx: WriteTx) -> None:
            to_device.drop(tx, *device, upto)
            if not to_device.since(tx, *device, upto, now, 1):
                tx.after_commit(lambda: self._empty.put(device, now))

        self._database.submit_along(drop)


def add_to(answer: dict[str, Any], part: DevicePart, left: KeysLeft) -> None:
    """Write a device's part into an answer, with what is left of its keys."""
    if part.messages:
        answer["to_device"] = {"events": part.messages}
    answer["device_lists"] = {"changed": part.changed, "left": part.left}
    answer["device_one_time_keys_count"] = left.one_time
    answer["device_unused_fallback_key_types"] = left.fallbacks
