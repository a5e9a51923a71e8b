"""Join and leave rooms through other servers: the handshakes from our side.

server-server §Joining Rooms, §Leaving Rooms. The template that another server gives only
advises: the event is ours. Nothing is stored until the whole answer has been judged.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from comity.federation.calls import Calls, MakeAnswer, SendJoinAnswer
from comity.federation.errors import FederationError
from comity.ports import Clock, Entropy
from comity.protocol import canonical_json
from comity.protocol.admission import Outcome
from comity.protocol.auth.rules import authorize
from comity.protocol.errors import EventFormatError, MatrixError, forbidden, not_found
from comity.protocol.event import Event, parse
from comity.protocol.room_versions import ROOM_VERSIONS, EventIds, room_version
from comity.protocol.signing import SigningKey, sign_event
from comity.protocol.snapshot import Snapshot, SnapshotError, judge
from comity.rooms.batch import Batch
from comity.rooms.complete import Completer
from comity.rooms.decisions import Decisions
from comity.rooms.fetch import Fetcher
from comity.rooms.intake import Arrivals
from comity.rooms.room import Room, Rooms
from comity.rooms.strangers import Strangers
from comity.rooms.write import ASSIGNED_ID_LENGTH
from comity.store import partial as stored_partial
from comity.store.database import Tx
from comity.store.partial import Partial

_log = logging.getLogger(__name__)
#: Errors of another server that the user is told as they are.
_TOLD = {"M_FORBIDDEN", "M_UNABLE_TO_AUTHORISE_JOIN", "M_UNABLE_TO_GRANT_JOIN", "M_INCOMPATIBLE_ROOM_VERSION"}
#: Characters of a room version that are told of.
MAX_VERSION = 255


def tell(error: FederationError) -> MatrixError:
    """What a user is told of another server's refusal."""
    if error.kind == "unwelcome":
        return forbidden(f"The operator of this server does not let it talk to {error.server}")
    if error.code in _TOLD and error.status is not None:
        version, extra = error.body.get("room_version"), {}
        if error.code == "M_INCOMPATIBLE_ROOM_VERSION" and isinstance(version, str):
            extra["room_version"] = version[:MAX_VERSION]
        return MatrixError(
            error.status, str(error.code), f"{error.server} refused: {error.text}", extra=extra
        )
    if error.status == 404:
        return not_found(f"{error.server} does not know the room")
    return MatrixError(502, "M_UNKNOWN", f"{error.server} could not be asked", detail=str(error))


class Templates:
    """Turns another server's template of a membership into an event of ours."""

    def __init__(self, clock: Clock, entropy: Entropy, server_name: str, key: SigningKey) -> None:
        self._clock = clock
        self._entropy = entropy
        self._server_name = server_name
        self._key = key

    def sign(
        self, answer: MakeAnswer, server: str, room_id: str, user_id: str, content: Mapping[str, Any]
    ) -> Event:
        """Our membership event at the place that the template names. Raises FederationError."""
        version = room_version(answer.room_version)
        if version is None:
            raise FederationError(server, f"the room is of the unknown version {answer.room_version!r}")
        template = answer.event
        proposed = template.get("content")
        membership = content["membership"]
        if (
            template.get("type") != "m.room.member"
            or template.get("room_id") != room_id
            or template.get("sender") != user_id
            or template.get("state_key") != user_id
            or not isinstance(proposed, dict)
            or proposed.get("membership") != membership
        ):
            raise FederationError(server, "the template is not of the membership that was asked for")
        own = dict(content)
        authoriser = proposed.get("join_authorised_via_users_server")
        if membership == "join" and isinstance(authoriser, str):
            own["join_authorised_via_users_server"] = authoriser
        source: dict[str, Any] = {
            "type": "m.room.member",
            "room_id": room_id,
            "sender": user_id,
            "state_key": user_id,
            "content": own,
            "origin_server_ts": self._clock.now_ms(),
            "depth": template.get("depth"),
            "prev_events": template.get("prev_events"),
            "auth_events": template.get("auth_events"),
        }
        if version.event_ids is EventIds.ASSIGNED:
            source["event_id"] = f"${self._entropy.token(ASSIGNED_ID_LENGTH)}:{self._server_name}"
            source["origin"] = self._server_name
        try:
            canonical_json.check_values(source)
            return parse(version, dict(sign_event(version, source, self._server_name, self._key).source))
        except (EventFormatError, canonical_json.CanonicalJsonError, TypeError) as error:
            raise FederationError(server, f"the template is malformed: {error}") from None


