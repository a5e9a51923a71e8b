"""`comity explain`: on a server's database, in words and as JSON."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from comity.cli import main
from tests.rooms.support import ALICE, BOB, CAROL, CONFIGURATION, SERVER, Place, a_place
from tests.rooms.test_forks import DAVE, a_shared_room


async def explain(folder: Path, *arguments: str) -> Result:
    """Run the command; in a thread, for it has a loop of its own."""
    config = folder / "comity.toml"
    config.write_text(CONFIGURATION.format(name=SERVER, url="sqlite:comity.db"))
    line = ["explain", *arguments, "--config", str(config)]
    return await asyncio.to_thread(CliRunner().invoke, main, line)


async def explained(folder: Path, event_id: str) -> dict[str, Any]:
    result = await explain(folder, "--json", event_id)
    assert result.exit_code == 0, result.output
    answer: dict[str, Any] = json.loads(result.output)
    return answer


async def kicked(place: Place, version: str) -> tuple[str, str, str]:
    """(room, kick, message) of Dave, who goes on talking after he was kicked."""
    room_id, branch = await a_shared_room(place, version)
    kick = branch.kick(BOB, DAVE)
    await place.accept(kick)
    message = branch.write(DAVE, "m.room.message", {"body": "still here"})
    await place.receive("d.example", message)
    return room_id, kick.event_id, message.event_id


@pytest.mark.parametrize("version", ["1", "11", "12"])
async def test_a_rejected_message_of_a_kicked_user(tmp_path: Path, version: str) -> None:
    async with a_place(tmp_path) as place:
        room_id, kick, message = await kicked(place, version)
    answer = await explained(tmp_path, message)
    verdict = answer["verdict"]
    assert (verdict["verdict"], verdict["room_id"]) == ("rejected", room_id)
    assert verdict["room_version"] == version
    rule = {"1": "6", "11": "5", "12": "6"}[version]
    denied = [check for check in verdict["checks"] if check["passed"] is False]
    assert {check["rule"] for check in denied} == {f"rooms/v{version} rule {rule}"}
    assert all(kick in [event["event_id"] for event in check["stood_on"]] for check in denied)
    assert [check["section"].rpartition(", ")[2] for check in verdict["checks"]] == ["1 to 3", "4", "5", "6"]
    assert kick in [event["event_id"] for event in verdict["auth_events"]]
    assert answer["standing"] is None
    text = await explain(tmp_path, message)
    assert text.exit_code == 0
    assert "verdict: rejected" in text.output
    assert f"The sender is not in the room [rooms/v{version} rule {rule}]" in text.output
    assert kick in text.output


@pytest.mark.parametrize("version", ["1", "11", "12"])
async def test_a_conflicted_power_level(tmp_path: Path, version: str) -> None:
    async with a_place(tmp_path) as place:
        room_id, one = await a_shared_room(place, version)
        other = one.fork()
        content = dict(one.state["m.room.power_levels", ""].content)
        mine = one.write(BOB, "m.room.power_levels", {**content, "users": {**content["users"], CAROL: 0}}, "")
        content["users"] = {**content["users"], DAVE: 55}
        theirs = other.write(CAROL, "m.room.power_levels", content, "")
        # The one who loses comes first: after the other it would be soft-failed.
        await place.accept(theirs, mine)
        standing = place.state(room_id)["m.room.power_levels", ""]
        loser = ({mine.event_id, theirs.event_id} - {standing}).pop()
    answer = (await explained(tmp_path, loser))["standing"]
    assert answer["current"]["event_id"] == standing
    assert not answer["is_current"]
    [contest] = answer["contests"]
    assert {entry["event_id"] for entry in contest["entries"]} == {mine.event_id, theirs.event_id}
    assert contest["chosen"]["event_id"] == standing
    candidates = {candidate["event"]["event_id"]: candidate for candidate in contest["candidates"]}
    assert candidates[standing]["taken"]
    assert candidates[loser]["event"]["event_id"] == loser
    text = (await explain(tmp_path, standing)).output
    assert "It stands in the room's current state." in text
    step = "conflicts between power levels" if version == "1" else "reverse topological power order"
    assert step in text
    assert loser in text


async def test_what_was_taken_back_in_a_room(tmp_path: Path) -> None:
    async with a_place(tmp_path) as place:
        room_id, branch = await a_shared_room(place, "11")
        late = branch.fork()
        join = branch.join("@eve:d.example")
        await place.accept(join)
        await place.accept(late.send(BOB, "m.room.join_rules", {"join_rule": "invite"}, ""))
        untouched = await place.create()
    assert "taken nothing back" in (await explain(tmp_path, untouched)).output
    text = (await explain(tmp_path, room_id)).output
    assert join.event_id in text
    assert "became  nothing" in text
    assert json.loads((await explain(tmp_path, "--json", room_id)).output)[0]["key"] == [
        "m.room.member",
        "@eve:d.example",
    ]
    assert "taken back" in (await explain(tmp_path, join.event_id)).output


async def test_accepted_soft_failed_and_waiting(tmp_path: Path) -> None:
    async with a_place(tmp_path) as place:
        room_id, branch = await a_shared_room(place, "11")
        late = branch.fork()
        accepted = await place.say(room_id, "hello")
        await place.send(room_id, ALICE, "m.room.member", {"membership": "ban"}, BOB)
        message = late.send(BOB, "m.room.message", {"body": "never banned"})
        await place.receive("b.example", message)
        lost = late.write(CAROL, "m.room.message", {"body": "lost"})
        late.head = (lost,)
        waits = late.write(CAROL, "m.room.message", {"body": "waits"})
        await place.receive("c.example", waits)
    answer = (await explained(tmp_path, accepted))["verdict"]
    assert answer["verdict"] == "accepted"
    assert all(check["passed"] for check in answer["checks"])
    assert answer["checks"][1]["rule"] == "rooms/v11 rule 10"
    answer = (await explained(tmp_path, message.event_id))["verdict"]
    assert answer["verdict"] == "soft-failed"
    assert [check["passed"] for check in answer["checks"]] == [True, True, True, False]
    assert answer["checks"][3]["section"].endswith(", 6")
    answer = await explained(tmp_path, waits.event_id)
    assert answer["waiting"]["origin"] == "c.example"
    assert "waits for events" in (await explain(tmp_path, waits.event_id)).output


async def test_what_is_not_held_and_what_a_terminal_would_obey(tmp_path: Path) -> None:
    async with a_place(tmp_path) as place:
        room_id = await place.create()
        event_id = await place.send(room_id, ALICE, "x.\x1b[2Jbell\x07", {}, "")
    result = await explain(tmp_path, "$nobody:has.it")
    assert result.exit_code == 1
    assert "not held here" in result.output
    assert (await explain(tmp_path, "!nowhere:has.it")).exit_code == 1
    text = (await explain(tmp_path, event_id)).output
    assert "\x1b" not in text
    assert "\\x1b[2Jbell\\x07" in text
