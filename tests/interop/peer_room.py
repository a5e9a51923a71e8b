"""A room as the signing peer keeps it: events, the state at each, the ends of the history.

Owns the bookkeeping that lets a peer write the next event properly, so that a test can
then spoil exactly one thing. It accepts whatever it is given and resolves no state: the
last state event wins.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tests.interop import wire
from tests.interop.wire import Json, Signer

StateKey = tuple[str, str]

#: The only member of a room that a peer creates, unless told otherwise.
DEFAULT_LEVELS: Json = {
    "ban": 50, "kick": 50, "redact": 50, "invite": 0, "events_default": 0, "state_default": 50,
    "users_default": 0, "events": {},
}  # fmt: skip


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Room:
    """One room's events as known to one peer."""

    def __init__(self, version: str, room_id: str = "") -> None:
        self.version = version
        self.room_id = room_id
        self.events: dict[str, Json] = {}
        self.order: list[str] = []
        self.state: Mapping[StateKey, str] = {}
        self.before: dict[str, Mapping[StateKey, str]] = {}
        self.extremities: list[str] = []
        self._serial = 0

    # Writing

    def draft(
        self, kind: str, sender: str, content: Json, state_key: str | None = None, **changes: Any
    ) -> Json:
        """The next event, complete but for hashes and signatures; `changes` replace or add keys.

        A change to None removes the key.
        """
        event: Json = {
            "type": kind,
            "sender": sender,
            "content": content,
            "room_id": self.room_id,
            "origin_server_ts": now_ms(),
            "depth": 1 + max((self.events[i]["depth"] for i in self.extremities), default=0),
            "prev_events": wire.references(self.extremities, self.events, self.version),
            "auth_events": wire.references(
                self.auth_for(kind, sender, content, state_key), self.events, self.version
            ),
        }
        if state_key is not None:
            event["state_key"] = state_key
        if int(self.version) <= 2:
            self._serial += 1
            event["event_id"] = f"$peer{now_ms()}x{self._serial}:{sender.split(':', 1)[1]}"
        if int(self.version) <= 10:
            event["origin"] = sender.split(":", 1)[1]
        return _changed(event, changes)

    def auth_for(self, kind: str, sender: str, content: Json, state_key: str | None) -> list[str]:
        """Server-server §auth-events-selection, from the current state."""
        if kind == "m.room.create":
            return []
        wanted: list[StateKey] = [] if self.version == "12" else [("m.room.create", "")]
        wanted += [("m.room.power_levels", ""), ("m.room.member", sender)]
        if kind == "m.room.member" and state_key is not None:
            wanted.append(("m.room.member", state_key))
            if content.get("membership") in ("join", "invite", "knock"):
                wanted.append(("m.room.join_rules", ""))
        return [self.state[key] for key in dict.fromkeys(wanted) if key in self.state]

    def message(self, sender: str, text: str, /, **changes: Any) -> Json:
        """A message; `changes` replace or add keys of the event."""
        event = self.draft("m.room.message", sender, {"msgtype": "m.text", "body": text})
        return _changed(event, changes)

    # Knowing

    def event_id(self, event: Json) -> str:
        return wire.event_id(event, self.version)

    def add(self, event: Json) -> str:
        """Take a signed event as the newest; its id."""
        known = self.event_id(event)
        if known in self.events:
            return known
        self._remember(known, event)
        previous = set(wire.referred(event["prev_events"]))
        self.before[known] = self.state
        self.extremities = [i for i in self.extremities if i not in previous] + [known]
        if "state_key" in event:
            self.state = {**self.state, (event["type"], event["state_key"]): known}
        return known

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What is added inside stays known and can be asked for, but the room goes on without it."""
        state, extremities = self.state, self.extremities
        try:
            yield
        finally:
            self.state, self.extremities = state, extremities

    def take_snapshot(self, state: list[Json], auth_chain: list[Json]) -> None:
        """Begin with what a `send_join` answered."""
        for event in [*auth_chain, *state]:
            self._remember(self.event_id(event), event)
        self.state = {(event["type"], event["state_key"]): self.event_id(event) for event in state}

    def _remember(self, known: str, event: Json) -> None:
        if known not in self.events:
            self.events[known] = event
            self.order.append(known)

    def auth_chain(self, ids: list[str]) -> list[Json]:
        """The auth events of these events, theirs, and so on."""
        found: dict[str, Json] = {}
        todo = list(ids)
        while todo:
            for parent in wire.referred(self.events[todo.pop()]["auth_events"]):
                if parent not in found and parent in self.events:
                    found[parent] = self.events[parent]
                    todo.append(parent)
        if self.version == "12":  # the create event is in nobody's auth_events, and in every chain
            create = "$" + self.room_id[1:]
            if create in self.events and create not in ids:
                found[create] = self.events[create]
        return list(found.values())

    def state_events(self, state: Mapping[StateKey, str] | None = None) -> list[Json]:
        return [self.events[i] for i in (self.state if state is None else state).values()]

    def back_from(self, ids: list[str], limit: int) -> list[Json]:
        """Up to `limit` events, these and what came before them, newest first."""
        seen: dict[str, Json] = {}
        todo = [i for i in ids if i in self.events]
        while todo and len(seen) < limit:
            todo.sort(key=lambda i: self.events[i]["depth"])
            newest = todo.pop()
            if newest not in seen:
                seen[newest] = self.events[newest]
                todo += [i for i in wire.referred(seen[newest]["prev_events"]) if i in self.events]
        return list(seen.values())


def _changed(event: Json, changes: Mapping[str, Any]) -> Json:
    return {key: value for key, value in {**event, **changes}.items() if value is not None}


def create_room(signer: Signer, version: str, creator: str, *, join_rule: str = "public") -> Room:
    """A room of `creator`, with power levels, join rules and shared history, all signed."""
    room = Room(version)
    create: Json = {"room_version": version}
    if int(version) <= 10:
        create["creator"] = creator
    if version == "12":
        event = room.draft("m.room.create", creator, create, "", room_id=None)
        room.room_id = (
            "!" + wire.event_id(event | {"hashes": {"sha256": wire.content_hash(event)}}, version)[1:]
        )
    else:
        room.room_id = f"!peer{now_ms()}{id(room) % 100_000}:{signer.name}"
        event = room.draft("m.room.create", creator, create, "")
    room.add(signer.sign_event(event, version))
    levels = {**DEFAULT_LEVELS, "users": {} if version == "12" else {creator: 100}}
    for kind, key, content in (
        ("m.room.member", creator, {"membership": "join"}),
        ("m.room.power_levels", "", levels),
        ("m.room.join_rules", "", {"join_rule": join_rule}),
        ("m.room.history_visibility", "", {"history_visibility": "shared"}),
    ):
        room.add(signer.sign_event(room.draft(kind, creator, content, key), version))
    return room
