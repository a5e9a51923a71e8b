"""Fast joins: a room may be used before its members are known, and comes to the same in the end."""

from __future__ import annotations

import asyncio
from pathlib import Path

import orjson
import pytest

from comity.ports import Answer, TransportError
from comity.protocol.errors import MatrixError
from comity.rooms import join_answer, mass
from comity.store import partial
from tests.rooms.support import Network, Place, learn_keys, places, settle

ONE, TWO = "one.test:1001", "two.test:1002"
ALICE, BOB = f"@alice:{ONE}", f"@bob:{TWO}"
MEMBERS = [f"@member{number}:{ONE}" for number in range(12)]


@pytest.fixture(autouse=True)
def small_states_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(join_answer, "WHOLE_UP_TO", 0)


class Barrier:
    """Lets nobody ask for a state until it is lifted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lifted = asyncio.Event()
        self.cut = False
        through = Network.request

        async def request(network: Network, method: str, *arguments: object, **named: object) -> Answer:
            if "/federation/v1/state/" in str(arguments[1]):
                if self.cut:
                    raise TransportError("the line is cut")
                await self.lifted.wait()
            return await through(network, method, *arguments, **named)  # type: ignore[arg-type]

        monkeypatch.setattr(Network, "request", request)


@pytest.fixture
def barrier(monkeypatch: pytest.MonkeyPatch) -> Barrier:
    return Barrier(monkeypatch)


async def a_large_room(one: Place) -> str:
    room_id = await one.create(ALICE, name="large")
    for user_id in MEMBERS:
        await one.rooms.memberships.join(user_id, room_id, [])
    return room_id


async def test_members_come_after_the_first_words(tmp_path: Path, barrier: Barrier) -> None:
    async with places(tmp_path, ONE, TWO) as (one, two):
        room_id = await a_large_room(one)
        await two.rooms.memberships.join(BOB, room_id, [ONE])
        assert two.head(room_id).partial is not None
        assert two.membership(room_id, MEMBERS[3]) is None
        assert two.head(room_id).servers >= {ONE}
        first = await two.say(room_id, "hello", BOB)
        await settle(one.clock, two.clock, seconds=1)
        assert one.timeline(room_id)[-1] == first
        # Of somebody of whom nothing is known here yet.
        second = await one.say(room_id, "welcome", MEMBERS[3])
        topic = await one.send(room_id, ALICE, "m.room.topic", {"topic": "us"}, "")
        await one.rooms.memberships.leave(MEMBERS[4], room_id)
        await settle(one.clock, two.clock, seconds=5)
        assert {first, second, topic} <= set(two.timeline(room_id))
        assert two.head(room_id).partial is not None
        barrier.lifted.set()
        await two.rooms.completer.whole(room_id)
        assert two.head(room_id).partial is None
        assert two.state(room_id) == one.state(room_id)
        assert two.membership(room_id, MEMBERS[3]) == "join"
        assert two.membership(room_id, MEMBERS[4]) == "leave"
        two.assert_head_is_stored(room_id)
        for event_id in (first, second, topic):
            assert two.verdict(event_id) == 0
            here = two.stored(event_id)
            assert here is not None
            assert here.state_before == two.at_rest(event_id).state_before  # type: ignore[union-attr]
        third = await two.say(room_id, "so many", BOB)
        await settle(one.clock, two.clock, seconds=1)
        assert one.timeline(room_id)[-1] == third


async def test_who_asks_for_all_members_waits(tmp_path: Path, barrier: Barrier) -> None:
    async with places(tmp_path, ONE, TWO) as (one, two):
        room_id = await a_large_room(one)
        await two.rooms.memberships.join(BOB, room_id, [ONE])
        asked = asyncio.create_task(two.rooms.reader.joined_members(BOB, room_id))
        await settle(one.clock, two.clock)
        assert not asked.done()
        with pytest.raises(MatrixError) as refused:
            await two.rooms.resident.make("three.test:1", room_id, "@eve:three.test:1", "join", ["12"])
        assert refused.value.status == 404
        barrier.lifted.set()
        assert set((await asked)["joined"]) == {ALICE, BOB, *MEMBERS}


async def test_the_rest_is_fetched_after_a_restart(tmp_path: Path, barrier: Barrier) -> None:
    async with places(tmp_path, ONE, TWO) as (one, two):
        room_id = await a_large_room(one)
        await two.rooms.memberships.join(BOB, room_id, [ONE])
        said = await two.say(room_id, "hello", BOB)
        await settle(one.clock, two.clock, seconds=1)
        before = one.state(room_id)
    barrier.lifted.set()
    async with places(tmp_path, ONE, TWO) as (one, two):
        await two.rooms.completer.whole(room_id)
        assert two.head(room_id).partial is None
        assert two.state(room_id) == one.state(room_id) == before
        assert two.timeline(room_id)[-1] == said
        two.assert_head_is_stored(room_id)
        assert not await two.database.read(partial.every)


async def test_servers_that_do_not_answer_are_asked_again(tmp_path: Path, barrier: Barrier) -> None:
    async with places(tmp_path, ONE, TWO) as (one, two):
        room_id = await a_large_room(one)
        barrier.cut = True
        await two.rooms.memberships.join(BOB, room_id, [ONE])
        await settle(one.clock, two.clock)
        barrier.cut = False
        barrier.lifted.set()
        await settle(one.clock, two.clock, seconds=20)
        await two.rooms.completer.whole(room_id)
        assert two.state(room_id) == one.state(room_id)


async def test_what_a_hidden_ban_forbids_is_taken_back(tmp_path: Path, barrier: Barrier) -> None:
    """The members that are missing are believed as auth events have them; the whole state corrects that."""
    evil = "evil.example"
    async with places(tmp_path, ONE, TWO) as (one, two):
        await learn_keys(one, [evil])
        await learn_keys(two, [evil])
        room_id = await a_large_room(one)
        joined = one.branch(room_id).join(f"@eve:{evil}")
        await one.accept(joined)
        await one.rooms.memberships.ban(ALICE, room_id, f"@eve:{evil}")
        await two.rooms.memberships.join(BOB, room_id, [ONE])
        await settle(one.clock, two.clock, seconds=1)
        lying = one.branch(room_id)
        lying.state["m.room.member", f"@eve:{evil}"] = joined
        said = lying.send(f"@eve:{evil}", "m.room.message", {"body": "I was never banned"})
        assert "error" in (await one.receive(evil, said))[said.event_id]
        await two.receive(ONE, said)
        await settle(one.clock, two.clock, seconds=5)
        assert said.event_id in two.timeline(room_id)
        barrier.lifted.set()
        await two.rooms.completer.whole(room_id)
        assert two.membership(room_id, f"@eve:{evil}") == "ban"
        assert said.event_id not in two.timeline(room_id)
        assert two.verdict(said.event_id) == 2
        assert two.state(room_id) == one.state(room_id)


@pytest.mark.parametrize("chain", ["in front", "behind", "absent"])
@pytest.mark.parametrize("many", [1, 1_000])
async def test_a_state_comes_in_any_order(
    tmp_path: Path, barrier: Barrier, monkeypatch: pytest.MonkeyPatch, chain: str, many: int
) -> None:
    """What comes before its auth events waits for them, wherever in the answer they are.

    Masses of `many` events are checked elsewhere, and come to the same.
    """
    monkeypatch.setattr(mass, "AT_ONCE", 2)
    monkeypatch.setattr(mass, "MANY_EVENTS", many)
    through = Network.request

    async def request(network: Network, method: str, *arguments: object, **named: object) -> Answer:
        answer = await through(network, method, *arguments, **named)  # type: ignore[arg-type]
        if "/federation/v1/state/" not in str(arguments[1]):
            return answer
        value = orjson.loads(answer.body)
        value["pdus"].reverse()
        if chain == "behind":
            value["auth_chain"].reverse()
        elif chain == "absent":
            value["auth_chain"] = []
        return Answer(answer.status, answer.headers, orjson.dumps(value))

    monkeypatch.setattr(Network, "request", request)
    async with places(tmp_path, ONE, TWO) as (one, two):
        room_id = await a_large_room(one)
        await two.rooms.memberships.join(BOB, room_id, [ONE])
        barrier.lifted.set()
        await two.rooms.completer.whole(room_id)
        assert two.head(room_id).partial is None
        assert two.state(room_id) == one.state(room_id)
        two.assert_head_is_stored(room_id)


async def test_of_a_large_mass_only_what_is_valid_is_taken(
    tmp_path: Path, barrier: Barrier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event whose signature is wrong is left out, one that was changed is redacted."""
    monkeypatch.setattr(mass, "MANY_EVENTS", 1)
    through, changed = Network.request, list[str]()

    async def request(network: Network, method: str, *arguments: object, **named: object) -> Answer:
        answer = await through(network, method, *arguments, **named)  # type: ignore[arg-type]
        if "/federation/v1/state/" not in str(arguments[1]):
            return answer
        value = orjson.loads(answer.body)
        forged, renamed = (event for event in value["pdus"] if event.get("state_key") in MEMBERS[:2])
        changed[:] = forged["state_key"], renamed["state_key"]
        forged["signatures"][ONE] = dict.fromkeys(forged["signatures"][ONE], "A" * 86)
        renamed["content"]["displayname"] = "somebody else"
        return Answer(answer.status, answer.headers, orjson.dumps(value))

    monkeypatch.setattr(Network, "request", request)
    async with places(tmp_path, ONE, TWO) as (one, two):
        room_id = await a_large_room(one)
        await two.rooms.memberships.join(BOB, room_id, [ONE])
        barrier.lifted.set()
        await two.rooms.completer.whole(room_id)
        forged, renamed = changed
        assert two.membership(room_id, forged) is None
        assert two.membership(room_id, renamed) == "join"
        assert set(one.state(room_id)) - set(two.state(room_id)) == {("m.room.member", forged)}
        assert two.content(room_id, "m.room.member", renamed) == {"membership": "join"}
