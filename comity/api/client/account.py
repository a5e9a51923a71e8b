"""One's own account: who am I, log out, password, deactivation (client-server §Client Authentication)."""

from __future__ import annotations

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
        await management.change_password(call.requester.user_id, call.requester.device_id, call.json())
        return json_response({})

    async def deactivate(call: Call) -> Response:
        await management.deactivate(call.requester.user_id, call.json_or_empty())
        # No third-party identifiers are kept here, so there is none to unbind.
        return json_response({"id_server_unbind_result": "success"})

    async def third_party_ids(call: Call) -> Response:
        return json_response({"threepids": []})

    add_classic(router, "GET", "/account/whoami", whoami, guard)
    add_classic(router, "POST", "/logout", logout, guard)
    add_classic(router, "POST", "/logout/all", logout_all, guard)
    add_classic(router, "POST", "/account/password", password, guard)
    add_classic(router, "POST", "/account/deactivate", deactivate, guard)
    add_classic(router, "GET", "/account/3pid", third_party_ids, guard)
