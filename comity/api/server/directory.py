"""What other servers ask about rooms for everybody to see: the published ones, and spaces.

server-server §Published Room Directory, §Spaces.
"""

from __future__ import annotations

from comity.api.router import Call, Guard, Router, json_response
from comity.ports import Response
from comity.protocol.errors import forbidden
from comity.rooms.hierarchy import Hierarchies
from comity.rooms.public_rooms import PublicRooms, Search, search_of

_V1 = "/_matrix/federation/v1"


class DirectoryApi:
    """Routes of the federation API about rooms that the asking server may not be in."""

    def __init__(self, public_rooms: PublicRooms, hierarchies: Hierarchies, *, publish: bool) -> None:
        """`publish` says whether other servers are shown the published rooms."""
        self._public_rooms = public_rooms
        self._hierarchies = hierarchies
        self._publish = publish

    def routes(self, router: Router, guard: Guard) -> None:
        """Add the routes."""
        for method, template, handler in (
            ("GET", f"{_V1}/publicRooms", self.public_rooms),
            ("POST", f"{_V1}/publicRooms", self.search),
            ("GET", f"{_V1}/hierarchy/{{roomId}}", self.hierarchy),
        ):
            router.add(method, template, handler, guard=guard, serves="federation")

    async def _listed(self, search: Search) -> Response:
        if not self._publish:
            raise forbidden("This server does not show its published rooms to other servers")
        return json_response(await self._public_rooms.listed(search, for_servers=True))

    async def public_rooms(self, call: Call) -> Response:
        """GET /publicRooms."""
        asked = {
            "limit": call.query_int("limit", 0),
            "since": call.query("since"),
            "include_all_networks": call.query_bool("include_all_networks"),
            "third_party_instance_id": call.query("third_party_instance_id"),
        }
        return await self._listed(search_of(asked))

    async def search(self, call: Call) -> Response:
        """POST /publicRooms, with a filter."""
        return await self._listed(search_of(call.json()))

    async def hierarchy(self, call: Call) -> Response:
        """GET /hierarchy/{roomId}."""
        return json_response(
            await self._hierarchies.for_server(
                call.parameters["roomId"], call.origin, suggested_only=call.query_bool("suggested_only")
            )
        )
