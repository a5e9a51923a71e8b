"""What waits and who is owed what, against a naive model."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comity.store import queues, rooms
from comity.store.database import Tx
from comity.store.queues import Destination, Staged
from tests.store.support import a_driver, write

SERVERS = ("a.example", "b.example")


@dataclass
class Model:
    """Stays and rows as plain lists."""

    #: [server, room, from, to]
    stays: list[list[object]] = field(default_factory=list)
    #: (position, event number, room, except server)
    rows: list[tuple[int, int, int, str]] = field(default_factory=list)

    def due(self, server: str, after: int) -> list[tuple[int, int, int]]:
        return [
            (position, number, room)
            for position, number, room, besides in self.rows
            if position > after
            and besides != server
            and any(
                stay[0] == server
                and stay[1] == room
                and int(str(stay[2])) <= position
                and (stay[3] is None or position <= int(str(stay[3])))
                for stay in self.stays
            )
        ]

    def newest(self, server: str, after: int) -> list[tuple[int, int, int]]:
        newest = {room: (position, number, room) for position, number, room in self.due(server, after)}
        return sorted(newest.values())


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["begin", "end", "visit", "event", "event", "event"]),
        st.sampled_from(SERVERS),
        st.integers(1, 4),
        st.sampled_from(["", *SERVERS]),
    ),
    max_size=40,
)


def play(tx: Tx, model: Model, steps: list[tuple[str, str, int, str]]) -> None:
    for position, (kind, server, room, besides) in enumerate(steps, start=1):
        open_stays = [stay for stay in model.stays if stay[:2] == [server, room] and stay[3] is None]
        assert rooms.is_staying(tx, server, room) == bool(open_stays)
        if kind == "begin" and not open_stays:
            rooms.begin_stay(tx, server, room, position)
            model.stays.append([server, room, position, None])
        elif kind == "end" and open_stays:
            rooms.end_stay(tx, server, room, position)
            open_stays[0][3] = position
        elif kind == "visit" and not open_stays:
            rooms.visit(tx, server, room, position)
            model.stays.append([server, room, position, position])
        queues.add_outbound(tx, room, position, position * 10, besides)
        model.rows.append((position, position * 10, room, besides))
    for room in range(1, 5):
        assert rooms.servers(tx, room) == {
            stay[0] for stay in model.stays if stay[1] == room and stay[3] is None
        }


@pytest.mark.parametrize(("few_rooms", "newest_rows"), [(32, 1000), (0, 1000), (0, 3), (1, 2)])
@settings(max_examples=40, deadline=None)
@given(steps=STEPS, limit=st.integers(1, 10))
def test_what_a_server_is_owed(
    few_rooms: int, newest_rows: int, steps: list[tuple[str, str, int, str]], limit: int
) -> None:
    """By both ways of finding it, from every position."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(queues, "FEW_ROOMS", few_rooms)
        patch.setattr(queues, "NEWEST_ROWS", newest_rows)
        with a_driver(Path(folder)) as driver:
            model = Model()
            write(driver, lambda tx: play(tx, model, steps))

            def check(tx: Tx) -> None:
                for server in SERVERS:
                    for after in range(len(steps) + 1):
                        owed = model.due(server, after)
                        assert queues.due(tx, server, after, limit) == owed[:limit]
                        assert queues.due(tx, server, after, 1000) == owed
                        assert queues.newest_due_by_room(tx, server, after, 1000) == model.newest(
                            server, after
                        )
                        assert (
                            queues.newest_due_by_room(tx, server, after, 2) == model.newest(server, after)[:2]
                        )
                        assert queues.is_owed_more_than(tx, server, after, limit) == (len(owed) > limit)

            driver.read_now(check)


@settings(max_examples=30, deadline=None)
@given(steps=STEPS, delivered=st.tuples(st.integers(0, 40), st.integers(0, 40)))
def test_pruning_takes_nothing_that_is_owed(
    steps: list[tuple[str, str, int, str]], delivered: tuple[int, int]
) -> None:
    with tempfile.TemporaryDirectory() as folder, a_driver(Path(folder)) as driver:
        model = Model()
        cursors = dict(zip(SERVERS, delivered, strict=True))

        def store(tx: Tx) -> None:
            play(tx, model, steps)
            queues.put_destinations(tx, [Destination(server, at) for server, at in cursors.items()])
            queues.prune_outbound(tx, 0)

        write(driver, store)

        def check(tx: Tx) -> None:
            for server, at in cursors.items():
                assert queues.due(tx, server, at, 1000) == model.due(server, at)
            left = tx.one("SELECT min(position) FROM outbound")
            assert left is not None
            assert left[0] is None or left[0] > min(delivered)

        driver.read_now(check)


