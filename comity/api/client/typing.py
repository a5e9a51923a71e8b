"""Typing notifications (client-server §Typing Notifications)."""

from __future__ import annotations

from comity.api.auth import must_be_self
from comity.api.client.prefixes import add_classic
from comity.api.router import Call, Guard, Router, json_response
from comity.ports import Response
from comity.users.ephemeral import Ephemeral


def routes(router: Router, guard: Guard, ephemeral: Ephemeral) -> None:
    """Add the routes of this family."""

    async def put(call: Call) -> Response:
        user_id = must_be_self(call)
        await ephemeral.type_locally(user_id, call.parameters["roomId"], call.json())
        await ephemeral.presences.active(user_id, call.requester.device_id)
        return json_response({})

    add_classic(router, "PUT", "/rooms/{roomId}/typing/{userId}", put, guard)
