"""Target: one event from a stranger, into every part of the rules that an event can reach.

Head: the room version. Body: the event. It is parsed, hashed, redacted and asked about; judged in
a small room; and put into that room's state, in which our own events are judged then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from comity.protocol import canonical_json
from comity.protocol.admission import Admission, lookup_in, redaction_applies
from comity.protocol.auth.power_levels import LEVEL_PROPERTIES, PowerLevels, creators
from comity.protocol.auth.rules import auth_keys, authorize, check_auth_events, required_power, rule_on
from comity.protocol.errors import EventFormatError
from comity.protocol.event import MAX_EVENT_BYTES, Event, StateKey, event_id_of, parse
from comity.protocol.push_rules import view_of
from comity.protocol.room_versions import ROOM_VERSIONS, RoomVersion
from comity.protocol.server_acl import is_allowed
from comity.protocol.signing import required_signers, verify
from comity.protocol.visibility import history_at, history_visibility
from fuzz.target import Target, require
from tests.rules.rooms import ALICE, BOB, CAROL, DAVE, Graph, Room, a_room, resolve_states


@dataclass(frozen=True, slots=True)
class Scene:
    """A room of one version, and events of ours to be judged in a state that a stranger has touched."""

    room: Room
    probes: tuple[Event, ...]


def _scene(version: str) -> Scene:
    room = a_room(version, BOB, CAROL, powers={BOB: 50})
    room.send(ALICE, "m.room.third_party_invite", {"public_keys": [], "display_name": "d"}, "token")
    message = room.send(BOB, "m.room.message", {"body": "hello"})
    invite = {"third_party_invite": {"signed": {"token": "token", "mxid": DAVE, "signatures": {}}}}
    probes = (
        room.write(BOB, "m.room.message", {}),
        room.write(ALICE, "m.room.topic", {"topic": "t"}, ""),
        room.membership(DAVE, "join"),
        room.membership(DAVE, "join", join_authorised_via_users_server=ALICE),
        room.membership(DAVE, "knock"),
        room.membership(ALICE, "invite", DAVE),
        room.membership(ALICE, "invite", DAVE, **invite),
        room.membership(ALICE, "ban", BOB),
        room.membership(BOB, "leave"),
        room.write(ALICE, "m.room.power_levels", {"users": {BOB: 10}, "events": {"m.a": 1}, "ban": 3}, ""),
        room.write(BOB, "m.room.third_party_invite", {}, "other"),
        room.write(BOB, "m.room.aliases", {"aliases": []}, "b.example"),
        room.write(BOB, "m.room.redaction", {"redacts": message.event_id}, redacts=message.event_id),
    )
    return Scene(room, probes)


SCENES: Mapping[str, Scene] = {version: _scene(version) for version in ROOM_VERSIONS}


def check_event(data: bytes) -> str:
    """Parse an event, and take it wherever an event may get to."""
    head, _, body = data.partition(b"\n")
    identifier = head.decode("ascii", "replace")
    scene = SCENES.get(identifier) or SCENES["12"]
    version = scene.room.version
    try:
        value = canonical_json.parse(body)
    except canonical_json.CanonicalJsonError:
        return "no JSON"
    try:
        event = parse(version, value)
    except EventFormatError as error:
        require(len(str(error)) < 1000, "a reason is short")
        _check_unparsed(version, value)
        return f"{identifier} {str(error)[:60]}"
    check_parsed(event)
    return f"{identifier} {check_judged(scene, event)}"


def _check_unparsed(version: RoomVersion, value: object) -> None:
    """What is asked of a value that may be no event: its id, for the answer to who sent it."""
    if isinstance(value, dict):
        try:
            event_id_of(version, value)
        except (EventFormatError, ValueError, TypeError, RecursionError):
            pass  # what `comity.rooms.intake` expects
    require(Admission.received(version, value), "an admission begins, or ends at once")


def check_parsed(event: Event) -> None:
    """The properties of an event by itself."""
    version, encoded = event.version, event.encoded
    require(len(encoded) <= MAX_EVENT_BYTES, "an event is within its size")
    require("unsigned" not in event.source, "unsigned is not part of an event")
    value = canonical_json.parse(encoded)
    again = parse(version, value)
    require(again.event_id == event.event_id, "an event that is read again has the same id")
    require(again.encoded == encoded, "an event that is written again is the same")
    require(again.content_hash_matches() is event.content_hash_matches(), "so has its hash")
    redacted = event.redacted()
    require(redacted.event_id == event.event_id, "redaction keeps the id")
    require(event_id_of(version, redacted.source) == event.event_id, "the id is that of the redacted event")
    require(redacted.redacted().encoded == redacted.encoded, "redacting twice changes nothing")
    require(parse(version, redacted.source).event_id == event.event_id, "a redacted event is an event")
    require(redacted.signed == event.signed, "signatures cover what redaction leaves")
    signers = required_signers(event)
    for signer in signers:
        held = event.source["signatures"].get(signer)
        for signature in list(held.values())[:3] if held else ():
            verify(bytes(32), event.signed, signature)
    event.with_signatures({"b.example": {"ed25519:1": "AAAA"}})
    if event.is_state:
        require(event.key == (event.type, event.state_key), "a state event has a key")
    require(repr(event), "an event can be shown")
    view_of(event).lowered(("content", "body"))


def check_judged(scene: Scene, event: Event) -> str:
    """Judge it in the room, and the room's events in a state that has it."""
    room, version = scene.room, event.version
    keys = auth_keys(version, event.type, event.sender, event.state_key, event.content)
    require(len(set(keys)) == len(keys), "an event has no auth event twice")
    cited = [
        room.graph.events[event_id] for event_id in event.auth_event_ids if event_id in room.graph.events
    ]
    check_auth_events(event, cited, room.graph.is_rejected, room.create)
    check_auth_events(
        event, [room.state[key] for key in keys if key in room.state], room.graph.is_rejected, None
    )
    ruling = rule_on(event, room.state.get)
    require(ruling.reason and ruling.rule.startswith("rooms/v"), "a ruling says why")
    authorize(event, lookup_in(cited, room.create))
    authorize(event, lambda _: None)
    authorize(event, lookup_in([event], None))
    redaction_applies(event, scene.probes[0], redact_level_reached=False)
    history_at(event, event.content)
    history_visibility(event.content)
    is_allowed(event.content, "b.example")
    if event.is_state:
        _put_into_state(scene, event)
    return ruling.rule


