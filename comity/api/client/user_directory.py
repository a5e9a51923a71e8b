"""POST /user_directory/search (client-server §User Directory)."""

from __future__ import annotations

from comity.api.client.prefixes import add_classic
from comity.api.router import Call, Guard, Router, json_response
from comity.ports import Response
from comity.users.directory import UserDirectory
from comity.users.rate_limits import PEOPLE_SEARCHES, RateLimits


def routes(router: Router, guard: Guard, directory: UserDirectory, limits: RateLimits) -> None:
    """Add the route."""

    async def search(call: Call) -> Response:
        limits.check(PEOPLE_SEARCHES, call.requester.user_id)
        return json_response(await directory.search(call.requester.user_id, call.json()))

    add_classic(router, "POST", "/user_directory/search", search, guard)
