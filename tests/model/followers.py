"""Clients as they are: what each holds of its rooms, by /sync, by sliding sync and by /messages.

They believe what they are told: a timeline that is not limited goes on where the last one ended,
one that is has a hole before it, which is paged through later.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.api.support_rooms import Client

SLIDING = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
#: Pages that no history needs: who gets so many is led in a circle.
MAX_PAGES = 400

Told = Mapping[str, Any]
#: (user id, room id, events that were shown as the room's history, the whole answer)
Witness = Callable[[str, str, list[Told], Any], None]


class DifferenceError(AssertionError):
    """What a client was told is not what it should have been."""


@dataclass(slots=True)
class Piece:
    """A stretch of a timeline without holes; `before` is where to page on from, None at the beginning."""

    events: list[Told]
    before: str | None

    def ids(self) -> list[str]:
        """The ids of its events."""
        return [event["event_id"] for event in self.events]


@dataclass(slots=True)
class HeldRoom:
    """What a client holds of a room."""

    membership: str
    state: dict[tuple[str, str], str] = field(default_factory=dict)
    #: Oldest first; there is a hole before each.
    pieces: list[Piece] = field(default_factory=list)
    unread: tuple[int, int] = (0, 0)
    stripped: list[Told] = field(default_factory=list)
    #: Senders of what the sync itself told.
    senders: set[str] = field(default_factory=set)

    def apply(self, events: list[Told]) -> None:
        """Take state events over, and what is said to be gone (MSC4186, StateStub)."""
        for event in events:
            if "content" not in event:
                self.state.pop((event["type"], event["state_key"]), None)
            elif "state_key" in event:
                self.state[event["type"], event["state_key"]] = event["event_id"]

    def extend(self, events: list[Told], before: str | None, *, hole: bool) -> None:
        """A new stretch of the timeline, behind a hole or where the last one ended."""
        self.senders.update(event["sender"] for event in events)
        if hole or not self.pieces:
            # What comes again is held once, at its new place.
            again = {event["event_id"] for event in events}
            for piece in self.pieces:
                piece.events = [event for event in piece.events if event["event_id"] not in again]
            self.pieces = [piece for piece in self.pieces if piece.events]
            self.pieces.append(Piece(list(events), before))
            return
        known = {event_id for piece in self.pieces for event_id in piece.ids()}
        for event in events:
            if event["event_id"] in known:
                raise DifferenceError(f"{event['event_id']} is told as new, and was told before")
        self.pieces[-1].events += events


class Follower:
    """One client of one user. Takes what is told; pages where holes are."""

    def __init__(self, name: str, client: Client, witness: Witness, page: int) -> None:
        """`page` is how many events it asks /messages for."""
        self.name = name
        self.client = client
        self.rooms: dict[str, HeldRoom] = {}
        self._witness = witness
        self._page = page

    async def fill(self, room_id: str, index: int = -1) -> None:
        """Page through the hole before a piece, until what is held or the beginning of the room."""
        room = self.rooms[room_id]
        if not room.pieces:
            return
        index %= len(room.pieces)
        piece = room.pieces[index]
        older = room.pieces[index - 1] if index else None
        known = {} if older is None else {event_id: at for at, event_id in enumerate(older.ids())}
        token, found = piece.before, list[Told]()
        for _ in range(MAX_PAGES):
            if token is None:
                break
            answer = await self.client.try_messages(room_id, from_=token, limit=self._page)
            if answer.status == 403:
                # Not in the room any more, and nothing of it to be remembered.
                return
            page = answer.ok()
            self._witness(self.client.user_id, room_id, page["chunk"], page)
            token = page.get("end")
            for event in page["chunk"]:
                if older is not None and event["event_id"] in known:
                    older.events = older.events[: known[event["event_id"]] + 1]
                    piece.events = [*older.events, *reversed(found), *piece.events]
                    piece.before = older.before
                    del room.pieces[index - 1]
                    return
                found.append(event)
        else:
            raise DifferenceError(f"{room_id}: the pages do not end")
        piece.events = [*reversed(found), *piece.events]
        piece.before = None
        if older is not None:
            held = [event for each in room.pieces[:index] for event in each.events]
            if room.membership != "join":
                # Nobody pages through what became of them after they had left.
                held = [event for event in held if event.get("state_key") != self.client.user_id]
            missing = {event["event_id"] for event in held} - set(piece.ids())
            if missing:
                raise DifferenceError(f"{room_id}: pages to the beginning do not have {sorted(missing)}")
            del room.pieces[:index]

    async def fill_all(self, room_id: str) -> None:
        """Page to the beginning of the room."""
        room = self.rooms[room_id]
        while len(room.pieces) > 1:
            before = len(room.pieces)
            await self.fill(room_id, len(room.pieces) - 1)
            if len(room.pieces) == before:
                return
        await self.fill(room_id, 0)


class SyncFollower(Follower):
    """A client of /sync."""

    def __init__(
        self, name: str, client: Client, witness: Witness, *, limit: int, lazy: bool, state_after: bool
    ) -> None:
        super().__init__(name, client, witness, page=limit + 2)
        self.limit, self.lazy, self.state_after = limit, lazy, state_after
        self._wanted = {
            "room": {"timeline": {"limit": limit}, "state": {"lazy_load_members": lazy}},
        }
        self._since: str | None = None

    async def catch_up(self) -> None:
        """One /sync."""
        answer = await self.client.sync(self._since, self._wanted, use_state_after=self.state_after)
        rooms = answer["rooms"]
        for room_id, part in (*rooms["join"].items(), *rooms["leave"].items()):
            self._witness(self.client.user_id, room_id, part["timeline"]["events"], part)
        self._since = answer["next_batch"]
        for room_id, part in rooms["join"].items():
            self._joined(room_id, part)
        for room_id, part in rooms["leave"].items():
            self._left(room_id, part)
        for room_id, part in rooms["invite"].items():
            self.rooms[room_id] = HeldRoom("invite", stripped=part["invite_state"]["events"])

    def _take(self, room: HeldRoom, part: Told) -> None:
        timeline = part["timeline"]
        room.apply(part["state_after" if self.state_after else "state"]["events"])
        if not self.state_after:
            room.apply(timeline["events"])
        if timeline["events"] or timeline["limited"]:
            room.extend(timeline["events"], timeline["prev_batch"], hole=timeline["limited"])

    def _joined(self, room_id: str, part: Told) -> None:
        room = self.rooms.get(room_id)
        if room is None or room.membership != "join":
            room = self.rooms[room_id] = HeldRoom("join")
        self._take(room, part)
        counts = part["unread_notifications"]
        room.unread = (counts["notification_count"], counts["highlight_count"])

    def _left(self, room_id: str, part: Told) -> None:
        room = self.rooms.get(room_id)
        # After a whole stay that it was not told of, what it has was seen with the eyes of a stranger: where
        # that began, more may be theirs to see now.
        timeline = part["timeline"]
        is_other = (
            room is not None
            and room.membership == "leave"
            and timeline["limited"]
            and self._tells_another_stay(room, timeline["events"])
        )
        if room is None or is_other or room.membership not in ("join", "leave"):
            room = self.rooms[room_id] = HeldRoom("leave")
        room.membership = "leave"
        self._take(room, part)

    def _tells_another_stay(self, room: HeldRoom, events: list[Told]) -> bool:
        """Whether a stay begins in a timeline, or ended in it that the client does not know of."""
        own = [event for event in events if event.get("state_key") == self.client.user_id]
        if not own:
            return False
        known = {*room.state.values(), *(event_id for piece in room.pieces for event_id in piece.ids())}
        replaced = own[0]["unsigned"].get("replaces_state")
        joins = any(event["content"].get("membership") == "join" for event in own)
        return joins or (replaced is not None and replaced not in known)


class SlidingFollower(Follower):
    """A client of sliding sync, which looks at the first rooms of one list."""

    def __init__(
        self, name: str, client: Client, witness: Witness, *, limit: int, window: int, required: Any
    ) -> None:
        super().__init__(name, client, witness, page=limit + 3)
        self.limit, self.window, self.required = limit, window, required
        self._pos: str | None = None

    async def catch_up(self, window: int | None = None, limit: int | None = None) -> None:
        """One request; anew if the server does not know us any more."""
        last = self.window if window is None else window
        listed = {
            "ranges": [[0, last - 1]],
            "timeline_limit": self.limit if limit is None else limit,
            "required_state": self.required,
        }
        query = {} if self._pos is None else {"pos": self._pos}
        answer = await self.client.ask("POST", SLIDING, {"lists": {"all": listed}}, timeout=0, **query)
        if answer.code == "M_UNKNOWN_POS" and self._pos is not None:
            # Rooms that the user left by themselves are not told of on a new connection.
            self._pos, self.rooms = None, {}
            await self.catch_up(window, limit)
            return
        body = answer.ok()
        self._pos = body["pos"]
        for room_id, part in body["rooms"].items():
            self._witness(self.client.user_id, room_id, part["timeline"], part)
            self._take(room_id, part)

    def _take(self, room_id: str, part: Told) -> None:
        membership = part["membership"]
        if "stripped_state" in part:
            # Also of a room that the user was thrown out of before the client knew of it.
            outside = membership if membership in ("invite", "knock") else "leave"
            self.rooms[room_id] = HeldRoom(outside, stripped=part["stripped_state"])
            return
        room = self.rooms.get(room_id)
        is_new = part.get("initial") is True
        if room is None or is_new:
            room = self.rooms[room_id] = HeldRoom(membership)
        elif membership != "join" and room.membership != "join":
            # An invite that came to nothing: there never was a timeline to go on with.
            room.pieces = []
        room.membership = membership if membership == "join" else "leave"
        room.apply(part["required_state"])
        limited = part["limited"] or part.get("expanded_timeline") is True
        if part["timeline"] or part["limited"]:
            room.extend(part["timeline"], part.get("prev_batch"), hole=limited)
            if limited and "prev_batch" not in part:
                raise DifferenceError(f"{room_id}: limited, and no prev_batch to page from")
        if membership == "join":
            room.unread = (part["notification_count"], part["highlight_count"])
