"""Devices, the password and the end of an account (client-server §Device Management, §Account management)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from comity.store import personal
from comity.store.database import last_position
from tests.api.support_users import PASSWORD, SERVER, UserServer, at, user_server


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[UserServer]:
    async with user_server(tmp_path) as built:
        yield built


ALICE = f"@alice:{SERVER}"
PROOF = {
    "type": "m.login.password",
    "identifier": {"type": "m.id.user", "user": "alice"},
    "password": PASSWORD,
}


async def session_of(server: UserServer, method: str, path: str, body: dict[str, Any], token: str) -> str:
    """Ask without proof; the session of the 401."""
    answer = await server.ask(method, path, body, token=token)
    assert answer.status == 401, answer
    assert answer.body["flows"] == [{"stages": ["m.login.password"]}]
    assert "errcode" not in answer.body
    session: str = answer.body["session"]
    return session


async def test_devices_are_listed_and_named(server: UserServer) -> None:
    token = await server.user("alice", device_id="PHONE")
    await server.clock.turn(1)
    await server.log_in("alice", device_id="DESK")
    devices = (await server.ask("GET", "/devices", token=token)).ok()["devices"]
    assert [device["device_id"] for device in devices] == ["PHONE", "DESK"]
    assert (await server.ask("PUT", "/devices/DESK", {"display_name": "Desk"}, token=token)).ok() == {}
    assert (await server.ask("PUT", "/devices/DESK", {}, token=token)).ok() == {}
    assert (await server.ask("GET", "/devices/DESK", token=token)).ok()["display_name"] == "Desk"


async def test_a_device_that_is_not_there(server: UserServer) -> None:
    token = await server.user("alice")
    await server.user("bob", device_id="BOBS")
    (await server.ask("GET", "/devices/BOBS", token=token)).failed(404, "M_NOT_FOUND")
    (await server.ask("PUT", "/devices/BOBS", {"display_name": "x"}, token=token)).failed(404, "M_NOT_FOUND")
    (await server.ask("PUT", "/devices/BOBS", {}, token=token)).failed(404, "M_NOT_FOUND")
    (await server.ask("PUT", "/devices/BOBS", {"display_name": 5}, token=token)).failed(400, "M_BAD_JSON")


async def test_deleting_a_device_takes_the_password(server: UserServer) -> None:
    phone = await server.user("alice", device_id="PHONE")
    desk = await server.log_in("alice", device_id="DESK")
    session = await session_of(server, "DELETE", "/devices/PHONE", {}, desk)

    async def attempt(path: str = "/devices/PHONE", token: str = desk, **auth: object) -> Any:
        return await server.ask("DELETE", path, {"auth": {**PROOF, "session": session, **auth}}, token=token)

    (await attempt(password="wrong")).failed(401, "M_FORBIDDEN")
    (await attempt(password=None)).failed(401, "M_MISSING_PARAM")
    await server.user("bob")
    (await attempt(identifier={"type": "m.id.user", "user": "bob"})).failed(401, "M_FORBIDDEN")
    # Of an address that is not known, the specification wants 403 itself.
    address = {"type": "m.id.thirdparty", "medium": "email", "address": "alice@mail.example"}
    assert "flows" not in (await attempt(identifier=address)).failed(403, "M_FORBIDDEN")
    # A session is good for what it was begun for.
    (await attempt(path="/devices/DESK")).failed(401, "M_UNAUTHORIZED")
    (await server.ask("GET", "/account/whoami", token=phone)).ok()
    assert (await attempt()).ok() == {}
    (await server.ask("GET", "/account/whoami", token=phone)).failed(401, "M_UNKNOWN_TOKEN")
    (await server.ask("GET", "/devices/PHONE", token=desk)).failed(404, "M_NOT_FOUND")


async def test_deleting_several_devices(server: UserServer) -> None:
    token = await server.user("alice", device_id="ONE")
    for name in ("TWO", "THREE"):
        await server.log_in("alice", device_id=name)
    body: dict[str, Any] = {"devices": ["TWO", "THREE", "UNKNOWN"]}
    session = await session_of(server, "POST", "/delete_devices", body, token)
    proven = {**body, "auth": {**PROOF, "session": session}}
    assert (await server.ask("POST", "/delete_devices", proven, token=token)).ok() == {}
    devices = (await server.ask("GET", "/devices", token=token)).ok()["devices"]
    assert [device["device_id"] for device in devices] == ["ONE"]
    (await server.ask("POST", "/delete_devices", {}, token=token)).failed(400, "M_MISSING_PARAM")
    (await server.ask("POST", "/delete_devices", {"devices": [5]}, token=token)).failed(400, "M_BAD_JSON")


async def test_a_new_password_logs_the_other_devices_out(server: UserServer) -> None:
    phone, desk = await server.user("alice"), await server.log_in("alice")
    body = {"new_password": "another one"}
    session = await session_of(server, "POST", "/account/password", body, desk)
    proven = {**body, "auth": {**PROOF, "session": session}}
    assert (await server.ask("POST", "/account/password", proven, token=desk)).ok() == {}
    (await server.ask("GET", "/account/whoami", token=desk)).ok()
    (await server.ask("GET", "/account/whoami", token=phone)).failed(401, "M_UNKNOWN_TOKEN")
    await server.log_in("alice", password="another one")
    old = {"type": "m.login.password", "user": "alice", "password": PASSWORD}
    (await server.ask("POST", "/login", old)).failed(403, "M_FORBIDDEN")


async def test_the_other_devices_may_stay(server: UserServer) -> None:
    phone, desk = await server.user("alice"), await server.log_in("alice")
    body = {"new_password": "another one", "logout_devices": False, "auth": PROOF}
    assert (await server.ask("POST", "/account/password", body, token=desk)).ok() == {}
    (await server.ask("GET", "/account/whoami", token=phone)).ok()


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "M_MISSING_PARAM"),
        ({"new_password": 5}, "M_BAD_JSON"),
        ({"new_password": "x", "logout_devices": "no"}, "M_BAD_JSON"),
        ({"new_password": "", "auth": PROOF}, "M_INVALID_PARAM"),
    ],
)
async def test_what_is_no_new_password(server: UserServer, body: dict[str, object], code: str) -> None:
    token = await server.user("alice")
    (await server.ask("POST", "/account/password", body, token=token)).failed(400, code)
    await server.log_in("alice")


async def test_deactivation_is_the_end(server: UserServer) -> None:
    token = await server.user("alice")
    await server.ask("PUT", at("profile", ALICE, "displayname"), {"displayname": "A"}, token=token)
    await server.ask("PUT", at("user", ALICE, "account_data", "a.b"), {"kept": 1}, token=token)
    session = await session_of(server, "POST", "/account/deactivate", {}, token)
    body = {"erase": True, "auth": {**PROOF, "session": session}}
    gone = await server.ask("POST", "/account/deactivate", body, token=token)
    assert gone.ok() == {"id_server_unbind_result": "success"}
    assert server.left == [ALICE]
    (await server.ask("GET", "/account/whoami", token=token)).failed(401, "M_UNKNOWN_TOKEN")
    (await server.ask("GET", at("profile", ALICE))).failed(404, "M_NOT_FOUND")
    again = {"type": "m.login.password", "user": "alice", "password": PASSWORD}
    (await server.ask("POST", "/login", again)).failed(403, "M_USER_DEACTIVATED")
    (await server.ask("GET", "/register/available?username=alice")).failed(400, "M_USER_IN_USE")
    read = server.database.read_now
    assert read(lambda tx: personal.account_data_since(tx, ALICE, 0, 99)) == []
    # What was deleted had a position that a sync token may hold.
    assert read(last_position) == server.bus.position > 0


async def test_deactivation_checks_its_body(server: UserServer) -> None:
    token = await server.user("alice")
    bad = await server.ask("POST", "/account/deactivate", {"erase": "yes", "auth": PROOF}, token=token)
    bad.failed(400, "M_BAD_JSON")
    assert server.left == []


async def test_there_are_no_third_party_ids(server: UserServer) -> None:
    token = await server.user("alice")
    assert (await server.ask("GET", "/account/3pid", token=token)).ok() == {"threepids": []}
