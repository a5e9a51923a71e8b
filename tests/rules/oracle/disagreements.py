"""Where the two sides are known to differ, and who is right: each class narrow, with its section.

A class is told from everything else by a predicate over one event and what the two sides said of
it. What no predicate knows is a finding. One minimised case of each class is kept in `cases/`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from comity.protocol.auth.power_levels import read_level
from comity.protocol.identifiers import is_user_id, server_of
from comity.protocol.room_versions import ROOM_VERSIONS, RoomVersion
from tests.rules.oracle.generator import Graph

Answer = Mapping[str, Any]
Predicate = Callable[[Graph, Mapping[str, Any], Answer, Answer], bool]


@dataclass(frozen=True)
class Disagreement:
    """One class of disagreements."""

    name: str
    #: "comity" or "neither": the specification says what comity does, or does not say.
    right: str
    specification: str
    told: str
    applies: Predicate


def find(graph: Graph, pdu: Mapping[str, Any], ours: Answer, theirs: Answer) -> Disagreement | None:
    """The class that a disagreement about one event belongs to."""
    return next((known for known in KNOWN if known.applies(graph, pdu, ours, theirs)), None)


def _only_we_deny(ours: Answer, theirs: Answer) -> bool:
    return any(theirs.get(fact) and not ours.get(fact) for fact in ("cited", "before"))


def _raises(_: Graph, __: Mapping[str, Any], ___: Answer, theirs: Answer) -> bool:
    return str(theirs.get("why", "")).startswith("RAISED")


def _unfederated_invite(graph: Graph, pdu: Mapping[str, Any], ours: Answer, theirs: Answer) -> bool:
    creates = [one for one in graph.events if one["type"] == "m.room.create"]
    is_ours = server_of(pdu["sender"]) == server_of(creates[0]["sender"])
    return (
        "unfederatable" in str(theirs.get("why"))
        and (is_ours or any(one["content"].get("m.federate") is not False for one in creates))
        and "does not federate" not in str(ours.get("why"))
    )


def _no_domain(_: Graph, pdu: Mapping[str, Any], ours: Answer, theirs: Answer) -> bool:
    return (
        pdu["type"] == "m.room.member"
        and "Invalid ID" in str(theirs.get("why"))
        and not is_user_id(pdu.get("state_key"))
        and bool(ours.get("cited"))
    )


def _odd_user_ids(_: Graph, pdu: Mapping[str, Any], ours: Answer, theirs: Answer) -> bool:
    users = pdu["content"].get("users")
    return (
        pdu["type"] == "m.room.power_levels"
        and isinstance(users, dict)
        and not all(map(is_user_id, users))
        and "not all user ids" in str(ours.get("why"))
        and _only_we_deny(ours, theirs)
    )


def _authoriser(graph: Graph, pdu: Mapping[str, Any], ours: Answer, theirs: Answer) -> bool:
    return (
        ROOM_VERSIONS[graph.version].allows_restricted_joins
        and pdu["type"] == "m.room.member"
        and "join_authorised_via_users_server" in pdu["content"]
        and "authorising user's server has not signed" in str(ours.get("why"))
    )


def _levels_elsewhere(_: Graph, pdu: Mapping[str, Any], ours: Answer, theirs: Answer) -> bool:
    return pdu["type"] == "m.room.power_levels" and pdu.get("state_key") != ""


def _is_level_in_python_alone(version: RoomVersion, value: object) -> bool:
    """Whether `int()` takes a value for a number, and the specification does not."""
    if not isinstance(value, (bool, str)) or read_level(version, value) is not None:
        return False
    try:
        int(value)
    except ValueError:
        return False
    return True


def _levels_of_python(graph: Graph, pdu: Mapping[str, Any], ours: Answer, theirs: Answer) -> bool:
    content, version = pdu["content"], ROOM_VERSIONS[graph.version]
    groups = [content.get(name) for name in ("users", "events", "notifications")]
    values = [
        *content.values(),
        *(value for group in groups if isinstance(group, dict) for value in group.values()),
    ]
    return (
        pdu["type"] == "m.room.power_levels"
        and not version.power_levels_are_integers
        and any(_is_level_in_python_alone(version, value) for value in values)
        and _only_we_deny(ours, theirs)
    )


def _redacted_redaction(graph: Graph, pdu: Mapping[str, Any], ours: Answer, theirs: Answer) -> bool:
    return (
        ROOM_VERSIONS[graph.version].redactions_need_authorization
        and pdu["type"] == "m.room.redaction"
        and not ours.get("hash_matches")
        and "events of their own server only" in str(ours.get("why"))
    )


def of_states(graph: Graph) -> Disagreement | None:
    """The class that a disagreement about a resolution in a graph belongs to."""
    if len([pdu for pdu in graph.events if pdu["type"] == "m.room.create"]) > 1:
        return SECOND_CREATE
    if any(_levels_elsewhere(graph, pdu, {}, {}) for pdu in graph.events):
        return LEVELS_ELSEWHERE
    return None


SECOND_CREATE = Disagreement(
    "a second create event",
    "comity",
    "rooms/v2 §Definitions, power events",
    "Synapse counts create events among the power events, the specification does not. It shows where states "
    "differ in their create event, which comity's room engine does not let happen.",
    lambda _, __, ___, ____: False,
)
LEVELS_ELSEWHERE = Disagreement(
    "power levels with a state key",
    "comity",
    "rooms/v1 §Authorisation rules, 10.2",
    "They are judged by the room's power levels; Synapse compares them with those of the same state key. "
    "Such levels have no power on either side.",
    _levels_elsewhere,
)
KNOWN = (
    Disagreement(
        "an event that Synapse cannot judge",
        "comity",
        "rooms/v1 §Authorisation rules",
        "Synapse raises an exception where a value is of a type that it does not expect, so that the event "
        "is lost there. The rules ask for less than it does.",
        _raises,
    ),
    Disagreement(
        "an invite out of a room that does not federate",
        "comity",
        "rooms/v1 §Authorisation rules, 3; rooms/v12, 4",
        "Where m.federate is false the rule asks for the sender's server; Synapse asks for the invited "
        "user's too, and takes every value but true for false.",
        _unfederated_invite,
    ),
    Disagreement(
        "a membership of what has no server name",
        "comity",
        "rooms/v1 §Authorisation rules, 5",
        "No rule asks that the state_key of a membership is a user id; Synapse refuses one without a server.",
        _no_domain,
    ),
    Disagreement(
        "power levels of what is no user id",
        "comity",
        "rooms/v1 §Authorisation rules, 10.1; appendices §User Identifiers, §Server Name",
        "The keys of users are to be valid user ids. Synapse asks for a sigil and a colon.",
        _odd_user_ids,
    ),
    Disagreement(
        "an authorising user whose server has not signed",
        "comity",
        "rooms/v8 §Authorization rules, 4.2",
        "Any membership with join_authorised_via_users_server is to be signed by that user's server; Synapse "
        "asks where the join needs it.",
        _authoriser,
    ),
    LEVELS_ELSEWHERE,
    Disagreement(
        "power levels that are numbers for Python alone",
        "comity",
        "rooms/v1 §Authorisation rules, 10.1 and 10.3; §Deprecated event content schemas",
        "A level is an integer or a string of digits. Synapse asks Python, where true is 1 and 1_0 is 10.",
        _levels_of_python,
    ),
    Disagreement(
        "a redaction whose hash is wrong",
        "comity",
        "rooms/v1 §Authorisation rules, 11.2; §Redactions",
        "In room versions 1 and 2 redaction takes the property redacts away, so that the event redacted has "
        "no domain to compare. Synapse finds it equal.",
        _redacted_redaction,
    ),
    SECOND_CREATE,
)
