"""Filters (client-server §Filtering)."""

from __future__ import annotations

from comity.api.auth import must_be_self
from comity.api.client.prefixes import add_classic
from comity.api.router import JSON_HEADERS, Call, Guard, Router, json_response
from comity.ports import Response
from comity.users.filters import Filters


def routes(router: Router, guard: Guard, filters: Filters) -> None:
    """Add the routes of this family."""

    async def create(call: Call) -> Response:
        return json_response({"filter_id": await filters.create(must_be_self(call), call.json())})

    async def get(call: Call) -> Response:
        definition = await filters.get(must_be_self(call), call.parameters["filterId"])
        return Response(200, definition, dict(JSON_HEADERS))

    add_classic(router, "POST", "/user/{userId}/filter", create, guard)
    add_classic(router, "GET", "/user/{userId}/filter/{filterId}", get, guard)
