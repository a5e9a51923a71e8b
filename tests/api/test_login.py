"""Login, access tokens and their end (client-server §Client Authentication)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from comity.store import accounts as stored
from comity.users.sessions import LAST_SEEN_INTERVAL_MS
from tests.api.support_users import PASSWORD, SERVER, UserServer, user_server


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[UserServer]:
    async with user_server(tmp_path) as built:
        yield built


ALICE = f"@alice:{SERVER}"


def login(**members: object) -> dict[str, object]:
    return {"type": "m.login.password", "password": PASSWORD, **members}


async def test_the_flows_are_told(server: UserServer) -> None:
    flows = (await server.ask("GET", "/login")).ok()["flows"]
    assert flows == [{"type": "m.login.password"}, {"type": "m.login.token", "get_login_token": True}]


@pytest.mark.parametrize(
    "who",
    [
        {"identifier": {"type": "m.id.user", "user": "alice"}},
        {"identifier": {"type": "m.id.user", "user": ALICE}},
        {"identifier": {"type": "m.id.user", "user": "Alice"}},
        {"identifier": {"type": "m.id.user", "user": ALICE.replace("alice", "Alice")}},
        {"user": "alice"},
        {"user": ALICE},
    ],
)
@pytest.mark.parametrize("version", ["r0", "v3"])
async def test_every_form_of_a_name_logs_in(server: UserServer, who: dict[str, object], version: str) -> None:
    await server.user("alice")
    answer = (await server.ask("POST", f"/_matrix/client/{version}/login", login(**who))).ok()
    assert answer["user_id"] == ALICE
    assert answer["device_id"]
    whoami = await server.ask("GET", "/account/whoami", token=answer["access_token"])
    assert whoami.ok() == {"user_id": ALICE, "device_id": answer["device_id"], "is_guest": False}


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 400, "M_MISSING_PARAM"),
        ({"type": "m.login.password", "user": "alice"}, 400, "M_MISSING_PARAM"),
        ({"type": "m.login.password", "user": "alice", "password": 1}, 400, "M_BAD_JSON"),
        ({"type": "m.login.sso"}, 400, "M_UNKNOWN"),
        (login(), 400, "M_MISSING_PARAM"),
        (login(identifier="alice"), 400, "M_BAD_JSON"),
        (login(identifier={"type": "m.id.user"}), 400, "M_MISSING_PARAM"),
        (login(identifier={"type": "m.id.user", "user": 7}), 400, "M_BAD_JSON"),
        (login(identifier={"type": "org.example.badge"}), 400, "M_UNKNOWN"),
        (
            login(identifier={"type": "m.id.thirdparty", "medium": "email", "address": "a@b.c"}),
            403,
            "M_FORBIDDEN",
        ),
        (login(identifier={"type": "m.id.phone", "country": "GB", "phone": "1"}), 403, "M_FORBIDDEN"),
        (login(medium="email", address="a@b.c"), 403, "M_FORBIDDEN"),
        (login(user="nobody"), 403, "M_FORBIDDEN"),
        (login(user=""), 403, "M_FORBIDDEN"),
        (login(user="x" * 10_000), 403, "M_FORBIDDEN"),
        (login(user="@alice:elsewhere.org"), 403, "M_FORBIDDEN"),
        ({**login(user="alice"), "password": "wrong"}, 403, "M_FORBIDDEN"),
        ({**login(user="alice"), "password": "x" * 100_000}, 403, "M_FORBIDDEN"),
        (login(user="alice", device_id=5), 400, "M_BAD_JSON"),
        (login(user="alice", device_id="x" * 300), 400, "M_INVALID_PARAM"),
        (login(user="alice", device_id="a\x00b"), 400, "M_INVALID_PARAM"),
        (login(user="alice", initial_device_display_name="x" * 300), 400, "M_INVALID_PARAM"),
    ],
)
async def test_a_login_that_fails_says_why(
    server: UserServer, body: dict[str, object], status: int, code: str
) -> None:
    await server.user("alice")
    (await server.ask("POST", "/login", body)).failed(status, code)


async def test_a_wrong_password_and_no_account_are_told_alike(server: UserServer) -> None:
    await server.user("alice")
    wrong = await server.ask("POST", "/login", {**login(user="alice"), "password": "wrong"})
    nobody = await server.ask("POST", "/login", login(user="nobody"))
    assert wrong.body == nobody.body


async def test_the_body_must_be_json(server: UserServer) -> None:
    (await server.ask("POST", "/login", raw=b"{")).failed(400, "M_NOT_JSON")
    (await server.ask("POST", "/login", raw=b"[]")).failed(400, "M_BAD_JSON")


async def test_a_named_device_is_used_again_and_its_old_token_ends(server: UserServer) -> None:
    first = await server.user("alice", device_id="PHONE")
    named = login(user="alice", device_id="PHONE", initial_device_display_name="Another name")
    second = (await server.ask("POST", "/login", named)).ok()
    assert second["device_id"] == "PHONE"
    assert second["access_token"] != first
    (await server.ask("GET", "/account/whoami", token=first)).failed(401, "M_UNKNOWN_TOKEN")
    device = (await server.ask("GET", "/devices/PHONE", token=second["access_token"])).ok()
    assert device["display_name"] is None


async def test_requests_without_a_good_token_are_refused(server: UserServer) -> None:
    (await server.ask("GET", "/account/whoami")).failed(401, "M_MISSING_TOKEN")
    (await server.ask("GET", "/account/whoami", token="comity_nothing")).failed(401, "M_UNKNOWN_TOKEN")
    (await server.ask("GET", "/account/whoami", token="x" * 10_000)).failed(401, "M_UNKNOWN_TOKEN")
    basic = await server.ask("GET", "/account/whoami", headers={"authorization": "Basic YTpi"})
    basic.failed(401, "M_MISSING_TOKEN")


async def test_the_token_may_stand_in_the_query(server: UserServer) -> None:
    token = await server.user("alice")
    assert (await server.ask("GET", f"/account/whoami?access_token={token}")).ok()["user_id"] == ALICE


async def test_logging_out_ends_one_session_and_its_device(server: UserServer) -> None:
    phone = await server.user("alice", device_id="PHONE")
    desk = await server.log_in("alice", device_id="DESK")
    for token in (phone, desk):
        (await server.ask("GET", "/account/whoami", token=token)).ok()
    assert (await server.ask("POST", "/logout", {}, token=phone)).ok() == {}
    (await server.ask("GET", "/account/whoami", token=phone)).failed(401, "M_UNKNOWN_TOKEN")
    devices = (await server.ask("GET", "/devices", token=desk)).ok()["devices"]
    assert [device["device_id"] for device in devices] == ["DESK"]


async def test_logging_out_everywhere_ends_every_session(server: UserServer) -> None:
    tokens = [await server.user("alice"), await server.log_in("alice"), await server.log_in("alice")]
    other = await server.user("bob")
    assert (await server.ask("POST", "/logout/all", {}, token=tokens[0])).ok() == {}
    for token in tokens:
        (await server.ask("GET", "/account/whoami", token=token)).failed(401, "M_UNKNOWN_TOKEN")
    (await server.ask("GET", "/account/whoami", token=other)).ok()


async def test_tokens_are_not_stored_and_outlive_a_restart(tmp_path: Path) -> None:
    async with user_server(tmp_path) as server:
        token = await server.user("alice")
        rows = server.database.read_now(lambda tx: tx.all("SELECT * FROM access_tokens"))
        assert len(rows) == 1
        assert token not in repr(rows)
    for file in tmp_path.iterdir():
        assert token.encode() not in file.read_bytes()
    async with user_server(tmp_path) as server:
        assert (await server.ask("GET", "/account/whoami", token=token)).ok()["user_id"] == ALICE


async def test_a_device_is_seen_every_few_minutes(server: UserServer) -> None:
    token = await server.user("alice", device_id="PHONE")

    async def seen(address: str) -> dict[str, object]:
        await server.ask("GET", "/account/whoami", token=token, address=address)
        await server.database.write(lambda tx: None)  # what was queued before is on disk after
        device: dict[str, object] = (await server.ask("GET", "/devices/PHONE", token=token)).ok()
        return device

    first = server.clock.now_ms()
    assert await seen("192.0.2.7") == {
        "device_id": "PHONE",
        "last_seen_ip": "192.0.2.7",
        "last_seen_ts": first,
        "display_name": None,
    }
    await server.clock.turn(LAST_SEEN_INTERVAL_MS / 1000 - 1)
    assert (await seen("192.0.2.8"))["last_seen_ts"] == first
    await server.clock.turn(1)
    assert (await seen("192.0.2.9"))["last_seen_ip"] == "192.0.2.9"


async def test_hashes_of_another_cost_are_renewed_at_login(server: UserServer) -> None:
    await server.user("alice")

    def stored_hash() -> str | None:
        user = server.database.read_now(lambda tx: stored.user(tx, ALICE))
        assert user is not None
        return user.password_hash

    import argon2

    dear = argon2.PasswordHasher(time_cost=2, memory_cost=16, parallelism=1).hash(PASSWORD)
    await server.database.write(lambda tx: stored.set_password_hash(tx, ALICE, dear))
    await server.log_in("alice")
    renewed = stored_hash()
    assert renewed is not None
    assert renewed != dear
    await server.log_in("alice")
    assert stored_hash() == renewed


async def test_where_clients_should_go_is_told_if_configured(tmp_path: Path) -> None:
    async with user_server(tmp_path, '[public]\nclient_base_url = "https://m.example.org"\n') as server:
        await server.user("alice")
        answer = (await server.ask("POST", "/login", login(user="alice"))).ok()
        assert answer["well_known"] == {"m.homeserver": {"base_url": "https://m.example.org"}}
