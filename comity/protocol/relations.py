"""Relations: which event an event relates to, and whether it may (client-server §Forming relationships).

Pure reading of contents. What is made of relations (bundles, threads, lists) is the affair of
`comity.rooms.read.relations`.
"""

from __future__ import annotations

from dataclasses import dataclass

from comity.protocol.event import Event

ANNOTATION, REFERENCE = "m.annotation", "m.reference"
REPLACE, THREAD = "m.replace", "m.thread"
#: Bytes of a relation's type and of the id it names; longer ones relate to nothing (appendices
#: §Identifier Grammar bounds event ids so, §Size limits event types).
MAX_BYTES = 255


@dataclass(frozen=True, slots=True)
class Relation:
    """What an event's `m.relates_to` says. `key` is what is annotated, for `m.annotation`."""

    rel_type: str
    target: str
    key: str | None = None


def relation_of(event: Event) -> Relation | None:
    """The relation of an event; None if it has none, or one that does not fit the schema."""
    relates = event.content.get("m.relates_to")
    if not isinstance(relates, dict):
        return None
    rel_type, target = relates.get("rel_type"), relates.get("event_id")
    if not isinstance(rel_type, str) or not isinstance(target, str) or not rel_type:
        return None
    if len(rel_type.encode()) > MAX_BYTES or len(target.encode()) > MAX_BYTES:
        return None
    key = relates.get("key")
    return Relation(rel_type, target, key if isinstance(key, str) else None)


def replaces(edit: Event, original: Event) -> bool:
    """Whether an event is a valid replacement (client-server §Validity of replacement events).

    Of an encrypted one, the new content is not seen: it may be there.
    """
    if edit.is_state or original.is_state or edit.room_id != original.room_id:
        return False
    if (edit.sender, edit.type) != (original.sender, original.type):
        return False
    of_edit, of_original = relation_of(edit), relation_of(original)
    if of_edit is None or of_edit.rel_type != REPLACE or of_edit.target != original.event_id:
        return False
    if of_original is not None and of_original.rel_type == REPLACE:
        return False
    return edit.type == "m.room.encrypted" or isinstance(edit.content.get("m.new_content"), dict)
