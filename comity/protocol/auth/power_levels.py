"""Power levels: who has how much, what needs how much, and who may change that.

Owns the reading of `m.room.power_levels` with its defaults (client-server §m.room.power_levels,
server-server §Definitions) and the rule on events of that type (rooms/v1–v5 rule 10, v6–v11
rule 9, v12 rule 10). It never decides about other events.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from typing import Any

from comity.protocol import identifiers
from comity.protocol.auth.ruling import POWER_LEVELS, Denied, Ruling, allowed, denied, member_rule
from comity.protocol.event import Event
from comity.protocol.room_versions import RoomVersion

#: What a creator has in a room without power levels event, before room version 12.
CREATOR_POWER = 100
#: Levels whose property is absent.
DEFAULT_STATE_LEVEL = 50
DEFAULT_NOTIFICATION_LEVEL = 50
#: The integer-valued properties that the rule compares one by one.
LEVEL_PROPERTIES = ("users_default", "events_default", "state_default", "ban", "redact", "kick", "invite")
#: The largest double has 309 digits before the point; longer numbers in strings are outside the
#: range that rooms/v1 §floats allows, and cost time to read.
MAX_LEVEL_DIGITS = 309

_STRING_INTEGER = re.compile(r"\s*(?P<sign>[+-]?)(?P<digits>[0-9]+)\s*", re.ASCII)
_NOTHING: Mapping[str, Any] = {}


def read_level(version: RoomVersion, value: object) -> int | None:
    """A power level as an integer, or None for a value that is none in that room version.

    rooms/v1 §Deprecated event content schemas: up to room version 9 a string of an integer
    counts, and a float (possible up to room version 5) is truncated.
    """
    if type(value) is int:
        return value
    if version.power_levels_are_integers:
        return None
    if type(value) is float:
        return int(value) if math.isfinite(value) else None
    if type(value) is str:
        match = _STRING_INTEGER.fullmatch(value)
        digits = match["digits"].lstrip("0") if match is not None else ""
        if match is not None and len(digits) <= MAX_LEVEL_DIGITS:
            return int(match["sign"] + (digits or "0"))
    return None


def creators(version: RoomVersion, create: Event) -> Collection[str]:
    """The users that a create event makes creators of its room.

    rooms/v12: the sender and `additional_creators`; rooms/v11: the sender; before that,
    `content.creator`.
    """
    if version.creators_have_infinite_power:
        additional = create.content.get("additional_creators")
        if isinstance(additional, list):
            return frozenset([create.sender, *(user for user in additional if isinstance(user, str))])
        return (create.sender,)
    creator = room_creator(version, create)
    return () if creator is None else (creator,)


def room_creator(version: RoomVersion, create: Event) -> str | None:
    """The user who may join first: the create event's sender, or `content.creator` before v11."""
    if version.creator_is_sender:
        return create.sender
    creator = create.content.get("creator")
    return creator if isinstance(creator, str) else None


class PowerLevels:
    """The levels in force under a create event and a power levels event, either of them absent.

    Cheap to make: nothing is read before it is asked for. A value that is no level counts as
    absent.
    """

    __slots__ = ("_content", "_creators", "_version")

    def __init__(self, version: RoomVersion, create: Event | None, power_levels: Event | None) -> None:
        self._version = version
        self._content = None if power_levels is None else power_levels.content
        self._creators: Collection[str] = ()
        if create is not None and (power_levels is None or version.creators_have_infinite_power):
            self._creators = creators(version, create)

    def user(self, user_id: str) -> int | float:
        """A user's level; `math.inf` for a creator in room version 12 and later."""
        if user_id in self._creators:
            return math.inf if self._version.creators_have_infinite_power else CREATOR_POWER
        level = self._entry("users", user_id)
        return self._level("users_default", 0) if level is None else level

    def required(self, event_type: str, *, is_state: bool) -> int:
        """server-server §Definitions, *required power level* to send an event of that type."""
        level = self._entry("events", event_type)
        if level is not None:
            return level
        if is_state:
            return self._level("state_default", DEFAULT_STATE_LEVEL)
        return self._level("events_default", 0)

    def notification(self, name: str) -> int:
        """The level at which a notification of that name (`room`) may be triggered."""
        level = self._entry("notifications", name)
        return DEFAULT_NOTIFICATION_LEVEL if level is None else level

    @property
    def invite(self) -> int:
        """The *invite level*."""
        return self._level("invite", 0)

    @property
    def kick(self) -> int:
        """The *kick level*."""
        return self._level("kick", 50)

    @property
    def ban(self) -> int:
        """The *ban level*."""
        return self._level("ban", 50)

    @property
    def redact(self) -> int:
        """The *redact level*."""
        return self._level("redact", 50)

    def _level(self, name: str, default: int) -> int:
        if self._content is None:
            return default
        value = self._content.get(name)
        if value is None:
            return default
        level = read_level(self._version, value)
        return default if level is None else level

    def _entry(self, group: str, name: str) -> int | None:
        if self._content is None:
            return None
        entries = self._content.get(group)
        value = entries.get(name) if isinstance(entries, dict) else None
        return None if value is None else read_level(self._version, value)


