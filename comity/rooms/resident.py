"""Memberships that other servers' users change through us: the handshakes from our side.

server-server §Joining Rooms, §Leaving Rooms, §Inviting to a room: we give templates, judge
what comes back signed, store it and pass it on to the room.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from comity.protocol.admission import Outcome
from comity.protocol.auth.rules import authorize
from comity.protocol.build import Draft
from comity.protocol.errors import MatrixError, forbidden, invalid_param, not_found
from comity.protocol.event import Event
from comity.protocol.identifiers import server_of, split_user_id
from comity.protocol.room_versions import room_version
from comity.protocol.signing import SigningKey, add_signature
from comity.rooms.batch import Batch
from comity.rooms.decisions import Decisions
from comity.rooms.fetch import Fetcher
from comity.rooms.invite_permission import check_takes_invites
from comity.rooms.join_answer import join_answer
from comity.rooms.judge import Judge, Missing
from comity.rooms.merge import Merger
from comity.rooms.policy import Policies
from comity.rooms.restricted import Restricted
from comity.rooms.room import Room, Rooms
from comity.rooms.serve import Server, splice
from comity.rooms.strangers import MAX_STRIPPED, Strangers, shown_state
from comity.rooms.write import Writer
from comity.store.database import Database, Tx
from comity.store.events import ACCEPTED


class Resident:
    """Lets other servers' users in and out, and takes their invites."""

    def __init__(
        self,
        *,
        database: Database,
        rooms: Rooms,
        merger: Merger,
        judge: Judge,
        decisions: Decisions,
        writer: Writer,
        server: Server,
        restricted: Restricted,
        strangers: Strangers,
        policies: Policies,
        fetcher: Fetcher,
        server_name: str,
        key: SigningKey,
    ) -> None:
        self._database = database
        self._rooms = rooms
        self._merger = merger
        self._judge = judge
        self._decisions = decisions
        self._writer = writer
        self._server = server
        self._restricted = restricted
        self._strangers = strangers
        self._policies = policies
        self._fetcher = fetcher
        self._server_name = server_name
        self._key = key

    # -- templates

    async def make(
        self, origin: str, room_id: str, user_id: str, membership: str, versions: Sequence[str] = ()
    ) -> dict[str, Any]:
        """The answer to make_join, make_knock and make_leave. Raises MatrixError."""
        if split_user_id(user_id) is None or server_of(user_id) != origin:
            raise forbidden("The user is not of your server")
        room = await self._server.room_for(room_id, origin, must_be_in=False)
        if membership != "leave" and room.version.identifier not in (versions or ("1",)):
            raise MatrixError(
                400,
                "M_INCOMPATIBLE_ROOM_VERSION",
                "Your server does not support the version of the room",
                extra={"room_version": room.version.identifier},
            )
        if membership != "leave":
            self._server.check_whole(room)
        content: dict[str, Any] = {"membership": membership}
        if membership == "join":
            authoriser = await self._restricted.authorise_for(room, user_id)
            if authoriser is not None:
                content["join_authorised_via_users_server"] = authoriser
        draft = Draft("m.room.member", user_id, content, state_key=user_id)
        event = await self._decisions.draft(room, lambda tx, batch: self._template(tx, batch, draft))
        template = {
            name: part
            for name, part in event.source.items()
            if name not in ("hashes", "signatures", "event_id")
        }
        return {"room_version": room.version.identifier, "event": {**template, "origin": self._server_name}}

    def _template(self, tx: Tx, batch: Batch, draft: Draft) -> Event:
        event = self._writer.draft_event(tx, batch, draft)
        denied = authorize(event, self._merger.lookup(tx, batch.room, batch.room.state))
        if denied is not None:
            raise forbidden(denied.reason)
        return event

    # -- signed memberships

    async def _signed(
        self, origin: str, room: Room, event_id: str, value: Mapping[str, Any], membership: str
    ) -> Event:
        """The event of a send_join, send_knock or send_leave, its format, origin and signatures checked."""
        # Where a user of ours vouches for a restricted join, our signature is one of those that are
        # checked. It is added once the room's conditions are met; what is malformed is refused below.
        signed_value = await self._with_own_signature(room, value)
        checked = await self._fetcher.check(room.version, [signed_value], room.room_id)
        event = next(iter(checked.values()), None)
        if event is None:
            raise invalid_param("The event is malformed or not validly signed")
        if event.event_id != event_id:
            raise invalid_param("The event is not the one that the path names")
        if event.type != "m.room.member" or event.membership != membership:
            raise invalid_param(f"The event is not a membership of {membership}")
        if event.state_key != event.sender or server_of(event.sender) != origin:
            raise invalid_param("The event is not a membership of one of your users by themselves")
        return (await self._policies.recommended(room, [event]))[0]

    async def _with_own_signature(self, room: Room, value: Mapping[str, Any]) -> Mapping[str, Any]:
        content = value.get("content")
        authoriser = content.get("join_authorised_via_users_server") if isinstance(content, dict) else None
        if not room.version.allows_restricted_joins or not isinstance(authoriser, str):
            return value
        user_id = value.get("state_key")
        if server_of(authoriser) != self._server_name or not isinstance(user_id, str):
            return value
        if await self._restricted.applies(room, user_id):
            await self._restricted.authorise_for(room, user_id)
        try:
            event = Event(room.version, {name: part for name, part in value.items() if name != "unsigned"})
            return add_signature(event, self._server_name, self._key).source
        except (KeyError, TypeError, AttributeError, ValueError, IndexError):
            # Malformed: the check that follows says so.
            return value

    async def send_join(
        self,
        origin: str,
        room_id: str,
        event_id: str,
        value: Mapping[str, Any],
        *,
        omit_members: bool = False,
    ) -> bytes:
        """The answer to send_join (v2), once the join is on disk. Raises MatrixError.

        `omit_members` is what the joining server can do with.
        """
        room = await self._server.room_for(room_id, origin, must_be_in=False)
        self._server.check_whole(room)
        event = await self._signed(origin, room, event_id, value, "join")
        state = await self._append(room, event, origin)

        def read(tx: Tx) -> bytes:
            return join_answer(
                tx, self._rooms.events, self._rooms.states, room, event, state,
                own=self._server_name, omit=omit_members,
                shown=lambda stored: self._server.shown(tx, room, origin, stored),
            )  # fmt: skip

        return await self._database.read(read)

    async def send_leave(self, origin: str, room_id: str, event_id: str, value: Mapping[str, Any]) -> None:
        """Take a leave by another server's user. Raises MatrixError."""
        room = await self._server.room_for(room_id, origin, must_be_in=False)
        event = await self._signed(origin, room, event_id, value, "leave")
        await self._append(room, event, origin)

    async def send_knock(self, origin: str, room_id: str, event_id: str, value: Mapping[str, Any]) -> bytes:
        """Take a knock by another server's user; the answer to send_knock, once it is on disk.

        server-server §Knocking upon a room. Raises MatrixError.
        """
        room = await self._server.room_for(room_id, origin, must_be_in=False)
        event = await self._signed(origin, room, event_id, value, "knock")
        state = await self._append(room, event, origin)

        def read(tx: Tx) -> list[bytes]:
            return [shown.encoded for shown in shown_state(self._merger.lookup(tx, room, state))]

        return b'{"knock_room_state":' + splice(await self._database.read(read)) + b"}"

    async def _append(self, room: Room, event: Event, origin: str) -> bytes:
        """Judge and store the event, and pass it on; the state before it."""
        state = await self._decisions.make(
            lambda: self._rooms.get(room.room_id), lambda tx, batch: self._decide(tx, batch, event, origin)
        )
        if state is None:
            raise not_found("This server is not in a room of that id")
        return state

    def _decide(self, tx: Tx, batch: Batch, event: Event, origin: str) -> bytes:
        held = self._rooms.events.by_id(tx, event.event_id)
        if held is not None and held.state_before is not None:
            if held.verdict != ACCEPTED:
                raise forbidden("The event is not allowed in the room")
            return held.state_before
        judged = self._judge.judge(tx, batch, event)
        if isinstance(judged, Missing):
            raise invalid_param("The event stands on events that are not known here: ask for a new template")
        if judged.verdict.outcome is not Outcome.ACCEPT:
            raise forbidden(judged.verdict.reason)
        decided = batch.add(tx, event, Outcome.ACCEPT, judged.state_before)
        decided.send_except = origin
        return judged.state_before

    # -- invites

    async def take_invite(
        self, origin: str, room_id: str, event_id: str, body: Mapping[str, Any], *, user_exists: bool
    ) -> Event:
        """server-server §Inviting: sign an invite of a user of ours, and keep it. Raises MatrixError."""
        room = await self._rooms.get(room_id)
        if room is not None and room.resident:
            # The ACL of a room that we are in holds here as it does there, whatever else is wrong.
            await self._server.room_for(room_id, origin, must_be_in=False)
        version = room_version(body.get("room_version"))
        if version is None:
            raise MatrixError(
                400,
                "M_INCOMPATIBLE_ROOM_VERSION",
                "This server does not support the version of the room",
                extra={"room_version": body.get("room_version")},
            )
        checked = await self._fetcher.check(version, [body.get("event")], room_id)
        event = checked.get(event_id)
        if event is None:
            raise invalid_param("The event is malformed, of another room or id, or not validly signed")
        if event.type != "m.room.member" or event.membership != "invite":
            raise invalid_param("The event is not an invite")
        if server_of(event.sender) != origin:
            raise invalid_param("The invite's sender is not of your server")
        if event.state_key is None or server_of(event.state_key) != self._server_name:
            raise invalid_param("The invited user is not of this server")
        if not user_exists:
            raise not_found("There is no such user")
        invited = [event.state_key]
        await self._database.look_up(lambda tx: check_takes_invites(tx, invited))
        shown = body.get("invite_room_state", [])
        if not isinstance(shown, list) or not all(isinstance(item, dict) for item in shown):
            raise invalid_param("invite_room_state is not a list of events")
        if len(shown) > MAX_STRIPPED:
            raise invalid_param(f"invite_room_state has more than {MAX_STRIPPED} events")
        shown = await self._strangers.believable(version, room_id, shown)
        signed = add_signature(event, self._server_name, self._key)
        room = await self._rooms.get(room_id)
        if room is not None and room.resident:
            # It comes to us as a member of the room too.
            if version is room.version:
                advised = (await self._policies.recommended(room, [signed]))[0]
                await self._decisions.make(
                    lambda: self._rooms.get(room_id), lambda tx, batch: self._take_early(tx, batch, advised)
                )
        else:
            await self._strangers.record(version, signed, "invite", [*shown, dict(signed.source)])
        return signed

    def _take_early(self, tx: Tx, batch: Batch, event: Event) -> None:
        """Take an invite into a room that we are in, if it can be judged already.

        Whoever invited has been told that it is done, and their transaction may be long in coming: until
        then the invited user would be told of nothing, and not be let in.
        """
        held = self._rooms.events.by_id(tx, event.event_id)
        if held is not None and held.state_before is not None:
            return
        judged = self._judge.judge(tx, batch, event)
        if isinstance(judged, Missing) or judged.verdict.outcome is not Outcome.ACCEPT:
            return
        batch.add(tx, event, Outcome.ACCEPT, judged.state_before)
