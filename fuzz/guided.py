"""The engine that is led by coverage: libFuzzer, through atheris, where that is installed.

libFuzzer takes the process over and never gives it back: this is for a process of its own.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from random import Random
from typing import Any

from fuzz.examiner import Examiner
from fuzz.mutation import Mutator
from fuzz.target import CORPUS, Target

#: How often it is libFuzzer that changes an input's bytes, which knows what comparisons looked for.
LIBFUZZER_SHARE = 0.3
#: How many times slower code is that tells where it has been.
SLOWDOWN = 5.0


def is_available() -> bool:
    """Whether atheris is installed for this interpreter."""
    return importlib.util.find_spec("atheris") is not None


def instrumented() -> AbstractContextManager[Any]:
    """While it is open, what is imported of comity reports where it has been."""
    atheris: Any = importlib.import_module("atheris")
    # It would name every module.
    logging.getLogger("atheris").setLevel(logging.WARNING)
    context: AbstractContextManager[Any] = atheris.instrument_imports(
        include=["comity"], exclude=["comity.cli", "comity.config"]
    )
    return context


def run(
    target: Target, examiner: Examiner, seed: int, folder: Path, until: float, on_input: Callable[[], None]
) -> None:
    """Fuzz until that time (`time.time`), then end the process. The corpus goes into `folder`."""
    atheris: Any = importlib.import_module("atheris")
    mutator = Mutator(target)

    def one_input(data: bytes) -> None:
        examiner.examine(data)
        on_input()

    def change(data: bytes, max_size: int, number: int) -> bytes:
        chance = Random(number)

        def change_bytes(part: bytes) -> bytes:
            if part and chance.random() < 0.5:
                changed: bytes = atheris.Mutate(part, max(len(part), max_size // 2))
                return changed
            return mutator.change_bytes(part, chance)

        if chance.random() < LIBFUZZER_SHARE:
            whole: bytes = atheris.Mutate(data, max_size)
            return whole
        return mutator.mutate(data, chance, change_bytes)[:max_size]

    folder.mkdir(parents=True, exist_ok=True)
    arguments = [
        "fuzz", str(folder), str(CORPUS / target.name),
        f"-max_total_time={max(1, int(until - time.time()))}", f"-seed={seed % 2**31 or 1}",
        f"-max_len={target.max_bytes}", "-timeout=3600", "-rss_limit_mb=0", "-detect_leaks=0",
        "-report_slow_units=0", "-print_final_stats=1", f"-artifact_prefix={folder}/",
    ]  # fmt: skip
    atheris.Setup(arguments, one_input, custom_mutator=change, internal_libfuzzer=True)
    atheris.Fuzz()
