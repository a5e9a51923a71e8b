"""Third-party invites: somebody was invited by an address, and the address has become a user.

server-server §Third-party invites. Owns both ends of the exchange: asking the inviting server when
an identity server tells us that a user of ours is meant, and inviting the user when we
are asked, if the identity server's key is still valid. Whether the identity server signed it is for the
authorization rules, which have the room's keys.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from itertools import islice
from typing import Any

from comity.federation.calls import Calls
from comity.federation.errors import FederationError
from comity.federation.identity_keys import IdentityKeys
from comity.protocol import canonical_json, identifiers
from comity.protocol.auth.third_party import keys_that_signed
from comity.protocol.build import Draft
from comity.protocol.errors import MatrixError, bad_json, forbidden, invalid_param, not_found
from comity.protocol.identifiers import server_of
from comity.rooms.join import tell
from comity.rooms.membership import Memberships, finish
from comity.rooms.merge import Merger
from comity.rooms.room import Room, Rooms
from comity.rooms.write import Writer
from comity.store.database import Database

_log = logging.getLogger(__name__)
#: Invites of one notice from an identity server; each may make us ask another server.
MAX_INVITES = 20
#: Notices that are worked on at once: anybody may send one, so that strangers share these few.
MAX_NOTICES = 4
#: Keys of one invite that are asked about; identity servers have two, a lasting one and one of the invite's.
MAX_KEYS_ASKED = 4
#: Characters of a token: the state key of an event must hold it.
MAX_TOKEN = 255


def _signed(value: object, user_id: str) -> dict[str, Any]:
    """An identity server's `signed` object for that user. Raises 400 M_BAD_JSON or M_INVALID_PARAM."""
    if not isinstance(value, dict) or not isinstance(value.get("signatures"), dict):
        raise bad_json("signed is not a signed object")
    token = value.get("token")
    if not isinstance(token, str) or not 0 < len(token) <= MAX_TOKEN:
        raise bad_json("signed has no token")
    if value.get("mxid") != user_id:
        raise invalid_param("signed is for another user")
    try:
        canonical_json.check_values(value)
    except canonical_json.CanonicalJsonError as error:
        raise bad_json(f"signed cannot be part of an event: {error}") from None
    return value


