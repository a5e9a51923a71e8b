"""Relations and threads (client-server §Relationships API, §Querying threads in a room)."""

from __future__ import annotations

from comity.api.router import Call, Guard, Router, json_response
from comity.ports import Response
from comity.protocol.errors import invalid_param
from comity.rooms.read.relations import RelationsReader, RelationsRequest, ThreadsRequest

#: Events on a page if the client does not say, and at most.
DEFAULT_LIMIT, MAX_LIMIT = 20, 200


def routes(router: Router, guard: Guard, relations: RelationsReader) -> None:
    """Add the routes of this family."""
    api, room = RelationsApi(relations), "/_matrix/client/v1/rooms/{roomId}"
    for rest in ("", "/{relType}", "/{relType}/{eventType}"):
        router.add("GET", room + "/relations/{eventId}" + rest, api.relations, guard=guard)
    router.add("GET", room + "/threads", api.threads, guard=guard)


class RelationsApi:
    """The handlers of these routes."""

    def __init__(self, relations: RelationsReader) -> None:
        self._relations = relations

    async def relations(self, call: Call) -> Response:
        """GET /rooms/{roomId}/relations/{eventId}[/{relType}[/{eventType}]]."""
        direction = call.query("dir", "b")
        if direction not in ("b", "f"):
            raise invalid_param("dir is neither b nor f")
        request = RelationsRequest(
            user_id=call.requester.user_id,
            device_id=call.requester.device_id,
            room_id=call.parameters["roomId"],
            event_id=call.parameters["eventId"],
            rel_type=call.parameters.get("relType"),
            event_type=call.parameters.get("eventType"),
            backwards=direction == "b",
            start=call.query("from") or None,
            end=call.query("to") or None,
            limit=call.query_int("limit", DEFAULT_LIMIT, least=1, most=MAX_LIMIT),
            recurse=call.query_bool("recurse"),
        )
        return json_response(await self._relations.relations(request))

    async def threads(self, call: Call) -> Response:
        """GET /rooms/{roomId}/threads."""
        include = call.query("include", "all")
        if include not in ("all", "participated"):
            raise invalid_param("include is neither all nor participated")
        request = ThreadsRequest(
            user_id=call.requester.user_id,
            device_id=call.requester.device_id,
            room_id=call.parameters["roomId"],
            participated=include == "participated",
            start=call.query("from") or None,
            limit=call.query_int("limit", DEFAULT_LIMIT, least=1, most=MAX_LIMIT),
        )
        return json_response(await self._relations.threads(request))
