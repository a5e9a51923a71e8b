"""GET /notifications (client-server §Listing notifications)."""

from __future__ import annotations

from comity.api.client.prefixes import add_classic
from comity.api.router import Call, Guard, Router, json_response
from comity.ports import Response
from comity.sync.notifications import DEFAULT_LIMIT, MAX_LIMIT, Notifications, Page


def routes(router: Router, guard: Guard, notifications: Notifications) -> None:
    """Add the route."""

    async def listed(call: Call) -> Response:
        page = Page(
            user_id=call.requester.user_id,
            device_id=call.requester.device_id,
            start=call.query("from") or None,
            limit=call.query_int("limit", DEFAULT_LIMIT, least=1, most=MAX_LIMIT),
            only_highlights=call.query("only") == "highlight",
        )
        return json_response(await notifications.listed(page))

    add_classic(router, "GET", "/notifications", listed, guard)