class ThirdPartyInvites:
    """Turns invites by address into invites of users."""

    def __init__(
        self,
        *,
        database: Database,
        rooms: Rooms,
        merger: Merger,
        writer: Writer,
        memberships: Memberships,
        calls: Calls,
        identity_keys: IdentityKeys,
        server_name: str,
    ) -> None:
        self._database = database
        self._rooms = rooms
        self._merger = merger
        self._writer = writer
        self._memberships = memberships
        self._calls = calls
        self._identity_keys = identity_keys
        self._server_name = server_name
        self._notices = 0

    # -- asked by another server

    async def exchange(self, origin: str, room_id: str, body: Mapping[str, Any]) -> None:
        """PUT exchange_third_party_invite: invite the user that `origin` names. Raises MatrixError."""
        content, target, sender = body.get("content"), body.get("state_key"), body.get("sender")
        if body.get("type") != "m.room.member" or body.get("room_id") != room_id:
            raise invalid_param("The event is not a membership in the room that the path names")
        if not identifiers.is_user_id(target) or server_of(str(target)) != origin:
            raise invalid_param("The invited user is not of your server")
        if not identifiers.is_user_id(sender) or server_of(str(sender)) != self._server_name:
            raise invalid_param("The user who invited is not of this server")
        if not isinstance(content, dict) or content.get("membership") != "invite":
            raise invalid_param("The event is not an invite")
        invite = content.get("third_party_invite")
        signed = _signed(invite.get("signed") if isinstance(invite, dict) else None, str(target))
        room = await self._rooms.get(room_id)
        if room is None or not room.resident:
            raise not_found("This server is not in a room of that id")
        draft = await self._draft(room, str(sender), str(target), signed)
        await finish(self._memberships.invite_remote(room_id, draft, origin))

    async def _draft(self, room: Room, sender: str, target: str, signed: Mapping[str, Any]) -> Draft:
        key = ("m.room.third_party_invite", str(signed["token"]))
        pending = await self._database.read(lambda tx: self._merger.current(tx, room)(key))
        if pending is None:
            raise forbidden("The room knows no third-party invite of that token")
        if pending.sender != sender:  # as the rules have it; before anything is asked that a stranger wrote
            raise forbidden("The third-party invite was made by another user")
        await self._check_keys(signed, pending.content)
        # The name is the inviter's word, not that of whoever asks now.
        name = pending.content.get("display_name")
        invite = {"display_name": name if isinstance(name, str) else "", "signed": dict(signed)}
        content = {"membership": "invite", "third_party_invite": invite}
        return Draft("m.room.member", sender, content, state_key=target)

    async def _check_keys(self, signed: Mapping[str, Any], pending: Mapping[str, Any]) -> None:
        """client-server §Third-party invites: whoever writes the invite asks whether the key is still valid.

        Nobody else does, so that all judge alike. Raises 403 M_FORBIDDEN, also when there is no saying.
        """
        trouble: FederationError | None = None
        asked = False
        for key in islice(keys_that_signed(signed, pending), MAX_KEYS_ASKED):
            asked = True
            try:
                if await self._identity_keys.is_valid(key):
                    return
            except FederationError as error:
                trouble = error
        if trouble is not None:
            # Not a 5xx: whoever asks would take this server for the one that is down, and leave it alone.
            text = "Whether the key of the third-party invite is still valid could not be learned: try again"
            raise MatrixError(403, "M_FORBIDDEN", text, detail=str(trouble))
        if asked:
            raise forbidden("The key that signed the third-party invite is no longer valid")

    # -- told by the invited user

    async def claim(self, user_id: str, room_id: str, value: object) -> None:
        """A local user shows, as they join, that an address that was invited is theirs: they are invited.

        `value` is the unchecked `third_party_signed` (client-server §Joining rooms). Raises 400 for what
        is malformed, 403 M_FORBIDDEN where no invite that waits is meant by it.
        """
        sender = value.get("sender") if isinstance(value, dict) else None
        if not identifiers.is_user_id(sender) or not identifiers.is_room_id(room_id):
            raise bad_json("third_party_signed has no sender, or what is to be joined is no room")
        signed = _signed(value, user_id)
        room = await self._rooms.get(room_id)
        if room is not None and room.resident:
            if await self._memberships.membership(room, user_id) == "join":
                return
        elif server_of(str(sender)) == self._server_name:
            raise forbidden("The user who invited you is not in the room")
        try:
            await self._invited(user_id, room_id, str(sender), signed)
        except FederationError as error:
            raise tell(error) from None

    # -- told by an identity server

    async def bound(self, user_id: str, invites: object) -> None:
        """PUT 3pid/onbind: an address with those pending invites is now the local user `user_id`'s.

        An invite that comes to nothing is noted in the log; the others are seen to all the same.
        Raises 400 for what is malformed, 429 when too many such notices are worked on.
        """
        if not isinstance(invites, list) or len(invites) > MAX_INVITES:
            raise bad_json(f"invites is not a list of at most {MAX_INVITES} invites")
        wanted: list[tuple[str, str, dict[str, Any]]] = []
        for item in invites:
            room_id = item.get("room_id") if isinstance(item, dict) else None
            sender = item.get("sender") if isinstance(item, dict) else None
            if not identifiers.is_room_id(room_id) or not identifiers.is_user_id(sender):
                raise bad_json("An invite lacks its room_id or its sender")
            wanted.append((str(room_id), str(sender), _signed(item.get("signed"), user_id)))
        if self._notices >= MAX_NOTICES:
            raise MatrixError(
                429, "M_LIMIT_EXCEEDED", "Too many such notices at once", extra={"retry_after_ms": 5_000}
            )
        self._notices += 1
        try:
            await asyncio.shield(asyncio.ensure_future(self._see_to(user_id, wanted)))
        finally:
            self._notices -= 1

    async def _see_to(self, user_id: str, wanted: list[tuple[str, str, dict[str, Any]]]) -> None:
        for room_id, sender, signed in wanted:
            try:
                await self._invited(user_id, room_id, sender, signed)
            except (MatrixError, FederationError) as error:
                _log.warning("no invite of %s to %s from an address: %s", user_id, room_id, error)

    async def _invited(self, user_id: str, room_id: str, sender: str, signed: dict[str, Any]) -> None:
        room = await self._rooms.get(room_id)
        if room is not None and room.resident:
            await self._writer.send(room_id, await self._draft(room, sender, user_id, signed))
            return
        if server_of(sender) == self._server_name:
            raise not_found("This server is not in a room of that id")
        content = {"membership": "invite", "third_party_invite": {"display_name": "", "signed": signed}}
        event = {
            "type": "m.room.member",
            "room_id": room_id,
            "sender": sender,
            "state_key": user_id,
            "content": content,
        }
        await self._calls.exchange_third_party_invite(server_of(sender), room_id, event)
