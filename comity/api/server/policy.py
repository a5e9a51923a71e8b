"""The policy server that this server can be (server-server §Policy Servers)."""

from __future__ import annotations

from comity.api.router import Call, Guard, Router, json_response
from comity.ports import Response
from comity.rooms.policy_service import PolicyService


class PolicyApi:
    """Routes of a policy server; there are none where this server is not one."""

    def __init__(self, service: PolicyService) -> None:
        self._service = service

    def routes(self, router: Router, guard: Guard) -> None:
        """Add the routes."""
        if self._service.public_key is None:
            return
        router.add("POST", "/_matrix/policy/v1/sign", self.sign, guard=guard, serves="federation")
        # For clients, which put it into a room's m.room.policy (client-server §Policy Servers).
        router.add("GET", "/.well-known/matrix/policy_server", self.well_known, guard=None)

    async def sign(self, call: Call) -> Response:
        """POST /_matrix/policy/v1/sign."""
        return json_response(await self._service.sign_for(call.origin, call.json()))

    async def well_known(self, call: Call) -> Response:
        """GET /.well-known/matrix/policy_server."""
        return json_response({"public_keys": {"ed25519": self._service.public_key}})
