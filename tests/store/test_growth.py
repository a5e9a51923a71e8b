"""What is said of the tables' growth is said of every table, and of no other."""

from __future__ import annotations

from pathlib import Path

from comity.store.growth import GROWTH
from tests.engines import POSTGRESQL
from tests.store.support import a_driver


def test_every_table_is_told_of(tmp_path: Path, engine: str) -> None:
    with a_driver(tmp_path) as driver:
        tables = set(driver.read_now(driver.table_sizes))
    if engine != POSTGRESQL:
        tables.add("writer_lease")
    assert tables == GROWTH.keys()
