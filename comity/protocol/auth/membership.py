"""The rule on `m.room.member` (rooms/v1–v5 rule 5, v6–v11 rule 4, v12 rule 5).

Owns who may join, invite, leave, kick, ban, unban and knock. It reads the state through a
lookup and nothing else; whether the servers' signatures on an event are true is checked
before (`comity.protocol.signing.required_signers`).
"""

from __future__ import annotations

from comity.protocol import identifiers
from comity.protocol.auth.power_levels import PowerLevels, room_creator
from comity.protocol.auth.ruling import Ruling, allowed, denied, member_rule
from comity.protocol.auth.selection import JOIN_RULES_KEY, POWER_LEVELS_KEY, StateLookup, third_party_token
from comity.protocol.auth.third_party import keys_that_signed
from comity.protocol.event import Event


def membership_of(state: StateLookup, user_id: str) -> str:
    """A user's current membership; `leave` for one who has none."""
    event = state(("m.room.member", user_id))
    return "leave" if event is None else event.membership or "leave"


def authorize_membership(event: Event, state: StateLookup, create: Event) -> Ruling:
    """The rule on `m.room.member` for `event`, judged by `state`."""
    version = event.version
    top = member_rule(version)
    target = event.state_key
    membership = event.membership
    if target is None or membership is None:
        return denied(version, "A membership needs a state_key and a membership", top, 1)
    # Rooms/v8 put a rule of its own before the one on joins.
    shift = 1 if version.allows_restricted_joins else 0
    if shift and "join_authorised_via_users_server" in event.content and not _signed_by_authoriser(event):
        return denied(version, "The authorising user's server has not signed the membership", top, 2, 1)
    levels = PowerLevels(version, create, state(POWER_LEVELS_KEY))
    if membership == "join":
        return _join(event, target, state, create, levels, (top, 2 + shift))
    if membership == "invite":
        return _invite(event, target, state, levels, (top, 3 + shift))
    if membership == "leave":
        return _leave(event, target, state, levels, (top, 4 + shift))
    if membership == "ban":
        return _ban(event, target, state, levels, (top, 5 + shift))
    if membership == "knock" and version.allows_knocking:
        return _knock(event, target, state, (top, 6 + shift))
    unknown = 6 + shift + (1 if version.allows_knocking else 0)
    return denied(version, "The membership is not one that this room version knows", top, unknown)


def _signed_by_authoriser(event: Event) -> bool:
    """rooms/v8 rule 4.2: whether the server is among the signers; that it is true was checked before."""
    authoriser = identifiers.split_user_id(event.content["join_authorised_via_users_server"])
    return authoriser is not None and bool(event.source.get("signatures", {}).get(authoriser[1]))


def _join_rule(state: StateLookup) -> object:
    """The join rule in force. A room without one is open to the invited only."""
    event = state(JOIN_RULES_KEY)
    return "invite" if event is None else event.content.get("join_rule", "invite")


def _join(
    event: Event, target: str, state: StateLookup, create: Event, levels: PowerLevels, rule: tuple[int, int]
) -> Ruling:
    version = event.version
    if event.prev_event_ids == (create.event_id,) and target == room_creator(version, create):
        return allowed(version, "The creator joins their new room", *rule, 1)
    if event.sender != target:
        return denied(version, "Nobody can make another user join", *rule, 2)
    current = membership_of(state, target)
    if current == "ban":
        return denied(version, "The sender is banned from the room", *rule, 3)
    join_rule = _join_rule(state)
    restricts = version.allows_restricted_joins
    if join_rule == "public":
        return allowed(version, "The room is public", *rule, 6 if restricts else 5)
    is_expected = current in ("join", "invite")
    if join_rule == "invite" or (join_rule == "knock" and version.allows_knocking):
        if is_expected:
            return allowed(version, "The sender is in the room or invited to it", *rule, 4)
    elif (join_rule == "restricted" and restricts) or (
        join_rule == "knock_restricted" and version.allows_knock_restricted
    ):
        if is_expected:
            return allowed(version, "The sender is in the room or invited to it", *rule, 5, 1)
        if _is_authorised(event, state, levels):
            return allowed(version, "The join is authorised by a member who may invite", *rule, 5, 3)
        return denied(version, "The join is not authorised by a member who may invite", *rule, 5, 2)
    return denied(version, "The room's join rule does not let the sender in", *rule, 7 if restricts else 6)


