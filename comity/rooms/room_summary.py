"""What a room looks like from outside: the summary that directories, spaces and previews show.

client-server §Published room directory, §Spaces; server-server §Spaces. Owns the fields of a
summary, ours and those of other servers, and who may be shown one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from comity.protocol import identifiers
from comity.protocol.event import Event, StateKey
from comity.protocol.room_versions import room_version
from comity.protocol.server_acl import is_allowed
from comity.protocol.visibility import WORLD_READABLE, history_visibility
from comity.store import rooms as stored_rooms
from comity.store.cache import Bounded
from comity.store.database import Tx
from comity.store.events import Events
from comity.store.rooms import RoomRow
from comity.store.state import States

#: Summaries that are remembered: a kilobyte each, most of it the topic.
MAX_SUMMARIES = 5_000
#: Children of one space that are told or followed; the first in the space's own order.
MAX_CHILDREN = 500
#: Rooms whose members may join another that are looked at.
MAX_ALLOWED_ROOMS = 100
SPACE = "m.space"
CHILD = "m.space.child"
_RESTRICTED = frozenset({"restricted", "knock_restricted"})
_TEXTS = (
    "canonical_alias", "name", "topic", "avatar_url", "join_rule", "room_type", "encryption", "room_version",
)  # fmt: skip
#: Texts that are left out unless they are of a certain form.
_CHECKED: Mapping[str, Callable[[str], bool]] = {
    "canonical_alias": lambda text: identifiers.split_alias(text) is not None,
    "avatar_url": lambda text: text.startswith("mxc://"),
    "name": bool,
    "topic": bool,
}
#: What the published directory shows of a summary.
DIRECTORY_FIELDS = (
    "room_id", "canonical_alias", "name", "topic", "avatar_url", "join_rule", "room_type",
    "num_joined_members", "world_readable", "guest_can_join",
)  # fmt: skip
#: client-server §Ordering of children within a space.
MAX_ORDER_LENGTH = 50


def cleaned(told: Mapping[str, Any]) -> dict[str, Any]:
    """Another server's summary of a room, cut to the fields that there are and their types."""
    found: dict[str, Any] = {"room_id": told.get("room_id")}
    found |= {name: told[name] for name in _TEXTS if isinstance(told.get(name), str)}
    # Apps stumble over the whole list if one of these is not what it should be; empty, they say nothing.
    for name, is_one in _CHECKED.items():
        if name in found and not is_one(found[name]):
            del found[name]
    count = told.get("num_joined_members")
    found["num_joined_members"] = count if type(count) is int and count >= 0 else 0
    for name in ("world_readable", "guest_can_join"):
        found[name] = told.get(name) is True
    allowed = told.get("allowed_room_ids")
    if isinstance(allowed, list):
        found["allowed_room_ids"] = [
            room_id for room_id in allowed[:MAX_ALLOWED_ROOMS] if identifiers.is_room_id(room_id)
        ]
    return found


def cleaned_child(told: object) -> dict[str, Any] | None:
    """Another server's stripped `m.space.child`; None if it is none, or leads nowhere."""
    if not isinstance(told, dict) or told.get("type") != CHILD or not isinstance(told.get("content"), dict):
        return None
    if not identifiers.is_room_id(told.get("state_key")) or not identifiers.is_user_id(told.get("sender")):
        return None
    if type(told.get("origin_server_ts")) is not int or not via_of(told["content"]):
        return None
    return {name: told[name] for name in ("type", "state_key", "content", "sender", "origin_server_ts")}


def via_of(content: Mapping[str, Any]) -> list[str]:
    """The servers that a space names for a child; none: the child is not one (any more)."""
    via = content.get("via")
    return [name for name in via if identifiers.is_server_name(name)] if isinstance(via, list) else []


def is_suggested(child: Mapping[str, Any]) -> bool:
    """Whether a space suggests a child."""
    return child["content"].get("suggested") is True


def child_order(child: Mapping[str, Any]) -> tuple[bool, str, int, str]:
    """What children of a space are sorted by (client-server §Ordering of children within a space)."""
    order = child["content"].get("order")
    valid = (
        isinstance(order, str)
        and len(order) <= MAX_ORDER_LENGTH
        and all(" " <= character <= "~" for character in order)
    )
    return (not valid, str(order) if valid else "", child["origin_server_ts"], child["state_key"])


