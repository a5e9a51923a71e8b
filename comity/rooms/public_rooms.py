"""The published room directory: ours, for our users and for other servers, and other servers'.

client-server §Published room directory, server-server §Published Room Directory. The largest
rooms come first; a token is the place between two rooms in that order, so that no room that
stays as it is comes twice or is left out while others come and go.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from comity.federation.directory_calls import DirectoryCalls
from comity.federation.errors import FederationError
from comity.protocol import identifiers
from comity.protocol.errors import MatrixError, invalid_param
from comity.rooms.room_summary import DIRECTORY_FIELDS, Summaries, cleaned
from comity.store import published
from comity.store.database import Database, Tx

#: Rooms in one answer, and where nobody says how many.
MAX_LIMIT, DEFAULT_LIMIT = 500, 100
#: Characters of a search, of a token and of a network's id, and room types in a filter.
MAX_TERM, MAX_TOKEN, MAX_NETWORK, MAX_TYPES = 1_000, 2_000, 255, 50


@dataclass(frozen=True, slots=True)
class Search:
    """What is asked of a directory, its types checked."""

    #: 0: as many as one answer may hold.
    limit: int = 0
    since: str | None = None
    term: str = ""
    #: None: of every type; an entry None: rooms without a type.
    types: frozenset[str | None] | None = None
    #: The third-party network whose rooms are asked for, and none but those; or all networks' beside ours.
    network: str | None = None
    all_networks: bool = False

    def filter(self) -> dict[str, Any]:
        """The filter as it goes over the wire; empty if nothing is filtered."""
        wanted: dict[str, Any] = {}
        if self.term:
            wanted["generic_search_term"] = self.term
        if self.types is not None:
            wanted["room_types"] = sorted(self.types, key=lambda kind: kind or "")
        return wanted

    def networks(self) -> dict[str, Any]:
        """The networks as they go over the wire; empty for the usual, Matrix alone."""
        if self.network is not None:
            return {"third_party_instance_id": self.network}
        return {"include_all_networks": True} if self.all_networks else {}


def search_of(asked: Mapping[str, Any]) -> Search:
    """A Search from an untrusted query or body. Raises 400 M_INVALID_PARAM."""
    limit, since, wanted = asked.get("limit"), asked.get("since"), asked.get("filter")
    network, every = asked.get("third_party_instance_id"), asked.get("include_all_networks")
    if limit is not None and (type(limit) is not int or limit < 0):
        raise invalid_param("limit is not a number of rooms")
    if since is not None and (not isinstance(since, str) or len(since) > MAX_TOKEN):
        raise invalid_param("since is not a token of an earlier answer")
    if every is not None and not isinstance(every, bool):
        raise invalid_param("include_all_networks is neither true nor false")
    if network is not None and (not isinstance(network, str) or len(network) > MAX_NETWORK):
        raise invalid_param(f"third_party_instance_id is not text of at most {MAX_NETWORK} characters")
    if network and every:
        raise invalid_param("third_party_instance_id can only be used if include_all_networks is false")
    term, types = _filter_of({} if wanted is None else wanted)
    return Search(limit or 0, since or None, term, types, network or None, bool(every))


def _filter_of(wanted: object) -> tuple[str, frozenset[str | None] | None]:
    if not isinstance(wanted, dict):
        raise invalid_param("filter is not an object")
    term, types = wanted.get("generic_search_term"), wanted.get("room_types")
    if term is not None and (not isinstance(term, str) or len(term) > MAX_TERM):
        raise invalid_param(f"generic_search_term is not text of at most {MAX_TERM} characters")
    if types is None:
        return term or "", None
    if (
        not isinstance(types, list)
        or len(types) > MAX_TYPES
        or not all(kind is None or isinstance(kind, str) for kind in types)
    ):
        raise invalid_param(f"room_types is not a list of at most {MAX_TYPES} room types")
    return term or "", frozenset(types)


@dataclass(frozen=True, slots=True)
class _Place:
    """A place in the order: before or after a room of that size and id."""

    forwards: bool
    members: int
    room_id: str

    def token(self) -> str:
        text = f"{'+' if self.forwards else '-'}{self.members} {self.room_id}"
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _place(token: str) -> _Place:
    try:
        text = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode()
        members, _, room_id = text[1:].partition(" ")
        if text[:1] not in ("+", "-") or not identifiers.is_room_id(room_id):
            raise ValueError(text)
        return _Place(text[0] == "+", int(members), room_id)
    except ValueError:
        raise invalid_param("since is not a token of an earlier answer") from None


class PublicRooms:
    """Answers what rooms there are for everybody to see."""

    def __init__(
        self, database: Database, summaries: Summaries, calls: DirectoryCalls, server_name: str
    ) -> None:
        self._database = database
        self._summaries = summaries
        self._calls = calls
        self._server_name = server_name

    async def listed(self, search: Search, *, for_servers: bool = False) -> dict[str, Any]:
        """A page of our own directory. Raises 400 M_INVALID_PARAM.

        `for_servers` leaves out rooms that nobody of another server may be in.
        """
        start = _place(search.since) if search.since is not None else None
        rooms = await self._database.read(lambda tx: self._matching(tx, search, for_servers))
        rooms.sort(key=_order)
        limit = min(search.limit or DEFAULT_LIMIT, MAX_LIMIT)
        first, end = _stretch(rooms, start, limit)
        answer: dict[str, Any] = {
            "chunk": [
                {name: room[name] for name in DIRECTORY_FIELDS if name in room} for room in rooms[first:end]
            ],
            "total_room_count_estimate": len(rooms),
        }
        if end < len(rooms) and end > 0:
            last = rooms[end - 1]
            answer["next_batch"] = _Place(True, last["num_joined_members"], last["room_id"]).token()
        if 0 < first < len(rooms):
            room = rooms[first]
            answer["prev_batch"] = _Place(False, room["num_joined_members"], room["room_id"]).token()
        return answer

    def _matching(self, tx: Tx, search: Search, for_servers: bool) -> list[Mapping[str, Any]]:
        found: list[Mapping[str, Any]] = []
        if search.network is not None:
            # No room here is a bridge's to another network.
            return found
        for row in published.published(tx):
            if for_servers and not self._summaries.is_federated(tx, row):
                continue
            summary = self._summaries.of(tx, row)
            if _matches(summary, search):
                found.append(summary)
        return found

    async def listed_elsewhere(self, server: str, search: Search) -> dict[str, Any]:
        """A page of another server's directory. Raises MatrixError."""
        if not identifiers.is_server_name(server):
            raise invalid_param("server is not a server name")
        limit = min(search.limit or DEFAULT_LIMIT, MAX_LIMIT)
        try:
            answer = await self._calls.public_rooms(
                server, limit, search.since, search.filter(), search.networks()
            )
        except FederationError as error:
            if error.status == 403:
                raise MatrixError(403, "M_FORBIDDEN", f"{server} does not show its directory") from None
            raise MatrixError(502, "M_UNKNOWN", f"{server} could not be asked", detail=str(error)) from None
        found: dict[str, Any] = {"chunk": []}
        for told in answer.rooms[:MAX_LIMIT]:
            if identifiers.is_room_id(told.get("room_id")):
                room = cleaned(told)
                found["chunk"].append({name: room[name] for name in DIRECTORY_FIELDS if name in room})
        found["total_room_count_estimate"] = answer.total
        if answer.next_batch is not None:
            found["next_batch"] = answer.next_batch
        if answer.prev_batch is not None:
            found["prev_batch"] = answer.prev_batch
        return found

    def is_own(self, server: str | None) -> bool:
        """Whether the directory that is asked for is ours."""
        return server is None or server == self._server_name


def _order(room: Mapping[str, Any]) -> tuple[int, str]:
    return -int(room["num_joined_members"]), str(room["room_id"])


def _stretch(rooms: Sequence[Mapping[str, Any]], start: _Place | None, limit: int) -> tuple[int, int]:
    """From which room to which (excluded) a page goes."""
    if start is None:
        return 0, min(limit, len(rooms))
    key = (-start.members, start.room_id)
    if start.forwards:
        first = sum(1 for room in rooms if _order(room) <= key)
        return first, min(first + limit, len(rooms))
    end = sum(1 for room in rooms if _order(room) < key)
    return max(end - limit, 0), end


def _matches(summary: Mapping[str, Any], search: Search) -> bool:
    if search.types is not None and summary.get("room_type") not in search.types:
        return False
    term = search.term.casefold()
    return not term or any(
        term in str(summary.get(name, "")).casefold() for name in ("name", "topic", "canonical_alias")
    )
