"""`python -m fuzz.worker`: one process that fuzzes one target for a while; `fuzz.crew` starts it."""

from __future__ import annotations

import argparse
import hashlib
import resource
import sys
from contextlib import nullcontext
from pathlib import Path

from fuzz import guided
from fuzz.examiner import Examiner, Finding, write_finding
from fuzz.plain import PlainEngine
from fuzz.progress import ProgressFile
from fuzz.targets import load

#: Address space of a worker: an input that wants everything gets a MemoryError, which is a finding.
MAX_ADDRESS_SPACE = 4 * 1024**3


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m fuzz.worker", description=__doc__)
    parser.add_argument("--target", required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--until", type=float, required=True, help="when to end, in seconds since the epoch")
    parser.add_argument("--engine", choices=("atheris", "plain"), required=True)
    parser.add_argument("--corpus", type=Path, required=True, help="inputs of earlier runs; grows")
    parser.add_argument("--findings", type=Path, required=True)
    parser.add_argument("--progress", type=Path, required=True)
    return parser.parse_args()


class Watched(Examiner):
    """An examiner that shows each input before it examines it."""

    progress: ProgressFile

    def examine(self, data: bytes) -> str | None:
        self.progress.begin(data)
        label = super().examine(data)
        self.progress.end()
        return label


def main() -> None:
    options = arguments()
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (MAX_ADDRESS_SPACE, MAX_ADDRESS_SPACE))
    with guided.instrumented() if options.engine == "atheris" else nullcontext():
        target = load(options.target)

    def on_finding(finding: Finding) -> None:
        progress.findings += 1
        write_finding(options.findings, finding)

    slack = guided.SLOWDOWN if options.engine == "atheris" else 1.0
    examiner = Watched(target, on_finding, slack=slack)
    progress = examiner.progress = ProgressFile(options.progress, target.max_bytes)
    if options.engine == "atheris":
        guided.run(target, examiner, options.seed, options.corpus, options.until, lambda: None)
        return
    options.corpus.mkdir(parents=True, exist_ok=True)
    known = [path.read_bytes() for path in sorted(options.corpus.iterdir())]
    engine = PlainEngine(target, examiner, options.seed, known)

    def on_input(new: bytes | None) -> None:
        progress.ways = engine.ways
        if new is not None:
            (options.corpus / hashlib.sha1(new).hexdigest()).write_bytes(new)

    engine.run(options.until, on_input)


if __name__ == "__main__":
    main()
