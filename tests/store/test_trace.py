"""Where an event has gone, and through whom one came, on both engines."""

from __future__ import annotations

from pathlib import Path

from comity.store import queues, rooms, trace
from comity.store.database import Tx
from comity.store.queues import Destination
from comity.store.trace import Receiver
from tests.store.support import a_driver, write


def test_receivers_of_a_position(tmp_path: Path) -> None:
    def fill(tx: Tx) -> None:
        for server, since in (("a.example", 2), ("b.example", 4), ("c.example", 9)):
            rooms.begin_stay(tx, server, 1, since)
        rooms.end_stay(tx, "a.example", 1, 5)
        rooms.begin_stay(tx, "a.example", 1, 7)
        rooms.visit(tx, "d.example", 1, 5)
        queues.put_destinations(tx, [Destination("b.example", 3, 10, 20, 30, 5, "no answer", "connection")])
        queues.add_outbound(tx, 1, 5, 50, "own.example")

    with a_driver(tmp_path) as driver:
        write(driver, fill)
        found = driver.read_now(lambda tx: trace.receivers(tx, 1, 5))
        failing = Destination("b.example", 3, 10, 20, 30, 5, "no answer", "connection")
        assert found == [
            Receiver("a.example", 2, None),
            Receiver("b.example", 4, failing),
            Receiver("d.example", 5, None),
        ]
        assert driver.read_now(lambda tx: trace.except_server(tx, 1, 5)) == "own.example"
        assert driver.read_now(lambda tx: trace.except_server(tx, 1, 6)) is None


def test_who_brought_an_event(tmp_path: Path) -> None:
    def fill(tx: Tx) -> None:
        queues.put_received(tx, "b.example", "1", 1_000, b'{"pdus":{"$one":{}}}')
        queues.put_received(tx, "c.example", "2", 2_000, b'{"pdus":{"$one":{},"$two":{"error":"no"}}}')

    with a_driver(tmp_path) as driver:
        write(driver, fill)
        assert driver.read_now(lambda tx: trace.brought_by(tx, "$one", 0, 9_000)) == ("b.example", 1_000)
        assert driver.read_now(lambda tx: trace.brought_by(tx, "$two", 0, 9_000)) == ("c.example", 2_000)
        assert driver.read_now(lambda tx: trace.brought_by(tx, "$on", 0, 9_000)) is None
        assert driver.read_now(lambda tx: trace.brought_by(tx, "$two", 0, 1_999)) is None
        assert not driver.read_now(lambda tx: trace.is_staged(tx, "$one"))
