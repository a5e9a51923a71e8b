"""Login (client-server §Login)."""

from __future__ import annotations

from comity.api.address import client_address
from comity.api.client.prefixes import add_classic
from comity.api.router import Call, Router, json_response
from comity.config import Config
from comity.ports import Response
from comity.users.login import Login


def routes(router: Router, config: Config, login: Login) -> None:
    """Add the routes of this family."""

    async def flows(call: Call) -> Response:
        return json_response({"flows": login.flows()})

    async def log_in(call: Call) -> Response:
        opened = await login.log_in(call.json(), client_address(call.request))
        answer: dict[str, object] = {
            "user_id": opened.user_id,
            "access_token": opened.access_token,
            "device_id": opened.device_id,
            # Deprecated; COMPAT: clients of r0 look for it.
            "home_server": config.server_name,
        }
        if config.public.client_base_url is not None:
            answer["well_known"] = {"m.homeserver": {"base_url": config.public.client_base_url}}
        return json_response(answer)

    add_classic(router, "GET", "/login", flows, None)
    add_classic(router, "POST", "/login", log_in, None)
