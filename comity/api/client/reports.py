"""Report events, rooms and users (client-server §Reporting Content)."""

from __future__ import annotations

from comity.api.client.prefixes import add_classic
from comity.api.router import Call, Guard, Router, json_response
from comity.ports import Response
from comity.users.rate_limits import REPORTS, RateLimits
from comity.users.reports import Reports

_V3 = "/_matrix/client/v3"


def routes(router: Router, guard: Guard, reports: Reports, limits: RateLimits) -> None:
    """Add the routes of this family."""

    async def event(call: Call) -> Response:
        limits.check(REPORTS, call.requester.user_id)
        reason = call.field("reason", str, required=False)
        room_id, event_id = call.parameters["roomId"], call.parameters["eventId"]
        await reports.report_event(call.requester.user_id, room_id, event_id, reason or "")
        return json_response({})

    async def room(call: Call) -> Response:
        limits.check(REPORTS, call.requester.user_id)
        reason = call.field("reason", str)
        await reports.report_room(call.requester.user_id, call.parameters["roomId"], reason)
        return json_response({})

    async def user(call: Call) -> Response:
        limits.check(REPORTS, call.requester.user_id)
        reason = call.field("reason", str)
        await reports.report_user(call.requester.user_id, call.parameters["userId"], reason)
        return json_response({})

    add_classic(router, "POST", "/rooms/{roomId}/report/{eventId}", event, guard)
    router.add("POST", f"{_V3}/rooms/{{roomId}}/report", room, guard=guard)
    router.add("POST", f"{_V3}/users/{{userId}}/report", user, guard=guard)
