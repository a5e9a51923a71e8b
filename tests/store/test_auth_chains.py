"""The sets of state resolution as the store finds them, against their definitions."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comity.store import auth_chains
from comity.store.auth_chains import AuthChains, PowerLevelsLine
from comity.store.cache import Bounded
from comity.store.database import Tx
from comity.store.events import Events
from comity.store.state import States
from tests.store.graphs import closure, graphs, store_graph
from tests.store.support import a_driver, write


@dataclass
class SharedNumbers:
    """What all states share, told by number."""

    shared: set[int]

    def holds(self, number: int) -> bool:
        return number in self.shared

    def holds_at(self, slot: int | None, number: int) -> bool:
        assert slot is None, "no event of these graphs has a slot"
        return number in self.shared

    def numbers(self) -> Iterable[int]:
        return self.shared


@pytest.mark.parametrize("followed", [auth_chains.MAX_FOLLOWED, 2, 0])
@settings(max_examples=60, deadline=None)
@given(graph=graphs(), data=st.data(), at_once=st.sampled_from([1, 16]))
def test_the_auth_difference(
    followed: int, graph: dict[int, tuple[int, ...]], data: st.DataObject, at_once: int
) -> None:
    subsets = st.sets(st.sampled_from(sorted(graph)), max_size=6)
    with tempfile.TemporaryDirectory() as folder, a_driver(Path(folder)) as driver:
        write(driver, lambda tx: store_graph(tx, graph))
        for _ in range(5):
            chains = AuthChains(Events(), States(), max_followed=followed, at_once=at_once)
            shared = data.draw(subsets)
            own = data.draw(st.lists(subsets.map(lambda numbers: numbers - shared), min_size=2, max_size=4))  # noqa: B023
            reached = [closure(graph, mine | shared) for mine in own]
            expected = set().union(*reached) - reached[0].intersection(*reached[1:])
            found = driver.read_now(lambda tx: chains.difference(tx, own, SharedNumbers(shared)))  # noqa: B023
            assert found == expected


@settings(max_examples=100, deadline=None)
@given(graph=graphs(), data=st.data())
def test_the_conflicted_subgraph(graph: dict[int, tuple[int, ...]], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder, a_driver(Path(folder)) as driver:
        write(driver, lambda tx: store_graph(tx, graph))
        for _ in range(5):
            events = Events()
            events._edges = Bounded(data.draw(st.sampled_from([1, 1_000])))
            chains = AuthChains(events, States())
            ends = data.draw(st.sets(st.sampled_from(sorted(graph)), min_size=1, max_size=5))
            expected = {number for number in closure(graph, ends) if closure(graph, {number}) & ends}
            assert driver.read_now(lambda tx: chains.subgraph(tx, ends)) == expected  # noqa: B023


def test_the_citations_of_events_that_were_there_before_are_filled_in(tmp_path: Path) -> None:
    graph = {1: (), 2: (1,), 3: (1, 2), 4: (2,)}
    with a_driver(tmp_path) as driver:
        write(driver, lambda tx: store_graph(tx, graph))
        before = driver.read_now(lambda tx: tx.all("SELECT cited, citing FROM auth_citations"))
        write(driver, lambda tx: tx.run("DELETE FROM auth_citations"))
        write(driver, lambda tx: auth_chains.fill(tx, at_once=2))
        assert driver.read_now(lambda tx: tx.all("SELECT cited, citing FROM auth_citations")) == before
        assert len(before) == 4


@settings(max_examples=60, deadline=None)
@given(graph=graphs(), data=st.data())
def test_the_line_of_power_levels(graph: dict[int, tuple[int, ...]], data: st.DataObject) -> None:
    levels = data.draw(st.sets(st.sampled_from(sorted(graph)), min_size=1))
    asked = data.draw(st.permutations(sorted(levels)))
    with tempfile.TemporaryDirectory() as folder, a_driver(Path(folder)) as driver:
        write(driver, lambda tx: store_graph(tx, graph))
        marks = ",".join("?" * len(levels))
        of_levels = f"UPDATE events SET type = 'm.room.power_levels' WHERE event_num IN ({marks})"
        write(driver, lambda tx: tx.run(of_levels, sorted(levels)))
        for at_first in (1, 3, 200):

            def ask(tx: Tx, at_first: int = at_first) -> dict[int, str | None]:
                line = PowerLevelsLine(tx, Events(), room_num=1, at_first=at_first)
                return {number: line.behind(f"${number}") for number in asked}

            for number, found in driver.read_now(ask).items():
                cited = {f"${below}" for below in graph[number] if below in levels}
                assert (found in cited) if cited else found is None
