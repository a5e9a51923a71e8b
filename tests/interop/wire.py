"""Matrix bytes by hand: canonical JSON, hashes, redaction, signatures, event ids.

A second reading of the specification, for the hostile peer. It shares no line with comity,
so that a mistake in one shows in the other. Nothing here checks what it is given: a peer
that wants to send nonsense must be able to.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

Json = dict[str, Any]

#: Keys that survive redaction at the top level, room versions 1 to 10 (rooms/v1 §redactions).
KEPT_TO_V10 = frozenset(
    "event_id type room_id sender state_key content hashes signatures depth prev_events prev_state "
    "auth_events origin origin_server_ts membership".split()
)
#: Version 11 and later no longer keep these (rooms/v11).
DROPPED_IN_V11 = frozenset({"origin", "membership", "prev_state"})
POWER_LEVEL_KEYS = frozenset(
    "ban events events_default kick redact state_default users users_default".split()
)


def canonical(value: Any) -> bytes:
    """Canonical JSON (appendices §canonical-json); floats and huge integers pass as Python writes them."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def base64_unpadded(raw: bytes) -> str:
    return base64.b64encode(raw).decode().rstrip("=")


def decode_unpadded(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4))


def _kept_content(event: Json, version: int) -> Json:
    content = event.get("content", {})
    kind = event.get("type")
    keys: frozenset[str] = frozenset()
    if kind == "m.room.member":
        keys = frozenset({"membership"})
        if version >= 9:
            keys |= {"join_authorised_via_users_server"}
    elif kind == "m.room.create":
        if version >= 11:
            return dict(content)
        keys = frozenset({"creator"})
    elif kind == "m.room.join_rules":
        keys = frozenset({"join_rule", "allow"}) if version >= 8 else frozenset({"join_rule"})
    elif kind == "m.room.power_levels":
        keys = POWER_LEVEL_KEYS | {"invite"} if version >= 11 else POWER_LEVEL_KEYS
    elif kind == "m.room.aliases" and version <= 5:
        keys = frozenset({"aliases"})
    elif kind == "m.room.history_visibility":
        keys = frozenset({"history_visibility"})
    elif kind == "m.room.redaction" and version >= 11:
        keys = frozenset({"redacts"})
    kept = {key: content[key] for key in keys if key in content}
    third_party = content.get("third_party_invite")
    if (
        kind == "m.room.member"
        and version >= 11
        and isinstance(third_party, dict)
        and "signed" in third_party
    ):
        kept["third_party_invite"] = {"signed": third_party["signed"]}
    return kept


def redacted(event: Json, version: str) -> Json:
    """The event as the redaction algorithm of this room version leaves it."""
    number = int(version)
    keep = KEPT_TO_V10 - DROPPED_IN_V11 if number >= 11 else KEPT_TO_V10
    kept = {key: value for key, value in event.items() if key in keep}
    kept["content"] = _kept_content(event, number)
    return kept


def content_hash(event: Json) -> str:
    """Server-server §calculating-the-content-hash-for-an-event, unpadded base64."""
    bare = {key: value for key, value in event.items() if key not in ("unsigned", "signatures", "hashes")}
    return base64_unpadded(hashlib.sha256(canonical(bare)).digest())


def reference_hash(event: Json, version: str) -> bytes:
    """Server-server §calculating-the-reference-hash-for-an-event."""
    bare = {
        key: value for key, value in redacted(event, version).items() if key not in ("signatures", "unsigned")
    }
    return hashlib.sha256(canonical(bare)).digest()


def event_id(event: Json, version: str) -> str:
    if int(version) <= 2:
        return str(event["event_id"])
    encoded = base64_unpadded(reference_hash(event, version))
    return "$" + (encoded if version == "3" else encoded.replace("+", "-").replace("/", "_"))


@dataclass
class Signer:
    """A server name with one ed25519 key."""

    name: str
    key_id: str = "ed25519:peer"
    key: SigningKey = field(default_factory=SigningKey.generate)

    @property
    def public(self) -> str:
        return base64_unpadded(bytes(self.key.verify_key))

    def signature(self, value: Json) -> str:
        """The signature of an object, `signatures` and `unsigned` left out (appendices §signing-json)."""
        bare = {key: item for key, item in value.items() if key not in ("signatures", "unsigned")}
        return base64_unpadded(self.key.sign(canonical(bare)).signature)

    def sign(self, value: Json) -> Json:
        """The object with this signature added."""
        signatures = {server: dict(keys) for server, keys in value.get("signatures", {}).items()}
        signatures.setdefault(self.name, {})[self.key_id] = self.signature(value)
        return {**value, "signatures": signatures}

    def sign_event(self, event: Json, version: str, *, rehash: bool = True) -> Json:
        """The event with its content hash and this signature over its redacted form."""
        signed = dict(event)
        if rehash:
            signed["hashes"] = {"sha256": content_hash(event)}
        signed["signatures"] = self.sign(redacted(signed, version))["signatures"]
        return signed


def verifies(value: Json, server: str, key_id: str, public: str) -> bool:
    """Whether `value` carries a good signature of that server's key."""
    try:
        signature = decode_unpadded(value["signatures"][server][key_id])
        bare = {key: item for key, item in value.items() if key not in ("signatures", "unsigned")}
        VerifyKey(decode_unpadded(public)).verify(canonical(bare), signature)
    except (KeyError, ValueError, binascii.Error, BadSignatureError):
        return False
    return True


def references(ids: list[str], events: dict[str, Json], version: str) -> list[Any]:
    """`auth_events` or `prev_events` as this room version writes them."""
    if int(version) > 2:
        return list(ids)
    return [[i, {"sha256": base64_unpadded(reference_hash(events[i], version))}] for i in ids]


def referred(value: list[Any]) -> list[str]:
    """The event ids in `auth_events` or `prev_events` of any version."""
    return [item if isinstance(item, str) else item[0] for item in value]
