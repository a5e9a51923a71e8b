"""The two orders of state resolution: reverse topological power, and mainline (rooms/v2 §Definitions).

Both are total orders of the events given, so that the result does not depend on how they
came. Nothing here asks whether an event is allowed. Chains are walked, never recursed into.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
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


#: Event id of a power levels event -> that of the one it cites, or None.
PowerLevelsBehind = Callable[[str], str | None]


def behind_in(graph: AuthGraph) -> PowerLevelsBehind:
    """The power levels event behind another, read from the graph's events."""

    def behind(event_id: str) -> str | None:
        event = graph.event(event_id)
        cited = None if event is None else cited_power_levels(event, graph)
        return None if cited is None else cited.event_id

    return behind


class Mainline:
    """The mainline of a power levels event: itself, the one it cites, the one that one cites …

    It is followed only as far as somebody asks, because most events cite a recent one.
    """

    __slots__ = ("_aside", "_behind", "_line", "_next")

    def __init__(self, power_levels: str | None, behind: PowerLevelsBehind) -> None:
        """`power_levels` is an event id; None for a mainline without events."""
        self._behind = behind
        #: Positions by event id of the part that was followed.
        self._line: dict[str, int] = {}
        #: The event of the mainline that comes after that part.
        self._next = power_levels
        #: Positions that power levels events beside the mainline have from those they cite.
        self._aside: dict[str, float] = {}

    def position(self, cited: str | None) -> float:
        """The mainline position of an event that cites those power levels.

        0 is the newest, `math.inf` stands for none. The mainline and the line behind `cited` are
        followed in turns: both lead on in the same way once they have met, so that the first
        event they have in common is where they met, and nothing beyond it is looked at.
        """
        passed: dict[str, None] = {}
        position: float | None = None
        while position is None:
            if cited is not None:
                position = self._known(cited)
                if position is None and cited in passed:
                    # A cycle, which only event ids of room versions 1–2 allow, has no end.
                    cited = None
                elif position is None:
                    passed[cited] = None
                    cited = self._behind(cited)
            followed = None if position is not None else self._follow()
            if followed in passed:
                position = self._line[followed]
            elif position is None and followed is None and cited is None:
                position = math.inf
        for event_id in passed:
            # What the mainline met on this line is on it; only what comes before is beside it.
            if event_id in self._line:
                break
            self._aside[event_id] = position
        return position

    def _known(self, event_id: str) -> float | None:
        """A position that was found before."""
        position = self._line.get(event_id)
        return self._aside.get(event_id) if position is None else position

    def _follow(self) -> str | None:
        """Follow the mainline by one event; its id, or None at the end."""
        event_id = self._next
        if event_id is not None:
            self._line[event_id] = len(self._line)
            behind = self._behind(event_id)
            self._next = None if behind in self._line else behind
        return event_id


def mainline_order(
    events: Iterable[Event],
    power_levels: Event | None,
    graph: AuthGraph,
    behind: PowerLevelsBehind | None = None,
) -> list[Event]:
    """The mainline ordering of `events` based on `power_levels`, smallest first.

    `behind` is a way to follow the mainline that is better than reading its events.
    """
    mainline = Mainline(None if power_levels is None else power_levels.event_id, behind or behind_in(graph))

    def rank(event: Event) -> tuple[float, int, str]:
        cited = cited_power_levels(event, graph)
        position = mainline.position(None if cited is None else cited.event_id)
        return -position, event.origin_server_ts, event.event_id

    return sorted(events, key=rank)
