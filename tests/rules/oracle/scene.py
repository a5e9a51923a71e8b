"""One room graph in the making: its events, its branches, and how an event is written into it.

Owns what all random rooms have in common. Which events are written is the affair of `generator`
and `contents`; whether they are allowed is what the two sides are asked.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from comity.protocol.auth.rules import auth_keys, authorize
from comity.protocol.event import Event, StateKey, content_hash
from comity.protocol.identifiers import server_of
from comity.protocol.room_versions import ROOM_VERSIONS

ALICE, BOB, CAROL = "@alice:a.example", "@bob:b.example", "@carol:c.example"
DAVE, EVE, FRANK = "@dave:d.example", "@eve:a.example", "@frank:b.example"
USERS = (ALICE, BOB, CAROL, DAVE, EVE, FRANK)
#: Ids that are none, or that only a lenient reader takes for one.
ODD_USERS = (
    "@ALLCAPS:b.example", "@:c.example", "@sp ace:d.example", "@u:under_score.example", "nosigil:a.example",
    "@nocolon", "@x:a.example:8448", "@y:[::1]", "@z:",
)  # fmt: skip
#: Nobody verifies the signatures of events here; they only have to be there.
SIGNATURE = "A" * 86
FIRST_TIMESTAMP = 1_600_000_000_000
#: How often a step is hostile; a graph has one of these.
HOSTILITIES = (0.0, 0.05, 0.15, 0.3)
#: How many denied events are written although they are denied, beside the hostile ones.
DENIED_SHARE = 0.25


@dataclass
class Branch:
    """One way through the graph: the state as its writers believe it, and its ends."""

    state: dict[StateKey, Event]
    heads: list[str]
    depth: int

    def fork(self) -> Branch:
        """Another branch from here on."""
        return Branch(dict(self.state), list(self.heads), self.depth)


class Scene:
    """A room graph that grows."""

    def __init__(self, version: str, seed: int) -> None:
        self.version = ROOM_VERSIONS[version]
        self.chance = random.Random(f"{version}/{seed}")
        self.hostility = self.chance.choice(HOSTILITIES)
        self.room_id = None if self.version.room_id_is_create_hash else f"!room{seed}:a.example"
        #: Everything that is sent, and the events among it by id, as a receiver would hold them.
        self.pdus: list[dict[str, Any]] = []
        self.events: dict[str, Event] = {}
        self._written = 0
        self._clock = FIRST_TIMESTAMP

    def hostile(self, share: float = 1.0) -> bool:
        """Whether to do something that no honest server would."""
        return self.chance.random() < self.hostility * share

    def write(
        self,
        branch: Branch,
        sender: str,
        event_type: str,
        content: dict[str, Any],
        state_key: str | None = None,
        *,
        prev: Sequence[str] | None = None,
        auth: Sequence[str] | None = None,
        redacts: str | None = None,
    ) -> dict[str, Any]:
        """A PDU at the end of a branch; it is not part of the graph yet."""
        self._written += 1
        self._clock += self.chance.choice([0, 0, 1, 500, 1000, 1000, -700, 3000])
        if redacts is not None and self.version.redacts_in_content:
            content["redacts"] = redacts
        cited = list(auth) if auth is not None else self._auth(branch, sender, event_type, content, state_key)
        pdu: dict[str, Any] = {
            "type": event_type,
            "sender": sender,
            "content": content,
            "depth": branch.depth + 1,
            "origin_server_ts": self._clock,
            "prev_events": [self._reference(one) for one in (branch.heads if prev is None else prev)],
            "auth_events": [self._reference(one) for one in cited],
            "hashes": {},
            "signatures": self._signatures(sender, content),
        }
        if self.room_id is not None and not (
            self.version.room_id_is_create_hash and event_type == "m.room.create"
        ):
            pdu["room_id"] = self.room_id
        if state_key is not None:
            pdu["state_key"] = state_key
        if self.version.references_carry_hashes:
            pdu["event_id"] = f"$e{self._written}:{server_of(sender) or 'a.example'}"
        if redacts is not None and not self.version.redacts_in_content:
            pdu["redacts"] = redacts
        self._distort(pdu, branch)
        pdu["hashes"]["sha256"] = content_hash(self.version, pdu)
        if self.hostile(0.3):
            # Whoever receives it takes it as redacted.
            pdu["hashes"]["sha256"] = "Zm9v"
        if self.hostile(0.3):
            pdu["unsigned"] = {"age": self.chance.randrange(9)}
        return pdu

    def _reference(self, event_id: str) -> object:
        return [event_id, {"sha256": "x"}] if self.version.references_carry_hashes else event_id

    def _signatures(self, sender: str, content: Mapping[str, Any]) -> dict[str, Any]:
        signed = {server_of(sender) or "x": {"ed25519:1": SIGNATURE}}
        authoriser = content.get("join_authorised_via_users_server")
        if isinstance(authoriser, str) and ":" in authoriser and not self.hostile():
            signed[server_of(authoriser)] = {"ed25519:1": SIGNATURE}
        return signed

    def _distort(self, pdu: dict[str, Any], branch: Branch) -> None:
        if self.hostile(0.2):
            pdu["origin_server_ts"] = self.chance.choice([0, 1, 2**53 - 1, self._clock - 10**9])
        if self.hostile(0.2):
            pdu["depth"] = self.chance.choice([0, 1, 2**53 - 1, branch.depth])

    def _auth(
        self, branch: Branch, sender: str, event_type: str, content: Mapping[str, Any], state_key: str | None
    ) -> list[str]:
        """The ids of the auth events: those of the branch's state, unless somebody is hostile."""
        keys = auth_keys(self.version, event_type, sender, state_key, content)
        auth = [branch.state[key].event_id for key in keys if key in branch.state]
        if not self.hostile():
            return auth
        known = list(self.events)
        kind = self.chance.randrange(8)
        if kind == 0 and auth:
            auth.pop(self.chance.randrange(len(auth)))
        elif kind == 1 and known:
            auth.append(self.chance.choice(known))
        elif kind == 2 and auth:
            auth.append(auth[0])
        elif kind == 3:
            auth.append("$unknown:a.example" if self.version.references_carry_hashes else "$" + "Z" * 43)
        elif kind == 4:
            auth = []
        elif kind == 5:
            auth = [self._another(event_id) for event_id in auth]
        elif kind == 6:
            self.chance.shuffle(auth)
        elif self.version.references_carry_hashes:
            # Where ids are assigned, events that are still to come can be named: a cycle is tried.
            auth.append(f"$e{self._written + self.chance.randrange(4)}:{server_of(sender)}")
        return auth

    def _another(self, event_id: str) -> str:
        """An event of the same key, of whatever branch and age."""
        key = self.events[event_id].key
        same = [event.event_id for event in self.events.values() if event.is_state and event.key == key]
        return self.chance.choice(same)

    def add(self, branch: Branch, pdu: dict[str, Any], *, surely: bool = False) -> None:
        """Make a PDU part of the graph and the end of a branch, but for most that are denied."""
        event = Event(self.version, {name: value for name, value in pdu.items() if name != "unsigned"})
        if event.event_id in self.events:
            return
        if not event.content_hash_matches():
            event = event.redacted()
        allowed = authorize(event, branch.state.get) is None
        if not allowed and not surely and self.chance.random() > DENIED_SHARE + self.hostility:
            return
        self.pdus.append(pdu)
        self.events[event.event_id] = event
        branch.depth = min(max(branch.depth, event.depth), len(self.pdus))
        branch.heads = [event.event_id]
        if event.is_state and (allowed or self.hostile(0.5)):
            branch.state[event.key] = event
