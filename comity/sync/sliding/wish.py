"""What one request of simplified sliding sync wishes for (MSC4186): parsed, checked, bounded.

It looks nothing up. COMPAT: clients of both drafts are understood: `ranges` and `range`, required
state as pairs and as objects. A `txn_id` is never given back: to apps that know it from MSC3575 that
says that what they asked for is remembered, so that they leave it out from then on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from comity.protocol.errors import bad_json, invalid_param

#: Lists that one request may name; each costs a look at every room of the user.
MAX_LISTS = 100
#: Single rooms that one request may name. Apps name all that their user has looked at since their start.
MAX_SUBSCRIPTIONS = 5_000
#: Windows of one list.
MAX_RANGES = 20
#: Patterns of required state.
MAX_REQUIRED = 300
#: Events of a room's timeline at most.
MAX_TIMELINE = 500
DEFAULT_TIMELINE = 20
#: Values in one filter (spaces, tags, types).
MAX_FILTER_VALUES = 100
MAX_TEXT_BYTES = 255
WILDCARD, ME, LAZY = "*", "$ME", "$LAZY"
MEMBER = "m.room.member"


@dataclass(frozen=True, slots=True)
class Required:
    """Which state of a room is wanted.

    `exact` are state keys by type; `types` those of which all is wanted; `keys` state keys wanted of
    every type; `everything`: all. `lazy`: of members, those who matter to what is shown, also where
    everything else is wanted (as the earlier draft has it).
    """

    exact: frozenset[tuple[str, str]] = frozenset()
    types: frozenset[str] = frozenset()
    keys: frozenset[str] = frozenset()
    everything: bool = False
    lazy: bool = False

    @property
    def is_exact(self) -> bool:
        """Whether every entry is named, so that none need be searched for."""
        return not (self.everything or self.types or self.keys)

    def wants(self, event_type: str, state_key: str) -> bool:
        """Whether an entry is wanted, lazily loaded members apart."""
        if self.everything and not (self.lazy and event_type == MEMBER):
            return True
        return event_type in self.types or state_key in self.keys or (event_type, state_key) in self.exact

    def covers(self, other: Required) -> bool:
        """Whether all that `other` wants is wanted here too."""
        if self.everything and not self.lazy:
            return True
        return (
            other.everything <= self.everything
            and not (other.everything and not other.lazy)
            and other.types <= self.types
            and other.keys <= self.keys
            and (other.lazy <= self.lazy or MEMBER in self.types)
            and all(self.wants(*key) for key in other.exact)
        )

    def __or__(self, other: Required) -> Required:
        return Required(
            self.exact | other.exact,
            self.types | other.types,
            self.keys | other.keys,
            self.everything or other.everything,
            # Who wants all members is not to be given fewer because another list loads them lazily.
            self._members_lazily(other) and other._members_lazily(self),
        )

    def _members_lazily(self, other: Required) -> bool:
        """Whether members are loaded lazily as far as this one goes, beside another."""
        return self.lazy or (other.lazy and not self.everything)


NOTHING_REQUIRED = Required()


@dataclass(frozen=True, slots=True)
class RoomWish:
    """What is wanted of a room."""

    required: Required = NOTHING_REQUIRED
    timeline_limit: int = DEFAULT_TIMELINE

    def __or__(self, other: RoomWish) -> RoomWish:
        return RoomWish(self.required | other.required, max(self.timeline_limit, other.timeline_limit))


@dataclass(frozen=True, slots=True)
class ListFilter:
    """Which rooms are in a list; None: whatever it is."""

    is_dm: bool | None = None
    is_encrypted: bool | None = None
    is_invite: bool | None = None
    spaces: frozenset[str] | None = None
    room_types: frozenset[str | None] | None = None
    not_room_types: frozenset[str | None] = frozenset()
    tags: frozenset[str] | None = None
    not_tags: frozenset[str] = frozenset()
    room_name_like: str | None = None


NO_LIST_FILTER = ListFilter()


@dataclass(frozen=True, slots=True)
class ListWish:
    """A list: which of the user's rooms, the windows of it that are wanted, and what of each room.

    `ranges` hold first and last index, both inside.
    """

    room: RoomWish
    ranges: tuple[tuple[int, int], ...] | None
    filter: ListFilter = NO_LIST_FILTER
    by_name: bool = False


@dataclass(frozen=True, slots=True)
class ExtensionWish:
    """One extension that is asked for, and for which rooms: those of `lists` and `rooms`.

    None, or WILDCARD among them: those of all lists, and all that are subscribed to.
    """

    lists: frozenset[str] | None = None
    rooms: frozenset[str] | None = None
    since: str | None = None
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Wish:
    """A whole request."""

    connection: str = ""
    lists: Mapping[str, ListWish] = field(default_factory=dict)
    subscriptions: Mapping[str, RoomWish] = field(default_factory=dict)
    extensions: Mapping[str, ExtensionWish] = field(default_factory=dict)
    #: What no other wish has; 0 for one that is not remembered.
    number: int = 0


EXTENSIONS = ("to_device", "e2ee", "account_data", "receipts", "typing")


def parse(body: Mapping[str, Any], user_id: str) -> Wish:
    """Read a request's body. Raises 400 M_BAD_JSON, M_INVALID_PARAM."""
    lists = _object(body, "lists")
    subscriptions = _object(body, "room_subscriptions")
    if len(lists) > MAX_LISTS or len(subscriptions) > MAX_SUBSCRIPTIONS:
        raise invalid_param(f"At most {MAX_LISTS} lists and {MAX_SUBSCRIPTIONS} room_subscriptions, please")
    extensions = _object(body, "extensions")
    #: What is wanted of single rooms is nearly always the same: it is read once.
    read: dict[bytes, RoomWish] = {}

    def subscription(wanted: Mapping[str, Any]) -> RoomWish:
        text = orjson.dumps(wanted)
        if text not in read:
            read[text] = _room(wanted, user_id)
        return read[text]

    return Wish(
        connection=_text(body, "conn_id") or "",
        lists={_checked(name): _list(_value(lists, name), user_id) for name in lists},
        subscriptions={
            _checked(room_id): subscription(_value(subscriptions, room_id)) for room_id in subscriptions
        },
        extensions={
            name: _extension(_value(extensions, name))
            for name in EXTENSIONS
            if name in extensions and _value(extensions, name).get("enabled") is True
        },
    )


