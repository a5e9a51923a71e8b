"""What every endpoint does alike (client-server §API Standards, §Web Browser Clients)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.api.support_rooms import place
from tests.api.support_users import UserServer, user_server


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[UserServer]:
    async with user_server(tmp_path) as built:
        yield built


@pytest.mark.parametrize(
    "path", ["/account/whoami", "/login", "/nothing/here", "/_matrix/media/v3/config", "/_matrix/other"]
)
async def test_a_browser_may_ask_for_anything_first(server: UserServer, path: str) -> None:
    """Of what is not there too: a refused preflight is no 404 to a script, but a broken network."""
    answer = await server.ask("OPTIONS", path, headers={"Access-Control-Request-Method": "PUT"})
    assert answer.ok() == {}
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert "PUT" in answer.headers["Access-Control-Allow-Methods"]
    assert "Authorization" in answer.headers["Access-Control-Allow-Headers"]


async def test_what_is_not_there_is_told_to_scripts_too(server: UserServer) -> None:
    for method, path, status in (
        ("GET", "/nothing/here", 404),
        ("PUT", "/_matrix/client/v99/sync", 404),
        ("PATCH", "/account/whoami", 405),
        ("DELETE", "/_matrix/client/versions", 405),
    ):
        answer = await server.ask(method, path)
        answer.failed(status, "M_UNRECOGNIZED")
        assert answer.headers["Access-Control-Allow-Origin"] == "*"


async def test_a_wrong_method_is_told_the_right_ones(server: UserServer) -> None:
    for method, path, allowed in (
        ("POST", "/account/whoami", "GET, HEAD, OPTIONS"),
        ("PATCH", "/profile/@alice:example.org/displayname", "DELETE, GET, HEAD, OPTIONS, PUT"),
    ):
        answer = await server.ask(method, path)
        answer.failed(405, "M_UNRECOGNIZED")
        assert answer.headers["Allow"] == allowed


@pytest.mark.parametrize("text", ["1_0", "%D9%A3", "+1", "1.0", "", "abc", "0x1"])
async def test_an_integer_is_digits(tmp_path: Path, text: str) -> None:
    async with place(tmp_path) as here:
        alice = await here.client("alice")
        (await alice.ask("GET", "/notifications", limit=unquote(text))).failed(400, "M_INVALID_PARAM")
        for right in (0, -1, 10**30):
            (await alice.ask("GET", "/notifications", limit=right)).ok()
