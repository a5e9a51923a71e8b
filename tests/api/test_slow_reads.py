"""What is stored while a read waits for the database: the read must not undo it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from comity.protocol.errors import MatrixError
from comity.users import filters
from comity.users.filters import Filters
from tests.api.support_users import SERVER, UserServer, user_server
from tests.slow_reads import SlowReads

ALICE = f"@alice:{SERVER}"
ROOM = "!room:example.org"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[UserServer]:
    async with user_server(tmp_path) as built:
        yield built


@pytest.fixture
def slow(server: UserServer) -> SlowReads:
    return SlowReads(server.database)


async def test_a_token_that_ends_while_it_is_looked_up_does_not_come_back(
    server: UserServer, slow: SlowReads
) -> None:
    token = await server.user("alice", device_id="PHONE")
    slow.hold_next()
    asking = asyncio.ensure_future(server.ask("GET", "/account/whoami", token=token))
    await slow.until_held()
    await server.sessions.close(ALICE, ["PHONE"])
    slow.let_go()
    # That request came while the session was open; none does any more.
    (await asking).ok()
    (await server.ask("GET", "/account/whoami", token=token)).failed(401, "M_UNKNOWN_TOKEN")


async def test_a_session_that_others_end_is_remembered(server: UserServer, slow: SlowReads) -> None:
    token, other = await server.user("alice", device_id="PHONE"), await server.log_in("alice", device_id="PC")
    slow.hold_next()
    asking = asyncio.ensure_future(server.ask("GET", "/account/whoami", token=token))
    await slow.until_held()
    await server.sessions.close(ALICE, ["PC"])
    slow.let_go()
    assert (await asking).ok()["device_id"] == "PHONE"
    assert (await server.ask("GET", "/account/whoami", token=token)).ok()["device_id"] == "PHONE"
    (await server.ask("GET", "/account/whoami", token=other)).failed(401, "M_UNKNOWN_TOKEN")


async def test_the_last_word_about_typing_counts(server: UserServer, slow: SlowReads) -> None:
    await server.user("alice")
    await server.room(ROOM, ALICE)
    slow.hold_next()
    begins = asyncio.ensure_future(server.ephemeral.type_locally(ALICE, ROOM, {"typing": True}))
    await slow.until_held()
    await server.ephemeral.type_locally(ALICE, ROOM, {"typing": False})
    slow.let_go()
    await begins
    assert server.ephemeral.typing(ROOM)[1] == []
    slow.hold_next()
    stops = asyncio.ensure_future(server.ephemeral.type_locally(ALICE, ROOM, {"typing": False}))
    await slow.until_held()
    await server.ephemeral.type_locally(ALICE, ROOM, {"typing": True})
    slow.let_go()
    await stops
    assert server.ephemeral.typing(ROOM)[1] == [ALICE]


async def test_a_device_that_is_gone_leaves_no_keys(server: UserServer) -> None:
    token = await server.user("alice", device_id="PHONE")
    (await server.ask("GET", "/account/whoami", token=token)).ok()
    body = {"one_time_keys": {"signed_curve25519:AAAA": {"key": "key", "signatures": {}}}}
    # The request comes before the end of the session is on disk, and its keys are written behind it.
    closing = asyncio.ensure_future(server.sessions.close(ALICE, ["PHONE"]))
    await asyncio.sleep(0)
    answer = await server.ask("POST", "/keys/upload", body, token=token)
    await closing
    answer.failed(401, "M_UNKNOWN_TOKEN")
    assert server.database.read_now(lambda tx: tx.one("SELECT count(*) FROM one_time_keys")) == (0,)


async def test_the_last_filter_may_be_made_twice_at_once(
    server: UserServer, slow: SlowReads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filters, "MAX_FILTERS", 1)
    made = Filters(server.database)
    slow.hold_next(2)
    both = [asyncio.ensure_future(made.create(ALICE, {"room": {}})) for _ in range(2)]
    await slow.until_held(2)
    slow.let_go()
    assert await both[0] == await both[1]
    with pytest.raises(MatrixError, match="at most 1"):
        await made.create(ALICE, {"presence": {}})
