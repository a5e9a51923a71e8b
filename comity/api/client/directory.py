"""Room aliases (client-server §Room aliases)."""

from __future__ import annotations

from comity.api.client.prefixes import add_classic
from comity.api.router import Call, Guard, Router, json_response
from comity.ports import Response
from comity.rooms.directory import Directory


class DirectoryApi:
    """Routes of room aliases."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    def routes(self, router: Router, guard: Guard) -> None:
        """Add the routes."""
        add_classic(router, "GET", "/directory/room/{roomAlias}", self.get, guard=None)
        add_classic(router, "PUT", "/directory/room/{roomAlias}", self.put, guard=guard)
        add_classic(router, "DELETE", "/directory/room/{roomAlias}", self.delete, guard=guard)
        add_classic(router, "GET", "/rooms/{roomId}/aliases", self.aliases, guard=guard)

    async def get(self, call: Call) -> Response:
        """Where an alias of any server leads."""
        room_id, servers = await self._directory.resolve(call.parameters["roomAlias"])
        return json_response({"room_id": room_id, "servers": servers})

    async def put(self, call: Call) -> Response:
        """Create an alias of this server."""
        room_id = call.field("room_id", str)
        await self._directory.create(call.requester.user_id, call.parameters["roomAlias"], room_id)
        return json_response({})

    async def delete(self, call: Call) -> Response:
        """Delete an alias of this server."""
        requester = call.requester
        await self._directory.delete(requester.user_id, call.parameters["roomAlias"], admin=requester.admin)
        return json_response({})

    async def aliases(self, call: Call) -> Response:
        """The local aliases of a room."""
        return json_response(
            {"aliases": await self._directory.aliases(call.requester.user_id, call.parameters["roomId"])}
        )
