"""Messages from device to device (client-server §Send-to-Device messaging), between local users."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from comity.bus import Bus
from comity.ports import Clock
from comity.protocol.errors import MatrixError, bad_json, invalid_param, missing_param
from comity.store import accounts as stored
from comity.store import queues, to_device
from comity.store.database import Database, WriteTx
from comity.store.to_device import DeviceMessage
from comity.users.accounts import Accounts
from comity.users.text import checked_text

#: Receivers of one request.
MAX_RECEIVERS = 10_000
#: The JSON of one message, as large as an event may be.
MAX_CONTENT_BYTES = 65_536
#: Messages that wait for one device; of one that never syncs, the oldest go.
MAX_WAITING = 10_000
#: Every so many positions, a receiver's queue is held against MAX_WAITING.
TRIM_EVERY = 128
ALL_DEVICES = "*"


class ToDevice:
    """Queues messages for devices; `comity.sync` hands them over."""

    def __init__(self, database: Database, bus: Bus, clock: Clock, accounts: Accounts) -> None:
        self._database = database
        self._bus = bus
        self._clock = clock
        self._accounts = accounts

    async def send(
        self, user_id: str, device_id: str, kind: str, transaction_id: str, body: Mapping[str, Any]
    ) -> None:
        """`PUT /sendToDevice/{eventType}/{txnId}`: queue all, once per transaction id.

        Unknown devices are passed over. Raises 400 M_MISSING_PARAM, M_BAD_JSON, M_INVALID_PARAM,
        and 400 M_UNRECOGNIZED, with nothing sent, where a receiver is on another server.
        """
        checked_text(kind, "The event type")
        checked_text(transaction_id, "The transaction id")
        messages = self._checked(body)
        scope, now = f"sendToDevice {kind}", self._clock.now_ms()

        def store(tx: WriteTx) -> None:
            if queues.client_event(tx, user_id, device_id, scope, transaction_id) is not None:
                return
            queues.put_client_event(tx, user_id, device_id, scope, transaction_id, "", now)
            if not messages:
                return
            position = tx.next_position()
            reached = []
            for receiver, by_device in messages.items():
                devices = [device.device_id for device in stored.devices(tx, receiver)]
                for device in devices:
                    content = by_device.get(device, by_device.get(ALL_DEVICES))
                    if content is None:
                        continue
                    to_device.put(tx, receiver, device, DeviceMessage(position, user_id, kind, content))
                    reached.append(receiver)
                    if position % TRIM_EVERY == 0:
                        to_device.drop_beyond(tx, receiver, device, MAX_WAITING)
            if reached:
                tx.after_commit(lambda: self._bus.publish(position, reached))

        await self._database.write(store)

    def device_gone(self, tx: WriteTx, user_id: str, device_id: str) -> None:
        """A device is being deleted: its messages with it (for `Sessions.when_device_goes`)."""
        to_device.drop(tx, user_id, device_id, to_device.newest(tx, user_id, device_id))

    def _checked(self, body: Mapping[str, Any]) -> dict[str, dict[str, str]]:
        """user id -> device id or "*" -> JSON text."""
        messages = body.get("messages")
        if messages is None:
            raise missing_param("The request body lacks messages")
        if not isinstance(messages, dict) or not all(isinstance(part, dict) for part in messages.values()):
            raise bad_json("messages is not a map of users to maps of devices to messages")
        if sum(len(part) for part in messages.values()) > MAX_RECEIVERS:
            raise invalid_param(f"messages has more than {MAX_RECEIVERS} receivers")
        checked: dict[str, dict[str, str]] = {}
        for receiver, by_device in messages.items():
            if not self._accounts.is_local(receiver):
                raise MatrixError(
                    400,
                    "M_UNRECOGNIZED",
                    "This server does not carry messages to devices of other servers yet",
                )
            for device_id, content in by_device.items():
                if not isinstance(content, dict):
                    raise bad_json("A message is not a JSON object")
                text = orjson.dumps(content)
                if len(text) > MAX_CONTENT_BYTES:
                    raise invalid_param(f"A message has more than {MAX_CONTENT_BYTES} bytes")
                checked.setdefault(receiver, {})[device_id] = text.decode()
        return checked
