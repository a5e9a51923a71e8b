"""What Synapse's rules say of a graph: run by the interpreter that has Synapse, imports nothing of comity.

Reads a graph a line, as JSON, on standard input, and answers each with a line on standard output:
`{"events": [...], "forks": [...], "meetings": [...], "acls": [...]}` or, where Synapse raised what
it does not mean to, `{"raised": TEXT}`. For each event: its `id`, content `hash`, whether that
`hash_matches`, its `redacted` form and `reference` hash, whether its auth events (`cited`) and the
state `before` it allow it, `why` not, and the digest of the `state` after it; or `unreadable`. For
each fork and each meeting of states the digest of the resolved state, for each ACL whether each
server may take part.
"""

# mypy: disable-error-code="import-not-found"
from __future__ import annotations

import base64
import hashlib
import json
import logging
import sys
from collections.abc import Coroutine, Iterable, Sequence
from types import SimpleNamespace
from typing import Any

# Its modules import each other in a circle that can be entered here.
import synapse.event_auth as event_auth
from synapse.api.errors import AuthError, SynapseError
from synapse.api.room_versions import KNOWN_ROOM_VERSIONS
from synapse.crypto.event_signing import (
    check_event_content_hash,
    compute_content_hash,
    compute_event_reference_hash,
)
from synapse.events import make_event_from_dict
from synapse.events.utils import prune_event
from synapse.state import v1, v2
from synapse.storage.controllers.state import server_acl_evaluator_from_event
from synapse.storage.databases.main.event_federation import StateDifference


class InstantClock:
    """A clock whose pauses take no time."""

    async def sleep(self, duration: object) -> None:
        """Return at once."""


