"""`python -m tests.rules.oracle --seeds 0:100000`: compare random room graphs with Synapse's rules.

Every seed is a graph of every room version. What no known disagreement explains is made small and
written below `cases/`. `tests/interop/install.sh` installs Synapse.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from comity.protocol.room_versions import ROOM_VERSIONS
from tests.interop.servers import synapse_python
from tests.rules.oracle.compare import Finding, Report, run, synapse
from tests.rules.oracle.minimise import keep, minimised

#: Seeds that one process compares before it reports.
CHUNK = 50
#: Findings that are made small; more are counted.
MAX_KEPT = 10


def main() -> int:
    """The exit code: 1 if anything was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.rules.oracle", description=__doc__)
    parser.add_argument("--seeds", default="0:100", help="FROM:TO, the end excluded")
    parser.add_argument("--versions", default=",".join(ROOM_VERSIONS))
    parser.add_argument("--jobs", type=int, default=2, help="pairs of processes")
    arguments = parser.parse_args()
    first, last = map(int, arguments.seeds.split(":"))
    versions = arguments.versions.split(",")
    python = synapse_python()
    if python is None:
        parser.error("Synapse is not installed: tests/interop/install.sh does that")
    report, started = Report(), time.monotonic()
    with ProcessPoolExecutor(arguments.jobs) as pool:
        starts = range(first, last, CHUNK)
        futures = [
            pool.submit(run, python, versions, range(start, min(start + CHUNK, last))) for start in starts
        ]
        for done, future in enumerate(as_completed(futures), start=1):
            found = future.result()
            report.add(found)
            for finding in found.findings:
                print(
                    f"\nversion {finding.graph.version}, seed {finding.graph.seed}: {finding.fact}",
                    file=sys.stderr,
                )
            _progress(report, done, len(starts), time.monotonic() - started)
    print(file=sys.stderr)
    _print(report, arguments.seeds, time.monotonic() - started)
    _keep(report, python)
    return 1 if report.findings else 0


def _progress(report: Report, done: int, chunks: int, seconds: float) -> None:
    left = seconds / done * (chunks - done)
    graphs = report.counts["graphs"]
    print(
        f"\r{graphs:,} graphs, {graphs / seconds:.0f} a second, {left / 60:.0f} min left, "
        f"{len(report.findings)} findings   ",
        end="",
        file=sys.stderr,
        flush=True,
    )


def _print(report: Report, seeds: str, seconds: float) -> None:
    print(f"seeds {seeds}, {seconds:.0f} s")
    counters = (("compared", report.counts), ("left out", report.known), ("denied by", report.rules))
    for title, counter in counters:
        print(f"\n{title}:")
        for name, count in _ordered(counter):
            print(f"  {count:>12,}  {name}")
    print(f"\nfindings: {len(report.findings)}")


def _why(answer: object) -> str:
    return str(answer.get("why")) if isinstance(answer, dict) else ""


def _ordered(counter: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counter.items(), key=lambda item: (-item[1], item[0]))


def _keep(report: Report, python: Path) -> None:
    if not report.findings:
        return
    kinds: dict[tuple[str, str, str], list[Finding]] = {}
    with synapse(python) as side:
        for finding in report.findings:
            kind = (finding.fact.split()[0], _why(finding.ours)[-60:], _why(finding.theirs)[:60])
            kinds.setdefault(kind, []).append(finding)
            if len(kinds[kind]) > 1 or len(kinds) > MAX_KEPT:
                continue
            graph = finding.graph
            path = keep(minimised(side, finding), f"found-v{graph.version}-{graph.seed}", "?")
            print(f"  {path.relative_to(Path.cwd())}")
    for kind, findings in sorted(kinds.items(), key=lambda item: -len(item[1])):
        print(f"  {len(findings)} times {kind}")


if __name__ == "__main__":
    sys.exit(main())
