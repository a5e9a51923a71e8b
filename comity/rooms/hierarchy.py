"""Spaces: the tree of rooms below one, over all the servers that know a part of it.

client-server §Spaces, server-server §Spaces. What we hold ourselves goes before what others
say; what others say is remembered for a while. Who may see a room is asked for every user anew.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from comity.federation.directory_calls import DirectoryCalls
from comity.federation.errors import FederationError
from comity.ports import Clock, Entropy
from comity.protocol.errors import forbidden, invalid_param, not_found
from comity.rooms.room_summary import (
    MAX_CHILDREN,
    SPACE,
    Summaries,
    child_order,
    cleaned,
    cleaned_child,
    is_suggested,
    via_of,
)
from comity.store import rooms as stored_rooms
from comity.store.cache import Bounded
from comity.store.database import Database, Tx

_log = logging.getLogger(__name__)
#: Rooms in one page, and where nobody says how many.
MAX_LIMIT, DEFAULT_LIMIT = 100, 50
#: How far below the first space a walk goes.
MAX_DEPTH = 20
#: Rooms that one walk may still have before it; what more a space names is left out.
MAX_WAITING = 5_000
#: Walks that go on where a page ended; the oldest is forgotten first.
MAX_WALKS = 500
#: Servers asked about one room, and rooms asked about for one page.
MAX_SERVERS, MAX_ASKED = 3, 30
#: Seconds after which a page ends, however few rooms it has.
PATIENCE_SECONDS = 20.0
#: How long another server's word on a space holds, and of how many spaces it is kept.
REMEMBERED_SECONDS, MAX_REMEMBERED = 300.0, 500
TOKEN_LENGTH = 24


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of one room: its summary, its children; what else its server told."""

    summary: Mapping[str, Any]
    children: Sequence[Mapping[str, Any]]
    #: Summaries of children that are no spaces, so that nobody need be asked about them.
    others: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    inaccessible: frozenset[str] = frozenset()

    def told(self) -> dict[str, Any]:
        """As clients and servers are told it."""
        return {**self.summary, "children_state": list(self.children)}


@dataclass(slots=True)
class _Waiting:
    room_id: str
    depth: int
    via: Sequence[str]
    known: Known | None = None


@dataclass(slots=True)
class _Walk:
    """One user's way through a tree, depth first; the next room is the last of `stack`."""

    user_id: str
    room_id: str
    suggested_only: bool
    max_depth: int
    stack: list[_Waiting]
    seen: set[str] = field(default_factory=set)
    #: Rooms of which a server says that we could not see them: nobody is asked about them.
    inaccessible: set[str] = field(default_factory=set)


