"""What the server says of itself, and how often it lets one ask (§Server Discovery, §Rate limiting)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from comity.users.rate_limits import FREE_FAILURES_AT_ACCOUNT
from tests.api.support_users import PASSWORD, SERVER, UserServer, at, user_server


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[UserServer]:
    async with user_server(tmp_path) as built:
        yield built


LIMITED = "[rate_limits]\nenabled = true\n"


async def test_versions(server: UserServer) -> None:
    answer = (await server.ask("GET", "/_matrix/client/versions")).ok()
    assert {"r0.6.1", "v1.1", "v1.11", "v1.19"} <= set(answer["versions"])
    assert answer["unstable_features"] == {
        "org.matrix.msc4140": True,
        "org.matrix.msc3814": True,
        "org.matrix.simplified_msc3575": True,
        "uk.tcpip.msc4133.stable": True,
    }


@pytest.mark.parametrize(
    ("configuration", "client", "federation"),
    [
        ("", f"https://{SERVER}", None),
        ('[public]\nclient_base_url = "https://m.example.org"', "https://m.example.org", "m.example.org:443"),
        (
            '[public]\nclient_base_url = "https://m.example.org:8443"',
            "https://m.example.org:8443",
            "m.example.org:8443",
        ),
        ('[public]\nclient_base_url = "https://[2001:db8::1]"', "https://[2001:db8::1]", "[2001:db8::1]:443"),
        ('[public]\nclient_base_url = "http://m.example.org"', "http://m.example.org", None),
        (
            '[[listeners]]\nserves = ["client"]\n[public]\nclient_base_url = "https://m.example.org"',
            "https://m.example.org",
            None,
        ),
        (
            '[federation]\nenabled = false\n[public]\nclient_base_url = "https://m.example.org"',
            "https://m.example.org",
            None,
        ),
    ],
)
async def test_well_known(tmp_path: Path, configuration: str, client: str, federation: str | None) -> None:
    async with user_server(tmp_path, configuration) as server:
        answer = await server.ask("GET", "/.well-known/matrix/client")
        assert answer.ok() == {"m.homeserver": {"base_url": client}}
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        delegated = await server.ask("GET", "/.well-known/matrix/server")
        if federation is None:
            delegated.failed(404, "M_NOT_FOUND")
        else:
            assert delegated.ok() == {"m.server": federation}


CONTACTS = """[support]
contacts = [
    { role = "m.role.admin", matrix_id = "@admin:example.org", email_address = "admin@example.org" },
    { role = "m.role.security", email_address = "security@example.org" },
    { role = "m.role.admin", matrix_id = "@root:elsewhere.example" },
]
"""
TOLD = [
    {"role": "m.role.admin", "matrix_id": "@admin:example.org", "email_address": "admin@example.org"},
    {"role": "m.role.security", "email_address": "security@example.org"},
    {"role": "m.role.admin", "matrix_id": "@root:elsewhere.example"},
]
PAGE = "https://example.org/help?for=people#start"


@pytest.mark.parametrize(
    ("configuration", "told"),
    [
        ("", None),
        ("[support]\ncontacts = []\n", None),
        (CONTACTS, {"contacts": TOLD}),
        (f'[support]\nsupport_page = "{PAGE}"\n', {"support_page": PAGE}),
        (f'{CONTACTS}support_page = "{PAGE}"\n', {"contacts": TOLD, "support_page": PAGE}),
    ],
)
async def test_whom_to_turn_to(tmp_path: Path, configuration: str, told: object) -> None:
    async with user_server(tmp_path, configuration) as server:
        answer = await server.ask("GET", "/.well-known/matrix/support")
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        if told is None:
            answer.failed(404, "M_NOT_FOUND")
        else:
            assert answer.ok() == told


async def test_capabilities(tmp_path: Path) -> None:
    async with user_server(tmp_path, '[rooms]\ndefault_version = "11"\n') as server:
        token = await server.user("alice")
        capabilities = (await server.ask("GET", "/capabilities", token=token)).ok()["capabilities"]
        assert capabilities["m.room_versions"] == {
            "default": "11",
            "available": {str(version): "stable" for version in range(1, 13)},
        }
        for name in ("m.change_password", "m.profile_fields", "m.set_displayname", "m.set_avatar_url"):
            assert capabilities[name] == {"enabled": True}
        assert capabilities["m.forget_forced_upon_leave"] == {"enabled": False}
        (await server.ask("GET", "/capabilities")).failed(401, "M_MISSING_TOKEN")


async def test_services_that_are_not_run(server: UserServer) -> None:
    token = await server.user("alice")
    assert (await server.ask("GET", "/voip/turnServer", token=token)).ok() == {}
    assert (await server.ask("GET", "/thirdparty/protocols", token=token)).ok() == {}


async def test_networks_that_are_not_bridged_to(server: UserServer) -> None:
    token = await server.user("alice")
    for what in ("protocol", "location", "user"):
        unknown = f"/thirdparty/{what}/irc"
        (await server.ask("GET", unknown + "?nickname=x", token=token)).failed(404, "M_NOT_FOUND")
        (await server.ask("GET", unknown)).failed(401, "M_MISSING_TOKEN")
    for path, parameter, value in (("location", "alias", "%23a:b"), ("user", "userid", "@a:b")):
        asked = f"/thirdparty/{path}?{parameter}={value}"
        assert (await server.ask("GET", asked, token=token)).ok() == []
        (await server.ask("GET", f"/thirdparty/{path}", token=token)).failed(400, "M_MISSING_PARAM")
        (await server.ask("GET", asked)).failed(401, "M_MISSING_TOKEN")


async def test_guessing_a_password_is_slow(tmp_path: Path) -> None:
    async with user_server(tmp_path, LIMITED) as server:
        await server.user("alice")
        wrong = {"type": "m.login.password", "user": "alice", "password": "guess"}
        for number in range(9):
            answer = await server.ask("POST", "/login", wrong, address=f"192.0.2.{number}")
            answer.failed(403, "M_FORBIDDEN")
        refused = await server.ask("POST", "/login", wrong, address="198.51.100.1")
        body = refused.failed(429, "M_LIMIT_EXCEEDED")
        assert 0 < body["retry_after_ms"] <= 10_000
        assert int(refused.headers["Retry-After"]) * 1000 >= body["retry_after_ms"]
        await server.clock.turn(body["retry_after_ms"] / 1000)
        (await server.ask("POST", "/login", wrong, address="198.51.100.1")).failed(403, "M_FORBIDDEN")
        right = {**wrong, "user": "bob", "password": PASSWORD}
        (await server.ask("POST", "/login", right)).failed(403, "M_FORBIDDEN")


async def test_one_address_makes_few_accounts(tmp_path: Path) -> None:
    async with user_server(tmp_path, LIMITED) as server:
        codes = []
        for number in range(12):
            body = {"username": f"u{number}", "password": "s", "auth": {"type": "m.login.dummy"}}
            codes.append((await server.ask("POST", "/register", body)).code)
        assert codes == [""] * 10 + ["M_LIMIT_EXCEEDED"] * 2
        body = {"username": "other", "password": "s", "auth": {"type": "m.login.dummy"}}
        (await server.ask("POST", "/register", body, address="198.51.100.1")).ok()
        for _ in range(20):
            await server.ask("GET", "/register/available?username=free")
        refused = await server.ask("GET", "/register/available?username=free")
        refused.failed(429, "M_LIMIT_EXCEEDED")


async def test_proof_and_profile_have_limits(tmp_path: Path) -> None:
    async with user_server(tmp_path, LIMITED) as server:
        token = await server.user("alice", device_id="PHONE")
        wrong = {"auth": {"type": "m.login.password", "password": "guess"}}
        # Failures in a row make a pause before the limit itself is reached.
        for _ in range(FREE_FAILURES_AT_ACCOUNT):
            (await server.ask("DELETE", "/devices/X", wrong, token=token)).failed(401, "M_FORBIDDEN")
        (await server.ask("DELETE", "/devices/X", wrong, token=token)).failed(429, "M_LIMIT_EXCEEDED")
        path = at("profile", f"@alice:{SERVER}", "displayname")
        for number in range(10):
            (await server.ask("PUT", path, {"displayname": f"A{number}"}, token=token)).ok()
        (await server.ask("PUT", path, {"displayname": "A"}, token=token)).failed(429, "M_LIMIT_EXCEEDED")


async def test_without_limits_there_are_none(server: UserServer) -> None:
    await server.user("alice")
    for _ in range(40):
        await server.log_in("alice")


@pytest.mark.parametrize(
    ("peer", "forwarded", "counted"),
    [
        ("198.51.100.7", None, "198.51.100.7"),
        ("198.51.100.7", "192.0.2.1", "198.51.100.7"),
        ("127.0.0.1", None, "127.0.0.1"),
        ("127.0.0.1", "10.0.0.1, 192.0.2.1", "192.0.2.1"),
        ("::1", "2001:DB8::1", "2001:db8::1"),
        ("unix", "192.0.2.1", "192.0.2.1"),
        ("127.0.0.1", "nonsense", "127.0.0.1"),
    ],
)
async def test_only_a_proxy_on_this_machine_says_who_asks(
    server: UserServer, peer: str, forwarded: str | None, counted: str
) -> None:
    token = await server.user("alice", device_id="PHONE")
    headers = {} if forwarded is None else {"x-forwarded-for": forwarded}
    await server.ask("GET", "/account/whoami", token=token, address=peer, headers=headers)
    await server.database.write(lambda tx: None)  # what was queued before is on disk after
    device = (await server.ask("GET", "/devices/PHONE", token=token, address=peer)).ok()
    assert device["last_seen_ip"] == counted
