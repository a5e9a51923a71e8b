"""The outbox against a real server on loopback: order, retry, restart, catch-up. Time is turned by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from comity.federation import places, progress, transactions
from comity.federation.outbox import Outbox
from comity.federation.shared_bodies import SAME_TIME_MS
from comity.net.system import ThreadOffload
from comity.protocol import pacing
from comity.protocol.signing import SigningKey
from comity.store import queues
from comity.store.database import Database
from comity.store.queues import Destination
from tests.engines import engine
from tests.federation.conftest import OWN_NAME, PeerFactory, Side, open_database
from tests.federation.doors import PATIENCE, FixedEntropy, ManualClock
from tests.federation.peer_server import PeerServer, Received, canonical
from tests.federation.written_rooms import Rooms

__all__ = ["engine"]

#: Seconds before the second try, when chance falls in the middle.
FIRST_PAUSE = pacing.MIN_RETRY_MS / 1000


@pytest.fixture
def rooms(database: Database, own_key: SigningKey) -> Rooms:
    return Rooms(database, own_key, 40)


MakeOutbox = Callable[[Rooms], Outbox]


@pytest.fixture
async def make_outbox(side: Side, clock: ManualClock, database: Database) -> AsyncIterator[MakeOutbox]:
    made: list[Outbox] = []

    def make(rooms: Rooms) -> Outbox:
        outbox = Outbox(
            rooms.database, rooms.events, side.calls, clock, FixedEntropy(), OWN_NAME, side.availability
        )
        made.append(outbox)
        return outbox

    yield make
    for outbox in made:
        await outbox.stop()


@pytest.fixture
def outbox(make_outbox: MakeOutbox, rooms: Rooms) -> Outbox:
    return make_outbox(rooms)


def texts(peer: PeerServer) -> list[str]:
    return [pdu["content"]["body"] for pdu in peer.pdus()]


def stored(database: Database, server: str) -> Destination:
    found = database.read_now(lambda tx: queues.destination(tx, server))
    assert found is not None
    return found


async def until(condition: Callable[[], bool]) -> None:
    """Let other tasks run until something of ours is true."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - a turn for other tasks; there is no event to wait for
            await asyncio.sleep(0)


async def until_delivered(database: Database, server: str, position: int) -> None:
    """Until the cursor of a server is stored at a position or beyond."""
    await until(lambda: stored(database, server).delivered >= position)


async def test_events_arrive_in_order_as_they_are_stored(
    outbox: Outbox, rooms: Rooms, peer: PeerServer, own_key: SigningKey, clock: ManualClock
) -> None:
    await rooms.join(peer.name)
    await outbox.start()
    events = await rooms.say(*(f"message {number} ü" for number in range(120)))
    outbox.wake(frozenset({peer.name}))
    await peer.until(lambda: len(peer.pdus()) == 120)
    assert peer.pdus() == [event.source for event in events]
    assert [len(body["pdus"]) for _, body in peer.transactions] == [50, 50, 20]
    for request in peer.received:
        assert request.is_signed_by(own_key.public, peer.name)
        assert request.body == canonical(request.json)
        assert request.json["origin"] == OWN_NAME
        assert request.json["origin_server_ts"] == clock.now_ms()
        assert request.json["edus"] == []
    assert len({transaction_id for transaction_id, _ in peer.transactions}) == 3
    await until_delivered(rooms.database, peer.name, rooms.database.last_committed)


async def test_only_what_is_owed_is_sent(outbox: Outbox, rooms: Rooms, peer: PeerServer) -> None:
    await rooms.say("before", room=1)
    await rooms.join(peer.name, 1)
    await rooms.say("one", room=1)
    await rooms.say("elsewhere", room=2)
    await rooms.say("their own", room=1, by=peer.name)
    await rooms.leave(peer.name, 1)
    await rooms.say("after", room=1)
    await rooms.join(peer.name, 1)
    await rooms.say("again", room=1)
    await outbox.start()
    await peer.until(lambda: len(peer.pdus()) >= 3)
    assert texts(peer) == ["one", "left", "again"]


async def test_a_burst_for_many_servers(
    outbox: Outbox, rooms: Rooms, a_peer: PeerFactory, own_key: SigningKey
) -> None:
    peers = [await a_peer() for _ in range(5)]
    for peer in peers:
        await rooms.join(peer.name)
    await outbox.start()
    for number in range(10):
        await rooms.say(str(number))
        outbox.wake(frozenset(peer.name for peer in peers))
    for peer in peers:
        await peer.until(lambda: len(peer.pdus()) == 10)  # noqa: B023
        assert texts(peer) == [str(number) for number in range(10)]


