"""Synapse's state resolution, timed: run by the interpreter that has Synapse; imports nothing of comity.

Reads a JSON object a line on standard input and answers each with one on standard output:
`{"do": "load", "events": FILE, "cases": FILE}` reads a room into memory, and
`{"do": "resolve", "case": NAME, "variant": "given" | "computed", "seconds": S}` resolves it again
and again for S seconds. Everything is in memory as Synapse's own objects before a clock starts.
Its auth difference and conflicted subgraph are given to it for nothing, unless the variant is
"computed": then the auth difference is worked out by its plain definition.
"""

# mypy: disable-error-code="import-not-found"
from __future__ import annotations

import gc
import hashlib
import json
import sys
import time
from collections.abc import Collection, Coroutine, Iterable
from typing import Any

# Its modules import each other in a circle that can be entered here.
import synapse.event_auth  # noqa: F401
from synapse.api.room_versions import KNOWN_ROOM_VERSIONS
from synapse.events import make_event_from_dict
from synapse.state.v2 import resolve_events_with_store
from synapse.storage.databases.main.event_federation import StateDifference

LEAST, MOST = 3, 200


class InstantClock:
    """A clock whose pauses take no time."""

    async def sleep(self, duration: object) -> None:
        """Return at once."""


class Memory:
    """What Synapse asks its database for, in memory."""

    def __init__(self, events: dict[str, Any], auth: dict[str, tuple[str, ...]]) -> None:
        self._events = events
        self._auth = auth
        #: The answer to the next resolution; None: work it out.
        self.difference: set[str] | None = None
        self.subgraph: set[str] | None = None

    async def get_events(self, event_ids: Collection[str], allow_rejected: bool = False) -> dict[str, Any]:
        """Events by id; those that are unknown are absent."""
        known = self._events
        return {event_id: known[event_id] for event_id in event_ids if event_id in known}

    async def get_auth_chain_difference(
        self, room_id: str, state_sets: list[set[str]], conflicted: object, additional: object
    ) -> StateDifference:
        """The auth difference of states, and the conflicted subgraph where the version has one."""
        difference = self.difference
        if difference is None:
            chains = [self._chain(state) for state in state_sets]
            difference = chains[0].union(*chains[1:]) - chains[0].intersection(*chains[1:])
        subgraph = None if self.subgraph is None else set(self.subgraph)
        return StateDifference(auth_difference=set(difference), conflicted_subgraph=subgraph)

    def _chain(self, state: Iterable[str]) -> set[str]:
        auth, pending = self._auth, list(state)
        seen = set(pending)
        while pending:
            for event_id in auth[pending.pop()]:
                if event_id not in seen:
                    seen.add(event_id)
                    pending.append(event_id)
        return seen


def finish(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise RuntimeError("The resolution waited for something")


class Resolver:
    """One room, and the states that are to be resolved in it."""

    def __init__(self, events_file: str, cases_file: str) -> None:
        with open(events_file, encoding="utf-8") as lines:
            head = json.loads(next(lines))
            self.version = KNOWN_ROOM_VERSIONS[head["room_version"]]
            self.room_id = head["room_id"]
            self.events = {}
            for line in lines:
                row = json.loads(line)
                event = make_event_from_dict(row["event"], self.version)
                assert event.event_id == row["event_id"], "an event has another id for Synapse"
                self.events[event.event_id] = event
        auth = {event_id: tuple(event.auth_event_ids()) for event_id, event in self.events.items()}
        self.keys = {event_id: (event.type, event.state_key) for event_id, event in self.events.items()}
        self.store = Memory(self.events, auth)
        with open(cases_file, encoding="utf-8") as lines:
            self.cases = {case["name"]: case for case in map(json.loads, lines)}
        for case in self.cases.values():
            case["maps"] = [{self.keys[event_id]: event_id for event_id in ids} for ids in case["states"]]

    def once(self, case: dict[str, Any], variant: str) -> tuple[float, Any]:
        """Seconds of one resolution, and what it came to."""
        self.store.difference = set(case["auth_difference"]) if variant == "given" else None
        self.store.subgraph = set(case["subgraph"]) or None
        started = time.perf_counter()
        resolved = finish(
            resolve_events_with_store(
                InstantClock(), self.room_id, self.version, case["maps"], None, self.store
            )
        )
        return time.perf_counter() - started, resolved

    def resolve(self, name: str, variant: str, seconds: float) -> dict[str, Any]:
        """Resolve a case for some seconds."""
        case = self.cases[name]
        gc.collect()
        taken: list[float] = []
        resolved: Any = None
        until = time.perf_counter() + seconds
        while len(taken) < LEAST or (time.perf_counter() < until and len(taken) < MOST):
            spent, resolved = self.once(case, variant)
            taken.append(spent)
        return {"seconds": taken, "digest": digest(dict(resolved))}


def digest(entries: dict[tuple[str, str], str]) -> str:
    """A state in one line: SHA-256 over its sorted entries."""
    lines = sorted(f"{kind}\0{key}\0{event_id}\n" for (kind, key), event_id in entries.items())
    return hashlib.sha256("".join(lines).encode("utf-8")).hexdigest()


def main() -> None:
    """Answer line by line."""
    resolver = None
    for line in sys.stdin:
        order = json.loads(line)
        if order["do"] == "load":
            resolver = None
            gc.unfreeze()
            resolver = Resolver(order["events"], order["cases"])
            # What stays for long is not looked through again and again.
            gc.collect()
            gc.freeze()
            answer: dict[str, Any] = {"events": len(resolver.events)}
        else:
            assert resolver is not None
            answer = resolver.resolve(order["case"], order["variant"], order["seconds"])
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
