"""POST /rooms/{roomId}/upgrade (client-server §Room Upgrades)."""

from __future__ import annotations

from comity.api.client.prefixes import add_classic
from comity.api.router import Call, Guard, Router, json_response
from comity.ports import Response
from comity.rooms.upgrade import Upgrader
from comity.users.rate_limits import JOINS, RateLimits

#: How many joins an upgrade counts for: the new room may begin with a thousand events.
UPGRADE_COST = 5.0


def routes(router: Router, guard: Guard, upgrader: Upgrader, rate_limits: RateLimits) -> None:
    """Add the route."""

    async def upgrade(call: Call) -> Response:
        user_id = call.requester.user_id
        rate_limits.check(JOINS, user_id, cost=UPGRADE_COST)
        new_id = await upgrader.upgrade(
            user_id,
            call.parameters["roomId"],
            call.field("new_version", str),
            call.json().get("additional_creators"),
        )
        return json_response({"replacement_room": new_id})

    add_classic(router, "POST", "/rooms/{roomId}/upgrade", upgrade, guard=guard)
