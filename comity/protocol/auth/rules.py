"""The authorization rules of every room version (server-server §Authorisation rules, rooms/).

Owns the two questions that are asked of an event: whether a set of state allows it
(`authorize`, asked of each state that the checks on receipt name, and `rule_on`, which says
which rule decided) and whether its `auth_events` are such as it may cite
(`check_auth_events`, asked once). It never computes a
state, and never checks signatures or hashes of the event itself. Room versions differ by the
fields of RoomVersion alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from comity.protocol import identifiers
from comity.protocol.auth import ruling as numbering
from comity.protocol.auth.membership import authorize_membership, membership_of
from comity.protocol.auth.power_levels import PowerLevels, authorize_power_levels
from comity.protocol.auth.ruling import Allowed as Allowed
from comity.protocol.auth.ruling import Denied as Denied
from comity.protocol.auth.ruling import Ruling as Ruling
from comity.protocol.auth.ruling import (
    allowed,
    auth_events_rule,
    create_rule_end,
    denied,
    federate_rule,
    last_rule,
    member_rule,
)
from comity.protocol.auth.selection import CREATE_KEY, POWER_LEVELS_KEY
from comity.protocol.auth.selection import StateLookup as StateLookup
from comity.protocol.auth.selection import auth_keys as auth_keys
from comity.protocol.event import Event, StateKey
from comity.protocol.room_versions import RoomVersion, room_version


def authorize(event: Event, state: StateLookup) -> Denied | None:
    """Whether the authorization rules allow `event` in a room of that state: None if they do.

    `state` answers for the keys of `auth_keys` and, in every room version, for the create
    event. The rules on `auth_events` themselves are `check_auth_events`.
    """
    ruling = rule_on(event, state)
    return ruling if isinstance(ruling, Denied) else None


def rule_on(event: Event, state: StateLookup) -> Ruling:
    """What `authorize` finds, with the rule that decided when the event is allowed too."""
    version = event.version
    event_type = event.type
    if event_type == "m.room.create":
        return _authorize_create(event)
    create = state(CREATE_KEY)
    if create is None:
        return _denied_without_create(version)
    if create.content.get("m.federate") is False and identifiers.server_of(
        event.sender
    ) != identifiers.server_of(create.sender):
        return denied(version, "The room does not federate with the sender's server", federate_rule(version))
    if event_type == "m.room.aliases" and version.aliases_have_rule:
        return _authorize_aliases(event)
    if event_type == "m.room.member":
        return authorize_membership(event, state, create)
    return _authorize_as_member(event, state, create)


def required_power(levels: PowerLevels, event_type: str, state_key: str | None) -> int:
    """The level that sending an event of that type takes, if it is not a membership.

    server-server §Definitions, and the *invite level* for `m.room.third_party_invite`. A
    redaction of another's event takes `levels.redact` beside it; a membership takes
    `levels.invite`, `kick` or `ban`.
    """
    if event_type == "m.room.third_party_invite":
        return levels.invite
    return levels.required(event_type, is_state=state_key is not None)


def check_auth_events(
    event: Event, auth_events: Sequence[Event], is_rejected: Callable[[str], bool], create: Event | None
) -> Denied | None:
    """The rule that considers an event's `auth_events` (rooms/v1 rule 2; rooms/v12 rules 2 and 3).

    `auth_events` are the events of `event.auth_event_ids`, all of them; `is_rejected` tells by
    id whether one was rejected. `create` is the accepted create event that the room id
    implies, used in room version 12 and later. A create event passes: its rule asks for none.
    """
    if event.type == "m.room.create":
        return None
    version = event.version
    if version.room_id_is_create_hash and not _is_create_of(event, create, is_rejected):
        return _denied_without_create(version)
    top = auth_events_rule(version)
    allowed = auth_keys(version, event.type, event.sender, event.state_key, event.content)
    seen: set[StateKey] = set()
    for entry in auth_events:
        if entry.state_key is None:
            return denied(version, "An auth event is not a state event", top, 2)
        key = entry.type, entry.state_key
        if key in seen:
            return denied(version, "Two auth events have the same type and state key", top, 1)
        seen.add(key)
        if key not in allowed:
            return denied(version, "An auth event is none that the event may cite", top, 2)
        if is_rejected(entry.event_id):
            return denied(version, "An auth event was rejected", top, 3)
        if entry.room_id != event.room_id:
            return denied(version, "An auth event is of another room", top, 5)
    if not version.room_id_is_create_hash and CREATE_KEY not in seen:
        return _denied_without_create(version)
    return None


@dataclass(frozen=True, slots=True)
class Cited:
    """Auth events that the rule on them denies nobody who is of their room and may cite their keys."""

    room_id: str
    keys: frozenset[StateKey]

    def may_be_cited_by(self, event: Event) -> bool:
        """Whether `check_auth_events` passes for an event whose auth events these are."""
        return event.room_id == self.room_id and self.keys.issubset(
            auth_keys(event.version, event.type, event.sender, event.state_key, event.content)
        )


def cited(
    version: RoomVersion,
    auth_events: Sequence[Event],
    is_rejected: Callable[[str], bool],
    create: Event | None,
) -> Cited | None:
    """What many events that cite the same auth events have in common, of `check_auth_events`' questions.

    The arguments are those of `check_auth_events`. None: each of the events is to be asked by itself.
    """
    if version.room_id_is_create_hash:
        if create is None or create.type != "m.room.create" or is_rejected(create.event_id):
            return None
        room_id = create.room_id
    elif auth_events:
        room_id = auth_events[0].room_id
    else:
        return None
    keys = {entry.key for entry in auth_events if entry.is_state}
    sound = len(keys) == len(auth_events) and (version.room_id_is_create_hash or CREATE_KEY in keys)
    for entry in auth_events:
        sound = sound and entry.room_id == room_id and not is_rejected(entry.event_id)
    return Cited(room_id, frozenset(keys)) if sound else None


def _is_create_of(event: Event, create: Event | None, is_rejected: Callable[[str], bool]) -> bool:
    return (
        create is not None
        and create.type == "m.room.create"
        and create.room_id == event.room_id
        and not is_rejected(create.event_id)
    )


def _denied_without_create(version: RoomVersion) -> Denied:
    if version.room_id_is_create_hash:
        return denied(version, "The room id is not that of an accepted create event", 2)
    return denied(version, "There is no create event among the auth events", 2, 4)


def _authorize_create(event: Event) -> Ruling:
    """Rule 1."""
    version = event.version
    content = event.content
    if event.prev_event_ids:
        return denied(version, "A create event has no previous events", 1, 1)
    if version.room_id_is_create_hash:
        if "room_id" in event.source:
            return denied(version, "A create event has no room_id in this room version", 1, 2)
    elif identifiers.server_of(event.room_id) != identifiers.server_of(event.sender):
        return denied(version, "The room id is not of the sender's server", 1, 2)
    if "room_version" in content and room_version(content["room_version"]) is None:
        return denied(version, "The room version is not a recognised one", 1, 3)
    if not version.creator_is_sender and "creator" not in content:
        return denied(version, "The create event names no creator", 1, 4)
    if version.creators_have_infinite_power and "additional_creators" in content:
        additional = content["additional_creators"]
        if not isinstance(additional, list) or not all(map(identifiers.is_user_id, additional)):
            return denied(version, "The additional creators are not a list of user ids", 1, 4)
    return allowed(version, "It creates the room", 1, create_rule_end(version))


def _authorize_aliases(event: Event) -> Ruling:
    """rooms/v1 rule 4."""
    if event.state_key is None:
        return denied(event.version, "Aliases need a state_key", 4, 1)
    if identifiers.server_of(event.sender) != event.state_key:
        return denied(event.version, "Aliases can be published for the sender's server alone", 4, 2)
    return allowed(event.version, "Aliases of the sender's own server", 4, 3)


def _authorize_as_member(event: Event, state: StateLookup, create: Event) -> Ruling:
    """The rules after the one on memberships (rooms/v1 rules 6–12)."""
    version = event.version
    top = member_rule(version)
    sender = event.sender
    state_key = event.state_key
    if membership_of(state, sender) != "join":
        return denied(version, "The sender is not in the room", top + numbering.JOINED)
    current = state(POWER_LEVELS_KEY)
    levels = PowerLevels(version, create, current)
    own = levels.user(sender)
    if event.type == "m.room.third_party_invite":
        rule = top + numbering.THIRD_PARTY_INVITE
        if own >= levels.invite:
            return allowed(version, "The sender may invite", rule, 1)
        return denied(version, "The sender's power does not suffice to invite", rule, 1)
    if levels.required(event.type, is_state=state_key is not None) > own:
        rule = top + numbering.REQUIRED_POWER
        return denied(version, "The sender's power does not suffice for events of this type", rule)
    if state_key is not None and state_key != sender and state_key.startswith("@"):
        rule = top + numbering.FOREIGN_STATE_KEY
        return denied(version, "The state key belongs to another user", rule)
    if event.type == "m.room.power_levels":
        return authorize_power_levels(event, create, current, own)
    if event.type == "m.room.redaction" and version.redactions_need_authorization:
        return _authorize_redaction(event, own >= levels.redact, top + numbering.REDACTION)
    return allowed(version, "A member whose power suffices for events of this type", last_rule(version))


def _authorize_redaction(event: Event, has_redact_level: bool, rule: int) -> Ruling:
    """rooms/v1 rule 11: without the power to redact, only events of one's own server."""
    if has_redact_level:
        return allowed(event.version, "The sender's power suffices to redact", rule, 1)
    redacts = event.redacts
    if redacts is not None and identifiers.server_of(redacts) == identifiers.server_of(event.event_id):
        return allowed(event.version, "The redaction is of an event of the same server", rule, 2)
    return denied(event.version, "The sender may redact events of their own server only", rule, 3)
