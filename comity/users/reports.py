"""Reports of what users find inappropriate (client-server §Reporting Content), kept for the operator.

Owns who may report what, and how much of it is kept. What becomes of a report is for people; nothing
here tells a reporter whether a room or user exists that they could not see anyway.
"""

from __future__ import annotations

import logging

from comity.ports import Clock
from comity.protocol.errors import invalid_param, not_found
from comity.protocol.identifiers import is_event_id, is_room_id, is_user_id
from comity.store import personal
from comity.store import reports as stored
from comity.store.database import Database, WriteTx
from comity.store.reports import Report
from comity.users.text import checked_text

_log = logging.getLogger(__name__)
#: Bytes of one reason: a long letter. Whoever has more to tell can be asked.
MAX_REASON_BYTES = 10_000
#: Reports that are kept of one reporter, closed ones included: beyond it the closed ones and the oldest
#: are forgotten, so that nobody fills the disk and a flood drowns nobody's reports but its maker's.
MAX_KEPT_PER_REPORTER = 200


class Reports:
    """Takes reports, and shows them to the operator."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    # -- for users

    async def report_event(self, reporter: str, room_id: str, event_id: str, reason: object) -> None:
        """Report an event of a room that the reporter is joined to. Raises 404 M_NOT_FOUND, 400."""
        text = _reason(reason)
        at = self._clock.now_ms()

        def store(tx: WriteTx) -> int:
            is_one = is_room_id(room_id) and is_event_id(event_id)
            room_num = personal.joined_room(tx, room_id, reporter) if is_one else None
            sender = None if room_num is None else stored.sender_of(tx, room_num, event_id)
            if sender is None:
                # One text for both: it does not tell which events there are in rooms of others.
                raise not_found("The event was not found, or you are not joined to the room")
            report_id = stored.add(tx, reporter, text, at, room_id=room_id, event_id=event_id, user_id=sender)
            stored.forget_beyond(tx, reporter, MAX_KEPT_PER_REPORTER)
            return report_id

        report_id = await self._database.write(store)
        _log.info("report %d: %s reported the event %s in %s", report_id, reporter, event_id, room_id)

    async def report_room(self, reporter: str, room_id: str, reason: object) -> None:
        """Report a room, whoever is in it. Raises 400.

        It is kept whether the room is known here or not: directories show rooms of other servers too, and
        an answer that is always the same tells nothing.
        """
        text = _reason(reason)
        if not is_room_id(room_id):
            raise invalid_param("That is not a room id")
        report_id = await self._keep(reporter, text, room_id=room_id)
        _log.info("report %d: %s reported the room %s", report_id, reporter, room_id)

    async def report_user(self, reporter: str, user_id: str, reason: object) -> None:
        """Report a user of any server. Raises 400. It is kept whether there is such a user or not."""
        text = _reason(reason)
        if not is_user_id(user_id):
            raise invalid_param("That is not a user id")
        report_id = await self._keep(reporter, text, user_id=user_id)
        _log.info("report %d: %s reported the user %s", report_id, reporter, user_id)

    async def _keep(self, reporter: str, reason: str, *, room_id: str = "", user_id: str = "") -> int:
        at = self._clock.now_ms()

        def store(tx: WriteTx) -> int:
            report_id = stored.add(tx, reporter, reason, at, room_id=room_id, user_id=user_id)
            stored.forget_beyond(tx, reporter, MAX_KEPT_PER_REPORTER)
            return report_id

        return await self._database.write(store)

    # -- for the operator

    async def newest(self, limit: int, *, closed: bool = False) -> tuple[list[Report], int]:
        """The newest open reports (with `closed` all), oldest first, and how many there are in all."""
        return await self._database.read(
            lambda tx: (stored.newest(tx, limit, closed=closed), stored.count(tx, closed=closed))
        )

    async def close(self, report_ids: list[int]) -> None:
        """Close reports, all or none. Raises 404 M_NOT_FOUND for a number that no open report has."""
        at = self._clock.now_ms()

        def store(tx: WriteTx) -> None:
            for report_id in report_ids:
                if not stored.close(tx, report_id, at):
                    raise not_found(f"There is no open report {report_id}")

        await self._database.write(store)


def _reason(value: object) -> str:
    return checked_text(value, "The reason", most=MAX_REASON_BYTES, empty=True)
