"""The answer of the authorization rules: a Ruling, which names the rule that decided.

Owns how a rule is numbered in each room version, so that a ruling names the rule that the
reader finds in the specification. It never judges anything.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from comity.protocol.room_versions import RoomVersion

#: Rules that follow the one on `m.room.member`, as distances from it (rooms/v1 5–11, v6 4–9, v12 5–10).
JOINED, THIRD_PARTY_INVITE, REQUIRED_POWER, FOREIGN_STATE_KEY, POWER_LEVELS, REDACTION = range(1, 7)


@dataclass(frozen=True, slots=True)
class Denied:
    """Why an event is not authorized."""

    #: The rule's place in the specification, as `rooms/v12 rule 5.3.3`.
    rule: str
    #: A sentence that is safe to tell anybody: it names no user and quotes no content.
    reason: str


@dataclass(frozen=True, slots=True)
class Allowed:
    """Why an event is authorized: the rule that let it through, and what that rule says."""

    rule: str
    reason: str


Ruling = Allowed | Denied


def denied(version: RoomVersion, reason: str, *rule: int) -> Denied:
    """A denial under the rule of those numbers, in the numbering of `version`."""
    return Denied(_place(version.identifier, rule), reason)


def allowed(version: RoomVersion, reason: str, *rule: int) -> Allowed:
    """A permission under the rule of those numbers, in the numbering of `version`."""
    return _allowed(version.identifier, reason, rule)


# Most events are allowed, and by few rules: their rulings are made once.
@functools.cache
def _allowed(version: str, reason: str, rule: tuple[int, ...]) -> Allowed:
    return Allowed(_place(version, rule), reason)


def _place(version: str, rule: tuple[int, ...]) -> str:
    return f"rooms/v{version} rule {'.'.join(map(str, rule))}"


def create_rule_end(version: RoomVersion) -> int:
    """The number of the last part of rule 1: *otherwise, allow*."""
    return 4 if version.creator_is_sender and not version.creators_have_infinite_power else 5


def auth_events_rule(version: RoomVersion) -> int:
    """The number of the rule on an event's `auth_events`."""
    return 3 if version.room_id_is_create_hash else 2


def federate_rule(version: RoomVersion) -> int:
    """The number of the rule on `m.federate`; `m.room.aliases`, if it has a rule, follows it."""
    return auth_events_rule(version) + 1


def member_rule(version: RoomVersion) -> int:
    """The number of the rule on `m.room.member`, from which later ones are counted."""
    return federate_rule(version) + (2 if version.aliases_have_rule else 1)


def last_rule(version: RoomVersion) -> int:
    """The number of the last rule: *otherwise, allow*."""
    return member_rule(version) + REDACTION + version.redactions_need_authorization
