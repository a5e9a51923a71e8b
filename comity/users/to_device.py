"""Messages from device to device, of this server and others.

client-server §Send-to-Device messaging, server-server §Send-to-device messaging.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from comity.bus import Bus
from comity.federation.sink import EduSink, NoSink
from comity.ports import Clock, Entropy
from comity.protocol.errors import bad_json, invalid_param, missing_param
from comity.protocol.identifiers import is_user_id, server_of
from comity.store import queues, to_device
from comity.store.database import Database, WriteTx
from comity.users.accounts import Accounts
from comity.users.text import checked_text

#: Receivers of one request.
MAX_RECEIVERS = 10_000
#: The JSON of one message, as large as an event may be.
MAX_CONTENT_BYTES = 65_536
#: Messages that wait for one device; of one that never syncs, the oldest go.
MAX_WAITING = 10_000
#: Messages that wait for another server; of one that never comes back, the oldest go.
MAX_WAITING_FOR_SERVER = 50_000
#: Every so many positions, a receiver's queue is held against its limit.
TRIM_EVERY = 128
ALL_DEVICES = "*"
#: Enough chance that no two of a server's messages have the same id.
MESSAGE_ID_LENGTH = 24
#: Ids of messages that came from other servers are remembered this long: nobody repeats one so late.
REMEMBER_MS = 30 * 24 * 3600 * 1000


class ToDevice:
    """Queues messages for devices; `comity.sync` hands them over."""

    def __init__(
        self,
        database: Database,
        bus: Bus,
        clock: Clock,
        accounts: Accounts,
        entropy: Entropy,
        sink: EduSink | None = None,
    ) -> None:
        """`sink` is who carries messages to other servers; None: nobody does."""
        self._database = database
        self._bus = bus
        self._clock = clock
        self._accounts = accounts
        self._entropy = entropy
        self._sink = sink or NoSink()

    async def send(
        self, user_id: str, device_id: str, kind: str, transaction_id: str, body: Mapping[str, Any]
    ) -> None:
        """`PUT /sendToDevice/{eventType}/{txnId}`: queue all, once per transaction id.

        Unknown devices are passed over. Raises 400 M_MISSING_PARAM, M_BAD_JSON or M_INVALID_PARAM.
        """
        checked_text(kind, "The event type")
        checked_text(transaction_id, "The transaction id")
        messages = self._checked(body)
        local = {who: part for who, part in messages.items() if self._accounts.is_local(who)}
        remote = self._for_servers(user_id, kind, messages)
        scope, now = f"sendToDevice {kind}", self._clock.now_ms()

        def store(tx: WriteTx) -> None:
            if not queues.note_client_transaction(tx, user_id, device_id, scope, transaction_id, now):
                return
            if not messages:
                return
            position = tx.next_position()
            for server, content in remote.items():
                queues.ensure_destination(tx, server, position - 1)
                to_device.put_outbound(tx, server, position, content)
                if position % TRIM_EVERY == 0:
                    to_device.drop_outbound_beyond(tx, server, MAX_WAITING_FOR_SERVER)
            if remote:
                tx.after_commit(lambda: self._sink.wake_soon(remote.keys()))
            self._deliver(tx, position, user_id, kind, local)

        await self._database.write(store)

    def _deliver(
        self, tx: WriteTx, position: int, sender: str, kind: str, messages: Mapping[str, Mapping[str, str]]
    ) -> None:
        """Queue messages for devices of ours: user id -> device id or "*" -> JSON text."""
        queued: list[tuple[str, str, str]] = []
        for receiver, device in to_device.devices_of(tx, messages):
            by_device = messages[receiver]
            content = by_device.get(device, by_device.get(ALL_DEVICES))
            if content is not None:
                queued.append((receiver, device, content))
        to_device.put(tx, position, sender, kind, queued)
        if position % TRIM_EVERY == 0:
            for receiver, device, _ in queued:
                to_device.drop_beyond(tx, receiver, device, MAX_WAITING)
        reached = {receiver for receiver, _, _ in queued}
        tx.after_commit(lambda: self._bus.publish(position, reached))

    def _for_servers(
        self, sender: str, kind: str, messages: Mapping[str, Mapping[str, str]]
    ) -> dict[str, str]:
        """server -> the content of an EDU with what is for users of it."""
        by_server: dict[str, dict[str, dict[str, orjson.Fragment]]] = {}
        for receiver, by_device in messages.items():
            if not self._accounts.is_local(receiver):
                fragments = {device: orjson.Fragment(content) for device, content in by_device.items()}
                by_server.setdefault(server_of(receiver), {})[receiver] = fragments
        edus = {}
        for server, part in by_server.items():
            message_id = self._entropy.token(MESSAGE_ID_LENGTH)
            content = {"sender": sender, "type": kind, "message_id": message_id, "messages": part}
            edus[server] = orjson.dumps(content).decode()
        return edus

    async def take(self, origin: str, sender: str, kind: str, message_id: str, messages: object) -> None:
        """An `m.direct_to_device` EDU from `origin`, whose user `sender` is: once per message id.

        Receivers who are not of this server are passed over. Raises 400 M_BAD_JSON, M_INVALID_PARAM.
        """
        checked_text(kind, "The event type")
        checked_text(message_id, "The message id")
        checked = self._checked({"messages": messages})
        local = {who: part for who, part in checked.items() if self._accounts.is_local(who)}
        now = self._clock.now_ms()

        def store(tx: WriteTx) -> None:
            if to_device.note_received(tx, origin, message_id, now) and local:
                self._deliver(tx, tx.next_position(), sender, kind, local)

        await self._database.write(store)

    async def forget_received(self) -> None:
        """Forget the ids of messages that came long ago."""
        horizon = self._clock.now_ms() - REMEMBER_MS
        await self._database.write(lambda tx: to_device.forget_received(tx, horizon))

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
            if not is_user_id(receiver):
                raise invalid_param("messages has a receiver that is not a user id")
            for device_id, content in by_device.items():
                if not isinstance(content, dict):
                    raise bad_json("A message is not a JSON object")
                text = orjson.dumps(content)
                if len(text) > MAX_CONTENT_BYTES:
                    raise invalid_param(f"A message has more than {MAX_CONTENT_BYTES} bytes")
                checked.setdefault(receiver, {})[device_id] = text.decode()
        return checked
