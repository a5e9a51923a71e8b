"""The other server: events written by hand, and its answers when it is asked for what is missing.

It holds every event that it has seen or written; what it writes may be sent at once, late or never.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from random import Random
from typing import Any
from urllib.parse import parse_qs, unquote

import orjson

from comity.ports import Answer, Endpoint, TransportError
from comity.protocol.event import Event, StateKey
from tests.rooms.support import Network, Place
from tests.rules.rooms import Graph, Room

HERE, THERE = "a.test:1000", "b.test:1001"
#: Events that it gives of what is missing between two points: fewer than it was asked for, so that
#: holes remain.
MOST_MISSING = 2
#: How often it gives none.
HOLES = 0.6

_PATH = re.compile(r"/_matrix/federation/v1/(\w+)/([^/?]*)")


class Elsewhere(Network):
    """The network of one history: this server, and the one that is written by hand."""

    def __init__(self, chance: Random) -> None:
        super().__init__()
        self._chance = chance
        self.graphs: dict[str, Graph] = {}
        #: The state before each event that was written there.
        self.before: dict[str, dict[StateKey, Event]] = {}

    def branch(self, place: Place, room_id: str) -> Room:
        """The room as it is here now, to be continued there."""
        room = place.branch(room_id)
        graph = self.graphs.setdefault(room_id, Graph())
        for event_id, event in room.graph.events.items():
            graph.events.setdefault(event_id, event)
        graph.clock = max(graph.clock, room.graph.clock)
        room.graph = graph
        return room

    def write(
        self,
        branch: Room,
        sender: str,
        event_type: str,
        content: Mapping[str, Any],
        state_key: str | None = None,
        redacts: str | None = None,
    ) -> Event:
        """An event at the head of a branch, which is its head then."""
        before = dict(branch.state)
        event = branch.send(sender, event_type, content, state_key, redacts=redacts)
        self.before[event.event_id] = before
        return event

    # -- what it answers

    async def request(
        self,
        method: str,
        endpoint: Endpoint,
        target: str,
        *,
        headers: Mapping[str, str],
        body: bytes | None = None,
        timeout: float,
        max_bytes: int,
    ) -> Answer:
        if endpoint.host_header != THERE:
            raise TransportError("Nobody is there")
        path, _, query = target.partition("?")
        match = _PATH.match(path)
        value: Any = None
        if match is not None:
            value = self._answer(match[1], unquote(match[2]), parse_qs(query), orjson.loads(body or b"{}"))
        if value is None:
            return Answer(
                404, {}, orjson.dumps({"errcode": "M_NOT_FOUND", "error": "There is no such thing"})
            )
        return Answer(200, {}, orjson.dumps(value))

    def _answer(self, what: str, about: str, query: Mapping[str, list[str]], body: Any) -> Any:
        if what == "send":
            return {"pdus": {}}
        if what == "event":
            found = [graph.events[about] for graph in self.graphs.values() if about in graph.events]
            return {"pdus": [dict(event.source) for event in found]} if found else None
        graph = self.graphs.get(about)
        if graph is None:
            return None
        if what == "get_missing_events":
            latest = [graph.events[event_id] for event_id in body["latest_events"]]
            if self._chance.random() < HOLES:
                return {"events": []}
            start = [prev for event in latest for prev in event.prev_event_ids]
            listed = _walk(graph, start, set(body["earliest_events"]), MOST_MISSING)
            return {"events": [dict(event.source) for event in listed]}
        if what == "backfill":
            listed = _walk(graph, query["v"], set(), int(query["limit"][0]))
            return {"pdus": [dict(event.source) for event in listed]}
        if what in ("state_ids", "state"):
            state = self.before.get(query["event_id"][0])
            if state is None:
                return None
            chain = _auth_chain(graph, list(state.values()))
            if what == "state_ids":
                ids = [event.event_id for event in state.values()]
                return {"pdu_ids": ids, "auth_chain_ids": [event.event_id for event in chain]}
            pdus = [dict(event.source) for event in state.values()]
            return {"pdus": pdus, "auth_chain": [dict(event.source) for event in chain]}
        return None


def _walk(graph: Graph, start: list[str], stop: set[str], limit: int) -> list[Event]:
    """Events from `start` backwards, as many as are wanted, the deepest first."""
    found: dict[str, Event] = {}
    waiting = {event_id: graph.events[event_id] for event_id in start if event_id in graph.events}
    while waiting and len(found) < limit:
        event = max(waiting.values(), key=lambda item: (item.depth, item.event_id))
        del waiting[event.event_id]
        if event.event_id in stop or event.event_id in found:
            continue
        found[event.event_id] = event
        for prev in event.prev_event_ids:
            if prev in graph.events:
                waiting[prev] = graph.events[prev]
    return list(found.values())


def _auth_chain(graph: Graph, events: list[Event]) -> list[Event]:
    """What a server tells that has not been given all of it (an event may be on its way still)."""
    found: dict[str, Event] = {}
    waiting = list(events)
    while waiting:
        for auth_id in waiting.pop().auth_event_ids:
            if auth_id not in found and auth_id in graph.events:
                found[auth_id] = graph.events[auth_id]
                waiting.append(found[auth_id])
    return list(found.values())
