"""Erase what messages said once their time is over, for good (MSC1763).

Owns when and in which order. From the moment on that an event's time is over nobody is shown it
(`comity.rooms.read.visible`); here it loses its content in the store too, a while later. What is left
of it is what redaction leaves, so that the room's graph, its hashes and its signatures hold. State
is never erased, nor a room's newest event.
"""

from __future__ import annotations

import logging
from functools import partial

from comity.background import Worker
from comity.ports import Clock
from comity.rooms.read.lifetimes import Horizon
from comity.store import notices, relations, retention, search
from comity.store.database import Database, StoreFailedError, StoreOverloadedError, Tx, WriteTx
from comity.store.events import Events, StoredEvent
from comity.store.retention import ERASED

_log = logging.getLogger(__name__)
#: Seconds after the start until the first pass, when whoever was waiting has been served.
SETTLE_SECONDS = 60.0
#: Rooms, and events of one room, that are looked at in one read.
ROOMS, PAGE = 100, 500
#: Events that are erased in one transaction: about 20 ms of work.
BATCH = 100
#: Seconds between two steps, which leave the machine to those who wait for it.
BREATH_SECONDS = 0.05
#: Seconds until the database is tried again.
RETRY_SECONDS = 60.0
#: Events after which the log is told how far it is.
TELL_EVERY = 10_000


class Eraser(Worker):
    """Erases messages in the background."""

    def __init__(
        self, database: Database, events: Events, clock: Clock, horizon: Horizon, every_seconds: float
    ) -> None:
        """`every_seconds` is the pause between two passes over all rooms."""
        self._database = database
        self._events = events
        self._clock = clock
        self._horizon = horizon
        self._every_seconds = every_seconds

    async def _work(self) -> None:
        pause = SETTLE_SECONDS
        while True:
            await self._clock.sleep(pause)
            pause = self._every_seconds
            try:
                await self.pass_over_all()
            except (StoreFailedError, StoreOverloadedError) as error:
                _log.info("old messages wait for the database to be erased: %s", error)
                pause = RETRY_SECONDS
            except Exception:  # noqa: BLE001 - one pass's trouble must not end those after it
                _log.exception("old messages could not be erased")

    async def pass_over_all(self) -> int:
        """Erase what is due in every room; how many events."""
        erased, rooms, last = 0, 0, 0
        while listed := await self._database.read(partial(retention.rooms_after, room_num=last, limit=ROOMS)):
            for room_num in listed:
                horizon = await self._database.read(partial(self._horizon_of, room_num=room_num))
                if horizon is not None:
                    found = await self._erase_in(room_num, horizon, erased)
                    erased, rooms = erased + found, rooms + bool(found)
            last = listed[-1]
        if erased:
            _log.info("%d messages of %d rooms were erased: their time was over", erased, rooms)
        return erased

    def _horizon_of(self, tx: Tx, room_num: int) -> int | None:
        return self._horizon(tx, room_num)

    async def _erase_in(self, room_num: int, horizon: int, before: int) -> int:
        """Erase a room's messages from before a time; how many. `before`: those of other rooms."""
        place, erased = (-(2**63) + 1, 0), 0
        newest = await self._database.read(lambda tx: self._events.last_line(tx, room_num))
        while True:
            listed = await self._database.read(
                lambda tx: retention.from_before(tx, room_num, horizon, place, PAGE)  # noqa: B023
            )
            due = [old.number for old in listed if old.whole and (old.line is None or old.line != newest)]
            for start in range(0, len(due), BATCH):
                numbers = due[start : start + BATCH]
                await self._database.write(partial(self._erase, numbers=numbers))
                told = (before + erased) // TELL_EVERY
                erased += len(numbers)
                if (before + erased) // TELL_EVERY > told:
                    _log.info("%d old messages are erased so far", before + erased)
                await self._clock.sleep(BREATH_SECONDS)
            if len(listed) < PAGE:
                return erased
            place = (listed[-1].at, listed[-1].number)
            await self._clock.sleep(BREATH_SECONDS)

    def _erase(self, tx: WriteTx, numbers: list[int]) -> None:
        """Erase events, and what is stored because of what they said."""
        held = [stored for stored in self._events.load(tx, numbers).values() if stored.redacted_by is None]
        bare = [(stored.number, stored.event.redacted()) for stored in held]
        retention.erase(tx, bare)
        for stored in held:
            search.remove(tx, stored.number, stored.event.type, stored.event.content)
            relations.forget(tx, stored.number)
            if stored.line is not None:
                notices.forget(tx, stored.room_num, [stored.line])
        tx.after_commit(lambda: self._note(held))

    def _note(self, erased: list[StoredEvent]) -> None:
        for stored in erased:
            self._events.redact(stored.number, stored.event.redacted(), ERASED, self._database.commits)
