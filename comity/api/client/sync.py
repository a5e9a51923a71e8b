"""GET /sync (client-server §Syncing): reads the query, finds the filter, hands both to `comity.sync`."""

from __future__ import annotations

from comity.api.client.prefixes import add_classic
from comity.api.router import Call, Guard, Router, json_response
from comity.ports import Response
from comity.protocol.errors import invalid_param
from comity.rooms.read.tokens import SyncToken
from comity.sync.asked import SyncRequest
from comity.sync.v3 import Sync
from comity.users.filters import Filters
from comity.users.presence import Presences

#: client-server, GET /sync: what `set_presence` may be.
PRESENCES = ("offline", "online", "unavailable")
#: Milliseconds: what `timeout` is cut to before it is anything else's affair.
MAX_TIMEOUT_MS = 3_600_000


def routes(router: Router, guard: Guard, sync: Sync, filters: Filters, presences: Presences) -> None:
    """Add the routes of this family."""
    add_classic(router, "GET", "/sync", SyncApi(guard, sync, filters, presences).sync, guard)


def presence_wish(call: Call) -> str | None:
    """`set_presence` of a request, None if it does not say. Raises 400 M_INVALID_PARAM."""
    wish = call.query("set_presence")
    if wish is not None and wish not in PRESENCES:
        raise invalid_param("set_presence is not offline, online or unavailable")
    return wish


class SyncApi:
    """The route of /sync."""

    def __init__(self, guard: Guard, sync: Sync, filters: Filters, presences: Presences) -> None:
        self._guard = guard
        self._sync = sync
        self._filters = filters
        self._presences = presences

    async def sync(self, call: Call) -> Response:
        """GET /sync."""
        requester = call.requester
        since = call.query("since")
        wish = presence_wish(call)
        request = SyncRequest(
            user_id=requester.user_id,
            device_id=requester.device_id,
            # COMPAT: some clients send an empty `since` for none.
            since=SyncToken.parse(since) if since else None,
            wanted=await self._filters.parsed(requester.user_id, call.query("filter") or ""),
            timeout=call.query_int("timeout", 0, most=MAX_TIMEOUT_MS) / 1000,
            full_state=call.query_bool("full_state"),
            use_state_after=call.query_bool("use_state_after"),
        )
        async with self._presences.following(requester.user_id, requester.device_id, wish):
            answer = await self._sync.sync(request)
        # Whoever was logged out while they waited is told nothing more.
        await self._guard(call)
        return json_response(answer)
