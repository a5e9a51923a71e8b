"""A local user writes: a draft becomes an event at the room's head.

Under the room's lock: references and auth events from the head, built and signed, judged by
the same admission as everybody's, moved into the head; then queued to be stored. The lock is
not held while the disk is awaited (DESIGN §4.2).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import orjson

from comity.ports import Clock, Entropy
from comity.protocol.admission import Outcome
from comity.protocol.auth.power_levels import PowerLevels
from comity.protocol.auth.rules import auth_keys
from comity.protocol.build import Draft, Reference, build, reference_to
from comity.protocol.errors import MatrixError, forbidden, invalid_param, not_found
from comity.protocol.event import Event
from comity.protocol.identifiers import is_user_id, server_of
from comity.protocol.relations import ANNOTATION, THREAD, Relation, relation_of
from comity.protocol.room_versions import EventIds
from comity.protocol.signing import SigningKey
from comity.rooms.batch import Batch
from comity.rooms.commit import Commits
from comity.rooms.decisions import Decisions
from comity.rooms.guest_access import GuestAccess
from comity.rooms.invite_permission import check_takes_invites
from comity.rooms.judge import Judge, Missing
from comity.rooms.merge import Merger
from comity.rooms.notice_rooms import NoticeRooms
from comity.rooms.policy import Policies
from comity.rooms.room import Room, Rooms
from comity.store import queues, relations
from comity.store.database import Database, Tx, WriteTx

#: An event of ours points to at most this many ends of the graph; the rest wait for the next.
MAX_PREV_OF_OURS = 10
#: Annotations of one event by one user that a new one is held against.
MAX_OWN_ANNOTATIONS = 200
#: Characters of an event id that room versions 1 and 2 let us choose.
ASSIGNED_ID_LENGTH = 24


@dataclass(frozen=True, slots=True)
class ClientTransaction:
    """What makes a repeated request the same one (client-server §Transaction identifiers)."""

    user_id: str
    device_id: str
    scope: str
    transaction_id: str


class Writer:
    """Writes events of local users into rooms that this server is in."""

    def __init__(
        self,
        *,
        database: Database,
        rooms: Rooms,
        merger: Merger,
        judge: Judge,
        decisions: Decisions,
        commits: Commits,
        policies: Policies,
        guest_access: GuestAccess,
        notice_rooms: NoticeRooms,
        clock: Clock,
        entropy: Entropy,
        server_name: str,
        key: SigningKey,
    ) -> None:
        self._policies = policies
        self._guest_access = guest_access
        self._notice_rooms = notice_rooms
        self._database = database
        self._rooms = rooms
        self._merger = merger
        self._judge = judge
        self._decisions = decisions
        self._commits = commits
        self._clock = clock
        self._entropy = entropy
        self._server_name = server_name
        self._key = key
        #: Transactions whose event is decided and not on disk yet.
        self._in_flight: dict[ClientTransaction, tuple[str, asyncio.Future[int]]] = {}

    async def resident_room(self, room_id: str) -> Room:
        """The head of a room that a user of ours is in. Raises 404 M_NOT_FOUND."""
        room = await self._rooms.get(room_id)
        if room is None or not room.extremities:
            raise not_found("This server is not in a room of that id")
        return room

    async def send(
        self,
        room_id: str,
        draft: Draft,
        *,
        transaction: ClientTransaction | None = None,
        also: Callable[[WriteTx], None] | None = None,
    ) -> str:
        """Write one event; its id, once it is on disk. What `also` writes is stored with it or not at all.

        A repeated `transaction` gives the first one's event id. A state event that would change
        nothing gives the id of the one that stands. Raises MatrixError (403 M_FORBIDDEN when the
        authorization rules do not allow it, M_INVITE_BLOCKED; what the room's policy server says where it
        refuses).
        """
        recommended: Event | None = None
        while True:
            room = await self.resident_room(room_id)
            async with room.lock:
                if room.stale:
                    await self._rooms.settled(room)
                    continue
                known = await self._repeated(transaction)
                if known is None:
                    known = await self._decide_and_submit(room, draft, transaction, recommended, also)
            if known is None:
                recommended = await self._recommended(room, draft)
                continue
            event_id, future = known
            if future is not None:
                await asyncio.shield(future)
            return event_id

    async def _recommended(self, room: Room, draft: Draft) -> Event:
        """The draft as an event that the room's policy server has signed; the lock is not held.

        It would be allowed where the room is now: nobody is asked about what we would not send.
        """

        def decide(tx: Tx, batch: Batch) -> Event:
            event = self.draft_event(tx, batch, draft)
            self.append_event(tx, batch, event, just_built=True)
            return event

        return await self._policies.signed(room, await self._decisions.draft(room, decide))

    async def _repeated(
        self, transaction: ClientTransaction | None
    ) -> tuple[str, asyncio.Future[int] | None] | None:
        if transaction is None:
            return None
        in_flight = self._in_flight.get(transaction)
        if in_flight is not None:
            return in_flight
        event_id = await self._database.look_up(
            lambda tx: queues.client_event(
                tx, transaction.user_id, transaction.device_id, transaction.scope, transaction.transaction_id
            )
        )
        return None if event_id is None else (event_id, None)

    async def _decide_and_submit(
        self,
        room: Room,
        draft: Draft,
        transaction: ClientTransaction | None,
        recommended: Event | None,
        also: Callable[[WriteTx], None] | None,
    ) -> tuple[str, asyncio.Future[int] | None] | None:
        """None: the room's policy server is to be asked first; `recommended` is what it has signed."""
        batch = self._decisions.batch(room)
        event = await self._decisions.attempt(
            batch, lambda tx, batch: self._decide(tx, batch, draft, recommended)
        )
        if event is None:
            batch.undo()
            return None
        if not batch.decided:
            # What it would set stands already; perhaps not on the disk yet.
            return event.event_id, room.last_write
        if also is not None:
            batch.also.append(also)
        future = self._commits.submit([batch], self._remember(transaction, event.event_id))
        if transaction is not None:
            self._in_flight[transaction] = (event.event_id, future)
            future.add_done_callback(lambda _: self._in_flight.pop(transaction, None))
        return event.event_id, future

    def _remember(
        self, transaction: ClientTransaction | None, event_id: str
    ) -> Callable[[WriteTx], None] | None:
        if transaction is None:
            return None
        now = self._clock.now_ms()
        return lambda tx: queues.put_client_event(
            tx,
            transaction.user_id,
            transaction.device_id,
            transaction.scope,
            transaction.transaction_id,
            event_id,
            now,
        )

    def _decide(self, tx: Tx, batch: Batch, draft: Draft, recommended: Event | None) -> Event | None:
        if draft.type == "m.room.member" and draft.content.get("membership") == "invite":
            self._check_invite(tx, draft.state_key or "")
        standing = self._unchanged(tx, batch.room, draft)
        if standing is not None:
            return standing
        self._check_relation(tx, batch.room, draft)
        self._check_redaction(tx, batch.room, draft)
        if recommended is not None:
            visit = self._told_beside(tx, batch.room, recommended)
            self.append_event(tx, batch, recommended, visit=visit)
            return recommended
        if self._policies.wanted(tx, batch.room, draft.type, draft.state_key):
            return None
        return self.append(tx, batch, draft)

    def _check_invite(self, tx: Tx, target: str) -> None:
        # Users of other servers are asked for by theirs.
        if server_of(target) == self._server_name:
            check_takes_invites(tx, [target])

    def _unchanged(self, tx: Tx, room: Room, draft: Draft) -> Event | None:
        """The state event that stands, if the draft would set the same again."""
        if draft.state_key is None:
            return None
        standing = self._merger.lookup(tx, room, room.state)((draft.type, draft.state_key))
        if standing is None or standing.sender != draft.sender:
            return None
        same = orjson.dumps(standing.content, option=orjson.OPT_SORT_KEYS) == orjson.dumps(
            draft.content, option=orjson.OPT_SORT_KEYS
        )
        return standing if same else None

    def _check_relation(self, tx: Tx, room: Room, draft: Draft) -> None:
        """Raises 400 M_DUPLICATE_ANNOTATION, and M_UNKNOWN for a thread on what cannot have one.

        client-server §Avoiding duplicate annotations, §Validation of m.thread relationships.
        """
        relates = draft.content.get("m.relates_to")
        if not isinstance(relates, dict) or relates.get("rel_type") not in (ANNOTATION, THREAD):
            return
        target, events = relates.get("event_id"), self._rooms.events
        if not isinstance(target, str):
            return
        if relates["rel_type"] == THREAD:
            root = events.by_id(tx, target)
            is_here = root is not None and root.room_num == room.number
            if root is not None and is_here and relation_of(root.event) is not None:
                raise MatrixError(
                    400, "M_UNKNOWN", "That event relates to another: no thread can start at it"
                )
            return
        rows = relations.children(
            tx, room.number, [target], rel_type=ANNOTATION, event_type=draft.type, sender=draft.sender,
            limit=MAX_OWN_ANNOTATIONS,
        )  # fmt: skip
        held = list(events.load(tx, [number for _, number in rows]).values())
        held += events.pending_of(room.number, draft.sender)
        for stored in held:
            relation = relation_of(stored.event) if stored.event.type == draft.type else None
            if relation == Relation(ANNOTATION, target, relates.get("key")):
                raise MatrixError(400, "M_DUPLICATE_ANNOTATION", "You have annotated that event so already")

    def _check_redaction(self, tx: Tx, room: Room, draft: Draft) -> None:
        """Raises 403 M_FORBIDDEN for a redaction of somebody else's event without the power to.

        client-server §Redactions, PUT …/redact: administrators may redact what this server's users sent.
        The rules that servers hold each other to let anybody redact what came from their own server
        (rooms/v3 §Handling redactions): who of its users may is up to it.
        """
        redacts = draft.redacts
        if redacts is None and draft.type == "m.room.redaction" and room.version.redacts_in_content:
            # Set as state, it names its target itself.
            redacts = draft.content.get("redacts")
        target = self._rooms.events.by_id(tx, redacts) if isinstance(redacts, str) else None
        if target is None or target.room_num != room.number or target.event.sender == draft.sender:
            return
        if draft.by_administrator and server_of(target.event.sender) == self._server_name:
            return
        find = self._merger.lookup(tx, room, room.state)
        levels = PowerLevels(room.version, find(("m.room.create", "")), find(("m.room.power_levels", "")))
        if levels.user(draft.sender) < levels.redact:
            raise forbidden("That event is another user's, and your power level does not let you redact it")

    # -- steps that other writers of local events share

    def draft_event(self, tx: Tx, batch: Batch, draft: Draft) -> Event:
        """Build a draft at the head of the batch's room: signed, not yet judged.

        Raises 400 M_INVALID_PARAM for the membership of what is no user, 403 M_GUEST_ACCESS_FORBIDDEN for
        the join of a guest whom the room does not let in, M_CANNOT_LEAVE_SERVER_NOTICE_ROOM for the
        rejection of the server's own invite.
        """
        room = batch.room
        if draft.type == "m.room.member" and draft.state_key is not None and not is_user_id(draft.state_key):
            # The authorization rules let it pass, but nobody could ever take it up.
            raise invalid_param("The state_key of a membership is not a user id")
        self._guest_access.check_draft(tx, room, draft)
        self._notice_rooms.check_draft(tx, room, draft)
        prev = self._prev(room)
        find = self._merger.lookup(tx, room, room.state)
        auth: list[Reference] = []
        for key in auth_keys(room.version, draft.type, draft.sender, draft.state_key, draft.content):
            held = find(key)
            if held is not None:
                auth.append(reference_to(held))
        creates = draft.type == "m.room.create" and room.version.room_id_is_create_hash
        return build(
            draft,
            version=room.version,
            room_id=None if creates else room.room_id,
            prev=prev,
            auth=auth,
            now_ms=self._clock.now_ms(),
            server=self._server_name,
            key=self._key,
            assigned_id=self.assigned_id(room),
        )

    def assigned_id(self, room: Room) -> str:
        """An event id of our choice, for the room versions that have them."""
        if room.version.event_ids is not EventIds.ASSIGNED:
            return ""
        return f"${self._entropy.token(ASSIGNED_ID_LENGTH)}:{self._server_name}"

    @staticmethod
    def _prev(room: Room) -> Sequence[Reference]:
        references = [extremity.reference for extremity in room.extremities.values()]
        if len(references) > MAX_PREV_OF_OURS:
            references.sort(key=lambda reference: -reference.depth)
            references = references[:MAX_PREV_OF_OURS]
        return references

    def append(self, tx: Tx, batch: Batch, draft: Draft) -> Event:
        """Build, judge and append a draft. Raises MatrixError 403 M_FORBIDDEN when denied."""
        event = self.draft_event(tx, batch, draft)
        self.append_event(tx, batch, event, visit=self._told_beside(tx, batch.room, event), just_built=True)
        return event

    def _told_beside(self, tx: Tx, room: Room, event: Event) -> tuple[str, ...]:
        """Servers outside the room that an event concerns: an invite or knock of theirs ends.

        Of a ban's end nobody outside need hear; told late, it would meet the user's new join.
        """
        if event.type != "m.room.member" or event.membership not in ("leave", "ban") or not event.is_state:
            return ()
        server = server_of(event.state_key or "")
        if server == self._server_name or server in room.servers:
            return ()
        standing = self._merger.lookup(tx, room, room.state)(event.key)
        return (server,) if standing is not None and standing.membership in ("invite", "knock") else ()

    def append_event(
        self, tx: Tx, batch: Batch, event: Event, *, visit: tuple[str, ...] = (), just_built: bool = False
    ) -> None:
        """Judge an event of ours and append it. Raises MatrixError 403 M_FORBIDDEN when denied."""
        judged = self._judge.judge(tx, batch, event, just_built=just_built, recommended=True)
        if isinstance(judged, Missing):
            raise MatrixError(500, "M_UNKNOWN", "The room's history is incomplete", detail=repr(judged))
        if judged.verdict.outcome is not Outcome.ACCEPT:
            raise forbidden(judged.verdict.reason.partition(": ")[2] or judged.verdict.reason)
        decided = batch.add(tx, event, Outcome.ACCEPT, judged.state_before, is_new=just_built)
        decided.send_except = self._server_name
        decided.visit = visit
