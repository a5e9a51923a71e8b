"""Rooms to measure in: thousands of state events with real ids and real auth edges, cheaply made.

Owns the shape of a room before it forks. Hashes and signatures have the right length and are
random, because nobody here verifies them; everything else is as a server would have written it.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from comity.protocol.auth.rules import authorize
from comity.protocol.auth.selection import auth_keys
from comity.protocol.event import Event, StateKey
from comity.protocol.identifiers import server_of
from comity.protocol.room_versions import ROOM_VERSIONS, RoomVersion

State = dict[StateKey, Event]

#: The server whose database is measured; some members are its own.
OURS = "a.example"
CREATOR = f"@creator:{OURS}"
ADMINS = tuple(f"@admin{number}:b{number}.example" for number in range(3))
MODERATORS = tuple(f"@moderator{number}:c{number}.example" for number in range(10))
#: Members for each server, and the most servers that a room has.
MEMBERS_PER_SERVER = 50
MAX_SERVERS = 1_000
#: One member of so many has changed the profile since the join.
CHANGED_PROFILES = 4
#: Power levels change so often while a room grows.
POWER_LEVELS_IN_A_ROOM = 20
FIRST_TIMESTAMP = 1_700_000_000_000


def _random_base64(seed: str, size: int) -> str:
    digest = hashlib.shake_128(seed.encode()).digest(size)
    return base64.b64encode(digest).decode().rstrip("=")


def user(number: int, servers: int) -> str:
    """The id of a member. Neighbours in the room are no neighbours by name."""
    name = hashlib.blake2b(number.to_bytes(8, "big"), digest_size=5).hexdigest()
    server = number % servers
    return f"@{name}:{f's{server}.example' if server else OURS}"


@dataclass
class Graph:
    """Every event of a room in the order in which they were written; state resolution may ask it."""

    version: RoomVersion
    room_id: str | None = None
    events: dict[str, Event] = field(default_factory=dict)
    clock: int = FIRST_TIMESTAMP

    def event(self, event_id: str) -> Event | None:
        return self.events.get(event_id)

    def is_rejected(self, event_id: str) -> bool:
        return False


@dataclass
class Branch:
    """One way through a room's graph: its state and its last event."""

    graph: Graph
    state: State = field(default_factory=dict)
    head: Event | None = None

    def fork(self) -> Branch:
        """Another branch from here on."""
        return Branch(self.graph, dict(self.state), self.head)

    def send(
        self,
        sender: str,
        event_type: str,
        content: Mapping[str, Any],
        state_key: str = "",
        *,
        check: bool = True,
    ) -> Event:
        """Write a state event and make it the head. With `check`, the rules must allow it."""
        graph, version = self.graph, self.graph.version
        graph.clock += 1_000
        server, seed = server_of(sender), str(len(graph.events))
        keys = auth_keys(version, event_type, sender, state_key, content)
        source: dict[str, Any] = {
            "auth_events": [self.state[key].event_id for key in keys if key in self.state],
            "content": content,
            "depth": self.head.depth + 1 if self.head else 1,
            "hashes": {"sha256": _random_base64("h" + seed, 32)},
            "origin_server_ts": graph.clock,
            "prev_events": [self.head.event_id] if self.head else [],
            "sender": sender,
            "signatures": {server: {"ed25519:1": _random_base64("s" + seed, 64)}},
            "state_key": state_key,
            "type": event_type,
        }
        if graph.room_id is not None:
            source["room_id"] = graph.room_id
        event = Event(version, source)
        if check:
            denial = authorize(event, self.state.get)
            assert denial is None, f"{event} is denied by {denial}"
        graph.events[event.event_id] = event
        self.state[event.key] = self.head = event
        return event

    def member(self, sender: str, membership: str, target: str, *, check: bool = True) -> Event:
        """A membership as clients have it, with a profile unless somebody else set it."""
        content: dict[str, Any] = {"membership": membership}
        if membership == "join":
            changes = str(len(self.graph.events))
            media = base64.b32encode(hashlib.blake2b(changes.encode(), digest_size=15).digest()).decode()
            content["avatar_url"] = f"mxc://{server_of(target)}/{media}"
            content["displayname"] = f"{target[1:6].title()} {changes}"
        return self.send(sender, "m.room.member", content, target, check=check)

    def powers(self, sender: str, changes: Mapping[str, int]) -> Event:
        """Power levels that differ from those in force by these users' levels."""
        standing = self.state.get(("m.room.power_levels", ""))
        content: dict[str, Any] = dict(standing.content) if standing else {**_LEVELS}
        content["users"] = {**content["users"], **changes}
        if self.graph.version.creators_have_infinite_power:
            content["users"].pop(CREATOR, None)
        return self.send(sender, "m.room.power_levels", content)