async def test_those_who_are_owed_the_same_are_sent_the_same_bytes(
    outbox: Outbox, rooms: Rooms, a_peer: PeerFactory, clock: ManualClock
) -> None:
    peers = [await a_peer() for _ in range(3)]
    for peer in peers:
        await rooms.join(peer.name)
    await outbox.start()
    await rooms.say("zero")
    outbox.wake(frozenset(peer.name for peer in peers))
    for peer in peers:
        await until_delivered(rooms.database, peer.name, rooms.database.last_committed)
    await rooms.say("one", "two")
    began = clock.now_ms()
    for peer, seconds in zip(peers, (0.0, 1.0, SAME_TIME_MS / 1000), strict=True):
        clock.advance(seconds)
        outbox.wake(frozenset({peer.name}))
        await until_delivered(rooms.database, peer.name, rooms.database.last_committed)
    first, second, third = (peer.received[-1] for peer in peers)
    assert first.body == second.body and first.path == second.path == third.path
    assert texts(peers[0]) == texts(peers[2]) == ["zero", "one", "two"]
    assert first.json["origin_server_ts"] == began
    assert third.json["origin_server_ts"] == clock.now_ms() > began


async def test_a_failed_transaction_is_sent_again_as_it_was(
    outbox: Outbox, rooms: Rooms, peer: PeerServer, clock: ManualClock, side: Side
) -> None:
    await rooms.join(peer.name)
    await outbox.start()
    peer.refusals = [(500, {"errcode": "M_UNKNOWN"}), (401, {"errcode": "M_UNAUTHORIZED"})]
    await rooms.say("one", "two")
    outbox.wake(frozenset({peer.name}))
    await peer.until(lambda: len(peer.received) == 1)
    await until(lambda: stored(rooms.database, peer.name).retry_at is not None)
    # More is owed meanwhile: it does not change what is sent again.
    await rooms.say("three")
    outbox.wake(frozenset({peer.name}))
    # With chance in the middle the pauses are those of the schedule: the first, then twice as long.
    await until(lambda: clock.sleeps()[:1] == [pytest.approx(FIRST_PAUSE)])
    clock.advance(FIRST_PAUSE - 0.1)
    assert len(peer.received) == 1
    clock.advance(0.1)
    await peer.until(lambda: len(peer.received) == 2)
    await until(lambda: clock.sleeps()[:1] == [pytest.approx(2 * FIRST_PAUSE)])
    assert peer.transactions == []
    clock.advance(2 * FIRST_PAUSE)
    await peer.until(lambda: len(peer.pdus()) == 3)
    targets = [request.target for request in peer.received]
    assert targets[0] == targets[1] == targets[2] != targets[3]
    assert peer.received[0].body == peer.received[2].body
    assert texts(peer) == ["one", "two", "three"]
    await until(lambda: stored(rooms.database, peer.name).failing_since is None)
    # A refusal is no reason for others to think that the server is down.
    assert side.availability.may_try(peer.name)


async def test_a_server_that_asks_for_a_pause_gets_it(
    outbox: Outbox, rooms: Rooms, peer: PeerServer, clock: ManualClock
) -> None:
    await rooms.join(peer.name)
    await outbox.start()
    peer.refusals = [(429, {"errcode": "M_LIMIT_EXCEEDED", "retry_after_ms": 42_000})]
    await rooms.say("one")
    outbox.wake(frozenset({peer.name}))
    await until(lambda: any(seconds == pytest.approx(42) for seconds in clock.sleeps()))
    clock.advance(42)
    await peer.until(lambda: len(peer.pdus()) == 1)


async def test_too_large_transactions_are_halved(
    outbox: Outbox, rooms: Rooms, peer: PeerServer, clock: ManualClock
) -> None:
    await rooms.join(peer.name)
    sizes: list[int] = []

    def answer(received: Received) -> tuple[int, Any]:
        sizes.append(len(received.json["pdus"]))
        if sizes[-1] > 15:
            return 413, b"too large"
        peer.transactions.append(("", received.json))
        return 200, {}

    peer.on_send = answer
    await outbox.start()
    await rooms.say(*map(str, range(60)))
    outbox.wake(frozenset({peer.name}))
    for seconds in (FIRST_PAUSE, 2 * FIRST_PAUSE):
        await until(lambda: clock.sleeps()[:1] == [pytest.approx(seconds)])  # noqa: B023
        clock.advance(seconds)
    await peer.until(lambda: len(peer.pdus()) == 60)
    assert sizes == [50, 25, 12, 12, 12, 12, 12]
    assert texts(peer) == list(map(str, range(60)))


