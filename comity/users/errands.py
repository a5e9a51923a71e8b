"""Errands: what follows from a change of an account in all of its rooms, done beside requests.

A changed name stands in every membership of its user, and who ends their account leaves every room.
Either may be thousands of events: the request that asks for it waits for the first rooms alone. What is
to be done is at rest (`comity.store.errands`), in one transaction with what makes it necessary, so that
it survives a restart; and it is done again from the beginning where it is asked for again. Nothing is
done twice by that: a room that is as it should be is passed over.
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from comity.background import Worker
from comity.ports import Clock
from comity.rooms.portrait import Portraits
from comity.store import errands as stored
from comity.store.cache import Bounded
from comity.store.database import Database, StoreFailedError, StoreOverloadedError, WriteTx
from comity.store.errands import DEPARTURE, END, LOGOUT, PROFILE, Errand
from comity.users.management import Management

_log = logging.getLogger(__name__)
#: Rooms that are written to side by side, by one group of the database; after them, others get a turn.
#: A request waits for as many.
AT_ONCE = 16
#: Seconds between two looks for errands that commands have left here (`comity user`).
LOOK_SECONDS = 600.0
#: And until those are tried again that the database did not take.
RETRY_SECONDS = 60.0
#: Users whose errands are read at a time.
MAX_USERS = 100
#: Users whose rooms are listed in memory, with a number for each: of more, the list is made again.
MAX_WALKS = 200
#: Rooms between two lines of the log about one errand.
LOG_EVERY = 1_000


@dataclass(slots=True)
class _Walk:
    """How far an errand is; `rooms` are those to come, the next one last."""

    errand: Errand
    rooms: list[int]
    total: int
    logged: int = 0

    @property
    def done(self) -> int:
        return self.total - len(self.rooms)


class Errands(Worker):
    """Does them."""

    def __init__(
        self,
        *,
        database: Database,
        clock: Clock,
        portraits: Portraits,
        management: Management,
        withdraw: Callable[[str], Awaitable[None]],
    ) -> None:
        """`withdraw` cancels what a user had scheduled to be sent."""
        self._database = database
        self._clock = clock
        self._portraits = portraits
        self._management = management
        self._withdraw = withdraw
        self._woken = asyncio.Event()
        self._walks: Bounded[str, _Walk] = Bounded(MAX_WALKS)
        #: Held while something is done for a user: side by side, the older of two names could be the last.
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    async def begin(self, user_id: str) -> None:
        """An errand was stored for a user: return when it is done in the first rooms.

        Of rooms elsewhere (invites), whose servers may not answer, none is waited for.
        """
        try:
            with suppress(StoreFailedError, StoreOverloadedError):
                if await self._go_on(user_id, only_here=True):
                    return
        finally:
            # Also if nobody waits for the answer any more.
            self._woken.set()

    async def _work(self) -> None:
        while True:
            self._woken.clear()
            pause = LOOK_SECONDS
            try:
                for user_id in await self._database.read(lambda tx: stored.users(tx, MAX_USERS)):
                    if not await self._go_on(user_id):
                        self._woken.set()
            except (StoreFailedError, StoreOverloadedError) as error:
                _log.info("errands wait for the database: %s", error)
                pause = RETRY_SECONDS
            except Exception:  # noqa: BLE001 - one account's trouble must not end the work on all
                _log.exception("errands could not be done")
                pause = RETRY_SECONDS
            else:
                if self._woken.is_set():
                    continue
            await self._rest(pause)

    async def _rest(self, seconds: float) -> None:
        """Until there is something to do, or that time is over."""
        waits = [asyncio.ensure_future(self._clock.sleep(seconds)), asyncio.ensure_future(self._woken.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    # -- one user's

    async def _go_on(self, user_id: str, *, only_here: bool = False) -> bool:
        """Do the next part of what is to be done for a user; whether nothing is left.

        With `only_here`, it ends before a room for which another server is asked.
        """
        lock = self._locks.setdefault(user_id, asyncio.Lock())
        async with lock:
            waiting = await self._database.read(lambda tx: stored.of(tx, user_id))
            if not waiting:
                return True
            errand = waiting[0]
            if errand.kind in (LOGOUT, END):
                await self._database.write(lambda tx: self._take_over(tx, errand))
                if errand.kind == END:
                    await self._management.unbind(user_id)
                return False
            walk = self._walks.get(user_id)
            if walk is None or (walk.errand.kind, walk.errand.revision) != (errand.kind, errand.revision):
                walk = await self._new_walk(errand)
            await self._walk_on(walk, only_here=only_here)
            is_done = not walk.rooms
            await self._database.write(lambda tx: self._note(tx, walk))
            if not is_done:
                return False
            self._walks.drop(user_id)
            # It may have been asked for again meanwhile.
            return not await self._database.read(lambda tx: stored.of(tx, user_id))

    def _take_over(self, tx: WriteTx, errand: Errand) -> None:
        """What a command could not do itself, for it has no part in this server's memory."""
        stored.finish(tx, errand)
        if errand.kind == END:
            self._management.end_in(tx, errand.user_id, erase=errand.erase)
        else:
            self._management.log_out_in(tx, errand.user_id, errand.since)

    async def _new_walk(self, errand: Errand) -> _Walk:
        user_id = errand.user_id
        if errand.kind == PROFILE:
            rooms = await self._portraits.joined(user_id)
        else:
            await self._withdraw(user_id)
            rooms = await self._portraits.concerned(user_id)
            here = {room for room in rooms if await self._portraits.is_here(room)}
            # The next one is last: first those for which nobody is asked.
            rooms.sort(key=lambda room: room in here)
        walk = _Walk(errand, rooms, len(rooms))
        self._walks.put(user_id, walk)
        return walk

    async def _walk_on(self, walk: _Walk, *, only_here: bool) -> None:
        step = self._portraits.depart if walk.errand.kind == DEPARTURE else self._portraits.carry
        part = walk.rooms[-AT_ONCE:]
        if only_here:
            part = [room for room in part if await self._portraits.is_here(room)]
        # All are waited for, also if the database does not take one: then they are done again.
        results = await asyncio.gather(
            *(step(walk.errand.user_id, room) for room in part), return_exceptions=True
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result
        taken = set(part)
        walk.rooms = [room for room in walk.rooms if room not in taken]

    def _note(self, tx: WriteTx, walk: _Walk) -> None:
        """Keep how far it is, for the operator too."""
        what = f"{walk.errand.kind} of {walk.errand.user_id}"
        if not walk.rooms:
            stored.finish(tx, walk.errand)
            if walk.total > AT_ONCE:
                tx.after_commit(lambda: _log.info("%s: done in all %d rooms", what, walk.total))
            return
        stored.note_progress(tx, walk.errand, walk.done, walk.total)
        if walk.done - walk.logged >= LOG_EVERY:
            walk.logged = walk.done
            _log.info("%s: done in %d of %d rooms", what, walk.done, walk.total)
