"""`python -m fuzz`: broken input to every parser of foreign bytes, for a while.

Ends with a table in Markdown, and with 1 if anything broke.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fuzz import guided
from fuzz.crew import Crew, Tally, shares
from fuzz.examiner import Examiner
from fuzz.target import Target
from fuzz.targets import NAMES, load

#: Seconds between lines that say how far it is.
REPORT_SECONDS = 5.0
#: Seconds for each target from which on the engine that is led by coverage is worth its start.
GUIDED_SECONDS = 20.0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long, all targets together")
    parser.add_argument("--seed", type=int, default=1, help="of the chance by which inputs are made")
    parser.add_argument("--targets", default="", help="which, with commas between (default: all)")
    parser.add_argument("--jobs", type=int, default=1, help="processes at once")
    parser.add_argument(
        "--workdir", type=Path, default=Path(".cache/fuzz"), help="for the corpus that grows, and findings"
    )
    parser.add_argument("--engine", choices=("auto", "atheris", "plain"), default="auto")
    parser.add_argument("--replay", type=Path, help="give this one file to the target and show what happens")
    return parser.parse_args()


def chosen(names: str) -> list[Target]:
    """The targets of those names, or all."""
    wanted = [name for name in names.split(",") if name]
    unknown = [name for name in wanted if name not in NAMES]
    if unknown:
        sys.exit(f"there is no target {', '.join(unknown)}; there are {', '.join(NAMES)}")
    return [load(name) for name in wanted or NAMES]


def replay(target: Target, path: Path) -> int:
    """What becomes of one input."""
    examiner = Examiner(target)
    label = examiner.examine(path.read_bytes())
    if label is not None:
        print(f"{target.name}: {label}")
        return 0
    for finding in examiner.findings.values():
        print(f"{target.name}: {finding.signature}\n{finding.trace}\nmade small:\n{finding.data!r}")
    return 1


def run(crew: Crew, targets: Sequence[Target], seconds: float, jobs: int) -> list[Tally]:
    """All turns of all targets, with a line now and then."""
    tallies = {target.name: Tally(target) for target in targets}
    current: dict[str, float] = {}
    began = time.monotonic()

    def turn(target: Target, share: float, number: int) -> None:
        current[target.name] = time.monotonic()
        try:
            crew.turn(tallies[target.name], share, number)
        finally:
            del current[target.name]

    done = threading.Event()

    def report() -> None:
        while not done.wait(REPORT_SECONDS):
            print(line(time.monotonic() - began, seconds, tallies, list(current)), flush=True)

    reporter = threading.Thread(target=report, daemon=True)
    reporter.start()
    with ThreadPoolExecutor(jobs) as pool:
        for future in [pool.submit(turn, *share) for share in shares(targets, seconds, jobs)]:
            future.result()
    done.set()
    reporter.join()
    return list(tallies.values())


def line(elapsed: float, seconds: float, tallies: dict[str, Tally], names: list[str]) -> str:
    """How far it is, and what is at work."""
    found = sum(len(tally.findings) for tally in tallies.values())
    total = sum(tally.inputs for tally in tallies.values())
    at_work = "; ".join(
        f"{name}: {tallies[name].inputs} inputs, {tallies[name].coverage} ways, "
        f"{len(tallies[name].findings)} findings"
        for name in names
    )
    return f"[{elapsed:5.0f}/{seconds:.0f} s] {at_work} | all: {total} inputs, {found} findings"


def table(tallies: Sequence[Tally], engine: str) -> str:
    """The end, in Markdown."""
    lines = [
        f"| target | inputs | inputs/s | {'edges' if engine == 'atheris' else 'ways'} | findings |",
        "|---|---:|---:|---:|---:|",
    ]
    for tally in tallies:
        rate = tally.inputs / tally.seconds if tally.seconds else 0.0
        cells = (tally.target.name, f"{tally.inputs:,}", f"{rate:,.0f}", tally.coverage, len(tally.findings))
        lines.append(f"| {' | '.join(map(str, cells))} |")
    total = sum(tally.inputs for tally in tallies)
    lines.append(f"| all | {total:,} | | | {sum(len(tally.findings) for tally in tallies)} |")
    return "\n".join(lines)


def main() -> int:
    options = arguments()
    targets = chosen(options.targets)
    if options.replay is not None:
        if len(targets) != 1:
            sys.exit("--replay takes one target: --targets NAME")
        return replay(targets[0], options.replay)
    engine: str = options.engine
    if engine == "auto":
        # The guided engine takes seconds to get ready: in a short turn the plain one does more.
        is_long = options.seconds * options.jobs / len(targets) >= GUIDED_SECONDS
        engine = "atheris" if is_long and guided.is_available() else "plain"
    workdir: Path = options.workdir.absolute()
    workdir.mkdir(parents=True, exist_ok=True)
    crew = Crew(engine, workdir, options.seed)
    for target in targets:
        crew.try_old_findings_again(target)
    print(
        f"{len(targets)} targets, {options.seconds:.0f} s, engine: {engine}, seed {options.seed}", flush=True
    )
    tallies = run(crew, targets, options.seconds, options.jobs)
    print(f"\n{table(tallies, engine)}")
    found = [tally for tally in tallies if tally.findings]
    for tally in found:
        for name in sorted(tally.findings):
            path = crew.folder("findings", tally.target) / name
            first = path.with_suffix(".txt").read_text("utf-8").partition("\n")[0]
            print(f"\n{tally.target.name}: {first}")
            print(f"    python -m fuzz --targets {tally.target.name} --replay {path}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
