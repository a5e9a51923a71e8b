"""The two orders of state resolution: reverse topological power, and mainline (rooms/v2 §Definitions).

Both are total orders of the events given, so that the result does not depend on how they
came. Nothing here asks whether an event is allowed. Chains are walked, never recursed into.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from heapq import heapify, heappop, heappush

from comity.protocol.auth.power_levels import PowerLevels
from comity.protocol.auth.selection import CREATE_KEY, POWER_LEVELS_KEY
from comity.protocol.event import Event, StateKey
from comity.protocol.state_resolution.graph import AuthGraph


def cited_power_levels(event: Event, graph: AuthGraph) -> Event | None:
    """The `m.room.power_levels` event among an event's auth events, if it is known."""
    return _cited(event, POWER_LEVELS_KEY, graph)


def _cited(event: Event, key: StateKey, graph: AuthGraph) -> Event | None:
    event_type, state_key = key
    for auth_id in event.auth_event_ids:
        auth = graph.event(auth_id)
        if auth is not None and auth.type == event_type and auth.state_key == state_key:
            return auth
    return None


def sender_power(event: Event, create: Event | None, graph: AuthGraph) -> float:
    """The level of an event's sender by the event's own auth events; `math.inf` for v12 creators.

    `create` is the create event that the room id of room version 12 implies; before, it is cited.
    """
    levels = cited_power_levels(event, graph)
    if levels is None and not event.version.room_id_is_create_hash:
        create = _cited(event, CREATE_KEY, graph)
    return PowerLevels(event.version, create, levels).user(event.sender)


def power_order(events: Mapping[str, Event], create: Event | None, graph: AuthGraph) -> list[Event]:
    """The reverse topological power ordering of `events` (by id), earliest first.

    An event comes after those of its auth events that are in `events`; among the events that
    are free to come, the first is the one of the most powerful sender, then the older by
    `origin_server_ts`, then the smaller event id. Events on a cycle, which only event ids of
    room versions 1–2 allow, never become free and are left out.
    """
    waiting: dict[str, int] = {}
    citing: dict[str, list[str]] = {}
    for event_id, event in events.items():
        cited = {auth_id for auth_id in event.auth_event_ids if auth_id in events}
        waiting[event_id] = len(cited)
        for auth_id in cited:
            citing.setdefault(auth_id, []).append(event_id)

    def rank(event: Event) -> tuple[float, int, str]:
        return -sender_power(event, create, graph), event.origin_server_ts, event.event_id

    free = [rank(event) for event_id, event in events.items() if not waiting[event_id]]
    heapify(free)
    ordered: list[Event] = []
    while free:
        event_id = heappop(free)[2]
        ordered.append(events[event_id])
        for later in citing.get(event_id, ()):
            waiting[later] -= 1
            if not waiting[later]:
                heappush(free, rank(events[later]))
    return ordered


class Mainline:
    """The mainline of a power levels event: itself, the one it cites, the one that one cites …

    It is followed only as far as somebody asks, because most events cite a recent one.
    """

    __slots__ = ("_aside", "_graph", "_line", "_next")

    def __init__(self, power_levels: Event | None, graph: AuthGraph) -> None:
        self._graph = graph
        #: Positions by event id of the part that was followed.
        self._line: dict[str, int] = {}
        #: The event of the mainline that comes after that part.
        self._next = power_levels
        #: Positions that power levels events beside the mainline have from those they cite.
        self._aside: dict[str, float] = {}

    def position(self, event: Event) -> float:
        """The mainline position of an event: 0 is the newest, `math.inf` stands for none."""
        passed: list[str] = []
        position = math.inf
        power_levels = cited_power_levels(event, self._graph)
        while power_levels is not None:
            event_id = power_levels.event_id
            if self._follow_to(event_id):
                position = self._line[event_id]
                break
            if event_id in self._aside:
                position = self._aside[event_id]
                break
            # Set at once, so that a cycle (of room versions 1–2) ends here.
            self._aside[event_id] = math.inf
            passed.append(event_id)
            power_levels = cited_power_levels(power_levels, self._graph)
        for event_id in passed:
            self._aside[event_id] = position
        return position

    def _follow_to(self, event_id: str) -> bool:
        """Whether an event is on the mainline; follows it until the answer is known."""
        while event_id not in self._line:
            if event_id in self._aside or self._next is None:
                return False
            self._line[self._next.event_id] = len(self._line)
            cited = cited_power_levels(self._next, self._graph)
            self._next = None if cited is None or cited.event_id in self._line else cited
        return True


def mainline_order(events: Iterable[Event], power_levels: Event | None, graph: AuthGraph) -> list[Event]:
    """The mainline ordering of `events` based on `power_levels`, smallest first."""
    mainline = Mainline(power_levels, graph)
    return sorted(
        events, key=lambda event: (-mainline.position(event), event.origin_server_ts, event.event_id)
    )
