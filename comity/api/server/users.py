"""What other servers ask about our users' devices and keys.

server-server §Device Management, §End-to-End Encryption.
"""

from __future__ import annotations

from comity.api.router import Call, Guard, Router, json_response
from comity.ports import Response
from comity.protocol.errors import not_found
from comity.users.key_shapes import wanted_algorithms, wanted_devices
from comity.users.keys import Keys

_USER = "/_matrix/federation/v1/user"


class UsersApi:
    """Answers about devices and keys; users of other servers are passed over."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    def routes(self, router: Router, guard: Guard) -> None:
        """Add the routes."""
        router.add("GET", f"{_USER}/devices/{{userId}}", self.devices, guard=guard, serves="federation")
        router.add("POST", f"{_USER}/keys/query", self.query, guard=guard, serves="federation")
        router.add("POST", f"{_USER}/keys/claim", self.claim, guard=guard, serves="federation")

    async def devices(self, call: Call) -> Response:
        """Every device of a user that has keys."""
        answer = await self._keys.list_for_server(call.parameters["userId"])
        if answer is None:
            raise not_found("There is no such user on this server")
        return json_response(answer)

    async def query(self, call: Call) -> Response:
        """Identity keys of devices."""
        return json_response(await self._keys.answer_query(wanted_devices(call.json()), None))

    async def claim(self, call: Call) -> Response:
        """One-time keys, each given out once."""
        claimed = await self._keys.answer_claim(wanted_algorithms(call.json()))
        return json_response({"one_time_keys": claimed})
