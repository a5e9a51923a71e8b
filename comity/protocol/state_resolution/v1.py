"""State resolution of room version 1 (rooms/v1 §State resolution).

Kept for old rooms. It judges conflicting events by the state that is resolved so far and
never looks at auth chains.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping

from comity.protocol.auth.rules import Denied, rule_on
from comity.protocol.auth.selection import JOIN_RULES_KEY, POWER_LEVELS_KEY, StateLookup
from comity.protocol.event import Event, StateKey
from comity.protocol.state_resolution.trace import Step, Trace, Watched


def resolve_v1(
    *,
    unconflicted: StateLookup,
    conflicted: Mapping[StateKey, Collection[Event]],
    trace: Trace | None = None,
) -> dict[StateKey, Event]:
    """The resolution for every key of `conflicted`.

    A key at which all the sets that have it agree is not in conflict here: its event stands.
    """
    resolved: dict[StateKey, Event] = {}
    contested: dict[StateKey, list[Event]] = {}
    for key, events in conflicted.items():
        if len(events) > 1:
            contested[key] = sorted(events, key=_rank)
        else:
            resolved.update((key, event) for event in events)
            if trace is not None:
                for event in events:
                    trace.note(event, Step.V1_AGREED, None)

    def state(key: StateKey) -> Event | None:
        return resolved.get(key) or unconflicted(key)

    for step, phase in _phases(contested):
        # What one key of a phase is decided to be does not bear on the others of that phase.
        resolved.update({key: _last_allowed(contested.pop(key), state, step, trace) for key in phase})
    resolved.update(
        {key: _first_allowed(reversed(events), state, trace) for key, events in contested.items()}
    )
    return resolved


def _rank(event: Event) -> tuple[int, int]:
    """Ascending `depth`, then descending sha1 of the event id."""
    digest = hashlib.sha1(event.event_id.encode("utf-8"), usedforsecurity=False).digest()
    return event.depth, -int.from_bytes(digest, "big")


def _phases(contested: Mapping[StateKey, object]) -> list[tuple[Step, list[StateKey]]]:
    """The keys that affect authorization, in the order in which their conflicts are resolved."""
    return [
        (Step.V1_POWER_LEVELS, [key for key in contested if key == POWER_LEVELS_KEY]),
        (Step.V1_JOIN_RULES, [key for key in contested if key == JOIN_RULES_KEY]),
        (Step.V1_MEMBERS, [key for key in contested if key[0] == "m.room.member"]),
    ]


def _last_allowed(events: list[Event], state: StateLookup, step: Step, trace: Trace | None) -> Event:
    """The last event of an unbroken row in which each is allowed by the one before it."""
    chosen = events[0]
    if trace is not None:
        trace.note(chosen, step, None)
    for event in events[1:]:
        if not _is_allowed(event, lambda key: chosen if key == chosen.key else state(key), step, trace):  # noqa: B023
            break
        chosen = event
    return chosen


def _first_allowed(events: Iterable[Event], state: StateLookup, trace: Trace | None) -> Event:
    """The first event that is allowed.

    COMPAT: rooms/v1 does not say what stands when none is. As on other servers, the last of
    the row does: the one of least depth.
    """
    chosen: Event | None = None
    for chosen in events:
        if _is_allowed(chosen, state, Step.V1_OTHERS, trace):
            break
    assert chosen is not None, "a contested key has events"
    return chosen


def _is_allowed(event: Event, state: StateLookup, step: Step, trace: Trace | None) -> bool:
    watched = Watched(state)
    ruling = rule_on(event, watched)
    if trace is not None:
        trace.note(event, step, ruling, watched.found)
    return not isinstance(ruling, Denied)
