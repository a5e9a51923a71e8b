"""What a worker shows of itself while it runs: a few numbers and the input at hand, in a mapped file.

Written by the worker before each input and read by its starter, also when the worker is dead.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path

_HEAD = struct.Struct("<QQQQ")


@dataclass(frozen=True, slots=True)
class Progress:
    """Inputs so far, kinds of findings, ways seen (plain engine), and the input at hand."""

    inputs: int = 0
    findings: int = 0
    ways: int = 0
    data: bytes = b""


class ProgressFile:
    """The mapped file, on the worker's side."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        with path.open("wb+") as file:
            file.truncate(_HEAD.size + max_bytes)
            self._map = mmap.mmap(file.fileno(), _HEAD.size + max_bytes)
        self._max_bytes = max_bytes
        self.inputs = self.findings = self.ways = 0

    def begin(self, data: bytes) -> None:
        """An input is about to be examined."""
        data = data[: self._max_bytes]
        self._map[_HEAD.size : _HEAD.size + len(data)] = data
        self._write(len(data))

    def end(self) -> None:
        """It has been examined."""
        self.inputs += 1
        self._write(0)

    def _write(self, length: int) -> None:
        _HEAD.pack_into(self._map, 0, self.inputs, self.findings, self.ways, length)


def read_progress(path: Path) -> Progress:
    """What the worker that writes this file has last shown."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return Progress()
    if len(data) < _HEAD.size:
        return Progress()
    inputs, findings, ways, length = _HEAD.unpack_from(data)
    return Progress(inputs, findings, ways, data[_HEAD.size : _HEAD.size + length])
