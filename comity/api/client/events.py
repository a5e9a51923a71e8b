"""Send events, set state, redact (client-server §Sending events to a room, §Redactions)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson

from comity.api.client.delayed import DELAY_PARAMETER, DelayedApi
from comity.api.client.delayed import PREFIX as DELAYED_PREFIX
from comity.api.client.prefixes import add_classic
from comity.api.client.transactions import transaction_of
from comity.api.router import Call, Guard, Router, json_response
from comity.ports import Response
from comity.protocol.build import Draft, message_draft
from comity.protocol.errors import MatrixError, bad_json, forbidden, invalid_param, user_suspended
from comity.protocol.identifiers import is_event_id, split_alias
from comity.rooms.directory import Directory
from comity.rooms.membership import Memberships
from comity.rooms.read import Reader
from comity.rooms.write import Writer
from comity.users.presence import Presences
from comity.users.rate_limits import JOINS, MESSAGES, RateLimits

#: Aliases that one event may add to those of a room: for each, another server may have to be asked.
MAX_NEW_ALIASES = 50


class EventsApi:
    """Routes by which users write into rooms."""

    def __init__(
        self,
        writer: Writer,
        memberships: Memberships,
        directory: Directory,
        delayed: DelayedApi,
        reader: Reader,
        rate_limits: RateLimits,
        presences: Presences,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._memberships = memberships
        self._directory = directory
        self._delayed = delayed
        self._rate_limits = rate_limits
        self._presences = presences

    def routes(self, router: Router, guard: Guard) -> None:
        """Add the routes."""
        room = "/rooms/{roomId}"
        add_classic(router, "PUT", room + "/send/{eventType}/{txnId}", self.send, guard=guard)
        add_classic(router, "PUT", room + "/redact/{eventId}/{txnId}", self.redact, guard=guard)
        add_classic(router, "PUT", room + "/state/{eventType}/{stateKey}", self.state, guard=guard)
        add_classic(router, "PUT", room + "/state/{eventType}", self.state, guard=guard)
        delayed = DELAYED_PREFIX + room + "/delayed_event/{eventType}/{txnId}"
        router.add("PUT", delayed, self.delayed, guard=guard)

    async def send(self, call: Call) -> Response:
        """PUT /rooms/{roomId}/send/{eventType}/{txnId}."""
        self._rate_limits.check(MESSAGES, call.requester.user_id)
        event_type = call.parameters["eventType"]
        content = call.json()
        if event_type == "m.room.redaction":
            await self._check_may_redact(call, content.get("redacts"))
        if call.query(DELAY_PARAMETER) is not None:
            return await self._delayed.schedule(call, content, None)
        draft = message_draft(event_type, call.requester.user_id, content)
        if call.requester.admin:
            draft = replace(draft, by_administrator=True)
        transaction = transaction_of(call, f"send/{event_type}")
        event_id = await self._writer.send(call.parameters["roomId"], draft, transaction=transaction)
        await self._presences.active(call.requester.user_id, call.requester.device_id)
        return json_response({"event_id": event_id})

    async def redact(self, call: Call) -> Response:
        """PUT /rooms/{roomId}/redact/{eventId}/{txnId}."""
        self._rate_limits.check(MESSAGES, call.requester.user_id)
        target = call.parameters["eventId"]
        if not is_event_id(target):
            raise invalid_param("That is not an event id")
        await self._check_may_redact(call, target)
        content = {name: value for name, value in call.json_or_empty().items() if name == "reason"}
        if not isinstance(content.get("reason", ""), str):
            raise bad_json("reason is not a string")
        who = call.requester
        draft = Draft("m.room.redaction", who.user_id, content, redacts=target, by_administrator=who.admin)
        transaction = transaction_of(call, f"redact/{target}")
        event_id = await self._writer.send(call.parameters["roomId"], draft, transaction=transaction)
        await self._presences.active(who.user_id, who.device_id)
        return json_response({"event_id": event_id})

    async def _check_may_redact(self, call: Call, target: object) -> None:
        """Those who are suspended redact their own events (client-server §Account suspension)."""
        who = call.requester
        if not who.suspended:
            return
        event = await self._reader.event(who.user_id, who.device_id, call.parameters["roomId"], str(target))
        if orjson.loads(orjson.dumps(event))["sender"] != who.user_id:
            raise user_suspended()

    async def state(self, call: Call) -> Response:
        """PUT /rooms/{roomId}/state/{eventType}[/{stateKey}]."""
        self._rate_limits.check(MESSAGES, call.requester.user_id)
        event_type = call.parameters["eventType"]
        content = call.json()
        await self._check_state(call, content)
        state_key = call.parameters.get("stateKey", "")
        if call.query(DELAY_PARAMETER) is not None:
            return await self._delayed.schedule(call, content, state_key)
        draft = Draft(event_type, call.requester.user_id, content, state_key=state_key)
        send = self._memberships.put if event_type == "m.room.member" else self._writer.send
        event_id = await send(call.parameters["roomId"], draft)
        await self._presences.active(call.requester.user_id, call.requester.device_id)
        return json_response({"event_id": event_id})

    async def delayed(self, call: Call) -> Response:
        """PUT …/org.matrix.msc4140/rooms/{roomId}/delayed_event/{eventType}/{txnId} (MSC4140)."""
        self._rate_limits.check(MESSAGES, call.requester.user_id)
        body = call.json()
        content, state_key, delay = body.get("content"), body.get("state_key"), body.get("delay")
        if not isinstance(content, dict):
            raise bad_json("content is not an object")
        if state_key is not None and not isinstance(state_key, str):
            raise bad_json("state_key is not a string")
        if type(delay) is not int:
            raise bad_json("delay is not a whole number of milliseconds")
        if state_key is not None:
            await self._check_state(call, content)
        return await self._delayed.schedule(call, content, state_key, delay)

    async def _check_state(self, call: Call, content: dict[str, Any]) -> None:
        """What is asked of state that a user sets, beside the rules of the room. Raises MatrixError."""
        event_type = call.parameters["eventType"]
        if event_type == "m.room.create":
            raise forbidden("A room is created once")
        if event_type == "m.room.canonical_alias":
            await self._check_aliases(call, content)
        if event_type == "m.room.member" and content.get("membership") == "invite":
            # Like one by POST invite, it may cost another server work.
            self._rate_limits.check(JOINS, call.requester.user_id)

    async def _check_aliases(self, call: Call, content: dict[str, Any]) -> None:
        """client-server §PUT /rooms/{roomId}/state: every alias that is new must lead to the room."""
        room_id, standing = call.parameters["roomId"], await self._standing_aliases(call)
        alternatives = content.get("alt_aliases", [])
        if not isinstance(alternatives, list):
            raise bad_json("alt_aliases is not a list")
        alias = content.get("alias")
        named = [*([] if alias in (None, "") else [alias]), *alternatives]
        if not all(isinstance(name, str) for name in named):
            raise invalid_param("A canonical alias is not a room alias")
        new = [name for name in dict.fromkeys(named) if name not in standing]
        if not all(split_alias(name) is not None for name in new):
            raise invalid_param("A canonical alias is not a room alias")
        if len(new) > MAX_NEW_ALIASES:
            raise invalid_param(f"At most {MAX_NEW_ALIASES} aliases can be added at once")
        for name in new:
            try:
                found, _ = await self._directory.resolve(name)
            except MatrixError as error:
                if error.code != "M_NOT_FOUND":
                    raise
                found = ""
            if found != room_id:
                raise MatrixError(400, "M_BAD_ALIAS", f"The alias {name} does not lead to this room")

    async def _standing_aliases(self, call: Call) -> set[str]:
        """The aliases that the room's canonical alias names now, as far as the user may know it."""
        who, key = call.requester, (call.parameters["eventType"], call.parameters.get("stateKey", ""))
        try:
            content = await self._reader.state_event(
                who.user_id, who.device_id, call.parameters["roomId"], key
            )
        except MatrixError:
            return set()
        assert isinstance(content, dict)
        others = content.get("alt_aliases")
        names = [content.get("alias"), *(others if isinstance(others, list) else ())]
        return {name for name in names if isinstance(name, str)}
