"""GET /query/profile, /query/directory and what there is not (server-server §Querying for information)."""

from __future__ import annotations

from comity.api.router import Call, Guard, Router, json_response
from comity.ports import Response
from comity.protocol.errors import MatrixError, invalid_param, not_found
from comity.protocol.identifiers import server_of
from comity.rooms.directory import Directory
from comity.users.profile import Profiles

_QUERY = "/_matrix/federation/v1/query"


class QueryApi:
    """Answers other servers' queries."""

    def __init__(self, profiles: Profiles, directory: Directory, server_name: str) -> None:
        self._profiles = profiles
        self._directory = directory
        self._server_name = server_name

    def routes(self, router: Router, guard: Guard) -> None:
        """Add the routes."""
        router.add("GET", f"{_QUERY}/profile", self.profile, guard=guard, serves="federation")
        router.add("GET", f"{_QUERY}/directory", self.directory, guard=guard, serves="federation")
        router.add("GET", f"{_QUERY}/{{queryType}}", self.unknown, guard=guard, serves="federation")

    async def profile(self, call: Call) -> Response:
        """A local user's profile, or one field of it."""
        user_id = call.query_required("user_id")
        if server_of(user_id) != self._server_name:
            raise invalid_param("The user is not of this server")
        return json_response(await self._profiles.answer(user_id, call.query("field")))

    async def directory(self, call: Call) -> Response:
        """Where a local alias leads."""
        alias = call.query_required("room_alias")
        if server_of(alias) != self._server_name:
            raise not_found("The alias is not one of this server")
        room_id, servers = await self._directory.local(alias)
        return json_response({"room_id": room_id, "servers": servers})

    async def unknown(self, call: Call) -> Response:
        """A query of a type that this server does not know (server-server §Unsupported endpoints)."""
        raise MatrixError(404, "M_UNRECOGNIZED", "Queries of this type are not answered here")
