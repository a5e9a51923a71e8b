"""The invariants of the store: a server's database keeps them, and each breach of one is told."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from comity.rooms.room import know_all_rooms
from comity.store.checks import ask, invariants
from comity.store.database import Tx
from comity.store.events import Events
from comity.store.state import States
from tests.rooms.support import ALICE, BOB, Place, a_place
from tests.rooms.test_forks import a_shared_room, something
from tests.store.support import a_driver, write


def breaches(folder: Path) -> dict[str, list[str]]:
    """What is wrong with the database of a folder, by the name of the invariant."""
    with a_driver(folder) as driver:

        def look(tx: Tx) -> dict[str, list[str]]:
            events = Events()
            know_all_rooms(tx, events)
            found = {}
            for invariant in invariants(events, States()):
                done: list[int] = []
                found[invariant.name] = list(ask(invariant, tx, done.append))
                assert found[invariant.name] or sum(done) == invariant.size(tx), invariant.name
            return {name: sentences for name, sentences in found.items() if sentences}

        return driver.read_now(look)


async def a_forked_room(place: Place, version: str) -> None:
    """A room in which several servers went on from several places."""
    chance = random.Random(version)
    room_id, trunk = await a_shared_room(place, version)
    branches = [trunk, trunk.fork()]
    for _ in range(20):
        branch = chance.choice(branches)
        event = something(chance, branch)
        await place.receive(event.sender.partition(":")[2], event)
        branch.head = (event,)
        if chance.random() < 0.2:
            await place.say(room_id, "x")


@pytest.mark.parametrize("version", ["1", "10", "12"])
async def test_a_servers_database_keeps_them(tmp_path: Path, version: str) -> None:
    async with a_place(tmp_path) as place:
        await a_forked_room(place, version)
        await place.create(creator=ALICE)
    assert breaches(tmp_path) == {}


BREAKING: dict[str, str] = {
    "log": "UPDATE log_position SET last = 3",
    "head": "DELETE FROM forward_extremities",
    "followed": "INSERT INTO forward_extremities (room_num, event_num) VALUES (1, 2)",
    "orphan": "DELETE FROM events WHERE event_num = 2",
    "room": "DELETE FROM rooms",
    "page": "UPDATE state_pages SET body = (SELECT json FROM events WHERE event_num = 1)",
    "lost page": "DELETE FROM state_pages WHERE name = (SELECT state FROM rooms)",
    "edge": "DELETE FROM auth_citations WHERE citing = 4",
    "member": "UPDATE memberships SET membership = 'ban' WHERE event_num = 2",
    "stranger": "INSERT INTO memberships (room_num, user_id, server, membership, event_num, position) "
    "VALUES (1, '@eve:e.example', 'e.example', 'join', 2, 2)",
    "key": "UPDATE state_slots SET state_key = 'other' WHERE slot = 0",
    "rejected": "UPDATE events SET verdict = 2 WHERE event_num = 2",
}


@pytest.mark.parametrize("name", BREAKING)
async def test_what_is_broken_is_told(tmp_path: Path, name: str) -> None:
    async with a_place(tmp_path) as place:
        room_id = await place.create()
        await place.accept(place.branch(room_id).join(BOB))
    assert breaches(tmp_path) == {}
    with a_driver(tmp_path) as driver:
        change: Callable[[Tx], int] = lambda tx: tx.changed(BREAKING[name])  # noqa: E731 - it is named for reading
        assert write(driver, change) > 0
    assert breaches(tmp_path)
