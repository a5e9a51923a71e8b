"""What is acknowledged survives: a server down for a minute, a server killed twenty times.

`COMITY_INTEROP_DOWNTIME` (seconds, default 60) and `COMITY_INTEROP_KILLS` (default 20)
shorten a run by hand; `COMITY_INTEROP_SEED` repeats the moments of another one.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Iterator

import pytest

from tests.interop.agreement import same_events, same_state, told_in_order
from tests.interop.authority import Authority
from tests.interop.client import Client, MakeUser
from tests.interop.conftest import PAIR, running
from tests.interop.servers import Homeserver
from tests.interop.streams import Streams, is_sound

pytestmark = [pytest.mark.interop, pytest.mark.slow, pytest.mark.xdist_group("interop-faults")]

DOWNTIME = float(os.environ.get("COMITY_INTEROP_DOWNTIME", "60"))
KILLS = int(os.environ.get("COMITY_INTEROP_KILLS", "20"))
#: What one user says while the other server is down.
SAID_MEANWHILE = 30
#: A server that was down for a minute may be retried only after another one.
CATCH_UP_WITHIN = max(2 * DOWNTIME, 60.0)
#: A client that insists is answered by then, whatever befell the server.
ANSWERED_WITHIN = 60.0
#: The longest life of the server between two kills, in seconds after it answers again.
LONGEST_LIFE = 1.2


@pytest.fixture(scope="module")
def near(tmp_path_factory: pytest.TempPathFactory, authority: Authority, engine: str) -> Iterator[Homeserver]:
    """The server under test, apart from that of the other tests: this one suffers."""
    yield from running(PAIR[0], tmp_path_factory.mktemp("near"), authority, engine)


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Homeserver]:
    yield from running(PAIR[1], tmp_path_factory.mktemp("far"), authority)


async def room_of_both(near: Homeserver, far: Homeserver, user: MakeUser) -> tuple[str, Client, Client]:
    alice, bob = await user(near, "alice"), await user(far, "bob")
    room = await alice.create_room(power_level_content_override={"state_default": 0})
    await bob.join(room, near)
    await same_state(room, alice, bob)
    return room, alice, bob


async def test_other_server_down(near: Homeserver, far: Homeserver, user: MakeUser) -> None:
    room, alice, bob = await room_of_both(near, far, user)
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
    room, alice, bob = await room_of_both(near, far, user)
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


async def test_killed_under_a_stream_of_sends(near: Homeserver, far: Homeserver, user: MakeUser) -> None:
    seed = int(os.environ.get("COMITY_INTEROP_SEED", random.randrange(1_000_000)))
    print(f"COMITY_INTEROP_SEED={seed}")
    moments = random.Random(seed)
    room, alice, bob = await room_of_both(near, far, user)
    streams = Streams(room, alice, bob, ANSWERED_WITHIN)
    async with streams.talking():
        for _ in range(KILLS):
            await asyncio.sleep(moments.uniform(0.02, LONGEST_LIFE))
            await asyncio.to_thread(near.process.kill)
            await asyncio.to_thread(near.process.start)
    print(f"{len(streams.acknowledged)} sends acknowledged under {KILLS} kills")
    await streams.check(CATCH_UP_WITHIN)
    await is_sound(near)
