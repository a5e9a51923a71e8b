"""Delayed events (MSC4140): a user schedules an event, which is sent when its time has come.

Owns when, and what becomes of it. The table of them is the queue, so a restart forgets nothing:
what fell due meanwhile is sent at the start. Each is sent by a transaction of its own
(client-server §Transaction identifiers), so that a crash between sending and noting it sends no
second event. Whether an event is allowed is asked as it is sent, not before.

A scheduled state event is cancelled when another user sets the same state. Drafts of the MSC have
that rule and clients count on it; the accepted text leaves it out.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

import orjson

from comity.background import Worker
from comity.ports import Clock, Entropy
from comity.protocol import canonical_json
from comity.protocol.build import Draft, check_name_sizes, message_draft
from comity.protocol.errors import MatrixError, bad_json, invalid_param, not_found, too_large
from comity.protocol.event import MAX_EVENT_BYTES
from comity.rooms.membership import Memberships
from comity.rooms.merge import Merger
from comity.rooms.room import Rooms
from comity.rooms.write import ClientTransaction, Writer
from comity.store import delayed as stored
from comity.store.database import Database, StoreFailedError, StoreOverloadedError, Tx, WriteTx
from comity.store.delayed import CANCEL, SEND, SENDING_DEVICE, Delayed, Final
from comity.store.events import position_of

_log = logging.getLogger(__name__)
#: What one user may have scheduled at a time: several devices in several calls, with room to spare.
MAX_SCHEDULED = 100
#: Finalised ones that are kept: so many of a user, so long (the MSC's advice).
MAX_FINALISED, KEEP_MS = 1_000, 7 * 24 * 3600 * 1000
#: Finalised ones in one answer.
PAGE = 100
#: What is sent at the same time; an invite to a slow server takes one of these for a while.
MAX_AT_ONCE = 50
#: The pause after an error that may pass (ours, or of a server that was asked), and for how long it is tried.
RETRY_MS, MAX_RETRIES_MS = 10_000, 3600 * 1000
#: Characters of a delay id: whoever knows it may act on it, so it cannot be guessed.
ID_LENGTH = 32
RESTART = "restart"
ACTIONS = (SEND, CANCEL, RESTART)


@dataclass(frozen=True, slots=True)
class Schedule:
    """What a client asks for. `transaction_id` is None where the request has none; `delay_ms` from 1."""

    user_id: str
    device_id: str
    room_id: str
    type: str
    state_key: str | None
    content: Mapping[str, Any]
    delay_ms: int
    scope: str = ""
    transaction_id: str | None = None


class DelayedEvents(Worker):
    """Keeps and sends what users have scheduled."""

    def __init__(
        self,
        *,
        database: Database,
        rooms: Rooms,
        merger: Merger,
        writer: Writer,
        memberships: Memberships,
        clock: Clock,
        entropy: Entropy,
        position: Callable[[], int],
        admit: Callable[[str], None],
        max_delay_ms: int,
    ) -> None:
        """`position` is where the log ends; `admit` raises MatrixError where a user sends too much."""
        self._database = database
        self._rooms = rooms
        self._merger = merger
        self._writer = writer
        self._memberships = memberships
        self._clock = clock
        self._entropy = entropy
        self._position = position
        self._admit = admit
        self._max_delay_ms = max_delay_ms
        self._news = asyncio.Event()
        self._sending: dict[str, asyncio.Task[None]] = {}
        #: Held by whoever changes what becomes of a delayed event.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def stop(self) -> None:
        """Leave the rest for the next run."""
        await super().stop()
        sending = list(self._sending.values())
        for task in sending:
            task.cancel()
        await asyncio.gather(*sending, return_exceptions=True)

    # -- what users ask

    async def schedule(self, wish: Schedule) -> str:
        """Schedule an event; its delay id. The same request gives the same id.

        Raises MatrixError: 400 with `org.matrix.msc4140.errcode` M_MAX_DELAY_EXCEEDED for a longer
        delay than is allowed, 429 with M_MAX_DELAYED_EVENTS_EXCEEDED; 404 M_NOT_FOUND for a room
        that nobody here is in; 400 or 413 for what could be no event.
        """
        self._check(wish)
        await self._writer.resident_room(wish.room_id)
        now = self._clock.now_ms()
        new = Delayed(
            self._entropy.token(ID_LENGTH), wish.user_id, wish.room_id, wish.type, wish.state_key,
            orjson.dumps(wish.content).decode(), wish.delay_ms, now, self._position(), wish.device_id,
            wish.scope, wish.transaction_id, now + wish.delay_ms,
        )  # fmt: skip
        delay_id = await self._database.write(lambda tx: self._insert(tx, new, now))
        self._news.set()
        return delay_id

    def _check(self, wish: Schedule) -> None:
        if wish.delay_ms < 1:
            raise invalid_param("The delay is not a positive number of milliseconds")
        if wish.delay_ms > self._max_delay_ms:
            # COMPAT: drafts of the MSC put the code beside M_UNKNOWN, and clients look for it there.
            raise MatrixError(
                400, "M_UNKNOWN", "The delay is longer than this server allows",
                extra={
                    "org.matrix.msc4140.errcode": "M_MAX_DELAY_EXCEEDED",
                    "org.matrix.msc4140.max_delay": self._max_delay_ms,
                },
            )  # fmt: skip
        if wish.state_key is None:
            message_draft(wish.type, wish.user_id, wish.content)
        check_name_sizes(Draft(wish.type, wish.user_id, wish.content, wish.state_key))
        try:
            canonical_json.check_values(dict(wish.content))
        except canonical_json.CanonicalJsonError as error:
            raise bad_json(str(error)) from None
        if len(orjson.dumps(wish.content)) > MAX_EVENT_BYTES:
            raise too_large(f"The event is larger than {MAX_EVENT_BYTES} bytes")

    @staticmethod
    def _insert(tx: WriteTx, new: Delayed, now: int) -> str:
        if new.transaction_id is not None:
            known = stored.by_request(tx, new.user_id, new.device_id, new.scope, new.transaction_id)
            if known is not None:
                return known
        held = stored.scheduled(tx, new.user_id)
        if len(held) >= MAX_SCHEDULED:
            wait = max(1, min(item.due_at or now for item in held) - now)
            raise MatrixError(
                429, "M_LIMIT_EXCEEDED", f"You have scheduled {MAX_SCHEDULED} events already",
                extra={
                    "retry_after_ms": wait,
                    "org.matrix.msc4140.errcode": "M_MAX_DELAYED_EVENTS_EXCEEDED",
                },
            )  # fmt: skip
        stored.insert(tx, new)
        return new.delay_id

    async def listed(
        self, user_id: str, status: str | None, start: str | None, wanted: Sequence[str]
    ) -> dict[str, Any]:
        """What a user has scheduled, and what became of it, newest first and in pages.

        `status` is "scheduled", "finalised" or None; `start` a `next_batch`, which goes on with the
        finalised ones; `wanted` are delay ids, if not all. Raises 400 M_INVALID_PARAM.
        """
        before = None if start is None else _parse_place(start)
        scheduled: list[Delayed] = []
        if before is None:
            held = await self._database.read(lambda tx: stored.scheduled(tx, user_id))
            current = [await self._settled(item) for item in held]
            scheduled = [item for item in current if item.final is None and status != "finalised"]
        final: list[Delayed] = []
        if status != "scheduled":
            final = await self._database.read(lambda tx: stored.finalised(tx, user_id, before, PAGE + 1))
        page = final[:PAGE]
        if wanted:
            scheduled = [item for item in scheduled if item.delay_id in wanted]
        answer: dict[str, Any] = {
            "scheduled": [_told(item) for item in scheduled],
            "finalised": [_told_final(item) for item in page if not wanted or item.delay_id in wanted],
        }
        # COMPAT: the MSC's first and last texts have one list. Those who know the first take all that
        # is in it for scheduled, so what is not comes only to who asks for it.
        answer["delayed_events"] = (
            [_told_alone(item) for item in page if not wanted or item.delay_id in wanted]
            if status == "finalised"
            else answer["scheduled"]
        )
        if len(final) > PAGE and page[-1].final is not None:
            answer["next_batch"] = f"{page[-1].final.at}_{page[-1].delay_id}"
        return answer

    async def one(self, user_id: str, delay_id: str) -> dict[str, Any]:
        """One delayed event of a user. Raises 404 M_NOT_FOUND."""
        item = await self._database.read(lambda tx: stored.get(tx, delay_id))
        if item is None or item.user_id != user_id:
            raise _unknown()
        return _told_alone(await self._settled(item))

    async def act(self, delay_id: str, action: str) -> None:
        """Do one of ACTIONS, for whoever knows the id.

        Raises 404 M_NOT_FOUND; 409 M_UNKNOWN where something else has become of it; what sending
        raises, and then it stays scheduled.
        """
        async with self._lock(delay_id):
            item = await self._database.read(lambda tx: stored.get(tx, delay_id))
            if item is None:
                raise _unknown()
            item = await self._settled(item)
            if item.final is not None:
                if action == RESTART:
                    # COMPAT: clients take this alone for a sign to schedule it anew.
                    raise not_found("The delayed event is not scheduled any more")
                if action != item.final.outcome:
                    done = "sent" if item.final.outcome == SEND else "cancelled"
                    raise MatrixError(409, "M_UNKNOWN", f"The delayed event has been {done} already")
            elif action == SEND:
                self._admit(item.user_id)
                event_id = await self._write(item)
                await self._finalise(item, Final(self._clock.now_ms(), SEND, "action", event_id))
            elif action == CANCEL:
                await self._finalise(item, Final(self._clock.now_ms(), CANCEL, "action"))
            else:
                now = self._clock.now_ms()
                await self._database.write(lambda tx: stored.restart(tx, delay_id, now, now + item.delay_ms))
        self._news.set()

    async def cancel_all(self, user_id: str) -> None:
        """Cancel what a user has scheduled: the account ends."""
        for item in await self._database.read(lambda tx: stored.scheduled(tx, user_id)):
            async with self._lock(item.delay_id):
                await self._finalise(item, Final(self._clock.now_ms(), CANCEL, "action"))

    async def forget_old(self) -> None:
        """Forget what was finalised long ago."""
        horizon = self._clock.now_ms() - KEEP_MS
        await self._database.write(lambda tx: stored.forget_before(tx, horizon))

    # -- steps

    def _lock(self, delay_id: str) -> asyncio.Lock:
        lock = self._locks.get(delay_id)
        if lock is None:
            lock = self._locks[delay_id] = asyncio.Lock()
        return lock

    async def _settled(self, item: Delayed) -> Delayed:
        """The same, finalised if another user has set its state meanwhile."""
        if item.final is not None or not await self._overtaken(item):
            return item
        error = {
            "errcode": "M_UNKNOWN",
            "org.matrix.msc4140.errcode": "M_CANCELLED_BY_STATE_UPDATE",
            "error": "Another user has set the same state meanwhile",
        }
        final = Final(self._clock.now_ms(), CANCEL, "error", error=orjson.dumps(error).decode())
        await self._finalise(item, final)
        return replace(item, due_at=None, final=final)

    async def _overtaken(self, item: Delayed) -> bool:
        if item.state_key is None:
            return False
        room, key = await self._rooms.get(item.room_id), (item.type, item.state_key)
        if room is None:
            return False

        def read(tx: Tx) -> bool:
            standing = self._merger.current(tx, room)(key)
            if standing is None or standing.sender == item.user_id:
                return False
            held = self._rooms.events.by_id(tx, standing.event_id)
            return held is not None and held.line is not None and position_of(held.line) > item.position

        return await self._database.read(read)

    async def _write(self, item: Delayed) -> str:
        """Send the event, once however often this is called; its id. Raises MatrixError."""
        content = orjson.loads(item.content)
        transaction = ClientTransaction(item.user_id, SENDING_DEVICE, item.room_id, item.delay_id)
        if item.state_key is None:
            draft = message_draft(item.type, item.user_id, content)
        else:
            draft = Draft(item.type, item.user_id, content, state_key=item.state_key)
        if draft.type == "m.room.member" and draft.state_key is not None:
            return await self._memberships.put(item.room_id, draft, transaction=transaction)
        return await self._writer.send(item.room_id, draft, transaction=transaction)

    async def _finalise(self, item: Delayed, final: Final) -> None:
        def store(tx: WriteTx) -> None:
            stored.finalise(tx, item.delay_id, final)
            stored.forget_oldest(tx, item.user_id, MAX_FINALISED)

        await self._database.write(store)

    # -- sending what is due

    async def _work(self) -> None:
        while True:
            self._news.clear()
            try:
                pause = await self._begin_due()
            except (StoreFailedError, StoreOverloadedError) as error:
                _log.info("delayed events wait for the database: %s", error)
                pause = RETRY_MS / 1000
            except Exception:  # noqa: BLE001 - one event's trouble must not end the work on all
                _log.exception("delayed events could not be sent")
                pause = RETRY_MS / 1000
            await self._wait(pause)

    async def _begin_due(self) -> float | None:
        """Begin to send what is due; the seconds until more is (None: until there is news)."""
        upcoming = await self._database.read(
            lambda tx: stored.upcoming(tx, len(self._sending) + MAX_AT_ONCE + 1)
        )
        for delay_id, due_at in upcoming:
            if delay_id in self._sending:
                continue
            left = due_at - self._clock.now_ms()
            if left > 0:
                return left / 1000
            if len(self._sending) >= MAX_AT_ONCE:
                return None
            task = asyncio.get_running_loop().create_task(self._send(delay_id))
            self._sending[delay_id] = task
            task.add_done_callback(partial(self._sent, delay_id))
        return None

    def _sent(self, delay_id: str, _: asyncio.Task[None]) -> None:
        self._sending.pop(delay_id, None)
        self._news.set()

    async def _wait(self, seconds: float | None) -> None:
        waits: list[asyncio.Future[Any]] = [asyncio.ensure_future(self._news.wait())]
        if seconds is not None:
            waits.append(asyncio.ensure_future(self._clock.sleep(seconds)))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _send(self, delay_id: str) -> None:
        try:
            async with self._lock(delay_id):
                item = await self._database.read(lambda tx: stored.get(tx, delay_id))
                if item is None or item.due_at is None or item.due_at > self._clock.now_ms():
                    return  # somebody was faster
                item = await self._settled(item)
                if item.final is None:
                    await self._send_now(item)
        except (StoreFailedError, StoreOverloadedError) as error:
            _log.info("a delayed event waits for the database: %s", error)
            await self._clock.sleep(RETRY_MS / 1000)
        except Exception:  # noqa: BLE001 - it must not be tried again at once, for ever
            _log.exception("a delayed event could not be sent")
            await self._clock.sleep(RETRY_MS / 1000)

    async def _send_now(self, item: Delayed) -> None:
        now = self._clock.now_ms()
        try:
            self._admit(item.user_id)
            final = Final(now, SEND, "delay", await self._write(item))
        except (StoreFailedError, StoreOverloadedError):
            raise
        except MatrixError as error:
            if error.status >= 500 and now - item.running_since - item.delay_ms < MAX_RETRIES_MS:
                await self._database.write(lambda tx: stored.postpone(tx, item.delay_id, now + RETRY_MS))
                return
            _log.info("a delayed event of %s was not sent: %s", item.user_id, error)
            final = Final(now, CANCEL, "error", error=orjson.dumps(error.body()).decode())
        await self._finalise(item, final)


def _unknown() -> MatrixError:
    return not_found("There is no delayed event of that id")


def _parse_place(token: str) -> tuple[int, str]:
    at, _, delay_id = token.partition("_")
    if not at.isdecimal() or len(at) > len(str(2**53)) or not delay_id.isalnum() or len(delay_id) > ID_LENGTH:
        raise invalid_param("from is not a token of this list")
    return int(at), delay_id


def _told(item: Delayed) -> dict[str, Any]:
    """What is told of a delayed event whatever became of it."""
    told: dict[str, Any] = {
        "delay_id": item.delay_id,
        "room_id": item.room_id,
        "type": item.type,
        "delay": item.delay_ms,
        "running_since": item.running_since,
        "content": orjson.Fragment(item.content),
    }
    if item.state_key is not None:
        told["state_key"] = item.state_key
    return told


def _result(final: Final) -> dict[str, Any]:
    told: dict[str, Any] = {}
    if final.event_id is not None:
        told["event_id"] = final.event_id
    if final.error is not None:
        told["error"] = orjson.Fragment(final.error)
    return told


def _told_final(item: Delayed) -> dict[str, Any]:
    final = item.final
    assert final is not None
    return {
        "delayed_event": _told(item),
        "outcome": final.outcome,
        "reason": final.reason,
        "origin_server_ts": final.at,
        **_result(final),
    }


def _told_alone(item: Delayed) -> dict[str, Any]:
    """A delayed event with what became of it."""
    # COMPAT: matrix-js-sdk has other names for some of it.
    told = {**_told(item), "delay_ms": item.delay_ms, "delayed_since_ts": item.running_since}
    if item.final is not None:
        result = _result(item.final)
        told |= {**result, "origin_server_ts": item.final.at}
        told["finalised"] = {**result, "finalised_ts": item.final.at}
    return told