class Summaries:
    """Summaries of rooms that we are in, and who may see them."""

    def __init__(self, states: States, events: Events) -> None:
        self._states = states
        self._events = events
        #: By room and the name of its state, which says all that a summary does.
        self._known: Bounded[tuple[int, bytes], dict[str, Any]] = Bounded(MAX_SUMMARIES)

    def find(self, tx: Tx, row: RoomRow, key: StateKey) -> Event | None:
        """An entry of the room's current state as of the transaction."""
        slot = self._states.slot(tx, row.room_num, key)
        number = 0 if slot is None else self._states.get(tx, row.state, slot)
        stored = self._events.get(tx, number) if number else None
        return stored.event if stored is not None else None

    def of(self, tx: Tx, row: RoomRow) -> Mapping[str, Any]:
        """The summary of a room that we are in."""
        known = self._known.get((row.room_num, row.state))
        if known is None:
            known = self._made(tx, row)
            self._known.put((row.room_num, row.state), known)
        return known

    def _made(self, tx: Tx, row: RoomRow) -> dict[str, Any]:
        def content(event_type: str) -> Mapping[str, Any]:
            event = self.find(tx, row, (event_type, ""))
            return event.content if event is not None else {}

        rules, create = content("m.room.join_rules"), content("m.room.create")
        summary: dict[str, Any] = {
            "room_id": row.room_id,
            "num_joined_members": stored_rooms.member_counts(tx, row.room_num).get("join", 0),
            "world_readable": history_visibility(content("m.room.history_visibility")) == WORLD_READABLE,
            "guest_can_join": content("m.room.guest_access").get("guest_access") == "can_join",
            "join_rule": _join_rule(rules),
            "room_version": row.version,
            "name": content("m.room.name").get("name"),
            "topic": _plain_topic(content("m.room.topic")),
            "canonical_alias": content("m.room.canonical_alias").get("alias"),
            "avatar_url": content("m.room.avatar").get("url"),
            "room_type": create.get("type"),
            "encryption": content("m.room.encryption").get("algorithm"),
        }
        if summary["join_rule"] in _RESTRICTED:
            summary["allowed_room_ids"] = _allowed_rooms(rules)
        return cleaned(summary)

    def children(self, tx: Tx, row: RoomRow) -> list[dict[str, Any]]:
        """The children of a space in its order, as stripped state with their times; [] if it is no space."""
        if self.of(tx, row).get("room_type") != SPACE:
            return []
        numbers = self._states.by_type(tx, row.room_num, row.state, CHILD).values()
        found = []
        for stored in self._events.load(tx, numbers).values():
            event = stored.event
            child = cleaned_child(
                {
                    "type": event.type,
                    "state_key": event.state_key,
                    "content": dict(event.content),
                    "sender": event.sender,
                    "origin_server_ts": event.origin_server_ts,
                }
            )
            if child is not None:
                found.append(child)
        return sorted(found, key=child_order)[:MAX_CHILDREN]

    # -- who may see one

    def server_may_see(self, tx: Tx, row: RoomRow, server: str) -> bool:
        """Whether a server's users could peek into the room, or come in (server-server §Spaces)."""
        acl = self.find(tx, row, ("m.room.server_acl", ""))
        if not is_allowed(acl.content if acl is not None else None, server):
            return False
        summary = self.of(tx, row)
        if summary["world_readable"] or _is_open(summary):
            return True
        for room_id in _effective(summary):
            allowed = stored_rooms.by_id(tx, room_id)
            if allowed is not None and stored_rooms.has_joined_members(tx, allowed.room_num, server):
                return True
        if stored_rooms.has_joined_members(tx, row.room_num, server):
            return True
        members = stored_rooms.members_of_server(tx, row.room_num, server)
        return any(member.membership == "invite" for member in members)

    def user_may_see(self, tx: Tx, summary: Mapping[str, Any], user_id: str) -> bool:
        """Whether a local user could peek into a room of that summary, or come in (§Spaces)."""
        membership = self.membership(tx, str(summary["room_id"]), user_id)
        if membership in ("join", "invite"):
            return True
        if membership == "ban":
            return False
        if summary["world_readable"] or _is_open(summary):
            return True
        return any(self.membership(tx, room_id, user_id) == "join" for room_id in _effective(summary))

    @staticmethod
    def membership(tx: Tx, room_id: str, user_id: str) -> str | None:
        """A local user's newest membership in a room, as far as is known here."""
        row = stored_rooms.by_id(tx, room_id)
        last = stored_rooms.last_local_membership(tx, user_id, row.room_num) if row is not None else None
        return last.membership if last is not None else None

    def is_federated(self, tx: Tx, row: RoomRow) -> bool:
        """Whether users of other servers may be in the room (`m.federate`)."""
        create = self.find(tx, row, ("m.room.create", ""))
        return create is None or create.content.get("m.federate") is not False


def _is_open(summary: Mapping[str, Any]) -> bool:
    """Whether anybody may come in, or ask to, as the room's version has it (if it is told)."""
    rule, version = summary.get("join_rule", "public"), room_version(summary.get("room_version", ""))
    if rule == "knock":
        return version is None or version.allows_knocking
    if rule == "knock_restricted":
        return version is None or version.allows_knock_restricted
    return bool(rule == "public")


def _effective(summary: Mapping[str, Any]) -> Sequence[str]:
    """The rooms whose members may come in; none in a version that knows no such rule."""
    rule, version = summary.get("join_rule"), room_version(summary.get("room_version", ""))
    known = version is None or (
        version.allows_knock_restricted if rule == "knock_restricted" else version.allows_restricted_joins
    )
    allowed: Sequence[str] = summary.get("allowed_room_ids", ())
    return allowed if known else ()


def _join_rule(rules: Mapping[str, Any]) -> str:
    """A room's join rule. One that is no text lets nobody in: left out, it would be told as `public`."""
    rule = rules.get("join_rule")
    return rule if isinstance(rule, str) else "invite"


def _plain_topic(content: Mapping[str, Any]) -> object:
    """The plain text of a topic (client-server §m.room.topic)."""
    block = content.get("m.topic")
    texts = block.get("m.text") if isinstance(block, dict) else None
    for text in texts if isinstance(texts, list) else ():
        if isinstance(text, dict) and text.get("mimetype", "text/plain") == "text/plain":
            return text.get("body")
    return content.get("topic")


def _allowed_rooms(rules: Mapping[str, Any]) -> list[object]:
    allow = rules.get("allow")
    return [
        condition.get("room_id")
        for condition in (allow[:MAX_ALLOWED_ROOMS] if isinstance(allow, list) else ())
        if isinstance(condition, dict) and condition.get("type") == "m.room_membership"
    ]
