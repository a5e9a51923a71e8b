"""`python -m bench.size`: state resolution and state changes by the size of the room, in tables."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from bench import machine
from bench.size import changes, others, resolving, timing
from bench.size.changes import Costs
from bench.size.resolving import Cell, Effort
from bench.size.rooms import grown_room
from bench.size.stored import stored

#: What is measured, by the names that --only takes.
FORKS, CHANGES, CHAIN = "forks", "changes", "chain"
#: Room versions 2 to 11 resolve by one algorithm, 12 by the next.
VERSIONS = ("10", "12")
#: Smaller than this, tables and indexes are left out of the sum of bytes.
LEAST_BYTES = 1


def numbers(text: str) -> list[int]:
    return [int(part.replace("_", "")) for part in text.split(",")]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.size", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how often everything is measured in turns")
    parser.add_argument(
        "--only", default="", help=f"only what contains this of {FORKS!r}, {CHANGES!r}, {CHAIN!r}"
    )
    parser.add_argument("--sizes", type=numbers, default=[1_000, 10_000, 100_000], help="state entries")
    parser.add_argument(
        "--differences", type=numbers, default=[10, 100, 1_000], help="state events that two forks differ by"
    )
    parser.add_argument("--versions", default=",".join(VERSIONS), help="room versions")
    parser.add_argument("--chain", type=int, default=50_000, help="events of the long auth chain")
    parser.add_argument("--changes", type=int, default=1_000, help="state changes in each round")
    parser.add_argument("--seconds", type=float, default=0.3, help="for one thing in one round")
    parser.add_argument("--without-synapse", action="store_true", help="leave Synapse's resolver out")
    parser.add_argument("--without-ruma", action="store_true", help="leave ruma-state-res out")
    parser.add_argument("--dir", type=Path, help="where the databases go (default: the temporary folder)")
    parser.add_argument("--cpus", default="0", help='CPUs for everybody, e.g. "0"; "" leaves them free')
    return parser.parse_args()


def measure_forks(options: argparse.Namespace, effort: Effort) -> list[Cell]:
    """Both kinds of rooms, and their tables."""
    wide: list[Cell] = []
    deep: list[Cell] = []
    with others.running(synapse=not options.without_synapse, ruma=not options.without_ruma) as programs:
        for version in options.versions.split(","):
            if options.only in FORKS:
                for entries in options.sizes:
                    wide += resolving.wide(version, entries, options.differences, programs, effort)
            if options.only in CHAIN:
                deep += resolving.deep(version, options.chain, programs, effort)
    if wide:
        print("\nTwo forks resolved, milliseconds:\n\n" + resolving.wide_table(wide))
    if deep:
        print("\nA long auth chain, milliseconds:\n\n" + resolving.deep_table(deep, options.chain))
    return [*wide, *deep]


def measure_changes(options: argparse.Namespace, effort: Effort) -> None:
    """State changes in rooms of each size, and their tables."""
    costs: dict[int, Costs] = {}
    for entries in options.sizes:
        others.note(f"state changes in a room of {entries:,} entries")
        room, members = grown_room(VERSIONS[-1], entries)
        with (
            tempfile.TemporaryDirectory(dir=effort.directory, prefix="size-") as folder,
            stored(Path(folder), room, []) as place,
        ):
            costs[entries] = asyncio.run(
                changes.measure(place, room, members, options.changes, effort.rounds)
            )
    rows = [
        [
            f"{entries:,}",
            *(_microseconds(taken) for taken in (cost.vector, cost.decide, cost.whole, cost.cpu)),
        ]
        for entries, cost in costs.items()
    ]
    heads = ["entries", "state vector", "decided", "decided and stored", "CPU of that"]
    print("\nA state change, microseconds:\n\n" + timing.table(heads, rows, 0))
    rows = [
        [f"{entries:,}", f"{cost.growth / cost.changes:,.0f}", _shares(cost)]
        for entries, cost in costs.items()
    ]
    print("\nA state change on disk, bytes:\n\n" + timing.table(["entries", "bytes", "of which"], rows, 0))


def _microseconds(rounds: list[float]) -> str:
    return f"{1_000_000 * sorted(rounds)[len(rounds) // 2]:,.0f}"


def _shares(cost: Costs) -> str:
    each = {
        name.replace("sqlite_autoindex_", "key of "): size / cost.changes
        for name, size in cost.tables.items()
    }
    ordered = sorted(each.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {size:,.0f}" for name, size in ordered if size >= LEAST_BYTES)


def main() -> int:
    options = arguments()
    if options.cpus:
        machine.pin(0, {int(cpu) for cpu in options.cpus.split(",")})
    effort = Effort(options.rounds, options.seconds, options.dir)
    print(machine.describe(options.dir or Path(tempfile.gettempdir())), flush=True)
    cells: list[Cell] = []
    if options.only in FORKS or options.only in CHAIN:
        cells = measure_forks(options, effort)
    if options.only in CHANGES:
        measure_changes(options, effort)
    return 1 if any(cell.differ for cell in cells) else 0


if __name__ == "__main__":
    sys.exit(main())
