"""Sessions that go on with new tokens, tokens for other apps, and guessing (client-server §Login)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from comity.users.interactive import MAX_FAILED_ATTEMPTS
from comity.users.refreshing import MAX_WAITING_PAIRS
from comity.users.sessions import Held
from tests.api.headers import headers_of
from tests.api.support_users import PASSWORD, SERVER, Answer, UserServer, user_server

ALICE = f"@alice:{SERVER}"
LIFETIMES = "[sessions]\naccess_token_lifetime = 300\nrefresh_token_lifetime = 86400\n"
LIMITED = "[rate_limits]\nenabled = true\n"
PROOF = {"type": "m.login.password", "password": PASSWORD}
LOGIN = {"type": "m.login.password", "user": "alice", "password": PASSWORD}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[UserServer]:
    async with user_server(tmp_path, LIFETIMES) as built:
        yield built


async def opened(server: UserServer, **members: object) -> dict[str, Any]:
    """Alice, and a session of hers that can be refreshed."""
    if not await server.accounts.exists(ALICE):
        await server.accounts.create(ALICE, PASSWORD)
    answer: dict[str, Any] = (
        await server.ask("POST", "/login", {**LOGIN, "refresh_token": True, **members})
    ).ok()
    return answer


async def refresh(server: UserServer, tokens: dict[str, Any]) -> Answer:
    return await server.ask("POST", "/refresh", {"refresh_token": tokens["refresh_token"]})


async def whoami(server: UserServer, tokens: dict[str, Any]) -> Answer:
    return await server.ask("GET", "/account/whoami", token=tokens["access_token"])


async def test_tokens_are_renewed(server: UserServer) -> None:
    first = await opened(server)
    assert first["expires_in_ms"] == 300_000
    second = (await refresh(server, first)).ok()
    assert second.keys() == {"access_token", "refresh_token", "expires_in_ms"}
    assert second["access_token"] != first["access_token"]
    # Until the new ones are used, the old ones go on.
    (await whoami(server, first)).ok()
    assert (await whoami(server, second)).ok()["device_id"] == first["device_id"]
    ended = (await whoami(server, first)).failed(401, "M_UNKNOWN_TOKEN")
    assert ended["soft_logout"] is True


async def test_what_a_connection_remembers_of_a_token_ends_with_it(server: UserServer) -> None:
    tokens = await opened(server)
    token = tokens["access_token"]
    headers = headers_of(server.router, {}, token)
    (await whoami(server, tokens)).ok()
    for _ in range(2):
        (await whoami(server, tokens)).ok()
        assert isinstance(headers.note, Held)
        assert headers.note.session.user_id == ALICE
    # Its time is over, and nothing else has happened.
    await server.clock.turn(301)
    assert (await whoami(server, tokens)).failed(401, "M_UNKNOWN_TOKEN")["soft_logout"] is True
    other = {"access_token": await server.log_in("alice")}
    (await whoami(server, other)).ok()
    (await server.ask("POST", "/logout", {}, token=other["access_token"])).ok()
    (await whoami(server, other)).failed(401, "M_UNKNOWN_TOKEN")


async def test_a_token_in_the_query_is_not_taken_for_that_of_the_headers(server: UserServer) -> None:
    alice, bob = await server.user("alice"), await server.user("bob")
    for _ in range(2):
        for token, name in ((alice, "alice"), (bob, "bob")):
            answer = await server.ask("GET", f"/account/whoami?access_token={token}")
            assert answer.ok()["user_id"] == f"@{name}:{SERVER}"
    assert headers_of(server.router, {}, None).note is None


async def test_who_does_not_ask_for_it_gets_a_token_without_end(server: UserServer) -> None:
    token = await server.user("alice")
    answer = (await server.ask("POST", "/login", LOGIN)).ok()
    assert answer.keys().isdisjoint({"refresh_token", "expires_in_ms"})
    await server.clock.turn(10 * 86_400)
    (await server.ask("GET", "/account/whoami", token=token)).ok()


async def test_registration_gives_them_too(server: UserServer) -> None:
    body = {
        "username": "alice",
        "password": PASSWORD,
        "refresh_token": True,
        "auth": {"type": "m.login.dummy"},
    }
    first = (await server.ask("POST", "/register", body)).ok()
    assert first["expires_in_ms"] == 300_000
    (await whoami(server, (await refresh(server, first)).ok())).ok()


async def test_an_answer_that_was_lost_is_asked_for_again(server: UserServer) -> None:
    first = await opened(server)
    pairs = []
    for _ in range(MAX_WAITING_PAIRS + 1):
        await server.clock.turn(1)
        pairs.append((await refresh(server, first)).ok())
    # The oldest pair went; the others are good, but only until one of them is used.
    (await refresh(server, pairs[0])).failed(401, "M_UNKNOWN_TOKEN")
    (await whoami(server, pairs[0])).failed(401, "M_UNKNOWN_TOKEN")
    (await whoami(server, pairs[1])).ok()
    for other in pairs[2:]:
        assert (await refresh(server, other)).failed(401, "M_UNKNOWN_TOKEN")["soft_logout"] is True
        assert (await whoami(server, other)).failed(401, "M_UNKNOWN_TOKEN")["soft_logout"] is True
    (await whoami(server, pairs[1])).ok()


async def test_a_stolen_refresh_token_ends_the_session_and_not_the_device(server: UserServer) -> None:
    first = await opened(server, device_id="PHONE")
    second = (await refresh(server, first)).ok()
    third = (await refresh(server, second)).ok()  # the use of the second pair
    assert (await refresh(server, first)).failed(401, "M_UNKNOWN_TOKEN")["soft_logout"] is True
    for tokens in (first, second, third):
        assert (await whoami(server, tokens)).failed(401, "M_UNKNOWN_TOKEN")["soft_logout"] is True
        (await refresh(server, tokens)).failed(401, "M_UNKNOWN_TOKEN")
    again = await opened(server, device_id="PHONE")
    devices = (await server.ask("GET", "/devices", token=again["access_token"])).ok()["devices"]
    assert [device["device_id"] for device in devices] == ["PHONE"]
    # What belonged to the session before is not known any more.
    assert "soft_logout" not in (await refresh(server, third)).failed(401, "M_UNKNOWN_TOKEN")


async def test_access_tokens_end_softly_and_may_be_refreshed_then(server: UserServer) -> None:
    first = await opened(server)
    (await whoami(server, first)).ok()
    await server.clock.turn(299)
    (await whoami(server, first)).ok()
    await server.clock.turn(1)
    assert (await whoami(server, first)).failed(401, "M_UNKNOWN_TOKEN")["soft_logout"] is True
    second = (await refresh(server, first)).ok()
    (await whoami(server, second)).ok()
    await server.clock.turn(86_400)
    assert (await refresh(server, second)).failed(401, "M_UNKNOWN_TOKEN")["soft_logout"] is True


async def test_the_end_of_a_session_is_the_end_of_its_refresh_tokens(server: UserServer) -> None:
    first = await opened(server)
    (await server.ask("POST", "/logout", {}, token=first["access_token"])).ok()
    assert "soft_logout" not in (await refresh(server, first)).failed(401, "M_UNKNOWN_TOKEN")
    assert "soft_logout" not in (await whoami(server, first)).failed(401, "M_UNKNOWN_TOKEN")


async def test_refresh_tokens_outlive_a_restart_and_are_not_stored(tmp_path: Path) -> None:
    async with user_server(tmp_path, LIFETIMES) as server:
        first = await opened(server)
        rows = server.database.read_now(lambda tx: tx.all("SELECT * FROM refresh_tokens"))
        assert len(rows) == 1
        assert first["refresh_token"] not in repr(rows)
    async with user_server(tmp_path, LIFETIMES) as server:
        second = (await refresh(server, first)).ok()
        (await whoami(server, second)).ok()
        (await whoami(server, first)).failed(401, "M_UNKNOWN_TOKEN")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 400, "M_MISSING_PARAM"),
        ({"refresh_token": 5}, 400, "M_BAD_JSON"),
        ({"refresh_token": "nothing"}, 401, "M_UNKNOWN_TOKEN"),
        ({"refresh_token": "x" * 10_000}, 401, "M_UNKNOWN_TOKEN"),
    ],
)
async def test_what_is_no_refresh_token(
    server: UserServer, body: dict[str, object], status: int, code: str
) -> None:
    (await server.ask("POST", "/refresh", body)).failed(status, code)


# -- tokens for other apps


async def login_token(server: UserServer, token: str) -> str:
    path = "/_matrix/client/v1/login/get_token"
    challenge = await server.ask("POST", path, {}, token=token)
    assert challenge.status == 401, challenge
    auth = {**PROOF, "session": challenge.body["session"]}
    answer = (await server.ask("POST", path, {"auth": auth}, token=token)).ok()
    assert answer["expires_in_ms"] == 120_000
    # Each token takes a proof of its own.
    (await server.ask("POST", path, {"auth": auth}, token=token)).failed(401, "M_UNAUTHORIZED")
    given: str = answer["login_token"]
    return given


async def by_token(server: UserServer, token: object) -> Answer:
    return await server.ask("POST", "/login", {"type": "m.login.token", "token": token})


async def test_one_app_logs_another_in_once(server: UserServer) -> None:
    phone = await server.user("alice")
    capabilities = (await server.ask("GET", "/capabilities", token=phone)).ok()["capabilities"]
    assert capabilities["m.get_login_token"] == {"enabled": True}
    given = await login_token(server, phone)
    desk = (await by_token(server, given)).ok()
    assert desk["user_id"] == ALICE
    (await whoami(server, desk)).ok()
    (await by_token(server, given)).failed(403, "M_FORBIDDEN")


async def test_login_tokens_are_good_for_two_minutes(server: UserServer) -> None:
    given = await login_token(server, await server.user("alice"))
    await server.clock.turn(120)
    (await by_token(server, given)).failed(403, "M_FORBIDDEN")


async def test_what_is_no_login_token(server: UserServer) -> None:
    (await by_token(server, None)).failed(400, "M_MISSING_PARAM")
    (await by_token(server, 5)).failed(400, "M_BAD_JSON")
    (await by_token(server, "nothing")).failed(403, "M_FORBIDDEN")
    (await by_token(server, "x" * 10_000)).failed(403, "M_FORBIDDEN")


async def test_a_login_that_overlaps_leaves_a_login_token_unused(server: UserServer) -> None:
    given = await login_token(server, await server.user("alice"))
    bad = {"type": "m.login.token", "token": given, "device_id": 5}
    (await server.ask("POST", "/login", bad)).failed(400, "M_BAD_JSON")
    answers = await asyncio.gather(by_token(server, given), by_token(server, given))
    assert sorted(answer.status for answer in answers) == [200, 403]


@pytest.mark.parametrize("logout", [True, False])
async def test_a_new_password_ends_login_tokens(server: UserServer, logout: bool) -> None:
    token = await server.user("alice")
    given = await login_token(server, token)
    body = {"new_password": "another one", "logout_devices": logout, "auth": PROOF}
    (await server.ask("POST", "/account/password", body, token=token)).ok()
    (await by_token(server, given)).failed(403, "M_FORBIDDEN")


# -- guessing


async def test_an_interactive_session_is_for_one_request(server: UserServer) -> None:
    body = {"username": "alice", "password": "", "auth": {"type": "m.login.dummy"}}
    session = (await server.ask("POST", "/register", {})).body["session"]
    proof = {"type": "m.login.dummy", "session": session}
    (await server.ask("POST", "/register", {**body, "auth": proof})).failed(400, "M_INVALID_PARAM")
    # The stage is complete for alice: nobody else is registered by it.
    other = {"username": "mallory", "password": "s", "auth": proof}
    told = (await server.ask("POST", "/register", other)).failed(401, "M_UNAUTHORIZED")
    assert told["session"] != session
    (await server.ask("POST", "/register", {**body, "password": "s", "auth": {"session": session}})).ok()


async def test_an_interactive_session_ends_with_too_many_failures(server: UserServer) -> None:
    token = await server.user("alice")
    session = (await server.ask("POST", "/account/deactivate", {}, token=token)).body["session"]

    async def attempt(password: str) -> Any:
        auth = {"type": "m.login.password", "password": password, "session": session}
        return (await server.ask("POST", "/account/deactivate", {"auth": auth}, token=token)).body

    for _ in range(MAX_FAILED_ATTEMPTS - 1):
        assert (await attempt("wrong"))["session"] == session
    assert (await attempt("wrong"))["session"] != session
    assert (await attempt(PASSWORD))["errcode"] == "M_UNAUTHORIZED"


async def test_whoever_guesses_waits_longer_each_time(tmp_path: Path) -> None:
    limits = f"{LIMITED}login_by_account = {{ per_second = 1000, burst = 1000 }}\n"
    limits += "[rate_limits.login_by_address]\nper_second = 1000\nburst = 1000\n"
    async with user_server(tmp_path, limits) as server:
        await server.accounts.create(ALICE, PASSWORD)

        async def attempt(password: str, address: str = "192.0.2.66") -> Answer:
            return await server.ask("POST", "/login", {**LOGIN, "password": password}, address=address)

        pauses = []
        for _ in range(8):
            answer = await attempt("wrong")
            if answer.status == 429:
                pauses.append(answer.body["retry_after_ms"])
                # Not even the right one is tried while the pause lasts.
                (await attempt(PASSWORD)).failed(429, "M_LIMIT_EXCEEDED")
                await server.clock.turn(pauses[-1] / 1000)
                (await attempt("wrong")).failed(403, "M_FORBIDDEN")
            else:
                answer.failed(403, "M_FORBIDDEN")
        assert pauses == [2_000, 4_000, 8_000]
        # Alice, who is elsewhere, is not kept out; nor is she here, once the pause is over.
        (await attempt(PASSWORD, "192.0.2.1")).ok()
        await server.clock.turn(16)
        (await attempt(PASSWORD)).ok()
        (await attempt("wrong")).failed(403, "M_FORBIDDEN")
        (await attempt("wrong")).failed(403, "M_FORBIDDEN")


async def test_limits_are_as_configured(tmp_path: Path) -> None:
    limits = f"{LIMITED}[rate_limits.login_by_account]\nper_second = 0.5\nburst = 2\n"
    async with user_server(tmp_path, limits) as server:
        await server.accounts.create(ALICE, PASSWORD)
        for _ in range(2):
            (await server.ask("POST", "/login", LOGIN)).ok()
        told = (await server.ask("POST", "/login", LOGIN)).failed(429, "M_LIMIT_EXCEEDED")
        assert told["retry_after_ms"] == 2_000
