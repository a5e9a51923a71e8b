"""Policy servers of rooms: events of ours are shown to them first, events without their word soft-fail.

server-server §Policy Servers. The rule that an event without a valid signature is not recommended
stands in `comity.rooms.judge`; here the signature is asked for, of another server or of ourselves.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from comity.federation.calls import Calls
from comity.federation.errors import FederationError
from comity.protocol.auth.rules import StateLookup
from comity.protocol.errors import MatrixError, forbidden
from comity.protocol.event import Event
from comity.protocol.policy import KEY_ID, POLICY, PolicyServer, is_exempt, is_recommended, policy_server
from comity.rooms.merge import Merger
from comity.rooms.policy_service import PolicyService
from comity.rooms.room import Room
from comity.store import rooms as stored_rooms
from comity.store.database import Database, Tx

_log = logging.getLogger(__name__)
#: Events that a policy server is asked about at once.
MAX_AT_ONCE = 8


def in_force(tx: Tx, room: Room, find: StateLookup) -> PolicyServer | None:
    """The policy server of a room in a state (§Determining if a Policy Server is enabled in a room)."""
    event = find((POLICY, ""))
    server = policy_server(event.content) if event is not None else None
    if server is None or not stored_rooms.has_joined_members(tx, room.number, server.name):
        return None
    return server


class Policies:
    """Asks policy servers for their recommendation."""

    def __init__(
        self, database: Database, merger: Merger, calls: Calls, service: PolicyService, server_name: str
    ) -> None:
        """`service` is the policy server that we are ourselves, where we are one."""
        self._database = database
        self._merger = merger
        self._calls = calls
        self._service = service
        self._server_name = server_name

    def wanted(self, tx: Tx, room: Room, event_type: str, state_key: str | None) -> bool:
        """Whether an event of ours needs a recommendation before it is sent."""
        find = self._merger.lookup(tx, room, room.state)
        return not is_exempt(event_type, state_key) and in_force(tx, room, find) is not None

    async def signed(self, room: Room, event: Event) -> Event:
        """An event of ours with the room's policy server's signature, if it has one and needs it.

        Raises MatrixError: the server's own, if it refuses; 502 M_UNKNOWN if it cannot be asked.
        """
        server = await self._database.read(lambda tx: in_force(tx, room, self._merger.current(tx, room)))
        if server is None or is_exempt(event.type, event.state_key) or is_recommended(event, server):
            return event
        try:
            signed = _with_signature(event, server, await self._ask(server, room, event))
        except FederationError as error:
            if error.status is not None and 400 <= error.status < 500 and error.code is not None:
                text = error.body.get("error")
                text = (
                    text if isinstance(text, str) and text else "The room's policy server refuses the event"
                )
                raise MatrixError(error.status, error.code, text) from None
            raise MatrixError(
                502, "M_UNKNOWN", "The room's policy server could not be asked", detail=str(error)
            ) from None
        if signed is None:
            raise forbidden("The room's policy server does not sign with the key that the room knows")
        return signed

    async def recommended(self, room: Room, events: Sequence[Event]) -> list[Event]:
        """Events from elsewhere, with the signatures of the room's policy server that could be had."""
        server = await self._database.read(lambda tx: in_force(tx, room, self._merger.current(tx, room)))
        if server is None:
            return list(events)
        gate = asyncio.Semaphore(MAX_AT_ONCE)

        async def one(event: Event) -> Event:
            if is_exempt(event.type, event.state_key) or is_recommended(event, server):
                return event
            async with gate:
                try:
                    answer = await self._ask(server, room, event)
                except (FederationError, MatrixError) as error:
                    _log.info("no recommendation of %s by %s: %s", event.event_id, server.name, error)
                    return event
            return _with_signature(event, server, answer) or event

        return list(await asyncio.gather(*(one(event) for event in events)))

    async def _ask(self, server: PolicyServer, room: Room, event: Event) -> Mapping[str, Any]:
        if server.name == self._server_name:
            return await self._service.sign(room, event)
        return await self._calls.policy_signature(server.name, event)


def _with_signature(event: Event, server: PolicyServer, answer: Mapping[str, Any]) -> Event | None:
    """The event with the signature of an answer; None if that does not hold."""
    keys = answer.get(server.name)
    signature = keys.get(KEY_ID) if isinstance(keys, dict) else None
    if not isinstance(signature, str):
        return None
    signed = event.with_signatures({server.name: {KEY_ID: signature}})
    return signed if is_recommended(signed, server) else None
