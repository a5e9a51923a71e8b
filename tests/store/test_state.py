"""States as paged vectors, against plain dictionaries."""

from __future__ import annotations

import hashlib
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from comity.protocol.event import StateKey
from comity.store.cache import Bounded
from comity.store.database import Driver
from comity.store.sqlite import SqliteDriver
from comity.store.state import (
    EMPTY,
    FAN,
    LEAF,
    NAME_BYTES,
    NewPages,
    States,
    insert_pages,
    insert_slots,
    next_slot,
)
from tests.store.support import a_driver, write

#: Slots around every boundary of the tree's levels, and far apart.
EDGES = [
    0,
    1,
    LEAF - 1,
    LEAF,
    LEAF * FAN - 1,
    LEAF * FAN,
    LEAF * FAN**2 - 1,
    LEAF * FAN**2,
    LEAF * FAN**3 + 5,
]
SLOTS = st.one_of(st.sampled_from(EDGES), st.integers(0, 300), st.integers(0, 200_000))
#: 0 removes; the others need every width of a packed leaf.
NUMBERS = st.one_of(st.just(0), st.integers(1, 255), st.integers(1, 2**17), st.integers(1, 2**47))
CHANGES = st.dictionaries(SLOTS, NUMBERS, max_size=12)


class Engine:
    """States over a database, with a cache of a chosen size."""

    def __init__(self, driver: Driver, cached_pages: int | None) -> None:
        self.driver = driver
        self.states = States()
        self._limit = cached_pages
        self.limit_cache()

    def limit_cache(self) -> None:
        if self._limit is not None:
            self.states._pages = Bounded(self._limit)

    def replace(self, root: bytes, changes: dict[int, int], *, store: bool = True) -> tuple[bytes, NewPages]:
        made: NewPages = {}
        name = self.driver.read_now(lambda tx: self.states.replace(tx, root, changes, made))
        if store:
            write(self.driver, lambda tx: insert_pages(tx, made))
            self.states.settle(made)
        return name, made

    def items(self, root: bytes) -> dict[int, int]:
        return self.driver.read_now(lambda tx: dict(self.states.items(tx, root)))

    def get(self, root: bytes, slot: int) -> int:
        return self.driver.read_now(lambda tx: self.states.get(tx, root, slot))

    def difference(self, one: bytes, other: bytes) -> list[tuple[int, int, int]]:
        return self.driver.read_now(lambda tx: list(self.states.difference(tx, one, other)))


@contextmanager
def an_engine(cached_pages: int | None = None) -> Iterator[Engine]:
    with tempfile.TemporaryDirectory() as folder, a_driver(Path(folder)) as driver:
        if isinstance(driver, SqliteDriver):
            driver._writer.execute("PRAGMA synchronous=OFF")
        yield Engine(driver, cached_pages)


def difference_of(one: dict[int, int], other: dict[int, int]) -> list[tuple[int, int, int]]:
    return [
        (slot, one.get(slot, 0), other.get(slot, 0))
        for slot in sorted(one.keys() | other.keys())
        if one.get(slot, 0) != other.get(slot, 0)
    ]


def applied(model: dict[int, int], changes: dict[int, int]) -> dict[int, int]:
    return {slot: number for slot, number in {**model, **changes}.items() if number}


