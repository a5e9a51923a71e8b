"""The event: an immutable PDU, its shape checks, its hashes and id, its redaction.

An Event is built from a JSON object of the federation format (server-server §PDUs and the
room version's event format). It owns the bytes that are stored and sent (serialise once);
it never judges whether the event is allowed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from typing import Any

from comity.protocol import canonical_json, identifiers
from comity.protocol.errors import EventFormatError
from comity.protocol.room_versions import ALL_KEYS, EventIds, RoomVersion

#: client-server §Size limits: the whole event as canonical JSON, signatures included.
MAX_EVENT_BYTES = 65_536
#: server-server, `pdu` schemas: at most this many references.
MAX_PREV_EVENTS = 20
MAX_AUTH_EVENTS = 10
#: rooms/v1–v5: depth may use the whole signed 64 bits; from rooms/v6 canonical JSON bounds it.
MAX_DEPTH_BEFORE_V6 = 2**63 - 1

StateKey = tuple[str, str]
_HASH_EXCLUDES = frozenset(("unsigned", "signatures", "hashes"))


def encode_base64(data: bytes) -> str:
    """Unpadded Base64 (appendices §Unpadded Base64)."""
    return binascii.b2a_base64(data, newline=False).decode("ascii").rstrip("=")


def decode_base64(text: str) -> bytes:
    """Decode Base64, padded or not, of either alphabet. Raises ValueError."""
    text = text.replace("-", "+").replace("_", "/").rstrip("=")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("Not valid Base64") from None


def encode_event(version: RoomVersion, value: Mapping[str, Any]) -> bytes:
    """The canonical JSON of an event's object in that room version."""
    if version.enforces_canonical_json:
        return canonical_json.encode(value)
    try:
        return canonical_json.encode_lenient(value)
    except ValueError:
        raise EventFormatError("The event holds a number that JSON cannot write") from None


def redact(version: RoomVersion, source: Mapping[str, Any]) -> dict[str, Any]:
    """The redaction algorithm of the room version (client-server §Redactions): a new object."""
    rules = version.redaction
    result = dict(source)
    for name in source.keys() - rules.top_level:
        del result[name]
    content = source.get("content")
    if not isinstance(content, dict):
        content = {}
    event_type = source.get("type")
    kept = rules.content.get(event_type) if isinstance(event_type, str) else None
    if kept is ALL_KEYS:
        result["content"] = dict(content)
        return result
    result["content"] = {name: content[name] for name in kept if name in content} if kept else {}
    if rules.keeps_third_party_signed and event_type == "m.room.member":
        invite = content.get("third_party_invite")
        if isinstance(invite, dict):
            # The key itself is not redacted: without `signed`, an empty object is left.
            result["content"]["third_party_invite"] = {
                name: value for name, value in invite.items() if name == "signed"
            }
    return result


def content_hash(version: RoomVersion, source: Mapping[str, Any]) -> str:
    """server-server §Calculating the content hash for an event, in unpadded Base64."""
    covered = dict(source)
    for name in source.keys() & _HASH_EXCLUDES:
        del covered[name]
    return encode_base64(hashlib.sha256(encode_event(version, covered)).digest())


def signed_part(version: RoomVersion, source: Mapping[str, Any]) -> bytes:
    """The bytes that an event's signatures cover: redacted, without signatures and unsigned."""
    redacted = redact(version, source)
    redacted.pop("signatures", None)
    redacted.pop("unsigned", None)
    return encode_event(version, redacted)


def reference_hash(version: RoomVersion, source: Mapping[str, Any]) -> bytes:
    """server-server §Calculating the reference hash for an event: 32 bytes."""
    return hashlib.sha256(signed_part(version, source)).digest()


def event_id_of(version: RoomVersion, source: Mapping[str, Any], signed: bytes | None = None) -> str:
    """The id of an event in that room version; `signed` is its `signed_part`, if known.

    Raises EventFormatError if it has none.
    """
    if version.event_ids is EventIds.ASSIGNED:
        event_id = source.get("event_id")
        if not identifiers.is_event_id(event_id) or not identifiers.is_server_name(
            identifiers.server_of(str(event_id))
        ):
            raise EventFormatError("The event has no valid event_id")
        return str(event_id)
    if signed is None:
        signed = signed_part(version, source)
    encoded = encode_base64(hashlib.sha256(signed).digest())
    if version.event_ids is EventIds.URL_SAFE_BASE64:
        encoded = encoded.replace("+", "-").replace("/", "_")
    return "$" + encoded