class Hierarchies:
    """Walks spaces for users, and tells other servers of ours."""

    def __init__(
        self,
        *,
        database: Database,
        summaries: Summaries,
        calls: DirectoryCalls,
        clock: Clock,
        entropy: Entropy,
        server_name: str,
        candidates: Callable[[str, str, Sequence[str]], Awaitable[list[str]]],
    ) -> None:
        """`candidates` are servers that may know a room that a user asks for (`Memberships.candidates`)."""
        self._candidates = candidates
        self._database = database
        self._summaries = summaries
        self._calls = calls
        self._clock = clock
        self._entropy = entropy
        self._server_name = server_name
        self._walks: Bounded[str, _Walk] = Bounded(MAX_WALKS)
        #: (server, room id, suggested only) -> (when it was told, what was told).
        self._remembered: Bounded[tuple[str, str, bool], tuple[float, Known]] = Bounded(MAX_REMEMBERED)

    # -- for other servers

    async def for_server(self, room_id: str, origin: str, *, suggested_only: bool) -> dict[str, Any]:
        """The answer to GET hierarchy (server-server §Spaces). Raises 404 M_NOT_FOUND."""

        def read(tx: Tx) -> dict[str, Any]:
            known = self._here(tx, room_id, suggested_only=suggested_only)
            row = stored_rooms.by_id(tx, room_id)
            if known is None or row is None or not self._summaries.server_may_see(tx, row, origin):
                raise not_found("This server knows no such room that your users could see")
            children, inaccessible = [], []
            for child in known.children:
                below = stored_rooms.by_id(tx, child["state_key"])
                if below is None or not below.resident:
                    continue
                if self._summaries.server_may_see(tx, below, origin):
                    children.append(dict(self._summaries.of(tx, below)))
                else:
                    inaccessible.append(below.room_id)
            return {"room": known.told(), "children": children, "inaccessible_children": inaccessible}

        return await self._database.read(read)

    def _here(self, tx: Tx, room_id: str, *, suggested_only: bool) -> Known | None:
        """What we know ourselves of a room that we are in."""
        row = stored_rooms.by_id(tx, room_id)
        if row is None or not row.resident:
            return None
        children = self._summaries.children(tx, row)
        if suggested_only:
            children = [child for child in children if is_suggested(child)]
        return Known(self._summaries.of(tx, row), children)

    # -- for users

    async def for_user(
        self,
        user_id: str,
        room_id: str,
        *,
        suggested_only: bool = False,
        max_depth: int | None = None,
        limit: int = DEFAULT_LIMIT,
        start: str | None = None,
    ) -> dict[str, Any]:
        """A page of the tree below a space (client-server §Spaces).

        `start` is the `next_batch` of the page before. Raises 403 M_FORBIDDEN, 400 M_INVALID_PARAM.
        """
        depth = MAX_DEPTH if max_depth is None else min(max_depth, MAX_DEPTH)
        if start is None:
            first = _Waiting(room_id, 0, ())
            walk = _Walk(user_id, room_id, suggested_only, depth, [first])
        else:
            walk = self._continued(user_id, room_id, suggested_only, depth, start)
        rooms = await self._page(walk, min(max(limit, 1), MAX_LIMIT))
        if start is None and not rooms:
            raise forbidden("There is no such room that you could see")
        answer: dict[str, Any] = {"rooms": rooms}
        if walk.stack:
            answer["next_batch"] = token = self._entropy.token(TOKEN_LENGTH)
            self._walks.put(token, walk)
        return answer

    def _continued(
        self, user_id: str, room_id: str, suggested_only: bool, max_depth: int, start: str
    ) -> _Walk:
        held = self._walks.get(start)
        if held is None or (held.user_id, held.room_id) != (user_id, room_id):
            raise invalid_param("from is not a token of an earlier page of this hierarchy")
        if (held.suggested_only, held.max_depth) != (suggested_only, max_depth):
            raise invalid_param("suggested_only and max_depth cannot change on paginated requests")
        # A copy: the same page can be asked for again.
        return _Walk(
            user_id, room_id, suggested_only, max_depth, list(held.stack), set(held.seen),
            set(held.inaccessible),
        )  # fmt: skip

    async def _page(self, walk: _Walk, limit: int) -> list[dict[str, Any]]:
        rooms: list[dict[str, Any]] = []
        asked, until = 0, self._clock.monotonic() + PATIENCE_SECONDS
        while walk.stack and len(rooms) < limit:
            if rooms and (asked >= MAX_ASKED or self._clock.monotonic() > until):
                break
            waiting = walk.stack.pop()
            if waiting.room_id in walk.seen:
                continue
            walk.seen.add(waiting.room_id)
            known = await self._database.read(
                lambda tx: self._here(tx, waiting.room_id, suggested_only=walk.suggested_only)  # noqa: B023
            )
            known = known or waiting.known
            if known is None and waiting.room_id not in walk.inaccessible:
                asked += 1
                via = waiting.via
                if waiting.depth == 0:
                    via = await self._candidates(walk.user_id, waiting.room_id, via)
                known = await self._elsewhere(waiting.room_id, via, walk.suggested_only)
            if known is None or not await self._may_see(walk.user_id, known):
                continue
            rooms.append(known.told())
            self._go_on(walk, waiting.depth + 1, known)
        return rooms

    async def _may_see(self, user_id: str, known: Known) -> bool:
        return await self._database.read(lambda tx: self._summaries.user_may_see(tx, known.summary, user_id))

    @staticmethod
    def _go_on(walk: _Walk, depth: int, known: Known) -> None:
        walk.inaccessible |= known.inaccessible
        if depth > walk.max_depth:
            return
        below = []
        for child in known.children[: max(MAX_WAITING - len(walk.stack), 0)]:
            room_id = child["state_key"]
            other = known.others.get(room_id)
            below.append(
                _Waiting(room_id, depth, via_of(child["content"]), Known(other, ()) if other else None)
            )
        walk.stack.extend(reversed(below))

    async def summary(self, user_id: str, room_id: str, via: Sequence[str]) -> dict[str, Any]:
        """One room's summary, with the user's membership (GET room_summary). Raises 404 M_NOT_FOUND."""
        known = await self._database.read(lambda tx: self._here(tx, room_id, suggested_only=False))
        if known is None:
            servers = await self._candidates(user_id, room_id, via)
            known = await self._elsewhere(room_id, servers, suggested_only=False)
        if known is None or not await self._may_see(user_id, known):
            raise not_found("There is no such room that you could see")
        answer = dict(known.summary)
        membership = await self._database.read(lambda tx: Summaries.membership(tx, room_id, user_id))
        if membership is not None:
            answer["membership"] = membership
        return answer

    # -- from other servers

    async def _elsewhere(self, room_id: str, via: Sequence[str], suggested_only: bool) -> Known | None:
        """What other servers say of a room that we are not in; None if none says anything."""
        servers = [name for name in dict.fromkeys(via) if name != self._server_name]
        for server in servers[:MAX_SERVERS]:
            # By the server too: what one says must not be taken for what another would have said.
            held = self._remembered.get((server, room_id, suggested_only))
            if held is not None and 0 <= self._clock.monotonic() - held[0] < REMEMBERED_SECONDS:
                return held[1]
            try:
                known = await self._ask(server, room_id, suggested_only)
            except FederationError as error:
                _log.info("no summary of %s from %s: %s", room_id, server, error)
                continue
            self._remembered.put((server, room_id, suggested_only), (self._clock.monotonic(), known))
            return known
        return None

    async def _ask(self, server: str, room_id: str, suggested_only: bool) -> Known:
        answer = await self._calls.hierarchy(server, room_id, suggested_only=suggested_only)
        told = answer.room.get("children_state")
        listed = (cleaned_child(item) for item in (told if isinstance(told, list) else ()))
        children = sorted((child for child in listed if child is not None), key=child_order)
        if suggested_only:
            children = [child for child in children if is_suggested(child)]
        named = {child["state_key"] for child in children}
        others = {
            room["room_id"]: cleaned(room)
            for room in answer.children
            if isinstance(room.get("room_id"), str)
            and room["room_id"] in named
            and room.get("room_type") != SPACE
        }
        inaccessible = frozenset(answer.inaccessible) & named
        return Known(cleaned(answer.room), children[:MAX_CHILDREN], others, inaccessible)
