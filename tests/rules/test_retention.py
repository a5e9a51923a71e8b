"""How long messages are kept (MSC1763)."""

from __future__ import annotations

from typing import Any

import pytest

from comity.protocol.retention import Bounds, lifetime


@pytest.mark.parametrize(
    ("content", "bounds", "kept"),
    [
        (None, Bounds(), None),
        ({}, Bounds(), None),
        ({"max_lifetime": 5}, Bounds(), 5),
        ({"max_lifetime": 0}, Bounds(), 0),
        ({"max_lifetime": None}, Bounds(default=7), 7),
        (None, Bounds(default=7), 7),
        ({"max_lifetime": 5}, Bounds(default=7), 5),
        ({"max_lifetime": 5, "min_lifetime": 9}, Bounds(), 9),
        ({"min_lifetime": 9}, Bounds(), None),
        ({"min_lifetime": 9}, Bounds(default=7), 9),
        ({"max_lifetime": 5}, Bounds(least=6), 6),
        ({"max_lifetime": 50}, Bounds(most=20), 20),
        ({"min_lifetime": 50}, Bounds(most=20), 20),
        (None, Bounds(most=20), 20),
        (None, Bounds(default=7, most=20), 7),
        ({"max_lifetime": -1}, Bounds(), None),
        ({"max_lifetime": True}, Bounds(), None),
        ({"max_lifetime": "5"}, Bounds(), None),
        ({"max_lifetime": 5.0}, Bounds(), None),
        ({"max_lifetime": 2**53}, Bounds(default=7), 7),
        ({"max_lifetime": 5, "min_lifetime": "x"}, Bounds(), 5),
    ],
)
def test_a_lifetime(content: dict[str, Any] | None, bounds: Bounds, kept: int | None) -> None:
    assert lifetime(content, bounds) == kept
