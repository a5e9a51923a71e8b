"""What a server is owed, asked in each of the ways that `store.queues` has."""

from __future__ import annotations

import random

import pytest

from comity.store import queues
from comity.store import rooms as stored_rooms
from comity.store.database import Database, WriteTx
from tests.engines import engine

__all__ = ["engine"]

SERVERS = ("a.example", "b.example", "c.example")


class Model:
    """The same in plain lists."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, int, str]] = []
        self.stays: list[tuple[str, int, int, int | None]] = []

    def owed(self, server: str, after: int) -> list[tuple[int, int, int]]:
        return [
            (position, position, room)
            for position, room, by in self.rows
            if position > after
            and by != server
            and any(
                name == server and where == room and start <= position and (end is None or position <= end)
                for name, where, start, end in self.stays
            )
        ]


async def a_history(database: Database, seed: int) -> Model:
    """Rooms in which servers come and go, are visited, and things are said."""
    chance, model = random.Random(seed), Model()

    def store(tx: WriteTx) -> None:
        for _ in range(400):
            position, room, server = tx.next_position(), chance.randrange(1, 6), chance.choice(SERVERS)
            kind = chance.random()
            staying = stored_rooms.is_staying(tx, server, room)
            if kind < 0.05 and not staying:
                stored_rooms.begin_stay(tx, server, room, position)
                model.stays.append((server, room, position, None))
            elif kind < 0.08 and staying:
                stored_rooms.end_stay(tx, server, room, position)
                model.stays = [
                    (*stay[:3], position) if stay[:2] == (server, room) and stay[3] is None else stay
                    for stay in model.stays
                ]
            elif kind < 0.12:
                stored_rooms.visit(tx, server, room, position)
                model.stays.append((server, room, position, position))
            if kind > 0.06:
                by = chance.choice((*SERVERS, "own.example"))
                queues.add_outbound(tx, room, position, position, by)
                model.rows.append((position, room, by))

    await database.write(store)
    return model


@pytest.mark.parametrize("few", [0, 100])
@pytest.mark.parametrize("newest", [10, 1000])
@pytest.mark.parametrize("seed", range(5))
async def test_what_is_due(
    database: Database, monkeypatch: pytest.MonkeyPatch, few: int, newest: int, seed: int
) -> None:
    monkeypatch.setattr(queues, "FEW_ROOMS", few)
    monkeypatch.setattr(queues, "NEWEST_ROWS", newest)
    model = await a_history(database, seed)
    for server in (*SERVERS, "unknown.example"):
        for after in (0, 100, 250, 390, 400):
            expected = model.owed(server, after)
            for limit in (1, 7, 1000):
                found = database.read_now(lambda tx: queues.due(tx, server, after, limit))  # noqa: B023
                assert found == expected[:limit]
            newest_of = {room: (position, number, room) for position, number, room in expected}
            for limit in (2, 100):
                found = database.read_now(
                    lambda tx: queues.newest_due_by_room(tx, server, after, limit)  # noqa: B023
                )
                assert found == sorted(newest_of.values())[:limit]
            for limit in {0, 5, len(expected) - 1, len(expected)} - {-1}:
                more = database.read_now(
                    lambda tx: queues.is_owed_more_than(tx, server, after, limit)  # noqa: B023
                )
                assert more is (len(expected) > limit)


async def test_a_cursor_never_goes_back(database: Database) -> None:
    def store(tx: WriteTx) -> None:
        queues.ensure_destination(tx, "a.example", 5)
        queues.put_destinations(tx, [queues.Destination("a.example", 9, 1, 2, 3, 10)])
        queues.put_destinations(tx, [queues.Destination("a.example", 7)])

    await database.write(store)
    found = database.read_now(lambda tx: queues.destination(tx, "a.example"))
    assert found == queues.Destination("a.example", 9)
