"""What comity asks other servers about rooms that it may not be in: aliases, directories, spaces.

server-server §Querying for information, §Published Room Directory, §Spaces.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from comity.federation.answers import (
    EVENTS_BYTES,
    MAX_ALIAS_SERVERS,
    QUICK_SECONDS,
    SMALL_BYTES,
    V1,
    json_object,
    json_objects,
    malformed,
)
from comity.federation.client import FederationClient, path
from comity.protocol import identifiers

#: Rooms in one page of a directory: more than are ever asked for.
MAX_PUBLIC_ROOMS = 2_000
#: Rooms that the answer about one space may hold, of either kind.
MAX_HIERARCHY_ROOMS = 2_000
#: Characters of another server's token.
MAX_TOKEN_LENGTH = 2_000


@dataclass(frozen=True, slots=True)
class DirectoryAnswer:
    """Where an alias leads, and servers that are in that room."""

    room_id: str
    servers: list[str]


@dataclass(frozen=True, slots=True)
class PublicRoomsAnswer:
    """A page of a server's published rooms, as it told it."""

    rooms: list[dict[str, Any]]
    next_batch: str | None
    prev_batch: str | None
    total: int


@dataclass(frozen=True, slots=True)
class HierarchyAnswer:
    """What a server tells of a space: `room` has its summary and `children_state`."""

    room: dict[str, Any]
    children: list[dict[str, Any]]
    inaccessible: list[str]


class DirectoryCalls:
    """The calls. Each raises FederationError, also when the answer is not of its shape."""

    def __init__(self, client: FederationClient) -> None:
        self._client = client

    async def query_directory(self, server: str, alias: str) -> DirectoryAnswer:
        """GET query/directory: where an alias of that server leads."""
        data = await self._client.request(
            server,
            "GET",
            f"{V1}/query/directory",
            query=[("room_alias", alias)],
            timeout=QUICK_SECONDS,
            max_bytes=SMALL_BYTES,
            even_if_backing_off=True,
        )
        answer = json_object(server, data)
        room_id, servers = answer.get("room_id"), answer.get("servers")
        if not identifiers.is_room_id(room_id) or not isinstance(servers, list):
            raise malformed(server, "the alias was answered without a room id and servers")
        named = [name for name in servers[:MAX_ALIAS_SERVERS] if identifiers.is_server_name(name)]
        return DirectoryAnswer(str(room_id), named)

    async def public_rooms(
        self, server: str, limit: int, since: str | None, wanted: dict[str, Any], networks: dict[str, Any]
    ) -> PublicRoomsAnswer:
        """GET publicRooms, or POST where a filter is `wanted`, or `networks` other than the usual."""
        target = f"{V1}/publicRooms"
        if wanted or networks:
            body: dict[str, Any] = {"limit": limit, "filter": wanted, **networks}
            if since is not None:
                body["since"] = since
            data = await self._client.request(
                server, "POST", target, content=body, timeout=QUICK_SECONDS, max_bytes=EVENTS_BYTES,
                even_if_backing_off=True,
            )  # fmt: skip
        else:
            query = [("limit", str(limit))] + ([("since", since)] if since is not None else [])
            data = await self._client.request(
                server, "GET", target, query=query, timeout=QUICK_SECONDS, max_bytes=EVENTS_BYTES,
                even_if_backing_off=True,
            )  # fmt: skip
        answer = json_object(server, data)
        rooms = json_objects(server, answer.get("chunk"), MAX_PUBLIC_ROOMS)
        total = answer.get("total_room_count_estimate")
        return PublicRoomsAnswer(
            rooms,
            _text(answer.get("next_batch")),
            _text(answer.get("prev_batch")),
            total if type(total) is int and total >= 0 else len(rooms),
        )

    async def hierarchy(self, server: str, room_id: str, *, suggested_only: bool) -> HierarchyAnswer:
        """GET hierarchy: a space and those of its children that we could peek into or join."""
        data = await self._client.request(
            server,
            "GET",
            path(f"{V1}/hierarchy", room_id),
            query=[("suggested_only", "true" if suggested_only else "false")],
            timeout=QUICK_SECONDS,
            max_bytes=EVENTS_BYTES,
        )
        answer = json_object(server, data)
        room, inaccessible = answer.get("room"), answer.get("inaccessible_children", [])
        if not isinstance(room, dict) or room.get("room_id") != room_id:
            raise malformed(server, "the space was answered without its own summary")
        if not isinstance(inaccessible, list):
            raise malformed(server, "inaccessible_children is not a list")
        return HierarchyAnswer(
            room,
            json_objects(server, answer.get("children"), MAX_HIERARCHY_ROOMS),
            [name for name in inaccessible[:MAX_HIERARCHY_ROOMS] if identifiers.is_room_id(name)],
        )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and len(value) <= MAX_TOKEN_LENGTH else None
