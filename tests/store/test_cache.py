"""What is kept in memory of the database: bounded, and never older than the change that was told last."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comity.net.pausing import GreenletPausing
from comity.ports import Turn
from comity.store import events as stored_events
from comity.store.cache import Bounded, Followed, Weighed
from comity.store.database import Database, Tx, WriteTx
from comity.store.events import ACCEPTED, Events, NewEvent, StoredEvent
from tests.engines import quiet
from tests.rules.rooms import ALICE, BOB, a_room
from tests.store.support import Held, a_database

#: Seconds that a read waits for the test.
PATIENCE = 10.0
#: How a function reads.
Way = Callable[[Callable[[Tx], str]], Coroutine[Any, Any, str]]

# -- the map


def test_what_weighs_too_much_together_is_not_all_kept() -> None:
    held: Weighed[str, str] = Weighed(10)
    held.put("a", "A", 4)
    held.put("b", "B", 4)
    assert held.get("a") == "A"
    held.put("c", "C", 4)
    assert (held.get("a"), held.get("b"), held.get("c")) == ("A", None, "C")
    # Another weight counts instead of the one before, and what is too heavy by itself is not kept.
    held.put("a", "A", 6)
    assert (held.get("a"), held.get("c"), len(held)) == ("A", "C", 2)
    held.drop("a")
    held.put("d", "D", 6)
    held.put("heavy", "H", 11)
    assert [held.get(key) for key in ("c", "d", "heavy")] == [None] * 3
    assert len(held) == 0


def test_a_look_does_not_count_as_use() -> None:
    held: Bounded[str, int] = Bounded(2)
    held.put("a", 1)
    held.put("b", 2)
    assert held.peek("a") == 1
    held.put("c", 3)
    assert (held.peek("a"), held.peek("b"), held.peek("c")) == (None, 2, 3)


def test_what_was_not_used_for_longest_goes_first() -> None:
    held: Bounded[str, int] = Bounded(2)
    held.put("a", 1)
    held.put("b", 2)
    assert held.get("a") == 1
    held.put("c", 3)
    assert (held.get("a"), held.get("b"), held.get("c")) == (1, None, 3)
    held.put("a", 4)
    held.put("d", 5)
    assert (held.get("a"), held.get("c"), held.get("d")) == (4, None, 5)
    assert len(held) == 2


def test_of_very_many_some_of_the_oldest_go_at_once_and_the_others_stay() -> None:
    limit, put = 1_000, 5_000
    held: Bounded[int, int] = Bounded(limit)
    for number in range(put):
        held.put(number, number)
        assert len(held) <= limit
    kept = held.keys()
    assert kept == list(range(put - len(kept), put))
    assert len(kept) > limit * 0.95


def test_what_is_dropped_is_gone() -> None:
    held: Bounded[str, int] = Bounded(3)
    held.put("a", 1)
    held.put("b", 2)
    held.drop("a")
    held.drop("never there")
    assert (held.get("a"), held.get("b")) == (None, 2)
    held.clear()
    assert not len(held)


# -- what follows the database


def test_a_read_that_began_before_a_change_is_not_kept_after_it() -> None:
    held: Followed[str, str] = Followed(4)
    held.keep("key", "old", 6)
    assert held.get("key") == "old"
    held.change("key", 7)
    assert held.get("key") is None
    held.keep("key", "old", 6)
    assert held.get("key") is None
    held.keep("key", "new", 7)
    assert held.get("key") == "new"


def test_a_change_leaves_what_others_hold_and_refuses_their_older_reads() -> None:
    """It is not known which keys an older read has to do with."""
    held: Followed[str, str] = Followed(4)
    held.keep("other", "value", 6)
    held.change("key", 7)
    assert held.get("other") == "value"
    held.keep("third", "value", 6)
    assert held.get("third") is None


def test_values_that_are_right_already_stay_when_a_change_is_noted() -> None:
    held: Followed[str, str] = Followed(4)
    held.put("key", "new")
    held.note_change(7)
    held.keep("key", "old", 6)
    assert held.get("key") == "new"


@pytest.mark.parametrize("how", ["change", "note_change"])
def test_an_earlier_change_that_is_told_later_lets_nothing_older_in(how: str) -> None:
    held: Followed[str, str] = Followed(4)
    held.change("key", 7)
    if how == "change":
        held.change("key", 5)
    else:
        held.note_change(5)
    held.keep("key", "old", 6)
    assert held.get("key") is None


#: Two keys, so that one's changes meet the other's reads.
KEYS = ("a", "b")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["begin", "look", "commit"]), st.sampled_from(KEYS)),
        st.tuples(st.sampled_from(["tell", "open", "end"]), st.integers(0, 1)),
    ),
    min_size=10,
    max_size=60,
)


class _Read:
    """A read under way: begun, then its snapshot is opened, then it ends."""

    def __init__(self, key: str, as_of: int) -> None:
        self.key = key
        self.as_of = as_of
        self.seen: int | None = None


@settings(max_examples=300, deadline=None)
@given(steps=STEPS)
def test_whatever_comes_in_between_nothing_older_than_a_told_change_is_held(
    steps: list[tuple[str, str | int]],
) -> None:
    """Snapshots show what their `as_of` says or more, and a change is told some time after its commit."""
    held: Followed[str, int] = Followed(4)
    commits = 0
    #: key -> the commit that changed it last: on disk, and as far as it was told.
    on_disk, told = dict.fromkeys(KEYS, 0), dict.fromkeys(KEYS, 0)
    untold: list[tuple[str, int]] = []
    reads: list[_Read] = []
    for step, which in steps:
        if isinstance(which, str):
            if step != "commit":
                reads.append(_Read(which, commits))
                if step == "look":
                    reads[-1].seen = on_disk[which]
                continue
            # Groups follow each other: what the last one changed was told before the next is on disk.
            for key, commit in untold:
                held.change(key, commit)
                told[key] = commit
            commits += 1
            on_disk[which] = commits
            untold = [(which, commits)]
        elif step == "tell":
            for key, commit in untold:
                held.change(key, commit)
                told[key] = commit
            untold = []
        elif reads:
            read = reads[which % len(reads)]
            if read.seen is None:
                read.seen = on_disk[read.key]
            if step == "end":
                reads.remove(read)
                held.keep(read.key, read.seen, read.as_of)
        for key in KEYS:
            value = held.get(key)
            assert value is None or value >= told[key]


# -- on the engines


def replace(cache: Followed[int, str], database: Database, body: str) -> Callable[[WriteTx], None]:
    """A write of row 1, which a cache follows."""

    def function(tx: WriteTx) -> None:
        tx.run("INSERT INTO t (n, body) VALUES (1, ?) ON CONFLICT (n) DO UPDATE SET body = ?", (body, body))
        tx.after_commit(lambda: cache.change(1, database.commits))

    return function


def body_of(tx: Tx) -> str:
    """What row 1 says."""
    row = tx.one("SELECT body FROM t WHERE n = 1")
    assert row is not None
    return str(row[0])


def kept(cache: Followed[int, str]) -> Callable[[Tx], str]:
    """A read of row 1 through the cache."""

    def function(tx: Tx) -> str:
        held = cache.get(1)
        if held is None:
            held = body_of(tx)
            cache.keep(1, held, tx.as_of)
        return held

    return function


@pytest.mark.parametrize("way", ["read", "look_up"])
async def test_what_is_read_while_a_commit_waits_for_the_disk_is_gone_behind_it(
    tmp_path: Path, way: str
) -> None:
    held, cache = Held(), Followed[int, str](4)
    async with a_database(tmp_path, held) as (database, _):
        read = database.read if way == "read" else database.look_up
        held.let_one_go()
        await database.write(replace(cache, database, "old"))
        assert await read(kept(cache)) == "old"
        held.begun.clear()
        writing = database.submit(replace(cache, database, "new"))
        await held.begun.wait()
        cache.drop(1)
        seen = await read(kept(cache)), cache.get(1)
        held.gate.set()
        await writing
        assert seen == ("old", "old"), "nothing had changed yet"
        assert cache.get(1) is None
        assert await read(kept(cache)) == "new"
        assert cache.get(1) == "new", "what is read behind a change is kept"


async def test_many_reads_beside_many_writes_keep_nothing_old(tmp_path: Path) -> None:
    cache = Followed[int, str](4)
    async with a_database(tmp_path) as (database, _):
        await database.write(replace(cache, database, "0"))
        acknowledged, is_over, found = 0, False, 0

        async def read(way: Way) -> None:
            nonlocal found
            while not is_over:
                at_least = acknowledged
                assert int(await way(kept(cache))) >= at_least
                found += 1
                await asyncio.sleep(0)

        ways: list[Way] = [database.read, database.look_up] * 4
        readers = [asyncio.ensure_future(read(way)) for way in ways]
        try:
            for number in range(1, 150):
                await database.write(replace(cache, database, str(number)))
                acknowledged = number
                held = cache.get(1)
                assert held is None or int(held) == number
        finally:
            is_over = True
            await asyncio.gather(*readers)
        assert found
        assert await database.read(kept(cache)) == "149"


# -- on the engine whose reads wait


async def begun(turn: Turn, database: Database, function: Callable[[Tx], str]) -> asyncio.Task[str]:
    """A read whose snapshot is open, and that goes on when its turn has come."""
    opened = asyncio.Event()

    def slow(tx: Tx) -> str:
        tx.all("SELECT n FROM t")
        opened.set()
        turn.wait(PATIENCE)
        return function(tx)

    reading = asyncio.ensure_future(database.read(slow))
    async with asyncio.timeout(PATIENCE):
        await opened.wait()
    return reading


@pytest.mark.engine("postgresql")
async def test_a_read_that_a_commit_overtakes_keeps_nothing(tmp_path: Path) -> None:
    cache, turn = Followed[int, str](4), GreenletPausing().turn()
    async with a_database(tmp_path) as (database, _):
        await database.write(replace(cache, database, "old"))
        reading = await begun(turn, database, kept(cache))
        await database.write(replace(cache, database, "new"))
        turn.come()
        assert await reading == "old"
        assert cache.get(1) is None
        assert await database.read(kept(cache)) == "new"
        assert cache.get(1) == "new"


@pytest.mark.engine("postgresql")
async def test_a_look_up_whose_answer_a_commit_overtakes_is_not_kept(tmp_path: Path) -> None:
    cache, turn, answered = Followed[int, str](4), GreenletPausing().turn(), asyncio.Event()

    def slow(tx: Tx) -> str:
        body = body_of(tx)
        answered.set()
        turn.wait(PATIENCE)
        cache.keep(1, body, tx.as_of)
        return body

    async with a_database(tmp_path) as (database, _):
        await database.write(replace(cache, database, "old"))
        reading = asyncio.ensure_future(database.look_up(slow))
        async with asyncio.timeout(PATIENCE):
            await answered.wait()
        await database.write(replace(cache, database, "new"))
        turn.come()
        assert await reading == "old"
        assert cache.get(1) is None
        assert await database.look_up(kept(cache)) == "new"
        assert cache.get(1) == "new"


@pytest.mark.engine("postgresql")
async def test_a_read_that_a_commit_of_others_overtakes_may_be_kept(tmp_path: Path) -> None:
    cache, turn = Followed[int, str](4), GreenletPausing().turn()
    async with a_database(tmp_path) as (database, _):
        await database.write(replace(cache, database, "old"))
        reading = await begun(turn, database, kept(cache))
        await database.write(lambda tx: tx.run("INSERT INTO t (n) VALUES (2)"))
        turn.come()
        assert await reading == "old"
        assert cache.get(1) == "old"


@pytest.mark.engine("postgresql")
async def test_a_read_that_a_redaction_overtakes_does_not_undo_it_in_memory(tmp_path: Path) -> None:
    room, turn = a_room("11", BOB), GreenletPausing().turn()
    event = room.send(BOB, "m.room.message", {"body": "secret"})
    redaction = room.send(ALICE, "m.room.redaction", {"redacts": event.event_id})
    events = Events()
    events.know_room(1, room.version)

    def body(tx: Tx) -> str:
        stored = events.get(tx, 1)
        assert stored is not None
        return str(stored.event.content.get("body"))

    def redact(tx: WriteTx) -> None:
        stored_events.replace_with_redacted(tx, 1, event.redacted(), 2)
        tx.after_commit(lambda: events.redact(1, event.redacted(), 2, database.commits))

    async with a_database(tmp_path) as (database, _):
        new = [
            NewEvent(number, item, ACCEPTED, b"", b"", ())
            for number, item in enumerate((event, redaction), start=1)
        ]
        await database.write(lambda tx: stored_events.insert(tx, 1, new, {1: 5, 2: 6}))
        reading = await begun(turn, database, body)
        await database.write(redact)
        turn.come()
        assert await reading == "secret", "that is what its snapshot shows"
        assert await database.read(body) == "None"
        assert events._by_number.get(1) is not None, "a later read is kept"


@pytest.mark.engine("postgresql")
async def test_a_read_that_the_placing_of_an_outlier_overtakes_does_not_undo_it_in_memory(
    tmp_path: Path,
) -> None:
    room, turn = a_room("11"), GreenletPausing().turn()
    events = Events()
    events.know_room(1, room.version)

    def kind(tx: Tx) -> str:
        stored = events.get(tx, 1)
        assert stored is not None
        return "outlier" if stored.is_outlier else "placed"

    def place(tx: WriteTx) -> None:
        stored_events.place(tx, 1, line=5, verdict=ACCEPTED, state_before=b"", state_after=b"s")
        tx.after_commit(lambda: events.note_change(database.commits))
        tx.when_seen(lambda: events.settle(1))

    async with a_database(tmp_path) as (database, _):
        outlier = [NewEvent(1, room.create, ACCEPTED, None, None, ())]
        await database.write(lambda tx: stored_events.insert(tx, 1, outlier, {1: None}))
        reading = await begun(turn, database, kind)
        # Decided, and held until every read that is open shows it: also this one sees it.
        events.hold(StoredEvent(1, 1, room.create, 5, ACCEPTED, b"", b"s"), ())
        await database.write(place)
        assert 1 in events._pending
        turn.come()
        assert await reading == "placed"
        await quiet()
        assert 1 not in events._pending
        assert await database.read(kind) == "placed"
