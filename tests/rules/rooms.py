"""Rooms made of real, signed events, for tests of the rules: one line a happening.

A Room is one branch of a room: the state and the head of one way through its graph. `fork`
starts another branch over the same graph, and `resolve_states` merges the states of branches.
Nothing is checked when an event is written; the tests do that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from comity.protocol.auth.rules import auth_keys, authorize
from comity.protocol.build import Draft, build, reference_to
from comity.protocol.event import Event, StateKey
from comity.protocol.identifiers import server_of
from comity.protocol.room_versions import ROOM_VERSIONS, RoomVersion
from comity.protocol.signing import SigningKey
from comity.protocol.state_resolution.resolve import auth_difference, resolve, separate

ALICE = "@alice:a.example"
BOB = "@bob:b.example"
CAROL = "@carol:c.example"
DAVE = "@dave:d.example"

ALL_VERSIONS = tuple(ROOM_VERSIONS)


def versions(**fields: object) -> tuple[str, ...]:
    """The identifiers of the room versions whose named fields have those values."""
    return tuple(
        identifier
        for identifier, version in ROOM_VERSIONS.items()
        if all(getattr(version, name) == value for name, value in fields.items())
    )


def key_of(server: str) -> SigningKey:
    """The signing key that a server always has in these tests."""
    return SigningKey("1", hashlib.sha256(server.encode()).digest())


class Graph:
    """All events of a room, in whatever branch; the AuthGraph that state resolution asks."""

    def __init__(self) -> None:
        self.events: dict[str, Event] = {}
        self.rejected: set[str] = set()
        self.clock = 1_600_000_000_000

    def event(self, event_id: str) -> Event | None:
        return self.events.get(event_id)

    def is_rejected(self, event_id: str) -> bool:
        return event_id in self.rejected


class Room:
    """One branch of a room."""

    def __init__(
        self,
        version: str = "12",
        *,
        creator: str = ALICE,
        content: Mapping[str, Any] | None = None,
        graph: Graph | None = None,
    ) -> None:
        """A room that has its create event and nothing else."""
        self.version: RoomVersion = ROOM_VERSIONS[version]
        self.graph = graph or Graph()
        self.state: dict[StateKey, Event] = {}
        self.head: tuple[Event, ...] = ()
        implied: dict[str, Any] = {} if version == "1" else {"room_version": version}
        if not self.version.creator_is_sender:
            implied["creator"] = creator
        self.room_id: str | None = None
        if not self.version.room_id_is_create_hash:
            self.room_id = f"!room:{server_of(creator)}"
        self.create = self.send(creator, "m.room.create", {**implied, **(content or {})}, "")
        self.room_id = self.create.room_id

    def fork(self) -> Room:
        """Another branch from here on."""
        other = Room.__new__(Room)
        other.version, other.graph, other.room_id, other.create = (
            self.version,
            self.graph,
            self.room_id,
            self.create,
        )
        other.state, other.head = dict(self.state), self.head
        return other

    def write(
        self,
        sender: str,
        event_type: str,
        content: Mapping[str, Any],
        state_key: str | None = None,
        *,
        prev: Sequence[Event] | None = None,
        auth: Sequence[Event] | None = None,
        redacts: str | None = None,
        ts: int | None = None,
        source: Mapping[str, Any] | None = None,
        signers: Sequence[str] = (),
    ) -> Event:
        """An event at the head of this branch that is known to the graph but not part of the branch."""
        graph = self.graph
        graph.clock += 1000
        server = server_of(sender)
        if auth is None:
            keys = auth_keys(self.version, event_type, sender, state_key, content)
            auth = [self.state[key] for key in keys if key in self.state]
        event = build(
            Draft(event_type, sender, content, state_key, redacts, ts, source or {}),
            version=self.version,
            room_id=self.room_id,
            prev=[reference_to(event) for event in (self.head if prev is None else prev)],
            auth=[reference_to(event) for event in auth],
            now_ms=graph.clock,
            server=server,
            key=key_of(server),
            assigned_id=f"${graph.clock}:{server}",
        )
        for signer in signers:
            event = event.with_signatures({signer: {"ed25519:1": "c2lnbmVk"}})
        graph.events[event.event_id] = event
        return event

    def send(
        self,
        sender: str,
        event_type: str,
        content: Mapping[str, Any],
        state_key: str | None = None,
        **options: Any,
    ) -> Event:
        """Write an event and make it the head of this branch."""
        return self.add(self.write(sender, event_type, content, state_key, **options))

    def add(self, event: Event) -> Event:
        """Make a written event the head of this branch."""
        if event.is_state:
            self.state[event.key] = event
        self.head = (event,)
        return event

    def membership(self, sender: str, membership: str, target: str | None = None, **content: Any) -> Event:
        """An `m.room.member` event, written only; the target is the sender if there is no other."""
        options = {name: content.pop(name) for name in ("prev", "ts", "signers") if name in content}
        content = {"membership": membership, **content}
        return self.write(sender, "m.room.member", content, target or sender, **options)

    def join(self, user: str, **content: Any) -> Event:
        return self.add(self.membership(user, "join", **content))

    def invite(self, sender: str, target: str, **content: Any) -> Event:
        return self.add(self.membership(sender, "invite", target, **content))

    def leave(self, user: str, **content: Any) -> Event:
        return self.add(self.membership(user, "leave", **content))

    def kick(self, sender: str, target: str, **content: Any) -> Event:
        return self.add(self.membership(sender, "leave", target, **content))

    def ban(self, sender: str, target: str, **content: Any) -> Event:
        return self.add(self.membership(sender, "ban", target, **content))

    def join_rules(self, sender: str, rule: str, **options: Any) -> Event:
        return self.send(sender, "m.room.join_rules", {"join_rule": rule}, "", **options)

    def power_levels(self, sender: str, content: Mapping[str, Any], **options: Any) -> Event:
        """A power levels event with exactly that content."""
        return self.send(sender, "m.room.power_levels", content, "", **options)

    def powers(self, sender: str, users: Mapping[str, int], **content: Any) -> Event:
        """A power levels event for those users; creators of room version 12 are not listed."""
        ts = {"ts": content.pop("ts")} if "ts" in content else {}
        if self.version.creators_have_infinite_power:
            users = {user: level for user, level in users.items() if user != self.create.sender}
        return self.power_levels(sender, {"users": users, **content}, **ts)


def a_room(
    version: str = "12",
    *members: str,
    powers: Mapping[str, int] | None = None,
    join_rule: str = "public",
    **levels: Any,
) -> Room:
    """A room that Alice made and joined, with power levels (Alice has 100), a join rule and members."""
    room = Room(version)
    room.join(ALICE)
    room.powers(ALICE, {ALICE: 100, **(powers or {})}, **levels)
    room.join_rules(ALICE, "public")
    for member in members:
        room.join(member)
    if join_rule != "public":
        room.join_rules(ALICE, join_rule)
    return room


def resolve_states(
    version: RoomVersion, states: Sequence[Mapping[StateKey, Event]], graph: Graph
) -> dict[StateKey, Event]:
    """The whole resolved state of those states."""
    ids = [{key: event.event_id for key, event in state.items()} for state in states]
    unconflicted_ids, conflicted_ids = separate(ids)
    unconflicted = {key: graph.events[event_id] for key, event_id in unconflicted_ids.items()}
    resolved = resolve(
        version,
        unconflicted=unconflicted.get,
        conflicted={
            key: [graph.events[event_id] for event_id in events] for key, events in conflicted_ids.items()
        },
        auth_difference=auth_difference([set(state.values()) for state in ids], graph),
        graph=graph,
    )
    assert not resolved.keys() & unconflicted.keys()
    return {**unconflicted, **resolved}


def merge(*branches: Room) -> dict[StateKey, Event]:
    """The resolved state after branches of one room."""
    return resolve_states(branches[0].version, [branch.state for branch in branches], branches[0].graph)


def rule(version: str, numbers: str) -> str:
    """The name of a rule in a room version.

    `numbers` gives it from each version on where the specification changed it, as
    "1:5.2.3 6:4.2.3 8:4.3.3 12:5.3.3".
    """
    since = dict(part.split(":") for part in numbers.split())
    valid = max((int(first) for first in since if int(first) <= int(version)), default=None)
    assert valid is not None, f"no number for room version {version} in {numbers}"
    return f"rooms/v{version} rule {since[str(valid)]}"


def assert_allowed(room: Room, event: Event) -> None:
    """The rules allow the event in the branch's state."""
    assert authorize(event, room.state.get) is None


def assert_denied(room: Room, event: Event, numbers: str) -> None:
    """The rules deny the event in the branch's state, by that rule."""
    denial = authorize(event, room.state.get)
    assert denial is not None, "the event is allowed"
    assert denial.rule == rule(room.version.identifier, numbers)
    assert denial.reason[0].isupper()
    assert "@" not in denial.reason
