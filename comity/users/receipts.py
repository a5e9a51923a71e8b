"""Receipts and the fully-read marker (client-server §Receipts, §Read and unread markers).

Owns the check of what a client says it has read. A receipt is stored with its position and
published under the room's id; the marker is room account data, published under the user's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from comity.bus import Bus
from comity.federation.sink import EduSink, NoSink
from comity.ports import Clock
from comity.protocol.errors import bad_json, forbidden, invalid_param
from comity.protocol.identifiers import is_event_id
from comity.store import personal, relations
from comity.store import rooms as stored_rooms
from comity.store.database import Database, Tx, WriteTx
from comity.store.personal import Receipt
from comity.users.account_data import FULLY_READ

READ = "m.read"
READ_PRIVATE = personal.PRIVATE_RECEIPT
#: client-server §Threaded read receipts: the thread id of what is in no thread.
MAIN = "main"


@dataclass(frozen=True, slots=True)
class RemoteReceipt:
    """An `m.read` receipt of a user of another server, its shape checked; `ts` in ms since the epoch."""

    room_id: str
    user_id: str
    event_id: str
    thread_id: str
    ts: int


class Receipts:
    """How far users have read."""

    def __init__(
        self, database: Database, bus: Bus, clock: Clock, sink: EduSink | None = None, server_name: str = ""
    ) -> None:
        """`sink` is who tells other servers than `server_name`, which is ours; None: nobody does."""
        self._database = database
        self._bus = bus
        self._clock = clock
        self._sink = sink or NoSink()
        self._server_name = server_name

    async def receive(
        self, user_id: str, room_id: str, receipt_type: str, event_id: str, body: Mapping[str, Any]
    ) -> None:
        """`POST /rooms/{roomId}/receipt/{receiptType}/{eventId}`.

        Raises 400 M_INVALID_PARAM or M_BAD_JSON, 403 M_FORBIDDEN.
        """
        thread_id = body.get("thread_id", "")
        if receipt_type == FULLY_READ:
            if thread_id != "":
                raise invalid_param("m.fully_read takes no thread_id")
            await self._move(user_id, room_id, fully_read=event_id, receipts={})
            return
        if receipt_type not in (READ, READ_PRIVATE):
            raise invalid_param("The receipt type is not m.read, m.read.private or m.fully_read")
        if "thread_id" in body and not (thread_id == MAIN or is_event_id(thread_id)):
            raise invalid_param('thread_id is not "main" or the event id of a thread\'s root')
        await self._move(
            user_id, room_id, fully_read=None, receipts={receipt_type: event_id}, thread_id=thread_id
        )

    async def mark(self, user_id: str, room_id: str, body: Mapping[str, Any]) -> None:
        """`POST /rooms/{roomId}/read_markers`: all that is in the body, or nothing of it.

        Raises 400 M_INVALID_PARAM or M_BAD_JSON, 403 M_FORBIDDEN.
        """
        for name in (FULLY_READ, READ, READ_PRIVATE):
            if body.get(name) is not None and not isinstance(body[name], str):
                raise bad_json(f"{name} is not a string")
        receipts = {name: body[name] for name in (READ, READ_PRIVATE) if body.get(name) is not None}
        await self._move(user_id, room_id, fully_read=body.get(FULLY_READ), receipts=receipts)

    async def _move(
        self,
        user_id: str,
        room_id: str,
        *,
        fully_read: str | None,
        receipts: Mapping[str, str],
        thread_id: str = "",
    ) -> None:
        now = self._clock.now_ms()

        def store(tx: WriteTx) -> None:
            room_num = personal.joined_room(tx, room_id, user_id)
            if room_num is None:
                raise forbidden("The user is not in this room")
            published: dict[str, int] = {}
            held = {
                (receipt.receipt_type, receipt.thread_id): receipt.event_id
                for receipt in personal.receipts_of(tx, room_num, user_id)
            }
            for receipt_type, event_id in receipts.items():
                line = _line(tx, room_num, event_id)
                _check_thread(tx, room_num, event_id, thread_id)
                if not _is_ahead(tx, room_num, held.get((receipt_type, thread_id)), line):
                    continue
                published[room_id] = tx.next_position()
                receipt = Receipt(user_id, receipt_type, thread_id, event_id, now)
                personal.put_receipt(tx, room_num, receipt, published[room_id])
                if receipt_type == READ:
                    self._tell(tx, room_num)
            if fully_read is not None:
                _line(tx, room_num, fully_read)
                content = orjson.dumps({"event_id": fully_read}).decode()
                if personal.account_data(tx, user_id, room_id, FULLY_READ) != content:
                    published[user_id] = tx.next_position()
                    personal.put_account_data(tx, user_id, room_id, FULLY_READ, content, published[user_id])

            def publish() -> None:
                for key, position in published.items():
                    self._bus.publish(position, [key])

            tx.after_commit(publish)

        await self._database.write(store)

    def _tell(self, tx: WriteTx, room_num: int) -> None:
        """Wake the outbox for a receipt that was stored."""
        servers = stored_rooms.servers(tx, room_num) - {self._server_name}
        tx.after_commit(lambda: self._sink.wake_soon(servers))

    async def take(self, receipts: Collection[RemoteReceipt]) -> None:
        """What another server says that users of its own have read; what does not fit is passed over.

        Of users who are not in the room, and of events that are not of its timeline here, nothing is
        kept; nor is what is older than what is known.
        """

        def store(tx: WriteTx) -> None:
            published: dict[str, int] = {}
            for receipt in receipts:
                room_num = personal.joined_room(tx, receipt.room_id, receipt.user_id)
                place = personal.event_place(tx, receipt.event_id)
                if room_num is None or place is None or place[0] != room_num:
                    continue
                held = {
                    known.thread_id: known.event_id
                    for known in personal.receipts_of(tx, room_num, receipt.user_id)
                    if known.receipt_type == READ
                }
                if not _is_ahead(tx, room_num, held.get(receipt.thread_id), place[1]):
                    continue
                position = published[receipt.room_id] = tx.next_position()
                stored = Receipt(receipt.user_id, READ, receipt.thread_id, receipt.event_id, receipt.ts)
                personal.put_receipt(tx, room_num, stored, position)

            def publish() -> None:
                for room_id, position in published.items():
                    self._bus.publish(position, [room_id])

            tx.after_commit(publish)

        await self._database.write(store)


def _line(tx: Tx, room_num: int, event_id: str) -> int:
    """Where in the room's timeline an event is. Raises 400 M_INVALID_PARAM if it is not there."""
    place = personal.event_place(tx, event_id) if is_event_id(event_id) else None
    if place is None or place[0] != room_num:
        raise invalid_param("The event is not one of this room's timeline")
    return place[1]


def _check_thread(tx: Tx, room_num: int, event_id: str, thread_id: str) -> None:
    """An event is read in the thread that it is in. Raises 400 M_INVALID_PARAM.

    COMPAT: a root is of the main timeline, but clients also say that they have read it in its thread. And a
    thread may end in what was redacted, which is in no thread any more: clients that saw it there say so.
    """
    if thread_id in ("", event_id):
        return
    found = relations.thread_of_event(tx, event_id)
    if found == MAIN and relations.is_cut_off(tx, event_id):
        place = personal.event_place(tx, thread_id)
        if place is not None and place[0] == room_num:
            return
    if found != thread_id:
        raise invalid_param(
            "The event is in a thread" if thread_id == MAIN else "The event is not in the thread of thread_id"
        )


def _is_ahead(tx: Tx, room_num: int, held: str | None, line: int) -> bool:
    """Whether `line` is past the event of the receipt that is held: "read up to" never goes back."""
    place = personal.event_place(tx, held) if held is not None else None
    return place is None or place[0] != room_num or line > place[1]