def _checked(text: str) -> str:
    if len(text.encode()) > MAX_TEXT_BYTES:
        raise invalid_param(f"A name is longer than {MAX_TEXT_BYTES} bytes")
    return text


def _object(body: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = body.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise bad_json(f"{name} is not an object")
    return value


def _value(parent: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = parent[name]
    if not isinstance(value, dict):
        raise bad_json(f"{name} is not an object")
    return value


def _text(body: Mapping[str, Any], name: str) -> str | None:
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise bad_json(f"{name} is not a string")
    return _checked(value)


def _flag(body: Mapping[str, Any], name: str) -> bool | None:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise bad_json(f"{name} is not a boolean")
    return value


def _texts(body: Mapping[str, Any], name: str) -> list[str] | None:
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise bad_json(f"{name} is not a list of strings")
    if len(value) > MAX_FILTER_VALUES:
        raise invalid_param(f"{name} has more than {MAX_FILTER_VALUES} entries")
    return [_checked(item) for item in value]


def _whole_number(body: Mapping[str, Any], name: str, default: int, most: int) -> int:
    value = body.get(name, default)
    if type(value) is not int or value < 0:
        raise bad_json(f"{name} is not a whole number")
    return min(value, most)


def _room(body: Mapping[str, Any], user_id: str) -> RoomWish:
    limit = _whole_number(body, "timeline_limit", DEFAULT_TIMELINE, MAX_TIMELINE)
    return RoomWish(_required(body.get("required_state", []), user_id), limit)


def _required(value: object, user_id: str) -> Required:
    lazy = False
    if isinstance(value, dict):
        # COMPAT: the later draft has an object.
        lazy = value.get("lazy_members") is True
        value = value.get("include", [])
    if not isinstance(value, list):
        raise bad_json("required_state is not a list")
    if len(value) > MAX_REQUIRED:
        raise invalid_param(f"required_state has more than {MAX_REQUIRED} entries")
    exact: set[tuple[str, str]] = set()
    types: set[str] = set()
    keys: set[str] = set()
    everything = False
    for item in value:
        pair = (
            [item.get("type", WILDCARD), item.get("state_key", WILDCARD)] if isinstance(item, dict) else item
        )
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(part, str) for part in pair):
            raise bad_json("required_state holds something else than pairs of a type and a state key")
        event_type, state_key = _checked(pair[0]), _checked(pair[1])
        if state_key == ME:
            state_key = user_id
        if event_type == WILDCARD and state_key == WILDCARD:
            everything = True
        elif state_key == LAZY and event_type == MEMBER:
            lazy = True
        elif event_type == WILDCARD:
            keys.add(state_key)
        elif state_key == WILDCARD:
            types.add(event_type)
        else:
            exact.add((event_type, state_key))
    return Required(frozenset(exact), frozenset(types), frozenset(keys), everything, lazy)


def _list(body: Mapping[str, Any], user_id: str) -> ListWish:
    ranges = body.get("ranges")
    if ranges is None and body.get("range") is not None:
        ranges = [body["range"]]
    windows: list[tuple[int, int]] | None = None
    if ranges is not None:
        if not isinstance(ranges, list) or len(ranges) > MAX_RANGES:
            raise bad_json(f"ranges is not a list of at most {MAX_RANGES} pairs")
        windows = []
        for pair in ranges:
            is_pair = isinstance(pair, list) and len(pair) == 2 and all(type(end) is int for end in pair)
            if not is_pair or not 0 <= pair[0] <= pair[1]:
                raise bad_json("ranges holds something else than pairs of a first and a last index")
            windows.append((pair[0], pair[1]))
    if body.get("slow_get_all_rooms") is True:
        windows = None
    sort = body.get("sort")
    return ListWish(
        _room(body, user_id),
        None if windows is None else tuple(windows),
        _list_filter(_object(body, "filters")),
        by_name=isinstance(sort, list) and sort[:1] == ["by_name"],
    )


def _types(body: Mapping[str, Any], name: str) -> frozenset[str | None] | None:
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, list) or not all(item is None or isinstance(item, str) for item in value):
        raise bad_json(f"{name} is not a list of strings and nulls")
    if len(value) > MAX_FILTER_VALUES:
        raise invalid_param(f"{name} has more than {MAX_FILTER_VALUES} entries")
    return frozenset(value)


def _set(values: list[str] | None) -> frozenset[str] | None:
    return None if values is None else frozenset(values)


def _list_filter(body: Mapping[str, Any]) -> ListFilter:
    return ListFilter(
        is_dm=_flag(body, "is_dm"),
        is_encrypted=_flag(body, "is_encrypted"),
        # COMPAT: the later draft has another name.
        is_invite=_flag(body, "is_invited" if body.get("is_invite") is None else "is_invite"),
        spaces=_set(_texts(body, "spaces")),
        room_types=_types(body, "room_types"),
        not_room_types=_types(body, "not_room_types") or frozenset(),
        tags=_set(_texts(body, "tags")),
        not_tags=_set(_texts(body, "not_tags")) or frozenset(),
        room_name_like=_text(body, "room_name_like"),
    )


def _extension(body: Mapping[str, Any]) -> ExtensionWish:
    lists, rooms = _texts(body, "lists"), _texts(body, "rooms")
    limit = body.get("limit")
    if limit is not None and (type(limit) is not int or limit < 1):
        raise bad_json("limit is not a positive whole number")
    return ExtensionWish(
        _set(lists),
        _set(rooms),
        _text(body, "since"),
        limit,
    )
