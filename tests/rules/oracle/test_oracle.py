"""comity's rules against Synapse's, on random room graphs and on what they are known to differ in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from comity.protocol.room_versions import ROOM_VERSIONS
from tests.interop.servers import synapse_python
from tests.rules.oracle import comity_side
from tests.rules.oracle.cases import CASES, Case
from tests.rules.oracle.compare import Synapse, first_difference, run, synapse
from tests.rules.oracle.generator import generate

#: Seeds of a round; each is a graph of every room version.
SEEDS = range(200)
CHUNKS = 4
#: A round compares at least as many graphs as this.
GRAPHS = 2_000
#: Share of events that may be left out as known disagreements before a round says too little.
MAX_LEFT_OUT = 0.01


@pytest.fixture(scope="module")
def python() -> Path:
    found = synapse_python()
    if found is None:
        pytest.skip("install Synapse with tests/interop/install.sh")
    return found


@pytest.fixture(scope="module")
def side(python: Path) -> Iterator[Synapse]:
    with synapse(python) as other:
        yield other


@pytest.mark.interop
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_random_graphs_are_judged_alike(python: Path, chunk: int) -> None:
    report = run(python, ROOM_VERSIONS, SEEDS[chunk::CHUNKS])
    assert not report.findings, [(one.graph.version, one.graph.seed, one.fact) for one in report.findings]
    assert report.counts["graphs"] >= GRAPHS / CHUNKS
    # A round in which everything or nothing is allowed would prove little.
    assert 0.3 < report.counts["allowed"] / report.counts["events"] < 0.8
    assert sum(report.known.values()) < MAX_LEFT_OUT * report.counts["events"]
    assert len(report.rules) > 100


@pytest.mark.interop
@pytest.mark.parametrize(
    ("version", "mistaken"), [("5", "6"), ("6", "5"), ("7", "6"), ("8", "7"), ("10", "9"), ("11", "10")]
)
def test_the_rules_of_another_version_are_found_out(side: Synapse, version: str, mistaken: str) -> None:
    """That the comparison can fail: comity is made to take a room for one of another version."""
    for seed in range(60):
        graph = generate(version, seed)
        side.ask(graph)
        theirs = side.answer()
        ours = comity_side.judge(replace(graph, version=mistaken))
        if "raised" in theirs:
            continue
        finding = first_difference(graph, ours, theirs)
        if finding is not None and finding.known is None and finding.fact != "format":
            return
    pytest.fail("Nobody noticed")


def test_a_seed_is_a_graph() -> None:
    assert generate("10", 5) == generate("10", 5)
    assert generate("10", 5) != generate("10", 6)
    assert generate("12", 5).events[0]["content"]["room_version"] == "12"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.known.name)
def test_what_comity_says_of_the_known_disagreements(case: Case) -> None:
    answers = comity_side.judge(case.graph)
    assert all(event["cited"] and event["before"] for event in answers["events"][:-1])
    if case.allowed is not None:
        last = answers["events"][-1]
        assert (last["cited"] and last["before"]) == case.allowed, last["why"]


@pytest.mark.interop
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.known.name)
def test_the_known_disagreements_are_still_there(side: Synapse, case: Case) -> None:
    """Each is what its class says, and no other class claims it."""
    side.ask(case.graph)
    finding = first_difference(case.graph, comity_side.judge(case.graph), side.answer())
    assert finding is not None, "Synapse agrees by now: remove the case and its class"
    assert finding.known is case.known
    assert finding.index == (-1 if case.allowed is None else len(case.graph.events) - 1)
