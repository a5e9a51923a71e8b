"""Which other servers of a room most likely have what is missing here."""

from __future__ import annotations

from collections.abc import Sequence

from comity.protocol.identifiers import server_of
from comity.rooms.merge import Merger
from comity.rooms.room import Room
from comity.store.database import Database, Tx


class Neighbours:
    """Orders a room's servers by whom to ask first."""

    def __init__(self, database: Database, merger: Merger, server_name: str) -> None:
        """`server_name` is ours."""
        self._database = database
        self._merger = merger
        self._server_name = server_name

    async def to_ask(self, room: Room, first: Sequence[str], most: int) -> list[str]:
        """At most so many servers of the room: `first`, its creator's, its admins', then any."""

        def order(tx: Tx) -> list[str]:
            find = self._merger.current(tx, room)
            levels = find(("m.room.power_levels", ""))
            users = levels.content.get("users") if levels is not None else None
            admins = sorted(users, key=lambda user: -_level(users[user])) if isinstance(users, dict) else []
            create = find(("m.room.create", ""))
            creator = [server_of(create.sender)] if create is not None else []
            return creator + [server_of(user) for user in admins]

        present = room.servers
        wanted = dict.fromkeys([*first, *await self._database.read(order), *sorted(present)])
        there = [server for server in wanted if server in present and server != self._server_name]
        return there[:most]


def _level(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
