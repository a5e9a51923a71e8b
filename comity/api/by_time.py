"""How clients and servers alike ask for the event closest to a time."""

from __future__ import annotations

from comity.api.router import Call
from comity.protocol.errors import invalid_param


def by_time_query(call: Call) -> tuple[int, bool]:
    """(time in ms, whether forwards) of a query. Raises 400 M_MISSING_PARAM, M_INVALID_PARAM."""
    call.query_required("ts")
    direction = call.query_required("dir")
    if direction not in ("f", "b"):
        raise invalid_param("dir is neither f nor b")
    return call.query_int("ts", 0), direction == "f"
