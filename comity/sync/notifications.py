"""GET /notifications: what a user was notified of, newest first (client-server §Listing notifications).

Of the rooms that the user is in, since they came, and invites that wait for an answer. Nothing is kept
for it by user: it is worked out from what is kept with events, once for all members, and for who has
rules of their own by holding events against them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from comity.bus import Bus
from comity.protocol.push_rules import Outcome, RoomContext, evaluate, view_of
from comity.protocol.relations import relation_of
from comity.rooms.read import Reader
from comity.rooms.read.tokens import line_token, parse_line
from comity.rooms.read.visible import RoomView
from comity.store import heads, notices, relations
from comity.store.database import Database, Tx
from comity.store.events import StoredEvent, is_live, live_line
from comity.store.rooms import LocalMembership
from comity.sync.unread import Rules, UnreadCounts
from comity.sync.user_rooms import RoomsOfUsers, UserRooms

#: Notifications in one answer, and where the client does not say how many.
MAX_LIMIT, DEFAULT_LIMIT = 100, 20
#: Rooms that are looked at, those that the user came into last; and so many of the newest invites.
MAX_ROOMS = 2_000
#: Events of one room that are looked at in one round: as many as an answer may hold, and one.
ROUND_EVENTS = MAX_LIMIT + 1
#: Rounds, and events that are read, for one answer: it may hold fewer than were asked for, or none,
#: and leads on.
MAX_ROUNDS = 10
MAX_READ = 1_000


@dataclass(frozen=True, slots=True)
class Page:
    """What is asked for; `start` is a token."""

    user_id: str
    device_id: str
    start: str | None = None
    limit: int = DEFAULT_LIMIT
    only_highlights: bool = False


@dataclass(slots=True)
class _Room:
    """What is asked of a room for each of its events."""

    room_id: str
    view: RoomView
    state: bytes
    joined: int
    read: Mapping[str, int]
    name: str | None
    contexts: dict[str, RoomContext] = field(default_factory=dict)


class Notifications:
    """Lists notifications."""

    def __init__(
        self, *, database: Database, bus: Bus, reader: Reader, user_rooms: RoomsOfUsers, unread: UnreadCounts
    ) -> None:
        self._database = database
        self._bus = bus
        self._reader = reader
        self._rooms = user_rooms
        self._unread = unread

    async def listed(self, page: Page) -> dict[str, Any]:
        """One page. Raises 400 M_INVALID_PARAM for what is no token."""
        now = self._bus.position
        before = live_line(now) + 1 if page.start is None else parse_line(page.start)

        def read(tx: Tx) -> dict[str, Any]:
            rooms = self._rooms.get(tx, page.user_id, now)
            walk = _Walk(self._reader, self._unread, tx, page, rooms, now)
            end = walk.run(min(before, live_line(now) + 1))
            answer: dict[str, Any] = {"notifications": walk.found}
            if end is not None:
                answer["next_token"] = line_token(end)
            return answer

        return await self._database.read(read)


class _Walk:
    """One walk back through the notifications of one user."""

    def __init__(
        self, reader: Reader, unread: UnreadCounts, tx: Tx, page: Page, rooms: UserRooms, now: int
    ) -> None:
        self._reader = reader
        self._unread = unread
        self._tx = tx
        self._page = page
        self._now = now
        self._ignored = rooms.ignored
        self._rules: Rules = unread.rules_of(tx, page.user_id, now)
        newest = sorted(rooms.joined.items(), key=lambda item: -item[1].position)[:MAX_ROOMS]
        self._ids = {entry.room_num: room_id for room_id, entry in newest}
        self._own = {num for num, room in self._ids.items() if self._rules.difference.matters_in(room)}
        self._invites = _invites(rooms)
        self._known: dict[int, _Room] = {}
        self._read = 0
        self.found: list[dict[str, Any]] = []

    def run(self, before: int) -> int | None:
        """Find what is below a line; the line below which there may be more, None if there is not."""
        last = before
        for _ in range(MAX_ROUNDS):
            candidates, floor = self._candidates(before)
            for line, room_num, weight in candidates:
                invite = self._invites.get(line)
                told = self._told(line, room_num, weight) if invite is None else self._invited(*invite)
                if told is not None:
                    if len(self.found) == self._page.limit:
                        return last
                    self.found.append(told)
                    last = line
                if self._read >= MAX_READ:
                    return line
            if not floor:
                return None
            before = floor
        return before

    def _candidates(self, before: int) -> tuple[list[tuple[int, int, int]], int]:
        """(line, room, weight) of what may notify below a line, newest first, and how far that goes.

        The weight is 0 where the user's own rules are to say. 0 as the end: there is no more.
        """
        tx, user_id, floor = self._tx, self._page.user_id, 0
        plain = [room_num for room_num in self._ids if room_num not in self._own]
        weights: dict[tuple[int, int], int] = {}
        for rows in (
            notices.newest_notifications(tx, plain, before, ROUND_EVENTS),
            notices.newest_mentions(tx, user_id, plain, before, ROUND_EVENTS),
            notices.newest_events(tx, sorted(self._own), before, ROUND_EVENTS),
        ):
            counts: dict[int, int] = {}
            lowest: dict[int, int] = {}
            for room_num, line, weight in rows:
                weights[line, room_num] = max(weight, weights.get((line, room_num), 0))
                counts[room_num] = counts.get(room_num, 0) + 1
                lowest[room_num] = min(line, lowest.get(room_num, line))
            # Below the last that was read of any room, that room may have more.
            floor = max([floor, *(lowest[num] for num, count in counts.items() if count >= ROUND_EVENTS)])
        weights.update(((line, invite.room_num), 0) for line, (_, invite) in self._invites.items())
        listed = [
            (line, room_num, weight) for (line, room_num), weight in weights.items() if floor <= line < before
        ]
        return sorted(listed, reverse=True), floor

    def _told(self, line: int, room_num: int, weight: int) -> dict[str, Any] | None:
        """The notification of an event as clients get it; None if it does not notify the user."""
        if self._page.only_highlights and weight == 1:
            return None
        self._read += 1
        tx, reader, page = self._tx, self._reader, self._page
        room = self._room(room_num)
        listed = reader.events.timeline(tx, room_num, after=line - 1, upto=line, limit=1, backwards=True)
        # History that came later was never news.
        if line <= room.joined or not is_live(line) or not listed:
            return None
        stored = listed[0]
        event = stored.event
        if event.sender == page.user_id or event.sender in self._ignored or stored.redacted_by is not None:
            return None
        if not room.view.may_see(stored):
            return None
        outcome = self._outcome(room_num, room, stored)
        if not (outcome.notify or weight) or (page.only_highlights and not outcome.highlight and weight != 2):
            return None
        thread = relations.thread_of(tx, relation_of(event))
        is_read = line <= max(room.read[""], room.read.get(thread, 0))
        return self._notification(
            stored, room.view, room.room_id, self._actions(outcome, weight), is_read=is_read
        )

    def _invited(self, room_id: str, invite: LocalMembership) -> dict[str, Any] | None:
        """The notification of an invite that waits for an answer; None if the user's rules let it pass."""
        tx, reader, page = self._tx, self._reader, self._page
        self._read += 1
        stored = reader.events.get(tx, invite.event_num)
        if stored is None or stored.event.sender in self._ignored:
            return None
        # Of the room itself nothing is known that rules could ask for.
        outcome = evaluate(self._rules.compiled, view_of(stored.event), RoomContext(0, 0), None)
        if not outcome.notify or (page.only_highlights and not outcome.highlight):
            return None
        view = reader.visibility.view(tx, page.user_id, invite.room_num)
        return self._notification(stored, view, room_id, self._actions(outcome, 1), is_read=False)

    def _notification(
        self, stored: StoredEvent, view: RoomView, room_id: str, actions: Sequence[object], *, is_read: bool
    ) -> dict[str, Any]:
        """As clients get it."""
        reading = self._reader.reading(
            self._tx, self._page.user_id, self._page.device_id, [stored], view,
            with_room_id=False, with_bundles=False,
        )  # fmt: skip
        return {
            "actions": actions,
            "event": self._reader.format.event(self._tx, stored, reading),
            "read": is_read,
            "room_id": room_id,
            "ts": stored.event.origin_server_ts,
        }

    def _room(self, room_num: int) -> _Room:
        room = self._known.get(room_num)
        if room is None:
            tx, user_id = self._tx, self._page.user_id
            view = self._reader.visibility.view(tx, user_id, room_num)
            state = heads.at(tx, room_num, self._now)
            room = self._known[room_num] = _Room(
                self._ids[room_num], view, state, live_line(self._unread.joined_at(tx, view)),
                self._unread.read_up_to(tx, view), self._unread.display_name(tx, view, state),
            )  # fmt: skip
        return room

    def _outcome(self, room_num: int, room: _Room, stored: StoredEvent) -> Outcome:
        event = stored.event
        context = room.contexts.get(event.sender)
        if context is None:
            context = self._unread.context(self._tx, room_num, room.state, event)
            room.contexts[event.sender] = context
        return evaluate(self._rules.compiled, view_of(event), context, room.name)

    def _actions(self, outcome: Outcome, weight: int) -> Sequence[object]:
        """The actions of the rule that matched.

        What notified when it came may not do so by the room as it is now: then those that it had.
        """
        listed = self._rules.ruleset.get(outcome.kind) if outcome.notify else None
        for rule in listed if isinstance(listed, list) else ():
            if isinstance(rule, dict) and rule.get("rule_id") == outcome.rule_id:
                actions = rule.get("actions")
                return actions if isinstance(actions, list) else []
        return ["notify", {"set_tweak": "highlight"}] if weight == 2 else ["notify"]


def _invites(rooms: UserRooms) -> dict[int, tuple[str, LocalMembership]]:
    """By line, the newest of the invites that wait for the user's answer, and their rooms' ids.

    An invite to a room that nobody here is in has no line of its own; its position has one.
    """
    if rooms.blocks_invites:
        return {}
    waiting = [item for item in rooms.memberships.items() if item[1].membership == "invite"]
    waiting.sort(key=lambda item: -item[1].position)
    return {live_line(entry.position): (room_id, entry) for room_id, entry in waiting[:MAX_ROOMS]}
