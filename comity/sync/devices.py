"""What a device gets beside rooms: messages from other devices, news of keys.

client-server §Extensions to sync (send-to-device, end-to-end encryption).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import orjson

from comity.store import device_keys, personal, to_device
from comity.store.database import Database, Tx
from comity.sync.asked import Asked, SyncRequest

#: Messages in one answer, as the specification advises; the rest come with the next.
MAX_MESSAGES = 100


@dataclass(frozen=True, slots=True)
class DevicePart:
    """A device's part of an answer. `upto`: where its messages end, if not at the answer's position."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    upto: int | None = None

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to wake anybody for."""
        return not self.messages and not self.changed


def news(tx: Tx, asked: Asked) -> DevicePart:
    """Messages that wait for the device, and whose devices changed."""
    request = asked.request
    first = 0 if request.since is None else request.since.messages
    waiting = to_device.since(tx, request.user_id, request.device_id, first, asked.now, MAX_MESSAGES)
    messages = [
        {"type": item.type, "sender": item.sender, "content": orjson.Fragment(item.content)}
        for item in waiting
    ]
    changed: list[str] = []
    if request.since is not None:
        candidates = device_keys.changed_since(tx, asked.after, asked.now)
        if candidates:
            sharing = personal.sharing_room(tx, request.user_id, candidates)
            changed = sorted(sharing | ({request.user_id} & set(candidates)))
    upto = waiting[-1].position if len(waiting) == MAX_MESSAGES else None
    return DevicePart(messages, changed, upto)


def add_to(answer: dict[str, Any], tx: Tx, asked: Asked, part: DevicePart) -> None:
    """Write a device's part into an answer."""
    request = asked.request
    if part.messages:
        answer["to_device"] = {"events": part.messages}
    answer["device_lists"] = {"changed": part.changed, "left": []}
    answer["device_one_time_keys_count"] = device_keys.one_time_key_counts(
        tx, request.user_id, request.device_id
    )
    answer["device_unused_fallback_key_types"] = device_keys.unused_fallback_algorithms(
        tx, request.user_id, request.device_id
    )


async def acknowledge(database: Database, request: SyncRequest) -> None:
    """The device has what came before its token: those messages need not be kept."""
    if request.since is None:
        return
    upto = request.since.messages
    if database.read_now(lambda tx: to_device.since(tx, request.user_id, request.device_id, 0, upto, 1)):
        await database.write(lambda tx: to_device.drop(tx, request.user_id, request.device_id, upto))
