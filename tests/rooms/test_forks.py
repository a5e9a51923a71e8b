"""Forks that other servers write: what becomes of each event, and what the room comes to.

The reference is the same few rules without a store: dictionaries of states, every fork resolved by
the pure reference form of state resolution over the whole graph.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from comity.protocol.auth.rules import authorize
from comity.protocol.build import Draft, build
from comity.protocol.event import Event, StateKey
from comity.protocol.room_versions import ROOM_VERSIONS
from comity.store.events import ACCEPTED, REJECTED, SOFT_FAILED
from tests.rooms.support import ALICE, BOB, CAROL, Place, a_place
from tests.rules.rooms import Room, key_of, resolve_states

DAVE = "@dave:d.example"
State = dict[StateKey, Event]


class Reference:
    """What a room comes to, by the letter and without a store."""

    def __init__(self, room: Room) -> None:
        self.version, self.graph = room.version, room.graph
        self.after: dict[str, State] = {event.event_id: dict(room.state) for event in room.head}
        self.ends = {event.event_id: event for event in room.head}
        self.current: State = dict(room.state)
        self.verdicts: dict[str, int] = {}

    def _resolve(self, states: list[State]) -> State:
        if all(state == states[0] for state in states):
            return states[0]
        return resolve_states(self.version, states, self.graph)

    def take(self, event: Event) -> int:
        """Admit one event whose previous events are known; its verdict."""
        before = self._resolve([self.after[prev] for prev in event.prev_event_ids])
        if set(event.prev_event_ids) == self.ends.keys():
            before = self.current
        verdict = ACCEPTED
        if authorize(event, before.get) is not None:
            verdict = REJECTED
            self.graph.rejected.add(event.event_id)
        elif authorize(event, self.current.get) is not None:
            verdict = SOFT_FAILED
        after = dict(before)
        if event.is_state and verdict != REJECTED:
            after[event.key] = event
        self.after[event.event_id] = after
        if verdict == ACCEPTED:
            for prev in event.prev_event_ids:
                self.ends.pop(prev, None)
            self.ends[event.event_id] = event
            self.current = self._resolve([self.after[end] for end in self.ends])
        self.verdicts[event.event_id] = verdict
        return verdict

    def ids(self) -> Mapping[StateKey, str]:
        return {key: event.event_id for key, event in self.current.items()}


def assert_agree(place: Place, room_id: str, reference: Reference) -> None:
    """The server holds what the reference does."""
    assert {id_: place.verdict(id_) for id_ in reference.verdicts} == reference.verdicts
    assert place.head(room_id).extremities.keys() == reference.ends.keys()
    assert place.state(room_id) == reference.ids()
    place.assert_head_is_stored(room_id)
    members = {
        key[1]: event.membership for key, event in reference.current.items() if key[0] == "m.room.member"
    }
    for user_id in (ALICE, BOB, CAROL, DAVE):
        assert place.membership(room_id, user_id) == members.get(user_id)


async def a_shared_room(place: Place, version: str) -> tuple[str, Room]:
    """A room with Bob, Carol and Dave, whom Alice has given some power, and a branch at its head."""
    room_id = await place.create(version=version)
    branch = place.branch(room_id)
    await place.accept(branch.join(BOB), branch.join(CAROL), branch.join(DAVE))
    levels = dict(place.content(room_id, "m.room.power_levels") or {})
    levels["users"] = {**levels["users"], BOB: 90, CAROL: 60}
    levels["events"] = {}
    await place.send(room_id, ALICE, "m.room.power_levels", levels, "")
    return room_id, place.branch(room_id)


def something(chance: random.Random, branch: Room) -> Event:
    """A random event by one of the users elsewhere, allowed or not, at the head of a branch."""
    sender, target = chance.choice([BOB, CAROL, DAVE]), chance.choice([BOB, CAROL, DAVE, ALICE])
    kind = chance.randrange(9)
    ts: dict[str, Any] = {"ts": branch.graph.clock + chance.randrange(-5000, 5000)}
    if kind == 0:
        return branch.write(sender, "m.room.topic", {"topic": str(chance.random())[2:]}, "", **ts)
    if kind == 1:
        return branch.membership(sender, chance.choice(["ban", "leave"]), target, **ts)
    if kind == 2:
        return branch.membership(sender, chance.choice(["join", "leave"]), **ts)
    if kind == 3:
        rule = chance.choice(["public", "invite"])
        return branch.write(sender, "m.room.join_rules", {"join_rule": rule}, "", **ts)
    if kind == 4:
        content = dict(branch.state["m.room.power_levels", ""].content)
        content["users"] = {**content["users"], chance.choice([BOB, CAROL, DAVE]): chance.choice([0, 50, 70])}
        return branch.write(sender, "m.room.power_levels", content, "", **ts)
    if kind == 5:
        return branch.write(sender, "x.own", {"n": chance.randrange(9)}, sender, **ts)
    if kind == 6:
        return branch.membership(sender, "invite", target, **ts)
    return branch.write(sender, "m.room.message", {"body": str(chance.random())[2:]}, **ts)


async def run_random(place: Place, version: str, seed: int) -> None:
    chance = random.Random(seed)
    room_id, trunk = await a_shared_room(place, version)
    reference = Reference(trunk)
    branches = [trunk]
    for _ in range(30):
        step = chance.random()
        if step < 0.15 and len(branches) < 4:
            branches.append(chance.choice(branches).fork())
        elif step < 0.3 and len(branches) > 1:
            # A server that has seen everything goes on from all ends.
            joined = branches[0].fork()
            joined.state, joined.head = dict(reference.current), tuple(reference.ends.values())
            branches = [joined, *chance.sample(branches, 1)]
        branch = chance.choice(branches)
        event = something(chance, branch)
        verdict = reference.take(event)
        await place.receive(event.sender.partition(":")[2], event)
        if verdict != REJECTED and (verdict == ACCEPTED or chance.random() < 0.3):
            branch.head = (event,)
            branch.state = dict(reference.after[event.event_id])
        assert_agree(place, room_id, reference)


@pytest.mark.parametrize("version", ["1", "2", "6", "10", "11", "12"])
@pytest.mark.parametrize("seed", range(4))
async def test_random_forks_come_to_what_the_reference_says(tmp_path: Path, version: str, seed: int) -> None:
    async with a_place(tmp_path) as place:
        await run_random(place, version, seed * 100 + int(version))


@pytest.mark.parametrize("version", ["1", "6", "12"])
async def test_a_fork_is_joined_by_the_next_event_of_ours(tmp_path: Path, version: str) -> None:
    async with a_place(tmp_path) as place:
        room_id, one = await a_shared_room(place, version)
        other = one.fork()
        reference = Reference(one)
        events = [
            one.send(BOB, "m.room.topic", {"topic": "one"}, ""),
            other.send(CAROL, "m.room.topic", {"topic": "other"}, ""),
            other.send(CAROL, "m.room.name", {"name": "n"}, ""),
        ]
        for event in events:
            reference.take(event)
        await place.accept(*events)
        assert_agree(place, room_id, reference)
        assert len(place.head(room_id).extremities) == 2
        mine = await place.say(room_id, "both")
        stored = place.stored(mine)
        assert stored is not None
        assert set(stored.event.prev_event_ids) == {events[0].event_id, events[2].event_id}
        assert stored.state_before == place.head(room_id).state
        assert place.state(room_id) == reference.ids()


@pytest.mark.parametrize("version", ["1", "6", "12"])
async def test_an_event_of_a_banned_user_on_an_old_fork_is_soft_failed(tmp_path: Path, version: str) -> None:
    async with a_place(tmp_path) as place:
        room_id, branch = await a_shared_room(place, version)
        late = branch.fork()
        ban = await place.send(room_id, ALICE, "m.room.member", {"membership": "ban"}, BOB)
        message = late.send(BOB, "m.room.message", {"body": "I was never banned"})
        topic = late.send(BOB, "m.room.topic", {"topic": "mine"}, "")
        await place.receive("b.example", message)
        await place.receive("b.example", topic)
        assert [place.verdict(event.event_id) for event in (message, topic)] == [SOFT_FAILED, SOFT_FAILED]
        assert list(place.head(room_id).extremities) == [ban]
        assert not {message.event_id, topic.event_id} & set(place.timeline(room_id))
        assert place.content(room_id, "m.room.topic") is None
        place.assert_head_is_stored(room_id)
        # What others build on it can be judged.
        dave = late.send(DAVE, "m.room.message", {"body": "hello"})
        assert await place.receive("d.example", dave) == {dave.event_id: {}}
        assert place.verdict(dave.event_id) == ACCEPTED


@pytest.mark.parametrize("version", ["1", "6", "12"])
async def test_a_rejected_event_has_no_effect_and_what_cites_it_is_rejected(
    tmp_path: Path, version: str
) -> None:
    async with a_place(tmp_path) as place:
        room_id, branch = await a_shared_room(place, version)
        before = place.state(room_id)
        forged = branch.write(DAVE, "m.room.power_levels", {"users": {DAVE: 100}}, "")
        results = await place.receive("d.example", forged)
        assert "error" in results[forged.event_id]
        assert place.verdict(forged.event_id) == REJECTED
        cited = {("m.room.member", DAVE)} | ({("m.room.create", "")} if version != "12" else set())
        honest = [event for key, event in branch.state.items() if key in cited]
        citing = branch.write(DAVE, "m.room.topic", {"topic": "x"}, "", auth=[*honest, forged])
        assert "error" in (await place.receive("d.example", citing))[citing.event_id]
        assert place.verdict(citing.event_id) == REJECTED
        assert place.state(room_id) == before
        # An event that stands upon the rejected one is judged by the state before that.
        branch.head = (forged,)
        above = branch.send(BOB, "m.room.message", {"body": "x"})
        assert await place.receive("b.example", above) == {above.event_id: {}}
        assert place.verdict(above.event_id) == ACCEPTED
        assert place.state(room_id) == before
        place.assert_head_is_stored(room_id)


async def test_a_second_create_event_does_not_take_the_room(tmp_path: Path) -> None:
    """By a server that is not the room's: there is no way to begin it anew."""
    async with a_place(tmp_path) as place:
        room_id, branch = await a_shared_room(place, "10")
        before = place.state(room_id)
        create = branch.write(
            BOB, "m.room.create", {"creator": BOB, "room_version": "10"}, "", prev=[], auth=[]
        )
        assert "error" in (await place.receive("b.example", create))[create.event_id]
        assert place.state(room_id) == before
        place.assert_head_is_stored(room_id)


