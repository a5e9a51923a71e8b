"""Room versions as data (rooms/): each version is the one before it and its named differences.

No other module branches on a version's number: it asks for a property here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from types import MappingProxyType


class EventIds(Enum):
    """How an event gets its id."""

    #: Chosen by the sending server, `$opaque:server` (rooms/v1).
    ASSIGNED = "assigned"
    #: The reference hash in standard Base64 (rooms/v3).
    STANDARD_BASE64 = "standard"
    #: The reference hash in URL-safe Base64 (rooms/v4).
    URL_SAFE_BASE64 = "url-safe"


class StateResolution(Enum):
    """Which algorithm merges the states of forks."""

    V1 = "1"
    V2 = "2"
    V2_1 = "2.1"


#: A content that keeps every key when it is redacted.
ALL_KEYS = frozenset({"*"})


@dataclass(frozen=True, slots=True)
class RedactionRules:
    """What survives the redaction algorithm (client-server §Redactions)."""

    top_level: frozenset[str]
    content: Mapping[str, frozenset[str]]
    #: rooms/v11: `content.third_party_invite` of a membership keeps `signed` and nothing else.
    keeps_third_party_signed: bool = False


@dataclass(frozen=True, slots=True)
class RoomVersion:
    """One room version. Every field names one difference that some version made."""

    identifier: str
    event_ids: EventIds
    #: rooms/v1–2: `prev_events` and `auth_events` are lists of [event id, hashes].
    references_carry_hashes: bool
    state_resolution: StateResolution
    redaction: RedactionRules
    #: rooms/v1–2 rule 11: redactions are judged by the authorization rules.
    redactions_need_authorization: bool
    #: rooms/v1–5 rule 4: `m.room.aliases` has a rule of its own.
    aliases_have_rule: bool
    #: rooms/v5: a key must be valid at the event's time.
    enforces_key_validity: bool = False
    #: rooms/v6: canonical JSON is enforced, so no floats and no integers beyond 2**53.
    enforces_canonical_json: bool = False
    #: rooms/v6 rules 9.4, 9.5: changes to `notifications` are limited by power.
    limits_notification_levels: bool = False
    #: rooms/v7.
    allows_knocking: bool = False
    #: rooms/v8.
    allows_restricted_joins: bool = False
    #: rooms/v10.
    allows_knock_restricted: bool = False
    #: rooms/v10 rules 9.1–9.3: power levels are integers, not strings.
    power_levels_are_integers: bool = False
    #: rooms/v11: the creator is the sender of the create event, not `content.creator`.
    creator_is_sender: bool = False
    #: rooms/v11: `redacts` stands in the content of a redaction.
    redacts_in_content: bool = False
    #: rooms/v12: creators (with `additional_creators`) have infinite power.
    creators_have_infinite_power: bool = False
    #: rooms/v12: the room id is the create event's hash; the create event carries no room id
    #: and is not selected for `auth_events`.
    room_id_is_create_hash: bool = False


def _content(**rules: str) -> Mapping[str, frozenset[str]]:
    return MappingProxyType(
        {
            "m.room." + name: ALL_KEYS if keys == "*" else frozenset(keys.split())
            for name, keys in rules.items()
        }
    )


_POWER_LEVELS = "ban events events_default kick redact state_default users users_default"

_REDACTION_V1 = RedactionRules(
    top_level=frozenset(
        "event_id type room_id sender state_key content hashes signatures depth prev_events prev_state "
        "auth_events origin origin_server_ts membership".split()
    ),
    content=_content(
        member="membership",
        create="creator",
        join_rules="join_rule",
        power_levels=_POWER_LEVELS,
        aliases="aliases",
        history_visibility="history_visibility",
    ),
)


def _without(rules: RedactionRules, dropped: str, **changed: str) -> RedactionRules:
    content = {name: keys for name, keys in rules.content.items() if name != dropped}
    return replace(rules, content=MappingProxyType({**content, **_content(**changed)}))


_REDACTION_V6 = _without(_REDACTION_V1, "m.room.aliases")
_REDACTION_V8 = _without(_REDACTION_V6, "", join_rules="join_rule allow")
_REDACTION_V9 = _without(_REDACTION_V8, "", member="membership join_authorised_via_users_server")
_REDACTION_V11 = replace(
    _without(_REDACTION_V9, "", create="*", power_levels=_POWER_LEVELS + " invite", redaction="redacts"),
    top_level=_REDACTION_V1.top_level - {"prev_state", "origin", "membership"},
    keeps_third_party_signed=True,
)

V1 = RoomVersion(
    identifier="1",
    event_ids=EventIds.ASSIGNED,
    references_carry_hashes=True,
    state_resolution=StateResolution.V1,
    redaction=_REDACTION_V1,
    redactions_need_authorization=True,
    aliases_have_rule=True,
)
V2 = replace(V1, identifier="2", state_resolution=StateResolution.V2)
V3 = replace(
    V2,
    identifier="3",
    event_ids=EventIds.STANDARD_BASE64,
    references_carry_hashes=False,
    redactions_need_authorization=False,
)
V4 = replace(V3, identifier="4", event_ids=EventIds.URL_SAFE_BASE64)
V5 = replace(V4, identifier="5", enforces_key_validity=True)
V6 = replace(
    V5,
    identifier="6",
    enforces_canonical_json=True,
    limits_notification_levels=True,
    aliases_have_rule=False,
    redaction=_REDACTION_V6,
)
V7 = replace(V6, identifier="7", allows_knocking=True)
V8 = replace(V7, identifier="8", allows_restricted_joins=True, redaction=_REDACTION_V8)
V9 = replace(V8, identifier="9", redaction=_REDACTION_V9)
V10 = replace(V9, identifier="10", allows_knock_restricted=True, power_levels_are_integers=True)
V11 = replace(V10, identifier="11", creator_is_sender=True, redacts_in_content=True, redaction=_REDACTION_V11)
V12 = replace(
    V11,
    identifier="12",
    state_resolution=StateResolution.V2_1,
    creators_have_infinite_power=True,
    room_id_is_create_hash=True,
)

ROOM_VERSIONS: Mapping[str, RoomVersion] = MappingProxyType(
    {version.identifier: version for version in (V1, V2, V3, V4, V5, V6, V7, V8, V9, V10, V11, V12)}
)


def room_version(identifier: object) -> RoomVersion | None:
    """The room version of that identifier, or None if comity does not know it."""
    return ROOM_VERSIONS.get(identifier) if isinstance(identifier, str) else None