class Joiner:
    """Joins rooms that this server is not in."""

    def __init__(
        self,
        *,
        rooms: Rooms,
        decisions: Decisions,
        strangers: Strangers,
        arrivals: Arrivals,
        templates: Templates,
        fetcher: Fetcher,
        calls: Calls,
        completer: Completer,
        clock: Clock,
    ) -> None:
        self._rooms = rooms
        self._completer = completer
        self._clock = clock
        self._decisions = decisions
        self._strangers = strangers
        self._arrivals = arrivals
        self._templates = templates
        self._fetcher = fetcher
        self._calls = calls
        self._joining: dict[str, asyncio.Lock] = {}

    async def join(
        self, user_id: str, room_id: str, servers: Sequence[str], content: Mapping[str, Any]
    ) -> bool:
        """Join through the first server that lets us. Raises MatrixError.

        False, with nothing done, if another user's join has brought us into the room meanwhile: another
        server's view of it must not replace our own.
        """
        lock = self._joining.setdefault(room_id, asyncio.Lock())
        try:
            async with lock:
                room = await self._rooms.get(room_id)
                if room is not None and room.resident:
                    return False
                await self._join_in_turn(user_id, room_id, servers, content)
                return True
        finally:
            if not lock.locked():
                self._joining.pop(room_id, None)

    async def _join_in_turn(
        self, user_id: str, room_id: str, servers: Sequence[str], content: Mapping[str, Any]
    ) -> None:
        failures: list[FederationError] = []
        for server in servers:
            self._arrivals.begin(room_id)
            try:
                await self._join_through(server, user_id, room_id, content)
                return
            except FederationError as error:
                _log.info("no join of %s through %s: %s", room_id, server, error)
                failures.append(error)
            finally:
                self._arrivals.end(room_id)
        # A server's considered refusal says more than another's silence.
        raise tell(next((error for error in failures if error.code in _TOLD), failures[0]))

    async def _join_through(
        self, server: str, user_id: str, room_id: str, content: Mapping[str, Any]
    ) -> None:
        answer = await self._calls.make_join(server, room_id, user_id, list(ROOM_VERSIONS))
        event = self._templates.sign(answer, server, room_id, user_id, content)
        sent = await self._calls.send_join(server, room_id, event)
        event = await self._signed_by_resident(event, sent)
        snapshot = await self._judge(server, room_id, event, sent)
        await self._store(server, event, snapshot, sent)
        if sent.members_omitted:
            self._completer.begin(room_id)

    async def _signed_by_resident(self, event: Event, sent: SendJoinAnswer) -> Event:
        """Take the resident's signatures over, if it returned the very same event."""
        if sent.event is None:
            return event
        returned = (await self._fetcher.check(event.version, [sent.event], event.room_id)).get(event.event_id)
        return event.with_signatures(returned.source["signatures"]) if returned is not None else event

    async def _judge(self, server: str, room_id: str, event: Event, sent: SendJoinAnswer) -> Snapshot:
        if sent.members_omitted and not sent.servers_in_room:
            raise FederationError(server, "the answer omits members and does not say which servers are there")
        version = event.version
        state = await self._fetcher.check(version, sent.state, room_id)
        chain = await self._fetcher.check(version, sent.auth_chain, room_id)
        state.pop(event.event_id, None)
        chain.pop(event.event_id, None)
        try:
            snapshot = judge(room_id, list(state), {**chain, **state})
        except SnapshotError as error:
            raise FederationError(server, f"the answer to the join cannot be believed: {error}") from None
        for event_id, reason in snapshot.rejected.items():
            _log.info("event %s of the state of %s was rejected: %s", event_id, room_id, reason)
        if sent.members_omitted:
            # Of the members, those are told that the join's own auth events name: an invite, who vouches.
            usable = {held.event_id: held for held in snapshot.ordered}
            for auth_id in event.auth_event_ids:
                member = usable.get(auth_id)
                if member is not None and member.is_state and auth_id not in snapshot.rejected:
                    snapshot.state.setdefault(member.key, member)
        denied = authorize(event, snapshot.state.get)
        if denied is not None:
            raise FederationError(
                server, f"its state does not allow the join: {denied.reason} ({denied.rule})"
            )
        return snapshot

    async def _store(self, server: str, event: Event, snapshot: Snapshot, sent: SendJoinAnswer) -> None:
        now = self._clock.now_ms()
        servers = frozenset({server, *sent.servers_in_room}) if sent.members_omitted else None

        def decide(tx: Tx, batch: Batch) -> None:
            self._decide(tx, batch, event, snapshot)
            if servers is not None:
                number = batch.all_decided()[-1].new.number
                partial = Partial(batch.room.number, number, server, servers, now)
                batch.room.partial = partial
                batch.also.append(lambda end: stored_partial.put(end, partial))
            else:
                batch.also.append(lambda end: stored_partial.delete(end, batch.room.number))

        await self._decisions.make(lambda: self._strangers.head(event.room_id, event.version), decide)

    @staticmethod
    def _decide(tx: Tx, batch: Batch, event: Event, snapshot: Snapshot) -> None:
        known = batch.standing(tx, ("m.room.create", ""))
        if known is not None and known.event_id != snapshot.state["m.room.create", ""].event_id:
            raise MatrixError(502, "M_UNKNOWN", "The room is not the one that was known by this id")
        batch.room_creator = snapshot.state["m.room.create", ""].sender
        batch.begin_anew(event.version)
        numbers: dict[str, int] = {}
        for held in snapshot.ordered:
            outcome = Outcome.REJECT if held.event_id in snapshot.rejected else Outcome.ACCEPT
            numbers[held.event_id] = batch.add_outlier(tx, held, outcome)
        entries = [(held, numbers[held.event_id]) for held in snapshot.state.values()]
        root = batch.with_events(tx, b"", entries)
        batch.add(tx, event, Outcome.ACCEPT, root, gap=event.prev_event_ids)