class Event:
    """One event. Make it with `parse` (foreign) or `Event` (already checked); never change it."""

    __slots__ = (
        "_encoded",
        "_signed",
        "auth_event_ids",
        "content",
        "depth",
        "event_id",
        "origin_server_ts",
        "prev_event_ids",
        "room_id",
        "sender",
        "source",
        "state_key",
        "type",
        "version",
    )

    version: RoomVersion
    event_id: str
    room_id: str
    type: str
    state_key: str | None
    sender: str
    content: Mapping[str, Any]
    depth: int
    origin_server_ts: int
    prev_event_ids: tuple[str, ...]
    auth_event_ids: tuple[str, ...]
    #: The JSON object of the federation format, without `unsigned`.
    source: Mapping[str, Any]

    def __init__(
        self,
        version: RoomVersion,
        source: Mapping[str, Any],
        *,
        event_id: str | None = None,
        encoded: bytes | None = None,
        signed: bytes | None = None,
    ) -> None:
        """From an object whose shape has been checked.

        `encoded` are its canonical bytes and `signed` those that its signatures cover, if known.
        """
        self.version = version
        self.source = source
        self._signed = signed
        self.event_id = event_id if event_id is not None else event_id_of(version, source, signed)
        self.type = source["type"]
        self.state_key = source.get("state_key")
        self.sender = source["sender"]
        self.content = source["content"]
        self.depth = source["depth"]
        self.origin_server_ts = source["origin_server_ts"]
        if version.references_carry_hashes:
            self.prev_event_ids = tuple(reference[0] for reference in source["prev_events"])
            self.auth_event_ids = tuple(reference[0] for reference in source["auth_events"])
        else:
            self.prev_event_ids = tuple(source["prev_events"])
            self.auth_event_ids = tuple(source["auth_events"])
        if version.room_id_is_create_hash and self.type == "m.room.create" and "room_id" not in source:
            self.room_id = "!" + self.event_id[1:]
        else:
            self.room_id = source["room_id"]
        self._encoded = encoded

    @property
    def encoded(self) -> bytes:
        """The canonical JSON that is stored and sent to other servers."""
        if self._encoded is None:
            self._encoded = encode_event(self.version, self.source)
        return self._encoded

    @property
    def signed(self) -> bytes:
        """The bytes that its signatures cover, and of which the reference hash is taken."""
        return signed_part(self.version, self.source) if self._signed is None else self._signed

    def release(self) -> None:
        """Forget bytes that can be worked out again: the event is about to be kept for long."""
        self._signed = None

    @property
    def is_state(self) -> bool:
        """Whether the event has a state key."""
        return self.state_key is not None

    @property
    def key(self) -> StateKey:
        """(type, state key) of a state event."""
        if self.state_key is None:
            raise ValueError(f"{self.event_id} is not a state event")
        return self.type, self.state_key

    @property
    def membership(self) -> str | None:
        """`content.membership` if it is a string."""
        value = self.content.get("membership")
        return value if isinstance(value, str) else None

    @property
    def redacts(self) -> str | None:
        """The id of the event that this one redacts, where the room version puts it."""
        holder = self.content if self.version.redacts_in_content else self.source
        value = holder.get("redacts")
        return value if isinstance(value, str) else None

    def redacted(self) -> Event:
        """The event as the redaction algorithm leaves it; the same id."""
        return Event(self.version, redact(self.version, self.source), event_id=self.event_id)

    def with_signatures(self, signatures: Mapping[str, Mapping[str, str]]) -> Event:
        """The event with those signatures (by server, by key id) added to its own."""
        merged = {server: dict(keys) for server, keys in self.source.get("signatures", {}).items()}
        for server, keys in signatures.items():
            merged.setdefault(server, {}).update(keys)
        return Event(self.version, {**self.source, "signatures": merged}, event_id=self.event_id)

    def content_hash_matches(self) -> bool:
        """server-server §Validating hashes: whether `hashes.sha256` is that of the content."""
        claimed = self.source["hashes"].get("sha256")
        if not isinstance(claimed, str):
            return False
        true = content_hash(self.version, self.source)
        if claimed == true:
            return True
        try:
            # It may be padded, or in the other alphabet.
            return encode_base64(decode_base64(claimed)) == true
        except ValueError:
            return False

    def __repr__(self) -> str:
        return f"<Event {self.event_id} {self.type} {self.state_key!r} by {self.sender}>"


