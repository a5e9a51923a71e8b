"""OpenID (client-server §OpenID)."""

from __future__ import annotations

from comity.api.auth import must_be_self
from comity.api.client.prefixes import add_classic
from comity.api.router import Call, Guard, Router, json_response
from comity.ports import Response
from comity.users.openid import OpenId


def routes(router: Router, guard: Guard, openid: OpenId) -> None:
    """Add the routes of this family."""

    async def request_token(call: Call) -> Response:
        return json_response(await openid.request_token(must_be_self(call)))

    add_classic(router, "POST", "/user/{userId}/openid/request_token", request_token, guard)
