"""Registration: by oneself, with a token, by shared secret (client-server §Account registration)."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from comity.users.interactive import SESSION_SECONDS
from tests.api.support_users import SERVER, Answer, UserServer, user_server


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[UserServer]:
    async with user_server(tmp_path) as built:
        yield built


CLOSED = "[registration]\nenabled = false\n"
BY_TOKEN = '[registration]\nenabled = true\nrequires = "token"\n'
DUMMY = {"type": "m.login.dummy"}


async def challenged(server: UserServer, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """Ask without proof; the 401's body, which carries no error."""
    answer = await server.ask("POST", "/register", body or {})
    assert answer.status == 401, answer
    assert "errcode" not in answer.body
    challenge: dict[str, Any] = answer.body
    return challenge


async def register(server: UserServer, **body: object) -> Answer:
    """Ask, and prove with the dummy stage in the session that is given."""
    session = (await challenged(server))["session"]
    return await server.ask("POST", "/register", {**body, "auth": {**DUMMY, "session": session}})


async def test_somebody_registers(server: UserServer) -> None:
    challenge = await challenged(server, {"username": "alice", "password": "secret"})
    assert challenge["flows"] == [{"stages": ["m.login.dummy"]}]
    auth = {**DUMMY, "session": challenge["session"]}
    answer = (
        await server.ask("POST", "/register", {"username": "alice", "password": "secret", "auth": auth})
    ).ok()
    assert answer["user_id"] == f"@alice:{SERVER}"
    whoami = (await server.ask("GET", "/account/whoami", token=answer["access_token"])).ok()
    assert whoami["device_id"] == answer["device_id"]
    await server.log_in("alice", password="secret")


async def test_the_dummy_needs_no_session(server: UserServer) -> None:
    body = {"username": "alice", "password": "secret", "auth": DUMMY}
    (await server.ask("POST", "/register", body)).ok()


async def test_a_name_is_made_up_for_who_has_none(server: UserServer) -> None:
    first = (await register(server, password="secret")).ok()["user_id"]
    second = (await register(server, password="secret")).ok()["user_id"]
    assert first != second
    assert first.endswith(f":{SERVER}")


async def test_capitals_become_small(server: UserServer) -> None:
    assert (await register(server, username="Alice", password="s")).ok()["user_id"] == f"@alice:{SERVER}"


async def test_device_and_its_name_are_the_clients(server: UserServer) -> None:
    answer = await register(
        server, username="a", password="s", device_id="PHONE", initial_device_display_name="My phone"
    )
    assert answer.ok()["device_id"] == "PHONE"
    device = await server.ask("GET", "/devices/PHONE", token=answer.body["access_token"])
    assert device.ok()["display_name"] == "My phone"


async def test_login_may_be_inhibited(server: UserServer) -> None:
    answer = (await register(server, username="alice", password="secret", inhibit_login=True)).ok()
    assert "access_token" not in answer
    assert "device_id" not in answer
    await server.log_in("alice", password="secret")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"username": "taken"}, 400, "M_USER_IN_USE"),
        ({"username": "TAKEN"}, 400, "M_USER_IN_USE"),
        ({"username": "with space"}, 400, "M_INVALID_USERNAME"),
        ({"username": "@alice:example.org"}, 400, "M_INVALID_USERNAME"),
        ({"username": "ünï"}, 400, "M_INVALID_USERNAME"),
        ({"username": ""}, 400, "M_INVALID_USERNAME"),
        ({"username": "x" * 300}, 400, "M_INVALID_USERNAME"),
        ({"username": 7}, 400, "M_BAD_JSON"),
        ({"username": "a", "password": 7}, 400, "M_BAD_JSON"),
        ({"username": "a", "inhibit_login": "no"}, 400, "M_BAD_JSON"),
        ({"username": "a", "auth": "yes"}, 400, "M_BAD_JSON"),
        ({"username": "a", "auth": {}}, 400, "M_MISSING_PARAM"),
        ({"username": "a", "auth": {"type": "m.login.dummy", "session": 5}}, 400, "M_BAD_JSON"),
        ({"username": "a", "auth": {"type": {}}}, 400, "M_BAD_JSON"),
        ({"username": "a", "inhibit_login": True, "auth": DUMMY}, 400, "M_MISSING_PARAM"),
        ({"username": "a", "password": "", "auth": DUMMY}, 400, "M_INVALID_PARAM"),
        ({"username": "a", "password": "x" * 600, "auth": DUMMY}, 400, "M_INVALID_PARAM"),
        ({"username": "a", "device_id": 5, "auth": DUMMY}, 400, "M_BAD_JSON"),
        ({"type": "m.login.application_service", "username": "a"}, 403, "M_FORBIDDEN"),
    ],
)
async def test_what_cannot_be_is_refused_before_and_after_proof(
    server: UserServer, body: dict[str, object], status: int, code: str
) -> None:
    await server.user("taken")
    (await server.ask("POST", "/register", body)).failed(status, code)


