"""Forks to resolve: the two ways in which a room went on while its servers could not talk.

Owns the mix of what differs: profile changes, joins, leaves, kicks and bans on both sides, a
topic and power levels on each, a share of members whom both sides changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle

from bench.size.rooms import ADMINS, CREATOR, MODERATORS, Branch, State, spread

#: What one side does with a member of its own.
ALONE = ("profile", "join", "profile", "leave", "profile", "join", "kick", "profile", "join", "ban")
#: What the two sides do with a member whom both change.
BOTH = (("ban", "profile"), ("profile", "profile"), ("leave", "profile"), ("kick", "leave"), ("join", "join"),
        ("profile", "ban"))  # fmt: skip
#: One of so many members that a side changes is changed by the other too.
SHARED = 4
#: One of so many members has done the same before, so that a chain has what no state has.
TWICE = 10
#: State events of a side that are not memberships: power levels and topic.
FIXED = 2


@dataclass(frozen=True)
class Case:
    """Two states of one room that are to be resolved."""

    name: str
    states: tuple[State, State]


def members_needed(difference: int) -> int:
    """How many members at most `fork` takes for such a difference."""
    return 2 * difference


def fork(
    name: str, room: Branch, members: Sequence[str], difference: int, *, also: Sequence[str] = ()
) -> Case:
    """Two branches whose states hold `difference` events of their own, half of them on each side.

    The members concerned are picked evenly from `members`; `also` are changed by the first side
    beyond the difference.
    """
    side = difference // 2 - FIXED
    shared = max(1, side // SHARED)
    pairs = [pair for pair, _ in zip(cycle(BOTH), range(shared), strict=False)]
    own = [kind for kind, _ in zip(cycle(ALONE), range(side - shared), strict=False)]
    needed = sum(pair[0] != "join" for pair in pairs) + 2 * sum(kind != "join" for kind in own)
    picked = spread(list(members), needed)
    newcomers = (f"@{name.replace('/', '-')}-{number}:d{number % 7}.example" for number in range(difference))
    plans: tuple[list[tuple[str, str]], list[tuple[str, str]]] = ([], [])
    for one, other in pairs:
        target = next(newcomers if one == "join" else picked)
        plans[0].append((one, target))
        plans[1].append((other, target))
    for plan in plans:
        plan.extend((kind, next(newcomers if kind == "join" else picked)) for kind in own)
    plans[0].extend(("profile", member) for member in also)
    left, right = room.fork(), room.fork()
    # Each side takes the power of somebody away who uses it on the other.
    _go_on(left, plans[0], CREATOR, {MODERATORS[-1]: 0}, MODERATORS[:5])
    # The two sides went on at the same time.
    room.graph.clock -= 900 * len(plans[0])
    _go_on(right, plans[1], ADMINS[0], {MODERATORS[0]: 0}, MODERATORS[5:])
    return Case(name, (left.state, right.state))


def _go_on(
    branch: Branch,
    plan: Sequence[tuple[str, str]],
    powerful: str,
    levels: dict[str, int],
    kicking: Sequence[str],
) -> None:
    """What one side does, its power levels in the middle of it."""
    moderators = cycle(kicking)
    for number, (kind, target) in enumerate(plan):
        if number == len(plan) // 2:
            branch.powers(powerful, levels)
        for _ in range(2 if number % TWICE == TWICE - 1 and kind == "profile" else 1):
            _change(branch, kind, target, moderators)
    branch.send(powerful, "m.room.topic", {"topic": f"What {powerful} says"})


def _change(branch: Branch, kind: str, target: str, moderators: Iterator[str]) -> None:
    if kind in ("profile", "join"):
        branch.member(target, "join", target)
    elif kind == "leave":
        branch.member(target, "leave", target)
    else:
        branch.member(next(moderators), "ban" if kind == "ban" else "leave", target)
