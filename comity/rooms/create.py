"""Create a room: its first events in one transaction (client-server §Creation).

The order of events, the presets and what overrides what are the specification's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from comity.ports import Clock, Entropy
from comity.protocol import identifiers
from comity.protocol.auth.power_levels import DEFAULT_STATE_LEVEL
from comity.protocol.build import Draft, build
from comity.protocol.canonical_json import MAX_INTEGER
from comity.protocol.errors import MatrixError, bad_json, invalid_param
from comity.protocol.event import Event
from comity.protocol.room_versions import RoomVersion, room_version
from comity.protocol.signing import SigningKey
from comity.rooms.batch import Batch
from comity.rooms.commit import Commits
from comity.rooms.decisions import Decisions
from comity.rooms.merge import Merger
from comity.rooms.room import Room, Rooms
from comity.rooms.write import Writer
from comity.store import rooms as stored_rooms
from comity.store.database import Database, Tx

#: client-server §Creation: preset -> join rule, history visibility, guest access.
PRESETS: Mapping[str, tuple[str, str, str]] = {
    "private_chat": ("invite", "shared", "can_join"),
    "trusted_private_chat": ("invite", "shared", "can_join"),
    "public_chat": ("public", "shared", "forbidden"),
}
#: State events that one request may bring.
MAX_INITIAL_STATE = 100
#: Users that one request may invite.
MAX_INVITES = 100
ROOM_ID_LENGTH = 18
#: Levels of the events that only moderators and admins send in a new room.
_EVENT_LEVELS = {
    "m.room.name": 50,
    "m.room.avatar": 50,
    "m.room.canonical_alias": 50,
    "m.room.history_visibility": 100,
    "m.room.power_levels": 100,
    "m.room.tombstone": 100,
    "m.room.server_acl": 100,
    "m.room.encryption": 100,
}
#: rooms/v12: above every admin, so that only creators upgrade the room.
CREATORS_ALONE = 150


@dataclass(frozen=True, slots=True)
class NewRoom:
    """What `POST /createRoom` asks for, its types already checked."""

    creator: str
    version: str | None = None
    preset: str | None = None
    visibility: str = "private"
    name: str | None = None
    topic: str | None = None
    alias_localpart: str | None = None
    invite: Sequence[str] = ()
    is_direct: bool = False
    creation_content: Mapping[str, Any] = field(default_factory=dict)
    initial_state: Sequence[Mapping[str, Any]] = ()
    power_level_content_override: Mapping[str, Any] = field(default_factory=dict)
    member_content: Mapping[str, Any] = field(default_factory=dict)


def supported_version(identifier: str) -> RoomVersion:
    """The room version of that name. Raises 400 M_UNSUPPORTED_ROOM_VERSION."""
    version = room_version(identifier)
    if version is None:
        raise MatrixError(
            400, "M_UNSUPPORTED_ROOM_VERSION", f"Room version {identifier!r} is not supported by this server"
        )
    return version


def create_draft(new: NewRoom, version: RoomVersion) -> Draft:
    """The create event that a new room asks for (client-server §Creation). Raises 400 M_INVALID_PARAM."""
    content = {**new.creation_content, "room_version": version.identifier}
    content.pop("creator", None)
    if not version.creator_is_sender:
        content["creator"] = new.creator
    if version.creators_have_infinite_power:
        creators = content.get("additional_creators", [])
        if not isinstance(creators, list) or not all(identifiers.is_user_id(user) for user in creators):
            raise invalid_param("additional_creators is not a list of user ids")
        if new.preset == "trusted_private_chat":
            creators = [*creators, *new.invite]
        unique = [user for user in dict.fromkeys(creators) if user != new.creator]
        content.pop("additional_creators", None)
        if unique:
            content["additional_creators"] = unique
    return Draft("m.room.create", new.creator, content, state_key="")


class Creator:
    """Creates rooms on this server."""

    def __init__(
        self,
        *,
        database: Database,
        rooms: Rooms,
        merger: Merger,
        decisions: Decisions,
        commits: Commits,
        writer: Writer,
        clock: Clock,
        entropy: Entropy,
        server_name: str,
        key: SigningKey,
        default_version: str,
    ) -> None:
        self._database = database
        self._rooms = rooms
        self._merger = merger
        self._decisions = decisions
        self._commits = commits
        self._writer = writer
        self._clock = clock
        self._entropy = entropy
        self._server_name = server_name
        self._key = key
        self._default_version = default_version

    async def create(self, new: NewRoom) -> str:
        """Create the room without its invites; its id, once it is on disk. Raises MatrixError.

        400 M_INVALID_ROOM_STATE when the authorization rules do not allow what is asked for.
        """
        version = supported_version(new.version or self._default_version)
        if len(new.initial_state) > MAX_INITIAL_STATE:
            raise invalid_param(f"At most {MAX_INITIAL_STATE} initial state events can be given")
        alias = await self._alias(new)
        drafts = self._drafts(new, version, alias)

        def also(tx: Tx, room: Room) -> None:
            if alias is not None:
                self._store_alias(tx, alias, room.room_id, new.creator)
            if new.visibility == "public":
                stored_rooms.set_published(tx, room.number, published=True)

        return await self.found(version, create_draft(new, version), drafts, also)

    async def found(
        self,
        version: RoomVersion,
        create: Draft,
        drafts: Sequence[Draft],
        also: Callable[[Tx, Room], None] | None = None,
    ) -> str:
        """A room of exactly these first events, in one transaction with `also`; its id, once on disk.

        The sender of `create` is the creator. Raises MatrixError; then nothing is left of it.
        """
        room_id = f"!{self._entropy.token(ROOM_ID_LENGTH)}:{self._server_name}"
        room = Room(self._rooms.numbers.room(), room_id, version, b"", {}, resident=False, next_slot=0)
        first = await self._create_event(room, create)
        room.room_id = first.room_id
        # At once, so that no other takes the id; whoever finds it waits for the lock.
        self._rooms.put(room)
        try:
            async with room.lock:
                future = await self._fill(room, first, drafts, also)
        except BaseException:
            self._rooms.drop(room)
            raise
        await asyncio.shield(future)
        return room.room_id

    async def _fill(
        self, room: Room, first: Event, drafts: Sequence[Draft], also: Callable[[Tx, Room], None] | None
    ) -> asyncio.Future[int]:
        """Decide on everything that a new room begins with, and queue it."""
        batch = self._decisions.batch(room)
        batch.room_creator = first.sender

        def decide(tx: Tx, batch: Batch) -> None:
            self._writer.append_event(tx, batch, first)
            for draft in drafts:
                self._append(tx, batch, draft)

        await self._decisions.attempt(batch, decide)
        if also is not None:
            batch.also.append(lambda tx: also(tx, room))
        room.resident = True
        return self._commits.submit([batch])

    def _append(self, tx: Tx, batch: Batch, draft: Draft) -> None:
        try:
            self._writer.append(tx, batch, draft)
        except MatrixError as error:
            text = f"The room cannot begin with that {draft.type}: {error.text}"
            if error.code == "M_FORBIDDEN":
                raise MatrixError(400, "M_INVALID_ROOM_STATE", text) from None
            raise MatrixError(error.status, error.code, text) from None

    async def _create_event(self, room: Room, draft: Draft) -> Event:
        """The room's first event, of an id that no room has yet.

        rooms/v12: the room id is a hash of it, so two rooms that one user makes alike in the same
        millisecond would be the same room; the later one is made a millisecond later.
        """
        now_ms = self._clock.now_ms()
        while True:
            event = build(
                draft,
                version=room.version,
                room_id=None if room.version.room_id_is_create_hash else room.room_id,
                prev=(),
                auth=(),
                now_ms=now_ms,
                server=self._server_name,
                key=self._key,
                assigned_id=self._writer.assigned_id(room),
            )
            if await self._rooms.get(event.room_id) is None:
                return event
            now_ms += 1

    @staticmethod
    def _store_alias(tx: Tx, alias: str, room_id: str, creator: str) -> None:
        if not stored_rooms.put_alias(tx, alias, room_id, creator):
            raise MatrixError(400, "M_ROOM_IN_USE", "The room alias is taken")

    async def _alias(self, new: NewRoom) -> str | None:
        if new.alias_localpart is None:
            return None
        alias = f"#{new.alias_localpart}:{self._server_name}"
        if identifiers.split_alias(alias) is None or any(part.isspace() for part in alias):
            raise invalid_param("room_alias_name cannot be the local part of a room alias")
        if await self._database.read(lambda tx: stored_rooms.alias(tx, alias)) is not None:
            raise MatrixError(400, "M_ROOM_IN_USE", "The room alias is taken")
        return alias

    def _drafts(self, new: NewRoom, version: RoomVersion, alias: str | None) -> list[Draft]:
        """Every event after the create event, in the specification's order."""
        preset = new.preset or ("public_chat" if new.visibility == "public" else "private_chat")
        if preset not in PRESETS:
            raise bad_json(f"There is no preset {preset!r}")
        join_rule, history, guests = PRESETS[preset]
        member = {**new.member_content, "membership": "join"}
        drafts = [Draft("m.room.member", new.creator, member, state_key=new.creator)]

        def add(event_type: str, content: Mapping[str, Any], state_key: str = "") -> None:
            drafts.append(Draft(event_type, new.creator, content, state_key=state_key))

        given = self._initial_state(new)
        # What initial_state says takes precedence over what the preset would.
        levels = given.get(("m.room.power_levels", "")) or default_power_levels(new, version, preset)
        add("m.room.power_levels", _overridden(levels, new.power_level_content_override, version))
        if alias is not None:
            add("m.room.canonical_alias", {"alias": alias})
        for event_type, body in (
            ("m.room.join_rules", {"join_rule": join_rule}),
            ("m.room.history_visibility", {"history_visibility": history}),
            ("m.room.guest_access", {"guest_access": guests}),
        ):
            if (event_type, "") not in given:
                add(event_type, body)
        for (event_type, state_key), content in given.items():
            # Of memberships, bans alone: who joins does so themselves, and invites have a way of their own.
            is_ban = event_type == "m.room.member" and content.get("membership") == "ban"
            if is_ban or event_type not in ("m.room.create", "m.room.member", "m.room.power_levels"):
                add(event_type, content, state_key)
        if new.name is not None:
            add("m.room.name", {"name": new.name})
        if new.topic is not None:
            text = {"m.text": [{"mimetype": "text/plain", "body": new.topic}]}
            add("m.room.topic", {"topic": new.topic, "m.topic": text})
        return drafts

    @staticmethod
    def _initial_state(new: NewRoom) -> dict[tuple[str, str], Mapping[str, Any]]:
        given: dict[tuple[str, str], Mapping[str, Any]] = {}
        for item in new.initial_state:
            event_type, content = item.get("type"), item.get("content")
            state_key = item.get("state_key", "")
            if (
                not isinstance(event_type, str)
                or not isinstance(content, dict)
                or not isinstance(state_key, str)
            ):
                raise bad_json(
                    "An initial state event needs a type, a content and a state_key that is a string"
                )
            given[event_type, state_key] = content
        return given


