"""Third-party invites (server-server §Third-party invites)."""

from __future__ import annotations

from comity.api.router import Call, Guard, Router, json_response
from comity.ports import Response
from comity.protocol.errors import not_found
from comity.protocol.identifiers import server_of
from comity.rooms.third_party_invite import ThirdPartyInvites
from comity.users.accounts import Accounts

_V1 = "/_matrix/federation/v1"


class ThirdPartyApi:
    """Routes by which an invite to an address becomes one of a user."""

    def __init__(self, invites: ThirdPartyInvites, accounts: Accounts, server_name: str) -> None:
        self._invites = invites
        self._accounts = accounts
        self._server_name = server_name

    def routes(self, router: Router, guard: Guard) -> None:
        """Add the routes. An identity server signs no requests: its notice needs no guard."""
        template = f"{_V1}/exchange_third_party_invite/{{roomId}}"
        router.add("PUT", template, self.exchange, guard=guard, serves="federation")
        # COMPAT: the server-server API has PUT, the identity service API says POST, and that is what is sent.
        for method in ("PUT", "POST"):
            router.add(method, f"{_V1}/3pid/onbind", self.bound, guard=None, serves="federation")

    async def exchange(self, call: Call) -> Response:
        """PUT /exchange_third_party_invite/{roomId}."""
        await self._invites.exchange(call.origin, call.parameters["roomId"], call.json())
        return json_response({})

    async def bound(self, call: Call) -> Response:
        """PUT or POST /3pid/onbind."""
        user_id = call.field("mxid", str)
        call.field("medium", str)
        call.field("address", str)
        if server_of(user_id) != self._server_name or not await self._accounts.exists(user_id):
            raise not_found("There is no such user here")
        await self._invites.bound(user_id, call.field("invites", list))
        return json_response({})
