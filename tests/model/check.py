"""What must hold: at every answer, that nothing hidden is in it; at the end, that everything is held."""

from __future__ import annotations

import re
from typing import Any

import orjson

from comity.store.events import StoredEvent
from tests.model.followers import DifferenceError, Follower, HeldRoom, SlidingFollower, SyncFollower, Told
from tests.model.oracle import Oracle

MARKER = re.compile(r"<([0-9]+)>")


class Checker:
    """Holds answers and clients against the oracle."""

    def __init__(self, oracle: Oracle) -> None:
        self.oracle = oracle
        #: What is in the text of each message -> the message's id.
        self.markers: dict[str, str] = {}

    # -- at every answer

    def witness(self, user_id: str, room_id: str, events: list[Told], answer: Any) -> None:
        """Nothing that may not be seen has been shown."""
        shown = {event["event_id"] for event in events}
        text = orjson.dumps(answer).decode()
        marked = {self.markers[name] for name in MARKER.findall(text) if name in self.markers}
        if not shown and not marked:
            return
        own = {
            event["event_id"] for event in events if _is_own(event["type"], event.get("state_key"), user_id)
        }
        stays = self.oracle.stays(user_id, room_id)
        log = {stored.event.event_id: stored for stored in self.oracle.log(room_id)}
        for event_id in sorted(shown | marked):
            stored = log.get(event_id)
            if stored is None and event_id in own:
                # Held for authorization alone: the state of a part of the graph that is not here.
                continue
            if stored is None or not self.oracle.may_see(stored, user_id, stays):
                line = None if stored is None else (stored.line, stored.verdict, stored.event.type)
                raise DifferenceError(
                    f"{user_id} is shown {event_id} {line} of {room_id} and may not see it; stays {stays}"
                )
            if event_id in marked and stored.redacted_by is not None:
                raise DifferenceError(f"{user_id} is shown the text of {event_id}, which is redacted")

    # -- at the end

    def compare(self, follower: Follower, user_id: str, room_id: str) -> None:
        """The client holds what the user may see of a room."""
        membership = self.oracle.membership(user_id, room_id)
        room = follower.rooms.get(room_id)
        if membership == "join":
            if room is None or room.membership != "join":
                raise DifferenceError("the user is in the room, and the client does not know")
            self._compare_timeline(follower, room, user_id, room_id)
            self._compare_state(follower, room, user_id, room_id)
            expected = self.oracle.unread(user_id, room_id)
            if room.unread != expected:
                raise DifferenceError(f"unread: told {room.unread}, expected {expected}")
        elif membership == "invite":
            if room is None or room.membership != "invite":
                raise DifferenceError("the user is invited, and the client does not know")
            if not any(event.get("state_key") == user_id for event in room.stripped):
                raise DifferenceError("the invite does not show the user's own membership")
        elif room is not None:
            if room.membership != "leave":
                raise DifferenceError(f"the user is {membership}, the client believes {room.membership}")
            if room.pieces and membership != "forgotten":
                self._compare_timeline(follower, room, user_id, room_id)

    def _compare_timeline(self, follower: Follower, room: HeldRoom, user_id: str, room_id: str) -> None:
        expected = self.oracle.visible(user_id, room_id)
        held = [event for piece in room.pieces for event in piece.events]
        end = self.oracle.stays(user_id, room_id)[-1:]
        log = {stored.event.event_id: stored for stored in self.oracle.log(room_id)}
        # What became of a user who had left is told, and is not part of what is paged through.
        ended = end[0].ended if end else 0
        told = [event for event in held if not _after(log.get(event["event_id"]), ended)]
        ids = [event["event_id"] for event in told]
        wanted = [stored.event.event_id for stored in expected]
        if not end:
            return
        if room.membership != "join":
            # Their own leaving may have been told before there was a place for it in the history.
            own = {
                stored.event.event_id
                for stored in log.values()
                if _is_own(stored.event.type, stored.event.state_key, user_id)
            }
            ids = [event_id for event_id in ids if event_id not in own]
            wanted = [event_id for event_id in wanted if event_id not in own]
            if isinstance(follower, SlidingFollower):
                # Of a later stay that ended before it was ever told of, nothing is.
                wanted = wanted[: len(ids)]
        if ids != wanted:
            raise DifferenceError(_first_difference(ids, wanted, log))
        self._compare_redactions(held, expected, wanted)

    def _compare_redactions(self, held: list[Told], expected: list[StoredEvent], ids: list[str]) -> None:
        seen = set(ids)
        redacted = {
            target
            for event in held
            if event["type"] == "m.room.redaction"
            for target in (event.get("redacts"), event["content"].get("redacts"))
        }
        names = {stored.number: stored.event.event_id for stored in expected}
        told = {event["event_id"]: event for event in held}
        for stored in expected:
            event_id = stored.event.event_id
            if event_id not in told:
                continue
            is_told = "redacted_because" in told[event_id].get("unsigned", {}) or event_id in redacted
            if stored.redacted_by is None and is_told:
                raise DifferenceError(f"{event_id} is told as redacted, and is not")
            if stored.redacted_by is not None and names.get(stored.redacted_by) in seen and not is_told:
                raise DifferenceError(f"{event_id} is redacted, and the client does not know")

    def _compare_state(self, follower: Follower, room: HeldRoom, user_id: str, room_id: str) -> None:
        expected = self.oracle.state(user_id, room_id)
        wanted = {key: event_id for key, event_id in expected.items() if _is_wanted(follower, key, room)}
        if isinstance(follower, SyncFollower) and not follower.state_after:
            # The timeline has the last word there, also where the room came to something else, or to
            # something that the user may not see.
            last: dict[tuple[str, str], str] = {}
            for stored in self.oracle.visible(user_id, room_id):
                if stored.event.is_state:
                    last[stored.event.key] = stored.event.event_id
            wanted = {
                key: event_id for key, event_id in wanted.items() if last.get(key, event_id) == event_id
            }
        for key, event_id in wanted.items():
            if room.state.get(key) != event_id:
                raise DifferenceError(f"state {key}: held {room.state.get(key)}, expected {event_id}")
        if isinstance(follower, SlidingFollower):
            gone = {key for key in room.state if key not in expected and _is_wanted(follower, key, room)}
            if gone:
                raise DifferenceError(f"state that is gone is held: {sorted(gone)}")