async def test_a_server_that_is_down_gets_everything_in_order_when_it_is_back(
    outbox: Outbox, rooms: Rooms, peer: PeerServer, clock: ManualClock, side: Side
) -> None:
    await rooms.join(peer.name)
    await outbox.start()
    await peer.down()
    for number in range(130):
        await rooms.say(str(number))
        outbox.wake(frozenset({peer.name}))
    await until(lambda: stored(rooms.database, peer.name).retry_at is not None)
    assert not side.availability.may_try(peer.name)
    await peer.up()
    # It talks to us: no waiting for the end of the pause.
    outbox.spoke(peer.name)
    await peer.until(lambda: len(peer.pdus()) == 130)
    assert texts(peer) == list(map(str, range(130)))
    assert side.availability.may_try(peer.name)


async def test_an_answer_to_anybody_here_is_news_for_the_outbox(
    outbox: Outbox, rooms: Rooms, peer: PeerServer, side: Side
) -> None:
    await rooms.join(peer.name)
    await outbox.start()
    await peer.down()
    await rooms.say("one")
    outbox.wake(frozenset({peer.name}))
    await until(lambda: stored(rooms.database, peer.name).retry_at is not None)
    await peer.up()
    await side.client.request(peer.name, "GET", "/_matrix/key/v2/server", even_if_backing_off=True)
    await peer.until(lambda: len(peer.pdus()) == 1)


async def test_talking_to_us_does_not_make_us_try_without_end(
    outbox: Outbox, rooms: Rooms, peer: PeerServer, clock: ManualClock, side: Side
) -> None:
    await rooms.join(peer.name)
    await outbox.start()
    peer.refusals = [(429, {"retry_after_ms": 3_600_000})] * 100
    await rooms.say("one")
    outbox.wake(frozenset({peer.name}))
    await peer.until(lambda: len(peer.received) == 1)
    await until(lambda: len(clock.sleeps()) == 2)
    for expected in (2, 2, 2):
        outbox.spoke(peer.name)
        await peer.until(lambda: len(peer.sends()) == expected)  # noqa: B023
        await until(lambda: len(clock.sleeps()) == 2)
        # A second request, there and back: had another been made by then, it would be there.
        await side.client.request(peer.name, "GET", "/_matrix/key/v2/server")
        assert len(peer.sends()) == expected
    clock.advance(9)
    outbox.spoke(peer.name)
    await side.client.request(peer.name, "GET", "/_matrix/key/v2/server")
    assert len(peer.sends()) == 2


async def test_a_restart_takes_up_where_it_was(
    rooms: Rooms,
    peer: PeerServer,
    clock: ManualClock,
    make_outbox: MakeOutbox,
    own_key: SigningKey,
    database_file: Path,
    offload: ThreadOffload,
) -> None:
    await rooms.join(peer.name)
    first = make_outbox(rooms)
    await first.start()
    await rooms.say("one", "two")
    first.wake(frozenset({peer.name}))
    await until_delivered(rooms.database, peer.name, rooms.database.last_committed)
    peer.refusals = [(500, {})]
    await rooms.say("three")
    first.wake(frozenset({peer.name}))
    await until(lambda: stored(rooms.database, peer.name).retry_at is not None)
    await first.stop()
    await rooms.say("four")
    await rooms.database.close()

    again = Rooms(open_database(database_file, offload), own_key)
    second = make_outbox(again)
    await second.start()
    await until(lambda: len(clock.sleeps()) == 2)
    assert len(peer.received) == 2
    clock.advance(FIRST_PAUSE)
    await peer.until(lambda: len(peer.pdus()) == 4)
    assert texts(peer) == ["one", "two", "three", "four"]
    # What failed before the restart came again as it was, although more was owed by then.
    assert peer.received[1].target == peer.received[2].target
    await second.stop()
    await again.database.close()


