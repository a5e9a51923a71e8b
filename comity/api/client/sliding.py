"""POST …/sync of simplified sliding sync (MSC4186): reads the request, hands it to `comity.sync`."""

from __future__ import annotations

from comity.api.client.sync import MAX_TIMEOUT_MS, checked_presence, presence_wish
from comity.api.router import Call, Guard, Router, json_response
from comity.ports import Response
from comity.protocol.errors import bad_json
from comity.sync.sliding.answer import Sliding
from comity.sync.sliding.requests import Requests, SlidingRequest
from comity.sync.sliding.wish import parse
from comity.users.presence import Presences

#: MSC4186: what /versions tells clients by.
UNSTABLE_FEATURE = "org.matrix.simplified_msc3575"
PATHS = (f"/_matrix/client/unstable/{UNSTABLE_FEATURE}/sync",)


def routes(router: Router, guard: Guard, sliding: Sliding, presences: Presences) -> None:
    """Add the routes of this family."""
    for path in PATHS:
        router.add("POST", path, SlidingApi(guard, sliding, presences).sync, guard=guard)


class SlidingApi:
    """The route of sliding sync."""

    def __init__(self, guard: Guard, sliding: Sliding, presences: Presences) -> None:
        self._guard = guard
        self._sliding = sliding
        self._presences = presences
        self._requests = Requests()

    async def sync(self, call: Call) -> Response:
        """POST /sync."""
        user_id, device_id = call.requester.user_id, call.requester.device_id
        asked = self._asked(call)
        # COMPAT: one draft has these in the query, a later one in the body.
        presence = presence_wish(call) or asked.presence
        pos = call.query("pos") or asked.pos
        timeout = asked.timeout or 0
        if call.query("timeout") is not None:
            timeout = call.query_int("timeout", 0, most=MAX_TIMEOUT_MS)
        seconds = min(timeout, MAX_TIMEOUT_MS) / 1000
        following = self._presences.following(user_id, device_id, presence)
        try:
            if not following.is_begun:
                await following.begin()
            answer = await self._sliding.sync(user_id, device_id, asked.wish, pos, seconds)
        finally:
            following.end()
        # Whoever was logged out while they waited is told nothing more.
        await self._guard(call)
        return json_response(answer)

    def _asked(self, call: Call) -> SlidingRequest:
        """What the body asks for. Raises 400 M_BAD_JSON, M_INVALID_PARAM, M_NOT_JSON, 413 M_TOO_LARGE."""
        user_id, body = call.requester.user_id, call.request.body
        asked = None if call.request.body_too_large else self._requests.get(user_id, body)
        return asked or self._requests.remember(user_id, body, _read(call))


def _read(call: Call) -> SlidingRequest:
    body = call.json()
    pos = body.get("pos") or None
    if pos is not None and not isinstance(pos, str):
        raise bad_json("pos is not a string")
    timeout = body.get("timeout")
    if timeout is not None and (type(timeout) is not int or timeout < 0):
        raise bad_json("timeout is not a whole number of milliseconds")
    presence = checked_presence(body.get("set_presence"))
    return SlidingRequest(parse(body, call.requester.user_id), pos, timeout, presence)
