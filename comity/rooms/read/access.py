"""Who may read a room at all, and as it was when: the question that every endpoint asks first.

Members read the present; who has left reads the room as it was when they left; others only a
world-readable room (client-server §Room History Visibility, §Room Previews, §Getting events for a room).
What a world-readable room shows to anybody, it shows to those who left it as well.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from comity.protocol.errors import MatrixError, forbidden
from comity.protocol.visibility import WORLD_READABLE, history_visibility
from comity.store import heads, personal
from comity.store import rooms as stored_rooms
from comity.store.database import Tx
from comity.store.events import Events, live_line
from comity.store.rooms import LocalMembership, RoomRow
from comity.store.state import States

IGNORED_USERS = "m.ignored_user_list"
INVITE_PERMISSION = "m.invite_permission_config"


@dataclass(frozen=True, slots=True)
class Access:
    """What a user may read of a room: its state `state`, its timeline up to `line`.

    `present`: what happens there from now on is theirs to read too.
    """

    room: RoomRow
    state: bytes
    line: int
    joined: bool
    present: bool


def end_of_last_stay(history: Sequence[LocalMembership]) -> int | None:
    """The position at which a user's last time as a member ended; None if they never were one.

    `history` is oldest first and does not end in a membership of `join`.
    """
    ended = None
    for before, after in itertools.pairwise(history):
        if before.membership == "join" and after.membership != "join":
            ended = after.position
    return ended


def is_world_readable(tx: Tx, states: States, events: Events, room_num: int, state: bytes) -> bool:
    """Whether anybody may read a room in that state."""
    slot = states.slot(tx, room_num, ("m.room.history_visibility", ""))
    number = 0 if slot is None else states.get(tx, state, slot)
    stored = events.get(tx, number) if number else None
    return stored is not None and history_visibility(stored.event.content) == WORLD_READABLE


def access(tx: Tx, states: States, events: Events, user_id: str, room_id: str, now: int) -> Access:
    """What a local user may read of a room at position `now`. Raises 403 M_FORBIDDEN."""
    room = stored_rooms.by_id(tx, room_id)
    if room is None:
        raise _not_a_member()
    history = [
        entry
        for entry in stored_rooms.local_history(tx, user_id, room.room_num)
        if entry.position <= now and not entry.forgotten
    ]
    if history and history[-1].membership == "join":
        return Access(room, heads.at(tx, room.room_num, now), live_line(now), joined=True, present=True)
    state = heads.at(tx, room.room_num, now) if room.resident else b""
    readable = is_world_readable(tx, states, events, room.room_num, state)
    left = end_of_last_stay(history)
    if left is not None:
        # Of the timeline they see at least what strangers see; of states, the one that they left.
        line = live_line(now if readable else left)
        return Access(room, heads.at(tx, room.room_num, left), line, joined=False, present=readable)
    if not readable:
        raise _not_a_member()
    return Access(room, state, live_line(now), joined=False, present=True)


def _not_a_member() -> MatrixError:
    # One text for rooms that are unknown and rooms that are not theirs: it tells nothing of either.
    return forbidden("You are not a member of the room and never were")


def ignored_users(tx: Tx, user_id: str) -> frozenset[str]:
    """Whom a user ignores (client-server §Ignoring Users); themselves they cannot, whatever the list says."""
    text = personal.account_data(tx, user_id, "", IGNORED_USERS)
    if text is None:
        return frozenset()
    content = orjson.loads(text)
    listed = content.get("ignored_users") if isinstance(content, dict) else None
    return frozenset(listed) - {user_id} if isinstance(listed, dict) else frozenset()


def blocks_invites(tx: Tx, user_id: str) -> bool:
    """Whether a user of ours wants no invites at all (client-server §Invite permission)."""
    text = personal.account_data(tx, user_id, "", INVITE_PERMISSION)
    content = orjson.loads(text) if text is not None else None
    return isinstance(content, dict) and content.get("default_action") == "block"
