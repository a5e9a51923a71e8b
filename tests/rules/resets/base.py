"""Resets of version 2 that come of the state it starts from, and the events it leaves out.

Version 2 judges what it replays by the state that nobody disagrees on, however much later
that came to be (MSC4297, problem A), and replays only events that one side knows and the
other does not (problem B). Version 2.1 judges by what an event cites, and replays what lies
between conflicting events.
"""

from __future__ import annotations

from tests.rules.resets.scene import LEVELS, NAME, RULES, Scene, changed, member, scene
from tests.rules.rooms import ALICE, BOB, CAROL, DAVE, a_room


def join_rules_of_one_who_left(version: str) -> Scene:
    """Bob closes the room, opens it again and leaves. A server tells of the rule before the last.
    Both rules are replayed in a room without Bob, and neither is allowed: no join rule is left,
    and nobody can join.
    """
    room = a_room(version, BOB, powers={BOB: 100})
    closed = room.join_rules(BOB, "invite")
    room.join_rules(BOB, "public")
    room.leave(BOB)
    return scene(room, changed(room.state, {RULES: closed}), v2={RULES: None})


def members_shut_out_by_an_old_rule(version: str) -> Scene:
    """Bob opens Alice's closed room, Carol and Dave join, Bob leaves. A server tells of the state
    before the opening. Bob's rule is denied to one who left, Alice's is not: the room is closed
    again, and those who came while it was open are no longer in it.
    """
    room = a_room(version, BOB, powers={BOB: 100}, join_rule="invite")
    closed = room.state[RULES]
    room.join_rules(BOB, "public")
    room.join(CAROL)
    room.join(DAVE)
    room.leave(BOB)
    before: dict[tuple[str, str], None] = {member(CAROL): None, member(DAVE): None}
    return scene(
        room,
        changed(room.state, {RULES: closed, **before}),
        v2={RULES: closed, **before},
    )


def power_levels_of_one_who_left(version: str) -> Scene:
    """Bob makes Carol a moderator, later an administrator, and leaves. A server tells of the levels
    before the last. Neither is allowed to one who left: the room has no power levels at all, and
    nobody has power but Alice, who created it. Had she left, nobody would.
    """
    room = a_room(version, BOB, CAROL, powers={BOB: 100})
    moderator = room.powers(BOB, {ALICE: 100, BOB: 100, CAROL: 50})
    room.powers(BOB, {ALICE: 100, BOB: 100, CAROL: 100})
    room.leave(BOB)
    return scene(room, changed(room.state, {LEVELS: moderator}), v2={LEVELS: None})


def ban_by_one_who_left(version: str) -> Scene:
    """Bob, a moderator, bans Carol and leaves. A server tells that Carol is joined. The ban is denied
    to one who left, the join is allowed as ever: Carol is back.
    """
    room = a_room(version, BOB, CAROL, powers={BOB: 50})
    joined = room.state[member(CAROL)]
    room.ban(BOB, CAROL)
    room.leave(BOB)
    return scene(room, changed(room.state, {member(CAROL): joined}), v2={member(CAROL): joined})


def name_by_a_former_moderator(version: str) -> Scene:
    """Bob, a moderator, renames the room; long after, he is one no more. A server tells of the old
    name. To rename the room is denied to whom Bob is now: the old name is back.
    """
    room = a_room(version, BOB, powers={BOB: 50})
    old = room.send(ALICE, "m.room.name", {"name": "old"}, "")
    room.send(BOB, "m.room.name", {"name": "new"}, "")
    room.powers(ALICE, {ALICE: 100})
    return scene(room, changed(room.state, {NAME: old}), v2={NAME: old})


def join_before_the_room_was_closed(version: str) -> Scene:
    """Bob and Carol join a public room, which Alice then closes. A server tells of no Bob. His join is
    judged by the closed room: Bob is out. That Carol joined under the rule of old hides it from
    the auth difference.
    """
    room = a_room(version, CAROL)
    room.join(BOB)
    room.join_rules(ALICE, "invite")
    return scene(room, changed(room.state, {member(BOB): None}), v2={member(BOB): None})


def join_vouched_for_by_one_who_left(version: str) -> Scene:
    """In a restricted room Bob's server vouches for Carol's join, and Bob leaves. A server tells of no
    Carol. One who left vouches for nobody: Carol is out.
    """
    room = a_room(version, BOB, powers={BOB: 50})
    room.join_rules(ALICE, "restricted")
    room.join(CAROL, join_authorised_via_users_server=BOB, signers=["b.example"])
    room.leave(BOB)
    return scene(room, changed(room.state, {member(CAROL): None}), v2={member(CAROL): None})


def promotion_that_both_sides_know(version: str) -> Scene:
    """Alice makes Bob an administrator, Bob renames the room and promotes Carol. A server tells of the
    levels before all that, but of the new name. Both states stand on Bob's promotion, so that
    no difference shows it; without it, that of Carol is denied: Bob and Carol have no power.
    """
    room = a_room(version, BOB, CAROL)
    first = room.state[LEVELS]
    room.powers(ALICE, {ALICE: 100, BOB: 100})
    room.send(BOB, "m.room.name", {"name": "new"}, "")
    room.powers(BOB, {ALICE: 100, BOB: 100, CAROL: 50})
    return scene(room, changed(room.state, {LEVELS: first}), v2={LEVELS: first})


def unban_that_both_sides_know(version: str) -> Scene:
    """Carol is banned, unbanned, joins again and renames the room. A server tells that she is banned, but
    of the new name. Both states stand on the unban, so that no difference shows it; without
    it, her join is denied: Carol is banned again.
    """
    room = a_room(version, CAROL, powers={CAROL: 50})
    ban = room.ban(ALICE, CAROL)
    room.kick(ALICE, CAROL)
    room.join(CAROL)
    room.send(CAROL, "m.room.name", {"name": "new"}, "")
    return scene(room, changed(room.state, {member(CAROL): ban}), v2={member(CAROL): ban})
