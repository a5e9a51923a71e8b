"""Upgrade a room: another of a newer version replaces it (client-server §Room Upgrades).

First the new room, whole, in one transaction; then the tombstone, with which aliases and the place in
the published directory move. So a crash between the two leaves the old room as it was. That the old
room is quietened comes last, and only where the user may. What is taken over is `comity.rooms.carried`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from comity.protocol.build import Draft
from comity.protocol.errors import MatrixError, forbidden
from comity.protocol.event import Event
from comity.protocol.room_versions import RoomVersion
from comity.rooms import carried
from comity.rooms.batch import Batch
from comity.rooms.create import Creator, NewRoom, create_draft, supported_version
from comity.rooms.decisions import Decisions
from comity.rooms.merge import Merger
from comity.rooms.room import Room, Rooms
from comity.rooms.room_summary import CHILD, MAX_CHILDREN, SPACE
from comity.rooms.succession import Successions
from comity.rooms.write import Writer
from comity.store import published as stored_published
from comity.store import rooms as stored_rooms
from comity.store.database import Database, Tx, WriteTx

_log = logging.getLogger(__name__)
#: Bans that are carried over, the newest first: each is an event of the new room's one transaction, and
#: a thousand take a second or so in which the server does little else.
MAX_BANS = 1_000
TOMBSTONE_BODY = "This room has been replaced"


@dataclass(frozen=True, slots=True)
class _Old:
    """What the new room is made from, as of one moment."""

    create: Event
    levels: Event | None
    #: Contents by (type, state key), beside the power levels.
    state: Mapping[tuple[str, str], Mapping[str, Any]]
    #: user id -> reason, or None.
    bans: Mapping[str, str | None]
    aliases: Sequence[str]
    last_event_id: str


class Upgrader:
    """Upgrades rooms on behalf of local users."""

    def __init__(
        self,
        *,
        database: Database,
        rooms: Rooms,
        merger: Merger,
        decisions: Decisions,
        writer: Writer,
        creator: Creator,
        successions: Successions,
        whole: Callable[[str], Awaitable[None]],
        member_content: Callable[[str], Awaitable[Mapping[str, Any]]],
    ) -> None:
        """`whole` waits until a room that was joined just now has all of its state; `member_content`
        gives a local user's displayname and avatar_url for their memberships."""
        self._database = database
        self._rooms = rooms
        self._merger = merger
        self._decisions = decisions
        self._writer = writer
        self._creator = creator
        self._successions = successions
        self._whole = whole
        self._member_content = member_content
        #: Upgrades that are on their way: whoever asks for the same again gets the same room.
        self._running: dict[tuple[str, str, str, str], asyncio.Task[str]] = {}

    async def upgrade(self, user_id: str, room_id: str, version: str, additional_creators: object) -> str:
        """Replace a room by one of that version; the new room's id, once both are on disk.

        `additional_creators` is unchecked, and ignored where the version knows none. Raises 400
        M_UNSUPPORTED_ROOM_VERSION, 400 M_INVALID_PARAM, 403 M_FORBIDDEN, 404 M_NOT_FOUND.
        """
        wanted = supported_version(version)
        asked = (user_id, room_id, version, repr(additional_creators))
        task = self._running.get(asked)
        if task is None:
            # It goes on when the client does not wait: half an upgrade is of no use to anybody.
            task = asyncio.ensure_future(self._upgrade(user_id, room_id, wanted, additional_creators))
            self._running[asked] = task
            task.add_done_callback(lambda done: self._finished(asked, done))
        return await asyncio.shield(task)

    def _finished(self, asked: tuple[str, str, str, str], done: asyncio.Task[str]) -> None:
        self._running.pop(asked, None)
        if not done.cancelled() and (error := done.exception()) is not None:
            _log.info("%s did not upgrade %s: %s", asked[0], asked[1], error)

    async def _upgrade(
        self, user_id: str, room_id: str, version: RoomVersion, additional_creators: object
    ) -> str:
        room = await self._writer.resident_room(room_id)
        await self._whole(room_id)
        await self._check(room, self._tombstone(user_id, room_id))
        # The head may be another object by now.
        room = await self._writer.resident_room(room_id)
        old = await self._database.read(lambda tx: self._read(tx, room))
        create = self._create(old, user_id, room_id, version, additional_creators)
        drafts = await self._drafts(old, create, version)
        new_id = await self._creator.found(version, create, drafts)
        try:
            await self._replace(user_id, room, new_id)
        except MatrixError:
            # The room was changed meanwhile, or its policy server objects. Nobody knows of the new one yet.
            await self._give_up(user_id, new_id)
            raise
        await self._quieten(user_id, room_id, old)
        await self._successions.joined(user_id, new_id)
        return new_id

    async def _check(self, room: Room, tombstone: Draft) -> None:
        """Step 1: may the user send a tombstone? Nothing of it is kept."""

        def decide(tx: Tx, batch: Batch) -> None:
            member = batch.standing(tx, ("m.room.member", tombstone.sender))
            if member is None or member.membership != "join":
                raise forbidden("You are not in the room that you want to upgrade")
            self._writer.append(tx, batch, tombstone)

        try:
            await self._decisions.draft(room, decide)
        except MatrixError as error:
            if error.code != "M_FORBIDDEN":
                raise
            raise forbidden(f"You may not upgrade this room: {error.text}") from None

    @staticmethod
    def _tombstone(user_id: str, replacement_room: str) -> Draft:
        content = {"body": TOMBSTONE_BODY, "replacement_room": replacement_room}
        return Draft("m.room.tombstone", user_id, content, state_key="")

    # -- the new room

    def _read(self, tx: Tx, room: Room) -> _Old:
        find = self._merger.current(tx, room)
        create = find(("m.room.create", ""))
        if create is None:
            raise MatrixError(500, "M_UNKNOWN", "The room's history is incomplete", detail="no create event")
        state = {}
        for event_type in (*carried.AS_IT_IS, "m.room.join_rules", "m.room.canonical_alias"):
            event = find((event_type, ""))
            if event is not None and event.content:
                state[event_type, ""] = event.content
        if create.content.get("type") == SPACE:
            numbers = self._rooms.states.by_type(tx, room.number, room.decided_state, CHILD).values()
            children = [stored.event for stored in self._rooms.events.load(tx, numbers).values()]
            for child in [child for child in children if child.content.get("via")][:MAX_CHILDREN]:
                state[child.key] = child.content
        last = max(room.extremities.values(), key=lambda extremity: extremity.reference.depth)
        return _Old(
            create,
            find(("m.room.power_levels", "")),
            state,
            self._bans(tx, room),
            stored_rooms.aliases_of(tx, room.room_id),
            last.reference.event_id,
        )

    def _bans(self, tx: Tx, room: Room) -> dict[str, str | None]:
        banned = stored_rooms.members(tx, room.number, "ban")
        if len(banned) > MAX_BANS:
            _log.warning(
                "of %d bans of %s, the newest %d are carried over", len(banned), room.room_id, MAX_BANS
            )
        banned = sorted(banned, key=lambda member: member.position)[-MAX_BANS:]
        events = self._rooms.events.load(tx, [member.event_num for member in banned])
        found: dict[str, str | None] = {}
        for member in banned:
            stored = events.get(member.event_num)
            reason = stored.event.content.get("reason") if stored is not None else None
            found[member.user_id] = reason if isinstance(reason, str) else None
        return found

    @staticmethod
    def _create(
        old: _Old, user_id: str, room_id: str, version: RoomVersion, additional_creators: object
    ) -> Draft:
        content: dict[str, Any] = {"predecessor": {"room_id": room_id, "event_id": old.last_event_id}}
        if isinstance(old.create.content.get("type"), str):
            content["type"] = old.create.content["type"]
        if old.create.content.get("m.federate") is False:
            # What was to stay on this server must not leave it by an upgrade.
            content["m.federate"] = False
        if version.creators_have_infinite_power and additional_creators is not None:
            content["additional_creators"] = additional_creators
        return create_draft(NewRoom(user_id, creation_content=content), version)

    async def _drafts(self, old: _Old, create: Draft, version: RoomVersion) -> list[Draft]:
        """Every event after the create event.

        The power levels come last: until then the user may do everything, whatever they could in the
        old room. Nobody else can be in the room so early.
        """
        user_id = create.sender
        new_creators = [user_id, *create.content.get("additional_creators", ())]
        drafts = [_member(user_id, user_id, {**await self._member_content(user_id), "membership": "join"})]
        for (event_type, state_key), content in old.state.items():
            if event_type == "m.room.join_rules":
                content = carried.join_rules(content, version)
            elif event_type == "m.room.canonical_alias":
                content = carried.canonical_alias(content, old.aliases, keep=True)
            if content:
                drafts.append(Draft(event_type, user_id, content, state_key=state_key))
        for target, reason in old.bans.items():
            if not version.creators_have_infinite_power or target not in new_creators:
                why = {} if reason is None else {"reason": reason}
                drafts.append(_member(user_id, target, {"membership": "ban", **why}))
        levels = carried.power_levels(old.create, old.levels, version, new_creators)
        drafts.append(Draft("m.room.power_levels", user_id, levels, state_key=""))
        return drafts

    # -- the old room

    async def _replace(self, user_id: str, room: Room, new_id: str) -> None:
        """Steps 4 and 5: the tombstone; with it the aliases and the published directory lead on."""
        new = await self._writer.resident_room(new_id)

        def move(tx: WriteTx) -> None:
            stored_rooms.move_aliases(tx, room.room_id, new_id)
            if stored_published.is_published(tx, room.number):
                stored_rooms.set_published(tx, room.number, published=False)
                stored_rooms.set_published(tx, new.number, published=True)

        await self._writer.send(room.room_id, self._tombstone(user_id, new_id), also=move)

    async def _give_up(self, user_id: str, new_id: str) -> None:
        """The new room is of no use: the user is not to find it among their rooms.

        Its policy server, which may be the one that objected, is not asked: nobody else sees it.
        """
        leave = _member(user_id, user_id, {"membership": "leave"})
        await self._decisions.make(
            lambda: self._writer.resident_room(new_id),
            lambda tx, batch: self._writer.append(tx, batch, leave),
        )
        new = await self._rooms.get(new_id)
        if new is not None:
            await self._database.write(lambda tx: stored_rooms.forget(tx, user_id, new.number))

    async def _quieten(self, user_id: str, room_id: str, old: _Old) -> None:
        """Step 6, and aliases that lead elsewhere now are not the old room's: where the user may."""
        drafts = []
        alias = old.state.get(("m.room.canonical_alias", ""))
        if alias is not None and carried.canonical_alias(alias, old.aliases, keep=True):
            rest = carried.canonical_alias(alias, old.aliases, keep=False)
            drafts.append(Draft("m.room.canonical_alias", user_id, rest, state_key=""))
        levels = carried.restrained(old.create, old.levels)
        if levels is not None:
            drafts.append(Draft("m.room.power_levels", user_id, levels, state_key=""))
        for draft in drafts:
            try:
                await self._writer.send(room_id, draft)
            except MatrixError as error:
                _log.info("%s of %s, which was replaced, stays as it was: %s", draft.type, room_id, error)


def _member(sender: str, target: str, content: Mapping[str, Any]) -> Draft:
    return Draft("m.room.member", sender, content, state_key=target)
