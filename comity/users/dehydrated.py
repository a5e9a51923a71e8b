"""Dehydrated devices (MSC3814): one that takes messages for a user while none of theirs is logged in.

Its private keys are in what the client stores here, encrypted for its user.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from comity.bus import Bus
from comity.ports import Clock
from comity.protocol.errors import bad_json, invalid_param, missing_param, not_found
from comity.store import accounts as stored
from comity.store import dehydrated, to_device
from comity.store.database import Database, Tx, WriteTx
from comity.users.key_shapes import checked_identity, checked_keys
from comity.users.keys import Keys
from comity.users.sessions import MAX_DEVICE_NAME_BYTES, Sessions
from comity.users.text import checked_text, optional_text

#: The JSON of `device_data`: the private keys of a device with all its one-time keys take 20 KiB.
MAX_DATA_BYTES = 256 * 1024
#: Messages in one answer; the next are asked for with its `next_batch`.
MAX_MESSAGES = 100
#: Digits of a position in a `next_batch`.
MAX_DIGITS = 15
_NONE = "There is no dehydrated device"


class DehydratedDevices:
    """The dehydrated devices of local users."""

    def __init__(self, database: Database, bus: Bus, clock: Clock, sessions: Sessions, keys: Keys) -> None:
        self._database = database
        self._bus = bus
        self._clock = clock
        self._sessions = sessions
        self._keys = keys

    async def put(self, user_id: str, body: Mapping[str, Any]) -> str:
        """`PUT /dehydrated_device`: it takes the place of the one before; its device id.

        Raises 400 M_MISSING_PARAM, M_BAD_JSON or M_INVALID_PARAM.
        """
        for wanted in ("device_id", "device_data", "device_keys"):
            if body.get(wanted) is None:
                raise missing_param(f"The request body lacks {wanted}")
        device_id, data = checked_text(body["device_id"], "device_id"), body["device_data"]
        if not isinstance(data, dict) or not isinstance(data.get("algorithm"), str):
            raise bad_json("device_data is not a JSON object with an algorithm")
        text = orjson.dumps(data)
        if len(text) > MAX_DATA_BYTES:
            raise invalid_param(f"device_data has more than {MAX_DATA_BYTES} bytes")
        name = optional_text(
            body.get("initial_device_display_name"), "initial_device_display_name", most=MAX_DEVICE_NAME_BYTES
        )
        identity = checked_identity(user_id, device_id, body["device_keys"])
        one_time = list(checked_keys(body.get("one_time_keys"), "one_time_keys"))
        fallback = list(checked_keys(body.get("fallback_keys"), "fallback_keys"))
        now = self._clock.now_ms()

        def store(tx: WriteTx) -> None:
            held = dehydrated.get(tx, user_id)
            if held is not None:
                self._sessions.close_in(tx, user_id, [held[0]])
            if stored.device(tx, user_id, device_id) is not None:
                raise invalid_param("A device of that id is logged in")
            self._sessions.add_device_in(tx, user_id, device_id, name, now)
            self._keys.put_in(tx, user_id, device_id, identity, one_time, fallback, now)
            dehydrated.put(tx, user_id, device_id, text.decode())

        await self._database.write(store)
        return device_id

    async def get(self, user_id: str) -> dict[str, Any]:
        """`GET /dehydrated_device`. Raises 404 M_NOT_FOUND."""
        held = await self._database.look_up(lambda tx: dehydrated.get(tx, user_id))
        if held is None:
            raise not_found(_NONE)
        return {"device_id": held[0], "device_data": orjson.Fragment(held[1])}

    async def delete(self, user_id: str) -> str:
        """`DELETE /dehydrated_device`: its device id. Raises 404 M_NOT_FOUND."""

        def store(tx: WriteTx) -> str:
            held = dehydrated.get(tx, user_id)
            if held is None:
                raise not_found(_NONE)
            self._sessions.close_in(tx, user_id, [held[0]])
            return held[0]

        return await self._database.write(store)

    async def events(self, user_id: str, device_id: str, batch: object) -> dict[str, Any]:
        """The messages that wait for it, from `batch` on (None: from the first one on).

        `next_batch` is there as long as there were messages. They stay until the device goes: whoever
        fetches them may fail half way. Raises 400 M_INVALID_PARAM, 404 M_NOT_FOUND.
        """
        after = 0 if batch is None else _position(batch)
        now = self._bus.position

        def read(tx: Tx) -> list[to_device.DeviceMessage]:
            held = dehydrated.get(tx, user_id)
            if held is None or held[0] != device_id:
                raise not_found("This is not the user's dehydrated device")
            return to_device.since(tx, user_id, device_id, after, now, MAX_MESSAGES)

        found = await self._database.read(read)
        events = [
            {"type": item.type, "sender": item.sender, "content": orjson.Fragment(item.content)}
            for item in found
        ]
        return {"events": events, "next_batch": str(found[-1].position)} if found else {"events": []}

    def device_gone(self, tx: WriteTx, user_id: str, device_id: str) -> None:
        """A device is being deleted (for `Sessions.when_device_goes`)."""
        dehydrated.drop(tx, user_id, device_id)


def _position(batch: object) -> int:
    text = batch if isinstance(batch, str) else ""
    if not text.isascii() or not text.isdigit() or len(text) > MAX_DIGITS:
        raise invalid_param("This is not a next_batch of these messages")
    return int(text)
