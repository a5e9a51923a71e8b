"""Judge one input of a target: what comes out, how long it takes, how much memory it wants.

Owns the bounds and the findings, each kind of which is kept once, made small, and written to a
file. What kills the process is for whoever started it to see (`fuzz.crew`).
"""

from __future__ import annotations

import hashlib
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from fuzz.shrink import shrink
from fuzz.target import Broken, Target

#: Bytes by which the process may grow for one input.
MAX_GROWTH = 256 * 1024 * 1024
#: Times its seconds after which an input is cut off.
PATIENCE = 5.0
#: Seconds that are spent on making a finding small.
SHRINK_SECONDS = 10.0
_MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024


class CutOff(BaseException):
    """An input took far too long. No `except Exception` stops it."""


class TooSlow(Broken):
    """An input took more of the processor than its target allows."""


class TooLarge(Broken):
    """An input made the process grow by more than MAX_GROWTH."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One way in which a target fails, and an input that shows it."""

    signature: str
    data: bytes
    trace: str


def _cut_off(_signal: int, _frame: FrameType | None) -> None:
    raise CutOff


def _signature(error: BaseException) -> str:
    """What tells one fault from another: the exception, and the place in comity that it left."""
    place = ""
    trace = error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename.replace("\\", "/")
        if "/comity/" in name and "/site-packages/" not in name:
            place = f" at comity/{name.rpartition('/comity/')[2]}:{trace.tb_lineno}"
        trace = trace.tb_next
    cause = error.__cause__
    if isinstance(error, Broken):
        text = f"{type(error).__name__}: {str(error)[:200]}"
        return text if cause is None else f"{text} <- {_signature(cause)}"
    return f"{type(error).__name__}{place}"


class Examiner:
    """Runs inputs of one target and keeps what is found."""

    def __init__(
        self, target: Target, on_finding: Callable[[Finding], None] | None = None, *, slack: float = 1.0
    ) -> None:
        """`on_finding` is told of each finding of a kind that is new.

        `slack` is how many times slower than usual the code runs here.
        """
        self._target = target
        self._seconds = target.seconds * slack
        self._on_finding = on_finding
        self.findings: dict[str, Finding] = {}
        # SIGVTALRM counts this process's own work alone: a busy machine makes nothing slow.
        signal.signal(signal.SIGVTALRM, _cut_off)

    def examine(self, data: bytes) -> str | None:
        """The label of the input's way, or None if it is a finding."""
        try:
            return self._run(data)
        except (Exception, CutOff) as error:  # noqa: BLE001 - whatever it is, it is what we are here for
            self._found(data, error)
            return None

    def _run(self, data: bytes) -> str:
        target = self._target
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began = time.thread_time()
        signal.setitimer(signal.ITIMER_VIRTUAL, self._seconds * PATIENCE)
        try:
            label = target.check(data)
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        if time.thread_time() - began > self._seconds:
            # The first input that meets a part may pay for its making: only the second time counts.
            began = time.thread_time()
            target.check(data)
            if time.thread_time() - began > self._seconds:
                raise TooSlow(f"takes more than {self._seconds} s")
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * _MAXRSS_UNIT
        if grown > MAX_GROWTH:
            raise TooLarge(f"takes more than {MAX_GROWTH} bytes of memory")
        return label

    def _found(self, data: bytes, error: BaseException) -> None:
        signature = _signature(error)
        if signature in self.findings:
            return
        trace = "".join(traceback.format_exception(error))
        self.findings[signature] = Finding(signature, data, trace)
        if not isinstance(error, CutOff | TooSlow | TooLarge):
            data = shrink(data, lambda smaller: self._fails_so(smaller, signature), SHRINK_SECONDS)
        finding = self.findings[signature] = Finding(signature, data, trace)
        if self._on_finding is not None:
            self._on_finding(finding)

    def _fails_so(self, data: bytes, signature: str) -> bool:
        try:
            self._run(data)
        except (Exception, CutOff) as error:  # noqa: BLE001 - the same as above
            return _signature(error) == signature
        return False


def write_finding(folder: Path, finding: Finding) -> None:
    """Keep a finding: the input as a file that can be replayed, and beside it what happened."""
    folder.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(finding.signature.encode()).hexdigest()[:12]
    (folder / name).write_bytes(finding.data)
    (folder / f"{name}.txt").write_text(
        f"{finding.signature}\n\n{finding.trace}", "utf-8", "backslashreplace"
    )