def _is_authorised(event: Event, state: StateLookup, levels: PowerLevels) -> bool:
    authoriser = event.content.get("join_authorised_via_users_server")
    return (
        isinstance(authoriser, str)
        and membership_of(state, authoriser) == "join"
        and levels.user(authoriser) >= levels.invite
    )


def _invite(
    event: Event, target: str, state: StateLookup, levels: PowerLevels, rule: tuple[int, int]
) -> Ruling:
    version = event.version
    if "third_party_invite" in event.content:
        return _third_party_invite(event, target, state, (*rule, 1))
    if membership_of(state, event.sender) != "join":
        return denied(version, "The sender is not in the room", *rule, 2)
    if membership_of(state, target) in ("join", "ban"):
        return denied(version, "The user is in the room already or banned from it", *rule, 3)
    if levels.user(event.sender) >= levels.invite:
        return allowed(version, "The sender may invite", *rule, 4)
    return denied(version, "The sender's power does not suffice to invite", *rule, 5)


def _third_party_invite(event: Event, target: str, state: StateLookup, rule: tuple[int, int, int]) -> Ruling:
    version = event.version
    if membership_of(state, target) == "ban":
        return denied(version, "The user is banned from the room", *rule, 1)
    invite = event.content["third_party_invite"]
    signed = invite.get("signed") if isinstance(invite, dict) else None
    if not isinstance(signed, dict):
        return denied(version, "The third-party invite has no signed part", *rule, 2)
    token = third_party_token(event.content)
    if token is None or "mxid" not in signed:
        return denied(version, "The third-party invite's signed part lacks mxid or token", *rule, 3)
    if signed["mxid"] != target:
        return denied(version, "The third-party invite was signed for another user", *rule, 4)
    pending = state(("m.room.third_party_invite", token))
    if pending is None:
        return denied(version, "The room knows no third-party invite of that token", *rule, 5)
    if pending.sender != event.sender:
        return denied(version, "The third-party invite was made by another user", *rule, 6)
    if next(keys_that_signed(signed, pending.content), None) is not None:
        return allowed(version, "The third-party invite is signed by a key that the room knows", *rule, 7)
    return denied(version, "No signature of the third-party invite holds", *rule, 8)


def _leave(
    event: Event, target: str, state: StateLookup, levels: PowerLevels, rule: tuple[int, int]
) -> Ruling:
    version = event.version
    current = membership_of(state, target)
    if event.sender == target:
        if current in ("invite", "join") or (current == "knock" and version.allows_knocking):
            return allowed(version, "The sender leaves, or lets an invite or a knock go", *rule, 1)
        return denied(version, "The sender is not in the room and has nothing to leave", *rule, 1)
    if membership_of(state, event.sender) != "join":
        return denied(version, "The sender is not in the room", *rule, 2)
    own = levels.user(event.sender)
    if current == "ban" and own < levels.ban:
        return denied(version, "The sender's power does not suffice to unban", *rule, 3)
    if own >= levels.kick and levels.user(target) < own:
        return allowed(version, "The sender's power suffices to remove that user", *rule, 4)
    return denied(version, "The sender's power does not suffice to remove that user", *rule, 5)


def _ban(event: Event, target: str, state: StateLookup, levels: PowerLevels, rule: tuple[int, int]) -> Ruling:
    version = event.version
    if membership_of(state, event.sender) != "join":
        return denied(version, "The sender is not in the room", *rule, 1)
    own = levels.user(event.sender)
    if own >= levels.ban and levels.user(target) < own:
        return allowed(version, "The sender's power suffices to ban that user", *rule, 2)
    return denied(version, "The sender's power does not suffice to ban that user", *rule, 3)


def _knock(event: Event, target: str, state: StateLookup, rule: tuple[int, int]) -> Ruling:
    version = event.version
    join_rule = _join_rule(state)
    if join_rule != "knock" and not (join_rule == "knock_restricted" and version.allows_knock_restricted):
        return denied(version, "The room's join rule does not allow knocking", *rule, 1)
    if event.sender != target:
        return denied(version, "Nobody can knock for another user", *rule, 2)
    if membership_of(state, target) in ("ban", "invite", "join"):
        return denied(version, "The sender is in the room, invited to it or banned from it", *rule, 4)
    return allowed(version, "The room takes knocks", *rule, 3)
