"""What `comity user` does to accounts, and what the server that runs makes of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from comity.protocol.errors import MatrixError
from comity.store import errands as stored
from comity.users.administration import Administration
from comity.users.errands import LOOK_SECONDS
from comity.users.sessions import BELIEVED_SECONDS
from tests.api.support_rooms import Client, Place, ask, by_key, place, until_waiting
from tests.api.support_users import CHEAP, InlineOffload, SeededEntropy, at


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Place]:
    async with place(tmp_path) as opened:
        yield opened


@pytest.fixture
def administration(server: Place) -> Administration:
    return Administration(
        server.database, InlineOffload(), server.clock, SeededEntropy(9), "example.org", CHEAP
    )


async def log_in(server: Place, password: str, device_id: str = "") -> Client:
    """Alice logs in again."""
    body = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": "alice"},
        "password": password,
        **({"device_id": device_id} if device_id else {}),
    }
    answer = (await ask(server.app, "POST", "/_matrix/client/v3/login", body, {}, None)).ok()
    return Client(server, answer["user_id"], answer["access_token"])


async def looked(server: Place) -> None:
    """The server has looked for what commands have left it, and done it."""
    await server.clock.turn(LOOK_SECONDS)
    for _ in range(5):
        await until_waiting()


async def test_an_account_ends_and_is_erased(server: Place, administration: Administration) -> None:
    alice, bob, carol = await server.clients("alice", "bob", "carol")
    room_id = await alice.create()
    await bob.join(room_id)
    said = await alice.say(room_id, "secret")
    await alice.account_data("org.example.mine", {"a": 1})
    assert await administration.deactivate("alice", erase=True) == alice.user_id
    # At once nobody gets in, within seconds nobody is in.
    with pytest.raises(AssertionError, match="M_USER_DEACTIVATED"):
        await log_in(server, "correct horse")
    await server.clock.turn(BELIEVED_SECONDS)
    (await alice.ask("GET", "/account/whoami")).failed(401, "M_UNKNOWN_TOKEN")
    described = await administration.describe("alice")
    assert described.user.deactivated
    assert [errand.kind for errand in described.errands] == [stored.END]
    await looked(server)
    described = await administration.describe("alice")
    assert (described.errands, described.devices, described.connections) == ([], [], [])
    state = by_key((await bob.ask("GET", at("rooms", room_id, "state"))).ok())
    assert state["m.room.member", alice.user_id] == {"membership": "leave"}
    await carol.join(room_id)
    for reader, content in ((bob, {"msgtype": "m.text", "body": "secret"}), (carol, {})):
        told = (await reader.ask("GET", at("rooms", room_id, "event", said))).ok()
        assert told["content"] == content
    with pytest.raises(MatrixError) as caught:
        await administration.deactivate("alice", erase=True)
    assert caught.value.code == "M_NOT_FOUND"


async def test_another_password_and_no_sessions(server: Place, administration: Administration) -> None:
    alice = await server.client("alice")
    kept = await log_in(server, "correct horse", "KEPT")
    assert await administration.set_password("alice", "a new one") == alice.user_id
    with pytest.raises(AssertionError, match="M_FORBIDDEN"):
        await log_in(server, "correct horse")
    await server.clock.turn(BELIEVED_SECONDS)
    (await alice.ask("GET", "/account/whoami")).ok()
    await administration.set_password("alice", "yet another", log_out=True)
    await server.clock.turn(BELIEVED_SECONDS)
    for client in (alice, kept):
        (await client.ask("GET", "/account/whoami")).failed(401, "M_UNKNOWN_TOKEN")
    # Who logs in again before the server has come to it keeps the device.
    await log_in(server, "yet another", "KEPT")
    await log_in(server, "yet another", "NEW")
    await looked(server)
    described = await administration.describe("alice")
    assert {device.device_id for device in described.devices} == {"KEPT", "NEW"}
    assert described.errands == []
    assert await administration.log_out(alice.user_id) == alice.user_id
    await looked(server)
    assert (await administration.describe("alice")).devices == []


async def test_an_administrator_is_made_and_unmade(server: Place, administration: Administration) -> None:
    alice = await server.client("alice")
    await server.client("bob")
    path = "/_matrix/client/v1/admin/suspend/@bob:example.org"
    for admin in (True, False):
        await administration.set_admin("alice", admin=admin)
        await server.clock.turn(BELIEVED_SECONDS)
        answer = await alice.ask("GET", path)
        assert (answer.status == 200) is admin
    for attempt in (
        administration.set_admin("nobody", admin=True),
        administration.log_out("nobody"),
        administration.describe("nobody"),
        administration.set_password("@alice:other.org", "x"),
    ):
        with pytest.raises(MatrixError) as caught:
            await attempt
        assert caught.value.code == "M_NOT_FOUND"


async def test_sessions_say_where_they_were_used(server: Place, administration: Administration) -> None:
    alice = await server.client("alice")
    (await alice.ask("GET", "/account/whoami")).ok()
    await until_waiting()
    described = await administration.describe("alice")
    (device,), (connection,) = described.devices, described.connections
    assert device.device_id == connection.device_id
    assert (connection.address, connection.last_seen) == ("192.0.2.1", server.clock.now_ms())
    assert (described.suspended, described.locked) == (False, False)