_LEVELS: Mapping[str, Any] = {
    "ban": 50,
    "events": {
        "m.room.avatar": 50, "m.room.canonical_alias": 50, "m.room.encryption": 100,
        "m.room.history_visibility": 100, "m.room.name": 50, "m.room.power_levels": 100,
        "m.room.server_acl": 100, "m.room.tombstone": 150,
    },
    "events_default": 0,
    "invite": 50,
    "kick": 50,
    "redact": 50,
    "state_default": 50,
    "users": {CREATOR: 100},
    "users_default": 0,
}  # fmt: skip


def _begin(version: str) -> Branch:
    """A public room with its name, its topic and those who have power."""
    graph = Graph(ROOM_VERSIONS[version])
    creator = {} if graph.version.creator_is_sender else {"creator": CREATOR}
    if not graph.version.room_id_is_create_hash:
        graph.room_id = f"!size:{OURS}"
    branch = Branch(graph)
    create = branch.send(CREATOR, "m.room.create", {"room_version": version, **creator})
    graph.room_id = create.room_id
    branch.member(CREATOR, "join", CREATOR)
    branch.powers(CREATOR, dict.fromkeys(ADMINS, 100) | dict.fromkeys(MODERATORS, 50))
    branch.send(CREATOR, "m.room.join_rules", {"join_rule": "public"})
    branch.send(CREATOR, "m.room.history_visibility", {"history_visibility": "shared"})
    branch.send(CREATOR, "m.room.name", {"name": "A room of some size"})
    branch.send(CREATOR, "m.room.topic", {"topic": "How long it takes"})
    for powerful in (*ADMINS, *MODERATORS):
        branch.member(powerful, "join", powerful)
    return branch


def grown_room(version: str, entries: int) -> tuple[Branch, list[str]]:
    """A room of so many state entries, and its ordinary members in the order in which they joined."""
    branch = _begin(version)
    count = entries - len(branch.state)
    servers = max(3, min(MAX_SERVERS, entries // MEMBERS_PER_SERVER))
    members = [user(number, servers) for number in range(count)]
    between = max(1, count // POWER_LEVELS_IN_A_ROOM)
    for number, member in enumerate(members):
        if number % between == between - 1:
            branch.powers(ADMINS[number % len(ADMINS)], {member: 25})
        branch.member(member, "join", member, check=number % between < 2)
    for member in members[::CHANGED_PROFILES]:
        branch.member(member, "join", member, check=False)
    assert len(branch.state) == entries
    return branch, members


def deep_room(version: str, length: int, joins: int, recent: int) -> tuple[Branch, list[str]]:
    """A room whose power levels changed `length` times, each change citing the last.

    `joins` members joined meanwhile, spread evenly, and `recent` ones at the end of it.
    """
    branch = _begin(version)
    servers = max(3, joins // MEMBERS_PER_SERVER)
    members: list[str] = []

    def join() -> None:
        member = user(len(members), servers)
        members.append(member)
        branch.member(member, "join", member, check=False)

    between = max(1, length // joins)
    for number in range(length):
        sender = ADMINS[number % len(ADMINS)]
        branch.powers(sender, {MODERATORS[number % len(MODERATORS)]: 50 + number % 7})
        if number % between == 0 and len(members) < joins:
            join()
    for _ in range(recent):
        join()
    return branch, members


def spread(members: list[str], count: int) -> Iterator[str]:
    """`count` different members from everywhere in the room."""
    assert count <= len(members), "the room is too small for such a difference"
    return (members[index * len(members) // count] for index in range(count))
