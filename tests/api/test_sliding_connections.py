"""What sliding sync remembers of its clients is bounded, and goes by who used it last."""

from __future__ import annotations

from dataclasses import replace

import pytest

from comity.protocol.errors import MatrixError
from comity.sync.sliding.connections import EMPTY_SIZE, Connections, Told


def test_connections_without_rooms_are_bounded_too() -> None:
    connections = Connections(1, max_rooms=10 * EMPTY_SIZE)
    for number in range(50):
        connections.begin((f"@user{number}:example.org", "DEVICE"), "", 0.0)
        assert len(connections) <= 10
    assert len(connections) == 10


def test_the_least_used_goes_first() -> None:
    connections = Connections(1, max_rooms=200)
    places = {}
    for name in ("one", "two"):
        base = connections.begin(("@user:example.org", name), "", 0.0)
        rooms = {f"!{number}:example.org": Told(1, "join") for number in range(50)}
        places[name] = connections.advance(("@user:example.org", name), "", base, replace(base, rooms=rooms))
    assert connections.at(("@user:example.org", "one"), "", places["one"] or "", 1.0).rooms
    base = connections.begin(("@user:example.org", "three"), "", 2.0)
    rooms = {f"!{number}:example.org": Told(1, "join") for number in range(120)}
    assert connections.advance(("@user:example.org", "three"), "", base, replace(base, rooms=rooms))
    assert connections.at(("@user:example.org", "one"), "", places["one"] or "", 3.0).rooms
    with pytest.raises(MatrixError):
        connections.at(("@user:example.org", "two"), "", places["two"] or "", 3.0)
