"""What a replacement room takes over of the room that it replaces, as its room version wants it.

Contents alone (client-server §Room Upgrades, rooms/v12 §Authorization rules): who may upgrade, and
how the rooms change, is `comity.rooms.upgrade`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from comity.protocol import identifiers
from comity.protocol.auth.power_levels import CREATOR_POWER, LEVEL_PROPERTIES, creators, read_level
from comity.protocol.canonical_json import MAX_INTEGER
from comity.protocol.event import Event
from comity.protocol.room_versions import RoomVersion
from comity.rooms.create import CREATORS_ALONE

#: Types of state that are carried over as they are: those that the specification recommends and, so
#: that a room is no less protected than it was, its policy server. Others stay: what they mean may
#: rest on who sent them.
AS_IT_IS = (
    "m.room.server_acl",
    "m.room.policy",
    "m.room.encryption",
    "m.room.name",
    "m.room.avatar",
    "m.room.topic",
    "m.room.guest_access",
    "m.room.history_visibility",
)
_GROUPS = ("events", "notifications", "users")
#: client-server §Room Upgrades: below this, nobody talks in a room that was replaced, or invites to it.
LEAST_LEVEL = 50


def join_rules(content: Mapping[str, Any], version: RoomVersion) -> dict[str, Any]:
    """The join rules, and the stricter rule where the version does not know the room's own.

    The list of rooms whose members may join is kept.
    """
    rule = content.get("join_rule")
    if rule == "knock_restricted" and not version.allows_knock_restricted:
        rule = "restricted" if version.allows_restricted_joins else "knock"
    if rule == "restricted" and not version.allows_restricted_joins:
        rule = "invite"
    if rule == "knock" and not version.allows_knocking:
        rule = "invite"
    return {**content, "join_rule": rule}


def canonical_alias(content: Mapping[str, Any], moved: Collection[str], *, keep: bool) -> dict[str, Any]:
    """The aliases of a content that are among the `moved` ones, or (not `keep`) those that are not.

    Aliases of other servers go on leading to the old room.
    """
    found: dict[str, Any] = {}
    alias, others = content.get("alias"), content.get("alt_aliases")
    if isinstance(alias, str) and (alias in moved) == keep:
        found["alias"] = alias
    kept = [name for name in others if (name in moved) == keep] if isinstance(others, list) else []
    if kept:
        found["alt_aliases"] = kept
    return found


def power_levels(
    create: Event, levels: Event | None, version: RoomVersion, new_creators: Collection[str]
) -> dict[str, Any]:
    """The power levels of a replacement room, from the old room's create and power levels events.

    rooms/v12: creators have no level, so those of the new room are taken out. Creators of the old
    room who had no level and are no creators any more get the highest that there is.
    """
    content = _levels(create.version, levels.content if levels is not None else {})
    users, events = content.setdefault("users", {}), content.setdefault("events", {})
    former: Collection[str] = creators(create.version, create)
    if create.version.creators_have_infinite_power:
        numbers = [content[name] for name in LEVEL_PROPERTIES if name in content]
        top = max(CREATOR_POWER, *numbers, *users.values(), *events.values())
        users |= dict.fromkeys(sorted(former), top)
    elif levels is None:
        users |= dict.fromkeys(former, CREATOR_POWER)
    if version.creators_have_infinite_power:
        for user_id in new_creators:
            users.pop(user_id, None)
        state_default = content.get("state_default", LEAST_LEVEL)
        if events.get("m.room.tombstone", state_default) <= state_default:
            # client-server §Creation: the level of tombstones MUST be above that of other state.
            events["m.room.tombstone"] = min(max(CREATORS_ALONE, state_default + 1), MAX_INTEGER)
    return content


def _levels(version: RoomVersion, content: Mapping[str, Any]) -> dict[str, Any]:
    """The levels of a content as integers: older rooms may have strings, and what is no level."""
    found: dict[str, Any] = {}
    for name in LEVEL_PROPERTIES:
        level = read_level(version, content.get(name))
        if level is not None:
            found[name] = _bounded(level)
    for group in _GROUPS:
        entries = content.get(group)
        if not isinstance(entries, dict):
            continue
        read = {name: read_level(version, value) for name, value in entries.items()}
        found[group] = {
            name: _bounded(level)
            for name, level in read.items()
            if level is not None and (group != "users" or identifiers.is_user_id(name))
        }
    return found


def _bounded(level: int) -> int:
    return min(max(level, -MAX_INTEGER), MAX_INTEGER)


def restrained(create: Event, levels: Event | None) -> dict[str, Any] | None:
    """The old room's power levels such that ordinary users neither talk nor invite; None: they are.

    client-server §Room Upgrades, step 6.
    """
    version = create.version
    content: dict[str, Any] = dict(levels.content) if levels is not None else {}
    if levels is None and not version.creators_have_infinite_power:
        content["users"] = dict.fromkeys(creators(version, create), CREATOR_POWER)
    users_default = read_level(version, content.get("users_default")) or 0
    least = min(max(LEAST_LEVEL, users_default + 1), MAX_INTEGER)
    changed = False
    for name in ("events_default", "invite"):
        if (read_level(version, content.get(name)) or 0) < least:
            content[name], changed = least, True
    return content if changed else None