async def test_nothing_is_sent_twice_after_a_clean_restart(
    rooms: Rooms,
    peer: PeerServer,
    make_outbox: MakeOutbox,
    own_key: SigningKey,
    database_file: Path,
    offload: ThreadOffload,
) -> None:
    await rooms.join(peer.name)
    first = make_outbox(rooms)
    await first.start()
    await rooms.say(*map(str, range(70)))
    first.wake(frozenset({peer.name}))
    await until_delivered(rooms.database, peer.name, rooms.database.last_committed)
    await first.stop()
    await rooms.database.close()
    again = Rooms(open_database(database_file, offload), own_key)
    second = make_outbox(again)
    await second.start()
    await again.say("last")
    second.wake(frozenset({peer.name}))
    await peer.until(lambda: len(peer.pdus()) == 71)
    assert texts(peer) == [*map(str, range(70)), "last"]
    await second.stop()
    await again.database.close()


@pytest.mark.parametrize("together", [1, 3])
async def test_what_was_under_way_when_the_process_died_comes_again_as_it_was(
    rooms: Rooms,
    peer: PeerServer,
    make_outbox: MakeOutbox,
    own_key: SigningKey,
    database_file: Path,
    offload: ThreadOffload,
    together: int,
) -> None:
    """server-server §PUT send: no transaction of another id before the answer to the one before it.

    So a server that took it, while its answer never came, knows it by its id.
    """
    await rooms.join(peer.name)
    first = make_outbox(rooms)
    await first.start()
    is_over = asyncio.Event()

    async def say_nothing(_: Received) -> tuple[int, Any]:
        await is_over.wait()
        return 200, {}

    peer.on_send = say_nothing
    await rooms.say(*map(str, range(together)))
    first.wake(frozenset({peer.name}))
    await until(lambda: len(peer.sends()) == 1)
    await rooms.say("later", "and later")
    # It dies here: nothing that it does after this comes to the disk.
    await rooms.database.close()

    again = Rooms(open_database(database_file, offload), own_key)
    await again.say("after the restart")
    peer.on_send = None
    second = make_outbox(again)
    await second.start()
    await peer.until(lambda: len(peer.pdus()) == together + 3)
    before, after = peer.sends()[:2]
    assert after.target == before.target
    assert after.json["pdus"] == before.json["pdus"]
    assert texts(peer) == [*map(str, range(together)), "later", "and later", "after the restart"]
    await second.stop()
    is_over.set()
    await again.database.close()


async def test_catching_up_goes_on_where_the_process_died(
    rooms: Rooms,
    peer: PeerServer,
    make_outbox: MakeOutbox,
    own_key: SigningKey,
    database_file: Path,
    offload: ThreadOffload,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transactions, "CATCH_UP_LIMIT", 200)
    monkeypatch.setattr(transactions, "MAX_PDUS", 10)
    monkeypatch.setattr("comity.federation.line.MAX_PDUS", 10)
    for room in range(1, 31):
        await rooms.join(peer.name, room)
    is_over = asyncio.Event()

    async def take_one(received: Received) -> tuple[int, Any]:
        if peer.transactions:
            await is_over.wait()
        else:
            peer.transactions.append(("", received.json))
        return 200, {}

    peer.on_send = take_one
    for number in range(10):
        for room in range(1, 31):
            await rooms.say(f"{room}.{number}", room=room)
    first = make_outbox(rooms)
    await first.start()
    await until(lambda: len(peer.sends()) == 2)
    await rooms.database.close()

    again = Rooms(open_database(database_file, offload), own_key, 40)
    peer.on_send = None
    second = make_outbox(again)
    await second.start()
    await until_delivered(again.database, peer.name, again.database.last_committed)
    # Nothing newer came meanwhile: so it is the same transaction, and then those behind it.
    before, after = peer.sends()[1:3]
    assert after.target == before.target
    assert texts(peer) == ["1.0", *(f"{room}.9" for room in range(1, 31))]
    await second.stop()
    is_over.set()
    await again.database.close()


async def test_catching_up_sends_the_newest_of_each_room(
    outbox: Outbox, rooms: Rooms, peer: PeerServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transactions, "CATCH_UP_LIMIT", 200)
    monkeypatch.setattr(transactions, "MAX_PDUS", 10)
    monkeypatch.setattr("comity.federation.line.MAX_PDUS", 10)
    for room in range(1, 31):
        await rooms.join(peer.name, room)
    for number in range(10):
        for room in range(1, 31):
            await rooms.say(f"{room}.{number}", room=room)
    await outbox.start()
    await until_delivered(rooms.database, peer.name, rooms.database.last_committed)
    sent = texts(peer)
    # The very first may have been under way when the process ended, and comes by itself.
    assert sent == ["1.0", *(f"{room}.9" for room in range(1, 31))]
    await rooms.say("live", room=3)
    outbox.wake(frozenset({peer.name}))
    await peer.until(lambda: texts(peer)[-1] == "live")


