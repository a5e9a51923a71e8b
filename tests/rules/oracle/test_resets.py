"""The known state resets, asked of Synapse: it loses what comity loses, in every room version."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.interop.servers import synapse_python
from tests.rules.oracle import comity_side
from tests.rules.oracle.compare import Synapse, first_difference, synapse
from tests.rules.oracle.generator import Graph
from tests.rules.resets import CASES, Reset, Scene

#: Where the sides differ is a matter of which states an event may be part of, which is not asked here.
TOLD = [
    pytest.param(case, version, id=f"{case.name}-{version}")
    for case in CASES
    for version in case.versions
    if not case.synapse_differs
]


@pytest.fixture(scope="module")
def side() -> Iterator[Synapse]:
    python = synapse_python()
    if python is None:
        pytest.skip("install Synapse with tests/interop/install.sh")
    with synapse(python) as other:
        yield other


def graph_of(scene: Scene) -> Graph:
    """The scene's graph, with the states that meet in it as the one question."""
    events = list(scene.graph.events.values())
    states = [[event.event_id for event in state.values()] for state in scene.states]
    pdus = [dict(event.source) for event in events]
    return Graph(scene.version.identifier, 0, events[0].room_id, pdus, [], [], [states])


@pytest.mark.interop
@pytest.mark.parametrize(("case", "version"), TOLD)
def test_both_lose_the_same(side: Synapse, case: Reset, version: str) -> None:
    scene = case.build(version)
    graph = graph_of(scene)
    side.ask(graph)
    ours = comity_side.judge(graph)
    finding = first_difference(graph, ours, side.answer())
    assert finding is None or finding.known is not None, finding
    resolved = scene.resolved(scene.version.state_resolution)
    assert ours["meetings"] == [comity_side.digest((*key, event.event_id) for key, event in resolved.items())]