async def test_kinds(server: UserServer) -> None:
    (await server.ask("POST", "/register?kind=guest", {})).failed(403, "M_FORBIDDEN")
    (await server.ask("POST", "/register?kind=robot", {})).failed(400, "M_INVALID_PARAM")
    assert (await server.ask("POST", "/register?kind=user", {})).status == 401


async def test_a_stage_that_is_in_no_flow_proves_nothing(server: UserServer) -> None:
    session = (await challenged(server))["session"]
    auth = {"type": "m.login.recaptcha", "session": session}
    body = (await server.ask("POST", "/register", {"auth": auth})).failed(401, "M_UNRECOGNIZED")
    assert body["session"] == session
    assert body["flows"]


async def test_a_session_ends(server: UserServer) -> None:
    session = (await challenged(server))["session"]
    await server.clock.turn(SESSION_SECONDS + 1)
    body = {"username": "alice", "password": "s", "auth": {**DUMMY, "session": session}}
    begun = (await server.ask("POST", "/register", body)).failed(401, "M_UNAUTHORIZED")
    assert begun["session"] != session


async def test_a_session_serves_one_account(server: UserServer) -> None:
    session = (await challenged(server))["session"]
    auth = {**DUMMY, "session": session}
    (await server.ask("POST", "/register", {"username": "one", "password": "s", "auth": auth})).ok()
    again = await server.ask("POST", "/register", {"username": "two", "password": "s", "auth": auth})
    again.failed(401, "M_UNAUTHORIZED")


async def test_a_name_that_was_taken_meanwhile_leaves_the_session(server: UserServer) -> None:
    session = (await challenged(server, {"username": "alice"}))["session"]
    await server.user("alice")
    auth = {**DUMMY, "session": session}
    taken = await server.ask("POST", "/register", {"username": "alice", "password": "s", "auth": auth})
    taken.failed(400, "M_USER_IN_USE")
    (await server.ask("POST", "/register", {"username": "alicia", "password": "s", "auth": auth})).ok()


async def test_availability(server: UserServer) -> None:
    await server.user("taken")
    assert (await server.ask("GET", "/register/available?username=free")).ok() == {"available": True}
    (await server.ask("GET", "/register/available?username=taken")).failed(400, "M_USER_IN_USE")
    (await server.ask("GET", "/register/available?username=no%20no")).failed(400, "M_INVALID_USERNAME")
    (await server.ask("GET", "/register/available")).failed(400, "M_MISSING_PARAM")


async def test_closed_registration(tmp_path: Path) -> None:
    async with user_server(tmp_path, CLOSED) as server:
        (await server.ask("POST", "/register", {"username": "a"})).failed(403, "M_FORBIDDEN")
        (await server.ask("GET", "/register/available?username=a")).failed(403, "M_FORBIDDEN")
        validity = "/_matrix/client/v1/register/m.login.registration_token/validity?token=a"
        (await server.ask("GET", validity)).failed(403, "M_FORBIDDEN")


async def test_a_registration_token(tmp_path: Path) -> None:
    async with user_server(tmp_path, BY_TOKEN) as server:
        await server.registration_token("once", 1)
        challenge = await challenged(server)
        assert challenge["flows"] == [{"stages": ["m.login.registration_token"]}]

        async def attempt(name: str, session: str, **proof: object) -> Answer:
            auth = {"type": "m.login.registration_token", "session": session, **proof}
            return await server.ask("POST", "/register", {"username": name, "password": "s", "auth": auth})

        session = challenge["session"]
        missing = (await attempt("alice", session)).failed(401, "M_MISSING_PARAM")
        assert missing["session"] == session
        (await attempt("alice", session, token="wrong")).failed(401, "M_UNAUTHORIZED")
        (await attempt("alice", session, token="x" * 100)).failed(401, "M_UNAUTHORIZED")
        dummy = {"username": "a", "password": "s", "auth": {**DUMMY, "session": session}}
        (await server.ask("POST", "/register", dummy)).failed(401, "M_UNRECOGNIZED")
        (await attempt("alice", session, token="once")).ok()
        other = (await challenged(server))["session"]
        (await attempt("bob", other, token="once")).failed(401, "M_UNAUTHORIZED")


async def test_a_token_used_up_between_proof_and_account(tmp_path: Path) -> None:
    async with user_server(tmp_path, BY_TOKEN) as server:
        await server.registration_token("once", 1)
        await server.user("taken")
        stage = "m.login.registration_token"
        first, second = (await challenged(server))["session"], (await challenged(server))["session"]
        proof = {"type": stage, "token": "once"}
        # The proof is complete, the password is not good: the token is not used.
        for session, name in ((first, "a"), (second, "b")):
            auth = {**proof, "session": session}
            body = {"username": name, "password": "", "auth": auth}
            (await server.ask("POST", "/register", body)).failed(400, "M_INVALID_PARAM")
        body = {"username": "a", "password": "s", "auth": {"session": first}}
        (await server.ask("POST", "/register", body)).ok()
        body = {"username": "b", "password": "s", "auth": {"session": second}}
        (await server.ask("POST", "/register", body)).failed(403, "M_FORBIDDEN")
        assert not await server.accounts.exists(f"@b:{SERVER}")