async def test_refused_events_are_told_in_the_log_and_not_sent_again(
    outbox: Outbox, rooms: Rooms, peer: PeerServer, caplog: pytest.LogCaptureFixture
) -> None:
    await rooms.join(peer.name)
    (event,) = await rooms.say("one")
    peer.refusals = [(200, {"pdus": {event.event_id: {"error": "Not allowed"}}})]
    await outbox.start()
    await until_delivered(rooms.database, peer.name, rooms.database.last_committed)
    assert f"refused the event {event.event_id}: Not allowed" in caplog.text
    assert len(peer.received) == 1


async def test_a_dead_server_takes_no_place_from_others(
    outbox: Outbox, rooms: Rooms, a_peer: PeerFactory, monkeypatch: pytest.MonkeyPatch, clock: ManualClock
) -> None:
    monkeypatch.setattr(places, "MAX_SENDING", 1)
    monkeypatch.setattr(places, "MAX_UNPROVEN", 1)
    silent, lively = await a_peer(), await a_peer()
    gate = asyncio.Event()

    async def hang(_: Received) -> tuple[int, Any]:
        await gate.wait()
        return 200, {}

    for peer in (silent, lively):
        await rooms.join(peer.name)
    await outbox.start()
    silent.refusals = [(500, {})]
    await rooms.say("one")
    outbox.wake(frozenset({silent.name, lively.name}))
    await until(lambda: stored(rooms.database, silent.name).retry_at is not None)
    await lively.until(lambda: len(lively.pdus()) == 1)
    target = silent.received[0].path
    silent.handlers["PUT", target] = hang
    await until(lambda: len(clock.sleeps()) == 2)
    clock.advance(FIRST_PAUSE)
    await until(lambda: len(silent.received) == 2)
    await rooms.say("two")
    outbox.wake(frozenset({silent.name, lively.name}))
    await lively.until(lambda: len(lively.pdus()) == 2)
    gate.set()
    await silent.until(lambda: len(silent.pdus()) == 1)


async def test_one_that_has_not_answered_yet_takes_no_place_from_those_that_do(
    outbox: Outbox, rooms: Rooms, a_peer: PeerFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "MAX_SENDING", 1)
    monkeypatch.setattr(places, "MAX_UNPROVEN", 1)
    silent, lively = await a_peer(), await a_peer()
    await rooms.join(lively.name)
    await outbox.start()
    await rooms.say("one")
    outbox.wake(frozenset({lively.name}))
    await until_delivered(rooms.database, lively.name, rooms.database.last_committed)
    came, gate = asyncio.Event(), asyncio.Event()

    async def hang(_: Received) -> tuple[int, Any]:
        came.set()
        await gate.wait()
        return 200, {}

    silent.on_send = hang
    await rooms.join(silent.name)
    await rooms.say("two")
    outbox.wake(frozenset({silent.name}))
    await came.wait()
    outbox.wake(frozenset({lively.name}))
    await lively.until(lambda: len(lively.pdus()) == 2)
    assert not silent.pdus()
    gate.set()


async def test_slow_servers_take_no_place_from_the_others(
    outbox: Outbox, rooms: Rooms, a_peer: PeerFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "MAX_SENDING", 1)
    monkeypatch.setattr(places, "SLOW_SECONDS", 0.05)
    slow, quick = await a_peer(), await a_peer()
    is_over = asyncio.Event()

    async def wait(_: Received) -> tuple[int, Any]:
        await is_over.wait()
        return 200, {}

    await rooms.join(slow.name)
    await rooms.join(quick.name)
    await outbox.start()
    for peer in (slow, quick):  # both are known to answer
        await rooms.say(f"to {peer.name}")
        outbox.wake(frozenset({peer.name}))
        await peer.until(lambda: len(peer.pdus()) > 0)  # noqa: B023
    slow.on_send = wait
    await rooms.say("on")
    outbox.wake(frozenset({slow.name}))
    await until(lambda: len(slow.sends()) == 2)
    outbox.wake(frozenset({quick.name}))
    await quick.until(lambda: texts(quick)[-1] == "on")
    is_over.set()


