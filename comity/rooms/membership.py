"""Memberships that a local user changes: join, leave, invite, kick, ban, unban.

Owns which way such a change takes: written at the head of a room that we are in, or by the
handshakes with a server that is (server-server §Joining, §Leaving, §Inviting).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from comity.bus import Bus
from comity.federation.calls import Calls
from comity.federation.errors import FederationError
from comity.protocol import identifiers
from comity.protocol.build import Draft
from comity.protocol.errors import MatrixError, forbidden, invalid_param, not_found
from comity.protocol.event import Event
from comity.protocol.identifiers import server_of
from comity.rooms.batch import Batch
from comity.rooms.decisions import Decisions
from comity.rooms.fetch import Fetcher
from comity.rooms.guest_access import GuestAccess
from comity.rooms.invite_permission import check_takes_invites
from comity.rooms.join import Joiner, Leaver
from comity.rooms.merge import Merger
from comity.rooms.neighbours import Neighbours
from comity.rooms.policy import Policies
from comity.rooms.restricted import Restricted
from comity.rooms.room import Room, Rooms
from comity.rooms.strangers import shown_state
from comity.rooms.succession import Successions
from comity.rooms.vouching import Vouching
from comity.rooms.write import ClientTransaction, Writer
from comity.store import rooms as stored_rooms
from comity.store.database import Database, Tx, WriteTx
from comity.store.rooms import LocalMembership

_log = logging.getLogger(__name__)
T = TypeVar("T")
#: With which a server says that it does not know an invite's room version; clients have one code for it.
_UNSUPPORTED = frozenset({"M_INCOMPATIBLE_ROOM_VERSION", "M_UNSUPPORTED_ROOM_VERSION"})
#: rooms/v8: the property of a join that names who vouches for it.
VOUCHER = "join_authorised_via_users_server"
#: Servers tried for one join.
MAX_CANDIDATES = 10
#: Servers through which a rejection is tried, one after the other: the user waits for it.
MAX_TOLD = 2


def _is_ours(room: Room) -> bool:
    """Whether memberships in a room are changed here: we are in it, or everybody has left it, us last.

    Then nobody else can say who may come in, and all of it is here.
    """
    return room.resident or (bool(room.extremities) and not room.servers and room.partial is None)


async def finish(handshake: Coroutine[Any, Any, T]) -> T:
    """Wait for a handshake with another server, which goes on even if the client does not wait.

    Once the other server has let us in, our side must be stored too.
    """
    return await asyncio.shield(asyncio.ensure_future(handshake))


class Memberships:
    """Changes memberships on behalf of local users."""

    def __init__(
        self,
        *,
        database: Database,
        bus: Bus,
        rooms: Rooms,
        merger: Merger,
        decisions: Decisions,
        writer: Writer,
        joiner: Joiner,
        leaver: Leaver,
        restricted: Restricted,
        vouching: Vouching,
        policies: Policies,
        guest_access: GuestAccess,
        fetcher: Fetcher,
        calls: Calls,
        server_name: str,
        member_content: Callable[[str], Awaitable[Mapping[str, Any]]],
        whole: Callable[[str], Awaitable[None]],
        successions: Successions,
    ) -> None:
        """`member_content` gives a local user's displayname and avatar_url for their memberships;
        `whole` waits until a room that was joined just now has all of its state."""
        self._whole = whole
        self._successions = successions
        self._database = database
        self._bus = bus
        self._rooms = rooms
        self._merger = merger
        self._decisions = decisions
        self._writer = writer
        self._joiner = joiner
        self._leaver = leaver
        self._restricted = restricted
        self._vouching = vouching
        self._policies = policies
        self._guest_access = guest_access
        self._fetcher = fetcher
        self._calls = calls
        self._server_name = server_name
        self._member_content = member_content
        self._neighbours = Neighbours(database, merger, server_name)

    async def membership(self, room: Room, user_id: str) -> str | None:
        """A user's membership in the current state of a room that we are in."""
        key = ("m.room.member", user_id)
        event = await self._database.read(lambda tx: self._merger.current(tx, room)(key))
        return event.membership if event is not None else None

    async def join(
        self,
        user_id: str,
        room_id: str,
        via: Sequence[str],
        *,
        reason: str | None = None,
    ) -> str:
        """Join a room; its id. Joining twice changes nothing. Raises MatrixError when no way leads in."""
        if not identifiers.is_room_id(room_id):
            raise invalid_param("That is not a room id")
        content = await self._content(user_id, "join", reason)
        await self._come_in(user_id, room_id, via, content)
        await self._successions.joined(user_id, room_id)
        return room_id

    async def _come_in(self, user_id: str, room_id: str, via: Sequence[str], content: dict[str, Any]) -> None:
        """Join by whichever way leads in."""
        while not await self._came_in(user_id, room_id, via, content):
            pass

    async def _came_in(self, user_id: str, room_id: str, via: Sequence[str], content: dict[str, Any]) -> bool:
        """Join; False if it turned out that another way leads in now."""
        room = await self._rooms.get(room_id)
        if room is not None and _is_ours(room):
            if await self.membership(room, user_id) == "join":
                # Another join would take away the name and the avatar that they chose for this room.
                return True
            await self._guest_access.check_here(user_id, room)
            # A ban may be in what is not here yet.
            await self._whole(room_id)
            authoriser = await self._restricted.local_authoriser(room, user_id)
            if authoriser is not None:
                content[VOUCHER] = authoriser
            if authoriser is not None or not await self._restricted.applies(room, user_id):
                await self._writer.send(room_id, Draft("m.room.member", user_id, content, state_key=user_id))
                return True
            vouchers = await self._restricted.vouchers(room, user_id)
            await finish(self._vouching.join(user_id, room, vouchers[:MAX_CANDIDATES], content))
            return True
        candidates = await self.candidates(user_id, room_id, via)
        if not candidates:
            raise not_found("No server is known through which the room could be joined")
        await self._guest_access.check_elsewhere(user_id, room_id, candidates)
        return await finish(self._joiner.join(user_id, room_id, candidates, content))

    async def candidates(self, user_id: str, room_id: str, via: Sequence[str]) -> list[str]:
        """Servers to come in through: those named, the inviter's, the room id's, those once met there."""
        named = [server for server in via if identifiers.is_server_name(server)]
        inviter = await self._told_by(user_id, room_id)
        room = await self._rooms.get(room_id)
        met = await self._neighbours.to_ask(room, (), MAX_CANDIDATES) if room is not None else []
        wanted = [*named, inviter or "", server_of(room_id), *met]
        return [server for server in dict.fromkeys(wanted) if server and server != self._server_name][
            :MAX_CANDIDATES
        ]

    async def _told_by(self, user_id: str, room_id: str) -> str | None:
        """The server that an invite of the user came from, or that took their knock."""

        def read(tx: Tx) -> str | None:
            room = stored_rooms.by_id(tx, room_id)
            last = stored_rooms.last_local_membership(tx, user_id, room.room_num) if room else None
            if last is None or last.membership not in ("invite", "knock"):
                return None
            if last.through is not None:
                return last.through
            event = self._rooms.events.get(tx, last.event_num)
            return server_of(event.event.sender) if event is not None else None

        return await self._database.read(read)

    async def leave(self, user_id: str, room_id: str, *, reason: str | None = None) -> None:
        """Leave a room, reject its invite or take a knock back. Leaving twice is no error."""
        room = await self._rooms.get(room_id)
        if room is None:
            raise not_found("No such room is known here")
        content = await self._content(user_id, "leave", reason)
        if _is_ours(room):
            membership = await self.membership(room, user_id)
            if membership is None:
                raise forbidden("You are not in the room")
            if membership == "leave":
                return
            await self._writer.send(room_id, Draft("m.room.member", user_id, content, state_key=user_id))
            return
        if await self._told_by(user_id, room_id) is None:
            last = await self._last(user_id, room)
            if last is not None and last.membership == "leave":
                return
            raise forbidden("You are not in the room")
        # Whoever invited may be gone, or out of the room: others in it are to learn of the rejection too.
        servers = (await self.candidates(user_id, room_id, ()))[:MAX_TOLD]
        await finish(self._leaver.leave(user_id, room, servers, content))

    async def _last(self, user_id: str, room: Room) -> LocalMembership | None:
        return await self._database.read(
            lambda tx: stored_rooms.last_local_membership(tx, user_id, room.number)
        )

    async def forget(self, user_id: str, room_id: str) -> None:
        """client-server §Leaving Rooms: only a room that the user is not in can be forgotten."""
        room = await self._rooms.get(room_id)
        if room is None:
            raise not_found("No such room is known here")
        last = await self._last(user_id, room)
        if last is None:
            raise not_found("You have never been in that room")
        if last.membership not in ("leave", "ban"):
            raise MatrixError(400, "M_UNKNOWN", "You are still in the room: leave it first")

        def store(tx: WriteTx) -> None:
            stored_rooms.forget(tx, user_id, room.number)
            # What is remembered of the user's rooms holds no longer.
            position = tx.next_position()
            tx.after_commit(lambda: self._bus.publish(position, [user_id]))

        await self._database.write(store)

    async def kick(self, user_id: str, room_id: str, target: str, *, reason: str | None = None) -> None:
        """Remove another user. Raises 403 M_FORBIDDEN."""
        await self._set(user_id, room_id, target, "leave", reason, from_any_of=("join", "invite", "knock"))

    async def ban(self, user_id: str, room_id: str, target: str, *, reason: str | None = None) -> None:
        """Ban another user. Raises 403 M_FORBIDDEN."""
        await self._set(user_id, room_id, target, "ban", reason)

    async def unban(self, user_id: str, room_id: str, target: str, *, reason: str | None = None) -> None:
        """Lift a ban. Raises 403 M_FORBIDDEN."""
        await self._set(user_id, room_id, target, "leave", reason, from_any_of=("ban",))

    async def _set(
        self,
        user_id: str,
        room_id: str,
        target: str,
        membership: str,
        reason: str | None,
        from_any_of: tuple[str, ...] | None = None,
    ) -> None:
        if not identifiers.is_user_id(target):
            raise invalid_param("user_id is not a user id")
        room = await self._room(room_id)
        await self._whole(room_id)
        if from_any_of is not None and await self.membership(room, target) not in from_any_of:
            raise forbidden(
                "The user is not in the room" if "ban" not in from_any_of else "The user is not banned"
            )
        content = await self._content(target, membership, reason)
        await self._writer.send(room_id, Draft("m.room.member", user_id, content, state_key=target))

    async def _content(self, user_id: str, membership: str, reason: str | None) -> dict[str, Any]:
        """What a membership says.

        client-server §Profiles, Events on Change of Profile Information: of our own users, name and avatar.
        Also where it is one's end: apps call those who have gone by it.
        """
        ours = server_of(user_id) == self._server_name
        content = {**(await self._member_content(user_id) if ours else {}), "membership": membership}
        if reason is not None:
            content["reason"] = reason
        return content

    async def _room(self, room_id: str) -> Room:
        """The room whose members are to change. Nobody here is in one that is unknown: 403 M_FORBIDDEN."""
        room = await self._rooms.get(room_id)
        if room is None or not room.extremities:
            raise forbidden("You are not in the room")
        return room

    # -- invites

    async def invite(
        self, user_id: str, room_id: str, target: str, *, reason: str | None = None, is_direct: bool = False
    ) -> None:
        """Invite a user of any server. Raises MatrixError."""
        if not identifiers.is_user_id(target):
            raise invalid_param("user_id is not a user id")
        await self._room(room_id)
        await self._whole(room_id)
        content = await self._content(target, "invite", reason)
        if is_direct:
            content["is_direct"] = True
        draft = Draft("m.room.member", user_id, content, state_key=target)
        if server_of(target) == self._server_name:
            await self._writer.send(room_id, draft)
        else:
            await finish(self.invite_remote(room_id, draft, server_of(target)))

    async def check_invitable(self, user_ids: Iterable[str]) -> None:
        """Raise 403 M_INVITE_BLOCKED if one of them is of this server and takes no invites."""
        ours = [user_id for user_id in user_ids if server_of(user_id) == self._server_name]
        await self._database.read(lambda tx: check_takes_invites(tx, ours))

    async def put(self, room_id: str, draft: Draft, *, transaction: ClientTransaction | None = None) -> str:
        """A membership that a client sets as state; the event's id. Raises MatrixError.

        Whom it invites is told, who vouches for a join is found, and what comes with it comes, as by the
        endpoints for that.
        """
        room, is_own = await self._rooms.get(room_id), draft.state_key == draft.sender
        if is_own and draft.content.get("membership") == "leave" and room is not None and not _is_ours(room):
            return await self._put_out(room, draft)
        draft = await self._vouched(room_id, draft)
        membership, server = draft.content.get("membership"), server_of(draft.state_key or "")
        if membership == "invite" and identifiers.is_user_id(draft.state_key) and server != self._server_name:
            await self._room(room_id)
            await self._whole(room_id)
            return await finish(self.invite_remote(room_id, draft, server))
        event_id = await self._writer.send(room_id, draft, transaction=transaction)
        if membership == "join":
            await self._successions.joined(draft.sender, room_id)
        return event_id

    async def _put_out(self, room: Room, draft: Draft) -> str:
        """Turn down an invite, or take back a knock, to a room that only others are in; the event's id."""
        reason = draft.content.get("reason")
        await self.leave(draft.sender, room.room_id, reason=reason if isinstance(reason, str) else None)

        def read(tx: Tx) -> str:
            last = stored_rooms.last_local_membership(tx, draft.sender, room.number)
            event = self._rooms.events.get(tx, last.event_num) if last is not None else None
            if event is None:
                raise forbidden("You are not in the room")
            return event.event.event_id

        return await self._database.read(read)

    async def _vouched(self, room_id: str, draft: Draft) -> Draft:
        """The draft with who vouches for it, whatever the client says: our signature would make it true."""
        content = {name: value for name, value in draft.content.items() if name != VOUCHER}
        room = await self._rooms.get(room_id)
        if content.get("membership") == "join" and draft.state_key == draft.sender and room is not None:
            authoriser = await self._restricted.local_authoriser(room, draft.sender)
            if authoriser is not None:
                content[VOUCHER] = authoriser
        return replace(draft, content=content)

    async def invite_remote(self, room_id: str, draft: Draft, server: str) -> str:
        """Invite a user of another server, which signs the invite before it is stored; the event's id.

        Raises MatrixError.

        server-server §Inviting to a room.
        """
        room = await self._writer.resident_room(room_id)
        # Only drafted: the lock is not held while the other server is asked.
        event = await self._decisions.draft(room, lambda tx, batch: self._draft_invite(tx, batch, draft))
        event = await self._policies.signed(room, event)
        try:
            answer = await self._calls.invite(
                server, room_id, event, room.version.identifier, await self.invite_state(room, draft.sender)
            )
        except FederationError as error:
            if error.kind == "unwelcome":
                raise forbidden(f"The operator of this server does not let it talk to {server}") from None
            if error.code in _UNSUPPORTED:
                raise MatrixError(
                    400, "M_UNSUPPORTED_ROOM_VERSION", f"{server} does not support the room's version"
                ) from None
            if error.status == 403:
                raise MatrixError(
                    403, error.code or "M_FORBIDDEN", "The invited user's server refused"
                ) from None
            if error.status == 404 and error.code == "M_NOT_FOUND":
                raise not_found("The invited user's server knows no such user") from None
            raise MatrixError(
                502,
                error.code or "M_UNKNOWN",
                "The invited user's server could not be asked",
                detail=str(error),
            ) from None
        signed = (await self._fetcher.check(room.version, [answer], room_id)).get(event.event_id)
        if signed is None:
            raise MatrixError(502, "M_UNKNOWN", "The invited user's server answered with another event")
        accepted = event.with_signatures(signed.source["signatures"])
        await self._decisions.make(
            lambda: self._writer.resident_room(room_id),
            lambda tx, batch: self._writer.append_event(tx, batch, accepted),
        )
        return accepted.event_id

    def _draft_invite(self, tx: Tx, batch: Batch, draft: Draft) -> Event:
        create = batch.standing(tx, ("m.room.create", ""))
        if create is not None and create.content.get("m.federate") is False:
            raise forbidden("The room is not federated: only users of this server can be invited")
        event = self._writer.draft_event(tx, batch, draft)
        self._writer.append_event(tx, batch, event)
        return event

    async def invite_state(self, room: Room, inviter: str | None = None) -> list[Event]:
        """The state events that an invite to the room carries."""
        return await self._database.read(lambda tx: shown_state(self._merger.current(tx, room), inviter))
