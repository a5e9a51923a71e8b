"""What an event's state is does not depend on the order in which events came."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from comity.protocol.auth.rules import authorize
from comity.protocol.event import Event, StateKey
from comity.store.database import Tx
from comity.store.events import REJECTED
from tests.engines import copy_folder
from tests.rooms.support import Place, a_place
from tests.rooms.test_forks import a_shared_room, something
from tests.rules.rooms import Room

DELIVERIES = 3
EVENTS = 25


def written(chance: random.Random, trunk: Room) -> list[Event]:
    """Events on forks of a room, whoever may have allowed them, each after those it points to."""
    branches: list[Room] = [trunk]
    events: list[Event] = []
    while len(events) < EVENTS:
        if chance.random() < 0.2 and len(branches) < 4:
            branches.append(chance.choice(branches).fork())
        branch = chance.choice(branches)
        if chance.random() < 0.15:
            other = chance.choice(branches)
            branch.head = tuple({event.event_id: event for event in (*branch.head, *other.head)}.values())
        event = something(chance, branch)
        if authorize(event, branch.state.get) is None:
            branch.add(event)
        branch.head = (event,)
        events.append(event)
    return events


def another_order(chance: random.Random, events: Sequence[Event]) -> list[Event]:
    """The same events in a random order in which each still comes after those it points to."""
    ids = {event.event_id for event in events}
    waiting, ordered, given = list(events), list[Event](), set[str]()
    while waiting:
        ready = [event for event in waiting if (set(event.prev_event_ids) & ids) <= given]
        event = chance.choice(ready)
        waiting.remove(event)
        given.add(event.event_id)
        ordered.append(event)
    return ordered


def outcome(place: Place, event_id: str) -> tuple[bool, dict[StateKey, str]]:
    """Whether an event was rejected, and the state after it."""
    stored = place.stored(event_id)
    assert stored is not None
    root, parts = stored.state_after, place.rooms.writer._rooms
    assert root is not None

    def read(tx: Tx) -> dict[StateKey, str]:
        numbers = [number for _, number in parts.states.items(tx, root)]
        return {item.event.key: item.event.event_id for item in parts.events.load(tx, numbers).values()}

    return stored.verdict == REJECTED, place.database.read_now(read)


@pytest.mark.parametrize("version", ["2", "6", "10", "12"])
@pytest.mark.parametrize("seed", range(3))
async def test_states_do_not_depend_on_the_order_of_delivery(tmp_path: Path, version: str, seed: int) -> None:
    chance = random.Random(seed)
    async with a_place(tmp_path / "0") as place:
        _, trunk = await a_shared_room(place, version)
        events = written(chance, trunk)
    for delivery in range(1, DELIVERIES):
        copy_folder(tmp_path / "0", tmp_path / str(delivery))
    outcomes = []
    for delivery in range(DELIVERIES):
        order = another_order(chance, events) if delivery else events
        async with a_place(tmp_path / str(delivery)) as place:
            # Transactions are known by their names; these are new.
            place._transactions = itertools.count(1_000)
            for event in order:
                await place.receive(event.sender.partition(":")[2], event)
            outcomes.append({event.event_id: outcome(place, event.event_id) for event in events})
    assert outcomes[1] == outcomes[0]
    assert outcomes[2] == outcomes[0]
