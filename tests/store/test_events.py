"""Events at rest: their bytes, chains of auth events, the timeline, redaction."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comity.protocol.event import Event
from comity.store import compression
from comity.store import events as stored_events
from comity.store.cache import Bounded, Followed
from comity.store.database import Tx
from comity.store.events import (
    ACCEPTED,
    REJECTED,
    SOFT_FAILED,
    Events,
    NewEvent,
    StoredEvent,
    live_line,
    pack_numbers,
    position_of,
    unpack_numbers,
)
from tests.rules.rooms import ALICE, ALL_VERSIONS, BOB, Room, a_room
from tests.store.graphs import closure, graphs, store_graph
from tests.store.support import a_driver, write

# -- chains, against the letter


@settings(max_examples=60, deadline=None)
@given(graph=graphs(), data=st.data(), cached=st.sampled_from([None, 1]))
def test_auth_chains(graph: dict[int, tuple[int, ...]], data: st.DataObject, cached: int | None) -> None:
    subsets = st.sets(st.sampled_from(sorted(graph)), max_size=6)
    with tempfile.TemporaryDirectory() as folder, a_driver(Path(folder)) as driver:
        write(driver, lambda tx: store_graph(tx, graph))
        for _ in range(5):
            events = Events()
            if cached is not None:
                events._edges = Bounded(cached)
            starts = data.draw(subsets)
            chain = driver.read_now(lambda tx: events.auth_chain(tx, starts))  # noqa: B023
            assert chain == {n for start in starts for auth in graph[start] for n in closure(graph, {auth})}
            including = driver.read_now(lambda tx: events.auth_chain(tx, starts, including=True))  # noqa: B023
            assert including == closure(graph, starts)


def test_numbers_are_packed() -> None:
    numbers = (1, 2**40, 7, 2**48 - 1)
    assert unpack_numbers(pack_numbers(numbers)) == numbers
    assert unpack_numbers(None) == unpack_numbers(b"") == ()


# -- bytes


def new_events(room: Room) -> list[NewEvent]:
    numbers = {event_id: index for index, event_id in enumerate(room.graph.events, start=1)}
    return [
        NewEvent(
            numbers[event_id],
            event,
            ACCEPTED,
            b"b" * 12,
            b"a" * 12 if event.is_state else b"b" * 12,
            tuple(sorted(numbers[auth_id] for auth_id in event.auth_event_ids)),
        )
        for event_id, event in room.graph.events.items()
    ]


def insert(tx: Tx, new: list[NewEvent]) -> None:
    stored_events.insert(tx, 1, new, {item.number: live_line(item.number) for item in new})


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_what_is_stored_is_what_is_read(tmp_path: Path, version: str) -> None:
    room = a_room(version, BOB)
    content = {"body": 'ünïcode \u2028 🏡\x01"\\', "deep": [[{"a": None, "b": True, "n": -(2**53) + 1}]]}
    room.send(BOB, "m.room.message", content)
    with a_driver(tmp_path) as driver:
        new = new_events(room)
        write(driver, lambda tx: insert(tx, new))
        events = Events()
        events.know_room(1, room.version)

        def check(tx: Tx) -> None:
            for item in new:
                stored = events.by_id(tx, item.event.event_id)
                assert stored is not None
                assert (stored.number, stored.room_num, stored.line) == (
                    item.number,
                    1,
                    live_line(item.number),
                )
                assert stored.event.source == item.event.source
                assert stored.event.encoded == item.event.encoded
                assert stored.event.room_id == item.event.room_id
                assert stored.event.event_id == item.event.event_id
                assert (stored.state_before, stored.state_after) == (item.state_before, item.state_after)
                assert not stored.is_outlier
                assert events.auth(tx, item.number) == (item.auth if item.event.is_state else ())
            ids = [item.event.event_id for item in new]
            assert events.numbers(tx, [*ids, "$none"]) == {item.event.event_id: item.number for item in new}
            assert events.ids(tx, [1, 2, 999]) == {1: ids[0], 2: ids[1]}
            assert events.load(tx, [1, 999]).keys() == {1}
            assert events.get(tx, 999) is None
            assert events.by_id(tx, "$none") is None
            assert stored_events.last_number(tx) == len(new)

        driver.read_now(check)
        with pytest.raises(KeyError):
            driver.read_now(lambda tx: Events().get(tx, 1))


@pytest.mark.parametrize("version", ["1", "5"])
def test_floats_of_old_rooms_are_kept_to_the_byte(tmp_path: Path, version: str) -> None:
    room = a_room(version)
    source = {**room.write(ALICE, "m", {}).source, "content": {"a": 1.0, "b": 1e-7, "c": 1e22, "d": 0.1}}
    event = Event(room.version, source)
    with a_driver(tmp_path) as driver:
        write(driver, lambda tx: insert(tx, [NewEvent(1, event, ACCEPTED, b"", b"", ())]))
        events = Events()
        events.know_room(1, room.version)
        stored = driver.read_now(lambda tx: events.get(tx, 1))
        assert stored is not None
        assert stored.event.encoded == event.encoded
        assert Event(room.version, stored.event.source).encoded == event.encoded


def test_what_is_not_ours_is_not_unpacked() -> None:
    assert compression.unpack(compression.pack(b"")) == b""
    assert compression.unpack(compression.pack(b"x" * 65_536)) == b"x" * 65_536
    for stored in (b"", b"\x09abc", compression.pack(b"abc")[:-1], b"\x01garbage"):
        with pytest.raises(ValueError, match="unpacked"):
            compression.unpack(stored)


# -- the timeline


def test_the_timeline_is_in_order_and_shows_what_was_accepted(tmp_path: Path) -> None:
    room = a_room("10", BOB)
    for number in range(40):
        room.send(BOB, "m.room.message", {"body": str(number)})
    chance = random.Random(3)
    verdicts = [ACCEPTED, ACCEPTED, SOFT_FAILED, REJECTED]
    items = new_events(room)
    lines = dict(
        zip((item.number for item in items), chance.sample(range(1, 10**6), len(items)), strict=True)
    )
    new = [NewEvent(item.number, item.event, chance.choice(verdicts), b"", b"", item.auth) for item in items]
    outlier = NewEvent(9999, room.write(BOB, "m", {}), ACCEPTED, None, None, ())
    with a_driver(tmp_path) as driver:
        write(driver, lambda tx: stored_events.insert(tx, 1, [*new, outlier], {**lines, 9999: None}))
        other = Room("10", creator=BOB).create
        write(
            driver,
            lambda tx: stored_events.insert(
                tx, 2, [NewEvent(10_000, other, ACCEPTED, b"", b"", ())], {10_000: 5}
            ),
        )
        events = Events()
        events.know_room(1, room.version)
        shown = sorted(lines[item.number] for item in new if item.verdict == ACCEPTED)

        def read(after: int, upto: int, limit: int, backwards: bool) -> list[int | None]:
            found = driver.read_now(
                lambda tx: events.timeline(tx, 1, after=after, upto=upto, limit=limit, backwards=backwards)
            )
            return [stored.line for stored in found]

        for _ in range(60):
            after, upto = sorted(chance.choice([0, 10**6, *lines.values()]) for _ in range(2))
            limit = chance.randrange(1, 30)
            between = [line for line in shown if after < line <= upto]
            assert read(after, upto, limit, False) == between[:limit]
            assert read(after, upto, limit, True) == between[::-1][:limit]
        assert driver.read_now(lambda tx: events.last_line(tx, 1)) == max(lines.values())


def test_lines_and_positions() -> None:
    for position in (1, 2, 10**6):
        assert position_of(live_line(position)) == position
        assert position_of(live_line(position) - 1) == position
        assert position_of(live_line(position) + 1) == position + 1


# -- decisions under way, outliers, redaction


def test_what_is_decided_is_seen_before_it_is_stored(tmp_path: Path) -> None:
    room = a_room("10")
    event = room.create
    with a_driver(tmp_path) as driver:
        events = Events()
        events.know_room(1, room.version)
        events._by_number, events._numbers = Followed(1), Bounded(1)
        events.hold(StoredEvent(7, 1, event, None, ACCEPTED, b"", b"x"), (3, 4))
        assert driver.read_now(lambda tx: events.number(tx, event.event_id)) == 7
        assert driver.read_now(lambda tx: events.auth(tx, 7)) == (3, 4)
        assert driver.read_now(lambda tx: events.load(tx, [7]).keys()) == {7}
        events.release(7)
        assert driver.read_now(lambda tx: events.by_id(tx, event.event_id)) is None


def test_an_outlier_that_gets_its_place_is_seen_there_at_once(tmp_path: Path) -> None:
    """Also by who has read it as an outlier before."""
    room = a_room("10")
    event = room.create
    with a_driver(tmp_path) as driver:
        events = Events()
        events.know_room(1, room.version)
        write(
            driver,
            lambda tx: stored_events.insert(tx, 1, [NewEvent(1, event, ACCEPTED, None, None, ())], {1: None}),
        )
        outlier = driver.read_now(lambda tx: events.by_id(tx, event.event_id))
        assert outlier is not None
        assert outlier.is_outlier
        events.hold(StoredEvent(1, 1, event, None, ACCEPTED, b"", b"s"), ())
        for found in (
            driver.read_now(lambda tx: events.by_id(tx, event.event_id)),
            driver.read_now(lambda tx: events.load(tx, [1])[1]),
        ):
            assert found is not None
            assert not found.is_outlier
        write(
            driver,
            lambda tx: stored_events.place(
                tx, 1, line=5, verdict=ACCEPTED, state_before=b"", state_after=b"s"
            ),
        )
        events.settle(1)
        again = Events()
        again.know_room(1, room.version)
        stored = driver.read_now(lambda tx: again.get(tx, 1))
        assert stored is not None
        assert (stored.line, stored.state_before, stored.state_after) == (5, b"", b"s")


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_what_is_redacted_is_gone_from_the_disk(tmp_path: Path, version: str) -> None:
    room = a_room(version, BOB)
    event = room.send(BOB, "m.room.message", {"body": "secret " * 20})
    redaction = room.send(ALICE, "m.room.redaction", {}, redacts=event.event_id)
    with a_driver(tmp_path) as driver:
        new = new_events(room)
        write(driver, lambda tx: insert(tx, new))
        numbers = {item.event.event_id: item.number for item in new}
        number = numbers[event.event_id]
        write(
            driver,
            lambda tx: stored_events.replace_with_redacted(
                tx, number, event.redacted(), numbers[redaction.event_id]
            ),
        )
        events = Events()
        events.know_room(1, room.version)
        stored = driver.read_now(lambda tx: events.get(tx, number))
        assert stored is not None
        assert stored.event.content == {}
        assert stored.event.event_id == event.event_id
        assert stored.redacted_by == numbers[redaction.event_id]
        for row in driver.read_now(lambda tx: tx.all("SELECT json FROM events")):
            assert b"secret" not in compression.unpack(bytes(row[0]))
