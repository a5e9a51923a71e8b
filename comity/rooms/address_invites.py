"""Invites to addresses, from our side: an identity server knows whose one is, or keeps the invite.

client-server §Third-party invites. What follows once a kept invite's address becomes somebody's is
`comity.rooms.third_party_invite`'s affair.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from comity.federation.errors import FederationError
from comity.federation.identity_servers import IdentityServers, StoredInvite, told
from comity.protocol.build import Draft
from comity.protocol.errors import bad_json, forbidden, invalid_param, missing_param
from comity.protocol.third_party_ids import canonical
from comity.rooms.batch import Batch
from comity.rooms.decisions import Decisions
from comity.rooms.membership import Memberships
from comity.rooms.merge import Merger
from comity.rooms.room import Room, Rooms
from comity.rooms.write import Writer
from comity.store.database import Database, Tx

#: Addresses that one new room's maker may invite; each is three requests to an identity server.
MAX_ADDRESSES = 10
#: Characters of what a client writes of an invite, and of what its letter says of the room.
MAX_TEXT, MAX_TOKEN, MAX_SHOWN = 255, 2_000, 1_000
_KIND = "m.room.third_party_invite"
#: What an identity server's letter shows of a room: its parameter -> (event type, member).
_SHOWN: Mapping[str, tuple[str, str]] = {
    "room_alias": ("m.room.canonical_alias", "alias"),
    "room_avatar_url": ("m.room.avatar", "url"),
    "room_join_rules": ("m.room.join_rules", "join_rule"),
    "room_name": ("m.room.name", "name"),
    "room_type": ("m.room.create", "type"),
}


@dataclass(frozen=True, slots=True)
class Address:
    """Who is invited, and who can find them (client-server, Invite3pid)."""

    medium: str
    address: str
    id_server: str
    id_access_token: str = field(repr=False)

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Address:
        """What a client asks for. Raises 400 M_MISSING_PARAM, M_BAD_JSON, M_INVALID_PARAM."""
        found = [
            _text(body, name, MAX_TOKEN if name == "id_access_token" else MAX_TEXT)
            for name in ("medium", "address", "id_server", "id_access_token")
        ]
        medium, address, id_server, token = found
        try:
            return cls(medium, canonical(medium, address), id_server, token)
        except ValueError as error:
            raise invalid_param(str(error)) from None


def _text(body: Mapping[str, Any], name: str, most: int) -> str:
    value = body.get(name)
    if value is None:
        raise missing_param(f"The invite lacks {name}")
    if not isinstance(value, str):
        raise bad_json(f"{name} is not a string")
    if not 0 < len(value) <= most:
        raise invalid_param(f"{name} is empty or longer than {most} characters")
    return value


class AddressInvites:
    """Invites whoever has an address."""

    def __init__(
        self,
        *,
        database: Database,
        rooms: Rooms,
        merger: Merger,
        decisions: Decisions,
        writer: Writer,
        memberships: Memberships,
        identity: IdentityServers,
    ) -> None:
        self._database = database
        self._rooms = rooms
        self._merger = merger
        self._decisions = decisions
        self._writer = writer
        self._memberships = memberships
        self._identity = identity

    async def invite(
        self, user_id: str, room_id: str, whom: Address, *, reason: str | None = None, is_direct: bool = False
    ) -> None:
        """`POST /rooms/{roomId}/invite` by an address, which an identity server is asked about.

        It is asked nothing unless the user may invite to the room. Raises MatrixError: 403 M_FORBIDDEN,
        the identity server's own errors, 502.
        """
        room = await self._rooms.get(room_id)
        if room is None or not room.extremities:
            raise forbidden("You are not in the room")
        await self._decisions.draft(room, lambda tx, batch: self._rehearse(tx, batch, user_id))
        try:
            target = await self._identity.find(
                whom.id_server, whom.id_access_token, whom.medium, whom.address
            )
            kept = await self._keep(room, user_id, whom) if target is None else None
        except FederationError as error:
            raise told(error) from None
        if kept is not None:
            await self._writer.send(room_id, Draft(_KIND, user_id, _content(kept), state_key=kept.token))
        elif target is not None:
            await self._memberships.invite(user_id, room_id, target, reason=reason, is_direct=is_direct)

    async def _keep(self, room: Room, user_id: str, whom: Address) -> StoredInvite:
        """Have the identity server write to the address, and keep the invite. Raises FederationError."""
        shown = await self._database.read(lambda tx: self._shown(tx, room, user_id))
        invite = {
            **shown, "medium": whom.medium, "address": whom.address, "room_id": room.room_id,
            "sender": user_id,
        }  # fmt: skip
        return await self._identity.store_invite(whom.id_server, whom.id_access_token, invite)

    def _rehearse(self, tx: Tx, batch: Batch, user_id: str) -> None:
        """Whether the user may invite by address. Raises 403 M_FORBIDDEN."""
        rehearsed = Draft(_KIND, user_id, {"display_name": "", "public_keys": []}, state_key="rehearsal")
        self._writer.append_event(tx, batch, self._writer.draft_event(tx, batch, rehearsed))

    def _shown(self, tx: Tx, room: Room, user_id: str) -> dict[str, str]:
        """What the letter to the address may say of the room, and of who invites."""
        find = self._merger.current(tx, room)
        member = find(("m.room.member", user_id))
        profile = member.content if member is not None else {}
        found: dict[str, Any] = {
            "sender_display_name": profile.get("displayname"),
            "sender_avatar_url": profile.get("avatar_url"),
        }
        for name, (event_type, content_name) in _SHOWN.items():
            event = find((event_type, ""))
            found[name] = event.content.get(content_name) if event is not None else None
        return {name: value[:MAX_SHOWN] for name, value in found.items() if isinstance(value, str) and value}


def _content(kept: StoredInvite) -> dict[str, Any]:
    """client-server §m.room.third_party_invite."""
    keys = [{"public_key": key, "key_validity_url": url} for key, url in kept.public_keys]
    return {"display_name": kept.display_name, **keys[0], "public_keys": keys}