async def test_one_timer_wakes_each_in_its_time(
    outbox: Outbox, rooms: Rooms, a_peer: PeerFactory, clock: ManualClock
) -> None:
    peers = [await a_peer() for _ in range(3)]
    for number, peer in enumerate(peers):
        await rooms.join(peer.name)
        peer.refusals = [(429, {"retry_after_ms": (3 - number) * 20_000})]
    await outbox.start()
    await rooms.say("one")
    outbox.wake(frozenset(peer.name for peer in peers))
    for peer in peers:
        await until(lambda: stored(rooms.database, peer.name).retry_at is not None)  # noqa: B023
    for peer in reversed(peers):
        await until(lambda: clock.sleeps()[:1] == [pytest.approx(20)])
        assert len(clock.sleeps()) == 2
        clock.advance(20)
        await peer.until(lambda: len(peer.pdus()) == 1)  # noqa: B023
    assert len(clock.sleeps()) == 1


async def test_old_rows_are_pruned_and_the_long_dead_hold_back_little(
    outbox: Outbox, rooms: Rooms, a_peer: PeerFactory, clock: ManualClock
) -> None:
    def rows() -> int:
        row = rooms.database.read_now(lambda tx: tx.one("SELECT count(*) FROM outbound"))
        return int(row[0]) if row else 0

    lively, dead = await a_peer(), await a_peer()
    for room in (1, 2):
        await rooms.join(lively.name, room)
        await rooms.join(dead.name, room)
    await rooms.join("quiet.invalid:1", 3)
    await dead.down()
    await outbox.start()
    for number in range(20):
        await rooms.say(str(number), room=1 + number % 2)
        outbox.wake(frozenset({lively.name, dead.name}))
    await until_delivered(rooms.database, lively.name, rooms.database.last_committed)
    await until(lambda: stored(rooms.database, dead.name).retry_at is not None)
    assert await outbox.progress.prune() == 0
    assert rows() == 20
    # Nothing is owed to the quiet one, so it holds nothing back.
    assert stored(rooms.database, "quiet.invalid:1").delivered == rooms.database.last_committed
    clock.advance(progress.DEAD_AFTER_MS / 1000 + 1)
    await until(lambda: len(clock.sleeps()) >= 2)
    await outbox.progress.prune()
    assert rows() == 2
    await dead.up()
    outbox.spoke(dead.name)
    # What had failed comes first, as it was; how many that were depends on when the outbox looked.
    await dead.until(lambda: texts(dead)[-2:] == ["18", "19"])
    await until_delivered(rooms.database, dead.name, rooms.database.last_committed)
    await outbox.progress.prune()
    assert rows() == 0


async def test_stopping_lets_a_transaction_end(outbox: Outbox, rooms: Rooms, peer: PeerServer) -> None:
    await rooms.join(peer.name)
    await outbox.start()
    begun, gate = asyncio.Event(), asyncio.Event()
    await rooms.say("one")

    async def slow(received: Received) -> tuple[int, Any]:
        begun.set()
        await gate.wait()
        peer.transactions.append(("", received.json))
        return 200, {}

    peer.on_send = slow
    outbox.wake(frozenset({peer.name}))
    await begun.wait()
    stopping = asyncio.create_task(outbox.stop())
    await asyncio.sleep(0)
    gate.set()
    await stopping
    assert texts(peer) == ["one"]
    assert stored(rooms.database, peer.name).delivered == rooms.database.last_committed
    outbox.wake(frozenset({peer.name}))
    outbox.spoke(peer.name)


async def test_a_transaction_is_known_by_its_events_and_not_by_its_place_alone(
    rooms: Rooms, own_key: SigningKey, tmp_path: Path, offload: ThreadOffload
) -> None:
    # A backup that was restored gives the same positions to other events; a server that has seen
    # the transaction's id would not look at them.
    other = Rooms(open_database(tmp_path / "other.db", offload), own_key)
    ids = []
    for side, text in ((rooms, "one"), (other, "two")):
        await side.join("a.example")
        await side.say(text)
        batch = side.database.read_now(
            lambda tx: transactions.next_batch(
                tx,
                side.events,  # noqa: B023
                "a.example",
                after=0,
                committed=2,
                limit=50,
                now=0,
            )
        )
        assert batch is not None
        ids.append(batch.transaction_id)
    assert ids[0].split(".")[:2] == ids[1].split(".")[:2] == ["2", "2"]
    assert ids[0] != ids[1]
    await other.database.close()