def _is_wanted(follower: Follower, key: tuple[str, str], room: HeldRoom) -> bool:
    """Whether a client holds an entry of the state, by what it asks for."""
    lazy = key[0] != "m.room.member" or key in room.state or key[1] in room.senders
    if isinstance(follower, SyncFollower):
        return lazy if follower.lazy else True
    assert isinstance(follower, SlidingFollower)
    if ["*", "*"] in follower.required:
        return True
    if key[0] == "m.room.member":
        return lazy
    return list(key) in follower.required


def _is_own(event_type: str, state_key: str | None, user_id: str) -> bool:
    return event_type == "m.room.member" and state_key == user_id


def _after(stored: StoredEvent | None, line: int) -> bool:
    return stored is not None and (stored.line or 0) > line


def _first_difference(held: list[str], wanted: list[str], log: dict[str, StoredEvent]) -> str:
    def about(event_id: str) -> str:
        stored = log.get(event_id)
        if stored is None:
            return f"{event_id} (not in the log)"
        return f"{event_id} ({stored.event.type} of {stored.event.sender}, line {stored.line})"

    for at, (one, other) in enumerate(zip(held, wanted, strict=False)):
        if one != other:
            missing = "" if other in held else ", which is nowhere"
            extra = "" if one in wanted else ", which should not be there"
            return f"timeline at {at}: held {about(one)}{extra}; expected {about(other)}{missing}"
    at = min(len(held), len(wanted))
    if len(held) > len(wanted):
        return f"timeline has {len(held) - at} more at its end: {about(held[at])}"
    return f"timeline lacks {len(wanted) - at} at its end: {about(wanted[at])}"
