"""Filters: which events a client wants to be given (client-server §Filtering).

Parses and bounds the filter of /sync (`parse_filter`) and of /messages, /context and search
(`parse_room_event_filter`), and says what matches. It never looks anything up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from comity.protocol import canonical_json, identifiers
from comity.protocol.errors import bad_json, invalid_param
from comity.protocol.matching import ABSENT, Glob, parse_path, value_at

#: A filter written into a URL is no longer than this.
MAX_FILTER_BYTES = 65_536
#: Entries of any one list of a filter: each is compared with each event.
MAX_ENTRIES = 1_000
#: Characters of one entry: no type, user, room or sensible path is longer.
MAX_ENTRY_CHARACTERS = 512
#: How many events if the filter does not say.
DEFAULT_LIMIT = 10
#: And at most: larger wishes are cut to this, as the specification asks of servers.
MAX_LIMIT = 1_000


@dataclass(frozen=True, slots=True)
class Names:
    """A list of names with `*` for any characters, ready to be compared with."""

    exact: frozenset[str]
    globs: tuple[Glob, ...] = ()

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str):
            return False
        return name in self.exact or any(glob.matches(name) for glob in self.globs)


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which account data or presence. None stands for "all"; an empty list lets nothing through."""

    limit: int | None = None
    types: Names | None = None
    not_types: Names | None = None
    senders: frozenset[str] | None = None
    not_senders: frozenset[str] = frozenset()

    @property
    def is_open(self) -> bool:
        """Whether everything matches, so that nothing need be compared."""
        return self.types is None and not self.not_types and self.senders is None and not self.not_senders

    def may_match(self, event_type: str) -> bool:
        """Whether any event of that type is wanted."""
        return (
            (self.types is None or event_type in self.types)
            and (self.not_types is None or event_type not in self.not_types)
            and (self.senders is None or bool(self.senders))
        )

    def matches(self, event_type: str, sender: str | None) -> bool:
        """Whether an event of that type and sender (None: it has none) is wanted."""
        if self.types is not None and event_type not in self.types:
            return False
        if self.not_types is not None and event_type in self.not_types:
            return False
        return (self.senders is None or sender in self.senders) and sender not in self.not_senders


@dataclass(frozen=True, slots=True)
class RoomEventFilter:
    """Which events of rooms: an EventFilter and what only rooms have.

    COMPAT: `related_by_senders` and `related_by_rel_types` are sent by clients though v1.19 does
    not define them (MSC3440); `matches` cannot know what relates to an event and leaves them to whoever
    reads history (`comity.rooms.read.paging`).
    """

    events: EventFilter = EventFilter()
    rooms: frozenset[str] | None = None
    not_rooms: frozenset[str] = frozenset()
    contains_url: bool | None = None
    lazy_load_members: bool = False
    include_redundant_members: bool = False
    unread_thread_notifications: bool = False
    related_by_senders: frozenset[str] | None = None
    related_by_rel_types: frozenset[str] | None = None

    @property
    def limit(self) -> int:
        """How many events at most; between 1 and MAX_LIMIT."""
        return DEFAULT_LIMIT if self.events.limit is None else self.events.limit

    @property
    def is_open(self) -> bool:
        """Whether `matches` is true of everything, so that nothing need be compared."""
        return self.events.is_open and self.rooms is None and not self.not_rooms and self.contains_url is None

    def wants_room(self, room_id: str) -> bool:
        """Whether `rooms` and `not_rooms` let that room through."""
        return (self.rooms is None or room_id in self.rooms) and room_id not in self.not_rooms

    def matches(self, event_type: str, sender: str | None, room_id: str, content: Mapping[str, Any]) -> bool:
        """Whether such an event is wanted; `sender` is None where there is none (typing, receipts)."""
        return (
            self.events.matches(event_type, sender)
            and self.wants_room(room_id)
            and (self.contains_url is None or ("url" in content) is self.contains_url)
        )


@dataclass(frozen=True, slots=True)
class RoomFilter:
    """`room` of a filter. `rooms` and `not_rooms` are applied before those of the parts."""

    rooms: frozenset[str] | None = None
    not_rooms: frozenset[str] = frozenset()
    include_leave: bool = False
    ephemeral: RoomEventFilter = RoomEventFilter()
    state: RoomEventFilter = RoomEventFilter()
    timeline: RoomEventFilter = RoomEventFilter()
    account_data: RoomEventFilter = RoomEventFilter()
    #: Whether no room is left out: asked at every delivery.
    any_room: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "any_room", self.rooms is None and not self.not_rooms)

    def wants_room(self, room_id: str) -> bool:
        """Whether anything of that room is wanted."""
        return (self.rooms is None or room_id in self.rooms) and room_id not in self.not_rooms


@dataclass(frozen=True, slots=True)
class Filter:
    """A whole filter, as POST /user/{userId}/filter takes it.

    `event_fields` are property paths (None: all of the event).
    """

    event_fields: tuple[tuple[str, ...], ...] | None = None
    event_format: str = "client"
    presence: EventFilter = EventFilter()
    account_data: EventFilter = EventFilter()
    room: RoomFilter = RoomFilter()
    #: Whether any presence is wanted: asked at every step of a long poll.
    wants_presence: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "wants_presence", self.presence.may_match("m.presence"))


#: What applies when no filter is given.
NO_FILTER = Filter()
NO_ROOM_EVENT_FILTER = RoomEventFilter()


