"""POST /createRoom as a whole: the room, then the invites to it (client-server §Creation).

The room is made by `comity.rooms.create`, the invites are those of `comity.rooms.membership`. Owns what
an invite that fails means for the room.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from comity.protocol.errors import MatrixError
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


class Founder:
    """Makes rooms for those whom they are for."""

    def __init__(
        self,
        database: Database,
        rooms: Rooms,
        creator: Creator,
        memberships: Memberships,
        address_invites: AddressInvites,
    ) -> None:
        self._database = database
        self._rooms = rooms
        self._creator = creator
        self._memberships = memberships
        self._address_invites = address_invites

    async def create(self, new: NewRoom, addresses: Sequence[Address] = ()) -> str:
        """Create the room, invite to it, whoever has one of the `addresses` too; its id. Raises MatrixError.

        400 M_UNSUPPORTED_ROOM_VERSION also where the server of an invited user does not support the
        version, 403 M_INVITE_BLOCKED where one of them wants no such invites: then the creator has left
        the room, and nothing leads to it.
        """
        # Of users of ours it is known before there is a room.
        await self._memberships.check_invitable(new.invite)
        room_id = await self._creator.create(new)
        invited: list[str] = []
        for target in dict.fromkeys(new.invite):
            try:
                await self._memberships.invite(new.creator, room_id, target, is_direct=new.is_direct)
            except MatrixError as error:
                _log.warning("%s could not be invited to %s: %s", target, room_id, error)
                if error.code in FATAL:
                    await self._withdraw(new.creator, room_id, invited)
                    raise
            else:
                invited.append(target)
        for whom in addresses:
            try:
                await self._address_invites.invite(new.creator, room_id, whom, is_direct=new.is_direct)
            except MatrixError as error:
                # As with other invites, the room stands, and the invite can be repeated.
                _log.warning("an address could not be invited to %s: %s", room_id, error)
        return room_id

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