async def test_a_redaction_that_comes_before_its_target(tmp_path: Path) -> None:
    async with a_place(tmp_path) as place:
        _, branch = await a_shared_room(place, "10")
        fork = branch.fork()
        target = fork.send(DAVE, "m.room.message", {"body": "secret"})
        redaction = branch.send(BOB, "m.room.redaction", {}, redacts=target.event_id)
        await place.accept(redaction)
        await place.accept(target)
        stored = place.at_rest(target.event_id)
        assert stored is not None
        assert stored.event.content == {}
        assert stored.redacted_by is not None


async def test_a_redaction_and_its_target_in_one_transaction(tmp_path: Path) -> None:
    """In whatever order they are taken."""
    async with a_place(tmp_path) as place:
        _, branch = await a_shared_room(place, "10")
        fork = branch.fork()
        fork.send(BOB, "m.room.message", {"body": "between"})
        target = fork.send(BOB, "m.room.message", {"body": "secret"})
        redaction = branch.send(BOB, "m.room.redaction", {}, redacts=target.event_id)
        between = fork.graph.events[target.prev_event_ids[0]]
        # The redaction has the smaller depth, so it is judged first.
        assert redaction.depth < target.depth
        results = await place.receive("b.example", redaction, between, target)
        assert all(not result for result in results.values())
        stored = place.at_rest(target.event_id)
        assert stored is not None
        assert stored.event.content == {}


