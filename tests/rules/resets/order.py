"""Resets that neither version 2 nor 2.1 is free of, or that 2.1 alone has.

They come of the order of events: nothing in it says that one event was sent in sight of
another, unless the later cites the earlier. Clocks, power and the split in two phases stand
in for that.
"""

from __future__ import annotations

from tests.rules.resets.scene import LEVELS, NAME, Scene, changed, cited, member, scene
from tests.rules.rooms import ALICE, BOB, CAROL, DAVE, Room, a_room


def next_to_no_state(version: str) -> Scene:
    """Bob and Carol join a public room, which Alice then closes. A server tells of the room as it was
    in its first minute, with no members but Alice. The rule that closed the room is in conflict as
    well, so that it is replayed before the joins: Bob and Carol are out, in either version.
    """
    room = a_room(version)
    first_minute = dict(room.state)
    room.join(BOB)
    room.join(CAROL)
    room.join_rules(ALICE, "invite")
    out: dict[tuple[str, str], None] = {member(BOB): None, member(CAROL): None}
    return scene(room, first_minute, v2=out, v2_1=out)


def deeds_before_a_kick(version: str) -> Scene:
    """Bob becomes a moderator, renames the room, invites Dave, who joins, and is kicked much later. A
    server tells of the room as it was when Bob came. The kick is replayed before the name, which
    is denied to one who was kicked: the room has no name. Dave, who cites his invite, stays.
    """
    room = a_room(version, BOB, join_rule="invite")
    early = dict(room.state)
    room.powers(ALICE, {ALICE: 100, BOB: 50})
    room.send(BOB, "m.room.name", {"name": "new"}, "")
    room.invite(BOB, DAVE)
    room.join(DAVE)
    room.kick(ALICE, BOB)
    return scene(room, early, v2={NAME: None}, v2_1={NAME: None})


def profile_with_a_clock_set_back(version: str) -> Scene:
    """Bob changes his display name, between two corrections of his server's clock. A server tells of the
    old one. Neither is a power event, so that nobody asks which cites which: the one with the
    later time wins, and that is the old one.
    """
    room = a_room(version)
    room.join(BOB, displayname="old", ts=9_000)
    old = room.state[member(BOB)]
    room.join(BOB, displayname="new", ts=5_000)
    back = {member(BOB): old}
    return scene(room, changed(room.state, back), v2=back, v2_1=back)


def leave_with_a_clock_set_back(version: str) -> Scene:
    """Bob leaves, after his server's clock was set back. A server tells that he is joined. The leave is
    replayed first and the join after it: Bob is in the room again.
    """
    room = a_room(version)
    joined = room.join(BOB, ts=9_000)
    room.leave(BOB, ts=5_000)
    back = {member(BOB): joined}
    return scene(room, changed(room.state, back), v2=back, v2_1=back)


def name_that_cites_old_levels(version: str) -> Scene:
    """Bob names the room; Carol renames it, by a server that still cites the levels before the last. A
    server tells of Bob's name. By the mainline Carol's is the older: Bob's is back. Version 2.1
    has no mainline here, because nobody disagrees on the levels, and goes by the clocks.
    """
    room = a_room(version, BOB, CAROL, powers={BOB: 50, CAROL: 50})
    old_levels = room.state[LEVELS]
    room.powers(ALICE, {ALICE: 100, BOB: 51, CAROL: 50})
    bobs = room.send(BOB, "m.room.name", {"name": "Bob's"}, "")
    lagging = cited(room, old_levels, room.state[member(CAROL)])
    room.send(CAROL, "m.room.name", {"name": "Carol's"}, "", auth=lagging)
    return scene(room, changed(room.state, {NAME: bobs}), v2={NAME: bobs})


def name_from_a_fast_clock(version: str) -> Scene:
    """Bob, whose server's clock is years ahead, names the room; Alice changes the levels and renames it.
    A server tells of Bob's name. In version 2 the mainline shows that Alice's is the newer. Version
    2.1 has no mainline here, because nobody disagrees on the levels, and goes by the clocks.
    """
    room = a_room(version, BOB, powers={BOB: 50})
    bobs = room.send(BOB, "m.room.name", {"name": "Bob's"}, "", ts=2**41)
    room.powers(ALICE, {ALICE: 100, BOB: 51})
    room.send(ALICE, "m.room.name", {"name": "Alice's"}, "")
    return scene(room, changed(room.state, {NAME: bobs}), v2_1={NAME: bobs})


