"""What comity's rules say of a graph: every event in turn, then its forks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson

from comity.protocol import server_acl
from comity.protocol.admission import lookup_in
from comity.protocol.auth.rules import authorize, check_auth_events
from comity.protocol.errors import EventFormatError
from comity.protocol.event import Event, StateKey, content_hash, encode_base64, parse, redact, reference_hash
from comity.protocol.room_versions import ROOM_VERSIONS
from tests.rules import rooms
from tests.rules.oracle.generator import SERVERS, Graph

State = Mapping[StateKey, Event]


def digest(state: Iterable[Sequence[str]]) -> str:
    """A short name of a state, given as (type, state key, event id) in any order."""
    return hashlib.sha256(orjson.dumps(sorted(map(list, state)))).hexdigest()[:16]


def event_id(version: str, pdu: Mapping[str, Any]) -> str:
    """The id of a PDU of a generated graph."""
    return Event(
        ROOM_VERSIONS[version], {name: value for name, value in pdu.items() if name != "unsigned"}
    ).event_id


def judge(graph: Graph) -> dict[str, Any]:
    """The answers of this side; `synapse_side` says what they are."""
    return _Judge(graph).answers()


class _Judge:
    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._version = ROOM_VERSIONS[graph.version]
        self._held = rooms.Graph()
        self._after: dict[str, State] = {}

    def answers(self) -> dict[str, Any]:
        graph = self._graph
        events = [self._event(pdu) for pdu in graph.events]
        states = [
            [self._after[event_id] for event_id in fork if event_id in self._after] for fork in graph.forks
        ]
        return {
            "events": events,
            "forks": [digest(_entries(self._resolve(fork))) for fork in states],
            "meetings": [digest(_entries(self._resolve(self._given(one)))) for one in graph.meetings],
            "acls": [[server_acl.is_allowed(acl, server) for server in SERVERS] for acl in graph.acls],
        }

    def _given(self, states: Sequence[Sequence[str]]) -> list[State]:
        events = self._held.events
        return [{events[event_id].key: events[event_id] for event_id in ids} for ids in states]

    def _resolve(self, states: Sequence[State]) -> State:
        if not states:
            return {}
        if all(state == states[0] for state in states):
            return states[0]
        return rooms.resolve_states(self._version, states, self._held)

    def _event(self, pdu: Mapping[str, Any]) -> dict[str, Any]:
        version, held = self._version, self._held
        try:
            parse(version, pdu)
        except EventFormatError as error:
            return {"format": str(error)}
        source = {name: value for name, value in pdu.items() if name != "unsigned"}
        event = Event(version, source)
        answer: dict[str, Any] = {
            "id": event.event_id,
            "hash": content_hash(version, source),
            "hash_matches": event.content_hash_matches(),
            "redacted": redact(version, source),
            "reference": encode_base64(reference_hash(version, source)),
        }
        if not answer["hash_matches"]:
            event = event.redacted()
        before = self._resolve([self._after[prev] for prev in event.prev_event_ids if prev in self._after])
        denied_by_cited = self._against_cited(event)
        denial = authorize(event, before.get)
        answer["cited"], answer["before"] = not denied_by_cited, denial is None
        answer["why"] = denied_by_cited or (f"{denial.rule}: {denial.reason}" if denial else "")
        held.events[event.event_id] = event
        after = before
        if not (answer["cited"] and answer["before"]):
            held.rejected.add(event.event_id)
        elif event.is_state:
            after = {**before, event.key: event}
        self._after[event.event_id] = after
        answer["state"] = digest(_entries(after))
        return answer

    def _against_cited(self, event: Event) -> str:
        """Check 4: why the auth events do not allow the event; empty if they do."""
        held = self._held
        if any(event_id not in held.events for event_id in event.auth_event_ids):
            return "An auth event is missing"
        cited = [held.events[event_id] for event_id in event.auth_event_ids]
        implied = self._version.room_id_is_create_hash
        create = held.events.get("$" + event.room_id[1:]) if implied else None
        denial = check_auth_events(event, cited, held.is_rejected, create)
        if denial is None:
            denial = authorize(event, lookup_in(cited, create))
        return "" if denial is None else f"{denial.rule}: {denial.reason}"


def _entries(state: State) -> Iterable[tuple[str, str, str]]:
    return ((*key, event.event_id) for key, event in state.items())
