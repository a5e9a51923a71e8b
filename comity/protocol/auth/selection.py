"""Which entries of a room's state authorize an event (server-server §Auth events selection).

Owns the selection and the names of the state keys that the rules read. It never looks at a
state itself: the same selection serves to build an event and to check one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from comity.protocol.event import Event, StateKey
from comity.protocol.room_versions import RoomVersion

#: A state to judge by: the event at a key, or None. In room version 12 and later it has the
#: create event at CREATE_KEY although no event's `auth_events` name it.
StateLookup = Callable[[StateKey], Event | None]

CREATE_KEY: StateKey = ("m.room.create", "")
POWER_LEVELS_KEY: StateKey = ("m.room.power_levels", "")
JOIN_RULES_KEY: StateKey = ("m.room.join_rules", "")


def third_party_token(content: Mapping[str, Any]) -> str | None:
    """`third_party_invite.signed.token` of a membership's content, if it is a string."""
    invite = content.get("third_party_invite")
    signed = invite.get("signed") if isinstance(invite, dict) else None
    token = signed.get("token") if isinstance(signed, dict) else None
    return token if isinstance(token, str) else None


def auth_keys(
    version: RoomVersion, event_type: str, sender: str, state_key: str | None, content: Mapping[str, Any]
) -> tuple[StateKey, ...]:
    """The state keys whose entries, where there are any, are the event's `auth_events`.

    Without duplicates, in a fixed order; empty for `m.room.create`.
    """
    if event_type == "m.room.create":
        return ()
    own_member = ("m.room.member", sender)
    if event_type != "m.room.member":
        if version.room_id_is_create_hash:
            return POWER_LEVELS_KEY, own_member
        return CREATE_KEY, POWER_LEVELS_KEY, own_member
    # A dict, because it keeps the order and drops what comes twice.
    keys: dict[StateKey, None] = {} if version.room_id_is_create_hash else {CREATE_KEY: None}
    keys[POWER_LEVELS_KEY] = None
    keys[own_member] = None
    if state_key is not None:
        keys["m.room.member", state_key] = None
    membership = content.get("membership")
    if membership in ("join", "invite", "knock"):
        keys[JOIN_RULES_KEY] = None
    if membership == "invite":
        token = third_party_token(content)
        if token is not None:
            keys["m.room.third_party_invite", token] = None
    elif membership == "join" and version.allows_restricted_joins:
        authoriser = content.get("join_authorised_via_users_server")
        if isinstance(authoriser, str):
            keys["m.room.member", authoriser] = None
    return tuple(keys)
