"""The policy server that this server can be for rooms: who and what is refused, and the signature.

server-server §Policy Servers. What it refuses is the operator's list; it signs for rooms that a
user of ours is in, and that name no other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from comity.protocol.errors import EventFormatError, MatrixError, not_found
from comity.protocol.event import Event, parse
from comity.protocol.identifiers import server_of
from comity.protocol.matching import Glob
from comity.protocol.policy import KEY_ID, POLICY, is_exempt, policy_server
from comity.protocol.server_acl import is_allowed
from comity.protocol.signing import SigningKey
from comity.rooms.merge import Merger
from comity.rooms.room import Room, Rooms
from comity.store.database import Database, Tx


class PolicyService:
    """Recommends events to the rooms that ask for it, or does not."""

    def __init__(
        self,
        *,
        database: Database,
        rooms: Rooms,
        merger: Merger,
        server_name: str,
        key: SigningKey | None,
        deny_servers: Sequence[str],
        deny_users: Sequence[str],
        deny_words: Sequence[str],
    ) -> None:
        """`key` is the one that rooms know us by; without one this server is no policy server.

        `deny_servers` and `deny_users` are globs, `deny_words` texts that no event may hold.
        """
        self._database = database
        self._rooms = rooms
        self._merger = merger
        self._server_name = server_name
        self._key = key
        self._deny_servers = [Glob(pattern) for pattern in deny_servers]
        self._deny_users = [Glob(pattern) for pattern in deny_users]
        self._deny_words = [word.casefold() for word in deny_words]

    @property
    def public_key(self) -> str | None:
        """The key for a room's `m.room.policy`, in unpadded Base64; None: we are no policy server."""
        return self._key.public if self._key is not None else None

    async def sign_for(self, origin: str, value: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to POST sign for another server. Raises MatrixError 400, 403 or 404."""
        room_id = value.get("room_id")
        room = await self._rooms.get(room_id) if isinstance(room_id, str) else None
        if room is None or not room.resident:
            raise not_found("This server watches over no room of that id")
        acl = await self._state(room, "m.room.server_acl")
        if not is_allowed(acl, origin):
            raise MatrixError(403, "M_FORBIDDEN", "The room's server ACL does not allow your server")
        try:
            event = parse(room.version, value)
        except EventFormatError as error:
            raise MatrixError(400, "M_BAD_JSON", f"The event is malformed: {error}") from None
        if not event.content_hash_matches():
            # The signature covers the hash, and only through it the content that is looked at.
            raise MatrixError(400, "M_BAD_JSON", "The event's hash is not that of its content")
        return await self.sign(room, event)

    async def _state(self, room: Room, event_type: str) -> Mapping[str, Any] | None:
        def read(tx: Tx) -> Mapping[str, Any] | None:
            event = self._merger.current(tx, room)((event_type, ""))
            return event.content if event is not None else None

        return await self._database.read(read)

    async def sign(self, room: Room, event: Event) -> dict[str, Any]:
        """Our signature as a policy server on an event. Raises MatrixError 400 or 404."""
        named = policy_server(await self._state(room, POLICY))
        # A room that names nobody may have named us a moment ago, and the news be on its way here;
        # where it has not, the signature means nothing to anybody.
        if self._key is None or (named is not None and named.name != self._server_name):
            raise not_found("This server is not the room's policy server")
        if is_exempt(event.type, event.state_key):
            raise MatrixError(400, "M_FORBIDDEN", "The room's policy itself is not for its policy server")
        reason = self._refusal(event)
        if reason is not None:
            raise MatrixError(400, "M_FORBIDDEN", reason)
        return {self._server_name: {KEY_ID: self._key.sign(event.signed)}}

    def _refusal(self, event: Event) -> str | None:
        """Why an event is not recommended; None if it is."""
        server = server_of(event.sender)
        if any(pattern.matches(server) for pattern in self._deny_servers):
            return "Users of that server may not write to the room"
        if any(pattern.matches(event.sender) for pattern in self._deny_users):
            return "That user may not write to the room"
        if self._deny_words and any(
            word in text.casefold() for text in _texts(event.content) for word in self._deny_words
        ):
            return "The event holds words that the room does not want"
        return None


def _texts(content: Mapping[str, Any]) -> Iterator[str]:
    """Every text in a content, however deep; an event's size bounds them."""
    waiting: list[Any] = [content]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
