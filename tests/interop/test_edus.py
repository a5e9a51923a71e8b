"""What is told beside events arrives on the other side: typing, receipts, messages to devices, keys.

Presence is off on the other server, as it is on large ones: see `test_presence.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from comity.protocol.signing import SigningKey, sign_json
from tests.interop.client import Client, request
from tests.interop.servers import Pair
from tests.interop.waiting import eventually

pytestmark = [pytest.mark.interop, pytest.mark.xdist_group("interop-rooms")]

KINDS = "signed_curve25519"
Json = dict[str, Any]


async def _room(pair: Pair, alice: Client, bob: Client) -> str:
    room = await alice.create_room("10")
    await bob.join(room, pair.host)
    await bob.sync()
    await alice.sync()
    await alice.send(room, "here")
    await bob.hears(room, "here")
    await bob.send(room, "there")
    await alice.hears(room, "there")
    return room


async def _told(client: Client, look: Callable[[Json], Any], what: str) -> Any:
    """Sync on until an answer has what is looked for."""

    async def once() -> Any:
        return look(await client.sync(timeout_ms=1_000))

    return await eventually(once, what)


def _ephemeral(room: str, kind: str) -> Callable[[Json], Json | None]:
    def look(answer: Json) -> Json | None:
        part = answer.get("rooms", {}).get("join", {}).get(room, {})
        for event in part.get("ephemeral", {}).get("events", []):
            if event["type"] == kind:
                return dict(event["content"])
        return None

    return look


async def _keys(client: Client, key: str = "abc") -> Json:
    keys = {
        "user_id": client.user_id,
        "device_id": client.device_id,
        "algorithms": ["m.megolm.v1.aes-sha2"],
        "keys": {f"ed25519:{client.device_id}": key, f"curve25519:{client.device_id}": key},
        "signatures": {client.user_id: {f"ed25519:{client.device_id}": "signature"}},
    }
    await client.call("POST", "keys", "upload", body={"device_keys": keys})
    return keys


async def _query(client: Client, other: Client) -> Json:
    answer = await client.call("POST", "keys", "query", body={"device_keys": {other.user_id: []}})
    assert not answer["failures"], answer
    return answer


def _bare(keys: Json) -> Json:
    return {name: value for name, value in keys.items() if name != "unsigned"}


async def test_typing_and_receipts(pair: Pair, alice: Client, bob: Client) -> None:
    room = await _room(pair, alice, bob)
    for writer, reader in ((alice, bob), (bob, alice)):
        body = {"typing": True, "timeout": 30_000}
        await writer.call("PUT", "rooms", room, "typing", writer.user_id, body=body)
        seen = await _told(
            reader,
            lambda answer, who=writer: (  # type: ignore[misc]
                who.user_id in (_ephemeral(room, "m.typing")(answer) or {}).get("user_ids", [])
            ),
            "typing",
        )
        assert seen
        await writer.call("PUT", "rooms", room, "typing", writer.user_id, body={"typing": False})
        event_id = await writer.send(room, f"read this, {reader.user_id}")
        await reader.sees_event(room, event_id)
        await reader.call("POST", "rooms", room, "receipt", "m.read", event_id, body={})

        def read(answer: Json, event_id: str = event_id, who: str = reader.user_id) -> bool:
            content = _ephemeral(room, "m.receipt")(answer) or {}
            return who in content.get(event_id, {}).get("m.read", {})

        assert await _told(writer, read, "a receipt")


async def test_receipts_in_threads(pair: Pair, alice: Client, bob: Client) -> None:
    room = await _room(pair, alice, bob)
    for writer, reader in ((alice, bob), (bob, alice)):
        root = await writer.send(room, f"a thread for {reader.user_id}")
        await reader.sees_event(room, root)
        content = {
            "msgtype": "m.text",
            "body": "in the thread",
            "m.relates_to": {"rel_type": "m.thread", "event_id": root},
        }
        path = ("rooms", room, "send", "m.room.message", f"thread-{writer.user_id}")
        reply = (await writer.call("PUT", *path, body=content))["event_id"]
        await reader.sees_event(room, reply)
        for event_id, thread_id in ((root, "main"), (reply, root)):
            where = ("rooms", room, "receipt", "m.read", event_id)
            await reader.call("POST", *where, body={"thread_id": thread_id})

            def read(
                answer: Json, event_id: str = event_id, thread: str = thread_id, who: str = reader.user_id
            ) -> bool:
                told = (_ephemeral(room, "m.receipt")(answer) or {}).get(event_id, {}).get("m.read", {})
                return bool(told.get(who, {}).get("thread_id") == thread)

            assert await _told(writer, read, f"a receipt in {thread_id}")


async def test_messages_to_devices(pair: Pair, alice: Client, bob: Client) -> None:
    await _room(pair, alice, bob)
    for sender, receiver in ((alice, bob), (bob, alice)):
        for number in range(3):
            body = {"messages": {receiver.user_id: {receiver.device_id: {"n": number}}}}
            await sender.call("PUT", "sendToDevice", "org.test", f"t{number}", body=body)
        got: list[int] = []

        def look(answer: Json, got: list[int] = got, sender: str = sender.user_id) -> bool:
            for event in answer.get("to_device", {}).get("events", []):
                assert (event["type"], event["sender"]) == ("org.test", sender)
                got.append(event["content"]["n"])
            return len(got) >= 3

        await _told(receiver, look, "messages to a device")
        assert got == [0, 1, 2]


async def test_devices_and_their_keys(pair: Pair, alice: Client, bob: Client) -> None:
    await _room(pair, alice, bob)
    for owner, other in ((alice, bob), (bob, alice)):
        await _query(other, owner)
        keys = await _keys(owner)

        def changed(answer: Json, who: str = owner.user_id) -> bool:
            return who in answer.get("device_lists", {}).get("changed", [])

        await _told(other, changed, "a change of devices")

        async def shown(owner: Client = owner, other: Client = other, keys: Json = keys) -> bool:
            devices = (await _query(other, owner))["device_keys"].get(owner.user_id, {})
            return {name: _bare(part) for name, part in devices.items()} == {owner.device_id: keys}

        await eventually(shown, "the keys of the device")
        one_time = {f"{KINDS}:a": {"key": "k", "signatures": {}}}
        await owner.call("POST", "keys", "upload", body={"one_time_keys": one_time})
        wanted = {"one_time_keys": {owner.user_id: {owner.device_id: KINDS}}}
        claimed = await other.call("POST", "keys", "claim", body=wanted)
        assert claimed["one_time_keys"] == {owner.user_id: {owner.device_id: one_time}}
        again = await other.call("POST", "keys", "claim", body=wanted)
        assert not again["one_time_keys"].get(owner.user_id)


def _signing_key(user_id: str, usage: str, number: int) -> tuple[SigningKey, Json]:
    seeds = (bytes([number, index]) * 16 for index in range(256))
    publics = ((SigningKey("x", seed).public, seed) for seed in seeds)
    public, seed = next(pair for pair in publics if pair[0].isalnum())
    published = {"user_id": user_id, "usage": [usage], "keys": {f"ed25519:{public}": public}}
    return SigningKey(public, seed), published


async def test_keys_for_signing(pair: Pair, alice: Client, bob: Client) -> None:
    await _room(pair, alice, bob)
    for owner, other in ((alice, bob), (bob, alice)):
        keys = await _keys(owner)
        master, master_key = _signing_key(owner.user_id, "master", 1)
        own, own_key = _signing_key(owner.user_id, "self_signing", 2)
        own_key = sign_json(own_key, owner.user_id, master)
        await _query(other, owner)
        body = {"master_key": master_key, "self_signing_key": own_key}
        await owner.call("POST", "keys", "device_signing", "upload", body=body)
        signed = sign_json(keys, owner.user_id, own)
        answer = await owner.call(
            "POST", "keys", "signatures", "upload", body={owner.user_id: {owner.device_id: signed}}
        )
        assert not answer["failures"]

        async def shown(
            owner: Client = owner,
            other: Client = other,
            told: tuple[Json, Json, Json] = (master_key, own_key, signed),
        ) -> bool:
            answer, who = await _query(other, owner), owner.user_id
            device = answer["device_keys"].get(who, {}).get(owner.device_id, {})
            mine = (answer["master_keys"].get(who, {}), answer["self_signing_keys"].get(who, {}))
            assert [_bare(part)["keys"] for part in mine if part] == [part["keys"] for part in told[:2]]
            return _bare(device) == told[2]

        await eventually(shown, "the keys for signing")


async def test_who_somebody_is(pair: Pair, alice: Client, bob: Client) -> None:
    for client in (alice, bob):
        given = await client.call("POST", "user", client.user_id, "openid", "request_token", body={})
        path = "/_matrix/federation/v1/openid/userinfo"
        query = {"access_token": given["access_token"]}
        answer = await request(client.http, "GET", client.server.base_url, path, query=query)
        assert answer == {"sub": client.user_id}


async def test_keys_of_a_stranger(pair: Pair, alice: Client, bob: Client) -> None:
    """Users who share no room are asked for by POST user/keys/query, in both directions."""
    for owner, other in ((alice, bob), (bob, alice)):
        keys = await _keys(owner)
        listed = (await _query(other, owner))["device_keys"].get(owner.user_id, {})
        assert {device: _bare(part) for device, part in listed.items()} == {owner.device_id: keys}
