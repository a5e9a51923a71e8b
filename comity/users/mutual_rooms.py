"""The rooms that two users are both joined to (client-server §Mutual Rooms)."""

from __future__ import annotations

from dataclasses import dataclass

from comity.protocol.errors import invalid_param
from comity.protocol.identifiers import is_compliant_user_id
from comity.store import personal
from comity.store.database import Database, Tx

#: Rooms of one answer: most people share fewer, and an app shows no more at once.
MAX_ROOMS = 100
#: The greatest number that a database can be asked for.
MAX_ROOM_NUMBER = 2**63 - 1
#: Digits of it.
MAX_TOKEN_CHARACTERS = 19


@dataclass(frozen=True, slots=True)
class Batch:
    """Room ids, how many there are in all, and where the next batch begins (None after the last)."""

    joined: list[str]
    count: int
    next_batch: str | None


class MutualRooms:
    """Finds what two users share."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def shared(self, user_id: str, other: str, token: str | None) -> Batch:
        """A batch of at most MAX_ROOMS rooms, from `token` on. Raises 400 M_INVALID_PARAM.

        Only what the user is joined to is told of, so that nothing is said of a user whom they do not
        meet anywhere, not even whether there is one. Tokens do not expire.
        """
        if not is_compliant_user_id(other):
            raise invalid_param("user_id is not a user id, or one of characters that are not allowed")
        if other == user_id:
            raise invalid_param("user_id is your own: every room of yours would be shared")
        after = 0 if token is None else _room_number(token)

        def read(tx: Tx) -> Batch:
            # One more than is told shows whether there are more.
            found = personal.shared_rooms(tx, user_id, other, after, MAX_ROOMS + 1)
            shown = found[:MAX_ROOMS]
            count = personal.count_shared_rooms(tx, user_id, other)
            next_batch = str(shown[-1][0]) if len(found) > MAX_ROOMS else None
            return Batch([room_id for _, room_id in shown], count, next_batch)

        return await self._database.read(read)


def _room_number(token: str) -> int:
    """A token is the number of the last room that was told of."""
    if len(token) <= MAX_TOKEN_CHARACTERS and token.isascii() and token.isdecimal():
        number = int(token)
        if number <= MAX_ROOM_NUMBER:
            return number
    raise invalid_param("from is not a next_batch of an earlier answer")
