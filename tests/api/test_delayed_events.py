"""Delayed events (MSC4140), as clients schedule and watch over them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from comity.rooms.delayed import MAX_SCHEDULED
from comity.store import delayed as stored
from tests.api.support_rooms import Client, Network, Place, ask, bodies, networked_place, place, until_waiting
from tests.api.support_users import Answer, at

PREFIX = "/_matrix/client/unstable/org.matrix.msc4140"
DELAY = "org.matrix.msc4140.delay"
CALL = "org.matrix.msc3401.call.member"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Place]:
    async with place(tmp_path) as opened:
        yield opened


async def try_later(
    client: Client, room_id: str, delay: object, body: str = "later", transaction: str = "t1"
) -> Answer:
    path = at("rooms", room_id, "send", "m.room.message", transaction)
    return await client.ask("PUT", path, {"msgtype": "m.text", "body": body}, **{DELAY: delay})


async def say_later(client: Client, room_id: str, delay: int, **more: str) -> str:
    delay_id: str = (await try_later(client, room_id, delay, **more)).ok()["delay_id"]
    return delay_id


async def set_later(
    client: Client, room_id: str, delay: int, content: object, event_type: str = CALL, state_key: str = "k"
) -> str:
    path = at("rooms", room_id, "state", event_type, state_key)
    delay_id: str = (await client.ask("PUT", path, content, **{DELAY: delay})).ok()["delay_id"]
    return delay_id


async def listed(client: Client, **query: object) -> Any:
    return (await client.ask("GET", PREFIX + "/delayed_events", **query)).ok()


async def act(server: Place, delay_id: str, action: str) -> Answer:
    """By somebody who has no account, as the MSC lets whoever knows the id."""
    path = f"{PREFIX}/delayed_events/{delay_id}/{action}"
    return await ask(server.app, "POST", path, None, {}, None)


async def said(client: Client, room_id: str) -> list[str]:
    return bodies((await client.messages(room_id, "f", limit=100))["chunk"])


async def turn(server: Place, seconds: float) -> None:
    await server.clock.turn(seconds)
    await until_waiting()


async def test_an_event_is_sent_when_its_time_has_come(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create()
    await bob.join(room_id)
    versions = (await alice.ask("GET", "/_matrix/client/versions")).ok()
    assert versions["unstable_features"]["org.matrix.msc4140"] is True
    started = server.clock.now_ms()
    delay_id = await say_later(alice, room_id, 5_000)
    assert await say_later(alice, room_id, 5_000) == delay_id, "the same request"
    await turn(server, 4.9)
    assert await said(alice, room_id) == []
    answer = await listed(alice)
    assert (
        answer["scheduled"]
        == answer["delayed_events"]
        == [
            {
                "delay_id": delay_id,
                "room_id": room_id,
                "type": "m.room.message",
                "delay": 5_000,
                "running_since": started,
                "content": {"msgtype": "m.text", "body": "later"},
            }
        ]
    )
    assert (await listed(bob))["scheduled"] == []
    await turn(server, 0.2)
    assert await said(bob, room_id) == ["later"]
    answer = await listed(alice)
    (final,) = answer["finalised"]
    assert answer["scheduled"] == []
    assert (final["outcome"], final["reason"]) == ("send", "delay")
    event = (await alice.ask("GET", at("rooms", room_id, "event", final["event_id"]))).ok()
    assert event["origin_server_ts"] == started + 5_000
    assert event["unsigned"]["org.matrix.msc4140.delay_id"] == delay_id
    event = (await bob.ask("GET", at("rooms", room_id, "event", final["event_id"]))).ok()
    assert "org.matrix.msc4140.delay_id" not in event["unsigned"]
    one = (await alice.ask("GET", f"{PREFIX}/delayed_events/{delay_id}")).ok()
    assert one["event_id"] == one["finalised"]["event_id"] == final["event_id"]
    (await bob.ask("GET", f"{PREFIX}/delayed_events/{delay_id}")).failed(404, "M_NOT_FOUND")


async def test_a_restart_counts_anew_and_cancel_ends_it(server: Place) -> None:
    alice = await server.client("alice")
    room_id = await alice.create()
    delay_id = await set_later(alice, room_id, 8_000, {})
    for _ in range(3):
        await turn(server, 5)
        assert (await act(server, delay_id, "restart")).ok() == {}
    (item,) = (await listed(alice))["scheduled"]
    assert (item["state_key"], item["running_since"]) == ("k", server.clock.now_ms())
    assert (await act(server, delay_id, "cancel")).ok() == {}
    assert (await act(server, delay_id, "cancel")).ok() == {}, "it may be said again"
    (await act(server, delay_id, "send")).failed(409, "M_UNKNOWN")
    (await act(server, delay_id, "restart")).failed(404, "M_NOT_FOUND")
    await turn(server, 20)
    path = at("rooms", room_id, "state", CALL, "k")
    (await alice.ask("GET", path)).failed(404, "M_NOT_FOUND")
    (final,) = (await listed(alice, status="finalised"))["finalised"]
    assert (final["outcome"], final["reason"]) == ("cancel", "action")
    (await act(server, "nonsense", "cancel")).failed(404, "M_NOT_FOUND")
    (await act(server, delay_id, "explode")).failed(400, "M_INVALID_PARAM")


async def test_send_does_not_wait(server: Place) -> None:
    alice = await server.client("alice")
    room_id = await alice.create()
    delay_id = await say_later(alice, room_id, 60_000)
    path = f"{PREFIX}/delayed_events/{delay_id}"
    (await alice.ask("POST", path, {"action": "send"})).ok()
    assert await said(alice, room_id) == ["later"]
    (await alice.ask("POST", path, {"action": "send"})).ok()
    (await alice.ask("POST", path, {"action": "cancel"})).failed(409, "M_UNKNOWN")
    await turn(server, 61)
    assert await said(alice, room_id) == ["later"]
    (final,) = (await listed(alice))["finalised"]
    assert (final["outcome"], final["reason"]) == ("send", "action")


async def test_the_endpoint_of_its_own_takes_messages_and_state(server: Place) -> None:
    alice = await server.client("alice")
    room_id = await alice.create()

    async def put(event_type: str, transaction: str, body: object) -> Answer:
        path = PREFIX + at("rooms", room_id, "delayed_event", event_type, transaction)
        return await alice.ask("PUT", path, body)

    first = (
        await put("m.room.message", "1", {"delay": 5, "content": {"body": "x", "msgtype": "m.text"}})
    ).ok()
    again = (
        await put("m.room.message", "1", {"delay": 5, "content": {"body": "x", "msgtype": "m.text"}})
    ).ok()
    assert first == again
    (await put("m.room.topic", "2", {"delay": 5, "state_key": "", "content": {"topic": "new"}})).ok()
    (await put("m.x", "3", {"content": {}})).failed(400, "M_BAD_JSON")
    (await put("m.x", "4", {"delay": 5})).failed(400, "M_BAD_JSON")
    (await put("m.x", "5", {"delay": 5, "content": {}, "state_key": 5})).failed(400, "M_BAD_JSON")
    alias = {"delay": 5, "state_key": "", "content": {"alias": "#nowhere:example.org"}}
    assert (await put("m.room.canonical_alias", "6", alias)).status in (400, 404)
    create = {"delay": 5, "state_key": "", "content": {}}
    (await put("m.room.create", "7", create)).failed(403, "M_FORBIDDEN")
    await turn(server, 1)
    assert await said(alice, room_id) == ["x"]
    assert (await alice.ask("GET", at("rooms", room_id, "state", "m.room.topic"))).ok() == {"topic": "new"}


async def test_what_fell_due_while_the_server_was_away_is_sent_once(tmp_path: Path) -> None:
    async with place(tmp_path) as server:
        alice = await server.client("alice")
        room_id = await alice.create()
        await say_later(alice, room_id, 5_000)
        await server.clock.turn(1)
    # The clock of the next run begins where this one's did.
    async with place(tmp_path) as server:
        alice = server.again(alice)
        await turn(server, 6)
        assert await said(alice, room_id) == ["later"]
    async with place(tmp_path) as server:
        await turn(server, 60)
        assert await said(server.again(alice), room_id) == ["later"]


async def test_a_crash_between_sending_and_noting_it_sends_no_second_event(tmp_path: Path) -> None:
    async with place(tmp_path) as server:
        alice = await server.client("alice")
        room_id = await alice.create()
        delay_id = await say_later(alice, room_id, 1_000)
        await turn(server, 2)
        assert await said(alice, room_id) == ["later"]
        # As a crash would have left it.
        await server.database.write(
            lambda tx: tx.run(
                "UPDATE delayed_events SET due_at = 5, finalised_at = NULL WHERE delay_id = ?", (delay_id,)
            )
        )
    async with place(tmp_path) as server:
        alice = server.again(alice)
        await turn(server, 2)
        assert await said(alice, room_id) == ["later"]
        (final,) = (await listed(alice))["finalised"]
        event = (await alice.messages(room_id, limit=1))["chunk"][0]
        assert (final["outcome"], final["event_id"]) == ("send", event["event_id"])


async def test_state_that_another_user_sets_meanwhile_stands(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create(power_level_content_override={"state_default": 0})
    await bob.join(room_id)
    mine = await set_later(alice, room_id, 5_000, {"a": 1}, state_key="mine")
    overtaken = await set_later(alice, room_id, 5_000, {"a": 1}, state_key="other")
    await alice.set_state(room_id, CALL, {"b": 1}, "mine")
    await bob.set_state(room_id, CALL, {"b": 2}, "other")
    answer = await listed(alice)
    assert [item["delay_id"] for item in answer["scheduled"]] == [mine]
    (final,) = answer["finalised"]
    assert (final["delayed_event"]["delay_id"], final["outcome"], final["reason"]) == (
        overtaken, "cancel", "error",
    )  # fmt: skip
    assert final["error"]["org.matrix.msc4140.errcode"] == "M_CANCELLED_BY_STATE_UPDATE"
    await turn(server, 6)
    content = at("rooms", room_id, "state", CALL)
    assert (await alice.ask("GET", content + "/mine")).ok() == {"a": 1}
    assert (await alice.ask("GET", content + "/other")).ok() == {"b": 2}


async def test_what_may_not_be_sent_is_told(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create()
    await bob.join(room_id)
    delay_id = await say_later(bob, room_id, 5_000)
    await alice.treat(room_id, "ban", bob)
    (await act(server, delay_id, "send")).failed(403, "M_FORBIDDEN")
    assert len((await listed(bob))["scheduled"]) == 1, "the cause may go away until then"
    await turn(server, 6)
    answer = await listed(bob, status="finalised")
    (final,) = answer["finalised"]
    assert (final["outcome"], final["reason"], final["error"]["errcode"]) == (
        "cancel", "error", "M_FORBIDDEN",
    )  # fmt: skip
    assert answer["delayed_events"][0]["error"] == final["error"]
    await server.app._rooms.delayed.forget_old()
    assert len((await listed(bob))["finalised"]) == 1
    await server.clock.turn(8 * 24 * 3600)
    await server.app._rooms.delayed.forget_old()
    assert (await listed(bob))["finalised"] == []


async def test_delayed_memberships_and_redactions_do_what_others_do(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create()
    await bob.join(room_id)
    secret = await alice.say(room_id, "secret")
    path = at("rooms", room_id, "send", "m.room.redaction", "r")
    (await alice.ask("PUT", path, {"redacts": secret}, **{DELAY: 1_000})).ok()
    (await alice.ask("PUT", path + "2", {}, **{DELAY: 1_000})).failed(400, "M_BAD_JSON")
    await set_later(alice, room_id, 1_000, {"membership": "ban"}, "m.room.member", bob.user_id)
    (await alice.ask("PUT", at("rooms", room_id, "state", "m.room.create"), {}, **{DELAY: 5})).failed(
        403, "M_FORBIDDEN"
    )
    await turn(server, 2)
    assert await said(alice, room_id) == []
    member = (await alice.ask("GET", at("rooms", room_id, "state", "m.room.member", bob.user_id))).ok()
    assert member["membership"] == "ban"


async def test_there_are_limits(server: Place) -> None:
    alice = await server.client("alice")
    room_id = await alice.create()
    told = (await try_later(alice, room_id, 86_400_001)).failed(400, "M_UNKNOWN")
    assert told["org.matrix.msc4140.errcode"] == "M_MAX_DELAY_EXCEEDED"
    assert told["org.matrix.msc4140.max_delay"] == 86_400_000
    for wrong in ("0", "-5", "soon", ""):
        (await try_later(alice, room_id, wrong)).failed(400, "M_INVALID_PARAM")
    (await try_later(alice, "!nowhere:example.org", 5)).failed(404, "M_NOT_FOUND")
    (await try_later(alice, room_id, 5, "x" * 70_000)).failed(413, "M_TOO_LARGE")
    for number in range(MAX_SCHEDULED):
        await say_later(alice, room_id, 10_000 + number, transaction=f"n{number}")
    answer = await try_later(alice, room_id, 5, transaction="one more")
    told = answer.failed(429, "M_LIMIT_EXCEEDED")
    assert told["org.matrix.msc4140.errcode"] == "M_MAX_DELAYED_EVENTS_EXCEEDED"
    assert answer.headers["Retry-After"] == "10"
    assert len((await listed(alice))["scheduled"]) == MAX_SCHEDULED
    await turn(server, 11)
    assert (await listed(alice))["scheduled"] == []
    assert len(await said(alice, room_id)) > 90


async def test_what_fails_for_a_while_is_tried_again(tmp_path: Path) -> None:
    network = Network()
    async with (
        networked_place(tmp_path / "a", network, 1) as here,
        networked_place(tmp_path / "b", network, 2) as there,
    ):
        alice, bob = await here.client("alice"), await there.client("bob")
        room_id = await alice.create()
        network.cut.add(2)
        await set_later(alice, room_id, 1_000, {"membership": "invite"}, "m.room.member", bob.user_id)
        for _ in range(3):
            await turn(here, 5)
        assert len((await listed(alice))["scheduled"]) == 1
        network.cut.clear()
        for _ in range(60):
            await turn(here, 30)
            if not (await listed(alice))["scheduled"]:
                break
        (final,) = (await listed(alice))["finalised"]
        assert (final["outcome"], final["reason"]) == ("send", "delay")
        assert room_id in (await bob.sync())["rooms"]["invite"]


async def test_finalised_ones_come_in_pages(server: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("comity.rooms.delayed.PAGE", 2)
    alice = await server.client("alice")
    room_id = await alice.create()
    ids = []
    for number in range(5):
        ids.append(await say_later(alice, room_id, 1_000, transaction=f"n{number}"))
        await turn(server, 1.5)
    found: list[str] = []
    query: dict[str, object] = {}
    for _ in range(4):
        answer = await listed(alice, **query)
        found += [item["delayed_event"]["delay_id"] for item in answer["finalised"]]
        if "next_batch" not in answer:
            break
        query["from"] = answer["next_batch"]
    assert found == ids[::-1]
    answer = await listed(alice, delay_id=ids[4])
    assert [item["delayed_event"]["delay_id"] for item in answer["finalised"]] == [ids[4]]
    (await alice.ask("GET", PREFIX + "/delayed_events", **{"from": "x_y"})).failed(400, "M_INVALID_PARAM")
    (await alice.ask("GET", PREFIX + "/delayed_events", status="lost")).failed(400, "M_INVALID_PARAM")
    await server.database.write(lambda tx: stored.forget_oldest(tx, alice.user_id, 2))
    answer = await listed(alice)
    assert [item["delayed_event"]["delay_id"] for item in answer["finalised"]] == ids[:2:-1]


async def test_nothing_is_sent_for_an_account_that_ended(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create()
    delay_id = await set_later(bob, room_id, 5_000, {"membership": "join"}, "m.room.member", bob.user_id)
    body = {
        "auth": {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": "bob"},
            "password": "correct horse",
        }
    }
    asked = await bob.ask("POST", "/account/deactivate", body)
    if asked.status == 401:
        body["auth"]["session"] = asked.body["session"]
        asked = await bob.ask("POST", "/account/deactivate", body)
    asked.ok()
    await turn(server, 6)
    item = await server.database.read(lambda tx: stored.get(tx, delay_id))
    assert item is not None and item.final is not None and item.final.outcome == "cancel"
    members = (await alice.ask("GET", at("rooms", room_id, "joined_members"))).ok()["joined"]
    assert list(members) == [alice.user_id]