def authorize_power_levels(event: Event, create: Event, current: Event | None, sender_level: float) -> Ruling:
    """The rule on `m.room.power_levels` events; `current` is the one in force, if any."""
    version = event.version
    top = member_rule(version) + POWER_LEVELS
    denial = _check_values(event, top)
    if denial is not None:
        return denial
    users = _group(event.content, "users")
    if version.creators_have_infinite_power and not users.keys().isdisjoint(creators(version, create)):
        return denied(version, "Power levels must not list a creator of the room", top, 4)
    # Rooms/v10 put two rules before the one on single levels, rooms/v12 one more.
    first = 3 + 2 * version.power_levels_are_integers + version.creators_have_infinite_power
    if current is None:
        return allowed(version, "The room has had no power levels", top, first - 1)
    denial = _check_properties(event, current, sender_level, (top, first))
    if denial is not None:
        return denial
    for group in ("events", "notifications") if version.limits_notification_levels else ("events",):
        denial = _check_group(event, current, group, sender_level, (top, first + 1))
        if denial is not None:
            return denial
    denial = _check_group(event, current, "users", sender_level, (top, first + 3))
    return denial or allowed(version, "Every changed level is within the sender's own", top, first + 5)


def _group(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    entries = content.get(name)
    return entries if isinstance(entries, dict) else _NOTHING


def _check_values(event: Event, top: int) -> Denied | None:
    """What must hold of the event alone (rooms/v1 rule 10.1, rooms/v10 rules 9.1–9.3)."""
    version, content = event.version, event.content
    users_rule = 1
    if version.power_levels_are_integers:
        users_rule = 3
        for name in LEVEL_PROPERTIES:
            if name in content and type(content[name]) is not int:
                return denied(version, "A power level is not an integer", top, 1)
        for name in ("events", "notifications"):
            if name in content and not _are_levels(version, content[name]):
                return denied(version, f"The {name} of power levels are not an object of integers", top, 2)
    # A content without `users` is allowed: nobody but the default has a level then.
    if "users" in content:
        users = content["users"]
        if not _are_levels(version, users):
            return denied(version, "The users of power levels are not an object of integers", top, users_rule)
        if not all(identifiers.is_user_id(user) for user in users):
            return denied(version, "The users of power levels are not all user ids", top, users_rule)
    return None


def _are_levels(version: RoomVersion, value: object) -> bool:
    return isinstance(value, dict) and all(read_level(version, level) is not None for level in value.values())


def _changed(
    version: RoomVersion, old: Mapping[str, Any], new: Mapping[str, Any], names: Collection[str]
) -> list[tuple[str, int | None, int | None, bool]]:
    """(name, current, new, whether the new value is unreadable) for each that differs."""
    changes = []
    for name in names:
        # The usual entry is the same object or an equal integer: say so before reading it.
        before, after = old.get(name), new.get(name)
        if type(before) is int and type(after) is int and before == after:
            continue
        current = read_level(version, before)
        wanted = read_level(version, after)
        unreadable = name in new and wanted is None
        if current != wanted or unreadable:
            changes.append((name, current, wanted, unreadable))
    return changes


def _check_properties(
    event: Event, current: Event, sender_level: float, rule: tuple[int, int]
) -> Denied | None:
    """Alterations of the single levels (rooms/v1 rule 10.3)."""
    version = event.version
    for _, before, after, unreadable in _changed(version, current.content, event.content, LEVEL_PROPERTIES):
        if before is not None and before > sender_level:
            return denied(version, "A level above the sender's own cannot be altered", *rule, 1)
        # A value that nobody can compare is not shown to be within the sender's power.
        if unreadable or (after is not None and after > sender_level):
            return denied(version, "A level cannot be set above the sender's own", *rule, 2)
    return None


def _check_group(
    event: Event, current: Event, group: str, sender_level: float, rule: tuple[int, int]
) -> Denied | None:
    """Alterations in `events`, `notifications` or `users` (rooms/v1 rules 10.4–10.7).

    `rule` is the number of the rule on current values; the one on new values is the next.
    """
    version = event.version
    top, number = rule
    old, new = _group(current.content, group), _group(event.content, group)
    names = [*old, *(name for name in new if name not in old)]
    for name, before, after, unreadable in _changed(version, old, new, names):
        if before is not None:
            if group != "users":
                is_out_of_reach = before > sender_level
            else:
                is_out_of_reach = before >= sender_level and name != event.sender
            if is_out_of_reach:
                reason = f"An entry of {group} that the sender's level does not reach cannot be altered"
                return denied(version, reason, top, number, 1)
        if unreadable or (after is not None and after > sender_level):
            reason = f"An entry of {group} cannot be set above the sender's own level"
            return denied(version, reason, top, number + 1, 1)
    return None
