"""What random events say: memberships, power levels, join rules, third-party invites, honest or not."""

from __future__ import annotations

import copy
import hashlib
import random
from typing import Any

from nacl.signing import SigningKey

from comity.protocol import canonical_json
from comity.protocol.event import encode_base64
from tests.rules.oracle.scene import ALICE, BOB, ODD_USERS, USERS, Branch, Scene

#: The keys of an identity server, of which rooms know some.
_KEYS = tuple(SigningKey(hashlib.sha256(bytes([number])).digest()) for number in range(3))
PUBLIC = tuple(encode_base64(bytes(key.verify_key)) for key in _KEYS)
LEVELS = (0, 0, 25, 50, 50, 75, 100, 100, -1, 101)
ODD_LEVELS: tuple[object, ...] = (
    0, 50, 100, "50", "100", " 7 ", "-5", "+5", "1_0", "0x10", "", None, True, [], {}, 10**9, "99999999999"
)  # fmt: skip
PROPERTIES = ("users_default", "events_default", "state_default", "ban", "redact", "kick", "invite")
EVENT_TYPES = ("m.room.name", "m.room.power_levels", "m.room.message", "m.room.redaction", "x.custom")
JOIN_RULES = ("public", "public", "invite", "knock", "restricted", "knock_restricted", "private")
MEMBERSHIPS = ("join",) * 5 + ("leave",) * 4 + ("invite",) * 3 + ("ban",) * 3 + ("knock",) * 2


def create(scene: Scene, *, first: bool) -> dict[str, Any]:
    """The content of a create event."""
    chance = scene.chance
    content: dict[str, Any] = {"room_version": scene.version.identifier}
    if not scene.version.creator_is_sender:
        content["creator"] = ALICE
    if scene.version.creators_have_infinite_power and chance.random() < 0.5:
        content["additional_creators"] = [BOB] if chance.random() < 0.6 else []
    if chance.random() < 0.07:
        content["m.federate"] = False
    if not scene.hostile(0.5):
        return content
    kind = chance.randrange(5)
    if kind == 0 and not first:
        content["room_version"] = chance.choice(["99", 5, None])
    elif kind == 1:
        content.pop("creator", None)
    elif kind == 2:
        odd: list[object] = ["x", [5], ["nosigil"], None, {}, [chance.choice(ODD_USERS)]]
        content["additional_creators"] = chance.choice(odd)
    elif kind == 3:
        content["creator"] = chance.choice([BOB, 5])
    else:
        content["m.federate"] = chance.choice([0, None, "false", []])
    return content


def power_levels(scene: Scene, branch: Branch) -> dict[str, Any]:
    """The branch's power levels, with a few changes."""
    chance = scene.chance
    current = branch.state.get(("m.room.power_levels", ""))
    content: dict[str, Any] = copy.deepcopy(dict(current.content)) if current is not None else {}
    for _ in range(chance.randrange(1, 4)):
        _change_levels(chance, content)
    if scene.hostile():
        _spoil_levels(scene, content)
    elif scene.version.creators_have_infinite_power and isinstance(content.get("users"), dict):
        content["users"].pop(ALICE, None)
    return content


def _change_levels(chance: random.Random, content: dict[str, Any]) -> None:
    kind = chance.randrange(7)
    if kind <= 2:
        users = content.setdefault("users", {})
        if isinstance(users, dict):
            user = chance.choice(USERS)
            if chance.random() < 0.15:
                users.pop(user, None)
            else:
                users[user] = chance.choice(LEVELS)
    elif kind == 3:
        content[chance.choice(PROPERTIES)] = chance.choice(LEVELS)
    elif kind in (4, 5):
        entries = content.setdefault("events" if kind == 4 else "notifications", {})
        if isinstance(entries, dict):
            entries[chance.choice(EVENT_TYPES) if kind == 4 else "room"] = chance.choice(LEVELS)
    elif content and chance.random() < 0.5:
        content.pop(chance.choice(sorted(content)))


