"""State changes in a room of some size: what one costs to decide and to store, and its bytes on disk.

Owns the workload: members change their profiles, one event after the other, through the batch
and the writer that every event of the server goes through. Signatures and rules are not part of
it: the events are made, and allowed, before the clock starts.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.size.rooms import OURS, Branch
from bench.size.stored import Stored, checkpoint
from comity.bus import Bus
from comity.net.system import SystemClock
from comity.protocol.admission import Outcome
from comity.protocol.event import Event
from comity.protocol.identifiers import server_of
from comity.rooms.batch import Batch
from comity.rooms.commit import Commits
from comity.rooms.merge import Merger
from comity.rooms.room import Rooms, load_numbers
from comity.store.database import Database, last_position
from comity.store.events import Events
from comity.store.state import NewPages, States

#: Changes that wait for the writer at the same time, and so are committed together.
TOGETHER = 50


@dataclass
class Costs:
    """What changes cost, by round, in seconds a change."""

    #: The new state vector alone, its pages encoded and named.
    vector: list[float] = field(default_factory=list)
    #: All that is decided: `Batch.add`.
    decide: list[float] = field(default_factory=list)
    #: From the first decision to the last byte on disk.
    whole: list[float] = field(default_factory=list)
    #: CPU time of that, all threads.
    cpu: list[float] = field(default_factory=list)
    changes: int = 0
    #: Growth of the database's file in bytes, and of each table and index in it.
    growth: int = 0
    tables: dict[str, int] = field(default_factory=dict)


def make_changes(room: Branch, members: Sequence[str], count: int, seed: int) -> list[Event]:
    """Profile changes of random members, each after the last."""
    chosen = random.Random(seed)
    return [
        room.member(member, "join", member, check=False)
        for member in (chosen.choice(members) for _ in range(count))
    ]


def sizes(path: Path) -> dict[str, int]:
    """Bytes of the database's file by table and index."""
    checkpoint(path)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        try:
            rows = connection.execute("SELECT name, pgsize FROM dbstat WHERE aggregate = TRUE").fetchall()
        except sqlite3.OperationalError:
            # This SQLite was built without dbstat: the file's size says how much, not where.
            rows = []
    return {"file": path.stat().st_size, **dict(rows)}


class Changer:
    """The write path over a stored room."""

    def __init__(self, stored: Stored) -> None:
        """Call it inside an event loop."""
        self._stored = stored
        driver = stored.driver
        self._database = Database(driver, driver.read_now(last_position))
        self._states, events = States(), Events()
        events.know_room(1, stored.version)
        self._rooms = Rooms(self._database, self._states, events, driver.read_now(load_numbers))
        self._merger = Merger(self._states, events)
        self._commits = Commits(self._database, self._rooms, self._merger, Bus(), OURS, SystemClock())

    async def run(self, changes: Sequence[Event], costs: Costs) -> None:
        """Decide and store changes, some at a time."""
        room = await self._rooms.get(self._stored.room_id)
        assert room is not None
        deciding = 0.0
        started, used = time.perf_counter(), time.process_time()
        for start in range(0, len(changes), TOGETHER):
            waiting = []
            for event in changes[start : start + TOGETHER]:
                batch = Batch(self._rooms, self._merger, room)
                began = time.perf_counter()
                decided = self._database.read_now(
                    lambda tx: batch.add(tx, event, Outcome.ACCEPT, room.state, is_new=True)  # noqa: B023
                )
                deciding += time.perf_counter() - began
                if server_of(event.sender) == OURS:
                    decided.send_except = OURS
                waiting.append(self._commits.submit([batch]))
            await asyncio.gather(*waiting)
        costs.decide.append(deciding / len(changes))
        costs.whole.append((time.perf_counter() - started) / len(changes))
        costs.cpu.append((time.process_time() - used) / len(changes))
        costs.changes += len(changes)
        costs.vector.append(await self._vector(changes))

    async def _vector(self, changes: Sequence[Event]) -> float:
        """Seconds that a new state vector takes, apart from everything else."""
        states, driver = self._states, self._stored.driver
        room = await self._rooms.get(self._stored.room_id)
        assert room is not None
        wanted = [{self._stored.slots[event.key]: number} for number, event in enumerate(changes, 10**6)]
        pages: NewPages = {}
        started = time.perf_counter()
        for change in wanted:
            driver.read_now(lambda tx: states.replace(tx, room.state, change, pages))  # noqa: B023
        seconds = time.perf_counter() - started
        states.forget(pages)
        return seconds / len(changes)

    async def check(self, expected: dict[str, str]) -> None:
        """The room's state on disk holds these members' events, by user id."""
        room = await self._rooms.get(self._stored.room_id)
        assert room is not None
        engine = self._stored.engine()
        entries = self._database.read_now(lambda tx: engine.entries(tx, room.state))
        wrong = [user for user, event_id in expected.items() if entries["m.room.member", user] != event_id]
        assert not wrong, f"the state has other events of {wrong[:3]}"


async def measure(stored: Stored, room: Branch, members: Sequence[str], count: int, rounds: int) -> Costs:
    """Changes of a room, `rounds` times `count` of them."""
    costs = Costs()
    changer = Changer(stored)
    before = sizes(stored.path)
    gc.collect()
    # The room as the benchmark holds it is not looked through for garbage while a clock runs.
    gc.freeze()
    for number in range(rounds):
        await changer.run(make_changes(room, members, count, number), costs)
    gc.unfreeze()
    after = sizes(stored.path)
    await changer.check({user: room.state["m.room.member", user].event_id for user in members})
    costs.growth = after.pop("file") - before.pop("file")
    costs.tables = {name: size - before.get(name, 0) for name, size in after.items()}
    return costs