def parse_text(text: str | bytes, most: int = MAX_FILTER_BYTES) -> dict[str, Any]:
    """The JSON object of a filter written into a URL, or of one that is kept. Raises MatrixError 400."""
    if len(text) > most:
        raise invalid_param(f"The filter is longer than {most} bytes")
    try:
        return canonical_json.parse_object(text)
    except canonical_json.CanonicalJsonError:
        raise bad_json("The filter is not a JSON object") from None


def parse_filter(value: object) -> Filter:
    """Check a filter (a JSON value). Unknown properties are ignored.

    Raises MatrixError 400: M_BAD_JSON where the JSON has the wrong shape, M_INVALID_PARAM where a
    value is out of its bounds.
    """
    source = _object(value, "The filter")
    fields = _strings(source, "event_fields")
    event_format = source.get("event_format", "client")
    if event_format not in ("client", "federation"):
        raise invalid_param("event_format is neither client nor federation")
    return Filter(
        event_fields=None if fields is None else tuple(parse_path(path) for path in fields),
        event_format=event_format,
        presence=_event_filter(_part(source, "presence")),
        account_data=_event_filter(_part(source, "account_data")),
        room=_room_filter(_part(source, "room")),
    )


def parse_room_event_filter(value: object) -> RoomEventFilter:
    """Check a RoomEventFilter (a JSON value), as /messages takes it. Raises as `parse_filter`."""
    source = _object(value, "The filter")
    rel_types = _strings(source, "related_by_rel_types")
    related_senders = _strings(source, "related_by_senders")
    return RoomEventFilter(
        events=_event_filter(source),
        rooms=_rooms(source, "rooms"),
        not_rooms=_rooms(source, "not_rooms") or frozenset(),
        contains_url=_boolean(source, "contains_url"),
        lazy_load_members=_boolean(source, "lazy_load_members") or False,
        include_redundant_members=_boolean(source, "include_redundant_members") or False,
        unread_thread_notifications=_boolean(source, "unread_thread_notifications") or False,
        related_by_senders=None if related_senders is None else frozenset(related_senders),
        related_by_rel_types=None if rel_types is None else frozenset(rel_types),
    )


def select_fields(event: Mapping[str, Any], fields: Iterable[tuple[str, ...]]) -> dict[str, Any]:
    """What `event_fields` keep of an event: a new object, which shares the values with `event`."""
    kept: dict[str, Any] = {}
    for path in sorted(fields, key=len):
        value = value_at(event, path)
        if value is ABSENT:
            continue
        target, source = kept, event
        for name in path[:-1]:
            source = source[name]
            held = target.get(name)
            if held is source:  # a shorter path has kept all of it
                break
            target = target.setdefault(name, {})
        else:
            target[path[-1]] = value
    return kept


def _room_filter(source: Mapping[str, Any]) -> RoomFilter:
    return RoomFilter(
        rooms=_rooms(source, "rooms"),
        not_rooms=_rooms(source, "not_rooms") or frozenset(),
        include_leave=_boolean(source, "include_leave") or False,
        ephemeral=parse_room_event_filter(_part(source, "ephemeral")),
        state=parse_room_event_filter(_part(source, "state")),
        timeline=parse_room_event_filter(_part(source, "timeline")),
        account_data=parse_room_event_filter(_part(source, "account_data")),
    )


def _event_filter(source: Mapping[str, Any]) -> EventFilter:
    limit = source.get("limit")
    if limit is not None:
        if type(limit) is not int:
            raise bad_json("limit is not an integer")
        if limit < 0:
            raise invalid_param("limit is not greater than 0")
        # COMPAT: clients that want none send 0, which the specification does not allow.
        limit = max(1, min(limit, MAX_LIMIT))
    return EventFilter(
        limit=limit,
        types=_names(source, "types"),
        not_types=_names(source, "not_types"),
        senders=_users(source, "senders"),
        not_senders=_users(source, "not_senders") or frozenset(),
    )


def _object(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise bad_json(f"{what} is not a JSON object")
    return value


def _part(source: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = source.get(name)
    return {} if value is None else _object(value, name)


def _boolean(source: Mapping[str, Any], name: str) -> bool | None:
    value = source.get(name)
    if value is not None and not isinstance(value, bool):
        raise bad_json(f"{name} is not a boolean")
    return value


def _strings(source: Mapping[str, Any], name: str) -> list[str] | None:
    value = source.get(name)
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise bad_json(f"{name} is not a list of strings")
    if len(value) > MAX_ENTRIES:
        raise invalid_param(f"{name} has more than {MAX_ENTRIES} entries")
    if any(len(entry) > MAX_ENTRY_CHARACTERS for entry in value):
        raise invalid_param(f"{name} has an entry of more than {MAX_ENTRY_CHARACTERS} characters")
    return value


def _names(source: Mapping[str, Any], name: str) -> Names | None:
    entries = _strings(source, name)
    if entries is None:
        return None
    return Names(
        exact=frozenset(entry for entry in entries if "*" not in entry),
        globs=tuple(Glob(entry, only_star=True) for entry in entries if "*" in entry),
    )


def _users(source: Mapping[str, Any], name: str) -> frozenset[str] | None:
    entries = _strings(source, name)
    if entries is not None and not all(identifiers.is_user_id(entry) for entry in entries):
        raise invalid_param(f"{name} has an entry that is not a user ID")
    return None if entries is None else frozenset(entries)


def _rooms(source: Mapping[str, Any], name: str) -> frozenset[str] | None:
    entries = _strings(source, name)
    if entries is not None and not all(identifiers.is_room_id(entry) for entry in entries):
        raise invalid_param(f"{name} has an entry that is not a room ID")
    return None if entries is None else frozenset(entries)
