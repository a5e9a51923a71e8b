"""Room aliases: ours in the store, others' asked for (client-server §Room aliases)."""

from __future__ import annotations

from comity.federation.directory_calls import DirectoryCalls
from comity.federation.errors import FederationError
from comity.protocol import identifiers
from comity.protocol.auth.power_levels import PowerLevels
from comity.protocol.errors import MatrixError, forbidden, invalid_param, not_found
from comity.protocol.identifiers import split_alias
from comity.rooms.merge import Merger
from comity.rooms.room import Room, Rooms
from comity.store import published as stored_published
from comity.store import rooms as stored_rooms
from comity.store.database import Database, Tx

#: Servers that are named in one answer.
MAX_SERVERS = 100


class Directory:
    """Aliases and where they lead."""

    def __init__(
        self, database: Database, rooms: Rooms, merger: Merger, calls: DirectoryCalls, server_name: str
    ) -> None:
        self._database = database
        self._rooms = rooms
        self._merger = merger
        self._calls = calls
        self._server_name = server_name

    async def resolve(self, alias: str) -> tuple[str, list[str]]:
        """(room id, servers to join through). Raises 404 M_NOT_FOUND, 400 M_INVALID_PARAM."""
        parts = split_alias(alias)
        if parts is None:
            raise invalid_param("That is not a room alias")
        if parts[1] == self._server_name:
            return await self.local(alias)
        try:
            answer = await self._calls.query_directory(parts[1], alias)
        except FederationError as error:
            if error.status == 404:
                raise not_found("There is no room of that alias") from None
            raise MatrixError(502, "M_UNKNOWN", f"{parts[1]} could not be asked", detail=str(error)) from None
        servers = dict.fromkeys([*answer.servers, parts[1]])
        return answer.room_id, list(servers)[:MAX_SERVERS]

    async def local(self, alias: str) -> tuple[str, list[str]]:
        """(room id, servers in the room) of an alias of ours. Raises 404 M_NOT_FOUND."""
        found = await self._database.read(lambda tx: stored_rooms.alias(tx, alias))
        if found is None:
            raise not_found("There is no room of that alias")
        room = await self._rooms.get(found[0])
        servers = sorted(room.servers) if room is not None else []
        own = [self._server_name] if room is not None and room.resident else []
        return found[0], list(dict.fromkeys([*own, *servers]))[:MAX_SERVERS]

    async def create(self, user_id: str, alias: str, room_id: str) -> None:
        """Create an alias of ours for a room. Raises 409 M_UNKNOWN when it is taken."""
        parts = split_alias(alias)
        if parts is None or any(part.isspace() for part in alias):
            raise invalid_param("That is not a room alias")
        if parts[1] != self._server_name:
            raise invalid_param("The alias is not one of this server")
        if await self._rooms.get(room_id) is None:
            raise not_found("There is no such room here")
        made = await self._database.write(lambda tx: stored_rooms.put_alias(tx, alias, room_id, user_id))
        if not made:
            raise MatrixError(409, "M_UNKNOWN", "The room alias is taken")

    async def delete(self, user_id: str, alias: str, *, admin: bool) -> None:
        """Delete an alias: its creator may, a server admin, and who may set the room's canonical alias."""
        found = await self._database.read(lambda tx: stored_rooms.alias(tx, alias))
        if found is None:
            raise not_found("There is no room of that alias")
        room = await self._rooms.get(found[0])
        if (
            not admin
            and found[1] != user_id
            and not (room is not None and await self._may_curate(room, user_id))
        ):
            raise forbidden("You may not delete this alias")
        await self._database.write(lambda tx: stored_rooms.delete_alias(tx, alias))

    async def _may_curate(self, room: Room, user_id: str) -> bool:
        def read(tx: Tx) -> bool:
            find = self._merger.current(tx, room)
            levels = PowerLevels(room.version, find(("m.room.create", "")), find(("m.room.power_levels", "")))
            member = find(("m.room.member", user_id))
            joined = member is not None and member.membership == "join"
            return joined and levels.user(user_id) >= levels.required("m.room.canonical_alias", is_state=True)

        return await self._database.read(read)

    async def is_published(self, room_id: str) -> bool:
        """Whether a room is in our published directory. Raises 404 M_NOT_FOUND."""
        room = await self._rooms.get(room_id)
        if room is None:
            raise not_found("There is no such room here")
        return await self._database.read(lambda tx: stored_published.is_published(tx, room.number))

    async def publish(self, user_id: str, room_id: str, *, published: bool, admin: bool) -> None:
        """Put a room into our published directory, or take it out.

        Who may set the room's canonical alias may, and server admins. Raises 403, 404.
        """
        room = await self._rooms.get(room_id)
        if room is None or not room.resident:
            raise not_found("There is no such room here")
        if not admin and not await self._may_curate(room, user_id):
            raise forbidden("You may not decide whether this room is published")
        await self._database.write(
            lambda tx: stored_rooms.set_published(tx, room.number, published=published)
        )

    async def aliases(self, user_id: str, room_id: str) -> list[str]:
        """The local aliases of a room, for its members. Raises 403 M_FORBIDDEN, 400 M_INVALID_PARAM."""
        if not identifiers.is_room_id(room_id):
            raise invalid_param("That is not a room id")
        room = await self._rooms.get(room_id)
        if room is None:
            raise forbidden("You are not in the room")

        def read(tx: Tx) -> list[str]:
            find = self._merger.current(tx, room)
            visibility = find(("m.room.history_visibility", ""))
            open_to_all = (
                visibility is not None and visibility.content.get("history_visibility") == "world_readable"
            )
            member = stored_rooms.member(tx, room.number, user_id)
            if not open_to_all and (member is None or member.membership != "join"):
                raise forbidden("You are not in the room")
            return stored_rooms.aliases_of(tx, room_id)

        return await self._database.read(read)