def unban_that_does_not_cite_the_ban(version: str) -> Scene:
    """Bob, a moderator, bans Carol. Alice unbans her, by a server that forgets to cite the ban. A server
    tells that Carol is banned. Nothing but power tells the two apart, and the more powerful
    comes first: the unban, and the ban after it.
    """
    room = a_room(version, BOB, CAROL, powers={BOB: 50})
    ban = room.ban(BOB, CAROL)
    without_the_ban = cited(room, room.state[LEVELS], room.state[member(ALICE)])
    room.send(ALICE, "m.room.member", {"membership": "leave"}, CAROL, auth=without_the_ban)
    again = {member(CAROL): ban}
    return scene(room, changed(room.state, again), v2=again, v2_1=again)


def backdated_power_levels(version: str) -> Scene:
    """Bob makes Carol an administrator like himself, which he cannot undo; she renames the room. Bob's
    server then makes up levels that seem older than the promotion, on a fork from before it, in
    which Bob has one point less. That is too little for the promotion, and it is as if Carol never
    had any power.
    """
    room = a_room(version, BOB, CAROL, DAVE, powers={BOB: 100})
    fork = room.fork()
    promotion = room.powers(BOB, {ALICE: 100, BOB: 100, CAROL: 100})
    room.send(CAROL, "m.room.name", {"name": "Carol's"}, "")
    room.powers(CAROL, {ALICE: 100, BOB: 100, CAROL: 100, DAVE: 50})
    made_up = fork.powers(BOB, {ALICE: 100, BOB: 99}, ts=promotion.origin_server_ts - 1)
    undone = {LEVELS: made_up, NAME: None}
    return scene(room, fork.state, v2=undone, v2_1=undone)


def late_deed_of_the_banned(version: str) -> Scene:
    """Bob was a moderator and is banned, as everybody agrees. His server tells of a state with the ban,
    and with a name by Bob that cites what he was before. Version 2 judges it by the ban. Version
    2.1 judges by what an event cites, and the name is Bob's.
    """
    room = a_room(version, BOB, powers={BOB: 50})
    room.send(ALICE, "m.room.name", {"name": "Alice's"}, "")
    fork = room.fork()
    room.ban(ALICE, BOB)
    bobs = fork.send(BOB, "m.room.name", {"name": "Bob's"}, "")
    return scene(room, changed(room.state, {NAME: bobs}), v2_1={NAME: bobs})


def event_that_was_rejected_here(version: str) -> Scene:
    """A server tells of a state with a name by Bob that this server rejected, because by its own state at
    that place Bob was not in the room yet. Resolution does not ask why an event was rejected: the
    name is allowed now, and stands.
    """
    room = a_room(version, powers={BOB: 50})
    room.join(BOB)
    name = room.write(BOB, "m.room.name", {"name": "Bob's"}, "")
    room.graph.rejected.add(name.event_id)
    anew = {NAME: name}
    return scene(room, changed(room.state, anew), v2=anew, v2_1=anew)


def second_create_event(version: str) -> Scene:
    """Alice's server makes the room once more: a second create event with the same room id, and another
    start of the room upon it. Where the two meet, the later create event and what stands on
    it replace the first. From room version 12 on a second create event makes another room.
    """
    room = a_room(version, BOB, powers={BOB: 50})
    anew = Room(version, graph=room.graph, content={"note": "again"})
    anew.join(ALICE)
    anew.powers(ALICE, {ALICE: 100})
    anew.join_rules(ALICE, "invite")
    instead = {**anew.state, member(BOB): None}
    return scene(room, anew.state, v2=instead, v2_1=instead)


def demotion_that_comes_late(version: str) -> Scene:
    """No reset: Alice demotes Bob, and until he hears of it, Bob goes on. He kicks Dave and promotes Carol,
    who renames the room. Where the two sides meet, all that is undone, because somebody revoked
    it, and the more powerful comes first whatever the clocks say.
    """
    room = a_room(version, BOB, CAROL, DAVE, powers={BOB: 90})
    unaware = room.fork()
    unaware.kick(BOB, DAVE)
    unaware.powers(BOB, {ALICE: 100, BOB: 90, CAROL: 50})
    unaware.send(CAROL, "m.room.name", {"name": "Carol's"}, "")
    room.powers(ALICE, {ALICE: 100})
    return scene(room, unaware.state)
