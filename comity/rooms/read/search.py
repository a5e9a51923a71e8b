"""Search in a user's rooms (client-server §Server Side Search): a page of what is found, as clients have it.

Results are taken in blocks: the newest events that match, as many as one search looks at
(`comity.rooms.read.search_walk`). Inside a block they are in the order asked for, pages go through it, and
behind its last page comes the next block. `count` is what was found in the first one.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from comity.protocol import identifiers
from comity.protocol.errors import MatrixError, invalid_param
from comity.protocol.filters import NO_ROOM_EVENT_FILTER
from comity.rooms.read.access import access
from comity.rooms.read.paging import members_of, wanted_events
from comity.rooms.read.reader import Reader
from comity.rooms.read.search_walk import Aim, Hit, Walk, Walker
from comity.rooms.read.tokens import line_token
from comity.rooms.read.visible import RoomView
from comity.rooms.read.window import scan_back, scan_forward
from comity.store.database import Tx
from comity.store.events import StoredEvent, live_line

#: Results on one page, at most: each may bring its context.
MAX_RESULTS = 50
#: Events before, and after, one result.
MAX_CONTEXT = 25
DEFAULT_CONTEXT = 5
#: Characters of a `next_batch`: two ids and some numbers take less.
MAX_TOKEN_CHARACTERS = 2_048
_MAX_NUMBER = 2**63 - 1
GROUP_KEYS = ("room_id", "sender")
_PROFILE = ("displayname", "avatar_url")
_NOT_OURS = "next_batch is not one that a search gave"


@dataclass(frozen=True, slots=True)
class Around:
    """How much is shown around a result (`event_context`)."""

    before: int = DEFAULT_CONTEXT
    after: int = DEFAULT_CONTEXT
    with_profiles: bool = False


@dataclass(frozen=True, slots=True)
class Question:
    """What POST /search was asked in the category `room_events`."""

    aim: Aim
    device_id: str
    by_rank: bool = True
    context: Around | None = None
    include_state: bool = False
    group_by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Place:
    """A `next_batch`: from where to go on, and in which group.

    The block is what was found in `floor < line <= ceiling`, as of `now_ms`; `offset` of it were given.
    """

    ceiling: int
    floor: int
    offset: int
    now_ms: int
    count: int
    room_id: str | None = None
    sender: str | None = None

    def __str__(self) -> str:
        values = [self.ceiling, self.floor, self.offset, self.now_ms, self.count, self.room_id, self.sender]
        return base64.urlsafe_b64encode(orjson.dumps(values)).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> Place:
        """A token as clients give it back. Raises 400 M_INVALID_PARAM."""
        if len(text) > MAX_TOKEN_CHARACTERS:
            raise invalid_param(_NOT_OURS)
        try:
            padded = text + "=" * (-len(text) % 4)
            values = orjson.loads(base64.b64decode(padded.encode(), altchars=b"-_", validate=True))
        except (ValueError, binascii.Error):
            raise invalid_param(_NOT_OURS) from None
        if not isinstance(values, list) or len(values) != 7:
            raise invalid_param(_NOT_OURS)
        *numbers, room_id, sender = values
        if not all(type(number) is int and 0 <= number <= _MAX_NUMBER for number in numbers):
            raise invalid_param(_NOT_OURS)
        if room_id is not None and not identifiers.is_room_id(room_id):
            raise invalid_param(_NOT_OURS)
        if sender is not None and not identifiers.is_user_id(sender):
            raise invalid_param(_NOT_OURS)
        ceiling, floor, offset, now_ms, count = numbers
        return cls(ceiling, floor, offset, now_ms, count, room_id, sender)

    def within(self, key: str, value: str) -> Place:
        """The same in a group."""
        return replace(self, room_id=value) if key == "room_id" else replace(self, sender=value)


@dataclass(frozen=True, slots=True)
class _Page:
    """Some hits of a block, and what is behind them."""

    question: Question
    #: Where the block is, and where the page begins in it.
    place: Place
    block: Sequence[Hit]
    hits: Sequence[Hit]
    #: The line from which the next block goes on; None if there is none.
    stop: int | None
    #: Whether nothing was given before it.
    is_first: bool

    def next_place(self, key: str = "", value: str = "") -> Place | None:
        """What follows the page, in all or in a group; None if there is nothing."""
        place, end = self.place, self.place.offset + len(self.hits)
        given, left = list(self.block[:end]), list(self.block[end:])
        if key:
            place = place.within(key, value)
            given, left = ([hit for hit in part if getattr(hit, key) == value] for part in (given, left))
            if self.is_first:
                place = replace(place, count=len(given) + len(left))
        if left:
            if self.question.by_rank:
                # A group's own block must have the same bounds: its order is a part of this one then.
                return replace(place, floor=self.stop or 0, offset=len(given))
            # The next page need not look again at what was given.
            return replace(place, ceiling=self.hits[-1].line - 1, offset=0)
        return None if self.stop is None else replace(place, ceiling=self.stop, floor=0, offset=0)


class Search:
    """Answers searches of local users."""

    def __init__(
        self, reader: Reader, position: Callable[[], int], catch_up: Callable[[], Awaitable[None]]
    ) -> None:
        """`position` is the last committed one; `catch_up` has what is stored by then found."""
        self._reader = reader
        self._position = position
        self._catch_up = catch_up
        self._walker = Walker(reader.states, reader.events, reader.visibility)

    async def room_events(self, question: Question, start: str | None) -> dict[str, Any]:
        """The category `room_events`; `start` is a `next_batch`. Raises 400 M_INVALID_PARAM."""
        await self._catch_up()
        now = self._position()
        place = Place.parse(start) if start is not None else None
        page = await self._page(question, place, now)
        results = []
        for hit in page.hits:
            result = await self._reader.database.read(lambda tx: self._result(tx, question, hit))  # noqa: B023
            if result is not None:
                results.append(result)
        next_place = page.next_place()
        answer: dict[str, Any] = {
            "count": page.place.count,
            "highlights": question.aim.term.highlights,
            "results": results,
        }
        if next_place is not None:
            answer["next_batch"] = str(next_place)
        if question.group_by:
            answer["groups"] = {key: _groups(page, key) for key in question.group_by}
        if question.include_state:
            answer["state"] = await self._states(question, page, now)
        return answer

    async def _page(self, question: Question, given: Place | None, now: int) -> _Page:
        place = given or Place(live_line(now), 0, 0, self._reader.clock.now_ms(), 0)
        aim = replace(question.aim, room_id=place.room_id, sender=place.sender)
        limit = min(aim.wanted.limit, MAX_RESULTS)
        # Nothing is counted on later pages, and those of the newest need not be compared with all.
        enough = 0 if given is None or question.by_rank else place.offset + limit + 1
        walk = Walk(aim, place.ceiling, place.floor, place.now_ms, enough)
        database = self._reader.database
        if aim.term.words and aim.keys:
            await database.read(lambda tx: self._walker.begin(tx, walk, now))
            while not walk.is_done:
                await database.read(lambda tx: self._walker.go_on(tx, walk))
        block = walk.hits
        if question.by_rank:
            block = sorted(block, key=lambda hit: (-hit.rank, -hit.line))
        if given is None:
            place = replace(place, count=len(block))
        hits = block[place.offset : place.offset + limit]
        return _Page(question, place, block, hits, walk.stop, given is None)

    # -- writing it

    def _result(self, tx: Tx, question: Question, hit: Hit) -> dict[str, Any] | None:
        """One result; None if its event was redacted since it was found."""
        reader, user_id = self._reader, question.aim.user_id
        stored = reader.events.get(tx, hit.number)
        if stored is None or stored.redacted_by is not None:
            return None
        view = reader.visibility.view(tx, user_id, hit.room_num)
        reading = reader.reading(tx, user_id, question.device_id, [stored], view)
        result: dict[str, Any] = {"rank": hit.rank, "result": reader.format.event(tx, stored, reading)}
        if question.context is not None:
            result["context"] = self._context(tx, question, question.context, hit, stored, view)
        return result

    def _context(
        self, tx: Tx, question: Question, around: Around, hit: Hit, stored: StoredEvent, view: RoomView
    ) -> dict[str, Any]:
        reader = self._reader
        # The filter is of what is searched, not of what stands beside it.
        keep = wanted_events(tx, self._reader.events, view, view.user_id, hit.room_id, NO_ROOM_EVENT_FILTER)
        before = scan_back(
            tx, reader.events, hit.room_num, after=0, upto=hit.line - 1, limit=around.before, keep=keep
        )
        after = scan_forward(
            tx, reader.events, hit.room_num, after=hit.line, upto=hit.ceiling, limit=around.after, keep=keep
        )
        listed = [*reversed(before.events), stored, *after.events]
        reading = reader.reading(tx, view.user_id, question.device_id, listed, view)
        context: dict[str, Any] = {
            "start": line_token(before.stop),
            "end": line_token(after.stop),
            "events_before": reader.format.events(tx, before.events, reading),
            "events_after": reader.format.events(tx, after.events, reading),
        }
        if around.with_profiles:
            context["profile_info"] = self._profiles(tx, view, stored, listed)
        return context

    def _profiles(
        self, tx: Tx, view: RoomView, stored: StoredEvent, listed: Sequence[StoredEvent]
    ) -> dict[str, Any]:
        """The profiles of those who sent the events, as they were then: at the result, for who was there."""
        reader = self._reader
        found: dict[str, Any] = {}
        senders = {item.event.sender for item in listed}
        for at in (listed[-1], stored):
            members = members_of(
                tx, reader.states, reader.events, stored.room_num, at.state_after or b"", senders
            )
            for member in members:
                content = {} if view.is_erased(member) else member.event.content
                found[str(member.event.state_key)] = {
                    name: content[name] for name in _PROFILE if isinstance(content.get(name), str)
                }
        return found

    async def _states(self, question: Question, page: _Page, now: int) -> dict[str, Any]:
        """The state of each room on a page: the current one, or that when the user left."""
        found: dict[str, Any] = {}
        for room_id in dict.fromkeys(hit.room_id for hit in page.hits):
            state = await self._reader.database.read(
                lambda tx: self._state(tx, question, room_id, now)  # noqa: B023
            )
            if state is not None:
                found[room_id] = state
        return found

    def _state(self, tx: Tx, question: Question, room_id: str, now: int) -> list[orjson.Fragment] | None:
        reader, user_id = self._reader, question.aim.user_id
        try:
            allowed = access(tx, reader.states, reader.events, user_id, room_id, now)
        except MatrixError:
            # They forgot the room while it was searched.
            return None
        numbers = [number for _, number in reader.states.items(tx, allowed.state)]
        listed = list(reader.events.load(tx, numbers).values())
        view = reader.visibility.view(tx, user_id, allowed.room.room_num)
        reading = reader.reading(tx, user_id, question.device_id, listed, view, with_bundles=False)
        return reader.format.events(tx, listed, reading.brief())


def _groups(page: _Page, key: str) -> dict[str, Any]:
    """The groups that the results of a page are in, in the order of their best results."""
    found: dict[str, Any] = {}
    for hit in page.hits:
        value = getattr(hit, key)
        group = found.setdefault(value, {"order": len(found) + 1, "results": []})
        group["results"].append(hit.event_id)
    for value, group in found.items():
        next_place = page.next_place(key, value)
        if next_place is not None:
            group["next_batch"] = str(next_place)
    return found
