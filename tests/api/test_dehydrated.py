"""Dehydrated devices (MSC3814): they take messages and keys for a user, and can be taken up again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from comity.api.client.dehydrated import PATH
from comity.users import dehydrated
from tests.api.support_users import SERVER, Answer, UserServer, user_server

ALICE = f"@alice:{SERVER}"
DATA = {"algorithm": "org.matrix.msc3814.v2", "device_pickle": "secret", "nonce": "n"}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[UserServer]:
    async with user_server(tmp_path) as built:
        yield built


def identity(device: str) -> dict[str, Any]:
    return {
        "user_id": ALICE,
        "device_id": device,
        "algorithms": ["m.olm.v1.curve25519-aes-sha2"],
        "keys": {f"ed25519:{device}": "key"},
        "signatures": {ALICE: {f"ed25519:{device}": "signature"}},
        "dehydrated": True,
    }


def a_device(device: str = "DRY") -> dict[str, Any]:
    return {
        "device_id": device,
        "device_data": DATA,
        "device_keys": identity(device),
        "initial_device_display_name": "Dehydrated device",
        "one_time_keys": {"signed_curve25519:a": {"key": "one-time", "signatures": {}}},
        "fallback_keys": {"signed_curve25519:f": {"key": "fallback", "fallback": True, "signatures": {}}},
    }


async def put(server: UserServer, token: str, body: object) -> Answer:
    return await server.ask("PUT", PATH, body, token=token)


async def send(server: UserServer, token: str, device: str, *numbers: int) -> None:
    for number in numbers:
        messages = {"messages": {ALICE: {device: {"n": number}}}}
        path = f"/sendToDevice/m.room.encrypted/{device}{number}"
        (await server.ask("PUT", path, messages, token=token)).ok()


async def test_it_takes_messages_until_it_is_taken_up(server: UserServer) -> None:
    alice, bob = await server.user("alice", device_id="PHONE"), await server.user("bob")
    (await server.ask("GET", PATH, token=alice)).failed(404, "M_NOT_FOUND")
    (await server.ask("DELETE", PATH, token=alice)).failed(404, "M_NOT_FOUND")
    assert (await put(server, alice, a_device())).ok() == {"device_id": "DRY"}
    assert (await server.ask("GET", PATH, token=alice)).ok() == {"device_id": "DRY", "device_data": DATA}
    (await server.ask("GET", PATH, token=bob)).failed(404, "M_NOT_FOUND")

    query = (await server.ask("POST", "/keys/query", {"device_keys": {ALICE: []}}, token=bob)).ok()
    named = {**identity("DRY"), "unsigned": {"device_display_name": "Dehydrated device"}}
    assert query["device_keys"] == {ALICE: {"DRY": named}}
    wanted = {"one_time_keys": {ALICE: {"DRY": "signed_curve25519"}}}
    for kind in ("one-time", "fallback"):
        claimed = (await server.ask("POST", "/keys/claim", wanted, token=bob)).ok()["one_time_keys"]
        assert [key["key"] for key in claimed[ALICE]["DRY"].values()] == [kind]

    await send(server, bob, "DRY", *range(5))
    events = f"{PATH}/DRY/events"
    told = (await server.ask("GET", events, token=alice)).ok()
    assert [event["content"]["n"] for event in told["events"]] == [0, 1, 2, 3, 4]
    assert told["events"][0]["sender"] == f"@bob:{SERVER}"
    end = (await server.ask("GET", f"{events}?from={told['next_batch']}", token=alice)).ok()
    assert end == {"events": []}
    # Whoever failed half way begins anew; and an older form of the request does the same.
    assert (await server.ask("GET", events, token=alice)).ok() == told
    assert (await server.ask("POST", events, {}, token=alice)).ok() == told
    assert (await server.ask("POST", events, {"next_batch": told["next_batch"]}, token=alice)).ok() == end
    (await server.ask("GET", events, token=bob)).failed(404, "M_NOT_FOUND")
    (await server.ask("GET", f"{PATH}/PHONE/events", token=alice)).failed(404, "M_NOT_FOUND")
    (await server.ask("GET", f"{events}?from=x", token=alice)).failed(400, "M_INVALID_PARAM")

    assert (await server.ask("DELETE", PATH, token=alice)).ok() == {"device_id": "DRY"}
    (await server.ask("GET", events, token=alice)).failed(404, "M_NOT_FOUND")
    query = (await server.ask("POST", "/keys/query", {"device_keys": {ALICE: []}}, token=bob)).ok()
    assert query["device_keys"] == {ALICE: {}}


async def test_messages_come_in_parts(server: UserServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dehydrated, "MAX_MESSAGES", 2)
    alice = await server.user("alice")
    (await put(server, alice, a_device())).ok()
    await send(server, alice, "DRY", *range(5))
    found: list[int] = []
    query = ""
    while True:
        told = (await server.ask("GET", f"{PATH}/DRY/events{query}", token=alice)).ok()
        found += [event["content"]["n"] for event in told["events"]]
        if "next_batch" not in told:
            break
        query = f"?from={told['next_batch']}"
    assert found == [0, 1, 2, 3, 4]


async def test_there_is_one_at_a_time(server: UserServer) -> None:
    alice = await server.user("alice", device_id="PHONE")
    (await put(server, alice, a_device("ONE"))).ok()
    await send(server, alice, "ONE", 1)
    (await put(server, alice, a_device("TWO"))).ok()
    assert (await server.ask("GET", PATH, token=alice)).ok()["device_id"] == "TWO"
    (await server.ask("GET", f"{PATH}/ONE/events", token=alice)).failed(404, "M_NOT_FOUND")
    devices = (await server.ask("GET", "/devices", token=alice)).ok()["devices"]
    assert sorted(device["device_id"] for device in devices) == ["PHONE", "TWO"]
    # The same again is a new device of that id.
    await send(server, alice, "TWO", 2)
    (await put(server, alice, a_device("TWO"))).ok()
    assert (await server.ask("GET", f"{PATH}/TWO/events", token=alice)).ok() == {"events": []}
    # A device that is logged in is not one that waits; and the one before it is still there.
    (await put(server, alice, a_device("PHONE"))).failed(400, "M_INVALID_PARAM")
    assert (await server.ask("GET", PATH, token=alice)).ok()["device_id"] == "TWO"
    (await server.ask("POST", "/logout/all", {}, token=alice)).ok()
    again = await server.log_in("alice")
    (await server.ask("GET", PATH, token=again)).failed(404, "M_NOT_FOUND")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"device_id": None}, "M_MISSING_PARAM"),
        ({"device_data": None}, "M_MISSING_PARAM"),
        ({"device_keys": None}, "M_MISSING_PARAM"),
        ({"device_id": 5}, "M_BAD_JSON"),
        ({"device_id": "OTHER"}, "M_INVALID_PARAM"),
        ({"device_data": []}, "M_BAD_JSON"),
        ({"device_data": {}}, "M_BAD_JSON"),
        ({"device_data": {**DATA, "x": "x" * dehydrated.MAX_DATA_BYTES}}, "M_INVALID_PARAM"),
        ({"initial_device_display_name": 5}, "M_BAD_JSON"),
        ({"one_time_keys": []}, "M_BAD_JSON"),
        ({"fallback_keys": {"nocolon": "key"}}, "M_INVALID_PARAM"),
    ],
)
async def test_what_is_no_dehydrated_device(server: UserServer, change: dict[str, Any], code: str) -> None:
    alice = await server.user("alice")
    (await put(server, alice, {**a_device(), **change})).failed(400, code)
    (await server.ask("GET", PATH, token=alice)).failed(404, "M_NOT_FOUND")
