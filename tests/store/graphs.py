"""Random graphs of auth edges, and what is to be known of them by the plainest means."""

from __future__ import annotations

from hypothesis import strategies as st

from comity.store.auth_chains import cite
from comity.store.database import Tx
from comity.store.events import pack_numbers


@st.composite
def graphs(draw: st.DrawFn) -> dict[int, tuple[int, ...]]:
    """number -> numbers of its auth events, which are smaller."""
    count = draw(st.integers(1, 25))
    return {
        number: tuple(sorted(draw(st.sets(st.integers(1, number - 1), max_size=4)))) if number > 1 else ()
        for number in range(1, count + 1)
    }


def closure(graph: dict[int, tuple[int, ...]], starts: set[int]) -> set[int]:
    """Everything that those events reach, themselves included."""
    found = set(starts)
    for number in sorted(graph, reverse=True):
        if number in found:
            found.update(graph[number])
    return found


def store_graph(tx: Tx, graph: dict[int, tuple[int, ...]]) -> None:
    """Store a graph's edges, in both directions, with as little else as may be."""
    for number, auth in graph.items():
        cite(tx, ((cited, number) for cited in auth))
    tx.many(
        "INSERT INTO events "
        "(event_num, event_id, room_num, type, state_key, sender, depth, origin_server_ts, auth, json) "
        "VALUES (?, ?, 1, 'm', '', '@a:b', 1, 1, ?, ?)",
        [(number, f"${number}", pack_numbers(auth), b"") for number, auth in graph.items()],
    )
