"""GET /sync (client-server §Syncing): reads the query, finds the filter, hands both to `comity.sync`."""

from __future__ import annotations

from dataclasses import dataclass

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
#: Queries that are remembered as they were understood, and the longest of them in characters.
MAX_REMEMBERED, MAX_REMEMBERED_QUERY = 1_000, 2_000


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
        #: By the query: all who are woken by one event ask for the next in the same words.
        self._wishes: dict[str, _Wish] = {}

    async def sync(self, call: Call) -> Response:
        """GET /sync."""
        user_id, device_id = call.requester.user_id, call.requester.device_id
        query = call.request.query
        wish = self._wishes.get(query)
        if wish is None:
            wish = _wish(call)
            if len(query) <= MAX_REMEMBERED_QUERY and "access_token" not in query:
                if len(self._wishes) >= MAX_REMEMBERED:
                    self._wishes.clear()
                self._wishes[query] = wish
        wanted = self._filters.remembered(user_id, wish.filter)
        if wanted is None:
            wanted = await self._filters.parsed(user_id, wish.filter)
        request = SyncRequest(
            user_id, device_id, wish.since, wanted, wish.timeout, wish.full_state, wish.use_state_after
        )
        following = self._presences.following(user_id, device_id, wish.presence)
        try:
            if not following.is_begun:
                await following.begin()
            answer = await self._sync.sync(request)
        finally:
            following.end()
        # Whoever was logged out while they waited is told nothing more.
        await self._guard(call)
        return json_response(answer)


@dataclass(frozen=True, slots=True)
class _Wish:
    """A query of /sync."""

    since: SyncToken | None
    filter: str
    timeout: float
    full_state: bool
    use_state_after: bool
    presence: str | None


def _wish(call: Call) -> _Wish:
    """What the query asks for. Raises 400 M_INVALID_PARAM."""
    since = call.query("since")
    return _Wish(
        # COMPAT: some clients send an empty `since` for none.
        SyncToken.parse(since) if since else None,
        call.query("filter") or "",
        call.query_int("timeout", 0, most=MAX_TIMEOUT_MS) / 1000,
        call.query_bool("full_state"),
        call.query_bool("use_state_after"),
        presence_wish(call),
    )
