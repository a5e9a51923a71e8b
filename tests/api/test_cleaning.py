"""What is kept for devices goes when it is of no use any more (docs/running.md §What is kept)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from comity.api.client.dehydrated import PATH
from comity.store import cross_signing, device_lists
from comity.store.database import Row
from comity.store.device_lists import RemoteList
from comity.users import cleaning
from tests.api.support_rooms import Client, Place, place
from tests.api.test_dehydrated import a_device
from tests.api.test_key_backup import ALGORITHM

DAYS = 24 * 3600


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Place]:
    async with place(tmp_path) as opened:
        yield opened


def rows(server: Place, table: str) -> list[Row]:
    return server.database.read_now(lambda tx: tx.all(f"SELECT * FROM {table}"))


async def clean(server: Place) -> None:
    await server.app._users.cleaning.run()


async def message(alice: Client, device: str, transaction: str) -> None:
    body: dict[str, object] = {"messages": {alice.user_id: {device: {}}}}
    (await alice.ask("PUT", f"/sendToDevice/m.x/{transaction}", body)).ok()


async def test_messages_for_who_does_not_come(server: Place) -> None:
    alice = await server.client("alice")
    (await alice.ask("PUT", PATH, {**a_device(), "device_keys": {
        **a_device()["device_keys"], "user_id": alice.user_id}})).ok()  # fmt: skip
    device_id = (await alice.ask("GET", "/account/whoami")).ok()["device_id"]
    await message(alice, device_id, "one")
    await message(alice, "DRY", "two")
    waiting = rows(server, "to_device")
    assert len(waiting) == 2
    # Half a year of looks for something to do would take a minute.
    await server.app._errands.stop()
    await server.clock.turn(cleaning.KEEP_MESSAGES_MS / 1000 - DAYS)
    await clean(server)
    assert rows(server, "to_device") == waiting
    await server.clock.turn(2 * DAYS)
    await clean(server)
    # A dehydrated device is not expected to come.
    assert [row[1] for row in rows(server, "to_device")] == ["DRY"]


async def test_news_of_devices_that_are_gone(server: Place) -> None:
    alice = await server.client("alice")
    for name in ("ONE", "TWO"):
        body = {
            "type": "m.login.password", "password": "correct horse", "device_id": name,
            "identifier": {"type": "m.id.user", "user": "alice"},
        }  # fmt: skip
        token = (await alice.ask("POST", "/login", body)).ok()["access_token"]
        (await Client(server, alice.user_id, token).ask("POST", "/logout", {})).ok()
    await clean(server)
    assert {"ONE", "TWO"} <= {row[1] for row in rows(server, "device_changes")}
    await alice.create()
    await server.clock.turn(cleaning.KEEP_DEVICE_CHANGES_MS / 1000 - DAYS)
    await clean(server)
    assert {"ONE", "TWO"} <= {row[1] for row in rows(server, "device_changes")}
    await server.clock.turn(2 * DAYS)
    newest = server.database.read_now(lambda tx: device_lists.last_change(tx, alice.user_id))
    await clean(server)
    left = {row[1] for row in rows(server, "device_changes")}
    assert "ONE" not in left
    # The newest change is the number of the list, whoever is gone.
    assert "TWO" in left
    assert server.database.read_now(lambda tx: device_lists.last_change(tx, alice.user_id)) == newest


async def test_devices_of_strangers(server: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cleaning, "MAX_USERS", 1)
    alice = await server.client("alice")
    room_id = await alice.create()
    friend, strangers = "@b:friend.test", ("@a:away.test", "@c:away.test")

    async def put() -> None:
        def store(tx: object) -> None:
            for user_id in (friend, *strangers):
                device_lists.put_remote_list(tx, user_id, RemoteList(1, False, 1))  # type: ignore[arg-type]
                device_lists.put_remote_device(tx, user_id, "D", "{}", None)  # type: ignore[arg-type]
                cross_signing.put(tx, user_id, cross_signing.MASTER, "{}", 1)  # type: ignore[arg-type]

        await server.database.write(store)
        await server.database.write(
            lambda tx: tx.run(
                "INSERT INTO memberships (room_num, user_id, server, membership, event_num, position) "
                "SELECT room_num, ?, 'friend.test', 'join', 0, 0 FROM rooms WHERE room_id = ?",
                (friend, room_id),
            )
        )

    await put()
    for _ in range(4):
        await clean(server)
    for table in ("remote_devices", "remote_device_lists", "cross_signing_keys"):
        assert [row[0] for row in rows(server, table)] == [friend]


async def test_backups_end_with_the_account(server: Place) -> None:
    alice = await server.client("alice")
    (await alice.ask("POST", "/room_keys/version", {"algorithm": ALGORITHM, "auth_data": {}})).ok()
    auth = {
        "type": "m.login.password", "password": "correct horse",
        "identifier": {"type": "m.id.user", "user": "alice"},
    }  # fmt: skip
    flows = (await alice.ask("POST", "/account/deactivate", {})).body
    auth["session"] = flows["session"]
    (await alice.ask("POST", "/account/deactivate", {"auth": auth})).ok()
    assert rows(server, "key_backups") == []
