"""GET mutual_rooms (client-server §Mutual Rooms)."""

from __future__ import annotations

from typing import Any

from comity.api.router import Call, Guard, Router, json_response
from comity.ports import Response
from comity.users.mutual_rooms import MutualRooms
from comity.users.rate_limits import MUTUAL_ROOMS, RateLimits


def routes(router: Router, guard: Guard, mutual_rooms: MutualRooms, limits: RateLimits) -> None:
    """Add the route."""

    async def get(call: Call) -> Response:
        limits.check(MUTUAL_ROOMS, call.requester.user_id)
        other = call.query_required("user_id")
        batch = await mutual_rooms.shared(call.requester.user_id, other, call.query("from"))
        body: dict[str, Any] = {"joined": batch.joined, "count": batch.count}
        if batch.next_batch is not None:
            body["next_batch"] = batch.next_batch
        return json_response(body)

    router.add("GET", "/_matrix/client/v1/mutual_rooms", get, guard=guard)
