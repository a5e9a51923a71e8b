"""`comity trace`: on a server's database, in words and as JSON."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner, Result

from comity.cli import main
from comity.ports import Answer, Endpoint
from comity.store import queues
from comity.store.queues import Destination
from tests.rooms.support import (
    ALICE,
    BOB,
    CAROL,
    CONFIGURATION,
    SERVER,
    Network,
    Place,
    a_place,
    places,
    settle,
)
from tests.rooms.test_forks import a_shared_room

#: A time far in the future, ms since the epoch.
FAR = 4_000_000_000_000


class Receivers(Network):
    """Servers that take every transaction; of rooms of version 1 they can refuse every event."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.names = names
        #: server -> what it says of every event.
        self.refusals: dict[str, str] = {}

    async def request(
        self,
        method: str,
        endpoint: Endpoint,
        target: str,
        *,
        headers: Mapping[str, str],
        body: bytes | None = None,
        timeout: float,
        max_bytes: int,
    ) -> Answer:
        server = endpoint.host_header
        if server not in self.names or body is None or "/send/" not in target:
            return await super().request(
                method, endpoint, target, headers=headers, body=body, timeout=timeout, max_bytes=max_bytes
            )
        pdus = orjson.loads(body)["pdus"] if server in self.refusals else []
        results = {pdu["event_id"]: {"error": self.refusals[server]} for pdu in pdus}
        return Answer(200, {}, orjson.dumps({"pdus": results}))


async def trace(folder: Path, *arguments: str, name: str = SERVER) -> Result:
    """Run the command; in a thread, for it has a loop of its own."""
    config = folder / "comity.toml"
    config.write_text(CONFIGURATION.format(name=name, url="sqlite:comity.db"))
    line = ["trace", *arguments, "--config", str(config)]
    return await asyncio.to_thread(CliRunner().invoke, main, line)


async def traced(folder: Path, event_id: str) -> dict[str, Any]:
    result = await trace(folder, "--json", event_id)
    assert result.exit_code == 0, result.output
    answer: dict[str, Any] = json.loads(result.output)
    return answer


def standings(answer: dict[str, Any]) -> dict[str, str]:
    return {item["server"]: item["standing"] for item in answer["deliveries"]}


async def put(place: Place, *destinations: Destination) -> None:
    await place.database.write(lambda tx: queues.put_destinations(tx, destinations))


async def test_delivered_refused_and_waiting_for_a_server(tmp_path: Path) -> None:
    network = Receivers("b.example", "c.example")
    async with a_place(tmp_path, network=network) as place:
        room_id, _ = await a_shared_room(place, "1")
        await settle(place.clock, seconds=5)
        network.refusals["c.example"] = "I do not like it\x1b[2J"
        event_id = await place.say(room_id, "hello")
        await settle(place.clock)
    answer = await traced(tmp_path, event_id)
    assert answer["ours"]
    assert answer["at"] is not None
    assert standings(answer) == {"b.example": "delivered", "c.example": "refused", "d.example": "failing"}
    by_server = {item["server"]: item for item in answer["deliveries"]}
    assert by_server["c.example"]["text"] == "I do not like it\x1b[2J"
    assert by_server["d.example"]["kind"] == "not connected"
    text = (await trace(tmp_path, event_id)).output
    assert "3 servers: 1 refused, 1 failing, 1 delivered" in text
    assert "I do not like it\\x1b[2J" in text
    assert "\x1b" not in text


async def test_every_way_in_which_a_delivery_stands(tmp_path: Path) -> None:
    async with a_place(tmp_path) as place:
        room_id, _ = await a_shared_room(place, "11")
        event_id = await place.say(room_id, "hello")
        await settle(place.clock)
    async with a_place(tmp_path) as place:
        position = place.database.last_position
        await put(
            place,
            Destination("b.example", 1, 5_000, FAR, 1000, None, "no answer", "tls"),
            Destination("c.example", 1, None, None, None, position),
            Destination("d.example", 1),
        )
        answer = await traced(tmp_path, event_id)
        text = (await trace(tmp_path, event_id)).output
    assert standings(answer) == {"b.example": "backing off", "c.example": "sending", "d.example": "queued"}
    assert "backing off: not trusted (TLS)" in text
    assert "since 1970-01-01 00:00:05 UTC" in text
    assert "tried again at 2096-10-02 07:06:40 UTC" in text
    assert "being sent" in text


