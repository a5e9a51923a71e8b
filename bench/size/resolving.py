"""Forks of one room, resolved by everybody in turns: rooms that grew wide, and rooms with a long past.

Owns the measurement of a room and what a line of its table says. Every result is compared
with that of the plain definitions, so that no wrong answer is ever timed.
"""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.size import comity_resolver as ours
from bench.size import timing
from bench.size.comity_resolver import Sets
from bench.size.forks import Case, fork, members_needed
from bench.size.others import RUMA, SYNAPSE, Program, digest, note, write_files
from bench.size.rooms import Branch, deep_room, grown_room
from bench.size.stored import Stored, stored
from bench.size.timing import Samples, milliseconds, ratio

COLD, WARM = "comity, cold", "comity, warm"
#: The auth difference alone.
STORE_COLD, STORE_WARM, DEFINITION = "difference, cold", "difference, warm", "difference, definition"
GIVEN, COMPUTED = f"{SYNAPSE}, given", f"{SYNAPSE}, computed"
RUMA_TIME = f"{RUMA}, computed"

#: A room with a long past: members who joined meanwhile, and those who joined when it was over.
MEMBERS_MEANWHILE, MEMBERS_LATE = 1_000, 400
#: Differing events in it.
DEEP_DIFFERENCES = (10, 100)


@dataclass
class Cell:
    """One case in one room: what it took, and whether all came to the same."""

    version: str
    entries: int
    case: str
    samples: Samples = field(default_factory=Samples)
    #: Those whose result is not that of the definitions.
    differ: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        return "agree" if not self.differ else "DIFFER: " + ", ".join(sorted(set(self.differ)))


@dataclass(frozen=True)
class Effort:
    """How long things are measured."""

    rounds: int
    #: For one thing in one round.
    seconds: float
    #: Where databases and files go; None: the temporary folder.
    directory: Path | None


def wide(
    version: str, entries: int, differences: Sequence[int], programs: Sequence[Program], effort: Effort
) -> list[Cell]:
    """Forks that differ by so many state events, in a room of so many state entries."""
    room, members = grown_room(version, entries)
    fitting = [difference for difference in differences if difference <= entries]
    cases = [fork(f"{difference:,}", room, members, difference) for difference in fitting]
    return _measure(room, cases, programs, effort)


def deep(version: str, length: int, programs: Sequence[Program], effort: Effort) -> list[Cell]:
    """Forks at the end of an auth chain of so many events, and one that concerns an old event too."""
    room, members = deep_room(version, length, min(MEMBERS_MEANWHILE, length // 2), MEMBERS_LATE)
    late, middle = members[-MEMBERS_LATE:], members[(len(members) - MEMBERS_LATE) // 2]
    assert members_needed(max(DEEP_DIFFERENCES)) <= MEMBERS_LATE
    cases = [fork(f"{difference} late", room, late, difference) for difference in DEEP_DIFFERENCES]
    cases.append(fork("10 late, 1 old", room, late, 10, also=[middle]))
    return _measure(room, cases, programs, effort, with_difference=True)


def _measure(
    room: Branch,
    cases: Sequence[Case],
    programs: Sequence[Program],
    effort: Effort,
    *,
    with_difference: bool = False,
) -> list[Cell]:
    version, entries = room.graph.version.identifier, len(room.state)
    note(f"room version {version}, {entries:,} entries, {len(room.graph.events):,} events")
    sets = {case.name: ours.by_definition(case, room.graph) for case in cases}
    cells = [Cell(version, entries, case.name) for case in cases]
    with (
        tempfile.TemporaryDirectory(dir=effort.directory, prefix="size-") as folder,
        stored(Path(folder), room, cases) as place,
    ):
        files = write_files(Path(folder), room.graph, cases, sets)
        for program in programs:
            program.load(*files)
        gc.collect()
        # Nobody's clock runs while the room itself is looked through for garbage.
        gc.freeze()
        for number in range(effort.rounds):
            for case, cell in zip(cases, cells, strict=True):
                note(f"  round {number + 1}: {case.name}")
                _time_ours(place, case, cell, effort)
                if with_difference:
                    _time_difference(place, room, case, cell, effort)
                _time_others(programs, sets[case.name], cell, effort)
        gc.unfreeze()
        for cell in cells:
            if ours.result(place, cell.case) != sets[cell.case].resolved:
                cell.differ.append("comity")
    return cells


def _time_ours(place: Stored, case: Case, cell: Cell, effort: Effort) -> None:
    roots = place.roots[case.name]
    cell.samples.add(COLD, timing.repeat(lambda: ours.cold(place, roots), effort.seconds))
    engine = place.engine()
    ours.merge(engine, place, roots)
    cell.samples.add(WARM, timing.repeat(lambda: ours.merge(engine, place, roots)[0], effort.seconds))


def _time_difference(place: Stored, room: Branch, case: Case, cell: Cell, effort: Effort) -> None:
    roots, engine = place.roots[case.name], place.engine()
    runs = {
        STORE_COLD: lambda: ours.difference(place.engine(), place, roots),
        STORE_WARM: lambda: ours.difference(engine, place, roots),
        DEFINITION: lambda: ours.plain_difference(case, room.graph),
    }
    for name, once in runs.items():
        cell.samples.add(name, timing.repeat(once, effort.seconds))


def _time_others(programs: Sequence[Program], sets: Sets, cell: Cell, effort: Effort) -> None:
    expected = digest(sets.resolved)
    for program in programs:
        for variant in program.variants:
            answer = program.resolve(cell.case, variant, effort.seconds)
            cell.samples.add(f"{program.name}, {variant}", answer.seconds)
            if answer.digest != expected:
                cell.differ.append(program.name)


def wide_table(cells: Sequence[Cell]) -> str:
    """Rooms by size and difference. Times are in milliseconds."""
    heads = [
        "room version", "entries", "difference", "comity cold", "comity warm", "Synapse", "÷ cold", "÷ warm",
        "Synapse, computes", "÷ warm", "Ruma", "÷ warm", "results",
    ]  # fmt: skip
    rows = [
        [cell.version, f"{cell.entries:,}", cell.case, *_comparison(cell.samples), cell.verdict]
        for cell in cells
    ]
    return timing.table(heads, rows, 1)


def _comparison(samples: Samples) -> list[str]:
    cold, warm = samples.median(COLD), samples.median(WARM)
    given, computed, ruma = (samples.median(name) for name in (GIVEN, COMPUTED, RUMA_TIME))
    return [
        milliseconds(cold), milliseconds(warm), milliseconds(given), ratio(given, cold), ratio(given, warm),
        milliseconds(computed), ratio(computed, warm), milliseconds(ruma), ratio(ruma, warm),
    ]  # fmt: skip


def deep_table(cells: Sequence[Cell], length: int) -> str:
    """The room with a long past: the auth difference alone, and the whole resolution around it."""
    heads = [
        "room version", f"differing, chain of {length:,}", "auth difference cold", "warm", "by definition",
        "comity cold", "comity warm", "Synapse", "÷ cold", "÷ warm", "Synapse, computes", "÷ warm", "Ruma",
        "÷ warm", "results",
    ]  # fmt: skip
    rows = [
        [
            cell.version,
            cell.case,
            *(milliseconds(cell.samples.median(name)) for name in (STORE_COLD, STORE_WARM, DEFINITION)),
            *_comparison(cell.samples),
            cell.verdict,
        ]
        for cell in cells
    ]
    return timing.table(heads, rows, 2)