def parse(version: RoomVersion, value: object) -> Event:
    """An Event from a foreign JSON value; every part of the format is checked.

    Raises EventFormatError: the event is to be dropped (server-server §Checks on receipt, 1).
    """
    if not isinstance(value, dict):
        raise EventFormatError("An event is a JSON object")
    source = value
    if "unsigned" in value:
        source = {name: part for name, part in value.items() if name != "unsigned"}
    try:
        if version.enforces_canonical_json:
            canonical_json.check_values(source)
        else:
            canonical_json.check_nesting(source)
    except canonical_json.CanonicalJsonError as error:
        raise EventFormatError(str(error)) from None
    check_shape(version, source)
    encoded = encode_event(version, source)
    if len(encoded) > MAX_EVENT_BYTES:
        raise EventFormatError(f"The event is larger than {MAX_EVENT_BYTES} bytes")
    return Event(version, source, encoded=encoded, signed=signed_part(version, source))


def check_names(source: Mapping[str, Any]) -> None:
    """Check the parts of an event of ours that a user names: its type and its state key.

    Raises EventFormatError.
    """
    _text(source, "type")
    if "state_key" in source:
        _text(source, "state_key")


def check_shape(version: RoomVersion, source: Mapping[str, Any]) -> None:
    """Check types, limits and identifiers of an event's object. Raises EventFormatError."""
    event_type = _text(source, "type")
    sender = source.get("sender")
    if not identifiers.is_user_id(sender):
        raise EventFormatError("The event's sender is not a user id")
    if version.room_id_is_create_hash and event_type == "m.room.create":
        # rooms/v12 rule 1.2 rejects a create event with a room_id: it is never a valid event.
        if "room_id" in source:
            raise EventFormatError("A create event has no room_id in this room version")
    elif not identifiers.is_room_id(source.get("room_id")):
        raise EventFormatError("The event's room_id is not a room id")
    if "state_key" in source:
        _text(source, "state_key")
    if not isinstance(source.get("content"), dict):
        raise EventFormatError("The event's content is not an object")
    limit = canonical_json.MAX_INTEGER if version.enforces_canonical_json else MAX_DEPTH_BEFORE_V6
    _integer(source, "origin_server_ts", -limit, limit)
    _integer(source, "depth", 0, limit)
    _references(version, source, "prev_events", MAX_PREV_EVENTS)
    _references(version, source, "auth_events", MAX_AUTH_EVENTS)
    hashes = source.get("hashes")
    if not isinstance(hashes, dict) or not isinstance(hashes.get("sha256"), str):
        raise EventFormatError("The event has no hashes.sha256")
    signatures = source.get("signatures")
    if not isinstance(signatures, dict) or not all(
        isinstance(keys, dict) and all(isinstance(signature, str) for signature in keys.values())
        for keys in signatures.values()
    ):
        raise EventFormatError("The event's signatures are not objects of strings by server")


def _text(source: Mapping[str, Any], name: str) -> str:
    value = source.get(name)
    if not isinstance(value, str):
        raise EventFormatError(f"The event's {name} is not a string")
    length = len(value) if value.isascii() else len(value.encode("utf-8", "surrogatepass"))
    if length > identifiers.MAX_IDENTIFIER_BYTES:
        raise EventFormatError(f"The event's {name} is longer than {identifiers.MAX_IDENTIFIER_BYTES} bytes")
    return value


def _integer(source: Mapping[str, Any], name: str, least: int, most: int) -> None:
    value = source.get(name)
    if type(value) is not int or not least <= value <= most:
        raise EventFormatError(f"The event's {name} is not an integer between {least} and {most}")


def _references(version: RoomVersion, source: Mapping[str, Any], name: str, most: int) -> None:
    value = source.get(name)
    if not isinstance(value, list) or len(value) > most:
        raise EventFormatError(f"The event's {name} is not a list of at most {most}")
    for reference in value:
        if version.references_carry_hashes:
            if not isinstance(reference, list) or not reference:
                raise EventFormatError(f"The event's {name} are not pairs of event id and hashes")
            reference = reference[0]
        if not identifiers.is_event_id(reference):
            raise EventFormatError(f"The event's {name} hold something that is not an event id")
