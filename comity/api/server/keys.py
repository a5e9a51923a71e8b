"""Keys: our own, and as a notary those of others (server-server §Retrieving server keys); our version."""

from __future__ import annotations

from comity.api.router import JSON_HEADERS, Call, Router, json_response
from comity.federation.keyring import Keyring
from comity.federation.notary import Notary, Wanted
from comity.ports import Clock, Response
from comity.protocol.errors import bad_json

#: Keys of one server that a query may name; a document holds no more.
MAX_KEYS_PER_SERVER = 64


class KeysApi:
    """What this server publishes of itself, and knows of others, to anybody."""

    def __init__(self, keyring: Keyring, notary: Notary, clock: Clock, version: str) -> None:
        self._keyring = keyring
        self._notary = notary
        self._clock = clock
        self._version = version

    def routes(self, router: Router) -> None:
        """Add the routes."""
        for method, path, handler in (
            ("GET", "/_matrix/key/v2/server", self.keys),
            ("GET", "/_matrix/key/v2/server/{keyId}", self.keys),
            ("GET", "/_matrix/key/v2/query/{serverName}", self.query_one),
            ("GET", "/_matrix/key/v2/query/{serverName}/{keyId}", self.query_one),
            ("POST", "/_matrix/key/v2/query", self.query),
            ("GET", "/_matrix/key/v1", self.keys_of_2014),
            ("GET", "/_matrix/federation/v1/version", self.version),
        ):
            router.add(method, path, handler, guard=None, serves="federation")

    async def keys(self, call: Call) -> Response:
        """server-server §Publishing Keys."""
        return Response(200, await self._keyring.key_document(), dict(JSON_HEADERS))

    async def keys_of_2014(self, call: Call) -> Response:
        """§Retrieving Server Keys as it was in 2014. 404 where our TLS certificate is not known here."""
        return Response(200, self._keyring.key_document_v1(), dict(JSON_HEADERS))

    async def query_one(self, call: Call) -> Response:
        """server-server §Querying Keys Through Another Server: of one server."""
        until = call.query_int("minimum_valid_until_ts", self._clock.now_ms())
        key_id = call.parameters.get("keyId")
        key_ids = frozenset() if key_id is None else frozenset([key_id])
        return await self._told({call.parameters["serverName"]: Wanted(until, key_ids)})

    async def query(self, call: Call) -> Response:
        """server-server §Querying Keys Through Another Server: of several."""
        asked = call.json().get("server_keys")
        if not isinstance(asked, dict):
            raise bad_json("server_keys must be an object of server names")
        now = self._clock.now_ms()
        return await self._told({server: _wanted(criteria, now) for server, criteria in asked.items()})

    async def _told(self, wanted: dict[str, Wanted]) -> Response:
        documents = await self._notary.documents(wanted)
        return Response(200, b'{"server_keys":[' + b",".join(documents) + b"]}", dict(JSON_HEADERS))

    async def version(self, call: Call) -> Response:
        """server-server §Server implementation."""
        return json_response({"server": {"name": "comity", "version": self._version}})


def _wanted(criteria: object, now: int) -> Wanted:
    """The criteria of one server, key id -> minimum_valid_until_ts. Raises MatrixError 400 M_BAD_JSON."""
    if not isinstance(criteria, dict) or len(criteria) > MAX_KEYS_PER_SERVER:
        raise bad_json(f"Each server must have an object of at most {MAX_KEYS_PER_SERVER} key ids")
    until = now if not criteria else 0
    for criterion in criteria.values():
        if not isinstance(criterion, dict):
            raise bad_json("The criteria of a key must be an object")
        at = criterion.get("minimum_valid_until_ts", now)
        if type(at) is not int:
            raise bad_json("minimum_valid_until_ts must be an integer")
        until = max(until, at)
    return Wanted(until, frozenset(criteria))
