"""GET /_matrix/key/v2/server and GET /_matrix/federation/v1/version."""

from __future__ import annotations

from comity.api.router import JSON_HEADERS, Call, Router, json_response
from comity.federation.keyring import Keyring
from comity.ports import Response


class KeysApi:
    """What this server publishes of itself, to anybody."""

    def __init__(self, keyring: Keyring, version: str) -> None:
        self._keyring = keyring
        self._version = version

    def routes(self, router: Router) -> None:
        """Add the routes."""
        router.add("GET", "/_matrix/key/v2/server", self.keys, guard=None, serves="federation")
        router.add("GET", "/_matrix/key/v2/server/{keyId}", self.keys, guard=None, serves="federation")
        router.add("GET", "/_matrix/federation/v1/version", self.version, guard=None, serves="federation")

    async def keys(self, call: Call) -> Response:
        """server-server §Publishing Keys."""
        return Response(200, await self._keyring.key_document(), dict(JSON_HEADERS))

    async def version(self, call: Call) -> Response:
        """server-server §Server implementation."""
        return json_response({"server": {"name": "comity", "version": self._version}})