@pytest.mark.parametrize("cached_pages", [None, 1, 3])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=st.lists(st.tuples(st.integers(0, 5), CHANGES), min_size=1, max_size=7), data=st.data())
def test_states_are_dictionaries(
    cached_pages: int | None, steps: list[tuple[int, dict[int, int]]], data: st.DataObject
) -> None:
    """Any tree of changes, some not stored yet, read through a cache that forgets."""
    with an_engine(cached_pages) as engine:
        known: list[tuple[bytes, dict[int, int]]] = [(EMPTY, {})]
        unsettled: list[NewPages] = []
        for ancestor, changes in steps:
            root, model = known[ancestor % len(known)]
            name, made = engine.replace(root, changes, store=False)
            unsettled.append(made)
            known.append((name, applied(model, changes)))
        for made in unsettled[: data.draw(st.integers(0, len(unsettled)))]:
            write(engine.driver, lambda tx: insert_pages(tx, made))  # noqa: B023
            engine.states.settle(made)
            engine.limit_cache()
        for root, model in known:
            assert engine.items(root) == model
            assert list(engine.items(root)) == sorted(model)
            for slot in [*model, *EDGES, 10**9]:
                assert engine.get(root, slot) == model.get(slot, 0)
            assert (root == EMPTY) == (not model)
        for one, one_model in known:
            for other, other_model in known:
                assert engine.difference(one, other) == difference_of(one_model, other_model)


@settings(max_examples=20, deadline=None)
@given(changes=CHANGES, others=CHANGES)
def test_a_state_survives_a_restart(changes: dict[int, int], others: dict[int, int]) -> None:
    with an_engine() as engine:
        first, _ = engine.replace(EMPTY, changes)
        second, _ = engine.replace(first, others)
        again = Engine(engine.driver, None)
        assert again.items(first) == applied({}, changes)
        assert again.items(second) == applied(applied({}, changes), others)
        assert again.difference(first, second) == engine.difference(first, second)


@settings(max_examples=20, deadline=None)
@given(entries=st.dictionaries(SLOTS, st.integers(1, 2**40), min_size=1, max_size=20), seed=st.integers())
def test_the_order_of_changes_does_not_matter(entries: dict[int, int], seed: int) -> None:
    with an_engine() as engine:
        at_once, _ = engine.replace(EMPTY, entries)
        ordered = list(entries.items())
        random.Random(seed).shuffle(ordered)
        one_by_one = EMPTY
        for slot, number in ordered:
            one_by_one, _ = engine.replace(one_by_one, {slot: number})
        assert one_by_one == at_once


def test_a_page_is_named_by_its_content_and_stored_once() -> None:
    with an_engine() as engine:
        root, made = engine.replace(EMPTY, {slot: slot + 1 for slot in range(5000)})
        same, _ = engine.replace(EMPTY, {slot: slot + 1 for slot in range(5000)})
        changed, _ = engine.replace(root, {7: 99})
        back, _ = engine.replace(changed, {7: 8})
        assert same == back == root
        assert changed != root
        rows = engine.driver.read_now(lambda tx: tx.all("SELECT name, body FROM state_pages"))
        assert len({name for name, _ in rows}) == len(rows)
        for name, body in rows:
            assert name == hashlib.blake2b(body, digest_size=NAME_BYTES).digest()
        assert {name for name, _ in rows} >= made.keys()
        # Beside the first state: one leaf and the path to it.
        assert len(rows) - len(made) <= 4


def test_a_change_costs_what_it_changes_and_not_the_state() -> None:
    """DESIGN §4.3: bytes of pages for one change in a state of 100,000 entries."""
    with an_engine() as engine:
        chance = random.Random(1)
        root, _ = engine.replace(EMPTY, {slot: chance.randrange(1, 2_000_000) for slot in range(100_000)})
        most = 0
        for slot in (0, 63, 64, 50_000, 99_999, 100_000, *(chance.randrange(100_000) for _ in range(50))):
            root, made = engine.replace(root, {slot: chance.randrange(2_000_000, 2_100_000)})
            most = max(most, sum(len(name) + len(body) for name, body in made.items()))
        assert most < 2048


def test_a_difference_reads_no_more_than_what_differs() -> None:
    with an_engine() as engine:
        root, _ = engine.replace(EMPTY, {slot: slot + 1 for slot in range(100_000)})
        other, _ = engine.replace(root, {31_000: 5})
        again = Engine(engine.driver, None)
        assert again.difference(root, other) == [(31_000, 31_001, 5)]
        assert len(again.states._pages) <= 10


