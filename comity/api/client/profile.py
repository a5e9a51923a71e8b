"""Profiles (client-server §Profiles)."""

from __future__ import annotations

from comity.api.auth import must_be_self
from comity.api.client.prefixes import add_classic
from comity.api.router import Call, Guard, Router, json_response
from comity.ports import Response
from comity.users.profile import Profiles


def routes(router: Router, guard: Guard, anybody: Guard, profiles: Profiles) -> None:
    """Add the routes of this family; `anybody` is the guard that lets requests without a token in."""

    async def get(call: Call) -> Response:
        # Without a token, nobody can make this server ask another.
        may_ask = call.user is not None
        field = call.parameters.get("keyName")
        return json_response(await profiles.get(call.parameters["userId"], field, may_ask=may_ask))

    async def put(call: Call) -> Response:
        await profiles.put(must_be_self(call), call.parameters["keyName"], call.json())
        return json_response({})

    async def delete(call: Call) -> Response:
        await profiles.delete(must_be_self(call), call.parameters["keyName"])
        return json_response({})

    add_classic(router, "GET", "/profile/{userId}", get, anybody)
    add_classic(router, "GET", "/profile/{userId}/{keyName}", get, anybody)
    add_classic(router, "PUT", "/profile/{userId}/{keyName}", put, guard)
    add_classic(router, "DELETE", "/profile/{userId}/{keyName}", delete, guard)
