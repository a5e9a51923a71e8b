"""Make the graph of a finding small while the finding stays, and write it down as a case."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tests.rules.oracle import comity_side
from tests.rules.oracle.compare import Finding, Synapse, first_difference, without
from tests.rules.oracle.generator import Graph

CASES = Path(__file__).with_name("cases")
#: Questions that are spent on one finding.
MAX_QUESTIONS = 400


def minimised(side: Synapse, finding: Finding) -> Finding:
    """The finding on the smallest graph that a few hundred attempts come to."""
    questions = 0
    smaller = True
    while smaller:
        smaller = False
        for graph in _smaller(finding):
            questions += 1
            if questions > MAX_QUESTIONS:
                return finding
            found = _ask(side, graph)
            if found is not None and _alike(found, finding):
                finding, smaller = found, True
                break
    return finding


def _ask(side: Synapse, graph: Graph) -> Finding | None:
    side.ask(graph)
    theirs = side.answer()
    return None if "raised" in theirs else first_difference(graph, comity_side.judge(graph), theirs)


def _alike(one: Finding, other: Finding) -> bool:
    same_known = (one.known and one.known.name) == (other.known and other.known.name)
    return (
        same_known and (one.index < 0) == (other.index < 0) and one.fact.split()[0] == other.fact.split()[0]
    )


def _smaller(finding: Finding) -> Iterator[Graph]:
    """Graphs with less in them, the boldest first."""
    graph = finding.graph
    if graph.acls and not finding.fact.startswith("acls"):
        yield replace(graph, acls=[])
    if finding.index >= 0 and (graph.forks or finding.index + 1 < len(graph.events)):
        yield replace(graph, events=graph.events[: finding.index + 1], forks=[])
    elif len(graph.forks) > 1:
        for fork in graph.forks:
            yield replace(graph, forks=[fork])
    for pdu in reversed(graph.events[1:]):
        yield without(graph, [comity_side.event_id(graph.version, pdu)])


def keep(finding: Finding, name: str, right: str) -> Path:
    """Write a case; `tests/rules/oracle/test_cases.py` holds it."""
    CASES.mkdir(exist_ok=True)
    path = CASES / f"{name}.json"
    path.write_text(
        json.dumps(case_of(finding, right), indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    return path


def case_of(finding: Finding, right: str) -> dict[str, Any]:
    """A finding as JSON."""
    return {
        "right": right,
        "known": None if finding.known is None else finding.known.name,
        "fact": finding.fact,
        "index": finding.index,
        "comity": finding.ours,
        "synapse": finding.theirs,
        "graph": asdict(finding.graph),
    }
