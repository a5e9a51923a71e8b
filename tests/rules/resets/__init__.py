"""The known state resets: how a room's state came to be an older one that nobody asked for.

`CASES` is all of them. Each is told by the docstring of what builds it, and pinned by what
each algorithm makes of it; docs/state-resets.md has them in a table.
"""

from __future__ import annotations

from tests.rules.resets import base, order, past
from tests.rules.resets.scene import ALGORITHMS as ALGORITHMS
from tests.rules.resets.scene import Reset as Reset
from tests.rules.resets.scene import Scene as Scene

_FROM_VERSION_1 = ("1", "2", "6", "10", "11", "12")

CASES: tuple[Reset, ...] = (
    # Version 2 resets, version 2.1 does not.
    Reset("join rules of one who left", base.join_rules_of_one_who_left, ("MSC4297",)),
    Reset(
        "members shut out by an old rule",
        base.members_shut_out_by_an_old_rule,
        ("synapse#16629", "synapse#16825", "synapse#14481"),
    ),
    Reset("power levels of one who left", base.power_levels_of_one_who_left, ("synapse#8629", "MSC4297")),
    Reset("ban by one who left", base.ban_by_one_who_left, ("MSC4297",)),
    Reset("name by a former moderator", base.name_by_a_former_moderator, ("MSC4297",)),
    Reset(
        "join before the room was closed",
        base.join_before_the_room_was_closed,
        ("synapse#6774", "synapse#15258"),
    ),
    Reset(
        "join vouched for by one who left",
        base.join_vouched_for_by_one_who_left,
        ("MSC4297", "MSC3083"),
        versions=("8", "10", "11", "12"),
    ),
    Reset("promotion that both sides know", base.promotion_that_both_sides_know, ("MSC4297",)),
    Reset("unban that both sides know", base.unban_that_both_sides_know, ("MSC4297", "MSC1442")),
    Reset("name that cites old levels", order.name_that_cites_old_levels, ("MSC1442",)),
    # Both do.
    Reset("next to no state", order.next_to_no_state, ("synapse#7742", "synapse#7913")),
    Reset(
        "deeds before a kick",
        order.deeds_before_a_kick,
        ("matrix-spec#2447", "synapse#20111", "MSC1442"),
    ),
    Reset("profile with a clock set back", order.profile_with_a_clock_set_back, ("synapse#8629", "MSC1442")),
    Reset("leave with a clock set back", order.leave_with_a_clock_set_back, ("synapse#1953", "MSC1442")),
    Reset(
        "unban that does not cite the ban",
        order.unban_that_does_not_cite_the_ban,
        ("synapse#6520",),
    ),
    Reset("backdated power levels", order.backdated_power_levels, ("MSC4289",)),
    Reset(
        "event that was rejected here",
        order.event_that_was_rejected_here,
        ("synapse#13723", "synapse#13797", "CVE-2022-39374"),
        synapse_differs=True,
    ),
    # Version 2.1 alone does.
    Reset("name from a fast clock", order.name_from_a_fast_clock, ("MSC1442",)),
    Reset("late deed of the banned", order.late_deed_of_the_banned, ("MSC1442", "MSC4297")),
    # Room version 12 rules it out.
    Reset(
        "second create event",
        order.second_create_event,
        ("MSC4291", "CVE-2025-54315"),
        versions=("6", "10", "11"),
    ),
    # Version 1 alone does.
    Reset(
        "left, joined and left again",
        past.left_joined_and_left_again,
        ("synapse#1953", "MSC1442"),
        versions=_FROM_VERSION_1,
    ),
    Reset(
        "promotions that stand on each other",
        past.promotions_that_stand_on_each_other,
        ("synapse#1953", "MSC1442"),
        versions=_FROM_VERSION_1,
    ),
    Reset(
        "join past a closed door",
        past.join_past_a_closed_door,
        ("MSC1442",),
        versions=_FROM_VERSION_1,
    ),
    # Nobody should.
    Reset("sender who is in conflict", past.sender_who_is_in_conflict, ("gomatrixserverlib#419",)),
    Reset("cited event that comes once", past.cited_event_that_comes_once, ("gomatrixserverlib#308",)),
    Reset("demotion that comes late", order.demotion_that_comes_late, ("MSC4297",)),
)