def finish(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise RuntimeError("It waited for something")


def digest(state: Iterable[Sequence[str]]) -> str:
    """A short name of a state, given as (type, state key, event id) in any order."""
    text = json.dumps(sorted(map(list, state)), separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def unpadded(data: bytes) -> str:
    """Unpadded Base64."""
    return base64.b64encode(data).decode().rstrip("=")


class Memory:
    """What Synapse asks its database for."""

    def __init__(self) -> None:
        self.events: dict[str, Any] = {}
        self.auth: dict[str, list[str]] = {}
        self.rejected: set[str] = set()

    async def get_events(
        self,
        event_ids: Iterable[str],
        redact_behaviour: object = None,
        get_prev_content: bool = False,
        allow_rejected: bool = False,
    ) -> dict[str, Any]:
        """Events by id; those that are unknown are absent."""
        return {
            event_id: self.events[event_id]
            for event_id in event_ids
            if event_id in self.events and (allow_rejected or event_id not in self.rejected)
        }

    async def get_auth_chain_difference(
        self,
        room_id: str,
        state_sets: list[set[str]],
        conflicted: set[str] | None,
        additional: set[str] | None,
    ) -> StateDifference:
        """By the definitions alone."""
        chains = [self.chain(state) for state in state_sets]
        subgraph = None
        if conflicted is not None:
            ends = set(conflicted) | set(additional or ())
            subgraph = {event_id for event_id in self.chain(ends) if self.chain([event_id]) & ends}
        difference = set().union(*chains) - chains[0].intersection(*chains[1:])
        return StateDifference(auth_difference=difference, conflicted_subgraph=subgraph)

    def chain(self, event_ids: Iterable[str]) -> set[str]:
        """Everything that those events reach by auth events, themselves included."""
        pending = [event_id for event_id in event_ids if event_id in self.events]
        found = set(pending)
        while pending:
            for event_id in self.auth[pending.pop()]:
                if event_id in self.events and event_id not in found:
                    found.add(event_id)
                    pending.append(event_id)
        return found


class Judge:
    """One graph."""

    def __init__(self, graph: dict[str, Any]) -> None:
        self.graph = graph
        self.room_id = graph["room_id"]
        self.version = KNOWN_ROOM_VERSIONS[graph["version"]]
        self.implies_create = graph["version"] == "12"
        self.store = Memory()
        self.after: dict[str, dict[tuple[str, str], str]] = {}

    def answers(self) -> dict[str, Any]:
        """All of it."""
        events = [self.event(pdu) for pdu in self.graph["events"]]
        forks = [
            digest(self.entries(self.resolve([self.after[one] for one in fork if one in self.after])))
            for fork in self.graph["forks"]
        ]
        acls = []
        for content in self.graph["acls"]:
            evaluator = server_acl_evaluator_from_event(SimpleNamespace(content=content))
            acls.append([evaluator.server_matches_acl_event(server) for server in self.graph["servers"]])
        meetings = [
            digest(self.entries(self.resolve([self.given(ids) for ids in states])))
            for states in self.graph["meetings"]
        ]
        return {"events": events, "forks": forks, "meetings": meetings, "acls": acls}

    def given(self, event_ids: list[str]) -> dict[tuple[str, str], str]:
        """The state of those events."""
        events = [self.store.events[event_id] for event_id in event_ids]
        return {(event.type, event.state_key): event.event_id for event in events}

    def entries(self, state: dict[tuple[str, str], str]) -> Iterable[tuple[str, str, str]]:
        """A state as (type, state key, event id)."""
        return ((*key, event_id) for key, event_id in state.items())

    def resolve(self, states: list[dict[tuple[str, str], str]]) -> dict[tuple[str, str], str]:
        """The resolved state of several."""
        if not states:
            return {}
        if all(state == states[0] for state in states):
            return states[0]
        if self.graph["version"] == "1":
            one = v1.resolve_events_with_store(
                self.room_id, self.version, states, None, self.store.get_events
            )
        else:
            one = v2.resolve_events_with_store(
                InstantClock(), self.room_id, self.version, states, None, self.store
            )
        return dict(finish(one))

    def event(self, pdu: dict[str, Any]) -> dict[str, Any]:
        """One event, which is held from then on."""
        try:
            event = make_event_from_dict(json.loads(json.dumps(pdu)), self.version)
            pruned = prune_event(event)
            matches = check_event_content_hash(event)
            answer = {
                "id": event.event_id,
                "hash": unpadded(compute_content_hash(pdu, hashlib.sha256)[1]),
                "hash_matches": bool(matches),
                "redacted": {k: v for k, v in pruned.get_pdu_json().items() if k != "unsigned"},
                "reference": unpadded(compute_event_reference_hash(event)[1]),
            }
        except Exception as error:  # noqa: BLE001 - whatever it raises, it cannot read the event
            return {"unreadable": repr(error)[:200]}
        if not matches:
            event = pruned
        self.judge(event, pdu, answer)
        return answer

    def judge(self, event: Any, pdu: dict[str, Any], answer: dict[str, Any]) -> None:
        """Checks 4 and 5."""
        store, name = self.store, event.event_id
        cited = [one if isinstance(one, str) else one[0] for one in pdu["auth_events"]]
        implied = self.implies_create and pdu["type"] != "m.room.create"
        prev = [one if isinstance(one, str) else one[0] for one in pdu["prev_events"]]
        before = self.resolve([self.after[one] for one in prev if one in self.after])
        why_cited = self.against_cited(event, cited, implied)
        why_before = self.refusal(event, [store.events[one] for one in before.values()])
        answer["cited"], answer["before"] = not why_cited, not why_before
        answer["why"] = why_cited or why_before
        store.auth[name] = [*cited, *(["$" + self.room_id[1:]] if implied else [])]
        after = before
        if why_cited or why_before:
            store.rejected.add(name)
            # An event of Synapse's knows for itself that it was rejected.
            source = json.loads(json.dumps(pdu)) if answer["hash_matches"] else event.get_pdu_json()
            event = make_event_from_dict(source, self.version, rejected_reason="rejected")
        elif event.is_state():
            after = {**before, (event.type, event.state_key): name}
        store.events[name] = event
        self.after[name] = after
        answer["state"] = digest(self.entries(after))

    def against_cited(self, event: Any, cited: list[str], implied: bool) -> str:
        """Why the auth events do not allow it; empty if they do."""
        store = self.store
        if any(one not in store.events for one in cited):
            return "An auth event is missing"
        try:
            finish(event_auth.check_state_independent_auth_rules(store, event))
        except (AuthError, SynapseError) as error:
            return str(error)
        except Exception as error:  # noqa: BLE001 - an event that makes it raise is not accepted
            return f"RAISED {error!r}"
        events = [store.events[one] for one in cited]
        create = store.events.get("$" + self.room_id[1:]) if implied else None
        return self.refusal(event, events if create is None else [*events, create])

    def refusal(self, event: Any, state: list[Any]) -> str:
        """Why a state does not allow it; empty if it does."""
        try:
            event_auth.check_state_dependent_auth_rules(event, state)
        except (AuthError, SynapseError) as error:
            return str(error)
        except Exception as error:  # noqa: BLE001 - an event that makes it raise is not accepted
            return f"RAISED {error!r}"
        return ""


def answer(graph: dict[str, Any]) -> dict[str, Any]:
    """The answers, or what was raised."""
    try:
        return Judge(graph).answers()
    except Exception as error:  # noqa: BLE001 - told to whoever asked
        return {"raised": repr(error)[:200]}


if __name__ == "__main__":
    # It warns of what it ignores; the answers say it.
    logging.disable(logging.CRITICAL)
    for line in sys.stdin:
        sys.stdout.write(json.dumps(answer(json.loads(line))) + "\n")
        sys.stdout.flush()
