"""What each user may see, by the letter of client-server §Room History Visibility.

Reads the log alone: events, the states before them, and when each user's memberships came and went.
Nothing here knows how comity answers the same questions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from comity.protocol.event import Event
from comity.protocol.push_rules import RoomContext, compile_rules, default_rules, evaluate, view_of
from comity.store import heads, personal
from comity.store import rooms as stored_rooms
from comity.store.database import Tx
from comity.store.events import ACCEPTED, REJECTED, StoredEvent, is_live, live_line
from comity.store.rooms import LocalMembership
from tests.rooms.support import Place

VISIBILITIES = ("world_readable", "shared", "invited", "joined")
#: Not told to anybody: it joins the ends of a graph and means nothing.
DUMMY = "org.matrix.dummy_event"
FOR_EVER = 2**62


def _visibility(event: Event | None) -> str:
    value = event.content.get("history_visibility") if event is not None else None
    return value if isinstance(value, str) and value in VISIBILITIES else "shared"


@dataclass(frozen=True, slots=True)
class Stay:
    """A time as a member: the lines of its first event and of its last one."""

    began: int
    ended: int


class Oracle:
    """Answers from one server's store as it is now."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._events = place.rooms.writer._rooms.events
        self._states = place.rooms.writer._rooms.states
        #: (name of a state, user) -> (membership, visibility): states do not change.
        self._facts: dict[tuple[int, bytes, str], tuple[str | None, str]] = {}

    def log(self, room_id: str) -> list[StoredEvent]:
        """All events with a place in the room's history, in its order."""
        number = self._place.head(room_id).number

        def read(tx: Tx) -> list[StoredEvent]:
            rows = tx.all(
                "SELECT event_num FROM events WHERE room_num = ? AND line IS NOT NULL ORDER BY line",
                (number,),
            )
            return list(self._events.load(tx, [row[0] for row in rows]).values())

        return self._place.database.read_now(read)

    def memberships(self, user_id: str, room_id: str) -> list[LocalMembership]:
        """What the user has been in the room, oldest first."""
        number = self._place.head(room_id).number
        return self._place.database.read_now(lambda tx: stored_rooms.local_history(tx, user_id, number))

    def membership(self, user_id: str, room_id: str) -> str | None:
        """What the user is in the room now; `forgotten` if they wish to know no more of it."""
        history = self.memberships(user_id, room_id)
        if not history:
            return None
        return "forgotten" if history[-1].forgotten else history[-1].membership

    def stays(self, user_id: str, room_id: str) -> list[Stay]:
        """The user's times as a member that they did not forget, oldest first; one that lasts ends never."""
        found: list[Stay] = []
        began: int | None = None
        for entry in self.memberships(user_id, room_id):
            if entry.forgotten:
                began = None
                found.clear()
            elif entry.membership == "join":
                began = live_line(entry.position) if began is None else began
            elif began is not None:
                found.append(Stay(began, live_line(entry.position)))
                began = None
        if began is not None:
            found.append(Stay(began, FOR_EVER))
        return found

    def _state_facts(self, stored: StoredEvent, user_id: str) -> tuple[str | None, str]:
        root = stored.state_before or b""
        known = self._facts.get((stored.room_num, root, user_id))
        if known is not None:
            return known

        def read(tx: Tx) -> tuple[str | None, str]:
            found: list[Event | None] = []
            for key in (("m.room.member", user_id), ("m.room.history_visibility", "")):
                slot = self._states.slot(tx, stored.room_num, key)
                number = self._states.get(tx, root, slot) if slot is not None else 0
                entry = self._events.get(tx, number) if number else None
                found.append(entry.event if entry is not None else None)
            member, policy = found
            return member.membership if member is not None else None, _visibility(policy)

        facts = self._facts[stored.room_num, root, user_id] = self._place.database.read_now(read)
        return facts

    def may_see(self, stored: StoredEvent, user_id: str, stays: list[Stay]) -> bool:
        """Rules 1 to 5, and what was received after a user had left for good."""
        event = stored.event
        if event.type == "m.room.member" and event.state_key == user_id and stored.verdict != REJECTED:
            # Also one that was taken up by the room's state alone, through what others built on it.
            return True
        if stored.verdict != ACCEPTED or stored.line is None or (event.type == DUMMY and not event.is_state):
            return False
        membership, before = self._state_facts(stored, user_id)
        allowed = {before}
        if event.type == "m.room.history_visibility" and event.state_key == "":
            allowed.add(_visibility(event))
        if "world_readable" in allowed:
            return True
        if not stays or stored.line > stays[-1].ended:
            return False
        # They joined after it was sent: they are or come to be members when it is here.
        joined_later = any(stay.ended >= stored.line for stay in stays)
        return (
            membership == "join"
            or ("shared" in allowed and joined_later)
            or ("invited" in allowed and membership == "invite")
        )

    def visible(self, user_id: str, room_id: str) -> list[StoredEvent]:
        """What the user may page through, in order."""
        stays = self.stays(user_id, room_id)
        if not stays:
            return []
        log = [stored for stored in self.log(room_id) if stored.verdict == ACCEPTED]
        listed = [stored for stored in log if self.may_see(stored, user_id, stays)]
        return [stored for stored in listed if (stored.line or 0) <= stays[-1].ended]

    def state(self, user_id: str, room_id: str) -> dict[tuple[str, str], str]:
        """The room's state now, or when the user left: event ids."""
        ended = self.stays(user_id, room_id)[-1].ended
        number = self._place.head(room_id).number
        position = ended >> 24 if ended != FOR_EVER else self._place.app._bus.position

        def read(tx: Tx) -> dict[tuple[str, str], str]:
            entries = self._states.items(tx, heads.at(tx, number, position))
            loaded = self._events.load(tx, [each for _, each in entries])
            return {stored.event.key: stored.event.event_id for stored in loaded.values()}

        return self._place.database.read_now(read)

    def unread(self, user_id: str, room_id: str) -> tuple[int, int]:
        """(notifications, highlights): every visible event after what was read, held against the rules."""
        number = self._place.head(room_id).number
        text = self._place.database.read_now(
            lambda tx: personal.account_data(tx, user_id, "", "m.push_rules")
        )
        ruleset = orjson.loads(text)["global"] if text else default_rules(user_id)
        rules = compile_rules(ruleset)
        read = self._read(user_id, room_id, number)
        members = sum(
            event.membership == "join"
            for key, event in self._place.state_events(room_id).items()
            if key[0] == "m.room.member"
        )
        unread: dict[str, list[bool]] = {}
        for stored in self.visible(user_id, room_id):
            event = stored.event
            if stored.redacted_by is not None:
                continue
            if not is_live(stored.line or 0):
                # History that was fetched later is no news.
                continue
            relation: Any = event.content.get("m.relates_to") or {}
            thread = relation["event_id"] if relation.get("rel_type") == "m.thread" else "main"
            room = RoomContext(members, 100)
            if event.sender == user_id:
                if evaluate(compile_rules(default_rules("@nobody:else")), view_of(event), room, None).notify:
                    # Whoever says something has read what was said before.
                    unread.pop(thread, None)
                continue
            if (stored.line or 0) <= max(read[""], read.get(thread, 0)):
                continue
            outcome = evaluate(rules, view_of(event), room, None)
            if outcome.notify:
                unread.setdefault(thread, []).append(outcome.highlight)
        found = [highlight for listed in unread.values() for highlight in listed]
        return len(found), sum(found)

    def _read(self, user_id: str, room_id: str, number: int) -> dict[str, int]:
        """Up to which line the user has read, by thread; '' is for all."""
        read = {"": self.stays(user_id, room_id)[-1].began}
        lines = {stored.event.event_id: stored.line or 0 for stored in self.log(room_id)}
        receipts = self._place.database.read_now(lambda tx: personal.receipts_of(tx, number, user_id))
        for receipt in receipts:
            line = lines.get(receipt.event_id, 0)
            if receipt.receipt_type in ("m.read", "m.read.private"):
                read[receipt.thread_id] = max(read.get(receipt.thread_id, 0), line)
        return read
