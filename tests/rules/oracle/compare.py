"""Ask both sides about graphs and compare what they say."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from comity.protocol.room_versions import ROOM_VERSIONS
from tests.rules.oracle import comity_side, disagreements
from tests.rules.oracle.disagreements import Disagreement
from tests.rules.oracle.generator import SERVERS, Graph, generate

SIDE = Path(__file__).with_name("synapse_side.py")
#: Graphs that the other process may have before it.
AHEAD = 32
#: Events of known disagreements that are taken out of one graph, to compare the rest of it.
MAX_REMOVED = 20
#: What is compared of an event, in this order.
FACTS = ("id", "hash", "hash_matches", "redacted", "reference", "cited", "before", "state")


@dataclass(frozen=True)
class Finding:
    """The first disagreement on a graph."""

    graph: Graph
    #: The event's place, or -1 for a fork or an ACL.
    index: int
    fact: str
    ours: Any
    theirs: Any
    known: Disagreement | None


@dataclass
class Report:
    """What a run has seen."""

    counts: Counter[str] = field(default_factory=Counter)
    #: Events, by the name of the known disagreement for which they were left out.
    known: Counter[str] = field(default_factory=Counter)
    rules: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)

    def add(self, other: Report) -> None:
        """Take another run's into this one."""
        self.counts += other.counts
        self.known += other.known
        self.rules += other.rules
        self.findings += other.findings


class Synapse:
    """The other side: a process that answers in the order of the questions."""

    def __init__(self, python: Path) -> None:
        self._process = subprocess.Popen(
            [python, SIDE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )
        self._lines: queue.Queue[str] = queue.Queue()
        # It must be able to answer while it is being asked.
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self._stream(self._process.stdout):
            self._lines.put(line)
        self._lines.put("")

    @staticmethod
    def _stream(stream: IO[str] | None) -> IO[str]:
        assert stream is not None
        return stream

    def ask(self, graph: Graph) -> None:
        """Ask about a graph."""
        question = {
            "version": graph.version, "room_id": graph.room_id, "events": graph.events, "forks": graph.forks,
            "meetings": graph.meetings, "acls": graph.acls, "servers": SERVERS,
        }  # fmt: skip
        stream = self._stream(self._process.stdin)
        stream.write(json.dumps(question) + "\n")
        stream.flush()

    def answer(self) -> dict[str, Any]:
        """The answer to the oldest question that has none yet."""
        line = self._lines.get()
        if not line:
            raise RuntimeError("Synapse's side has ended; what it said stands above")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process."""
        self._stream(self._process.stdin).close()
        self._process.wait()
        self._reader.join()
        self._stream(self._process.stdout).close()


@contextlib.contextmanager
def synapse(python: Path) -> Iterator[Synapse]:
    """The other side, ended afterwards."""
    side = Synapse(python)
    try:
        yield side
    finally:
        side.close()


def without(graph: Graph, event_ids: Iterable[str]) -> Graph:
    """The graph without those events and all that refer to them."""
    gone = set(event_ids)
    version = ROOM_VERSIONS[graph.version]
    events = []
    for pdu in graph.events:
        references = [*pdu["prev_events"], *pdu["auth_events"]]
        cited = {one[0] if version.references_carry_hashes else one for one in references}
        event_id = comity_side.event_id(graph.version, pdu)
        if event_id in gone or not gone.isdisjoint(cited):
            gone.add(event_id)
        else:
            events.append(pdu)
    forks = [[event_id for event_id in fork if event_id not in gone] for fork in graph.forks]
    return replace(graph, events=events, forks=[fork for fork in forks if fork])


def first_difference(graph: Graph, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Finding | None:
    """The first thing on which the two sides differ."""
    for index, (mine, other) in enumerate(zip(ours["events"], theirs["events"], strict=True)):
        if "format" in mine or "unreadable" in other:
            if "format" in mine:
                # comity drops it: it is in nobody's way there, and is taken out here.
                return Finding(graph, index, "format", mine, other, None)
            known = disagreements.find(graph, graph.events[index], mine, {"why": f"RAISED {other}"})
            return Finding(graph, index, "unreadable", mine, other, known)
        for fact in FACTS:
            # What the auth events deny is denied: of the state before it no more is asked.
            if mine[fact] != other[fact] and not (fact == "before" and not mine["cited"]):
                known = disagreements.find(graph, graph.events[index], mine, other)
                if known is None and fact in ("before", "state"):
                    # What the states before it were resolved to.
                    known = disagreements.of_states(graph)
                return Finding(graph, index, fact, mine, other, known)
    for fact in ("forks", "meetings", "acls"):
        for number, (mine, other) in enumerate(zip(ours[fact], theirs[fact], strict=True)):
            if mine != other:
                known = None if fact == "acls" else disagreements.of_states(graph)
                return Finding(graph, -1, f"{fact} {number}", mine, other, known)
    return None


def compare(side: Synapse, graph: Graph, report: Report, theirs: Mapping[str, Any] | None = None) -> None:
    """Compare one graph, `theirs` being the answer about it if there is one already.

    An event of a known disagreement is taken out with all that stands on it, and the rest is
    compared again.
    """
    report.counts["graphs"] += 1
    for _ in range(MAX_REMOVED):
        if theirs is None:
            side.ask(graph)
            theirs = side.answer()
        if "raised" in theirs:
            report.known["a resolution in which Synapse raises"] += 1
            return
        ours = comity_side.judge(graph)
        finding = first_difference(graph, ours, theirs)
        if finding is None:
            _count(graph, ours, report)
            return
        if finding.fact != "format":
            if finding.known is None:
                report.findings.append(finding)
                return
            report.known[finding.known.name] += 1
        else:
            report.known["(an event that comity drops for its format)"] += 1
        if finding.index < 0:
            return
        graph, theirs = (
            without(graph, [comity_side.event_id(graph.version, graph.events[finding.index])]),
            None,
        )
        if not graph.events:
            return
    report.known["(a graph with too many of them)"] += 1


def _count(graph: Graph, ours: Mapping[str, Any], report: Report) -> None:
    counts = report.counts
    counts["events"] += len(ours["events"])
    counts["decisions"] += 2 * len(ours["events"])
    counts["forks"] += len(ours["forks"])
    counts["states after events"] += len(ours["events"])
    counts["access control lists"] += sum(map(len, ours["acls"]))
    for event in ours["events"]:
        if event["cited"] and event["before"]:
            counts["allowed"] += 1
        else:
            report.rules[event["why"].partition(":")[0]] += 1


def run(python: Path, versions: Iterable[str], seeds: Iterable[int]) -> Report:
    """Compare the graphs of those versions and seeds."""
    report = Report()
    graphs = (generate(version, seed) for seed in seeds for version in versions)
    with synapse(python) as side:
        waiting: list[Graph] = []
        for graph in graphs:
            side.ask(graph)
            waiting.append(graph)
            if len(waiting) == AHEAD:
                _settle(side, waiting, report)
        _settle(side, waiting, report)
    return report


def _settle(side: Synapse, waiting: list[Graph], report: Report) -> None:
    """Take the answers that are due, then compare; what has to be asked again is asked behind them."""
    answers = [side.answer() for _ in waiting]
    for graph, answer in zip(waiting, answers, strict=True):
        compare(side, graph, report, answer)
    waiting.clear()
