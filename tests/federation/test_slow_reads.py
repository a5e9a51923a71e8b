"""What happens while federation waits for the database: no news is lost, nothing older wins."""

from __future__ import annotations

import asyncio

import pytest

from comity.federation import progress
from comity.federation.known_keys import KnownKeys
from comity.federation.outbox import Outbox
from comity.protocol.signing import PublishedKey
from comity.store.database import Database
from tests.engines import engine
from tests.federation.doors import ManualClock
from tests.federation.peer_server import PeerServer
from tests.federation.test_outbox import make_outbox, outbox, rooms, stored, texts, until, until_delivered
from tests.federation.written_rooms import Rooms
from tests.slow_reads import SlowReads

__all__ = ["engine", "make_outbox", "outbox", "rooms"]


@pytest.fixture
def slow(database: Database) -> SlowReads:
    return SlowReads(database)


async def test_news_that_comes_while_it_is_read_that_nothing_is_owed(
    outbox: Outbox, rooms: Rooms, peer: PeerServer, slow: SlowReads
) -> None:
    await rooms.join(peer.name)
    await outbox.start()
    await rooms.say("one")
    outbox.wake(frozenset({peer.name}))
    await peer.until(lambda: texts(peer) == ["one"])
    await until_delivered(rooms.database, peer.name, rooms.database.last_committed)
    # Woken for nothing, it sees that nothing is owed; before it knows, something is.
    slow.hold_next()
    outbox.wake(frozenset({peer.name}))
    await slow.until_held()
    await rooms.say("two")
    outbox.wake(frozenset({peer.name}))
    slow.let_go()
    await peer.until(lambda: texts(peer) == ["one", "two"])


async def test_a_destination_that_is_woken_while_all_are_looked_at_is_sent_to_once(
    outbox: Outbox, rooms: Rooms, peer: PeerServer, slow: SlowReads
) -> None:
    await rooms.join(peer.name)
    await rooms.say("one")
    # Of the two reads of the first page: who there is, and who of them is owed something.
    slow.hold_next()
    await outbox.start()
    await slow.until_held()
    slow.hold_next()
    slow.let_go()
    await slow.until_held()
    outbox.wake(frozenset({peer.name}))
    await peer.until(lambda: texts(peer) == ["one"])
    await until_delivered(rooms.database, peer.name, rooms.database.last_committed)
    slow.let_go()
    await rooms.say("two")
    outbox.wake(frozenset({peer.name}))
    await peer.until(lambda: len(texts(peer)) >= 2)
    assert texts(peer) == ["one", "two"]


async def test_an_engine_that_does_not_answer_holds_it_up_and_no_more(
    outbox: Outbox, rooms: Rooms, peer: PeerServer, slow: SlowReads, clock: ManualClock
) -> None:
    await rooms.join(peer.name)
    await rooms.say("one")
    slow.fail_next()
    await outbox.start()
    await until(lambda: slow.has_failed and pytest.approx(progress.UNAVAILABLE_SECONDS) in clock.sleeps())
    clock.advance(progress.UNAVAILABLE_SECONDS)
    await peer.until(lambda: texts(peer) == ["one"])
    await until_delivered(rooms.database, peer.name, rooms.database.last_committed)
    await rooms.say("two")
    slow.fail_next()
    outbox.wake(frozenset({peer.name}))
    await until(lambda: slow.has_failed and pytest.approx(progress.UNAVAILABLE_SECONDS) in clock.sleeps())
    # It is not the destination that failed: its schedule says nothing.
    assert outbox._lines[peer.name].retry is None
    clock.advance(progress.UNAVAILABLE_SECONDS)
    await peer.until(lambda: texts(peer) == ["one", "two"])


async def test_how_far_they_are_is_stored_again_after_a_group_that_could_not_begin(
    outbox: Outbox, rooms: Rooms, peer: PeerServer, database: Database, slow: SlowReads
) -> None:
    await rooms.join(peer.name)
    await rooms.say("one")
    slow.refuses_groups = True
    await outbox.start()
    await peer.until(lambda: texts(peer) == ["one"])
    await until(lambda: slow.refused_groups > 0)
    slow.refuses_groups = False
    last = stored(database, peer.name).delivered
    await rooms.say("two")
    outbox.wake(frozenset({peer.name}))
    await peer.until(lambda: texts(peer) == ["one", "two"])
    await until(lambda: stored(database, peer.name).delivered > last)


async def test_keys_that_are_learnt_while_the_stored_ones_are_read_stand(
    database: Database, clock: ManualClock, slow: SlowReads
) -> None:
    keys = KnownKeys(database, clock)
    until_ms = clock.now_ms() + 1_000_000
    slow.hold_next()
    reading = asyncio.ensure_future(keys.of("a.example"))
    await slow.until_held()
    await keys.learn("a.example", [PublishedKey("ed25519:1", b"1" * 32, until_ms, expired=False)])
    slow.let_go()
    assert set(await reading) == {"ed25519:1"}
    assert set(await keys.of("a.example")) == {"ed25519:1"}


async def test_two_who_learn_at_once_lose_nothing(
    database: Database, clock: ManualClock, slow: SlowReads
) -> None:
    keys = KnownKeys(database, clock)
    until_ms = clock.now_ms() + 1_000_000
    slow.hold_next(2)
    both = [
        asyncio.ensure_future(
            keys.learn("a.example", [PublishedKey(f"ed25519:{name}", b"1" * 32, until_ms, expired=False)])
        )
        for name in ("1", "2")
    ]
    await slow.until_held(2)
    slow.let_go()
    await asyncio.gather(*both)
    assert set(await keys.of("a.example")) == {"ed25519:1", "ed25519:2"}
