"""Presence (client-server §Presence)."""

from __future__ import annotations

from comity.api.auth import must_be_self
from comity.api.client.prefixes import add_classic
from comity.api.router import Call, Guard, Router, json_response
from comity.ports import Response
from comity.users.presence import Presences


def routes(router: Router, guard: Guard, presences: Presences) -> None:
    """Add the routes of this family."""

    async def put(call: Call) -> Response:
        user_id = must_be_self(call)
        await presences.put(user_id, call.requester.device_id, call.json())
        return json_response({})

    async def get(call: Call) -> Response:
        return json_response(await presences.get(call.requester.user_id, call.parameters["userId"]))

    add_classic(router, "PUT", "/presence/{userId}/status", put, guard)
    add_classic(router, "GET", "/presence/{userId}/status", get, guard)
