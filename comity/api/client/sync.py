"""GET /sync (client-server §Syncing): reads the query, finds the filter, hands both to `comity.sync`.

Who is told, or waits, by what is in memory alone is served without a task (`ports.AtOnce`).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from dataclasses import dataclass, replace
from functools import partial

from comity.api.auth import UserGuard
from comity.api.client.prefixes import CLASSIC_VERSIONS, add_classic
from comity.api.router import Call, Router, json_at_once, json_response
from comity.bus import Parked, Subscription
from comity.ports import Response, Waiter, Waiting
from comity.protocol.errors import invalid_param
from comity.protocol.filters import Filter
from comity.rooms.read.tokens import SyncToken
from comity.sync.asked import SyncRequest
from comity.sync.v3 import MAX_TIMEOUT, Sync
from comity.users.filters import Filters
from comity.users.presence import Following, NotFollowed, Presences
from comity.users.sessions import Session

_log = logging.getLogger(__name__)
#: client-server, GET /sync: what `set_presence` may be.
PRESENCES = ("offline", "online", "unavailable")
#: Milliseconds: what `timeout` is cut to before it is anything else's affair.
MAX_TIMEOUT_MS = 3_600_000
#: Queries that are remembered as they were understood, and the longest of them in characters.
MAX_REMEMBERED, MAX_REMEMBERED_QUERY = 1_000, 2_000


def routes(router: Router, guard: UserGuard, sync: Sync, filters: Filters, presences: Presences) -> None:
    """Add the routes of this family."""
    api = SyncApi(router, guard, sync, filters, presences)
    add_classic(router, "GET", "/sync", api.answer, guard)
    for version in CLASSIC_VERSIONS:
        router.add_at_once(f"/_matrix/client/{version}/sync", api.answer_at_once)


def presence_wish(call: Call) -> str | None:
    """`set_presence` of a request, None if it does not say. Raises 400 M_INVALID_PARAM."""
    return checked_presence(call.query("set_presence"))


def checked_presence(wish: object) -> str | None:
    """The same, of its value. Raises 400 M_INVALID_PARAM."""
    if wish is not None and (not isinstance(wish, str) or wish not in PRESENCES):
        raise invalid_param("set_presence is not offline, online or unavailable")
    return wish


class SyncApi:
    """The route of /sync."""

    def __init__(
        self, router: Router, guard: UserGuard, sync: Sync, filters: Filters, presences: Presences
    ) -> None:
        self.router = router
        self.guard = guard
        self.sync = sync
        self._filters = filters
        self._presences = presences
        #: By the query: all who are woken by one event ask for the next in the same words.
        self._wishes: dict[str, _Wish] = {}

    async def answer(self, call: Call) -> Response:
        """GET /sync."""
        wish = self._wish(call)
        wanted = self._filters.remembered(call.requester.user_id, wish.filter)
        if wanted is None:
            wanted = await self._filters.parsed(call.requester.user_id, wish.filter)
        return await self.answer_to(call, wish, wish.request(call.requester, wanted))

    async def answer_to(self, call: Call, wish: _Wish, request: SyncRequest) -> Response:
        """The answer, as soon as there is one."""
        following = self._presences.following(request.user_id, request.device_id, wish.presence)
        try:
            if not following.is_begun:
                await following.begin()
            answer = await self.sync.sync(request)
        finally:
            following.end()
        # Whoever was logged out while they waited is told nothing more.
        await self.guard(call)
        return json_response(answer)

    def answer_at_once(self, call: Call, waiter: Waiter) -> Response | Waiting | None:
        """GET /sync, where memory tells what there is to tell, or that there is nothing yet."""
        session = self.guard.admitted(call)
        if session is None:
            return None
        wish = self._wish(call)
        wanted = self._filters.remembered(session.user_id, wish.filter)
        if wanted is None:
            return None
        request = wish.request(session, wanted)
        glance = self.sync.glance(request, is_over=wish.timeout <= 0)
        if glance is None:
            return None
        following = self._presences.following(request.user_id, request.device_id, wish.presence)
        is_begun = following.is_begun
        if is_begun and isinstance(glance, Subscription):
            return _Poll(self, call, wish, request, following, waiter, glance)
        following.end()
        # Where somebody is to be told that the user is there, the other way does it.
        return json_at_once(glance) if is_begun and isinstance(glance, bytes) else None

    def _wish(self, call: Call) -> _Wish:
        """What the query asks for. Raises 400 M_INVALID_PARAM."""
        query = call.request.query
        wish = self._wishes.get(query)
        if wish is None:
            wish = _read(call)
            if len(query) <= MAX_REMEMBERED_QUERY and "access_token" not in query:
                if len(self._wishes) >= MAX_REMEMBERED:
                    self._wishes.clear()
                self._wishes[query] = wish
        return wish


class _Poll(Parked):
    """A /sync that waits for news without a task."""

    __slots__ = ("_api", "_call", "_deadline", "_following", "_request", "_waiter", "_wish")

    def __init__(
        self,
        api: SyncApi,
        call: Call,
        wish: _Wish,
        request: SyncRequest,
        following: Following | NotFollowed,
        waiter: Waiter,
        by: Subscription,
    ) -> None:
        self._api = api
        self._call = call
        self._wish = wish
        self._request = request
        self._following = following
        #: None once nobody waits any more.
        self._waiter: Waiter | None = waiter
        self._deadline = api.sync.clock.monotonic() + request.timeout
        api.sync.bus.park(self, by, request.timeout)

    def cancel(self) -> None:
        """The client is gone."""
        self._api.sync.bus.leave(self)
        if self._waiter is not None:
            self._end()

    def told(self, *, news: bool) -> None:
        """Answer if there is something to tell, or the time is over."""
        api, waiter = self._api, self._waiter
        if waiter is None:
            return
        left = self._deadline - api.sync.clock.monotonic() if news else 0.0
        try:
            glance = api.sync.glance(self._request, is_over=left <= 0)
        except Exception:  # noqa: BLE001 - an error here must cost nobody an answer: a task gives it
            _log.exception("unexpected error in a /sync that waited without a task")
            glance = None
        if isinstance(glance, Subscription):
            api.sync.bus.park(self, glance, left)
            return
        self._end()
        # Whoever was logged out while they waited is told nothing more.
        if glance is not None and api.guard.admitted(self._call) is not None:
            waiter.settle(json_at_once(glance))
        else:
            request = replace(self._request, timeout=max(left, 0.0))
            waiter.pursue(partial(self._pursue, request))

    def _pursue(self, request: SyncRequest) -> Awaitable[Response]:
        api, call = self._api, self._call
        return api.router.finish(call.request, api.answer_to(call, self._wish, request))

    def _end(self) -> None:
        self._waiter = None
        self._following.end()


@dataclass(frozen=True, slots=True)
class _Wish:
    """A query of /sync."""

    since: SyncToken | None
    filter: str
    timeout: float
    full_state: bool
    use_state_after: bool
    presence: str | None

    def request(self, session: Session, wanted: Filter) -> SyncRequest:
        """The same, by somebody who is logged in."""
        return SyncRequest(
            session.user_id, session.device_id, self.since, wanted, self.timeout, self.full_state,
            self.use_state_after,
        )  # fmt: skip


def _read(call: Call) -> _Wish:
    """What the query asks for. Raises 400 M_INVALID_PARAM."""
    since = call.query("since")
    return _Wish(
        # COMPAT: some clients send an empty `since` for none.
        SyncToken.parse(since) if since else None,
        call.query("filter") or "",
        min(call.query_int("timeout", 0, most=MAX_TIMEOUT_MS) / 1000, MAX_TIMEOUT),
        call.query_bool("full_state"),
        call.query_bool("use_state_after"),
        presence_wish(call),
    )
