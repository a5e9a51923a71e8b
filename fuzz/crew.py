"""The processes of a run: starts a worker for each target, in turns, and sees what becomes of them.

A worker that dies has met an input that nothing inside it could catch: that input is a finding,
and the worker is started again.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from fuzz.examiner import Finding, write_finding
from fuzz.progress import Progress, read_progress
from fuzz.target import Target

#: Seconds without a new input after which a worker hangs; a busy machine is given its time.
STALL_SECONDS = 90.0
#: Seconds that a worker may go on after its time; then it is ended.
GRACE_SECONDS = 30.0
#: Times that a worker is started again in one turn.
MAX_RESTARTS = 5
_COVERAGE = re.compile(rb"\bcov: ([0-9]+)")


@dataclass
class Tally:
    """What was done for one target, over all its turns."""

    target: Target
    inputs: int = 0
    seconds: float = 0.0
    #: Edges reached, or ways seen by the plain engine.
    coverage: int = 0
    findings: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Crew:
    """How workers are started: by which engine, where they keep what they find."""

    engine: str
    workdir: Path
    seed: int
    lock: Lock = field(default_factory=Lock)

    def folder(self, kind: str, target: Target) -> Path:
        """Where that kind of file is kept for a target."""
        return self.workdir / kind / target.name

    def try_old_findings_again(self, target: Target) -> None:
        """What an earlier run found is part of the corpus now, and a finding only if it still is."""
        corpus, findings = self.folder("corpus", target), self.folder("findings", target)
        corpus.mkdir(parents=True, exist_ok=True)
        for path in findings.iterdir() if findings.is_dir() else ():
            if path.suffix:
                path.unlink()
            else:
                path.rename(corpus / f"found-{path.name}")

    def turn(self, tally: Tally, seconds: float, number: int) -> None:
        """Fuzz one target for a while."""
        until = time.time() + seconds
        for attempt in range(MAX_RESTARTS):
            if attempt and time.time() > until - 1:
                break
            if self._work(tally, until, self.seed + 1000 * number + attempt):
                break

    def _work(self, tally: Tally, until: float, seed: int) -> bool:
        """One worker; whether it came to its end by itself."""
        target = tally.target
        progress, log = self.workdir / f"{target.name}.progress", self.workdir / f"{target.name}.log"
        progress.unlink(missing_ok=True)
        command = [
            sys.executable, "-m", "fuzz.worker", "--target", target.name, "--engine", self.engine,
            "--seed", str(seed), "--until", str(until), "--corpus", str(self.folder("corpus", target)),
            "--findings", str(self.folder("findings", target)), "--progress", str(progress),
        ]  # fmt: skip
        began = time.monotonic()
        with log.open("wb") as output:
            worker = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
            try:
                reason = self._watch(worker, tally, progress, log, until)
            finally:
                if worker.poll() is None:
                    worker.kill()
                worker.wait()
        tally.seconds += time.monotonic() - began
        if not reason and worker.returncode == 0:
            return True
        reason = reason or f"the process ended with {worker.returncode}"
        tail = log.read_bytes()[-4000:].decode("utf-8", "replace")
        last = read_progress(progress)
        write_finding(self.folder("findings", target), Finding(f"{target.name}: {reason}", last.data, tail))
        self._count_findings(tally)
        return False

    def _watch(
        self, worker: subprocess.Popen[bytes], tally: Tally, progress: Path, log: Path, until: float
    ) -> str:
        """Wait for its end, counting; why it has to be ended, if it has to."""
        before, last, moved = tally.inputs, Progress(), time.monotonic()
        while True:
            ended = worker.poll() is not None
            seen = read_progress(progress)
            if seen.inputs != last.inputs:
                last, moved = seen, time.monotonic()
            with self.lock:
                tally.inputs = before + seen.inputs
                tally.coverage = max(tally.coverage, seen.ways, _coverage(log))
                self._count_findings(tally)
            if ended:
                return ""
            if time.monotonic() - moved > STALL_SECONDS:
                return "an input does not end"
            if time.time() > until + GRACE_SECONDS:
                return "the process does not end"
            try:
                worker.wait(0.5)
            except subprocess.TimeoutExpired:
                pass

    def _count_findings(self, tally: Tally) -> None:
        folder = self.folder("findings", tally.target)
        if folder.is_dir():
            tally.findings = {path.name for path in folder.iterdir() if not path.suffix}


def _coverage(log: Path) -> int:
    """The edges that libFuzzer has last told of."""
    data = log.read_bytes()[-2000:] if log.exists() else b""
    found = _COVERAGE.findall(data)
    return int(found[-1]) if found else 0


def shares(targets: Sequence[Target], seconds: float, jobs: int) -> list[tuple[Target, float, int]]:
    """Turns for all targets, by their weights: (target, seconds, number of the turn)."""
    each = seconds * jobs / sum(target.weight for target in targets)
    rounds = max(1, min(6, int(each // 60)))
    return [(target, each * target.weight / rounds, number) for number in range(rounds) for target in targets]
