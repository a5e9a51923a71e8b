"""Registration (client-server §Account registration)."""

from __future__ import annotations

from comity.api.address import client_address
from comity.api.client.prefixes import add_classic
from comity.api.router import Call, Router, json_response
from comity.config import Config
from comity.ports import Response
from comity.users.registration import Registration


def routes(router: Router, config: Config, registration: Registration) -> None:
    """Add the routes of this family."""

    async def register(call: Call) -> Response:
        kind = call.query("kind", "user") or ""
        registered = await registration.register(call.json_or_empty(), kind, client_address(call.request))
        answer: dict[str, object] = {"user_id": registered.user_id, "home_server": config.server_name}
        if registered.session is not None:
            answer.update(registered.session.tokens())
            answer["device_id"] = registered.session.device_id
        return json_response(answer)

    async def available(call: Call) -> Response:
        await registration.check_available(call.query_required("username"), client_address(call.request))
        return json_response({"available": True})

    async def validity(call: Call) -> Response:
        valid = await registration.is_valid_token(call.query_required("token"), client_address(call.request))
        return json_response({"valid": valid})

    add_classic(router, "POST", "/register", register, None)
    add_classic(router, "GET", "/register/available", available, None)
    path = "/_matrix/client/v1/register/m.login.registration_token/validity"
    router.add("GET", path, validity, guard=None)
