"""Random room graphs, valid and hostile, from a seed.

A graph begins as rooms do and then branches: power struggles, bans against joins, demotions,
restricted and knock joins, third-party invites, and in some graphs everything that no honest
server writes. It asks nothing of the sides but what the events are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.rules.oracle import contents
from tests.rules.oracle.scene import ALICE, BOB, CAROL, USERS, Branch, Scene

MAX_BRANCHES = 4
#: Attempts to write an event, in a graph in which most are denied.
MAX_ATTEMPTS = 200
#: Sets of events whose states are resolved beside the branches' ends.
FORKS = 5
#: Without ports, which are no part of what an ACL is asked of (client-server §Server ACLs).
SERVERS = ("a.example", "b.example", "evil.example", "1.2.3.4", "[::1]", "A.EXAMPLE", "sub.evil.example")
PATTERNS = (
    "*",
    "*.example",
    "evil.example",
    "?.example",
    "*.evil.*",
    "1.2.*",
    "[::1]",
    "",
    "a.EXAMPLE",
    "*:8448",
)


@dataclass(frozen=True)
class Graph:
    """A room graph and what is asked of it; all of it is JSON."""

    version: str
    seed: int
    room_id: str
    events: list[dict[str, Any]]
    #: Ids of events, whose states after them are to be resolved.
    forks: list[list[str]]
    #: Contents of `m.room.server_acl`, each asked about every one of SERVERS.
    acls: list[dict[str, Any]]
    #: Sets of states, each the ids of its events, that are to be resolved whoever came to them.
    meetings: list[list[list[str]]] = field(default_factory=list)


def generate(version: str, seed: int) -> Graph:
    """The graph of that room version and seed."""
    scene = Scene(version, seed)
    chance = scene.chance
    branches = [_beginning(scene)]
    size, attempts = chance.randrange(14, 38), 0
    while len(scene.pdus) < size and attempts < MAX_ATTEMPTS:
        attempts += 1
        if chance.random() < 0.18 and len(branches) < MAX_BRANCHES:
            branches.append(chance.choice(branches).fork())
        branch = chance.choice(branches)
        if len(branches) > 1 and chance.random() < 0.12:
            _join(scene, branch, chance.choice(branches))
        scene.add(branch, _step(scene, branch))
    ids = list(scene.events)
    forks = [list(dict.fromkeys(head for branch in branches for head in branch.heads))]
    forks += [chance.sample(ids, min(len(ids), chance.randrange(2, 5))) for _ in range(FORKS)]
    assert scene.room_id is not None
    return Graph(version, seed, scene.room_id, scene.pdus, forks, [_acl(scene) for _ in range(2)])


def _beginning(scene: Scene) -> Branch:
    """What a client's request to make a room writes, and a few who join."""
    chance, branch = scene.chance, Branch({}, [], 0)
    first = scene.write(
        branch, ALICE, "m.room.create", contents.create(scene, first=True), "", prev=[], auth=[]
    )
    scene.add(branch, first, surely=True)
    create = next(iter(scene.events.values()))
    if scene.room_id is None:
        scene.room_id = "!" + create.event_id[1:]
    # A create event that nobody accepts is still what the graph goes on from.
    branch.state.setdefault(("m.room.create", ""), create)
    join = scene.write(branch, ALICE, "m.room.member", {"membership": "join"}, ALICE)
    scene.add(branch, join, surely=True)
    if chance.random() < 0.9:
        users = {ALICE: 100, BOB: chance.choice([0, 50, 100]), CAROL: chance.choice([0, 50])}
        if scene.version.creators_have_infinite_power:
            additional = create.content.get("additional_creators")
            listed = additional if isinstance(additional, list) else []
            users = {user: level for user, level in users.items() if user not in (ALICE, *listed)}
        content: dict[str, Any] = {"users": users}
        if chance.random() < 0.5:
            content["events"] = {"m.room.power_levels": 50}
        scene.add(branch, scene.write(branch, ALICE, "m.room.power_levels", content, ""), surely=True)
    if chance.random() < 0.9:
        public = scene.write(branch, ALICE, "m.room.join_rules", {"join_rule": "public"}, "")
        scene.add(branch, public, surely=True)
    for user in chance.sample(USERS[1:], chance.randrange(2, 6)):
        scene.add(branch, scene.write(branch, user, "m.room.member", {"membership": "join"}, user))
    return branch


