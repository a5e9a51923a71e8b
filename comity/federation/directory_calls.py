"""What comity asks other servers about rooms that it may not be in: where aliases lead.

server-server §Querying for information.
"""

from __future__ import annotations

from dataclasses import dataclass

from comity.federation.answers import (
    MAX_ALIAS_SERVERS,
    QUICK_SECONDS,
    SMALL_BYTES,
    V1,
    json_object,
    malformed,
)
from comity.federation.client import FederationClient
from comity.protocol import identifiers


@dataclass(frozen=True, slots=True)
class DirectoryAnswer:
    """Where an alias leads, and servers that are in that room."""

    room_id: str
    servers: list[str]


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