async def test_servers_are_summed_up(tmp_path: Path) -> None:
    async with a_place(tmp_path) as place:
        room_id, _ = await a_shared_room(place, "11")
        event_id = await place.say(room_id, "hello")
        number = place.head(room_id).number
        await place.database.write(
            lambda tx: tx.many(
                "INSERT INTO server_stays (server, room_num, from_position) VALUES (?, ?, 1)",
                [(f"s{index:03}.example", number) for index in range(40)],
            )
        )
    text = (await trace(tmp_path, event_id)).output
    assert "43 servers: " in text
    assert "… and 23 more: --all lists them." in text
    assert "s039.example" not in text
    assert "s039.example" in (await trace(tmp_path, "--all", event_id)).output


@pytest.mark.parametrize("version", ["1", "11", "12"])
async def test_events_of_other_servers(tmp_path: Path, version: str) -> None:
    async with a_place(tmp_path) as place:
        room_id, branch = await a_shared_room(place, version)
        late = branch.fork()
        accepted = branch.write(BOB, "m.room.message", {"body": "hello"})
        await place.receive("c.example", accepted)
        await place.send(room_id, ALICE, "m.room.member", {"membership": "ban"}, BOB)
        message = late.send(BOB, "m.room.message", {"body": "never banned"})
        await place.receive("b.example", message)
        lost = late.write(CAROL, "m.room.message", {"body": "lost"})
        late.head = (lost,)
        waits = late.write(CAROL, "m.room.message", {"body": "waits"})
        await place.receive("c.example", waits)
    answer = await traced(tmp_path, accepted.event_id)
    assert (answer["ours"], answer["deliveries"], answer["brought_by"]) == (False, None, "c.example")
    assert answer["said"] == accepted.origin_server_ts
    assert answer["at"] is not None
    assert "accepted" in (await trace(tmp_path, accepted.event_id)).output
    text = (await trace(tmp_path, message.event_id)).output
    assert "soft-failed" in text
    assert "because" in text
    answer = await traced(tmp_path, waits.event_id)
    assert (answer["brought_by"], answer["missing"]) == ("c.example", 1)
    assert answer["waits_for"] == [{"event_id": lost.event_id, "waits_too": False}]
    text = (await trace(tmp_path, waits.event_id)).output
    assert "waiting for what it stands on" in text
    assert f"{lost.event_id} (not here)" in text


async def test_what_is_not_held(tmp_path: Path) -> None:
    async with a_place(tmp_path):
        pass
    result = await trace(tmp_path, "$nobody:has.it")
    assert result.exit_code == 1
    assert "is not held here" in result.output
    result = await trace(tmp_path, "!room:has.it")
    assert result.exit_code == 1
    assert "is not an event id" in result.output


async def test_our_own_join_elsewhere_and_what_is_not_in_the_queue(tmp_path: Path) -> None:
    async with places(tmp_path, "a.example:1", "b.example:2") as (one, two):
        room_id = await one.create("@alice:a.example:1")
        await two.rooms.memberships.join("@bob:b.example:2", room_id, ["a.example:1"])
        join = two.state(room_id)["m.room.member", "@bob:b.example:2"]
        event_id = await two.say(room_id, "hello", "@bob:b.example:2")
        await settle(one.clock, two.clock)
        await two.database.write(lambda tx: tx.run("DELETE FROM outbound"))
    folder, name = tmp_path / "b.example_2", "b.example:2"
    answer = json.loads((await trace(folder, "--json", join, name=name)).output)
    assert (answer["ours"], answer["deliveries"]) == (True, [])
    assert "No server is sent it from here" in (await trace(folder, join, name=name)).output
    answer = json.loads((await trace(folder, "--json", event_id, name=name)).output)
    assert standings(answer) == {"a.example:1": "delivered"}
    answer = json.loads(
        (await trace(tmp_path / "a.example_1", "--json", event_id, name="a.example:1")).output
    )
    assert (answer["ours"], answer["brought_by"]) == (False, name)
    async with a_place(folder, name) as two:
        await put_back(two)
    answer = json.loads((await trace(folder, "--json", event_id, name=name)).output)
    assert standings(answer) == {"a.example:1": "dropped"}


async def put_back(place: Place) -> None:
    """As if nothing had ever reached the other servers."""
    await place.database.write(lambda tx: tx.run("UPDATE destinations SET delivered = 0"))
