"""GET timestamp_to_event (client-server §Getting events for a room)."""

from __future__ import annotations

from comity.api.by_time import by_time_query
from comity.api.router import Call, Guard, Router, json_response
from comity.ports import Response
from comity.rooms.timestamp import Timestamps
from comity.users.rate_limits import MESSAGES, RateLimits


class ByTimeApi:
    """The route that finds events by their time."""

    def __init__(self, timestamps: Timestamps, rate_limits: RateLimits) -> None:
        self._timestamps = timestamps
        self._rate_limits = rate_limits

    def routes(self, router: Router, guard: Guard) -> None:
        """Add the route."""
        template = "/_matrix/client/v1/rooms/{roomId}/timestamp_to_event"
        router.add("GET", template, self.by_time, guard=guard)

    async def by_time(self, call: Call) -> Response:
        """GET /rooms/{roomId}/timestamp_to_event; it may have to ask other servers."""
        at_ms, forwards = by_time_query(call)
        self._rate_limits.check(MESSAGES, call.requester.user_id)
        return json_response(
            await self._timestamps.for_user(
                call.requester.user_id, call.parameters["roomId"], at_ms, forwards=forwards
            )
        )
