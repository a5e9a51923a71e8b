"""Delayed events (MSC4140): schedule, list, restart, send, cancel."""

from __future__ import annotations

from typing import Any

from comity.api.client.transactions import scope_of, transaction_id_of
from comity.api.router import Call, Guard, Router, json_response
from comity.ports import Response
from comity.protocol.errors import invalid_param
from comity.rooms.delayed import ACTIONS, DelayedEvents, Schedule
from comity.users.rate_limits import DELAYED_ACTIONS, RateLimits

#: MSC4140: what /versions tells clients by; also the beginning of paths and parameters.
UNSTABLE_FEATURE = "org.matrix.msc4140"
PREFIX = f"/_matrix/client/unstable/{UNSTABLE_FEATURE}"
DELAY_PARAMETER = f"{UNSTABLE_FEATURE}.delay"
#: Delay ids that one request may name: no user has more scheduled.
MAX_IDS = 100
#: A delay id, or a place in a list, is no longer than this.
MAX_TOKEN = 255


class DelayedApi:
    """The routes of delayed events, and what `/send` and `/state` hand over."""

    def __init__(self, delayed: DelayedEvents, rate_limits: RateLimits) -> None:
        self._delayed = delayed
        self._rate_limits = rate_limits

    def routes(self, router: Router, guard: Guard) -> None:
        """Add the routes."""
        router.add("GET", PREFIX + "/delayed_events", self.listed, guard=guard)
        router.add("GET", PREFIX + "/delayed_events/{delayId}", self.one, guard=guard)
        # Whoever knows the id may act: it is handed to programs that watch over a call.
        router.add("POST", PREFIX + "/delayed_events/{delayId}", self.act_by_body, guard=None)
        router.add("POST", PREFIX + "/delayed_events/{delayId}/{action}", self.act, guard=None)

    async def schedule(
        self, call: Call, content: dict[str, Any], state_key: str | None, delay_ms: int | None = None
    ) -> Response:
        """Schedule an event instead of sending it, once it is checked. `delay_ms` None: as the query says."""
        if delay_ms is None:
            call.query_required(DELAY_PARAMETER)
            delay_ms = call.query_int(DELAY_PARAMETER, 0)
        event_type = call.parameters["eventType"]
        has_id = "txnId" in call.parameters
        wish = Schedule(
            user_id=call.requester.user_id,
            device_id=call.requester.device_id,
            room_id=call.parameters["roomId"],
            type=event_type,
            state_key=state_key,
            content=content,
            delay_ms=delay_ms,
            scope=scope_of(call, f"delayed/{event_type}"),
            transaction_id=transaction_id_of(call) if has_id else None,
        )
        return json_response({"delay_id": await self._delayed.schedule(wish)})

    async def listed(self, call: Call) -> Response:
        """GET …/delayed_events."""
        status, wanted = call.query("status"), call.query_all("delay_id")
        if status not in (None, "scheduled", "finalised"):
            raise invalid_param("status is neither scheduled nor finalised")
        if len(wanted) > MAX_IDS:
            raise invalid_param(f"There are more than {MAX_IDS} delay ids")
        answer = await self._delayed.listed(
            call.requester.user_id, status, call.query("from") or None, wanted
        )
        return json_response(answer)

    async def one(self, call: Call) -> Response:
        """GET …/delayed_events/{delay_id}."""
        return json_response(await self._delayed.one(call.requester.user_id, call.parameters["delayId"]))

    async def act_by_body(self, call: Call) -> Response:
        """POST …/delayed_events/{delay_id}, the form of earlier drafts."""
        return await self._act(call, call.json().get("action"))

    async def act(self, call: Call) -> Response:
        """POST …/delayed_events/{delay_id}/{action}."""
        return await self._act(call, call.parameters["action"])

    async def _act(self, call: Call, action: object) -> Response:
        if not isinstance(action, str) or action not in ACTIONS:
            raise invalid_param("The action is none of send, cancel, restart")
        delay_id = call.parameters["delayId"][:MAX_TOKEN]
        self._rate_limits.check(DELAYED_ACTIONS, delay_id)
        await self._delayed.act(delay_id, action)
        return json_response({})
