"""Presence in /sync, and what makes and ends it (client-server §Presence)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from comity.sync import presence as presence_sync
from comity.users.presence import AGAIN_MS, GONE_SECONDS, IDLE_MS, SILENT_MS, SWEEP_SECONDS
from tests.api.support_accounts import deactivate
from tests.api.support_rooms import Client, Network, Place, networked_place, place, until_waiting
from tests.api.support_users import at

ONLY_PRESENCE: dict[str, object] = {"room": {"rooms": []}, "account_data": {"types": []}}
NO_PRESENCE: dict[str, object] = {"presence": {"types": []}}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Place]:
    async with place(tmp_path) as opened:
        yield opened


def told(answer: Any) -> dict[str, str]:
    """user id -> presence, as an answer tells it."""
    events = answer.get("presence", {"events": []})["events"]
    assert all(event["type"] == "m.presence" for event in events)
    return {event["sender"]: event["content"]["presence"] for event in events}


async def set_presence(client: Client, presence: str, **more: object) -> None:
    (await client.ask("PUT", at("presence", client.user_id, "status"), {"presence": presence, **more})).ok()


async def get_presence(client: Client, other: Client) -> Any:
    return (await client.ask("GET", at("presence", other.user_id, "status"))).ok()


async def a_pair(server: Place) -> tuple[Client, Client, str]:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create()
    await bob.join(room_id)
    return alice, bob, room_id


async def test_syncing_makes_one_online(server: Place) -> None:
    alice, bob, _ = await a_pair(server)
    since = await alice.token_now()
    assert told(await bob.sync()) == {alice.user_id: "online", bob.user_id: "online"}
    answer = await alice.sync(since)
    assert told(answer) == {bob.user_id: "online"}
    assert told(await alice.sync(answer["next_batch"])) == {}
    # The same token is answered in the same way: the first answer may have been lost.
    assert told(await alice.sync(since)) == {bob.user_id: "online"}


async def test_a_waiting_sync_is_woken(server: Place) -> None:
    alice, bob, _ = await a_pair(server)
    since = (await alice.sync())["next_batch"]
    deaf = asyncio.ensure_future(alice.sync(since, NO_PRESENCE, timeout=30_000))
    waiting = asyncio.ensure_future(alice.sync(since, ONLY_PRESENCE, timeout=30_000))
    await until_waiting()
    await set_presence(bob, "unavailable", status_msg="at lunch")
    event = (await waiting)["presence"]["events"][0]
    assert event["sender"] == bob.user_id
    assert event["content"]["status_msg"] == "at lunch"
    await until_waiting()
    assert not deaf.done()
    await ended(deaf)


async def test_a_new_name_comes_with_presence(server: Place) -> None:
    alice, bob, _ = await a_pair(server)
    await set_presence(bob, "online")
    since = (await alice.sync())["next_batch"]
    waiting = asyncio.ensure_future(alice.sync(since, ONLY_PRESENCE, timeout=30_000))
    await until_waiting()
    path = at("profile", bob.user_id)
    (await bob.ask("PUT", path + "/displayname", {"displayname": "Bobby"})).ok()
    (event,) = (await waiting)["presence"]["events"]
    assert event["sender"] == bob.user_id
    assert event["content"]["displayname"] == "Bobby"
    assert event["content"]["presence"] == "online"
    since = (await alice.sync())["next_batch"]
    # What stands in no membership is no news.
    (await bob.ask("PUT", path + "/m.tz", {"m.tz": "Europe/London"})).ok()
    assert told(await alice.sync(since, ONLY_PRESENCE)) == {}
    (await bob.ask("PUT", path + "/avatar_url", {"avatar_url": "mxc://example.org/abc"})).ok()
    (await bob.ask("DELETE", path + "/displayname")).ok()
    (event,) = (await alice.sync(since, ONLY_PRESENCE))["presence"]["events"]
    assert event["content"]["avatar_url"] == "mxc://example.org/abc"
    assert "displayname" not in event["content"]
    # It is no part of what is asked for by itself.
    assert "avatar_url" not in await get_presence(alice, bob)


async def test_who_has_ended_their_account_is_forgotten(server: Place) -> None:
    alice, bob, _ = await a_pair(server)
    await set_presence(bob, "online")
    (await bob.ask("PUT", at("profile", bob.user_id, "displayname"), {"displayname": "Bobby"})).ok()
    await deactivate(bob)
    assert "Bobby" not in str((await alice.sync()).get("presence"))


async def test_presence_is_not_for_strangers_nor_from_the_ignored(server: Place) -> None:
    alice, bob, _ = await a_pair(server)
    carol = await server.client("carol")
    for client in (alice, bob, carol):
        await set_presence(client, "online")
    assert told(await carol.sync()) == {carol.user_id: "online"}
    assert told(await alice.sync(wanted={"presence": {"senders": [bob.user_id]}})) == {bob.user_id: "online"}
    assert told(await alice.sync(wanted={"presence": {"not_types": ["m.*"]}})) == {}
    await alice.account_data("m.ignored_user_list", {"ignored_users": {bob.user_id: {}}})
    assert told(await alice.sync()) == {alice.user_id: "online"}


async def test_who_left_is_seen_no_more(server: Place) -> None:
    alice, bob, room_id = await a_pair(server)
    await set_presence(bob, "online")
    await bob.leave(room_id)
    assert told(await alice.sync()) == {alice.user_id: "online"}


async def test_whom_one_meets_is_told(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create()
    of_alice, of_bob = await alice.token_now(), await bob.token_now()
    assert told(await alice.sync(of_alice)) == {}
    await bob.join(room_id)
    assert told(await alice.sync(of_alice)) == {bob.user_id: "online"}
    answer = await bob.sync(of_bob)
    assert told(answer) == {alice.user_id: "online"}
    assert told(await bob.sync(answer["next_batch"])) == {}
    # And to a client that knows nothing, once they have synced in the room.
    assert told(await alice.sync()) == {alice.user_id: "online", bob.user_id: "online"}


async def test_set_presence_of_a_sync(server: Place) -> None:
    alice, bob, _ = await a_pair(server)
    await bob.sync(set_presence="offline")
    assert (await get_presence(alice, bob)) == {"presence": "offline"}
    await bob.sync(set_presence="unavailable")
    assert (await get_presence(alice, bob))["presence"] == "unavailable"
    await bob.sync(set_presence="online")
    assert (await get_presence(alice, bob))["presence"] == "online"
    await bob.sync(set_presence="offline")
    assert (await get_presence(alice, bob))["presence"] == "offline"
    (await bob.ask("GET", "/sync", set_presence="busy")).failed(400, "M_INVALID_PARAM")
    # What a client has set itself stays while it syncs without a word, or without being marked.
    await set_presence(bob, "unavailable")
    await bob.sync()
    assert (await get_presence(alice, bob))["presence"] == "unavailable"
    await bob.sync(set_presence="offline")
    assert (await get_presence(alice, bob))["presence"] == "unavailable"


async def test_the_most_present_device_counts(server: Place) -> None:
    alice, bob, _ = await a_pair(server)
    body = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": "bob"},
        "password": "correct horse",
    }
    token = (await bob.ask("POST", "/login", body)).ok()["access_token"]
    tablet = Client(server, bob.user_id, token)
    await bob.sync(set_presence="unavailable")
    await tablet.sync()
    await bob.sync(set_presence="unavailable")
    assert (await get_presence(alice, bob))["presence"] == "online"
    await tablet.sync(set_presence="offline")
    assert (await get_presence(alice, bob))["presence"] == "unavailable"


async def test_idle_then_active_again(server: Place) -> None:
    alice, bob, room_id = await a_pair(server)
    since = (await bob.sync())["next_batch"]
    waiting = asyncio.ensure_future(bob.sync(since, NO_PRESENCE, timeout=180_000))
    await server.clock.turn(100)
    shown = await get_presence(alice, bob)
    assert (shown["presence"], shown["currently_active"]) == ("online", True)
    assert 99_000 <= shown["last_active_ago"] <= 101_000
    seen = (await alice.sync())["next_batch"]
    await server.clock.turn(IDLE_MS / 1000 - 100 + SWEEP_SECONDS)
    answer = await alice.sync(seen)
    assert told(answer)[bob.user_id] == "unavailable"
    await bob.say(room_id, "back")
    assert told(await alice.sync(answer["next_batch"])) == {bob.user_id: "online"}
    assert (await get_presence(alice, bob))["last_active_ago"] == 0
    await ended(waiting)


async def test_who_comes_back_is_online_however_long_they_were_gone(server: Place) -> None:
    alice, bob, _ = await a_pair(server)
    await bob.sync()
    await server.clock.turn(GONE_SECONDS + IDLE_MS / 1000 + SWEEP_SECONDS)
    seen = (await alice.sync())["next_batch"]
    assert (await get_presence(alice, bob))["presence"] == "offline"
    await bob.sync()
    assert told(await alice.sync(seen)) == {bob.user_id: "online"}
    assert (await get_presence(alice, bob))["last_active_ago"] == 0


async def test_who_is_there_and_has_done_nothing_was_never_active(server: Place) -> None:
    alice, bob, _ = await a_pair(server)
    await bob.sync(set_presence="unavailable")
    assert await get_presence(alice, bob) == {"presence": "unavailable"}
    (event,) = (await alice.sync(set_presence="offline"))["presence"]["events"]
    assert event["content"] == {"presence": "unavailable"}


async def ended(waiting: asyncio.Task[Any]) -> None:
    """A client hangs up."""
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


async def test_without_a_sync_one_is_offline(server: Place) -> None:
    alice, bob, _ = await a_pair(server)
    await bob.sync()
    seen = (await alice.sync())["next_batch"]
    waiting = asyncio.ensure_future(alice.sync(seen, ONLY_PRESENCE, timeout=180_000))
    await server.clock.turn(GONE_SECONDS + SWEEP_SECONDS)
    assert told(await waiting) == {bob.user_id: "offline"}
    # Who was offline all the time is no news for a client that knows nothing.
    assert told(await alice.sync()) == {alice.user_id: "online"}


async def test_many_presences_come_in_parts(server: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence_sync, "MAX_TOLD", 2)
    alice, bob, room_id = await a_pair(server)
    others = await server.clients("carol", "dave", "erin")
    for other in others:
        await other.join(room_id)
    for other in (bob, *others):
        await set_presence(other, "online")
    answer = await alice.sync(set_presence="offline")
    seen = [told(answer)]
    for _ in range(2):
        answer = await alice.sync(answer["next_batch"], set_presence="offline")
        seen.append(told(answer))
    assert [list(part) for part in seen] == [
        [bob.user_id, others[0].user_id],
        [others[1].user_id, others[2].user_id],
        [],
    ]


async def test_a_token_from_before_presence_is_understood(server: Place) -> None:
    alice, bob, _ = await a_pair(server)
    await set_presence(bob, "online")
    since = await alice.token_now()
    old, _, serial = since.partition("p")
    assert serial
    answer = await alice.sync(old)
    assert told(answer) == {alice.user_id: "online", bob.user_id: "online"}
    assert (await alice.sync(old, NO_PRESENCE))["next_batch"].count("p") == 0


async def test_between_servers(tmp_path: Path) -> None:
    network = Network()
    async with (
        networked_place(tmp_path / "one", network, 1001) as one,
        networked_place(tmp_path / "two", network, 1002) as two,
    ):
        alice, bob = await one.client("alice"), await two.client("bob")
        room_id = await alice.create()
        await bob.join(room_id, "192.0.2.1:1001")
        seen = (await alice.sync(set_presence="offline"))["next_batch"]
        await bob.sync()
        await settled(one, two)
        answer = await alice.sync(seen, set_presence="offline")
        assert told(answer) == {bob.user_id: "online"}
        assert answer["presence"]["events"][0]["content"]["currently_active"] is True
        # Somebody who stays is told of again before the others give them up.
        waiting = asyncio.ensure_future(bob.sync(set_presence="unavailable"))
        await waiting
        await settled(one, two)
        assert (await get_presence(alice, bob))["presence"] == "unavailable"
        network.cut = {1001}
        for _ in range(SILENT_MS // 180_000 + 1):
            await bob.sync(set_presence="unavailable")
            await one.clock.turn(180)
        assert (await get_presence(alice, bob))["presence"] == "offline"
        assert AGAIN_MS < SILENT_MS


async def settled(*places: Place) -> None:
    for _ in range(5):
        for each in places:
            await each.clock.turn(1)
            await until_waiting()


async def test_presence_turned_off(tmp_path: Path) -> None:
    settings = "[presence]\nenabled = false\n"
    async with networked_place(tmp_path / "one", Network(), 1001, settings) as server:
        alice, bob, _ = await a_pair(server)
        await set_presence(bob, "online", status_msg="here")
        answer = await alice.sync()
        assert "presence" not in answer
        assert "p" not in answer["next_batch"]
        assert await get_presence(alice, bob) == {"presence": "offline"}
