"""The resolvers of others, each a program that is asked line by line: Synapse's, and Ruma's.

Owns what they are given (files of events and states) and how they are found and built.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from bench.size.comity_resolver import Sets
from bench.size.forks import Case
from bench.size.rooms import Graph
from comity.protocol.event import StateKey
from tests.interop.servers import CACHE, synapse_python

HERE = Path(__file__).resolve().parent
SYNAPSE, RUMA = "Synapse", "Ruma"


@dataclass(frozen=True)
class Answer:
    """What a resolver took, and a digest of what it came to."""

    seconds: list[float]
    digest: str


class Program:
    """A running resolver."""

    def __init__(self, name: str, arguments: Sequence[str], variants: Sequence[str]) -> None:
        self.name = name
        #: How it may be run; the first costs least.
        self.variants = tuple(variants)
        self._process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def _ask(self, order: Mapping[str, Any]) -> dict[str, Any]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        stdin.write(json.dumps(order) + "\n")
        stdin.flush()
        line = stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name}'s resolver ended; its last words are above")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def load(self, events: Path, cases: Path) -> None:
        """Have a room read into memory."""
        self._ask({"do": "load", "events": str(events), "cases": str(cases)})

    def resolve(self, case: str, variant: str, seconds: float) -> Answer:
        """Have a case resolved for some seconds."""
        answer = self._ask({"do": "resolve", "case": case, "variant": variant, "seconds": seconds})
        return Answer(answer["seconds"], answer["digest"])

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def digest(entries: Mapping[StateKey, str]) -> str:
    """A state in one line: SHA-256 over its sorted entries. The programs reckon the same."""
    lines = sorted(f"{kind}\0{key}\0{event_id}\n" for (kind, key), event_id in entries.items())
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def write_files(
    directory: Path, graph: Graph, cases: Sequence[Case], sets: Mapping[str, Sets]
) -> tuple[Path, Path]:
    """A room's events, and its cases with what Synapse is given for nothing."""
    events, states = directory / "events.jsonl", directory / "cases.jsonl"
    with events.open("wb") as file:
        head = {"room_version": graph.version.identifier, "room_id": graph.room_id}
        file.write(orjson.dumps(head) + b"\n")
        for event_id, event in graph.events.items():
            file.write(orjson.dumps({"event_id": event_id, "event": event.source}) + b"\n")
    with states.open("wb") as file:
        for case in cases:
            row = {
                "name": case.name,
                "states": [[event.event_id for event in state.values()] for state in case.states],
                "auth_difference": sorted(sets[case.name].difference),
                "subgraph": sorted(sets[case.name].subgraph),
            }
            file.write(orjson.dumps(row) + b"\n")
    return events, states


def note(text: str) -> None:
    """Tell the one who waits."""
    print(text, file=sys.stderr, flush=True)


def _ruma() -> Path | None:
    """The program around ruma-state-res, built if there is a cargo; None if there cannot be one."""
    cargo = shutil.which("cargo")
    if cargo is None:
        note("no cargo here: ruma-state-res is left out")
        return None
    # Built beside its lock file in a folder that git does not see.
    folder = CACHE / "size-ruma"
    shutil.copytree(HERE / "ruma", folder, dirs_exist_ok=True)
    built = subprocess.run([cargo, "build", "--release", "--quiet"], cwd=folder, check=False)
    if built.returncode:
        note("ruma-state-res could not be built: it is left out")
        return None
    return folder / "target" / "release" / "size-ruma"


@contextlib.contextmanager
def running(*, synapse: bool, ruma: bool) -> Iterator[list[Program]]:
    """The other resolvers that are there."""
    programs = []
    python = synapse_python() if synapse else None
    if python is not None:
        arguments = [str(python), str(HERE / "synapse_resolver.py")]
        programs.append(Program(SYNAPSE, arguments, ("given", "computed")))
    elif synapse:
        note("no Synapse here (tests/interop/install.sh): it is left out")
    program = _ruma() if ruma else None
    if program is not None:
        programs.append(Program(RUMA, [str(program)], ("computed",)))
    try:
        yield programs
    finally:
        for one in programs:
            one.close()
