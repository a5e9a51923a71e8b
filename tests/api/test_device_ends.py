"""What becomes of all that a device has when it goes (client-server §Device Management, §Logout)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from comity.api.client.dehydrated import PATH
from comity.users.devices import MAX_DELETED_AT_ONCE
from comity.users.sessions import MAX_DEVICE_NAME_BYTES
from tests.api.support_users import PASSWORD, SERVER, UserServer, user_server
from tests.api.test_dehydrated import a_device, identity

ALICE = f"@alice:{SERVER}"
PROOF = {"type": "m.login.password", "user": "alice", "password": PASSWORD}
#: What belongs to devices, each row with the user and the device.
TABLES = (
    "devices", "access_tokens", "refresh_tokens", "connections", "device_keys", "one_time_keys",
    "fallback_keys", "to_device", "dehydrated_devices",
)  # fmt: skip


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[UserServer]:
    async with user_server(tmp_path) as built:
        yield built


def whose(server: UserServer, table: str) -> set[str]:
    """The devices of Alice of which something is there."""
    rows = server.database.read_now(
        lambda tx: tx.all(f"SELECT DISTINCT device_id FROM {table} WHERE user_id = ?", (ALICE,))
    )
    return {row[0] for row in rows}


async def with_everything(server: UserServer, device: str, token: str) -> None:
    """Let a device have keys, messages and a place where it was used."""
    keys = {
        "device_keys": {**identity(device), "dehydrated": False},
        "one_time_keys": {"signed_curve25519:a": {"key": "one-time", "signatures": {}}},
        "fallback_keys": {"signed_curve25519:f": {"key": "fallback", "fallback": True, "signatures": {}}},
    }
    del keys["device_keys"]["dehydrated"]
    (await server.ask("POST", "/keys/upload", keys, token=token)).ok()
    messages = {"messages": {ALICE: {device: {"n": 1}}}}
    (await server.ask("PUT", f"/sendToDevice/m.x/{device}", messages, token=token)).ok()


async def log_in(server: UserServer, device: str) -> str:
    """A session that can be refreshed; its token."""
    body = {**PROOF, "device_id": device, "refresh_token": True}
    token: str = (await server.ask("POST", "/login", body)).ok()["access_token"]
    return token


async def test_logging_out_everywhere_leaves_nothing(server: UserServer) -> None:
    await server.user("alice", device_id="FIRST")
    phone, desk = await log_in(server, "PHONE"), await log_in(server, "DESK")
    for device, token in (("PHONE", phone), ("DESK", desk)):
        await with_everything(server, device, token)
    (await server.ask("PUT", PATH, a_device(), token=phone)).ok()
    for table in TABLES:
        assert whose(server, table), table
    (await server.ask("POST", "/logout/all", {}, token=phone)).ok()
    for table in TABLES:
        assert whose(server, table) == set(), table
    for token in (phone, desk):
        (await server.ask("GET", "/devices", token=token)).failed(401, "M_UNKNOWN_TOKEN")


@pytest.mark.parametrize("how", ["logout", "DELETE", "delete_devices"])
async def test_a_device_takes_its_own_with_it(server: UserServer, how: str) -> None:
    await server.user("alice", device_id="FIRST")
    phone, desk = await log_in(server, "PHONE"), await log_in(server, "DESK")
    for device, token in (("PHONE", phone), ("DESK", desk)):
        await with_everything(server, device, token)
    (await server.ask("PUT", PATH, a_device(), token=phone)).ok()
    before = {table: whose(server, table) for table in TABLES}
    if how == "logout":
        (await server.ask("POST", "/logout", {}, token=phone)).ok()
    elif how == "DELETE":
        (await server.ask("DELETE", "/devices/PHONE", {"auth": PROOF}, token=desk)).ok()
    else:
        body = {"devices": ["PHONE", "PHONE", "NEVER"], "auth": PROOF}
        (await server.ask("POST", "/delete_devices", body, token=desk)).ok()
    for table in TABLES:
        assert whose(server, table) == before[table] - {"PHONE"}, table


async def test_limits(server: UserServer) -> None:
    token = await server.user("alice", device_id="PHONE")
    for name, status in (("x" * MAX_DEVICE_NAME_BYTES, 200), ("x" * (MAX_DEVICE_NAME_BYTES + 1), 400)):
        answer = await server.ask("PUT", "/devices/PHONE", {"display_name": name}, token=token)
        assert answer.status == status
    many = {"devices": [f"D{number}" for number in range(MAX_DELETED_AT_ONCE + 1)], "auth": PROOF}
    (await server.ask("POST", "/delete_devices", many, token=token)).failed(400, "M_BAD_JSON")


async def test_looking_on_costs_no_write(server: UserServer) -> None:
    token = await server.user("alice", device_id="PHONE")
    (await server.ask("GET", "/account/whoami", token=token)).ok()
    await server.database.write(lambda tx: None)
    before = server.database.commits
    for _ in range(20):
        (await server.ask("GET", "/devices", token=token)).ok()
    await server.database.write(lambda tx: None)
    assert server.database.commits == before + 1


async def test_nobody_is_who_has_ended_their_account(server: UserServer) -> None:
    token = await server.user("alice")
    path = f"/user/{ALICE}/openid/request_token"
    (await server.ask("POST", path, {}, token=token)).ok()
    (await server.ask("POST", "/account/deactivate", {"auth": PROOF}, token=token)).ok()
    row = server.database.read_now(lambda tx: tx.one("SELECT count(*) FROM openid_tokens"))
    assert row == (0,)
