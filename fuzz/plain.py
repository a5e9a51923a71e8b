"""The engine that runs everywhere: inputs by chance from the ones that went a new way.

It sees no coverage; that an input got a label which none had before is what it goes by.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from random import Random

from fuzz.examiner import Examiner
from fuzz.mutation import Mutator
from fuzz.target import Target

#: Labels of which an input is kept, and the bytes above which it is not worth it.
MAX_KEPT = 5_000
MAX_KEPT_BYTES = 20_000


class PlainEngine:
    """Fuzzes one target; the same seed gives the same inputs."""

    def __init__(self, target: Target, examiner: Examiner, seed: int, known: Iterable[bytes] = ()) -> None:
        """`known` are inputs of earlier runs, beside the target's seeds."""
        self._examiner = examiner
        self._mutator = Mutator(target)
        self._chance = Random(seed)
        self._pool: list[bytes] = []
        self._labels: set[str] = set()
        self._waiting = [*target.seeds(), *known] or [b""]
        self._waiting.reverse()
        self.inputs = 0

    @property
    def ways(self) -> int:
        """How many different labels were seen."""
        return len(self._labels)

    def step(self) -> bytes | None:
        """Examine one input; the input if it went a new way."""
        if self._waiting:
            data = self._waiting.pop()
        else:
            data = self._mutator.mutate(self._chance.choice(self._pool or [b""]), self._chance)
        self.inputs += 1
        label = self._examiner.examine(data)
        if label is None or label in self._labels or len(self._labels) >= MAX_KEPT:
            return None
        self._labels.add(label)
        if len(data) <= MAX_KEPT_BYTES:
            self._pool.append(data)
        return data

    def run(self, until: float, on_input: Callable[[bytes | None], None]) -> None:
        """Go on until that time (`time.time`); `on_input` is told after each input."""
        while time.time() < until:
            on_input(self.step())