def _join(scene: Scene, branch: Branch, other: Branch) -> None:
    """A server that has seen both goes on from both, with some idea of the state."""
    branch.heads = list(dict.fromkeys([*branch.heads, *other.heads]))
    branch.depth = max(branch.depth, other.depth)
    for key, event in other.state.items():
        if key not in branch.state or scene.chance.random() < 0.5:
            branch.state[key] = event


def _step(scene: Scene, branch: Branch) -> dict[str, Any]:
    """One more event at the end of a branch, by somebody who may or may not send it."""
    chance = scene.chance
    kind = chance.random()
    powerful = chance.choice([ALICE, ALICE, BOB, CAROL, chance.choice(USERS)])
    anybody = chance.choice(USERS)
    if kind < 0.34:
        sender, content, state_key = contents.member(scene, branch)
        return scene.write(branch, sender, "m.room.member", content, state_key)
    if kind < 0.52:
        state_key = "x" if scene.hostile(0.1) else ""
        content = contents.power_levels(scene, branch)
        return scene.write(branch, powerful, "m.room.power_levels", content, state_key)
    if kind < 0.64:
        return scene.write(branch, powerful, "m.room.join_rules", contents.join_rules(scene), "")
    if kind < 0.77:
        return _plain_state(scene, branch, anybody, kind < 0.72)
    if kind < 0.83:
        state_key = chance.choice(["", chance.choice(USERS), "@x", "k"])
        return scene.write(branch, anybody, chance.choice(["x.custom", "x.own"]), {"a": 1}, state_key)
    if kind < 0.87:
        server = None if scene.hostile() else chance.choice(["a.example", "b.example", "c.example", ""])
        return scene.write(branch, anybody, "m.room.aliases", {"aliases": []}, server)
    if kind < 0.93:
        target = chance.choice([*scene.events, "$x:b.example"])
        return scene.write(branch, anybody, "m.room.redaction", {}, redacts=target)
    if kind < 0.96:
        acl = {"allow": ["*"], "deny": ["d.example"]}
        return scene.write(branch, powerful, "m.room.server_acl", acl, "")
    if kind < 0.965 and scene.hostile(2):
        return _second_create(scene, branch)
    return scene.write(branch, anybody, "m.room.message", {"body": "x"})


def _plain_state(scene: Scene, branch: Branch, sender: str, has_name: bool) -> dict[str, Any]:
    if has_name:
        event_type = scene.chance.choice(["m.room.name", "m.room.topic"])
        return scene.write(branch, sender, event_type, {"name": str(scene.chance.random())}, "")
    content = contents.third_party_invite(scene)
    return scene.write(
        branch, sender, "m.room.third_party_invite", content, scene.chance.choice(["t0", "t1"])
    )


def _second_create(scene: Scene, branch: Branch) -> dict[str, Any]:
    """Another create event in the room, at its beginning or where the branch is."""
    sender = ALICE if scene.chance.random() < 0.5 else scene.chance.choice(USERS)
    state_key = "x" if scene.hostile() else ""
    prev: list[str] | None = [] if scene.chance.random() < 0.7 else None
    content = contents.create(scene, first=False)
    return scene.write(branch, sender, "m.room.create", content, state_key, prev=prev, auth=[])


def _acl(scene: Scene) -> dict[str, Any]:
    """The content of `m.room.server_acl`."""
    chance = scene.chance
    content: dict[str, Any] = {
        "allow": chance.sample(PATTERNS, chance.randrange(0, 4)),
        "deny": chance.sample(PATTERNS, chance.randrange(0, 3)),
    }
    if chance.random() < 0.5:
        content["allow_ip_literals"] = chance.choice([True, False, False, "x", None])
    if chance.random() < 0.2:
        content.pop(chance.choice(["allow", "deny"]))
    if chance.random() < 0.2:
        content[chance.choice(["allow", "deny"])] = chance.choice([None, "x", 5, [5, "*"], {}])
    return content