def _spoil_levels(scene: Scene, content: dict[str, Any]) -> None:
    chance = scene.chance
    odd: tuple[object, ...] = (*ODD_LEVELS, *(() if scene.version.enforces_canonical_json else (2.5, 50.0)))
    kind = chance.randrange(6)
    users = content.get("users")
    if kind == 0:
        wrong: list[object] = [
            [],
            "x",
            None,
            {"nosigil:a": 1},
            {chance.choice(ODD_USERS): 5},
            {BOB: chance.choice(odd)},
        ]
        content["users"] = chance.choice(wrong)
    elif kind in (1, 2):
        group, name = ("events", "a") if kind == 1 else ("notifications", "room")
        content[group] = chance.choice([[], "x", None, {name: chance.choice(odd)}])
    elif kind == 3:
        content[chance.choice(PROPERTIES)] = chance.choice(odd)
    elif isinstance(users, dict):
        if kind == 4:
            users[chance.choice(USERS)] = chance.choice(odd)
        else:
            users[chance.choice(ODD_USERS)] = 50


def join_rules(scene: Scene) -> dict[str, Any]:
    """The content of `m.room.join_rules`."""
    content: dict[str, Any] = {"join_rule": scene.chance.choice(JOIN_RULES)}
    if content["join_rule"] in ("restricted", "knock_restricted"):
        content["allow"] = [{"type": "m.room_membership", "room_id": "!o:a.example"}]
    if scene.hostile(0.4):
        return scene.chance.choice([{}, {"join_rule": None}, {"join_rule": 5}, {"join_rule": []}])
    return content


def member(scene: Scene, branch: Branch) -> tuple[str, dict[str, Any], str | None]:
    """(sender, content, state key) of a membership."""
    chance = scene.chance
    membership = chance.choice(MEMBERSHIPS)
    sender = target = chance.choice(USERS)
    if membership in ("invite", "ban") or (membership == "leave" and chance.random() < 0.6):
        target = chance.choice(USERS)
    content: dict[str, Any] = {"membership": membership}
    if chance.random() < 0.3:
        content["displayname"] = str(chance.random())
    if membership == "join" and chance.random() < 0.3:
        odd = ("nobody", 5) if scene.hostile() else ()
        content["join_authorised_via_users_server"] = chance.choice([*USERS, *odd])
    elif membership != "join" and scene.hostile(0.3):
        content["join_authorised_via_users_server"] = chance.choice(USERS)
    if membership == "invite" and chance.random() < 0.4:
        content["third_party_invite"] = _third_party(scene, branch, target)
    if scene.hostile(0.5):
        content["membership"] = chance.choice([None, 5, "", "Join", "spectate", [], {}])
    if scene.hostile(0.2):
        content.pop("membership", None)
    state_key: str | None = target
    if scene.hostile(0.3):
        state_key = chance.choice([*ODD_USERS, "", None])
    return sender, content, state_key


def third_party_invite(scene: Scene) -> dict[str, Any]:
    """The content of `m.room.third_party_invite`; an empty one revokes."""
    first, second, third = PUBLIC
    if scene.hostile():
        odd: list[dict[str, Any]] = [
            {"public_key": 5}, {"public_keys": 5}, {"public_keys": [5]}, {"public_key": "!!"},
            {"public_keys": [{}]},
        ]  # fmt: skip
        return scene.chance.choice(odd)
    both = {"public_keys": [{"public_key": first}, {"public_key": second}]}
    mixed = {"public_key": third, "public_keys": [{"public_key": second}]}
    return scene.chance.choice([{"public_key": first}, both, mixed, {}])


def _third_party(scene: Scene, branch: Branch, target: str) -> object:
    """`third_party_invite` of an invite: signed by a key that may be the room's, or spoilt."""
    chance = scene.chance
    tokens = [
        state_key for event_type, state_key in branch.state if event_type == "m.room.third_party_invite"
    ]
    signed: dict[str, Any] = {"mxid": target, "token": chance.choice(tokens or ["t0"])}
    if scene.hostile():
        signed["mxid"] = chance.choice(USERS)
    if scene.hostile():
        signed["token"] = chance.choice(["t9", 5, None])
    key = _KEYS[chance.choice([0, 0, 1, 2])]
    signature = encode_base64(key.sign(canonical_json.encode(signed)).signature)
    signed["signatures"] = {"id.example": {"ed25519:0": signature}}
    if scene.hostile():
        odd = [
            {},
            [],
            {"id.example": {}},
            {"id.example": {"rsa:0": signature}},
            {"id.example": {"ed25519:0": "!!"}},
        ]
        signed["signatures"] = chance.choice(odd)
    if scene.hostile():
        signed.pop(chance.choice(["mxid", "token"]), None)
    invite = {"display_name": "x", "signed": signed}
    if scene.hostile():
        return chance.choice([{}, {"display_name": "x"}, 5, None, {"signed": 5}, {"signed": {}}])
    return invite
