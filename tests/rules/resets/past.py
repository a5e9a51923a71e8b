"""Resets of room version 1, which version 2 was made for, and errors of servers since.

In the former the versions from 2 on lose nothing; in the latter no algorithm does that is
followed to the letter.
"""

from __future__ import annotations

from tests.rules.resets.scene import LEVELS, Scene, changed, member, scene
from tests.rules.rooms import ALICE, BOB, CAROL, a_room


def left_joined_and_left_again(version: str) -> Scene:
    """Bob leaves, joins and leaves again. A server tells of the first leave. Version 1 does not see the
    join between the two, and denies the second leave to one who left. If the states of the
    first leave and of the join meet later, Bob is in the room again.
    """
    room = a_room(version, BOB)
    first = room.leave(BOB)
    room.join(BOB)
    room.leave(BOB)
    back = {member(BOB): first}
    return scene(room, changed(room.state, back), v1=back)


def promotions_that_stand_on_each_other(version: str) -> Scene:
    """Alice makes Bob an administrator, Bob promotes Carol. A server tells of the levels before both.
    Version 1 does not see the promotion of Bob and denies that of Carol: neither has power.
    """
    room = a_room(version, BOB, CAROL)
    first = room.state[LEVELS]
    room.powers(ALICE, {ALICE: 100, BOB: 100})
    room.powers(BOB, {ALICE: 100, BOB: 100, CAROL: 50})
    return scene(room, changed(room.state, {LEVELS: first}), v1={LEVELS: first})


def join_past_a_closed_door(version: str) -> Scene:
    """Alice closes the room. Bob joins on a fork from before. In version 1 nobody disagrees on Bob, whom
    only one side knows, so that nobody asks whether he may join.
    """
    room = a_room(version)
    fork = room.fork()
    room.join_rules(ALICE, "invite")
    joined = fork.join(BOB)
    return scene(room, fork.state, v1={member(BOB): joined})


def sender_who_is_in_conflict(version: str) -> Scene:
    """Bob changes his display name and renames the room by a slow clock. A server tells of the old of
    both. When the new name is judged, nothing is resolved about Bob. Servers that then took him
    for no member dropped it; what the name cites has to stand in.
    """
    room = a_room(version, powers={BOB: 50})
    room.send(ALICE, "m.room.name", {"name": "old"}, "", ts=1_000)
    room.join(BOB, displayname="old", ts=7_000)
    before = dict(room.state)
    room.join(BOB, displayname="new", ts=9_000)
    room.send(BOB, "m.room.name", {"name": "new"}, "", ts=5_000)
    return scene(room, before)


def cited_event_that_comes_once(version: str) -> Scene:
    """Bob joins, closes the room, and changes his display name after his server's clock was set back. A
    server tells of the state before that. The join that the join rule cites is replayed with it.
    Servers that replayed it once more among the rest gave Bob his old name back.
    """
    room = a_room(version, powers={BOB: 100})
    room.join(BOB, displayname="old", ts=9_000)
    before = dict(room.state)
    room.join_rules(BOB, "invite")
    room.join(BOB, displayname="new", ts=5_000)
    return scene(room, before)
