"""A process that is killed: all that it has acknowledged is there, and nothing by halves."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engines import url_of
from tests.store.support import a_driver

#: Writes numbers, two rows each, from many tasks; prints each when it is acknowledged.
PROGRAM = """
import asyncio, sys
from pathlib import Path
from comity.net.system import ThreadOffload
from comity.net.pausing import GreenletPausing
from comity.store.database import Database, last_position
from comity.store.engines import open_migrated

async def main(url, folder, first):
    driver = open_migrated(url, Path(folder), GreenletPausing(), offload=ThreadOffload())
    table = "CREATE TABLE IF NOT EXISTS pair (n BIGINT, half BIGINT, position BIGINT)"
    driver.write_now(lambda tx: tx.script(table))
    database = Database(driver, driver.read_now(last_position))
    numbers = iter(range(first, first + 10**9))

    def store(tx, n):
        position = tx.next_position()
        for half in (0, 1):
            tx.run("INSERT INTO pair (n, half, position) VALUES (?, ?, ?)", (n, half, position))
        if n % 7 == 0:
            raise ValueError
        return position

    async def work():
        while True:
            n = next(numbers)
            try:
                position = await database.write(lambda tx: store(tx, n))
            except ValueError:
                continue
            sys.stdout.write(f"{n} {position}\\n")
            sys.stdout.flush()

    await asyncio.gather(*(work() for _ in range(8)))

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


@pytest.mark.parametrize("seed", [1, 2])
def test_what_was_acknowledged_survives(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    acknowledged: dict[int, int] = {}
    for run in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, url_of(tmp_path), str(tmp_path), str(run * 1_000_000)],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(chance.randrange(1, 400))]
        process.kill()
        lines += process.stdout.readlines()
        process.stdout.close()
        assert process.wait() == -9
        for line in lines:
            # The last line may be cut off.
            if line.endswith(b"\n"):
                number, position = line.split()
                assert int(position) not in acknowledged.values(), "a position was given twice"
                acknowledged[int(number)] = int(position)
        with a_driver(tmp_path) as driver:
            rows = driver.read_now(lambda tx: tx.all("SELECT n, half, position FROM pair"))
            last = driver.read_now(lambda tx: tx.one("SELECT last FROM log_position"))
        halves: dict[int, list[int]] = {}
        for number, half, position in rows:
            halves.setdefault(number, []).append(half)
            assert acknowledged.get(number, position) == position
        assert all(sorted(found) == [0, 1] for found in halves.values())
        assert acknowledged.keys() <= halves.keys()
        assert not [number for number in halves if number % 7 == 0]
        assert last is not None
        assert last[0] >= max(row[2] for row in rows)
    assert len(acknowledged) > 100
