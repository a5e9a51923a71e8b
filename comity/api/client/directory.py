"""Room aliases and published rooms (client-server §Room aliases, §Published room directory)."""

from __future__ import annotations

from comity.api.client.prefixes import add_classic
from comity.api.router import Call, Guard, Router, json_response
from comity.ports import Response
from comity.protocol.errors import MatrixError, bad_json
from comity.rooms.directory import Directory
from comity.rooms.public_rooms import PublicRooms, Search, search_of
from comity.users.rate_limits import MESSAGES, RateLimits


class DirectoryApi:
    """Routes of room aliases and of the published directory."""

    def __init__(
        self,
        directory: Directory,
        public_rooms: PublicRooms,
        rate_limits: RateLimits,
        *,
        publish_without_account: bool,
    ) -> None:
        """`publish_without_account` shows our published rooms to whoever has no account too."""
        self._directory = directory
        self._public_rooms = public_rooms
        self._rate_limits = rate_limits
        self._publish_without_account = publish_without_account

    def routes(self, router: Router, guard: Guard, anybody: Guard, visitors: Guard) -> None:
        """Add the routes; `anybody` and `visitors` are the guards of those that need no account."""
        add_classic(router, "GET", "/publicRooms", self.public_rooms, guard=anybody)
        add_classic(router, "POST", "/publicRooms", self.search, guard=guard)
        add_classic(router, "GET", "/directory/list/room/{roomId}", self.visibility, guard=visitors)
        add_classic(router, "PUT", "/directory/list/room/{roomId}", self.set_visibility, guard=guard)
        add_classic(router, "GET", "/directory/room/{roomAlias}", self.get, guard=visitors)
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
        self._rate_limits.check(MESSAGES, call.requester.user_id)
        return json_response(
            {"aliases": await self._directory.aliases(call.requester.user_id, call.parameters["roomId"])}
        )

    # -- published rooms

    async def public_rooms(self, call: Call) -> Response:
        """GET /publicRooms, of this server or another."""
        if call.user is None and (call.query("server") or not self._publish_without_account):
            raise MatrixError(401, "M_MISSING_TOKEN", "The published rooms are for users of this server")
        search = search_of({"limit": call.query_int("limit", 0), "since": call.query("since")})
        return await self._listed(call, search)

    async def search(self, call: Call) -> Response:
        """POST /publicRooms, with a filter."""
        return await self._listed(call, search_of(call.json()))

    async def _listed(self, call: Call, search: Search) -> Response:
        server = call.query("server")
        if server is None or self._public_rooms.is_own(server):
            return json_response(await self._public_rooms.listed(search))
        self._rate_limits.check(MESSAGES, call.requester.user_id)
        return json_response(await self._public_rooms.listed_elsewhere(server, search))

    async def visibility(self, call: Call) -> Response:
        """GET /directory/list/room/{roomId}."""
        published = await self._directory.is_published(call.parameters["roomId"])
        return json_response({"visibility": "public" if published else "private"})

    async def set_visibility(self, call: Call) -> Response:
        """PUT /directory/list/room/{roomId}."""
        wanted = call.json_or_empty().get("visibility", "public")
        if wanted not in ("public", "private"):
            raise bad_json("visibility is neither public nor private")
        requester = call.requester
        await self._directory.publish(
            requester.user_id,
            call.parameters["roomId"],
            published=wanted == "public",
            admin=requester.admin,
        )
        return json_response({})
