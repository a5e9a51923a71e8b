"""GET openid/userinfo (server-server §OpenID): who a user is, for whoever has their token."""

from __future__ import annotations

from comity.api.router import Call, Router, json_response
from comity.ports import Response
from comity.users.openid import OpenId


class OpenIdApi:
    """Says whom a token stands for."""

    def __init__(self, openid: OpenId) -> None:
        self._openid = openid

    def routes(self, router: Router) -> None:
        """Add the route; no signature is asked for."""
        path = "/_matrix/federation/v1/openid/userinfo"
        router.add("GET", path, self.userinfo, guard=None, serves="federation")

    async def userinfo(self, call: Call) -> Response:
        """The user id, as `sub`."""
        return json_response({"sub": await self._openid.user_of(call.query_required("access_token"))})
