"""Registration by shared secret, as operators' tools use it (not part of the specification)."""

from __future__ import annotations

from comity.api.address import client_address
from comity.api.router import Call, Router, json_response
from comity.config import Config
from comity.ports import Response
from comity.users.shared_secret import SharedSecret

PATH = "/_synapse/admin/v1/register"


def routes(router: Router, config: Config, shared_secret: SharedSecret) -> None:
    """Add the routes of this family."""

    async def nonce(call: Call) -> Response:
        return json_response({"nonce": shared_secret.nonce(client_address(call.request))})

    async def register(call: Call) -> Response:
        opened = await shared_secret.register(call.json())
        return json_response(
            {
                "user_id": opened.user_id,
                "access_token": opened.access_token,
                "device_id": opened.device_id,
                "home_server": config.server_name,
            }
        )

    router.add("GET", PATH, nonce, guard=None)
    router.add("POST", PATH, register, guard=None)