async def test_validity_of_a_token(tmp_path: Path) -> None:
    path = "/_matrix/client/v1/register/m.login.registration_token/validity"
    async with user_server(tmp_path, BY_TOKEN) as server:
        await server.registration_token("good")
        assert (await server.ask("GET", path + "?token=good")).ok() == {"valid": True}
        assert (await server.ask("GET", path + "?token=bad")).ok() == {"valid": False}
        (await server.ask("GET", path)).failed(400, "M_MISSING_PARAM")


# -- by shared secret

PATH = "/_synapse/admin/v1/register"


def signed(
    nonce: str, username: str, *, admin: bool = False, secret: str = "s3cret", **more: str
) -> dict[str, Any]:
    parts = [nonce, username, "pass word", "admin" if admin else "notadmin", *more.values()]
    mac = hmac.new(secret.encode(), "\x00".join(parts).encode(), hashlib.sha1).hexdigest()
    return {
        "nonce": nonce,
        "username": username,
        "password": "pass word",
        "admin": admin,
        "mac": mac,
        **more,
    }


async def nonce_of(server: UserServer) -> str:
    nonce: str = (await server.ask("GET", PATH)).ok()["nonce"]
    return nonce


async def test_who_knows_the_secret_makes_accounts(server: UserServer) -> None:
    answer = (await server.ask("POST", PATH, signed(await nonce_of(server), "root", admin=True))).ok()
    assert answer["user_id"] == f"@root:{SERVER}"
    session = await server.sessions.authenticate(answer["access_token"], "192.0.2.1")
    assert session is not None
    assert session.admin
    plain = signed(await nonce_of(server), "plain", user_type="bot")
    token = (await server.ask("POST", PATH, {**plain, "displayname": "Plain"})).ok()["access_token"]
    session = await server.sessions.authenticate(token, "192.0.2.1")
    assert session is not None
    assert not session.admin
    assert (await server.ask("GET", f"/profile/@plain:{SERVER}")).ok() == {"displayname": "Plain"}
    await server.log_in("root", password="pass word")


async def test_what_the_secret_does_not_open(server: UserServer) -> None:
    async def attempt(**changed: object) -> Answer:
        return await server.ask("POST", PATH, {**signed(await nonce_of(server), "eve"), **changed})

    (await attempt(mac="0" * 40)).failed(403, "M_FORBIDDEN")
    (await attempt(admin=True)).failed(403, "M_FORBIDDEN")
    (await attempt(username="other")).failed(403, "M_FORBIDDEN")
    (await attempt(nonce="unknown")).failed(400, "M_UNKNOWN")
    (await attempt(nonce=None)).failed(400, "M_MISSING_PARAM")
    (await attempt(mac=None)).failed(400, "M_MISSING_PARAM")
    (await attempt(password=7)).failed(400, "M_BAD_JSON")
    (await attempt(admin="yes")).failed(400, "M_BAD_JSON")
    (await attempt(username="a\x00b")).failed(400, "M_INVALID_PARAM")
    wrong = signed(await nonce_of(server), "eve", secret="guessed")
    (await server.ask("POST", PATH, wrong)).failed(403, "M_FORBIDDEN")
    invalid = signed(await nonce_of(server), "no way")
    (await server.ask("POST", PATH, invalid)).failed(400, "M_INVALID_USERNAME")
    await server.user("taken")
    taken = signed(await nonce_of(server), "taken")
    (await server.ask("POST", PATH, taken)).failed(400, "M_USER_IN_USE")
    assert not await server.accounts.exists(f"@eve:{SERVER}")


async def test_a_nonce_is_good_once_and_for_a_minute(server: UserServer) -> None:
    nonce = await nonce_of(server)
    (await server.ask("POST", PATH, {**signed(nonce, "a"), "mac": "0"})).failed(403, "M_FORBIDDEN")
    (await server.ask("POST", PATH, signed(nonce, "a"))).failed(400, "M_UNKNOWN")
    late = await nonce_of(server)
    await server.clock.turn(61)
    (await server.ask("POST", PATH, signed(late, "a"))).failed(400, "M_UNKNOWN")


async def test_without_a_secret_there_is_no_such_way(tmp_path: Path) -> None:
    async with user_server(tmp_path, CLOSED) as server:
        (await server.ask("GET", PATH)).failed(400, "M_UNKNOWN")
        (await server.ask("POST", PATH, signed("nonce", "a", secret=""))).failed(400, "M_UNKNOWN")