def _put_into_state(scene: Scene, event: Event) -> None:
    room = scene.room
    state: dict[StateKey, Event] = {**room.state, event.key: event}
    create = state["m.room.create", ""]
    levels = PowerLevels(event.version, create, state["m.room.power_levels", ""])
    for user in (ALICE, BOB, *list(creators(event.version, create))[:3]):
        require(levels.user(user) is not None, "every user has a level")
    for name in ("m.room.message", "m.room.name"):
        for state_key in (None, ""):
            required_power(levels, name, state_key)
    require(
        all(isinstance(level, int) for level in (levels.invite, levels.kick, levels.ban, levels.redact)),
        "levels",
    )
    levels.notification("room")
    require(LEVEL_PROPERTIES, "there are levels")
    for probe in scene.probes:
        authorize(probe, state.get)
    if event.type != "m.room.create" and event.event_id not in room.graph.events:
        graph = Graph()
        graph.events = {**room.graph.events, event.event_id: event}
        one = resolve_states(event.version, [room.state, state], graph)
        other = resolve_states(event.version, [state, room.state], graph)
        require(one == other, "the order of states does not matter")


_TYPES = (
    "create member join_rules power_levels third_party_invite aliases redaction history_visibility "
    "server_acl message topic tombstone"
).split()
_WORDS = (
    "type state_key sender room_id content depth origin_server_ts prev_events auth_events hashes sha256 "
    "signatures unsigned event_id origin redacts membership join invite leave ban knock join_rule public "
    "restricted knock_restricted allow m.room_membership third_party_invite signed token mxid display_name "
    "public_keys public_key key_validity_url join_authorised_via_users_server users users_default events "
    "events_default state_default notifications kick redact creator room_version additional_creators "
    "m.federate predecessor aliases history_visibility deny allow_ip_literals a.example b.example ed25519:1"
).split()

TARGETS = (
    Target(
        "events",
        check_event,
        json=True,
        separator=b"\n",
        heads=tuple(version.encode() for version in ROOM_VERSIONS),
        words=(*_WORDS, *("m.room." + name for name in _TYPES), ALICE, BOB, CAROL, DAVE),
        max_bytes=100_000,
        weight=3.0,
    ),
)
