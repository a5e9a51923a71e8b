"""The event closest to a time: here, as other servers answer it, and in history that is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from comity.rooms import timestamp
from tests.api.neighbours import ask_as, name_of, neighbours, refusal, settle
from tests.api.support_rooms import Client, Place, bodies
from tests.api.support_users import Answer, at

ONE = name_of(1)
#: Seconds between two messages.
BETWEEN = 60


async def closest(client: Client, room_id: str, ts: int, direction: str = "f") -> Answer:
    """GET timestamp_to_event."""
    path = "/_matrix/client/v1" + at("rooms", room_id, "timestamp_to_event")
    return await client.ask("GET", path, ts=ts, dir=direction)


async def talk(place: Place, client: Client, room_id: str, count: int) -> list[tuple[str, int]]:
    """Send messages, a minute between them; (event id, time) of each."""
    said = []
    for number in range(count):
        await place.clock.turn(BETWEEN)
        said.append((await client.say(room_id, str(number)), place.clock.now_ms()))
    return said


def told(event: tuple[str, int]) -> dict[str, Any]:
    """The answer that names an event."""
    return {"event_id": event[0], "origin_server_ts": event[1]}


async def test_here(tmp_path: Path) -> None:
    async with neighbours(tmp_path, 1) as (here,):
        alice, amy = await here.clients("alice", "amy")
        room_id = await alice.create(preset="private_chat")
        said = await talk(here, alice, room_id, 4)
        for direction in "fb":
            assert (await closest(alice, room_id, said[1][1], direction)).ok() == told(said[1])
        assert (await closest(alice, room_id, said[1][1] + 1, "f")).ok() == told(said[2])
        assert (await closest(alice, room_id, said[2][1] - 1, "b")).ok() == told(said[1])
        assert (await closest(alice, room_id, 2**52, "b")).ok() == told(said[3])
        (await closest(alice, room_id, said[3][1] + 1, "f")).failed(404, "M_NOT_FOUND")
        (await closest(alice, room_id, 5, "b")).failed(404, "M_NOT_FOUND")
        (await closest(amy, room_id, 5)).failed(403, "M_FORBIDDEN")
        (await closest(alice, room_id, 5, "x")).failed(400, "M_INVALID_PARAM")
        path = "/_matrix/client/v1" + at("rooms", room_id, "timestamp_to_event")
        (await alice.ask("GET", path, dir="f")).failed(400, "M_MISSING_PARAM")
        (await alice.ask("GET", path, dir="f", ts="soon")).failed(400, "M_INVALID_PARAM")


async def test_only_what_may_be_seen(tmp_path: Path) -> None:
    async with neighbours(tmp_path, 1) as (here,):
        alice, amy = await here.clients("alice", "amy")
        hidden = {"type": "m.room.history_visibility", "content": {"history_visibility": "joined"}}
        room_id = await alice.create(initial_state=[{**hidden, "state_key": ""}])
        said = await talk(here, alice, room_id, 3)
        await here.clock.turn(BETWEEN)
        await amy.join(room_id)
        joined = here.clock.now_ms()
        found = (await closest(amy, room_id, said[0][1])).ok()
        assert found["origin_server_ts"] == joined


async def test_behind_much_that_may_not_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timestamp, "MAX_SEEN", 4)
    monkeypatch.setattr(timestamp, "MAX_AT_ONCE", 2)
    async with neighbours(tmp_path, 1) as (here,):
        alice, amy = await here.clients("alice", "amy")
        hidden = {"type": "m.room.history_visibility", "content": {"history_visibility": "joined"}}
        room_id = await alice.create(initial_state=[{**hidden, "state_key": ""}])
        before = await talk(here, alice, room_id, 6)
        await amy.join(room_id)
        seen = await talk(here, alice, room_id, 3)
        await amy.leave(room_id)
        between = await talk(here, alice, room_id, 6)
        await amy.join(room_id)
        again = await talk(here, alice, room_id, 2)
        first = (await closest(amy, room_id, before[0][1], "f")).ok()
        assert before[5][1] <= first["origin_server_ts"] <= seen[0][1], "her joining"
        assert (await closest(amy, room_id, seen[1][1], "f")).ok() == told(seen[1])
        second = (await closest(amy, room_id, between[0][1] + 1, "f")).ok()
        assert between[5][1] <= second["origin_server_ts"] <= again[0][1]
        last = (await closest(amy, room_id, between[4][1], "b")).ok()
        assert seen[2][1] <= last["origin_server_ts"] <= between[0][1], "her leaving"
        await alice.set_state(room_id, "m.room.history_visibility", {"history_visibility": "world_readable"})
        ben = await here.client("ben")
        (await closest(ben, room_id, here.clock.now_ms() + 1, "f")).failed(404, "M_NOT_FOUND")


async def test_what_another_server_is_told(tmp_path: Path) -> None:
    async with neighbours(tmp_path) as (here, there):
        alice, bob = await here.client("alice"), await there.client("bob")
        room_id = await alice.create()
        said = await talk(here, alice, room_id, 3)
        path = at("v1", "timestamp_to_event", room_id)
        query: dict[str, Any] = {"ts": said[1][1], "dir": "f"}
        assert await refusal(ask_as(there, ONE, "GET", path, **query)) == (403, "M_FORBIDDEN")
        await bob.join(room_id, via=ONE)
        assert await ask_as(there, ONE, "GET", path, **query) == told(said[1])
        assert await ask_as(there, ONE, "GET", path, ts=said[1][1] - 1, dir="b") == told(said[0])
        assert await refusal(ask_as(there, ONE, "GET", path, ts=1, dir="b")) == (404, "M_NOT_FOUND")
        assert await refusal(ask_as(there, ONE, "GET", path, ts=1, dir="up")) == (400, "M_INVALID_PARAM")
        assert await refusal(ask_as(there, ONE, "GET", path, dir="f")) == (400, "M_MISSING_PARAM")


async def test_in_history_that_is_missing(tmp_path: Path) -> None:
    """The event is brought in, with missing history on both sides, which then comes as it should."""
    async with neighbours(tmp_path) as (here, there):
        alice, bob = await here.client("alice"), await there.client("bob")
        room_id = await alice.create()
        said = await talk(here, alice, room_id, 60)
        await there.clock.turn(61 * BETWEEN)
        await bob.join(room_id, via=ONE)
        await settle(here, there)
        assert (await closest(bob, room_id, said[20][1])).ok() == told(said[20])
        assert (await closest(bob, room_id, said[20][1], "b")).ok() == told(said[20])
        assert (await closest(bob, room_id, said[40][1] - 1, "b")).ok() == told(said[39])
        assert (await closest(bob, room_id, said[40][1] - 1, "f")).ok() == told(said[40])
        around = (await bob.ask("GET", at("rooms", room_id, "context", said[20][0]), limit=4)).ok()
        assert around["event"]["content"]["body"] == "20"
        page = await bob.messages(room_id, from_=around["start"], limit=3)
        assert bodies(page["chunk"]) == ["19", "18", "17"]
        seen: list[str] = []
        query: dict[str, Any] = {}
        while True:
            page = await bob.messages(room_id, limit=7, **query)
            seen += bodies(page["chunk"])
            if "end" not in page:
                break
            query = {"from_": page["end"]}
        assert seen == [str(number) for number in range(59, -1, -1)]
        assert page["chunk"][-1]["type"] == "m.room.create"
        assert (await closest(bob, room_id, said[30][1])).ok() == told(said[30])


async def test_nobody_answers(tmp_path: Path) -> None:
    async with neighbours(tmp_path) as (here, there):
        alice, bob = await here.client("alice"), await there.client("bob")
        room_id = await alice.create()
        said = await talk(here, alice, room_id, 5)
        await there.clock.turn(6 * BETWEEN)
        await bob.join(room_id, via=ONE)
        joined = there.clock.now_ms()
        network = there.app._ports.transport
        network.cut = {1}  # type: ignore[attr-defined]
        assert (await closest(bob, room_id, said[2][1])).ok()["origin_server_ts"] == joined
        (await closest(bob, room_id, said[2][1], "b")).failed(404, "M_NOT_FOUND")