def test_pages_that_are_not_stored_yet_are_found_and_then_forgotten() -> None:
    with an_engine(1) as engine:
        root, made = engine.replace(EMPTY, {slot: 1 + slot for slot in range(500)}, store=False)
        assert engine.items(root) == {slot: 1 + slot for slot in range(500)}
        engine.states.forget(made)
        with pytest.raises(KeyError):
            engine.items(root)


# -- slots


def test_slots_and_keys() -> None:
    with an_engine() as engine:
        states, driver = engine.states, engine.driver
        name, topic, member = ("m.room.name", ""), ("m.room.topic", ""), ("m.room.member", "@a:b")
        assert driver.read_now(lambda tx: next_slot(tx, 1)) == 0
        slots: dict[StateKey, int] = {name: 0, topic: 1}
        write(driver, lambda tx: insert_slots(tx, 1, slots))
        write(driver, lambda tx: insert_slots(tx, 2, {topic: 0}))
        assert driver.read_now(lambda tx: next_slot(tx, 1)) == 2
        assert driver.read_now(lambda tx: (states.slot(tx, 1, topic), states.slot(tx, 2, topic))) == (1, 0)
        assert driver.read_now(lambda tx: states.slot(tx, 2, name)) is None
        assert driver.read_now(lambda tx: states.key(tx, 1, 0)) == name
        with pytest.raises(KeyError):
            driver.read_now(lambda tx: states.key(tx, 1, 7))
        # A slot that a decision gave is known before it is stored, and not after it came to nothing.
        states.hold_slot(1, member, 2)
        assert driver.read_now(lambda tx: (states.slot(tx, 1, member), states.key(tx, 1, 2))) == (2, member)
        states.forget_slots(1, {member: 2})
        assert driver.read_now(lambda tx: states.slot(tx, 1, member)) is None
        states.hold_slot(1, member, 2)
        write(driver, lambda tx: insert_slots(tx, 1, {member: 2}))
        states.settle_slots(1, {member: 2})
        assert driver.read_now(lambda tx: (states.slot(tx, 1, member), states.key(tx, 1, 2))) == (2, member)


def test_many_slots_at_once() -> None:
    with an_engine() as engine:
        states, driver = engine.states, engine.driver
        members = [("m.room.member", f"@u{number}:x") for number in range(700)]
        stored = {key: slot for slot, key in enumerate(members[:600])}
        stored["m.room.name", ""] = 600
        write(driver, lambda tx: insert_slots(tx, 1, stored))
        write(driver, lambda tx: insert_slots(tx, 2, {members[650]: 3}))
        states.hold_slot(1, members[600], 601)
        wanted = [*members, ("m.room.name", ""), ("m.room.topic", "")]
        expected = {**stored, members[600]: 601}
        assert driver.read_now(lambda tx: states.slots(tx, 1, wanted)) == expected
        # Once more, from memory; what has none is not taken for one that was read.
        assert driver.read_now(lambda tx: states.slot(tx, 1, members[650])) is None
        assert driver.read_now(lambda tx: states.slots(tx, 1, wanted)) == expected


def test_a_held_slots_key_is_found_whatever_is_evicted() -> None:
    with an_engine() as engine:
        engine.states._keys = Bounded(1)
        engine.states.hold_slot(1, ("a", ""), 0)
        engine.states.hold_slot(1, ("b", ""), 1)
        assert engine.driver.read_now(lambda tx: engine.states.key(tx, 1, 0)) == ("a", "")


def test_entries_of_a_type() -> None:
    with an_engine() as engine:
        keys: dict[StateKey, int] = {("m.room.member", f"@u{n}:x"): n for n in range(200)}
        keys["m.room.name", ""] = 200
        write(engine.driver, lambda tx: insert_slots(tx, 1, keys))
        root, _ = engine.replace(EMPTY, {slot: slot + 1 for slot in range(100, 201)})
        found = engine.driver.read_now(lambda tx: engine.states.by_type(tx, 1, root, "m.room.member"))
        assert found == {f"@u{n}:x": n + 1 for n in range(100, 200)}
