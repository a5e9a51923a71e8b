"""Services that this server does not run, and clients ask for: calls, bridges.

client-server §Voice over IP, §Third-party Networks: an empty answer says that there is none.
"""

from __future__ import annotations

from comity.api.client.prefixes import add_classic
from comity.api.router import Call, Guard, Router, json_response
from comity.ports import Response


def routes(router: Router, guard: Guard) -> None:
    """Add the routes of this family."""

    async def nothing(call: Call) -> Response:
        return json_response({})

    add_classic(router, "GET", "/voip/turnServer", nothing, guard)
    add_classic(router, "GET", "/thirdparty/protocols", nothing, guard)
