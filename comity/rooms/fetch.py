"""Events from other servers, checked: format, room, signatures, hash (checks 1 to 3).

What comes out may be judged; what fails is dropped here and told in the log. Of the store it asks one
thing, where servers choose the ids of their events: whether an id is taken in another room.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import Any

from comity.federation.calls import Calls
from comity.federation.errors import FederationError
from comity.federation.keyring import Keyring
from comity.protocol.admission import Admission, Verdict
from comity.protocol.event import Event
from comity.protocol.room_versions import EventIds, RoomVersion
from comity.store.database import Database
from comity.store.events import elsewhere

_log = logging.getLogger(__name__)
#: Single events that are asked of one server at once.
MAX_AT_ONCE = 8
#: Above this many, the whole state is asked for instead of single events.
MAX_SINGLE_EVENTS = 60


class Fetcher:
    """Gets events and checks them."""

    def __init__(self, calls: Calls, keyring: Keyring, database: Database) -> None:
        self._calls = calls
        self._keyring = keyring
        self._database = database

    async def check(
        self, version: RoomVersion, values: Sequence[object], room_id: str | None
    ) -> dict[str, Event]:
        """The valid events among foreign values, by id, all of `room_id` (None: of any room)."""
        admissions: list[tuple[Admission, Event]] = []
        for value in values:
            admission = Admission.received(version, value)
            if isinstance(admission, Verdict):
                _log.debug("an event was dropped: %s", admission.reason)
            elif room_id is not None and admission.event.room_id != room_id:
                _log.debug("an event of another room was dropped")
            else:
                admissions.append((admission, admission.event))
        valid = await self._keyring.verify_events([event for _, event in admissions])
        checked: dict[str, Event] = {}
        for (admission, event), signers in zip(admissions, valid, strict=True):
            admission.feed_signatures(signers)
            step = admission.next()
            if isinstance(step, Verdict):
                _log.info("event %s was dropped: %s", event.event_id, step.reason)
            else:
                checked[event.event_id] = admission.event
        if version.event_ids is EventIds.ASSIGNED and room_id is not None:
            for event_id in await self._database.look_up(lambda tx: elsewhere(tx, list(checked), room_id)):
                _log.info("event %s was dropped: an event of another room has its id", event_id)
                del checked[event_id]
        return checked

    async def events(
        self, server: str, version: RoomVersion, room_id: str, event_ids: Iterable[str]
    ) -> dict[str, Event]:
        """Single events by id, those that the server gives and that are valid."""
        gate = asyncio.Semaphore(MAX_AT_ONCE)

        async def one(event_id: str) -> Any:
            async with gate:
                try:
                    return await self._calls.get_event(server, event_id)
                except FederationError as error:
                    _log.debug("event %s could not be had: %s", event_id, error)
                    return None

        wanted = list(event_ids)
        values = await asyncio.gather(*(one(event_id) for event_id in wanted))
        found = await self.check(version, [value for value in values if value is not None], room_id)
        return {event_id: found[event_id] for event_id in wanted if event_id in found}

    async def missing(
        self, server: str, version: RoomVersion, room_id: str, event_ids: Sequence[str], at: str
    ) -> dict[str, Event]:
        """State and auth events that are not held, by the cheaper way; `at` is where they are state."""
        if len(event_ids) <= MAX_SINGLE_EVENTS:
            return await self.events(server, version, room_id, event_ids)
        state, auth_chain = await self._calls.state(server, room_id, at)
        return await self.check(version, [*state, *auth_chain], room_id)

    async def auth_events(
        self, server: str, version: RoomVersion, room_id: str, event_id: str
    ) -> dict[str, Event]:
        """The auth chain of an event, as that server has it."""
        return await self.check(version, await self._calls.event_auth(server, room_id, event_id), room_id)