class Leaver:
    """Leaves rooms that this server is not in: rejects invites, takes knocks back."""

    def __init__(self, *, strangers: Strangers, templates: Templates, calls: Calls, server_name: str) -> None:
        self._strangers = strangers
        self._templates = templates
        self._calls = calls
        self._server_name = server_name

    async def leave(
        self, user_id: str, room: Room, servers: Sequence[str], content: Mapping[str, Any]
    ) -> None:
        """Reject an invite through the first of the servers that lets us.

        The user is out here even when none of them can be told.
        """
        for server in servers:
            try:
                event = await self._leave_through(server, user_id, room, content)
                break
            except FederationError as error:
                _log.warning("%s could not be told that %s rejects an invite: %s", server, user_id, error)
        else:
            event = self._alone(user_id, room, content)
        await self._strangers.record(room.version, event, "leave")

    async def _leave_through(
        self, server: str, user_id: str, room: Room, content: Mapping[str, Any]
    ) -> Event:
        answer = await self._calls.make_leave(server, room.room_id, user_id)
        event = self._templates.sign(answer, server, room.room_id, user_id, content)
        await self._calls.send_leave(server, room.room_id, event)
        return event

    def _alone(self, user_id: str, room: Room, content: Mapping[str, Any]) -> Event:
        """A leave that nobody else will see, standing on nothing."""
        template = MakeAnswer(
            room.version.identifier,
            {
                "type": "m.room.member",
                "room_id": room.room_id,
                "sender": user_id,
                "state_key": user_id,
                "content": {"membership": "leave"},
                "depth": 1,
                "prev_events": [],
                "auth_events": [],
            },
        )
        return self._templates.sign(template, self._server_name, room.room_id, user_id, content)
