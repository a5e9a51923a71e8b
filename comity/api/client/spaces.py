"""Spaces and previews of rooms (client-server §Spaces, §Room summaries)."""

from __future__ import annotations

from comity.api.router import Call, Guard, Router, json_response
from comity.ports import Response
from comity.protocol import identifiers
from comity.protocol.errors import invalid_param
from comity.rooms.directory import Directory
from comity.rooms.hierarchy import DEFAULT_LIMIT, MAX_DEPTH, Hierarchies
from comity.users.rate_limits import MESSAGES, RateLimits

_V1 = "/_matrix/client/v1"


class SpacesApi:
    """Routes that show rooms from outside."""

    def __init__(self, hierarchies: Hierarchies, directory: Directory, rate_limits: RateLimits) -> None:
        self._hierarchies = hierarchies
        self._directory = directory
        self._rate_limits = rate_limits

    def routes(self, router: Router, guard: Guard) -> None:
        """Add the routes."""
        router.add("GET", f"{_V1}/rooms/{{roomId}}/hierarchy", self.hierarchy, guard=guard)
        router.add("GET", f"{_V1}/room_summary/{{roomIdOrAlias}}", self.summary, guard=guard)

    async def hierarchy(self, call: Call) -> Response:
        """GET /rooms/{roomId}/hierarchy; it may have to ask other servers."""
        self._rate_limits.check(MESSAGES, call.requester.user_id)
        depth = None if call.query("max_depth") is None else call.query_int("max_depth", MAX_DEPTH)
        return json_response(
            await self._hierarchies.for_user(
                call.requester.user_id,
                call.parameters["roomId"],
                suggested_only=call.query_bool("suggested_only"),
                max_depth=depth,
                limit=call.query_int("limit", DEFAULT_LIMIT, least=1),
                start=call.query("from"),
            )
        )

    async def summary(self, call: Call) -> Response:
        """GET /room_summary/{roomIdOrAlias}; it may have to ask other servers."""
        self._rate_limits.check(MESSAGES, call.requester.user_id)
        room_id, via = call.parameters["roomIdOrAlias"], call.query_all("via")
        if room_id.startswith("#"):
            room_id, servers = await self._directory.resolve(room_id)
            via = [*via, *servers]
        if not identifiers.is_room_id(room_id):
            raise invalid_param("That is neither a room id nor a room alias")
        return json_response(await self._hierarchies.summary(call.requester.user_id, room_id, via))
