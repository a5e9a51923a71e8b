"""A client that sends what no client should: the specified error, and nothing stored."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from yarl import URL

from tests.interop.client import ApiError, Client, MakeUser, path_of
from tests.interop.hostile import deviates
from tests.interop.servers import Homeserver

pytestmark = pytest.mark.xdist_group("interop-peer")

ABYSS = 100_000


@pytest.fixture
async def alice(here: Homeserver, user: MakeUser) -> Client:
    return await user(here, "alice")


async def _put(client: Client, path: str, raw: bytes) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {client.token}", "Content-Type": "application/json"}
    url = URL(client.server.base_url + path, encoded=True)
    async with client.http.put(url, data=io.BytesIO(raw), headers=headers) as response:
        text = await response.read()
        try:
            return response.status, json.loads(text)
        except ValueError:
            return response.status, text


BODIES: dict[str, tuple[bytes, int, str]] = {
    "text": (b"hello", 400, "M_NOT_JSON"),
    "cut short": (b'{"body": "x"', 400, "M_NOT_JSON"),
    "not UTF-8": (b'{"body": "\xff"}', 400, "M_NOT_JSON"),
    "NaN": (b'{"body": NaN}', 400, "M_NOT_JSON"),
    "a list": (b'["x"]', 400, "M_BAD_JSON"),
    "a number": (b"7", 400, "M_BAD_JSON"),
    "a float": (b'{"body": "x", "n": 1.5}', 400, "M_BAD_JSON"),
    "an integer too large": (b'{"body": "x", "n": 9007199254740992}', 400, "M_BAD_JSON"),
    # JSON by its grammar, though no parser needs to follow.
    "an integer far too large": (b'{"body": "x", "n": 1%s}' % (b"0" * 400), 400, "M_BAD_JSON M_NOT_JSON"),
    "too large an event": (b'{"body": "%s"}' % (b"x" * 65_536), 413, "M_TOO_LARGE"),
    "too large for anything": (b'{"body": "%s"}' % (b"x" * 20_000_000), 413, "M_TOO_LARGE"),
    "nested without end": (b"[" * ABYSS, 400, "M_NOT_JSON"),
    "nested deeply": (b'{"body": ' + b"[" * ABYSS + b"]" * ABYSS + b"}", 400, "M_NOT_JSON"),
    "a lone surrogate": (b'{"body": "\\ud800"}', 400, "M_NOT_JSON"),
}


@pytest.mark.parametrize(("raw", "status", "code"), BODIES.values(), ids=BODIES.keys())
async def test_bad_body(alice: Client, raw: bytes, status: int, code: str) -> None:
    room = await alice.create_room()
    before = await alice.state(room)
    for path in (
        path_of("rooms", room, "send", "org.example.event", "t1"),
        path_of("rooms", room, "state", "org.example.state", ""),
    ):
        answer = await _put(alice, path, raw)
        if answer[0] != status or answer[1].get("errcode") not in code.split():
            deviates(alice.server, f"answers {answer}")
        assert answer[0] == status
        assert answer[1]["errcode"] in code.split()
        assert answer[1]["error"]
    assert await alice.state(room) == before
    assert [e for e in await alice.history(room) if e["type"].startswith("org.example")] == []


async def test_bad_token(alice: Client) -> None:
    room = await alice.create_room()
    for token, code in (
        ("wrong", "M_UNKNOWN_TOKEN"),
        ("", "M_MISSING_TOKEN"),
        ("x" * 5000, "M_UNKNOWN_TOKEN"),
    ):
        alice.token = token
        with pytest.raises(ApiError) as refused:
            await alice.send(room, "x")
        assert (refused.value.status, refused.value.errcode) == (401, code)


async def test_unknown_endpoint(alice: Client) -> None:
    with pytest.raises(ApiError) as unknown:
        await alice.call("GET", "nothing", "here")
    assert (unknown.value.status, unknown.value.errcode) == (404, "M_UNRECOGNIZED")
    with pytest.raises(ApiError) as method:
        await alice.call("DELETE", "createRoom")
    if method.value.status == 404:
        deviates(alice.server, "answers a wrong method with 404")
    assert (method.value.status, method.value.errcode) == (405, "M_UNRECOGNIZED")


async def test_room_of_others(alice: Client, here: Homeserver, user: MakeUser) -> None:
    """What is not mine I can neither read nor write; what does not exist looks the same."""
    bob = await user(here, "bob")
    room = await bob.create_room(preset="private_chat")
    event = await bob.send(room, "secret")
    for target in (room, "!" + "x" * 43):
        with pytest.raises(ApiError) as refused:
            await alice.history(target)
        assert refused.value.status in (403, 404), refused.value
        for method, path, body in (
            ("GET", ("rooms", target, "state"), None),
            ("GET", ("rooms", target, "members"), None),
            ("GET", ("rooms", target, "event", event), None),
            ("GET", ("rooms", target, "context", event), None),
            ("PUT", ("rooms", target, "send", "m.room.message", "t"), {"body": "x"}),
            ("PUT", ("rooms", target, "state", "m.room.name", ""), {"name": "x"}),
            ("POST", ("rooms", target, "invite"), {"user_id": alice.user_id}),
        ):
            with pytest.raises(ApiError) as refused:
                await alice.call(method, *path, body=body)
            assert refused.value.status in (403, 404), (path, refused.value)
            assert refused.value.errcode in ("M_FORBIDDEN", "M_NOT_FOUND"), (path, refused.value)