def default_power_levels(new: NewRoom, version: RoomVersion, preset: str) -> dict[str, Any]:
    """The power levels of a new room before anything overrides them (client-server §Creation)."""
    users: dict[str, int] = {}
    levels = dict(_EVENT_LEVELS)
    if version.creators_have_infinite_power:
        levels["m.room.tombstone"] = CREATORS_ALONE
    else:
        users[new.creator] = 100
        if preset == "trusted_private_chat":
            users |= dict.fromkeys(new.invite, 100)
    return {
        "users": users,
        "users_default": 0,
        "events": levels,
        "events_default": 0,
        "state_default": 50,
        "ban": 50,
        "kick": 50,
        "redact": 50,
        "invite": 0,
        "historical": 100,
    }


def _overridden(
    levels: Mapping[str, Any], override: Mapping[str, Any], version: RoomVersion
) -> dict[str, Any]:
    """`levels` with the client's word on top, key by key.

    rooms/v12: where that says nothing of tombstones, their level is above `state_default` all the same.
    """
    content = {**levels, **override}
    events, state_default = content.get("events"), content.get("state_default", DEFAULT_STATE_LEVEL)
    if (
        not version.creators_have_infinite_power
        or not override.keys() & {"events", "state_default"}
        or not isinstance(events, dict)
        or type(state_default) is not int
        or events.get("m.room.tombstone", CREATORS_ALONE) != CREATORS_ALONE
    ):
        return content
    above = max(CREATORS_ALONE, min(state_default + 1, MAX_INTEGER))
    return {**content, "events": {**events, "m.room.tombstone": above}}