def test_destinations(tmp_path: Path) -> None:
    with a_driver(tmp_path) as driver:

        def store(tx: Tx) -> None:
            queues.ensure_destination(tx, "b", 5)
            queues.ensure_destination(tx, "b", 9)
            assert queues.destination(tx, "b") == Destination("b", 5)
            queues.put_destinations(tx, [Destination("b", 7, 1, 2, 3, 8), Destination("a", 1)])
            # What is delivered stays delivered.
            queues.put_destinations(tx, [Destination("b", 6)])
            assert queues.destination(tx, "b") == Destination("b", 7)
            assert queues.destinations(tx, "", 10) == [Destination("a", 1), Destination("b", 7)]
            assert queues.destinations(tx, "a", 10) == [Destination("b", 7)]
            assert queues.destination(tx, "c") is None
            rooms.begin_stay(tx, "b", 1, 8)
            queues.add_outbound(tx, 1, 9, 90, "x")
            queues.advance_idle(tx, ["a", "b", "c"], 10)
            assert queues.destination(tx, "a") == Destination("a", 10)
            assert queues.destination(tx, "b") == Destination("b", 7)

        write(driver, store)


def test_staged_events(tmp_path: Path) -> None:
    items = [Staged(f"${n}", 1 + n % 2, "b.example", 100 - n, b'{"n":%d}' % n) for n in range(6)]
    with a_driver(tmp_path) as driver:
        write(driver, lambda tx: queues.stage(tx, items))
        # The same event again keeps its place.
        write(driver, lambda tx: queues.stage(tx, [Staged("$0", 1, "c.example", 0, b"{}")]))

        def check(tx: Tx) -> None:
            assert queues.staged_rooms(tx) == [1, 2]
            assert queues.staged(tx, 1, 10) == [items[4], items[2], items[0]]
            assert queues.staged(tx, 1, 2) == [items[4], items[2]]
            assert queues.count_staged(tx, 2) == 3

        driver.read_now(check)
        write(driver, lambda tx: queues.unstage(tx, ["$4", "$1", "$none"]))
        assert driver.read_now(lambda tx: [queues.count_staged(tx, n) for n in (1, 2, 3)]) == [2, 2, 0]


def test_received_transactions(tmp_path: Path) -> None:
    with a_driver(tmp_path) as driver:
        write(driver, lambda tx: queues.put_received(tx, "a", "1", 10, b"one"))
        write(driver, lambda tx: queues.put_received(tx, "a", "1", 20, b"other"))
        write(driver, lambda tx: queues.put_received(tx, "b", "1", 30, b"b"))
        asked = [("a", "1"), ("b", "1"), ("a", "2")]
        assert driver.read_now(lambda tx: [queues.received_answer(tx, *key) for key in asked]) == [
            b"one",
            b"b",
            None,
        ]
        assert write(driver, lambda tx: queues.forget_before(tx, 20)) == 1
        assert driver.read_now(lambda tx: [queues.received_answer(tx, *key) for key in asked]) == [
            None,
            b"b",
            None,
        ]


def test_client_transactions(tmp_path: Path) -> None:
    with a_driver(tmp_path) as driver:

        def store(tx: Tx) -> None:
            for device, scope, name in (
                ("d1", "r1", "1"),
                ("d1", "r2", "1"),
                ("d2", "r1", "1"),
                ("d1", "r1", "2"),
            ):
                queues.put_client_event(tx, "@a:x", device, scope, name, f"${device}{scope}{name}", 10)

        write(driver, store)

        def check(tx: Tx) -> None:
            assert queues.client_event(tx, "@a:x", "d1", "r1", "1") == "$d1r11"
            assert queues.client_event(tx, "@a:x", "d2", "r1", "1") == "$d2r11"
            assert queues.client_event(tx, "@b:x", "d1", "r1", "1") is None
            asked = ["$d1r11", "$d2r11", "$d1r12", "$none", *(f"${n}" for n in range(1200))]
            assert queues.sent_by(tx, asked) == {
                "$d1r11": ("@a:x", "d1", "1"),
                "$d2r11": ("@a:x", "d2", "1"),
                "$d1r12": ("@a:x", "d1", "2"),
            }

        driver.read_now(check)
        assert write(driver, lambda tx: queues.forget_before(tx, 10)) == 0
        assert write(driver, lambda tx: queues.forget_before(tx, 11)) == 4
