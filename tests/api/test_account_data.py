"""Account data, tags and filters (client-server §Client Config, §Room Tagging, §Filtering)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from comity.store import personal
from comity.store.database import last_position
from tests.api.support_users import SERVER, UserServer, at, user_server


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[UserServer]:
    async with user_server(tmp_path) as built:
        yield built


ALICE = f"@alice:{SERVER}"
ROOM = "!room:example.org"


async def test_global_and_room_data_are_apart(server: UserServer) -> None:
    token = await server.user("alice")
    everywhere, here = (
        at("user", ALICE, "account_data", "a.b"),
        at("user", ALICE, "rooms", ROOM, "account_data", "a.b"),
    )
    (await server.ask("GET", everywhere, token=token)).failed(404, "M_NOT_FOUND")
    assert (await server.ask("PUT", everywhere, {"n": 1.5}, token=token)).ok() == {}
    (await server.ask("GET", here, token=token)).failed(404, "M_NOT_FOUND")
    assert (await server.ask("PUT", here, {"n": 2}, token=token)).ok() == {}
    assert (await server.ask("GET", everywhere, token=token)).ok() == {"n": 1.5}
    assert (await server.ask("GET", here, token=token)).ok() == {"n": 2}


async def test_changes_have_positions_and_wake_the_user(server: UserServer) -> None:
    token = await server.user("alice")
    before = server.bus.position
    for kind, value in (("a.one", 1), ("a.two", 2), ("a.one", 3)):
        await server.ask("PUT", at("user", ALICE, "account_data", kind), {"n": value}, token=token)
    await server.ask("PUT", at("user", ALICE, "rooms", ROOM, "account_data", "a.b"), {}, token=token)
    now = server.bus.position
    assert server.bus.changed([ALICE], before)
    assert not server.bus.changed(["@bob:example.org", ROOM], before)
    read = server.database.read_now
    since = read(lambda tx: personal.account_data_since(tx, ALICE, before, now))
    assert since == [("", "a.two", '{"n":2}'), ("", "a.one", '{"n":3}'), (ROOM, "a.b", "{}")]
    assert read(lambda tx: personal.account_data_since(tx, ALICE, now, now)) == []
    assert read(lambda tx: personal.account_data_since(tx, ALICE, before, now - 1)) == since[:2]
    assert read(lambda tx: personal.room_account_data(tx, ALICE, ROOM, now)) == [("a.b", "{}")]
    assert read(last_position) == now


@pytest.mark.parametrize("kind", ["m.fully_read", "m.push_rules"])
@pytest.mark.parametrize("where", [(), ("rooms", ROOM)])
async def test_what_the_server_manages_cannot_be_set(
    server: UserServer, kind: str, where: tuple[str, ...]
) -> None:
    token = await server.user("alice")
    path = at("user", ALICE, *where, "account_data", kind)
    (await server.ask("PUT", path, {"event_id": "$a"}, token=token)).failed(405, "M_BAD_JSON")


async def test_what_is_refused(server: UserServer) -> None:
    token, bob = await server.user("alice"), await server.user("bob")
    before = server.database.read_now(last_position)
    path = at("user", ALICE, "account_data", "a.b")
    for method in ("GET", "PUT"):
        (await server.ask(method, path, {}, token=bob)).failed(403, "M_FORBIDDEN")
        (await server.ask(method, path, {})).failed(401, "M_MISSING_TOKEN")
    (await server.ask("PUT", path, [], token=token)).failed(400, "M_BAD_JSON")
    (await server.ask("PUT", path, raw=b"nope", token=token)).failed(400, "M_NOT_JSON")
    (await server.ask("PUT", path, {"x": "x" * 600_000}, token=token)).failed(413, "M_TOO_LARGE")
    long = at("user", ALICE, "account_data", "x" * 300)
    (await server.ask("PUT", long, {}, token=token)).failed(400, "M_INVALID_PARAM")
    for room in ("room", "", "@a:b"):
        wrong = f"/user/{ALICE}/rooms/{room}/account_data/a.b"
        for method in ("GET", "PUT"):
            (await server.ask(method, wrong, {}, token=token)).failed(400, "M_INVALID_PARAM")
    assert server.database.read_now(last_position) == before


async def test_tags(server: UserServer) -> None:
    token = await server.user("alice")
    tags = at("user", ALICE, "rooms", ROOM, "tags")
    assert (await server.ask("GET", tags, token=token)).ok() == {"tags": {}}
    assert (await server.ask("PUT", tags + "/m.favourite", {"order": 0.25}, token=token)).ok() == {}
    assert (await server.ask("PUT", tags + "/u.Work", {}, token=token)).ok() == {}
    wanted = {"m.favourite": {"order": 0.25}, "u.Work": {}}
    assert (await server.ask("GET", tags, token=token)).ok() == {"tags": wanted}
    data = await server.ask("GET", at("user", ALICE, "rooms", ROOM, "account_data", "m.tag"), token=token)
    assert data.ok() == {"tags": wanted}
    assert (await server.ask("DELETE", tags + "/m.favourite", token=token)).ok() == {}
    position = server.bus.position
    assert (await server.ask("DELETE", tags + "/m.favourite", token=token)).ok() == {}
    assert server.bus.position == position
    assert (await server.ask("GET", tags, token=token)).ok() == {"tags": {"u.Work": {}}}


async def test_what_is_no_tag(server: UserServer) -> None:
    token, bob = await server.user("alice"), await server.user("bob")
    tags = at("user", ALICE, "rooms", ROOM, "tags")
    (await server.ask("GET", tags, token=bob)).failed(403, "M_FORBIDDEN")
    (await server.ask("PUT", tags + "/a", {"order": "first"}, token=token)).failed(400, "M_BAD_JSON")
    (await server.ask("PUT", tags + "/" + "x" * 256, {}, token=token)).failed(400, "M_INVALID_PARAM")
    wrong = at("user", ALICE, "rooms", "nowhere", "tags")
    (await server.ask("GET", wrong, token=token)).failed(400, "M_INVALID_PARAM")
    (await server.ask("PUT", wrong + "/a", {}, token=token)).failed(400, "M_INVALID_PARAM")
    (await server.ask("DELETE", wrong + "/a", token=token)).failed(400, "M_INVALID_PARAM")
    for number in range(200):
        (await server.ask("PUT", f"{tags}/u.{number}", {}, token=token)).ok()
    (await server.ask("PUT", tags + "/u.more", {}, token=token)).failed(400, "M_INVALID_PARAM")


async def test_a_filter_is_kept_under_its_id(server: UserServer) -> None:
    token = await server.user("alice")
    path = at("user", ALICE, "filter")
    definition = {"room": {"timeline": {"limit": 10, "types": ["m.room.message"]}}, "org.example": [1]}
    first = (await server.ask("POST", path, definition, token=token)).ok()["filter_id"]
    same = (await server.ask("POST", path, definition, token=token)).ok()["filter_id"]
    other = (await server.ask("POST", path, {}, token=token)).ok()["filter_id"]
    assert first == same != other
    assert not first.startswith("{")
    assert (await server.ask("GET", f"{path}/{first}", token=token)).ok() == definition
    assert (await server.ask("GET", f"{path}/{other}", token=token)).ok() == {}


async def test_what_is_no_filter(server: UserServer) -> None:
    token, bob = await server.user("alice"), await server.user("bob")
    path = at("user", ALICE, "filter")
    (await server.ask("GET", path + "/unknown", token=token)).failed(404, "M_NOT_FOUND")
    (await server.ask("POST", path, {}, token=bob)).failed(403, "M_FORBIDDEN")
    (await server.ask("POST", path, {"room": 5}, token=token)).failed(400, "M_BAD_JSON")
    (await server.ask("POST", path, {"event_format": "other"}, token=token)).failed(400, "M_INVALID_PARAM")
    big = {"org.example": "x" * 300_000}
    (await server.ask("POST", path, big, token=token)).failed(413, "M_TOO_LARGE")
