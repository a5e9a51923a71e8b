"""EDUs of other servers: checked one by one, and given to the part that each concerns.

server-server §EDUs. A server speaks for its own users alone. What is malformed or not its affair is
passed over with a line in the log; the transaction stands.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

from comity.protocol import canonical_json
from comity.protocol.errors import MatrixError, bad_json, forbidden
from comity.protocol.identifiers import is_event_id, is_room_id, is_user_id, server_of
from comity.store import device_lists, personal
from comity.store.database import Database, StoreFailedError, StoreOverloadedError
from comity.users.ephemeral import Ephemeral
from comity.users.presence import MAX_STATUS_BYTES, PRESENCES
from comity.users.receipts import READ, Receipts, RemoteReceipt
from comity.users.remote_devices import RemoteDevices
from comity.users.text import checked_text, optional_text
from comity.users.to_device import ToDevice

_log = logging.getLogger(__name__)
#: Other servers repeat that somebody types about every 40 seconds, and tell of the end.
REMOTE_TYPING_MS = 60_000
#: Receipts, and presences, in one EDU that are looked at.
MAX_RECEIPTS = 1_000
MAX_PRESENCES = 200
#: Events of one receipt: the ends of a forked room.
MAX_RECEIPT_EVENTS = 20
#: A moment, or a span, in ms: what a double holds exactly.
MAX_MS = 2**53

#: Whether a server may take part in a room that is known here (room id, server).
Admits = Callable[[str, str], Awaitable[bool]]
_Content = Mapping[str, Any]


class Edus:
    """Takes EDUs in."""

    def __init__(
        self,
        *,
        database: Database,
        ephemeral: Ephemeral,
        receipts: Receipts,
        to_device: ToDevice,
        remote: RemoteDevices,
        server_name: str,
        admits: Admits,
    ) -> None:
        self._database = database
        self._ephemeral = ephemeral
        self._receipts = receipts
        self._to_device = to_device
        self._remote = remote
        self._server_name = server_name
        self._admits = admits
        self._volatile: dict[str, Callable[[str, _Content], Awaitable[None]]] = {
            "m.typing": self._typing,
            "m.presence": self._presence,
        }
        self._lasting: dict[str, Callable[[str, _Content], Awaitable[None]]] = {
            "m.receipt": self._receipt,
            "m.direct_to_device": self._direct,
            "m.device_list_update": self._device_list,
            "m.signing_key_update": self._signing_key,
        }

    async def receive(self, origin: str, edus: Sequence[object], *, is_replay: bool) -> None:
        """Take the EDUs of a transaction in; return when those that last are on disk.

        Of a transaction that was answered before (`is_replay`), only those that last are taken
        again: the server may have ended between its events and them. Raises StoreFailedError,
        StoreOverloadedError: the transaction is to be sent again.
        """
        for edu in edus:
            edu_type = edu.get("edu_type") if isinstance(edu, dict) else None
            content = edu.get("content") if isinstance(edu, dict) else None
            if not isinstance(edu_type, str) or not isinstance(content, dict):
                _log.info("an EDU of %s is malformed", origin)
                continue
            take = self._lasting.get(edu_type)
            if take is None and not is_replay:
                take = self._volatile.get(edu_type)
            if take is None:
                continue
            try:
                canonical_json.check_nesting(content)
                await take(origin, content)
            except (StoreFailedError, StoreOverloadedError):
                raise
            except MatrixError as error:
                _log.info("an EDU %s of %s was not used: %s", edu_type, origin, error.text)
            except canonical_json.CanonicalJsonError as error:
                _log.info("an EDU %s of %s was not used: %s", edu_type, origin, error)

    # -- what passes

    async def _typing(self, origin: str, content: _Content) -> None:
        """server-server §Typing Notifications."""
        room_id, user_id = content.get("room_id"), _user_of(origin, content.get("user_id"))
        if not isinstance(room_id, str) or not is_room_id(room_id):
            raise bad_json("room_id is not a room id")
        typing = content.get("typing") is True
        is_there = await self._database.look_up(
            lambda tx: personal.joined_room(tx, room_id, user_id) is not None
        )
        if not is_there or not await self._admits(room_id, origin):
            raise forbidden("The user may not take part in that room")
        self._ephemeral.set_typing(user_id, room_id, REMOTE_TYPING_MS if typing else None)

    async def _presence(self, origin: str, content: _Content) -> None:
        """server-server §Presence."""
        for entry in _first(content.get("push"), MAX_PRESENCES):
            if not isinstance(entry, dict) or entry.get("presence") not in PRESENCES:
                continue
            try:
                user_id = _user_of(origin, entry.get("user_id"))
                status = optional_text(entry.get("status_msg"), "status_msg", most=MAX_STATUS_BYTES)
            except MatrixError:
                continue
            shares = await self._database.look_up(
                lambda tx, who=user_id: device_lists.users_sharing(tx, who, self._server_name, 1)  # type: ignore[misc]
            )
            if shares:
                ago = _moment(entry.get("last_active_ago")) or 0
                await self._ephemeral.presences.take(
                    user_id, entry["presence"], status, ago, is_active=entry.get("currently_active") is True
                )

    # -- what lasts

    async def _receipt(self, origin: str, content: _Content) -> None:
        """server-server §Receipts."""
        found: list[RemoteReceipt] = []
        for room_id, by_type in _first(content.items(), MAX_RECEIPTS):
            users = by_type.get(READ) if isinstance(by_type, dict) else None
            if not isinstance(users, dict) or not is_room_id(room_id):
                continue
            if await self._admits(room_id, origin):
                for user_id, receipt in users.items():
                    found += _receipts(origin, room_id, user_id, receipt)
            if len(found) > MAX_RECEIPTS:
                break
        if found:
            await self._receipts.take(found[:MAX_RECEIPTS])

    async def _direct(self, origin: str, content: _Content) -> None:
        """server-server §Send-to-device messaging."""
        sender = _user_of(origin, content.get("sender"))
        kind = checked_text(content.get("type"), "type")
        message_id = checked_text(content.get("message_id"), "message_id")
        await self._to_device.take(origin, sender, kind, message_id, content.get("messages"))

    async def _device_list(self, origin: str, content: _Content) -> None:
        """server-server §Device Management."""
        await self._remote.update(_user_of(origin, content.get("user_id")), content)

    async def _signing_key(self, origin: str, content: _Content) -> None:
        """server-server §End-to-End Encryption."""
        await self._remote.update_signing(_user_of(origin, content.get("user_id")), content)


def _user_of(origin: str, user_id: object) -> str:
    """The user that an EDU is about. Raises 403 M_FORBIDDEN unless they are of the server that sent it."""
    if not isinstance(user_id, str) or not is_user_id(user_id) or server_of(user_id) != origin:
        raise forbidden("It is not about a user of the server that sent it")
    return user_id


def _moment(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < MAX_MS:
        return None
    return value


def _first(values: object, most: int) -> Iterable[Any]:
    if not isinstance(values, Iterable):
        return []
    return list(values)[:most]


def _receipts(origin: str, room_id: str, user_id: object, receipt: object) -> list[RemoteReceipt]:
    """The receipts of one user in one room; none where they are malformed."""
    if not isinstance(user_id, str) or not is_user_id(user_id) or server_of(user_id) != origin:
        return []
    if not isinstance(receipt, dict):
        return []
    event_ids, data = receipt.get("event_ids"), receipt.get("data")
    if not isinstance(event_ids, list) or not isinstance(data, dict):
        return []
    ts, thread_id = _moment(data.get("ts")), data.get("thread_id", "")
    if ts is None or not (thread_id in ("", "main") or is_event_id(thread_id)):
        return []
    return [
        RemoteReceipt(room_id, user_id, event_id, thread_id, ts)
        for event_id in event_ids[:MAX_RECEIPT_EVENTS]
        if is_event_id(event_id)
    ]
