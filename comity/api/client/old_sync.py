"""What clients from before /sync ask, and room previews.

client-server §Room Previews (GET /events with `room_id`, GET /rooms/{roomId}/initialSync); the rest
is deprecated and still asked for: GET /events, /events/{eventId}, /initialSync.
"""

from __future__ import annotations

from comity.api.client.prefixes import add_classic
from comity.api.router import Call, Guard, Router, json_response
from comity.ports import Response
from comity.sync.old import OldSync
from comity.sync.old_stream import EventStream, Following

#: Events of a room, if the client does not say how many, and at most.
DEFAULT_LIMIT = 10
MAX_LIMIT = 100
#: Milliseconds that are waited for an event if the client does not say.
DEFAULT_TIMEOUT_MS = 30_000
#: What `timeout` is cut to before it is anything else's affair.
MAX_TIMEOUT_MS = 3_600_000


def routes(router: Router, guard: Guard, old: OldSync, stream: EventStream) -> None:
    """Add the routes of this family."""

    async def events(call: Call) -> Response:
        requester, room_id = call.requester, call.query("room_id")
        following = Following(
            requester.user_id,
            requester.device_id,
            # COMPAT: an empty token stands for none.
            call.query("from") or None,
            call.query_int("timeout", DEFAULT_TIMEOUT_MS, most=MAX_TIMEOUT_MS) / 1000,
        )
        if room_id is None:
            return json_response(await stream.follow(following))
        return json_response(await stream.peek(following, room_id))

    async def event(call: Call) -> Response:
        requester = call.requester
        return json_response(
            await old.event(requester.user_id, requester.device_id, call.parameters["eventId"])
        )

    async def everything(call: Call) -> Response:
        requester, limit = call.requester, call.query_int("limit", DEFAULT_LIMIT, most=MAX_LIMIT)
        archived = call.query_bool("archived")
        return json_response(
            await old.everything(requester.user_id, requester.device_id, limit, archived=archived)
        )

    async def room(call: Call) -> Response:
        # COMPAT: `limit` is not described, and sent by clients that know it of the others.
        requester, limit = call.requester, call.query_int("limit", DEFAULT_LIMIT, most=MAX_LIMIT)
        return json_response(
            await old.room(requester.user_id, requester.device_id, call.parameters["roomId"], limit)
        )

    add_classic(router, "GET", "/events", events, guard)
    add_classic(router, "GET", "/events/{eventId}", event, guard)
    add_classic(router, "GET", "/initialSync", everything, guard)
    add_classic(router, "GET", "/rooms/{roomId}/initialSync", room, guard)
