"""Account data (client-server §Client Config) and tags (§Room Tagging).

Owns which types clients may set themselves. A change is published under the user's id.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import orjson

from comity.bus import Bus
from comity.protocol.errors import MatrixError, bad_json, invalid_param, not_found, too_large
from comity.protocol.identifiers import is_room_id
from comity.protocol.push_rules import default_rules
from comity.store import personal
from comity.store.database import Database, WriteTx
from comity.users.text import checked_text

FULLY_READ = "m.fully_read"
PUSH_RULES = "m.push_rules"
TAGS = "m.tag"
#: client-server §Client Config, Server Behaviour: these the server alone sets.
OF_THE_SERVER = frozenset({FULLY_READ, PUSH_RULES})
#: One type's content. Lists of thousands of direct chats are real; a file store is not meant.
MAX_CONTENT_BYTES = 512 * 1024
#: Tags of one room.
MAX_TAGS = 200


class AccountData:
    """What users keep here for their own clients."""

    def __init__(self, database: Database, bus: Bus) -> None:
        self._database = database
        self._bus = bus

    async def get(self, user_id: str, room_id: str | None, kind: str) -> bytes:
        """The JSON of one type; `room_id` is None for the account as a whole.

        Raises 404 M_NOT_FOUND, 400 M_INVALID_PARAM for what is no room id.
        """
        place = _place(room_id)
        content = await self._database.look_up(lambda tx: personal.account_data(tx, user_id, place, kind))
        if content is not None:
            return content.encode()
        if kind == PUSH_RULES and room_id is None:
            return orjson.dumps({"global": default_rules(user_id)})
        raise not_found("There is no account data of this type")

    async def put(self, user_id: str, room_id: str | None, kind: str, content: Mapping[str, Any]) -> None:
        """Set one type. Raises 405 M_BAD_JSON for a type of the server's, 400, 413 M_TOO_LARGE."""
        place = _place(room_id)
        checked_text(kind, "The type")
        if kind in OF_THE_SERVER:
            raise MatrixError(405, "M_BAD_JSON", f"{kind} cannot be set through this API")
        await self.change(user_id, place, kind, lambda _: content)

    async def change(
        self,
        user_id: str,
        place: str,
        kind: str,
        make: Callable[[dict[str, Any] | None], Mapping[str, Any] | None],
    ) -> None:
        """Set one type to what `make` makes of its content as it is, in one transaction.

        `place` is a room id, or '' for the account as a whole.
        `make` takes None where there is none, and returns None to leave it. What it raises is
        raised; 413 M_TOO_LARGE.
        """

        def store(tx: WriteTx) -> None:
            before = personal.account_data(tx, user_id, place, kind)
            content = make(None if before is None else orjson.loads(before))
            if content is None:
                return
            text = orjson.dumps(content)
            if len(text) > MAX_CONTENT_BYTES:
                raise too_large(f"Account data of one type has at most {MAX_CONTENT_BYTES} bytes")
            position = tx.next_position()
            personal.put_account_data(tx, user_id, place, kind, text.decode(), position)
            tx.after_commit(lambda: self._bus.publish(position, [user_id]))

        await self._database.write(store)

    # -- tags

    async def tags(self, user_id: str, room_id: str) -> dict[str, Any]:
        """tag -> its data, of one room. Raises 400 M_INVALID_PARAM."""
        _place(room_id)
        content = await self._database.look_up(lambda tx: personal.account_data(tx, user_id, room_id, TAGS))
        return _tags(None if content is None else orjson.loads(content))

    async def put_tag(self, user_id: str, room_id: str, tag: str, data: Mapping[str, Any]) -> None:
        """Tag a room. Raises 400 M_INVALID_PARAM or M_BAD_JSON."""
        _place(room_id)
        checked_text(tag, "The tag")
        order = data.get("order")
        if order is not None and (isinstance(order, bool) or not isinstance(order, int | float)):
            raise bad_json("order is not a number")

        def add(content: dict[str, Any] | None) -> Mapping[str, Any]:
            tags = {**_tags(content), tag: data}
            if len(tags) > MAX_TAGS:
                raise invalid_param(f"A room has at most {MAX_TAGS} tags")
            return {**(content or {}), "tags": tags}

        await self.change(user_id, room_id, TAGS, add)

    async def delete_tag(self, user_id: str, room_id: str, tag: str) -> None:
        """Remove a tag, if it is there. Raises 400 M_INVALID_PARAM."""
        _place(room_id)

        def remove(content: dict[str, Any] | None) -> Mapping[str, Any] | None:
            tags = _tags(content)
            if tag not in tags:
                return None
            return {**(content or {}), "tags": {name: data for name, data in tags.items() if name != tag}}

        await self.change(user_id, room_id, TAGS, remove)


def _place(room_id: str | None) -> str:
    if room_id is not None and not is_room_id(room_id):
        raise invalid_param("This is not a room id")
    return room_id or ""


def _tags(content: Mapping[str, Any] | None) -> dict[str, Any]:
    """The tags of an `m.tag` content, which clients may also have set as a whole."""
    tags = (content or {}).get("tags")
    return tags if isinstance(tags, dict) else {}
