"""One's own account: who am I, log out, password, deactivation (client-server §Client Authentication)."""

from __future__ import annotations

from comity.api.address import client_address
from comity.api.auth import token_of
from comity.api.client.prefixes import add_classic
from comity.api.router import Call, Guard, Router, json_response
from comity.ports import Response
from comity.users.management import Management
from comity.users.sessions import Sessions


def routes(router: Router, guard: Guard, sessions: Sessions, management: Management) -> None:
    """Add the routes of this family."""

    async def whoami(call: Call) -> Response:
        who = call.requester
        return json_response({"user_id": who.user_id, "device_id": who.device_id, "is_guest": who.guest})

    async def logout(call: Call) -> Response:
        await sessions.close(call.requester.user_id, [call.requester.device_id])
        return json_response({})

    async def logout_all(call: Call) -> Response:
        await sessions.close_all(call.requester.user_id)
        return json_response({})

    async def password(call: Call) -> Response:
        user_id, device_id = (call.user.user_id, call.user.device_id) if call.user else (None, None)
        await management.change_password(user_id, device_id, call.json(), client_address(call.request))
        return json_response({})

    async def deactivate(call: Call) -> Response:
        result = await management.deactivate(call.requester.user_id, call.json_or_empty())
        return json_response({"id_server_unbind_result": result})

    async def guard_if_known(call: Call) -> None:
        """Whoever has forgotten the password has no token; who gives one is held to it."""
        if token_of(call) is not None:
            await guard(call)

    add_classic(router, "GET", "/account/whoami", whoami, guard)
    add_classic(router, "POST", "/logout", logout, guard)
    add_classic(router, "POST", "/logout/all", logout_all, guard)
    add_classic(router, "POST", "/account/password", password, guard_if_known)
    add_classic(router, "POST", "/account/deactivate", deactivate, guard)
