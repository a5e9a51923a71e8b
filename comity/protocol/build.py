"""Draft to event: references, depth, hashes, signature, for events that this server writes.

Pure: the head of the room and the chosen auth events are arguments (server-server §PDUs,
§Adding hashes and signatures to outgoing events).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from comity.protocol import canonical_json
from comity.protocol.errors import EventFormatError, bad_json, too_large
from comity.protocol.event import (
    MAX_EVENT_BYTES,
    MAX_PREV_EVENTS,
    Event,
    check_names,
    encode_base64,
    reference_hash,
)
from comity.protocol.identifiers import is_event_id
from comity.protocol.room_versions import EventIds, RoomVersion
from comity.protocol.signing import SigningKey, sign_event


@dataclass(frozen=True, slots=True)
class Draft:
    """What somebody wants to say, before it has a place in the room's graph."""

    type: str
    sender: str
    content: Mapping[str, Any]
    state_key: str | None = None
    redacts: str | None = None
    #: A client's `ts` (application services) or None for now.
    origin_server_ts: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    #: Whether an administrator of this server says it, who may redact what its users sent.
    by_administrator: bool = False


def message_draft(event_type: str, sender: str, content: Mapping[str, Any]) -> Draft:
    """What a client sends by PUT /send. Raises 400 M_BAD_JSON for a redaction of nothing.

    A redaction names its target in the content whatever the room version is; where that has it at
    the top level, it is moved there (client-server, PUT …/send).
    """
    if event_type != "m.room.redaction":
        return Draft(event_type, sender, content)
    redacts = content.get("redacts")
    if not is_event_id(redacts):
        raise bad_json("A redaction's content names the event that it redacts")
    rest = {name: value for name, value in content.items() if name != "redacts"}
    return Draft(event_type, sender, rest, redacts=redacts)


def check_name_sizes(draft: Draft) -> None:
    """client-server §Size limits, of an event's type and state key. Raises 413 M_TOO_LARGE."""
    named = {"type": draft.type, **({} if draft.state_key is None else {"state_key": draft.state_key})}
    try:
        check_names(named)
    except EventFormatError as error:
        raise too_large(str(error)) from None


@dataclass(frozen=True, slots=True)
class Reference:
    """An event that another points to, with what room versions 1–2 want to know of it."""

    event_id: str
    depth: int
    reference_hash: str = ""


def reference_to(event: Event) -> Reference:
    """A reference to `event`; its hash is worked out only where the room version carries it."""
    if not event.version.references_carry_hashes:
        return Reference(event.event_id, event.depth)
    return Reference(event.event_id, event.depth, encode_base64(reference_hash(event.version, event.source)))


def _encode_references(version: RoomVersion, references: Sequence[Reference]) -> list[Any]:
    if version.references_carry_hashes:
        return [[reference.event_id, {"sha256": reference.reference_hash}] for reference in references]
    return [reference.event_id for reference in references]


def build(
    draft: Draft,
    *,
    version: RoomVersion,
    room_id: str | None,
    prev: Sequence[Reference],
    auth: Sequence[Reference],
    now_ms: int,
    server: str,
    key: SigningKey,
    assigned_id: str = "",
) -> Event:
    """A complete signed event.

    `room_id` is None for the create event of a room version whose room id is its hash;
    `assigned_id` is the event id in room versions 1–2 and unused later. Raises MatrixError
    400 M_BAD_JSON or 413 M_TOO_LARGE for a content that no event may have.
    """
    prev = prev[:MAX_PREV_EVENTS]
    limit = canonical_json.MAX_INTEGER if version.enforces_canonical_json else 2**63 - 1
    source: dict[str, Any] = {
        **draft.extra,
        "type": draft.type,
        "sender": draft.sender,
        "content": draft.content,
        "origin_server_ts": now_ms if draft.origin_server_ts is None else draft.origin_server_ts,
        "depth": min(max((reference.depth for reference in prev), default=0) + 1, limit),
        "prev_events": _encode_references(version, prev),
        "auth_events": _encode_references(version, auth),
    }
    if room_id is not None:
        source["room_id"] = room_id
    if draft.state_key is not None:
        source["state_key"] = draft.state_key
    if version.event_ids is EventIds.ASSIGNED:
        source["event_id"] = assigned_id
        source["origin"] = server
    if draft.redacts is not None:
        if version.redacts_in_content:
            source["content"] = {**draft.content, "redacts": draft.redacts}
        else:
            source["redacts"] = draft.redacts
    try:
        # What we write ourselves is strict in every room version (appendices §Canonical JSON).
        canonical_json.check_values(source)
        # Everything else in it is of our own making.
        check_name_sizes(draft)
        event = sign_event(version, source, server, key)
    except (canonical_json.CanonicalJsonError, EventFormatError) as error:
        raise bad_json(str(error)) from None
    if len(event.encoded) > MAX_EVENT_BYTES:
        raise too_large(f"The event is larger than {MAX_EVENT_BYTES} bytes")
    return event
