"""What is acknowledged survives: a server down for a minute, a server killed twenty times.

`COMITY_INTEROP_DOWNTIME` (seconds, default 60) and `COMITY_INTEROP_KILLS` (default 20)
shorten a run by hand; `COMITY_INTEROP_SEED` repeats the moments of another one.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator

import aiohttp
import pytest

from tests.interop.agreement import same_events, same_state, told_in_order
from tests.interop.authority import Authority
from tests.interop.client import ApiError, Client, MakeUser, texts
from tests.interop.conftest import PAIR, running
from tests.interop.programs import run_program
from tests.interop.servers import Homeserver
from tests.interop.waiting import eventually

pytestmark = [pytest.mark.interop, pytest.mark.slow, pytest.mark.xdist_group("interop-faults")]

DOWNTIME = float(os.environ.get("COMITY_INTEROP_DOWNTIME", "60"))
KILLS = int(os.environ.get("COMITY_INTEROP_KILLS", "20"))
#: What one user says while the other server is down.
SAID_MEANWHILE = 30
#: A server that was down for a minute may be retried only after another one.
CATCH_UP_WITHIN = max(2 * DOWNTIME, 60.0)
#: Between two sends of one stream, so that the other server can follow: it is not a load test.
PACE = 0.03
STREAMS = 2
#: How long a client waits before it repeats a request that got no answer.
RETRY_PAUSE = 0.05
#: A client that insists is answered by then, whatever befell the server.
ANSWERED_WITHIN = 60.0
#: The longest life of the server between two kills, in seconds after it answers again.
LONGEST_LIFE = 1.2


@pytest.fixture(scope="module")
def near(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Homeserver]:
    """The server under test, apart from that of the other tests: this one suffers."""
    yield from running(PAIR[0], tmp_path_factory.mktemp("near"), authority)


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Homeserver]:
    yield from running(PAIR[1], tmp_path_factory.mktemp("far"), authority)


async def _room_of_both(near: Homeserver, far: Homeserver, user: MakeUser) -> tuple[str, Client, Client]:
    alice, bob = await user(near, "alice"), await user(far, "bob")
    room = await alice.create_room(power_level_content_override={"state_default": 0})
    await bob.join(room, near)
    await same_state(room, alice, bob)
    return room, alice, bob


async def test_other_server_down(near: Homeserver, far: Homeserver, user: MakeUser) -> None:
    room, alice, bob = await _room_of_both(near, far, user)
    said = [f"while you were away {number}" for number in range(SAID_MEANWHILE)]
    await asyncio.to_thread(far.process.stop)
    loop = asyncio.get_running_loop()
    back_at = loop.time() + DOWNTIME
    for number, text in enumerate(said):
        await alice.send(room, text)
        if number % 10 == 3:
            await alice.set_state(room, "m.room.topic", {"topic": text})
        # Spread over the time away, so that retries and their pauses are met in all lengths.
        await asyncio.sleep(max(0.0, back_at - loop.time()) / (SAID_MEANWHILE - number))
    await asyncio.to_thread(far.process.start)

    await told_in_order(bob, room, said, CATCH_UP_WITHIN)
    await same_state(room, alice, bob)
    await same_events(room, alice, bob)


async def test_this_server_down(near: Homeserver, far: Homeserver, user: MakeUser) -> None:
    room, alice, bob = await _room_of_both(near, far, user)
    said = [f"while you were away {number}" for number in range(SAID_MEANWHILE)]
    await asyncio.to_thread(near.process.stop)
    for number, text in enumerate(said):
        await bob.send(room, text)
        if number % 10 == 3:
            await bob.set_state(room, "m.room.topic", {"topic": text})
    await asyncio.to_thread(near.process.start)

    # A word from the server that was away tells the other that it is back.
    await alice.send(room, "back")
    await told_in_order(alice, room, said, CATCH_UP_WITHIN)
    await bob.send(room, "welcome back")
    await alice.hears(room, "welcome back")
    await same_state(room, alice, bob)
    await same_events(room, alice, bob)


async def _insist(client: Client, room: str, text: str) -> str:
    """Send as a client does that wants it said: the same transaction id until there is an answer."""
    deadline = time.monotonic() + ANSWERED_WITHIN
    trouble: Exception | None = None
    while time.monotonic() < deadline:
        try:
            return await client.send(room, text, txn=f"insist {text}")
        except ApiError as error:
            if error.status < 500:
                raise
            trouble = error
        except (aiohttp.ClientError, ConnectionError, TimeoutError) as error:
            trouble = error
        await asyncio.sleep(RETRY_PAUSE)
    raise AssertionError(f"{text!r} was not answered within {ANSWERED_WITHIN:g} s: {trouble!r}")


async def _is_sound(server: Homeserver) -> None:
    """The database of a running comity keeps every invariant of the store."""
    command = [sys.executable, "-m", "comity", "database", "check"]
    said = await run_program([*command, "--config", str(server.directory / "comity.toml")], os.environ)
    assert said[-1] == "The database is sound."


async def _stream(
    client: Client, room: str, name: str, acknowledged: dict[str, str], end: asyncio.Event
) -> None:
    number = 0
    while not end.is_set():
        text = f"{name} {number}"
        acknowledged[text] = await _insist(client, room, text)
        number += 1
        await asyncio.sleep(PACE)


async def test_killed_under_a_stream_of_sends(near: Homeserver, far: Homeserver, user: MakeUser) -> None:
    seed = int(os.environ.get("COMITY_INTEROP_SEED", random.randrange(1_000_000)))
    print(f"COMITY_INTEROP_SEED={seed}")
    moments = random.Random(seed)
    room, alice, bob = await _room_of_both(near, far, user)
    acknowledged: dict[str, str] = {}
    end = asyncio.Event()
    streams = [
        asyncio.create_task(_stream(client, room, f"{name}{number}", acknowledged, end))
        for client, name in ((alice, "alice"), (bob, "bob"))
        for number in range(STREAMS)
    ]
    try:
        for _ in range(KILLS):
            await asyncio.sleep(moments.uniform(0.02, LONGEST_LIFE))
            await asyncio.to_thread(near.process.kill)
            await asyncio.to_thread(near.process.start)
    except BaseException:
        for stream in streams:
            stream.cancel()
        raise
    end.set()
    await asyncio.gather(*streams)
    print(f"{len(acknowledged)} sends acknowledged under {KILLS} kills")
    acknowledged["last of alice"] = await _insist(alice, room, "last of alice")
    acknowledged["last of bob"] = await _insist(bob, room, "last of bob")

    for client in (alice, bob):
        await eventually(
            lambda client=client: _told_exactly_once(client, room, acknowledged),  # type: ignore[misc]
            f"{len(acknowledged)} acknowledged sends at {client.server.process.title}",
            CATCH_UP_WITHIN,
        )
    await same_events(room, alice, bob)
    await same_state(room, alice, bob)
    await _is_sound(near)
    for client in (alice, bob):
        _each_stream_in_order(await client.history(room, page=100), client.server.process.title)


async def _told_exactly_once(client: Client, room: str, acknowledged: dict[str, str]) -> bool:
    history = await client.history(room, page=100)
    told = {text: event["event_id"] for event in history for text in texts([event])}
    counts = Counter(texts(history))
    lost = [text for text in acknowledged if counts[text] == 0]
    double = [text for text, count in counts.items() if count > 1]
    other = [text for text, event_id in acknowledged.items() if told.get(text, event_id) != event_id]
    # Only what is missing may still arrive.
    if double or other:
        raise RuntimeError(f"twice: {double[:5]}; under another event id than acknowledged: {other[:5]}")
    assert not lost, f"{len(lost)} not there: {lost[:5]}"
    return True


def _each_stream_in_order(history: list[dict[str, object]], where: str) -> None:
    spoken = texts(list(reversed(history)))
    for name in ("alice", "bob"):
        for number in range(STREAMS):
            own = [text for text in spoken if text.startswith(f"{name}{number} ")]
            assert own == [f"{name}{number} {n}" for n in range(len(own))], where
