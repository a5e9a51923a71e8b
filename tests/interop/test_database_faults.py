"""PostgreSQL restarted, stopped in its tracks and killed under load from both sides.

`COMITY_INTEROP_DATABASE_FAULTS` (default 3, one of each kind) and `COMITY_INTEROP_PAUSE` (seconds that
it is stopped, default 8) make it longer by hand.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Iterator

import aiohttp
import pytest

from tests.engines import HOW_TO_HAVE_IT
from tests.interop.authority import Authority
from tests.interop.client import MakeUser, texts
from tests.interop.conftest import PAIR
from tests.interop.servers import Homeserver, make_server, missing
from tests.interop.streams import Streams, is_sound
from tests.interop.test_faults import CATCH_UP_WITHIN, room_of_both
from tests.interop.waiting import eventually
from tests.postgres_server import PostgresServer, programs

pytestmark = [pytest.mark.interop, pytest.mark.slow, pytest.mark.xdist_group("interop-database")]

FAULTS = int(os.environ.get("COMITY_INTEROP_DATABASE_FAULTS", "3"))
PAUSE = float(os.environ.get("COMITY_INTEROP_PAUSE", "8"))
Servers = tuple[Homeserver, Homeserver]
#: Seconds that the servers talk between two faults.
LIFE = 1.5
#: Seconds after the end of a fault within which everything goes on.
RECOVERY = 40.0


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    """A server that keeps what it acknowledged, for this module alone."""
    if programs() is None:
        pytest.skip(HOW_TO_HAVE_IT)
    server = PostgresServer()
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def servers(
    tmp_path_factory: pytest.TempPathFactory, authority: Authority, postgres: PostgresServer
) -> Iterator[Servers]:
    """The server under test, on that PostgreSQL, and the other one."""
    if PAIR[0] != "comity":
        pytest.skip("it is comity's store that is tried")
    reason = missing(PAIR[1])
    if reason is not None:
        pytest.skip(reason)
    near = make_server(
        "comity", tmp_path_factory.mktemp("near"), authority, database=postgres.url("postgres")
    )
    far = make_server(PAIR[1], tmp_path_factory.mktemp("far"), authority)
    near.process.start()
    far.process.start()
    yield near, far
    far.process.stop()
    near.process.stop()


async def test_postgresql_fails_under_a_stream_of_sends(
    servers: Servers, postgres: PostgresServer, user: MakeUser, http: aiohttp.ClientSession
) -> None:
    near, far = servers
    room, alice, bob = await room_of_both(near, far, user)
    streams = Streams(room, alice, bob, PAUSE + RECOVERY)

    async def fail(kind: str) -> None:
        if kind == "restarted":
            await asyncio.to_thread(postgres.restart)
        elif kind == "paused":
            postgres.pause()
            await asyncio.sleep(PAUSE)
            postgres.go_on()
        else:
            postgres.kill()
            await asyncio.sleep(0.5)
            await asyncio.to_thread(postgres.start_again)

    async with streams.talking():
        for number in range(FAULTS):
            kind = ("restarted", "paused", "killed")[number % 3]
            await asyncio.sleep(LIFE)
            before, began = len(streams.acknowledged), time.monotonic()
            await fail(kind)
            lasted = time.monotonic() - began
            await eventually(lambda: answers(http, near), f"health after it was {kind}", RECOVERY)
            later, said = time.monotonic() - began - lasted, len(streams.acknowledged) - before
            print(f"{kind}: gone for {lasted:.1f} s, well {later:.1f} s later, {said} acknowledged meanwhile")
    print(f"{len(streams.acknowledged)} sends acknowledged under {FAULTS} faults")
    await streams.check(CATCH_UP_WITHIN)
    await is_sound(near)


async def answers(http: aiohttp.ClientSession, server: Homeserver) -> bool:
    """Whether the server says that it is well."""
    async with http.get(f"{server.base_url}/health") as response:
        assert response.status == 200, await response.text()
        return True


async def test_postgresql_gone_is_told(
    servers: Servers, postgres: PostgresServer, user: MakeUser, http: aiohttp.ClientSession
) -> None:
    """503 with Retry-After and a reason for whoever watches; the same client goes on afterwards."""
    near, _ = servers
    alice = await user(near, "alice")
    room = await alice.create_room()
    await alice.send(room, "before")
    postgres.kill()
    headers = {"Authorization": f"Bearer {alice.token}"}
    content = {"msgtype": "m.text", "body": "meanwhile"}
    url = f"{near.base_url}/_matrix/client/v3/rooms/{room}/send/m.room.message/m1"
    for _ in range(5):
        async with http.put(url, headers=headers, json=content) as response:
            answer = await response.json()
            assert (response.status, answer["errcode"]) == (503, "M_UNKNOWN"), answer
            assert int(response.headers["Retry-After"]) >= 1
            assert answer["retry_after_ms"] >= 1
    async with http.get(f"{near.base_url}/health") as response:
        assert response.status == 503
        assert "database" in (await response.json())["reason"]
    await asyncio.to_thread(postgres.start_again)
    await eventually(lambda: answers(http, near), "health", RECOVERY)
    async with http.put(url, headers=headers, json=content) as response:
        assert response.status == 200
    assert texts(list(reversed(await alice.history(room)))) == ["before", "meanwhile"]


async def test_a_second_server_on_the_database_is_refused(
    servers: Servers, tmp_path_factory: pytest.TempPathFactory, authority: Authority,
    postgres: PostgresServer,
) -> None:  # fmt: skip
    second = make_server(
        "comity", tmp_path_factory.mktemp("second"), authority, database=postgres.url("postgres")
    )
    # It says who it is: without the key it would not even look who is there.
    data = second.directory / "data"
    data.mkdir(mode=0o700)
    shutil.copy(servers[0].directory / "data" / "signing.key", data)
    with pytest.raises(AssertionError, match="another comity is running on this database"):
        await asyncio.to_thread(second.process.start)
    # The first one has not noticed.
    assert servers[0].process.pid
