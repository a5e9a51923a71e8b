"""Restricted joins: who may come in because of another room, and who vouches for it.

client-server §Restricted rooms, server-server §Restricted rooms, rooms/v8 rule 4.3.5.
"""

from __future__ import annotations

from comity.protocol.auth.power_levels import PowerLevels
from comity.protocol.auth.rules import StateLookup
from comity.protocol.errors import MatrixError, forbidden
from comity.rooms.merge import Merger
from comity.rooms.room import Room, Rooms
from comity.store import partial as stored_partial
from comity.store import rooms as stored_rooms
from comity.store.database import Database, Tx

_RESTRICTED = ("restricted", "knock_restricted")
#: Conditions of one join rule that are looked at.
MAX_CONDITIONS = 100
#: Users of one server that are looked at for one who may invite.
MAX_INVITERS = 1_000


class Restricted:
    """Judges restricted joins for rooms that we are in."""

    def __init__(self, database: Database, rooms: Rooms, merger: Merger, server_name: str) -> None:
        self._database = database
        self._rooms = rooms
        self._merger = merger
        self._server_name = server_name

    async def applies(self, room: Room, user_id: str) -> bool:
        """Whether the user needs somebody to vouch for their join."""
        return await self._database.read(lambda tx: self._applies(self._lookup(tx, room), room, user_id))

    def _lookup(self, tx: Tx, room: Room) -> StateLookup:
        return self._merger.current(tx, room)

    @staticmethod
    def _applies(find: StateLookup, room: Room, user_id: str) -> bool:
        if not room.version.allows_restricted_joins:
            return False
        rules = find(("m.room.join_rules", ""))
        if rules is None or rules.content.get("join_rule") not in _RESTRICTED:
            return False
        member = find(("m.room.member", user_id))
        return member is None or member.membership not in ("join", "invite")

    async def local_authoriser(self, room: Room, user_id: str) -> str | None:
        """A local user who may vouch for the join, if a condition is met; None otherwise."""

        def read(tx: Tx) -> str | None:
            find = self._lookup(tx, room)
            if not self._applies(find, room, user_id) or not self._meets(tx, find, user_id)[0]:
                return None
            return self._authoriser(tx, find, room)

        return await self._database.read(read)

    async def vouchers(self, room: Room, user_id: str) -> list[str]:
        """Other servers that may vouch for a local user's join, where we cannot; those most likely first.

        Raises 403 M_FORBIDDEN when it is known here that no condition is met: nobody else's word
        would be any better.
        """

        def read(tx: Tx) -> list[str]:
            find = self._lookup(tx, room)
            met, unknown = self._meets(tx, find, user_id)
            if not met and not unknown:
                raise forbidden("None of the room's conditions for joining is met")
            levels = PowerLevels(room.version, find(("m.room.create", "")), find(("m.room.power_levels", "")))
            able: list[str] = []
            for server in sorted(room.servers):
                members = stored_rooms.members_of_server(tx, room.number, server)
                if any(
                    member.membership == "join" and levels.user(member.user_id) >= levels.invite
                    for member in members[:MAX_INVITERS]
                ):
                    able.append(server)
            return able

        return await self._database.read(read)

    async def authorise_for(self, room: Room, user_id: str) -> str | None:
        """For another server's user: who vouches, or None if nobody need.

        Raises 400 M_UNABLE_TO_AUTHORISE_JOIN, 400 M_UNABLE_TO_GRANT_JOIN or 403 M_FORBIDDEN
        (server-server §Restricted rooms).
        """

        def read(tx: Tx) -> str | None:
            find = self._lookup(tx, room)
            if not self._applies(find, room, user_id):
                return None
            met, unknown = self._meets(tx, find, user_id)
            if not met and unknown:
                raise MatrixError(
                    400, "M_UNABLE_TO_AUTHORISE_JOIN", "This server cannot tell whether a condition is met"
                )
            if not met:
                raise forbidden("None of the room's conditions for joining is met")
            authoriser = self._authoriser(tx, find, room)
            if authoriser is None:
                raise MatrixError(
                    400, "M_UNABLE_TO_GRANT_JOIN", "No user of this server may invite to the room"
                )
            return authoriser

        return await self._database.read(read)

    def _meets(self, tx: Tx, find: StateLookup, user_id: str) -> tuple[bool, bool]:
        """(whether a condition is met, whether one could not be judged)."""
        rules = find(("m.room.join_rules", ""))
        allow = rules.content.get("allow") if rules is not None else None
        unknown = False
        for condition in allow[:MAX_CONDITIONS] if isinstance(allow, list) else ():
            if not isinstance(condition, dict) or condition.get("type") != "m.room_membership":
                continue
            other = stored_rooms.by_id(tx, str(condition.get("room_id")))
            if other is None or not other.resident:
                unknown = True
                continue
            member = stored_rooms.member(tx, other.room_num, user_id)
            if member is not None and member.membership == "join":
                return True, unknown
            # Of a room whose members are not all here yet, a member's absence says nothing.
            unknown = unknown or (member is None and stored_partial.get(tx, other.room_num) is not None)
        return False, unknown

    def _authoriser(self, tx: Tx, find: StateLookup, room: Room) -> str | None:
        levels = PowerLevels(room.version, find(("m.room.create", "")), find(("m.room.power_levels", "")))
        for member in stored_rooms.members_of_server(tx, room.number, self._server_name):
            if member.membership == "join" and levels.user(member.user_id) >= levels.invite:
                return member.user_id
        return None
