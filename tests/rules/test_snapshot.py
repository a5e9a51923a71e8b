"""A whole state from a stranger: what of it may be believed (server-server §Joining Rooms)."""

from __future__ import annotations

import pytest

from comity.protocol.event import Event
from comity.protocol.snapshot import Snapshot, SnapshotError, judge
from tests.rules.rooms import ALICE, ALL_VERSIONS, BOB, CAROL, DAVE, Room, a_room

SOME = ("1", "6", "10", "11", "12")


def claimed(room: Room, *more: Event) -> tuple[list[str], dict[str, Event]]:
    """A room's state as ids, and all the room's events beside it."""
    events = {**room.graph.events, **{event.event_id: event for event in more}}
    return [event.event_id for event in room.state.values()], events


def judged(room: Room, *more: Event) -> Snapshot:
    ids, events = claimed(room)
    assert room.room_id is not None
    return judge(
        room.room_id, [*ids, *(event.event_id for event in more)],
        {**events, **{event.event_id: event for event in more}},
    )  # fmt: skip


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_an_honest_state(version: str) -> None:
    room = a_room(version, BOB, CAROL)
    room.kick(ALICE, CAROL)
    room.send(BOB, "m.room.message", {"body": "not state"})
    snapshot = judged(room)
    assert snapshot.rejected == {}
    assert snapshot.state == room.state
    order = [event.event_id for event in snapshot.ordered]
    assert sorted(order) == sorted(room.graph.events)
    for event in snapshot.ordered:
        for auth_id in event.auth_event_ids:
            assert order.index(auth_id) < order.index(event.event_id)


@pytest.mark.parametrize("version", SOME)
def test_the_order_given_does_not_matter(version: str) -> None:
    room = a_room(version, BOB, CAROL, DAVE)
    ids, events = claimed(room)
    assert room.room_id is not None
    forwards = judge(room.room_id, ids, events)
    backwards = judge(room.room_id, ids[::-1], dict(reversed(events.items())))
    assert forwards.state == backwards.state
    assert forwards.rejected == backwards.rejected
    assert set(map(id, forwards.ordered)) == set(map(id, backwards.ordered))


@pytest.mark.parametrize("version", SOME)
def test_a_state_without_its_create_event(version: str) -> None:
    room = a_room(version, BOB)
    ids, events = claimed(room)
    assert room.room_id is not None
    without = {event_id: event for event_id, event in events.items() if event_id != room.create.event_id}
    with pytest.raises(SnapshotError):
        judge(room.room_id, [event_id for event_id in ids if event_id in without], without)
    with pytest.raises(SnapshotError):
        judge(room.room_id, [event_id for event_id in ids if event_id != room.create.event_id], events)
    with pytest.raises(SnapshotError):
        judge(room.room_id, [], {})


@pytest.mark.parametrize("version", SOME)
def test_two_create_events(version: str) -> None:
    room = a_room(version, BOB)
    other = Room(version, content={"x": 1}, graph=room.graph)
    with pytest.raises(SnapshotError):
        judged(room, other.create)


@pytest.mark.parametrize("version", SOME)
def test_another_room(version: str) -> None:
    room, other = a_room(version, BOB), Room(version, creator=CAROL)
    other.join(CAROL)
    with pytest.raises(SnapshotError):
        judge("!other:a.example", *claimed(room))
    foreign = other.state["m.room.member", CAROL]
    snapshot = judged(room, foreign)
    assert foreign.key not in snapshot.state
    assert foreign not in snapshot.ordered


@pytest.mark.parametrize("version", ["1", "10", "11", "12"])
def test_a_create_event_of_another_version(version: str) -> None:
    room = Room(version, content={"room_version": "6"})
    with pytest.raises(SnapshotError):
        judged(room)


@pytest.mark.parametrize("version", SOME)
def test_what_its_auth_events_do_not_allow_and_what_stands_on_it(version: str) -> None:
    room = a_room(version, BOB)
    forged = room.write(BOB, "m.room.power_levels", {"users": {BOB: 100}}, "")
    base = room.fork()
    base.add(forged)
    topic = base.send(BOB, "m.room.topic", {"topic": "mine"}, "")
    ids, events = claimed(base)
    assert room.room_id is not None
    snapshot = judge(room.room_id, ids, events)
    assert snapshot.rejected.keys() == {forged.event_id, topic.event_id}
    assert ("m.room.power_levels", "") not in snapshot.state
    assert ("m.room.topic", "") not in snapshot.state
    assert snapshot.state["m.room.member", BOB] == room.state["m.room.member", BOB]


@pytest.mark.parametrize("version", SOME)
def test_an_event_whose_auth_event_is_kept_back_is_not_believed(version: str) -> None:
    """Nor is it judged for ever: who keeps something back must not make us reject what is true."""
    room = a_room(version, BOB)
    room.leave(BOB)
    rejoined = room.join(BOB)
    ids, events = claimed(room)
    assert room.room_id is not None
    kept_back = next(auth_id for auth_id in rejoined.auth_event_ids if events[auth_id].key == rejoined.key)
    shown = {event_id: event for event_id, event in events.items() if event_id != kept_back}
    snapshot = judge(room.room_id, ids, shown)
    assert rejoined.key not in snapshot.state
    assert rejoined.event_id not in snapshot.rejected
    assert rejoined not in snapshot.ordered


@pytest.mark.parametrize("version", SOME)
def test_two_events_for_one_key(version: str) -> None:
    room = a_room(version, BOB)
    topics = [room.write(ALICE, "m.room.topic", {"topic": text}, "") for text in ("one", "two")]
    with pytest.raises(SnapshotError):
        judged(room, *topics)


@pytest.mark.parametrize("version", SOME)
def test_what_is_not_state_is_none(version: str) -> None:
    room = a_room(version, BOB)
    message = room.write(BOB, "m.room.message", {"body": "x"})
    assert judged(room, message).state == room.state


def test_a_cycle_of_auth_events() -> None:
    """Ids that are chosen allow it (room versions 1 and 2)."""
    room = a_room("1", BOB)
    source = dict(room.state["m.room.member", BOB].source)
    others = [reference for reference in source["auth_events"] if reference[0] != room.create.event_id]
    one = Event(
        room.version,
        {
            **source,
            "event_id": "$one:b.example",
            "auth_events": [*others, ["$two:b.example", {"sha256": "x"}]],
        },
    )
    two = Event(
        room.version,
        {
            **source,
            "event_id": "$two:b.example",
            "auth_events": [*others, ["$one:b.example", {"sha256": "x"}]],
        },
    )
    ids, events = claimed(room, one, two)
    ids = [event_id for event_id in ids if events[event_id].key != one.key]
    assert room.room_id is not None
    snapshot = judge(room.room_id, [*ids, one.event_id], events)
    assert one.key not in snapshot.state
    assert one not in snapshot.ordered
    assert two not in snapshot.ordered


def test_a_long_chain_is_no_depth() -> None:
    room = a_room("10")
    for number in range(3000):
        room.powers(ALICE, {ALICE: 100, BOB: number % 50})
    snapshot = judged(room)
    assert snapshot.rejected == {}
