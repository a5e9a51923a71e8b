"""POST /createRoom as a whole: the room, then the invites to it (client-server §Creation).

The room is made by `comity.rooms.create`, the invites are those of `comity.rooms.membership`. Owns what
an invite that fails means for the room, and for how long a client is kept waiting for other servers.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from comity.ports import Clock
from comity.protocol.errors import MatrixError
from comity.protocol.identifiers import server_of
from comity.rooms.address_invites import Address, AddressInvites
from comity.rooms.create import Creator, NewRoom
from comity.rooms.membership import Memberships
from comity.rooms.room import Rooms
from comity.store import rooms as stored_rooms
from comity.store.database import Database, Tx

_log = logging.getLogger(__name__)
#: Refusals of an invite that createRoom answers with: a room of that version, or by that user, cannot be
#: for whom it was meant. With any other the room stands, and the invite can be repeated.
FATAL = frozenset({"M_UNSUPPORTED_ROOM_VERSION", "M_INVITE_BLOCKED"})
#: Other servers' users that are invited at once: each may make the room's graph fork.
MAX_AT_ONCE = 5
#: Seconds after which the client has its answer, while servers that do not answer are waited for further:
#: apps give up after half a minute, and make the room again.
PATIENCE_SECONDS = 15.0
#: Rooms that are being made, and invites to them on their way to other servers, beyond which no other room
#: is begun: they go on although their clients have gone.
MAX_RUNNING = 2_000
#: Milliseconds after which whoever was turned away may try again.
RETRY_MS = 5_000
T = TypeVar("T")


class Founder:
    """Makes rooms for those whom they are for."""

    def __init__(
        self,
        database: Database,
        rooms: Rooms,
        creator: Creator,
        memberships: Memberships,
        address_invites: AddressInvites,
        clock: Clock,
        server_name: str,
    ) -> None:
        self._database = database
        self._rooms = rooms
        self._creator = creator
        self._memberships = memberships
        self._address_invites = address_invites
        self._clock = clock
        self._server_name = server_name
        #: What goes on although nobody waits for it.
        self._running: set[asyncio.Task[Any]] = set()

    async def create(self, new: NewRoom, addresses: Sequence[Address] = ()) -> str:
        """Create the room, invite to it, whoever has one of the `addresses` too; its id. Raises MatrixError.

        400 M_UNSUPPORTED_ROOM_VERSION also where the server of an invited user does not support the
        version, 403 M_INVITE_BLOCKED where one of them wants no such invites: then the creator has left
        the room, and nothing leads to it. A server that answers too late is not waited for. 429
        M_LIMIT_EXCEEDED where too many are being made.
        """
        if len(self._running) >= MAX_RUNNING:
            text = "Too many rooms are being made at once: try again in some seconds"
            raise MatrixError(429, "M_LIMIT_EXCEEDED", text, extra={"retry_after_ms": RETRY_MS})
        # It goes on when the client does not wait: half of the invites are of no use to anybody.
        return await asyncio.shield(self._begun(self._create(new, addresses)))

    async def stop(self) -> None:
        """Give up what is under way; no room may be begun any more. Nobody was told that it is there."""
        tasks = list(self._running)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begun(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.info("a new room, or an invite to it, came to nothing: %s", error)

    async def _create(self, new: NewRoom, addresses: Sequence[Address]) -> str:
        # Of users of ours it is known before there is a room.
        await self._memberships.check_invitable(new.invite)
        room_id = await self._creator.create(new)
        await self._invite(new, room_id)
        for whom in addresses:
            try:
                await self._address_invites.invite(new.creator, room_id, whom, is_direct=new.is_direct)
            except MatrixError as error:
                # As with other invites, the room stands, and the invite can be repeated.
                _log.warning("an address could not be invited to %s: %s", room_id, error)
        return room_id

    async def _invite(self, new: NewRoom, room_id: str) -> None:
        """Invite all who are to come: ours in their order, others as their servers answer."""
        invited: list[str] = []
        fatal: list[MatrixError] = []
        at_once = asyncio.Semaphore(MAX_AT_ONCE)

        async def invite(target: str) -> None:
            try:
                async with at_once:
                    await self._memberships.invite(new.creator, room_id, target, is_direct=new.is_direct)
            except MatrixError as error:
                _log.warning("%s could not be invited to %s: %s", target, room_id, error)
                if error.code in FATAL:
                    fatal.append(error)
            else:
                invited.append(target)

        targets = dict.fromkeys(new.invite)
        for target in targets:
            if server_of(target) == self._server_name:
                await invite(target)
        await self._patiently(
            [self._begun(invite(target)) for target in targets if server_of(target) != self._server_name]
        )
        if fatal:
            await self._withdraw(new.creator, room_id, invited)
            raise fatal[0]

    async def _patiently(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        """Wait until all are done, or for PATIENCE_SECONDS. Raises what one of them raised."""
        if not tasks:
            return
        pause = asyncio.ensure_future(self._clock.sleep(PATIENCE_SECONDS))
        waiting = set(tasks)
        try:
            while waiting and not pause.done():
                await asyncio.wait({*waiting, pause}, return_when=asyncio.FIRST_COMPLETED)
                waiting = {task for task in waiting if not task.done()}
        finally:
            pause.cancel()
        for task in tasks:
            if task.done():
                task.result()

    async def _withdraw(self, creator: str, room_id: str, invited: Sequence[str]) -> None:
        """Take back what was made: invites first, while there is somebody who can."""
        for target in invited:
            try:
                await self._memberships.kick(creator, room_id, target)
            except MatrixError as error:
                _log.info("the invite of %s to %s stands: %s", target, room_id, error)
        room = await self._rooms.get(room_id)

        def hide(tx: Tx) -> None:
            for alias in stored_rooms.aliases_of(tx, room_id):
                stored_rooms.delete_alias(tx, alias)
            if room is not None:
                stored_rooms.set_published(tx, room.number, published=False)

        await self._database.write(hide)
        await self._memberships.leave(creator, room_id)
        await self._memberships.forget(creator, room_id)