async def test_an_event_again_changes_nothing(tmp_path: Path) -> None:
    async with a_place(tmp_path) as place:
        room_id, branch = await a_shared_room(place, "12")
        event = branch.send(BOB, "m.room.topic", {"topic": "x"}, "")
        await place.accept(event)
        after = (place.stored_head(room_id), place.count("events"), place.timeline(room_id))
        await place.accept(event)
        await place.receive("c.example", event, event)
        assert (place.stored_head(room_id), place.count("events"), place.timeline(room_id)) == after


async def test_a_room_is_created_once(tmp_path: Path) -> None:
    """Up to room version 11 the rules would let the room id's own server begin it anew."""
    async with a_place(tmp_path) as place:
        room_id, _ = await a_shared_room(place, "10")
        server = ALICE.partition(":")[2]
        create = Draft("m.room.create", ALICE, {"creator": ALICE, "room_version": "10", "again": True}, "")
        event = build(
            create,
            version=ROOM_VERSIONS["10"],
            room_id=room_id,
            prev=(),
            auth=(),
            now_ms=1,
            server=server,
            key=key_of(server),
        )
        before = list(place.head(room_id).extremities)
        await place.receive("b.example", event)
        assert list(place.head(room_id).extremities) == before
        assert "again" not in (place.content(room_id, "m.room.create") or {})
