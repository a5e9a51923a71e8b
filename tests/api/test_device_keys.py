"""Devices' keys and messages between devices (client-server §End-to-End Encryption, §Send-to-Device)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from comity.store import device_keys, to_device
from comity.store.database import last_position
from tests.api.support_users import SERVER, Answer, UserServer, user_server


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[UserServer]:
    async with user_server(tmp_path) as built:
        yield built


ALICE, BOB = f"@alice:{SERVER}", f"@bob:{SERVER}"
KINDS = "signed_curve25519"


def identity(user: str = ALICE, device: str = "PHONE", key: str = "abc") -> dict[str, Any]:
    return {
        "user_id": user,
        "device_id": device,
        "algorithms": ["m.megolm.v1.aes-sha2"],
        "keys": {f"ed25519:{device}": key},
        "signatures": {user: {f"ed25519:{device}": "signature"}},
    }


def one_time(*names: str) -> dict[str, Any]:
    return {f"{KINDS}:{name}": {"key": f"key {name}", "signatures": {}} for name in names}


async def upload(server: UserServer, token: str, **body: object) -> Answer:
    return await server.ask("POST", "/keys/upload", body, token=token)


async def test_clients_without_encryption_start(server: UserServer) -> None:
    token = await server.user("alice")
    assert (await upload(server, token)).ok() == {"one_time_key_counts": {}}
    query = await server.ask("POST", "/keys/query", {"device_keys": {ALICE: []}}, token=token)
    none: dict[str, object] = {"master_keys": {}, "self_signing_keys": {}, "user_signing_keys": {}}
    assert query.ok() == {"device_keys": {ALICE: {}}, "failures": {}, **none}
    (await server.ask("GET", "/room_keys/version", token=token)).failed(404, "M_NOT_FOUND")
    empty: dict[str, list[str]] = {"changed": [], "left": []}
    assert (await server.ask("GET", "/keys/changes?from=0&to=5", token=token)).ok() == empty


async def test_identity_keys_are_shown_to_others(server: UserServer) -> None:
    alice, bob = await server.user("alice", device_id="PHONE"), await server.user("bob")
    await server.room("!room:example.org", ALICE, BOB)
    before = server.bus.position
    (await upload(server, alice, device_keys=identity())).ok()
    await server.ask("PUT", "/devices/PHONE", {"display_name": "My phone"}, token=alice)
    query: dict[str, object] = {"device_keys": {ALICE: [], "@x:other.org": []}}
    answer = (await server.ask("POST", "/keys/query", query, token=bob)).ok()
    named = {**identity(), "unsigned": {"device_display_name": "My phone"}}
    assert answer["device_keys"] == {ALICE: {"PHONE": named}}
    assert list(answer["failures"]) == ["other.org"]
    none = await server.ask("POST", "/keys/query", {"device_keys": {ALICE: ["OTHER"]}}, token=bob)
    assert none.ok()["device_keys"] == {ALICE: {}}
    changes = f"/keys/changes?from={before}&to={server.bus.position}"
    assert (await server.ask("GET", changes, token=bob)).ok() == {"changed": [ALICE], "left": []}
    # The same keys again change nothing.
    position = server.bus.position
    (await upload(server, alice, device_keys=identity())).ok()
    assert server.bus.position == position


async def test_one_time_keys_are_given_out_once(server: UserServer) -> None:
    alice, bob = await server.user("alice", device_id="PHONE"), await server.user("bob")
    fallback = {f"{KINDS}:fall": {"key": "fallback", "fallback": True, "signatures": {}}}
    counts = (await upload(server, alice, one_time_keys=one_time("b"), fallback_keys=fallback)).ok()
    assert counts == {"one_time_key_counts": {KINDS: 1}}
    await server.clock.turn(1)
    assert (await upload(server, alice, one_time_keys=one_time("a", "b"))).ok()["one_time_key_counts"] == {
        KINDS: 2
    }

    async def claim() -> Any:
        wanted = {"one_time_keys": {ALICE: {"PHONE": KINDS, "NONE": KINDS}, "@x:other.org": {"D": KINDS}}}
        answer = (await server.ask("POST", "/keys/claim", wanted, token=bob)).ok()
        assert list(answer["failures"]) == ["other.org"]
        return answer["one_time_keys"][ALICE]["PHONE"]

    def unused() -> list[str]:
        return server.database.read_now(lambda tx: device_keys.unused_fallback_algorithms(tx, ALICE, "PHONE"))

    assert await claim() == one_time("b")
    assert await claim() == one_time("a")
    assert unused() == [KINDS]
    assert await claim() == fallback
    assert await claim() == fallback
    assert unused() == []
    # An upload that is repeated makes neither kind new again; other keys do.
    (await upload(server, alice, one_time_keys=one_time("a", "b"), fallback_keys=fallback)).ok()
    assert unused() == []
    assert await claim() == fallback
    fallback = {f"{KINDS}:fall": {"key": "another", "fallback": True, "signatures": {}}}
    again = {f"{KINDS}:a": {"key": "another", "signatures": {}}}
    counts = (
        await upload(server, alice, one_time_keys={**again, **one_time("b")}, fallback_keys=fallback)
    ).ok()
    assert counts == {"one_time_key_counts": {KINDS: 1}}
    assert unused() == [KINDS]
    assert await claim() == again
    assert await claim() == fallback


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"device_keys": []}, "M_BAD_JSON"),
        ({"device_keys": identity(user=BOB)}, "M_INVALID_PARAM"),
        ({"device_keys": identity(device="DESK")}, "M_INVALID_PARAM"),
        ({"device_keys": {**identity(), "keys": 5}}, "M_BAD_JSON"),
        ({"device_keys": {**identity(), "signatures": None}}, "M_BAD_JSON"),
        ({"device_keys": {**identity(), "org.example": "x" * 70_000}}, "M_INVALID_PARAM"),
        ({"one_time_keys": []}, "M_BAD_JSON"),
        ({"one_time_keys": {"nocolon": "key"}}, "M_INVALID_PARAM"),
        ({"one_time_keys": {"a:b": 5}}, "M_BAD_JSON"),
        ({"one_time_keys": {"a:b": "x" * 5000}}, "M_INVALID_PARAM"),
        ({"one_time_keys": {f"a:{number}": "x" for number in range(600)}}, "M_BAD_JSON"),
        ({"fallback_keys": {"a:b": {}}}, "M_BAD_JSON"),
    ],
)
async def test_what_is_no_key(server: UserServer, body: dict[str, object], code: str) -> None:
    token = await server.user("alice", device_id="PHONE")
    good = one_time("good") if "one_time_keys" not in body else {}
    (await upload(server, token, **{"one_time_keys": good, **body})).failed(400, code)
    assert (await upload(server, token)).ok() == {"one_time_key_counts": {}}


async def test_a_one_time_key_is_not_replaced(server: UserServer) -> None:
    token = await server.user("alice")
    (await upload(server, token, one_time_keys={"a:b": "one"})).ok()
    (await upload(server, token, one_time_keys={"a:b": "two"})).failed(400, "M_INVALID_PARAM")
    many = [{f"a:{part}{number}": "x" for number in range(400)} for part in "xy"]
    (await upload(server, token, one_time_keys=many[0])).ok()
    (await upload(server, token, one_time_keys=many[1])).failed(400, "M_INVALID_PARAM")


async def test_what_is_no_question(server: UserServer) -> None:
    token = await server.user("alice")
    for path, name in (("/keys/query", "device_keys"), ("/keys/claim", "one_time_keys")):
        (await server.ask("POST", path, {}, token=token)).failed(400, "M_MISSING_PARAM")
        (await server.ask("POST", path, {name: []}, token=token)).failed(400, "M_BAD_JSON")
        (await server.ask("POST", path, {name: {"alice": []}}, token=token)).failed(400, "M_BAD_JSON")
        (await server.ask("POST", path, {name: {ALICE: 5}}, token=token)).failed(400, "M_BAD_JSON")
        many = {name: {ALICE: ["x"] * 10_001}}
        (await server.ask("POST", path, many, token=token)).failed(400, "M_INVALID_PARAM")
    (await server.ask("GET", "/keys/changes?from=0", token=token)).failed(400, "M_MISSING_PARAM")
    (await server.ask("GET", "/keys/changes?from=x&to=y", token=token)).failed(400, "M_INVALID_PARAM")


# -- to devices


async def send(server: UserServer, token: str, messages: object, transaction: str = "t1") -> Answer:
    path = f"/sendToDevice/org.example.hello/{transaction}"
    return await server.ask("PUT", path, {"messages": messages}, token=token)


def waiting(server: UserServer, user: str, device: str, after: int = 0) -> list[tuple[str, str, str]]:
    found = server.database.read_now(
        lambda tx: to_device.since(tx, user, device, after, server.bus.position, 100)
    )
    return [(message.sender, message.type, message.content) for message in found]


async def test_messages_reach_the_devices_they_are_for(server: UserServer) -> None:
    alice = await server.user("alice")
    for name in ("ONE", "TWO"):
        await (server.user("bob", device_id=name) if name == "ONE" else server.log_in("bob", device_id=name))
    before = server.bus.position
    messages = {BOB: {"ONE": {"to": "one"}, "*": {"to": "all"}, "GONE": {}}, f"@no:{SERVER}": {"*": {}}}
    assert (await send(server, alice, messages)).ok() == {}
    assert server.bus.changed([BOB], before)
    assert waiting(server, BOB, "ONE") == [(ALICE, "org.example.hello", '{"to":"one"}')]
    assert waiting(server, BOB, "TWO") == [(ALICE, "org.example.hello", '{"to":"all"}')]
    # The same transaction again sends nothing; another does.
    assert (await send(server, alice, messages)).ok() == {}
    assert len(waiting(server, BOB, "ONE")) == 1
    (await send(server, alice, messages, "t2")).ok()
    assert len(waiting(server, BOB, "ONE")) == 2
    position = server.bus.position
    await server.database.write(lambda tx: to_device.drop(tx, BOB, "ONE", position))
    await server.database.write(lambda tx: to_device.drop(tx, BOB, "TWO", position))
    assert waiting(server, BOB, "ONE") == []
    assert server.database.read_now(last_position) == position


async def test_the_oldest_go_when_too_many_wait(server: UserServer) -> None:
    alice = await server.user("alice", device_id="PHONE")
    for number in range(5):
        (await send(server, alice, {ALICE: {"PHONE": {"n": number}}}, f"t{number}")).ok()
    assert await server.database.write(lambda tx: to_device.drop_beyond(tx, ALICE, "PHONE", 2)) == 3
    assert [content for _, _, content in waiting(server, ALICE, "PHONE")] == ['{"n":3}', '{"n":4}']


async def test_nothing_is_accepted_that_is_not_delivered(server: UserServer) -> None:
    alice, _ = await server.user("alice"), await server.user("bob", device_id="ONE")
    for messages, code in (
        (None, "M_MISSING_PARAM"),
        ([], "M_BAD_JSON"),
        ({BOB: []}, "M_BAD_JSON"),
        ({BOB: {"ONE": "text"}}, "M_BAD_JSON"),
        ({BOB: {"ONE": {"x": "x" * 70_000}}}, "M_INVALID_PARAM"),
        ({BOB: {"ONE": {}}, "nobody": {"*": {}}}, "M_INVALID_PARAM"),
        ({BOB: {str(number): {} for number in range(10_001)}}, "M_INVALID_PARAM"),
    ):
        (await send(server, alice, messages)).failed(400, code)
    assert waiting(server, BOB, "ONE") == []
    assert (await send(server, alice, {})).ok() == {}


async def test_what_a_device_had_goes_with_it(server: UserServer) -> None:
    alice = await server.user("alice", device_id="PHONE")
    (await upload(server, alice, device_keys=identity(), one_time_keys=one_time("a"))).ok()
    (await send(server, alice, {ALICE: {"PHONE": {}}})).ok()
    before = server.bus.position
    (await server.ask("POST", "/logout", {}, token=alice)).ok()
    assert server.bus.position > before
    again = await server.log_in("alice", device_id="PHONE")
    assert (await upload(server, again)).ok() == {"one_time_key_counts": {}}
    query = await server.ask("POST", "/keys/query", {"device_keys": {ALICE: []}}, token=again)
    assert query.ok()["device_keys"] == {ALICE: {}}
    assert waiting(server, ALICE, "PHONE") == []
