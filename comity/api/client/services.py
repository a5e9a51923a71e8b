"""Services that this server does not run, and clients ask for: calls, bridges.

client-server §Voice over IP, §Third-party Networks: an empty answer says that there is none.
"""

from __future__ import annotations

from comity.api.client.prefixes import add_classic
from comity.api.router import Call, Guard, Router, json_response
from comity.ports import Response
from comity.protocol.errors import not_found


def routes(router: Router, guard: Guard) -> None:
    """Add the routes of this family."""

    async def nothing(call: Call) -> Response:
        return json_response({})

    async def unknown_protocol(call: Call) -> Response:
        raise not_found("This server bridges to no network of that protocol")

    async def no_locations(call: Call) -> Response:
        call.query_required("alias")
        return json_response([])

    async def no_users(call: Call) -> Response:
        call.query_required("userid")
        return json_response([])

    add_classic(router, "GET", "/voip/turnServer", nothing, guard)
    add_classic(router, "GET", "/thirdparty/protocols", nothing, guard)
    for what in ("protocol", "location", "user"):
        add_classic(router, "GET", f"/thirdparty/{what}/{{protocol}}", unknown_protocol, guard)
    add_classic(router, "GET", "/thirdparty/location", no_locations, guard)
    add_classic(router, "GET", "/thirdparty/user", no_users, guard)
